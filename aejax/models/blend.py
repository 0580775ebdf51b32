"""The weighted sum of several models' scores, each standardised per customer. It knows no model by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aejax.interactions import Histories
from aejax.models import Model, unknown_customers


@jax.jit
def standardise(scores: jax.Array) -> jax.Array:
    """Scores `[B, I]` -> the same with mean 0 and deviation 1 in every row."""
    tiny = jnp.finfo(scores.dtype).tiny
    centred = scores - scores.mean(axis=1, keepdims=True)
    # Squares of small scores would be 0.
    centred = centred / jnp.maximum(jnp.abs(centred).max(axis=1, keepdims=True), tiny)
    deviation = jnp.sqrt(jnp.square(centred).mean(axis=1, keepdims=True))
    return centred / jnp.maximum(deviation, tiny)


@dataclasses.dataclass(frozen=True)
class Blend:
    """Fitted models with their weights.

    Attributes:
      models: the parts that count.
      weights: of each, above 0.
      positions: of each in the list of all parts.
    """

    models: Sequence[Model]
    weights: Sequence[float]
    positions: Sequence[int]

    def encode(self, histories: Histories) -> tuple[Any, ...]:
        """Histories of n customers -> every part's batch."""
        return tuple(model.encode(histories) for model in self.models)

    def unknown(self, histories: Histories) -> np.ndarray:
        """Histories of n customers -> the positions of those whom a part does not know."""
        return np.unique(np.concatenate([unknown_customers(model, histories) for model in self.models]))

    def scores(self, batch: tuple[Any, ...]) -> jax.Array:
        """Every part's batch of B customers -> scores `[B, I]`, higher is better."""
        parts = [
            weight * standardise(model.scores(own))
            for model, weight, own in zip(self.models, self.weights, batch, strict=True)
        ]
        return jnp.stack(parts).sum(0) if len(parts) > 1 else parts[0]

    def state(self) -> dict[str, Any]:
        """What a run stores of it: the weights and positions, and each part's state by its number."""
        states = {str(number): model.state() for number, model in enumerate(self.models)}
        return {"weights": np.asarray(self.weights), "positions": np.asarray(self.positions), **states}
