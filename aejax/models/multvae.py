"""`multdae` and `multvae`: Liang, Krishnan, Hoffman and Jebara (2018), Variational Autoencoders for Collaborative
Filtering, https://arxiv.org/abs/1802.05814.

Where each line comes from:

* input: the user's row scaled to unit L2 norm, then dropout .5 on it (section 4.3, "Experimental setup": dropout at the
  input layer with probability 0.5). Dropout is drawn for a user's own items only: the zeros of the row stay zeros.
* layers I - 600 - 200 - 600 - I with tanh (section 4.3). In `multdae` the 200 are a tanh layer, in `multvae` a linear
  z_mean and z_log_var of 200 each.
* likelihood: multinomial (eq. 2). `multvae` adds beta * KL (eq. 5-8), summed over the latent dimensions.
* annealing: beta grows by 1 / anneal_steps with every update and stays at anneal_cap once there (section 2.2.2).
* `multdae`: weight decay .01 as the authors ran it: the penalty `weight_decay / batch_size * sum of squared kernels` is
  added to the mean loss of a batch, so its gradient passes through Adam; biases are free.
* evaluation: z = z_mean, no dropout (section 2.3).
* kernels Xavier uniform, biases truncated normal with deviation .001, Adam 1e-3, batches of 500.

Where we differ, and why:

* the last, smaller batch of an epoch is trained like the others, its mean taken over the users it has.
* `anneal_steps` defaults to None, which means: see `annealing_length`. The paper's 200,000 updates are those of
  hundreds of thousands of users; on a shop of a few thousand they never arrive, and beta would stay near 0.
* `noise` scales the deviation with which z is drawn; 1 is the paper's. RecBole draws with .01.
* with `attributes` the first and the last layer know those of products and customers: see `aejax.attributed`. The
  weight decay is that of the kernels in use, a product's own and its features' together.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx

from aejax import losses
from aejax.attributed import AttributedSettings, HasEnds, fit_and_restore
from aejax.batching import Batch, densify, drop_inputs, product, weighted_targets
from aejax.matrix import check_counts, check_not_negative, check_shares
from aejax.models import Choice, Family, Range
from aejax.network import linear_of_rows, xavier_linear


@dataclasses.dataclass(frozen=True)
class MultDAESettings(AttributedSettings):
    """Settings of `multdae`.

    Attributes:
      hidden: sizes between input and code; the decoder mirrors them.
      latent_dim: D, the size of the code.
      dropout: share of a user's items hidden from the input.
      weight_decay: see the module's docstring.
    """

    hidden: tuple[int, ...] = (600,)
    latent_dim: int = 200
    dropout: float = 0.5
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares(self, "dropout")
        check_counts(self, "hidden", "latent_dim")
        check_not_negative(self, "weight_decay")


@dataclasses.dataclass(frozen=True)
class MultVAESettings(MultDAESettings):
    """Settings of `multvae`.

    Attributes:
      anneal_cap: largest weight of the KL term.
      anneal_steps: updates over which the weight would grow from 0 to 1; None: see `annealing_length`.
      noise: deviation of the draw of z, in those of the posterior.
    """

    weight_decay: float = 0.0
    anneal_cap: float = 0.2
    anneal_steps: int | None = None
    noise: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(self, "anneal_cap", "noise")
        check_counts(self, "anneal_steps")


class MultAE(HasEnds):
    """Layers I - hidden - code - hidden mirrored - I with tanh. The code is z_mean and z_log_var if variational."""

    def __init__(
        self,
        items: int,
        rngs: nnx.Rngs,
        *,
        hidden: tuple[int, ...],
        latent_dim: int,
        variational: bool,
        customers: int = 0,
    ):
        """`customers`: how many features of a batch's customers join the first layer."""
        self.items = items
        self.variational = variational
        code = 2 * latent_dim if variational else latent_dim
        self.encoder = nnx.List([xavier_linear(i, o, rngs) for i, o in pairwise((items, *hidden, code))])
        self.decoder = nnx.List([xavier_linear(i, o, rngs) for i, o in pairwise((latent_dim, *hidden[::-1], items))])
        size = self.encoder[0].kernel.shape[1]
        self.customers = nnx.Param(jnp.zeros((customers, size))) if customers else None

    def ends(self) -> tuple[nnx.Linear, nnx.Linear]:
        """The layers over the products."""
        return self.encoder[0], self.decoder[-1]

    def encode(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """A normalised batch -> z_mean and z_log_var `[B, D]`; without a variational code, the code and zeros."""
        first, *rest = self.encoder
        code = linear_of_rows(first, batch)
        if self.customers is not None:
            assert batch.customers is not None
            code = code + product(batch.customers, self.customers[...])
        for layer in rest:
            code = layer(jnp.tanh(code))
        if self.variational:
            mean, log_var = jnp.split(code, 2, axis=1)
            return mean, log_var
        return jnp.tanh(code), jnp.zeros_like(code)

    def decode(self, z: jax.Array) -> jax.Array:
        """Code `[B, D]` -> logits `[B, I]`."""
        for layer in self.decoder[:-1]:
            z = jnp.tanh(layer(z))
        return self.decoder[-1](z)

    def kernels(self) -> list[jax.Array]:
        """All weight matrices."""
        return [layer.kernel[...] for layer in (*self.encoder, *self.decoder)]

    def __call__(self, batch: Batch) -> jax.Array:
        """A batch of B users -> logits `[B, I]` at z = z_mean, without dropout."""
        return self.decode(self.encode(unit_norm(batch))[0])


def unit_norm(batch: Batch) -> Batch:
    """Rows scaled to L2 norm 1; empty rows stay empty."""
    norm = jnp.sqrt(jnp.square(batch.values).sum(axis=1, keepdims=True))
    return batch._replace(values=batch.values / jnp.maximum(norm, 1e-12))


def annealing_length(updates_per_epoch: int) -> int:
    """The default of `anneal_steps`: the updates of 1,000 epochs, at most the paper's 200,000.

    So beta reaches the cap of .2 after 200 epochs, the length of the paper's trainings, whatever the number of users.
    """
    return min(200_000, 1_000 * updates_per_epoch)


def _loss(
    module: MultAE,
    batch: Batch,
    step: jax.Array,
    key: jax.Array,
    *,
    dropout: float,
    penalty: float,
    anneal_cap: float,
    anneal_steps: int,
    noise: float,
) -> jax.Array:
    """Negative log-likelihood of each user plus its share of the regularisation, `[B]`."""
    dropout_key, latent_key = jax.random.split(key)
    targets = densify(weighted_targets(batch), module.items)
    z, log_var = module.encode(drop_inputs(unit_norm(batch), dropout, module.items, dropout_key=dropout_key))
    loss = 0.0
    if module.variational:
        beta = jnp.minimum(anneal_cap, step / anneal_steps)
        loss = beta * losses.kl_to_standard_normal(z, log_var)
        z = z + noise * jnp.exp(0.5 * log_var) * jax.random.normal(latent_key, z.shape)
    if penalty:
        loss = loss + penalty * sum(jnp.square(kernel).sum() for kernel in module.kernels())
    return losses.multinomial_nll(module.decode(z), targets) + loss


def _build(settings: MultDAESettings) -> partial[MultAE]:
    return partial(
        MultAE,
        hidden=settings.hidden,
        latent_dim=settings.latent_dim,
        variational=isinstance(settings, MultVAESettings),
    )


def _loss_of(settings: MultDAESettings, users: int) -> partial[jax.Array]:
    anneal_cap, anneal_steps, noise = 0.0, 1, 0.0
    if isinstance(settings, MultVAESettings):
        anneal_cap, noise = settings.anneal_cap, settings.noise
        anneal_steps = settings.anneal_steps or annealing_length(-(-users // settings.batch_size))
    return partial(
        _loss,
        dropout=settings.dropout,
        penalty=settings.weight_decay / settings.batch_size,
        anneal_cap=anneal_cap,
        anneal_steps=anneal_steps,
        noise=noise,
    )


def _rows(settings: MultDAESettings) -> tuple[str | int, ...] | None:
    """The first kernel, where nothing but its product with a batch moves it."""
    return None if settings.weight_decay else ("encoder", 0, "kernel")


_SHARED = {
    "attributes": Choice(("False", "True")),
    "hidden": Choice(("", "300", "600")),
    "latent_dim": Range(32, 400, log=True),
    "dropout": Range(0.2, 0.8),
    "batch_size": Choice(("50", "100", "250", "500")),
    "learning_rate": Range(3e-4, 5e-3, log=True),
}
MULTDAE = Family(
    MultDAESettings,
    {**_SHARED, "weight_decay": Range(1e-3, 1.0, log=True)},
    *fit_and_restore(_build, _loss_of, unit=False, rows=_rows),
    is_network=True,
    of_attributes=("attributes",),
)
MULTVAE = Family(
    MultVAESettings,
    {**_SHARED, "anneal_cap": Range(0.05, 1.0, log=True), "anneal_steps": Range(1_000, 200_000, log=True)},
    *fit_and_restore(_build, _loss_of, unit=False, rows=_rows),
    is_network=True,
    of_attributes=("attributes",),
)
