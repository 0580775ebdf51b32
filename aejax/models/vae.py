"""`vae`: the variational autoencoder of Kingma and Welling (2014) with a Bernoulli or a Gaussian (MSE) likelihood.

The loss of a user is the negative evidence lower bound, reconstruction + kl_weight * KL, both summed over their
dimensions (eq. 7 and 10 of the paper, with one sample). `mse` is the Gaussian likelihood with unit variance up to a
constant: half the squared error summed over items.

Scores use z = z_mean and are logits (`bernoulli`) or outputs before the sigmoid (`mse`), as in `ae`.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx

from aejax import losses
from aejax.batching import Batch, target_rows
from aejax.errors import InputError
from aejax.matrix import check_counts, check_not_negative
from aejax.models import Choice, Family, Range
from aejax.network import Linear, NetworkSettings, fit_and_restore, linear_of_rows


@dataclasses.dataclass(frozen=True)
class VAESettings(NetworkSettings):
    """Settings of `vae`.

    Attributes:
      hidden: sizes of the encoder from the input inwards; the decoder mirrors them.
      latent_dim: D, the size of z.
      likelihood: `bernoulli` or `mse`.
      kl_weight: weight of the KL term; 1 is the evidence lower bound.
    """

    batch_size: int = 64
    hidden: tuple[int, ...] = (128, 64)
    latent_dim: int = 32
    likelihood: str = "bernoulli"
    kl_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.likelihood not in ("bernoulli", "mse"):
            raise InputError(f'likelihood is "{self.likelihood}"; expected bernoulli or mse')
        check_counts(self, "hidden", "latent_dim")
        check_not_negative(self, "kl_weight")


class VAE(nnx.Module):
    """Layers I - hidden - (z_mean, z_log_var) - hidden mirrored - I, ReLU between."""

    def __init__(self, items: int, rngs: nnx.Rngs, *, hidden: tuple[int, ...], latent_dim: int):
        self.items = items
        inner = hidden[-1] if hidden else items
        self.encoder = nnx.List([Linear(i, o, rngs=rngs) for i, o in pairwise((items, *hidden))])
        self.z_mean = Linear(inner, latent_dim, rngs=rngs)
        self.z_log_var = Linear(inner, latent_dim, rngs=rngs)
        sizes = (latent_dim, *hidden[::-1], items)
        self.decoder = nnx.List([Linear(i, o, rngs=rngs) for i, o in pairwise(sizes)])

    def encode(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """A batch of B users -> z_mean and z_log_var, each `[B, D]`."""
        if not self.encoder:
            return linear_of_rows(self.z_mean, batch), linear_of_rows(self.z_log_var, batch)
        first, *rest = self.encoder
        x = jax.nn.relu(linear_of_rows(first, batch))
        for layer in rest:
            x = jax.nn.relu(layer(x))
        return self.z_mean(x), self.z_log_var(x)

    def decode(self, z: jax.Array) -> jax.Array:
        """Latent `[B, D]` -> logits `[B, I]`."""
        for layer in self.decoder[:-1]:
            z = jax.nn.relu(layer(z))
        return self.decoder[-1](z)

    def __call__(self, batch: Batch) -> jax.Array:
        """A batch of B users -> logits `[B, I]` at z = z_mean."""
        return self.decode(self.encode(batch)[0])


def reparameterise(mean: jax.Array, log_var: jax.Array, *, latent_key: jax.Array) -> jax.Array:
    """A sample `[B, D]` of N(mean, exp(log_var)): mean + std * epsilon, Kingma and Welling (2014), section 2.4."""
    return mean + jnp.exp(0.5 * log_var) * jax.random.normal(latent_key, mean.shape)


def _loss(
    module: VAE, batch: Batch, step: jax.Array, key: jax.Array, *, likelihood: str, kl_weight: float
) -> jax.Array:
    """Negative evidence lower bound of each user, `[B]`."""
    del step
    mean, log_var = module.encode(batch)
    targets, weight = target_rows(batch, module.items)
    logits = module.decode(reparameterise(mean, log_var, latent_key=key))
    if likelihood == "bernoulli":
        reconstruction = losses.bernoulli_nll(logits, targets, weight)
    else:
        reconstruction = 0.5 * losses.squared_error(jax.nn.sigmoid(logits), targets, weight)
    return reconstruction + kl_weight * losses.kl_to_standard_normal(mean, log_var)


def _build(settings: VAESettings) -> partial[VAE]:
    return partial(VAE, hidden=settings.hidden, latent_dim=settings.latent_dim)


def _loss_of(settings: VAESettings, users: int) -> partial[jax.Array]:
    del users
    return partial(_loss, likelihood=settings.likelihood, kl_weight=settings.kl_weight)


SEARCH = {
    "hidden": Choice(("", "128", "128,64", "600")),
    "latent_dim": Range(16, 256, log=True),
    "batch_size": Choice(("50", "100", "250", "500")),
    "learning_rate": Range(3e-4, 1e-2, log=True),
    "kl_weight": Range(0.01, 1.0, log=True),
}
FAMILY = Family(
    VAESettings,
    SEARCH,
    *fit_and_restore(
        # Without a hidden layer two kernels read the rows.
        _build,
        _loss_of,
        unit=True,
        rows=lambda settings: ("encoder", 0, "kernel") if settings.hidden else None,
    ),
    is_network=True,
)
