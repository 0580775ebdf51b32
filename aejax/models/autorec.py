"""`autorec`: Sedhain, Menon, Sanner and Xie (2015), AutoRec: Autoencoders Meet Collaborative Filtering, WWW.

The user-based form, U-AutoRec. With x a customer's row `[I]` the reconstruction is (section 2)

    h(x) = W s(V x + mu) + b,   s the sigmoid, the output the identity,

and the objective over all customers, the sum running over the entries that a customer has,

    sum_u sum_i (x_ui - h(x_u)_i)^2  +  l2 / 2 * ( |W|^2 + |V|^2 ).

The loss of a customer holds the U-th part of the penalty, so the mean over customers is this objective divided by U.

Where we differ, and why:

* the user-based form. The paper's item-based one, which it finds more accurate on ratings, reconstructs a product's
  column: a new customer would change every input and have no row to encode.
* entries that a customer does not have count too, as 0, with the weight `unobserved`; 0 is the paper's objective.
  Purchases are all ones, and over the ones alone the constant 1 is a perfect reconstruction that ranks nothing.
* 100 hidden units where the paper has 500.
* Adam in batches in place of resilient propagation, and early stopping.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from aejax import losses
from aejax.batching import Batch, target_rows
from aejax.matrix import check_counts, check_not_negative
from aejax.models import Choice, Family, Range
from aejax.network import Linear, NetworkSettings, fit_and_restore, linear_of_rows


@dataclasses.dataclass(frozen=True)
class AutoRecSettings(NetworkSettings):
    """Settings of `autorec`.

    Attributes:
      latent_dim: D, the number of hidden units.
      l2: weight of the regularisation of both kernels, of all customers together.
      unobserved: weight of an entry that a customer does not have, against 1 of one that they have.
    """

    batch_size: int = 100
    latent_dim: int = 100
    l2: float = 40.0
    unobserved: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "latent_dim")
        check_not_negative(self, "l2", "unobserved")


class AutoRec(nnx.Module):
    """Layers I - D - I with a sigmoid between."""

    def __init__(self, items: int, rngs: nnx.Rngs, *, latent_dim: int):
        self.items = items
        linear = partial(Linear, kernel_init=jax.nn.initializers.xavier_uniform(), rngs=rngs)
        self.encoder = linear(items, latent_dim)
        self.decoder = linear(latent_dim, items)

    def kernels(self) -> list[jax.Array]:
        """V `[I, D]` and W `[D, I]`."""
        return [self.encoder.kernel[...], self.decoder.kernel[...]]

    def __call__(self, batch: Batch) -> jax.Array:
        """A batch of B users -> reconstructions `[B, I]`."""
        return self.decoder(jax.nn.sigmoid(linear_of_rows(self.encoder, batch)))


def _loss(
    module: AutoRec, batch: Batch, step: jax.Array, key: jax.Array, *, penalty: float, unobserved: float
) -> jax.Array:
    """Squared error of each user plus their share of the penalty, `[B]`."""
    del step, key
    x, weight = target_rows(batch, module.items)
    weight = jnp.where(x > 0, weight, unobserved)
    squares = sum(jnp.square(kernel).sum() for kernel in module.kernels())
    return losses.squared_error(module(batch), x, weight) + penalty * squares


def _build(settings: AutoRecSettings) -> partial[AutoRec]:
    return partial(AutoRec, latent_dim=settings.latent_dim)


def _loss_of(settings: AutoRecSettings, users: int) -> partial[jax.Array]:
    return partial(_loss, penalty=settings.l2 / (2 * users), unobserved=settings.unobserved)


SEARCH = {
    "latent_dim": Range(50, 500, log=True),
    "l2": Range(3.0, 300.0, log=True),
    "unobserved": Range(0.05, 1.0, log=True),
    "batch_size": Choice(("50", "100", "250", "500")),
    "learning_rate": Range(3e-4, 5e-3, log=True),
}
FAMILY = Family(AutoRecSettings, SEARCH, *fit_and_restore(_build, _loss_of, unit=False), is_network=True)
