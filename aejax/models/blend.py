"""The weighted sum of several models' scores, each standardised per customer. It knows no model by name.

Without a gate the weights are the same for all customers and products. With one they depend on how active the customer
is, on whether the customer has bought the product before, and on that product's rhythm: what is bought again and what
is bought for the first time then compete in one list. With the standardised scores `s_p` of the parts, `a = (1, log
orders)` of the customer and `f = (1, features)` of a product bought before (`aejax.rhythm`), the score of a product is

    sum_p (a . A_p) s_p  +  [bought before] ( sum_p (a . B_p) s_p  +  a' C f ).

It is learned by likelihood among the first products of a list. The log odds of a repeat, those of the softmax of all
scores, are therefore mapped to what was observed by a line, as Platt (1999), Probabilistic Outputs for Support Vector
Machines, does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aejax import batching, rhythm
from aejax.interactions import Histories
from aejax.models import Model, unknown_customers

# Log odds beyond which a share is as good as 0 or 1.
LARGEST_ODDS = 30.0


@jax.jit
def standardise(scores: jax.Array) -> jax.Array:
    """Scores `[B, I]` -> the same with mean 0 and deviation 1 in every row."""
    tiny = jnp.finfo(scores.dtype).tiny
    centred = scores - scores.mean(axis=1, keepdims=True)
    # Squares of small scores would be 0.
    centred = centred / jnp.maximum(jnp.abs(centred).max(axis=1, keepdims=True), tiny)
    deviation = jnp.sqrt(jnp.square(centred).mean(axis=1, keepdims=True))
    return jnp.where(deviation > 0, centred / jnp.maximum(deviation, tiny), 0.0)


class GateWeights(NamedTuple):
    """What a gate learns.

    Attributes:
      parts: A, `[2, P]`.
      own: B, `[2, P]`, added for products bought before.
      features: C, `[2, 1 + F]`.
    """

    parts: jax.Array
    own: jax.Array
    features: jax.Array


class OwnBatch(NamedTuple):
    """What the gate is asked about B customers.

    Attributes:
      items: `[B, L]` int32, products bought before, padded with I.
      features: `[B, L, F]` float32 of them, standardised.
      activity: `[B]` float32, standardised.
    """

    items: jax.Array
    features: jax.Array
    activity: jax.Array


class BlendBatch(NamedTuple):
    """What a blend is asked about B customers.

    Attributes:
      parts: the batch of each part, in the order of the models.
      own: the gate's; None where there is no gate.
    """

    parts: tuple[Any, ...]
    own: OwnBatch | None


@dataclasses.dataclass(frozen=True)
class Gate:
    """Weights that depend on the customer and on what the customer has bought.

    Attributes:
      weights: what was learned.
      rhythm: of the products, from the purchases that the parts were fitted on.
      scales: `[4, F + 1]`, of the features and of the activity where the weights were learned: means, deviations, and
        the least and the largest standardised value. What lies beyond is taken for these, as nothing was learned there.
      line: `[2]`, slope and intercept from the log odds of a repeat to those that were observed.
    """

    weights: GateWeights
    rhythm: rhythm.Rhythm
    scales: np.ndarray
    line: np.ndarray

    def standardised(self, values: np.ndarray, columns: slice) -> np.ndarray:
        """Features or activity -> in units of their deviations, within what was met in learning, float32."""
        centre, spread, low, high = self.scales[:, columns]
        return np.clip((values - centre) / spread, low, high).astype(np.float32)

    def encode(self, histories: Histories) -> OwnBatch:
        """Histories of n customers -> a padded batch on the host."""
        own = rhythm.own_products(histories, self.rhythm)
        features = self.standardised(own.features, slice(0, -1))
        padded = batching.pad_rows(own.orders)
        count = np.diff(own.orders.indptr)
        row = np.repeat(np.arange(len(count)), count)
        column = np.arange(len(row)) - np.repeat(own.orders.indptr[:-1], count)
        cells = np.zeros((*padded.items.shape, features.shape[1]), dtype=np.float32)
        cells[row, column] = features
        activity = self.standardised(own.activity[:, None], slice(-1, None))[:, 0]
        return OwnBatch(padded.items, cells, activity)  # pyright: ignore[reportArgumentType] (host until jitted)

    def state(self) -> dict[str, Any]:
        """What a run stores."""
        own = {"scales": self.scales, "line": self.line}
        return {"weights": self.weights._asdict(), "rhythm": self.rhythm._asdict(), **own}

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> Gate:
        """The gate whose `state()` that was."""
        read = rhythm.Rhythm(**{name: np.asarray(array) for name, array in state["rhythm"].items()})
        scales, line = np.asarray(state["scales"]), np.asarray(state["line"])
        return cls(GateWeights(**state["weights"]), read, scales, line)


@jax.jit
def log_odds_of_repeats(scores: jax.Array, own: jax.Array) -> jax.Array:
    """Scores `[B, I]` and own items `[B, L]`, padded with I -> log odds of an own item in their softmax, `[B]`."""
    rows = jnp.arange(scores.shape[0])[:, None]
    is_own = jnp.zeros(scores.shape, dtype=bool).at[rows, own].set(True, mode="drop")

    def total(which: jax.Array) -> jax.Array:
        return jax.nn.logsumexp(jnp.where(which, scores, -jnp.inf), axis=1)

    odds = total(is_own) - total(~is_own)
    return jnp.clip(odds, -LARGEST_ODDS, LARGEST_ODDS)  # of who bought nothing, or everything


def gated(scores: Sequence[jax.Array] | jax.Array, own: OwnBatch, weights: GateWeights) -> jax.Array:
    """Standardised scores of P parts, each `[B, I]`, and what was bought before -> logits `[B, I]`."""
    activity = jnp.stack([jnp.ones_like(own.activity), own.activity], axis=1)
    rows = jnp.arange(own.items.shape[0])[:, None]
    of_parts, of_own = activity @ weights.parts, activity @ weights.own
    scores = [jnp.asarray(score) for score in scores]
    total = sum(of_parts[:, number, None] * score for number, score in enumerate(scores))
    more = sum(
        of_own[:, number, None] * score.at[rows, own.items].get(mode="fill", fill_value=0.0)
        for number, score in enumerate(scores)
    )
    of_features = activity @ weights.features
    more += of_features[:, :1] + jnp.einsum("blf,bf->bl", own.features, of_features[:, 1:])
    return jnp.asarray(total).at[rows, own.items].add(more, mode="drop")


_gated = jax.jit(gated)


@dataclasses.dataclass(frozen=True)
class Blend:
    """Fitted models with their weights.

    Attributes:
      models: the parts that count.
      weights: of each, above 0; where there is a gate it has its own in their place.
      positions: of each in the list of all parts.
      gate: weights that depend on the customer and the product; None: they do not.
    """

    models: Sequence[Model]
    weights: Sequence[float]
    positions: Sequence[int]
    gate: Gate | None = None

    def encode(self, histories: Histories) -> BlendBatch:
        """Histories of n customers -> every part's batch, and the gate's where there is one."""
        own = None if self.gate is None else self.gate.encode(histories)
        return BlendBatch(tuple(model.encode(histories) for model in self.models), own)

    def unknown(self, histories: Histories) -> np.ndarray:
        """Histories of n customers -> the positions of those whom a part does not know."""
        return np.unique(np.concatenate([unknown_customers(model, histories) for model in self.models]))

    @property
    def predicts_repeats(self) -> bool:
        """A gate does."""
        return self.gate is not None

    def share_of_repeats(self, batch: BlendBatch, scores: jax.Array) -> jax.Array:
        """A batch of B customers and their scores -> the predicted shares, `[B]`."""
        assert self.gate is not None and batch.own is not None
        slope, intercept = self.gate.line
        return jax.nn.sigmoid(slope * log_odds_of_repeats(scores, batch.own.items) + intercept)

    def scores_of_parts(self, batch: BlendBatch) -> list[jax.Array]:
        """A batch of B customers -> every part's standardised scores `[B, I]`."""
        return [standardise(model.scores(one)) for model, one in zip(self.models, batch.parts, strict=True)]

    def scores(self, batch: BlendBatch) -> jax.Array:
        """A batch of B customers -> scores `[B, I]`, higher is better."""
        scores = self.scores_of_parts(batch)
        if self.gate is not None:
            assert batch.own is not None
            return _gated(scores, batch.own, self.gate.weights)
        parts = [weight * score for weight, score in zip(self.weights, scores, strict=True)]
        return jnp.stack(parts).sum(0) if len(parts) > 1 else parts[0]

    def state(self) -> dict[str, Any]:
        """What a run stores of it: the weights and positions, each part's state by its number, and the gate's."""
        states = {str(number): model.state() for number, model in enumerate(self.models)}
        own = {} if self.gate is None else {"gate": self.gate.state()}
        return {"weights": np.asarray(self.weights), "positions": np.asarray(self.positions), **states, **own}
