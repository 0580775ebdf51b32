"""`recvae`: Shenbin, Alekseev, Tutubalina, Malykh and Nikolenko (2020), RecVAE: a New Variational Autoencoder for Top-N
Recommendations with Implicit Feedback, https://arxiv.org/abs/1912.11160, and the authors' program,
https://github.com/ilya-shenbin/RecVAE, which settles what the paper leaves open.

Where each line comes from:

* input: the user's row scaled to unit L2 norm, then dropout .5 on it.
* encoder: five layers of 600 with swish and layer normalisation. Each gets the sum of all outputs before it beside its
  own product: h_k = norm(swish(W_k h_(k-1) + b_k + h_1 + ... + h_(k-1))). Then z_mean and z_log_var of 200, linear. The
  epsilon of the normalisation is the program's .1.
* decoder: one linear layer, with the multinomial likelihood of Liang et al. (2018).
* composite prior: with z drawn from q(z|x), the KL term is the one-sample estimate log q(z|x) - log p(z|x). The prior p
  is a mixture of the standard normal, the old encoder's posterior of the same user's whole row, and a wide normal (the
  program's has log-variance 10), with weights 3/20, 3/4 and 1/10.
* weight of the KL term: gamma times the sum of the user's targets, which is the number of items where they are binary.
* alternating updates: an epoch is `encoder_passes` over all users that update the encoder by the whole loss, then
  `decoder_passes` that update the decoder by the likelihood alone, without dropout. z is sampled in both, and encoder
  and decoder have an Adam each.
* old encoder: the program copies the encoder after the encoder's passes. The decoder's passes neither change the
  encoder nor depend on the prior, so this is the encoder as it was when the next epoch begins.
* scores: z = z_mean, no dropout.
* weights and biases uniform within 1 / sqrt(inputs), Adam 5e-4, batches of 500.

Where we differ, and why:

* from the paper, with the program: the mixture is taken in each latent dimension and not over whole vectors.
* from the program: in the first epoch the old encoder is the encoder's own first state, not a second random one.
  Neither knows anything yet, and so no second encoder is stored.
* from the program: the decoder's passes leave out the KL term, in which the decoder has no part.
* the last, smaller batch of a pass is trained like the others, its mean taken over the users it has.
* `noise` scales the deviation with which z is drawn; 1 is the paper's. RecBole draws with .01, which leaves the KL term
  as it is written and z nearly its mean: on small data a setting to search for.
* gamma defaults to .005; the program has no default. Its other choice, one weight of the KL term for all users, is
  left out.
* training stops by validation, as that of every network here; the authors run a given number of epochs.
"""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx

from aejax import losses
from aejax.batching import Batch, densify, drop_inputs, product, weighted_targets
from aejax.errors import InputError
from aejax.matrix import check_counts, check_not_negative, check_shares
from aejax.models import Choice, Family, Range
from aejax.network import Linear, NetworkSettings, fit_and_restore
from aejax.training import Phase

LAYERS = 5
NORM_EPSILON = 0.1
WIDE_LOG_VAR = 10.0


@dataclasses.dataclass(frozen=True)
class RecVAESettings(NetworkSettings):
    """Settings of `recvae`.

    Attributes:
      hidden_dim: H, the size of each of the encoder's five layers.
      latent_dim: D, the size of z.
      dropout: share of a user's items hidden from the input while the encoder learns.
      gamma: weight of the KL term for each of a user's items.
      noise: deviation of the draw of z, in those of the posterior.
      mixture_weights: of the prior's standard normal, old posterior and wide normal.
      encoder_passes: over all users in an epoch.
      decoder_passes: over all users in an epoch, after the encoder's.
    """

    learning_rate: float = 5e-4
    hidden_dim: int = 600
    latent_dim: int = 200
    dropout: float = 0.5
    gamma: float = 0.005
    noise: float = 1.0
    mixture_weights: tuple[float, ...] = (3 / 20, 3 / 4, 1 / 10)
    encoder_passes: int = 3
    decoder_passes: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "hidden_dim", "latent_dim", "encoder_passes", "decoder_passes")
        check_shares(self, "dropout")
        check_not_negative(self, "gamma", "noise")
        weights = self.mixture_weights
        if len(weights) != 3 or not min(weights) >= 0 or not math.isclose(sum(weights), 1.0, abs_tol=1e-6):
            raise InputError(f"mixture_weights is {weights}; expected three numbers of 0 or more that sum to 1")


def _linear(inputs: int, outputs: int, rngs: nnx.Rngs) -> Linear:
    """Weights and biases uniform within 1 / sqrt(inputs)."""

    def uniform(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -(inputs**-0.5), inputs**-0.5)

    return Linear(inputs, outputs, kernel_init=uniform, bias_init=uniform, rngs=rngs)


