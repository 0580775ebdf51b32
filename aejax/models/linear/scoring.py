"""A fitted linear autoencoder, as a matrix between products or between the customers of train and products."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.sparse as sp

from aejax.batching import Batch, densify, pad_rows, product
from aejax.interactions import Histories
from aejax.matrix import to_state
from aejax.models.linear.settings import EASESettings


@partial(jax.jit, static_argnames="by_rows")
def _item_scores(weights: jax.Array, batch: Batch, by_rows: bool) -> jax.Array:
    return product(batch, weights, by_rows=by_rows)


@dataclasses.dataclass(frozen=True)
class ItemWeights:
    """The model as a matrix between products.

    Attributes:
      weights: `[I, I]`, the scores of a customer with row x are `x weights`.
      settings: of the value transform.
      by_rows: histories are so short that a CPU is quicker to read the rows that they name than to multiply.
      side: on which it was solved.
      smaller: what a run stores in place of the weights, where it takes less and they follow from it.
    """

    weights: jax.Array
    settings: EASESettings
    by_rows: bool
    side: str
    smaller: Mapping[str, Any] | None = None

    def encode(self, histories: Histories) -> Batch:
        """Histories of n customers -> a padded batch on the host."""
        return pad_rows(self.settings.history_matrix(histories))

    def scores(self, batch: Batch) -> jax.Array:
        """A batch of B users -> scores `[B, I]`, higher is better."""
        return _item_scores(self.weights, batch, self.by_rows)

    @property
    def facts(self) -> dict[str, str]:
        """The side on which it was solved."""
        return {"side": self.side}

    def state(self) -> dict[str, Any]:
        """What a run stores of it."""
        return {"weights": self.weights, "by_rows": self.by_rows} if self.smaller is None else dict(self.smaller)


class UserBatch(NamedTuple):
    """Rows of customers, and their overlap with the customers of train.

    Attributes:
      row: the customers' rows, scaled by `n ** item_power`.
      overlap: `[B, U]`, c of the package's docstring.
    """

    row: Batch
    overlap: jax.Array


@jax.jit
def _user_scores(answers: jax.Array, own: jax.Array, batch: UserBatch) -> jax.Array:
    return batch.overlap @ answers - densify(batch.row, own.shape[0]) * own[None, :]


@dataclasses.dataclass(frozen=True)
class UserWeights:
    """The model as a matrix between the customers of train and products: `scores(x) = c answers - x * own`.

    Attributes:
      answers: `[U, I]`, `(Nt + N diag(g / L)) diag(n)^-item_power`.
      own: `[I]`, `g / L * n^-item_power`.
      scale: `[I]`, `n^item_power`.
      rows: `Xw L^-1`, `[U, I]`.
      settings: of the value transform.
    """

    answers: jax.Array
    own: jax.Array
    scale: np.ndarray
    rows: sp.csr_array
    settings: EASESettings

    def encode(self, histories: Histories) -> UserBatch:
        """Histories of n customers -> a batch on the host."""
        matrix = self.settings.history_matrix(histories)
        matrix.data *= self.scale[matrix.indices]
        overlap = np.asarray((matrix @ self.rows.T).toarray(), dtype=np.float32)
        return UserBatch(pad_rows(matrix), overlap)  # pyright: ignore[reportArgumentType] (host until jitted)

    def scores(self, batch: UserBatch) -> jax.Array:
        """A batch of B users -> scores `[B, I]`, higher is better."""
        return _user_scores(self.answers, self.own, batch)

    @property
    def facts(self) -> dict[str, str]:
        """The side on which it was solved."""
        return {"side": "users"}

    def state(self) -> dict[str, Any]:
        """What a run stores of it."""
        return {"answers": self.answers, "own": self.own, "scale": self.scale, "rows": to_state(self.rows)}
