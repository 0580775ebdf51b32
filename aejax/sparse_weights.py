"""Models that score on the host: a sparse product there is quicker than a dense one on any device."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import scipy.sparse as sp

from aejax.batching import Batch, densify, pad_rows
from aejax.interactions import Histories
from aejax.matrix import ValueSettings, to_state


@partial(jax.jit, static_argnames="count")
def scores_of(batch: Batch, count: int) -> jax.Array:
    """Padded scores, 0 where there is none -> `[B, I]`; `count` is I."""
    return densify(batch, count)


@dataclasses.dataclass(frozen=True)
class SparseItemWeights:
    """Products with the products that they lead to.

    Attributes:
      weights: `[I, I]`, sparse: a customer with row x has the scores `x weights`.
      settings: of the value transform.
    """

    weights: sp.csr_array
    settings: ValueSettings

    def encode(self, histories: Histories) -> Batch:
        """Histories of n customers -> their scores that are not 0, padded, on the host."""
        own = self.settings.history_matrix(histories)
        return pad_rows(sp.csr_array(own @ self.weights))

    def scores(self, batch: Batch) -> jax.Array:
        """A batch of B users -> scores `[B, I]`, higher is better."""
        return scores_of(batch, self.weights.shape[1])

    def state(self) -> dict[str, Any]:
        """What a run stores of it."""
        return to_state(self.weights)