class Encoder(nnx.Module):
    """Five densely connected layers I - H - ... - H, and z_mean and z_log_var in one last layer of 2 D."""

    def __init__(self, items: int, rngs: nnx.Rngs, *, hidden_dim: int, latent_dim: int):
        sizes = (items, *[hidden_dim] * LAYERS)
        self.layers = nnx.List([_linear(i, o, rngs) for i, o in pairwise(sizes)])
        self.norms = nnx.List([nnx.LayerNorm(hidden_dim, epsilon=NORM_EPSILON, rngs=rngs) for _ in range(LAYERS)])
        self.code = _linear(hidden_dim, 2 * latent_dim, rngs)

    def __call__(self, batch: Batch, norm: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Rows of B users and the norms `[B, 1]` to divide them by -> z_mean and z_log_var, each `[B, D]`."""
        first = self.layers[0]
        # Scaling after the product spares a second [B, I] array beside the targets.
        h = self.norms[0](nnx.swish(product(batch, first.kernel[...]) / norm + first.bias[...][None]))
        before = jnp.zeros_like(h)
        for layer, layer_norm in zip(self.layers[1:], self.norms[1:], strict=True):
            before = before + h
            h = layer_norm(nnx.swish(layer(h) + before))
        mean, log_var = jnp.split(self.code(h), 2, axis=1)
        return mean, log_var


class RecVAE(nnx.Module):
    """The encoder and the linear decoder D - I: the two parts that the phases of an epoch update."""

    def __init__(self, items: int, rngs: nnx.Rngs, *, hidden_dim: int, latent_dim: int):
        self.items = items
        self.encoder = Encoder(items, rngs, hidden_dim=hidden_dim, latent_dim=latent_dim)
        self.decoder = _linear(latent_dim, items, rngs)

    def __call__(self, batch: Batch) -> jax.Array:
        """A batch of B users -> logits `[B, I]` at z = z_mean, without dropout."""
        return self.decoder(self.encoder(batch, _norm(batch))[0])


def _norm(batch: Batch) -> jax.Array:
    """L2 norms of the rows `[B, 1]`, never 0."""
    return jnp.maximum(jnp.sqrt(jnp.square(batch.values).sum(axis=1, keepdims=True)), 1e-12)


def _sample(mean: jax.Array, log_var: jax.Array, noise: float, latent_key: jax.Array) -> jax.Array:
    return mean + noise * jnp.exp(0.5 * log_var) * jax.random.normal(latent_key, mean.shape)


def _log_normal(z: jax.Array, mean: jax.Array, log_var: jax.Array) -> jax.Array:
    return -0.5 * (math.log(2 * math.pi) + log_var + jnp.square(z - mean) * jnp.exp(-log_var))


def composite_kl(
    z: jax.Array,
    posterior: tuple[jax.Array, jax.Array],
    old_posterior: tuple[jax.Array, jax.Array],
    *,
    mixture_weights: tuple[float, ...],
) -> jax.Array:
    """One-sample estimate of KL( posterior || composite prior ), summed over D. `[B, D]` and two pairs of it -> `[B]`.

    The mixture is that of each dimension; its components are the standard normal, the old posterior, the wide normal.
    """
    zero = jnp.zeros_like(z)
    components = [(zero, zero), old_posterior, (zero, zero + WIDE_LOG_VAR)]
    prior = jax.nn.logsumexp(
        jnp.stack([_log_normal(z, *component) for component in components]),
        axis=0,
        b=jnp.array(mixture_weights)[:, None, None],
    )
    return (_log_normal(z, *posterior) - prior).sum(axis=1)


def _encoder_loss(
    module: RecVAE,
    start: RecVAE,
    batch: Batch,
    step: jax.Array,
    key: jax.Array,
    *,
    dropout: float,
    gamma: float,
    noise: float,
    mixture_weights: tuple[float, ...],
) -> jax.Array:
    """Negative log-likelihood of each user plus its weighted KL term, `[B]`; `start` holds the old encoder."""
    del step
    dropout_key, latent_key = jax.random.split(key)
    norm = _norm(batch)
    posterior = module.encoder(drop_inputs(batch, dropout, module.items, dropout_key=dropout_key), norm)
    z = _sample(*posterior, noise, latent_key)
    kl = composite_kl(z, posterior, start.encoder(batch, norm), mixture_weights=mixture_weights)
    targets = weighted_targets(batch)
    likelihood = losses.multinomial_nll(module.decoder(z), densify(targets, module.items))
    return likelihood + gamma * targets.values.sum(axis=1) * kl


def _decoder_loss(
    module: RecVAE, start: RecVAE, batch: Batch, step: jax.Array, key: jax.Array, *, noise: float
) -> jax.Array:
    """Negative log-likelihood of each user, `[B]`."""
    del start, step
    z = _sample(*module.encoder(batch, _norm(batch)), noise, key)
    return losses.multinomial_nll(module.decoder(z), densify(weighted_targets(batch), module.items))


def _build(settings: RecVAESettings) -> partial[RecVAE]:
    return partial(RecVAE, hidden_dim=settings.hidden_dim, latent_dim=settings.latent_dim)


def _phases(settings: RecVAESettings, users: int) -> tuple[Phase, Phase]:
    del users
    encoder_loss = partial(
        _encoder_loss,
        dropout=settings.dropout,
        gamma=settings.gamma,
        noise=settings.noise,
        mixture_weights=settings.mixture_weights,
    )
    return (
        Phase(encoder_loss, part="encoder", passes=settings.encoder_passes),
        Phase(partial(_decoder_loss, noise=settings.noise), part="decoder", passes=settings.decoder_passes),
    )


SEARCH = {
    "hidden_dim": Choice(("200", "400", "600")),
    "latent_dim": Range(50, 400, log=True),
    "dropout": Range(0.2, 0.8),
    "gamma": Range(5e-4, 0.05, log=True),
    "noise": Range(0.01, 1.0, log=True),
    "batch_size": Choice(("50", "100", "250", "500")),
    "learning_rate": Range(2e-4, 3e-3, log=True),
}
FAMILY = Family(RecVAESettings, SEARCH, *fit_and_restore(_build, _phases, unit=False), is_network=True)
