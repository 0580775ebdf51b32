"""`macridvae`: Ma, Zhou, Cui, Yang and Zhu (2019), Learning Disentangled Representations for Recommendation,
https://arxiv.org/abs/1910.14238, and the authors' program, https://jianxinma.github.io/disentangle-recsys.html, which
settles what the paper leaves open.

K concepts, such as kinds of products, are learned with the rest. Every item belongs to them in shares c_ik, every user
has a taste z_k in each, and a purchase is one of a mixture over concepts. With h_i an item's vector in the decoder, t_i
its row in the encoder's first layer, and m_k the prototype of a concept:

    s_ik = cos(h_i, m_k) / tau,   c_i = softmax(s_i)                                      (eq. 6)
    (a_k, b_k) = f(sum_i x_i c_ik t_i / sqrt(sum_i x_i^2 c_ik^2))                          (eq. 7)
    z_k ~ N(a_k / |a_k|, std^2 exp(-b_k))                                                  (eq. 7)
    p(i | z, c) = sum_k c_ik exp(cos(z_k, h_i) / tau) / (the same, summed over items)      (section 2.2 and 2.3)

Where each line comes from:

* one encoder for all concepts: a hidden layer of 100 with tanh, then a_k and b_k of 100 each, linear.
* input of concept k: the user's row times c_k, scaled to unit L2 norm, then dropout .5, drawn for each concept anew.
* shares: in training one sample for a batch from the Gumbel-softmax of temperature 1, in scoring the softmax.
* loss: multinomial likelihood of the whole row, plus beta * KL to N(0, std^2), summed over concepts and dimensions
  (eq. 5). The means have norm 1, so their part of the KL is constant, and is left out.
* annealing: beta grows by 1 / anneal_steps with every update and stays at anneal_cap once there. Where anneal_steps is
  None it is the updates of 5 epochs, as in the program, so that the cap of .2 is there after the first.
* `weight_decay * sum of squares` of the encoder's kernels, the vectors and the prototypes is added to the mean loss.
* evaluation: z_k = a_k / |a_k|, no dropout. Scores are log p up to a constant of the user.
* cosines divide by a norm of at least 1e-6, kernels, vectors and prototypes begin Xavier uniform, biases truncated
  normal with deviation .001, Adam 1e-3.

Where we differ, and why:

* from the paper, with the program: in scoring an item keeps its shares of all concepts, and is not given to the most
  likely one alone; beta is below 1, where the paper's argument for independent dimensions wants it far above.
* from the program: exp((cosine - 1) / tau) in place of exp(cosine / tau), the same up to a constant of the user. It
  stays below 1, and `tau` of .025 or more keeps it above the smallest float32.
* the product of eq. 7 is taken with the rows c_ik t_i and divided afterwards: the same, and no gradient needs a [B, I]
  array of its own.
* memory: concepts are folded one after the other, and what is [B, I] of a concept is computed again for its gradient.
* the last, smaller batch of an epoch is trained like the others, its mean taken over the users it has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
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
from aejax.network import NetworkSettings, fit_and_restore, xavier_linear
from aejax.precision import matmul

LEAST_TAU = 0.025


@dataclasses.dataclass(frozen=True)
class MacridVAESettings(NetworkSettings):
    """Settings of `macridvae`.

    Attributes:
      concepts: K.
      hidden: sizes between the encoder's input and its output.
      latent_dim: D, the size of a concept's taste and of an item's vector.
      dropout: share of a user's items hidden from the input.
      tau: temperature of both cosines.
      std: of the prior.
      assignment: `gumbel` draws the items' shares of the concepts in training; `softmax` takes their means.
      anneal_cap: largest weight of the KL term.
      anneal_steps: updates over which the weight would grow from 0 to 1; None: those of 5 epochs.
      weight_decay: see the module's docstring.
    """

    concepts: int = 7
    hidden: tuple[int, ...] = (100,)
    latent_dim: int = 100
    dropout: float = 0.5
    tau: float = 0.1
    std: float = 0.075
    assignment: str = "gumbel"
    anneal_cap: float = 0.2
    anneal_steps: int | None = None
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "concepts", "latent_dim", "hidden", "anneal_steps")
        check_shares(self, "dropout")
        check_not_negative(self, "std", "anneal_cap", "weight_decay")
        if not self.tau >= LEAST_TAU:
            raise InputError(f"tau is {self.tau}; expected {LEAST_TAU} or more")
        if self.assignment not in ("gumbel", "softmax"):
            raise InputError(f'assignment is "{self.assignment}"; expected gumbel or softmax')


def unit_vectors(x: jax.Array) -> jax.Array:
    """`[N, D]` -> its rows scaled to L2 norm 1; rows of a norm below 1e-6 are divided by that, and have a gradient."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(axis=1, keepdims=True), 1e-12))


