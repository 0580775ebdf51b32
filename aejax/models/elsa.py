"""`elsa`: a linear autoencoder of low rank, for catalogues whose products and customers are both too many for a matrix
between them. Vančura, Alves, Kasalický and Kordík (2022), Scalable Linear Shallow Autoencoder for Collaborative
Filtering, RecSys, https://doi.org/10.1145/3523227.3551482.

Where each line comes from:

* scores: `x (A A' - 1)` for the user's row x, with rows of A `[I, D]` of length 1: products have unit factors, and the
  diagonal of `A A' - 1` is 0, as in `ease`. It is computed as `(x A) A' - x`; there is never a matrix `[I, I]`.
* loss: the squared error between scores and row, both scaled to length 1: 2 less twice their cosine. With `targets` or
  `target_weight` it is the cosine with the targets times their weights.
* factors start from Xavier's uniform distribution. They are of length 1 in use and not as they are stored: their stored
  length is how far a step of the optimizer turns them.

What it needs. The loss takes two sums of the scores, and with the code z = x A neither needs more than small arrays:
`scores . x = z z' - x x'` and, with `G = A' A` `[D, D]`, `scores . scores = z G z' - 2 z z' + x x'`. So in batches of D
users or more an update makes no scores, and its multiplications are in proportion to `I D^2`, however many users it
has. In smaller batches, where that is less, scores `[B, I]` are made, in proportion to `B I D`. Either way a fit holds
some ten arrays `[I, D]` (factors, those of the best epoch, Adam's moments, gradients) beside the purchases: for 60,000
products and D = 256 that is .7 GB, where a matrix between the products has 14. Off the CPU, or where histories are
long, rows are multiplied dense, and a batch of them is an array `[B, I]` more.

Where we differ, and why:

* Adam, not NAdam, as for every network here.
* the authors' program for the published tables cuts negative scores off, their package does not; neither do we. Cut
  off, products that a customer would like least are equal to each other and to most of the rest.
* the number of epochs comes from validation.
* scores shorter than a thousandth of the row count as that long: their direction is lost in float32.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from aejax.batching import Batch, densify, product, weighted_targets
from aejax.matrix import check_counts
from aejax.models import Choice, Family, Range
from aejax.network import NetworkSettings, fit_and_restore
from aejax.precision import matmul

NEGLIGIBLE = 1e-3


@dataclasses.dataclass(frozen=True)
class ELSASettings(NetworkSettings):
    """Settings of `elsa`.

    Attributes:
      latent_dim: D, the size of a product's factor.
    """

    batch_size: int = 128
    learning_rate: float = 0.1
    latent_dim: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "latent_dim")


def _unit_rows(rows: jax.Array) -> jax.Array:
    """Rows `[n, m]` scaled to length 1; rows of zeros stay, and so do gradients through them."""
    # The bound is inside the root, whose slope at 0 is infinite.
    return rows * jax.lax.rsqrt(jnp.maximum(jnp.square(rows).sum(axis=1, keepdims=True), 1e-24))


class ELSA(nnx.Module):
    """Factors of products."""

    def __init__(self, items: int, rngs: nnx.Rngs, *, latent_dim: int):
        self.items = items
        self.factors = nnx.Param(jax.nn.initializers.xavier_uniform()(rngs.params(), (items, latent_dim)))

    def unit_factors(self) -> jax.Array:
        """A, `[I, D]`."""
        return _unit_rows(self.factors[...])

    def __call__(self, batch: Batch) -> jax.Array:
        """A batch of B users -> scores `[B, I]`."""
        factors = self.unit_factors()
        return matmul(product(batch, factors), factors.T) - densify(batch, self.items)


def _squared_length(code: jax.Array, rows: Batch, factors: jax.Array) -> jax.Array:
    """`|z A' - x|^2` of codes z `[B, D]` and rows x of length 1, by the way with fewer multiplications. `[B]`."""
    if code.shape[0] < factors.shape[1]:
        return jnp.square(matmul(code, factors.T) - densify(rows, factors.shape[0])).sum(axis=1)
    # Numbers of like size are subtracted from each other: the shorter products of an accelerator would show.
    gram = jnp.matmul(factors.T, factors, precision="highest")
    return ((jnp.matmul(code, gram, precision="highest") - 2.0 * code) * code).sum(axis=1) + 1.0


def _agreement(code: jax.Array, rows: Batch, batch: Batch, factors: jax.Array) -> jax.Array:
    """The scores of codes z and rows x times the batch's targets, these of length 1. `[B]`."""
    if batch.targets is None and batch.weights is None:
        return jnp.square(code).sum(axis=1) - 1.0
    targets = rows._replace(values=_unit_rows(weighted_targets(batch).values))
    return (code * product(targets, factors)).sum(axis=1) - (rows.values * targets.values).sum(axis=1)


def _loss(module: ELSA, batch: Batch, step: jax.Array, key: jax.Array) -> jax.Array:
    """Squared error between scores and targets, both of length 1, of each user `[B]`."""
    del step, key
    factors = module.unit_factors()
    rows = batch._replace(values=_unit_rows(batch.values))
    code = product(rows, factors)
    agreement = _agreement(code, rows, batch, factors)
    length = jnp.maximum(_squared_length(code, rows, factors), NEGLIGIBLE**2)
    return 2.0 - 2.0 * agreement * jax.lax.rsqrt(length)


def _build(settings: ELSASettings) -> partial[ELSA]:
    return partial(ELSA, latent_dim=settings.latent_dim)


SEARCH = {
    "latent_dim": Range(16, 1024, log=True),
    "batch_size": Choice(("32", "128", "500")),
    "learning_rate": Range(1e-3, 0.3, log=True),
}
FAMILY = Family(
    ELSASettings, SEARCH, *fit_and_restore(_build, lambda settings, users: _loss, unit=False), is_network=True
)