def _recomputed(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The same function, whose gradient keeps its arguments and computes everything else again."""
    return jax.checkpoint(function, prevent_cse=False)  # in a scan nothing could be shared anyway


class MacridVAE(nnx.Module):
    """The encoder I - hidden - 2 D that all concepts share, the items' vectors `[I, D]`, the prototypes `[K, D]`."""

    def __init__(
        self, items: int, rngs: nnx.Rngs, *, concepts: int, hidden: tuple[int, ...], latent_dim: int, tau: float
    ):
        self.items = items
        self.tau = tau
        xavier = jax.nn.initializers.xavier_uniform()
        self.encoder = nnx.List([xavier_linear(i, o, rngs) for i, o in pairwise((items, *hidden, 2 * latent_dim))])
        self.vectors = nnx.Param(xavier(rngs.params(), (items, latent_dim), jnp.float32))
        self.prototypes = nnx.Param(xavier(rngs.params(), (concepts, latent_dim), jnp.float32))

    def affinities(self) -> jax.Array:
        """Eq. 6: s `[I, K]`, the logits of the items' shares."""
        return unit_vectors(self.vectors[...]) @ unit_vectors(self.prototypes[...]).T / self.tau

    def weights(self) -> list[jax.Array]:
        """All that weight decay holds for."""
        return [*(layer.kernel[...] for layer in self.encoder), self.vectors[...], self.prototypes[...]]

    def mixture(
        self,
        batch: Batch,
        shares: jax.Array,
        *,
        project: Callable[[jax.Array, jax.Array], jax.Array],
        sample: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    ) -> tuple[jax.Array, jax.Array]:
        """The concepts, folded.

        Args:
          batch: rows of B users.
          shares: c `[I, K]`.
          project: concept and share `[I]` -> sum_i x_i c_i t_i over what the encoder sees of the rows, `[B, H]`.
          sample: concept, mean and log-variance relative to the prior's, each `[B, D]` -> z `[B, D]`.

        Returns:
          log p of every item up to a constant of the user, `[B, I]`, and the KL term, `[B]`.
        """
        first, *rest = self.encoder
        vectors = unit_vectors(self.vectors[...])
        squares = product(batch._replace(values=jnp.square(batch.values)), jnp.square(shares))
        scales = jax.lax.rsqrt(jnp.maximum(squares, 1e-12))  # as in `unit_vectors`

        @_recomputed
        def likes(z: jax.Array, share: jax.Array, vectors: jax.Array) -> jax.Array:
            return share[None] * jnp.exp((matmul(unit_vectors(z), vectors.T) - 1.0) / self.tau)

        def add(totals: tuple[jax.Array, jax.Array], concept: tuple[jax.Array, ...]):
            k, share, scale = concept
            h = project(k, share) * scale[:, None] + first.bias[...][None, :]
            for layer in rest:
                h = layer(jnp.tanh(h))
            a, b = jnp.split(h, 2, axis=1)
            z = sample(k, unit_vectors(a), -b)
            kl = losses.kl_to_standard_normal(jnp.zeros_like(b), -b)
            return (totals[0] + likes(z, share, vectors), totals[1] + kl), None

        users = batch.items.shape[0]
        nothing = jnp.zeros((users, self.items)), jnp.zeros(users)
        (likelihood, kl), _ = jax.lax.scan(add, nothing, (jnp.arange(shares.shape[1]), shares.T, scales.T))
        return jnp.log(likelihood), kl

    def __call__(self, batch: Batch) -> jax.Array:
        """A batch of B users -> log p `[B, I]` up to a constant of the user, at the means and without dropout."""
        log_p, _ = self.mixture(
            batch,
            jax.nn.softmax(self.affinities(), axis=1),
            project=lambda k, share: product(batch, share[:, None] * self.encoder[0].kernel[...]),
            sample=lambda k, mean, log_ratio: mean,
        )
        return log_p


def _loss(
    module: MacridVAE,
    batch: Batch,
    step: jax.Array,
    key: jax.Array,
    *,
    dropout: float,
    std: float,
    gumbel: bool,
    penalty: float,
    anneal_cap: float,
    anneal_steps: int,
) -> jax.Array:
    """Negative log-likelihood of each user plus beta * KL and the penalty, `[B]`."""
    share_key, dropout_key, latent_key = jax.random.split(key, 3)
    affinities = module.affinities()
    if gumbel:
        affinities = affinities + jax.random.gumbel(share_key, affinities.shape)

    @_recomputed
    def dropped(k: jax.Array, share: jax.Array, kernel: jax.Array) -> jax.Array:
        kept = drop_inputs(batch, dropout, module.items, dropout_key=jax.random.fold_in(dropout_key, k))
        return product(kept, share[:, None] * kernel)

    def sample(k: jax.Array, mean: jax.Array, log_ratio: jax.Array) -> jax.Array:
        noise = jax.random.normal(jax.random.fold_in(latent_key, k), mean.shape)
        return mean + std * jnp.exp(0.5 * log_ratio) * noise

    log_p, kl = module.mixture(
        batch,
        jax.nn.softmax(affinities, axis=1),
        project=lambda k, share: dropped(k, share, module.encoder[0].kernel[...]),
        sample=sample,
    )
    targets = densify(weighted_targets(batch), module.items)
    loss = losses.multinomial_nll(log_p, targets) + jnp.minimum(anneal_cap, step / anneal_steps) * kl
    if penalty:
        loss = loss + penalty * sum(jnp.square(weight).sum() for weight in module.weights())
    return loss


def _build(settings: MacridVAESettings) -> partial[MacridVAE]:
    return partial(
        MacridVAE,
        concepts=settings.concepts,
        hidden=settings.hidden,
        latent_dim=settings.latent_dim,
        tau=settings.tau,
    )


def _loss_of(settings: MacridVAESettings, users: int) -> partial[jax.Array]:
    return partial(
        _loss,
        dropout=settings.dropout,
        std=settings.std,
        gumbel=settings.assignment == "gumbel",
        penalty=settings.weight_decay,
        anneal_cap=settings.anneal_cap,
        anneal_steps=settings.anneal_steps or 5 * -(-users // settings.batch_size),
    )


SEARCH = {
    "concepts": Range(2, 20, log=True),
    "hidden": Choice(("", "100", "300", "600")),
    "latent_dim": Range(32, 256, log=True),
    "dropout": Range(0.2, 0.8),
    "tau": Range(0.05, 0.5, log=True),
    "std": Range(0.03, 1.0, log=True),
    "anneal_cap": Range(0.02, 2.0, log=True),
    "batch_size": Choice(("50", "100", "250", "500")),
    "learning_rate": Range(3e-4, 1e-2, log=True),
}
FAMILY = Family(MacridVAESettings, SEARCH, *fit_and_restore(_build, _loss_of, unit=False), is_network=True)
