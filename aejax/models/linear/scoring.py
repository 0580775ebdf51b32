"""A fitted linear autoencoder, as a matrix between products or between the customers of train."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

from aejax import devices, solve
from aejax.batching import Batch, SparseRows, pad_rows, product, sparse_product, sparse_rows
from aejax.interactions import Histories
from aejax.matrix import from_state
from aejax.models.linear.settings import EASESettings

# Steps of iterative refinement where M in float32 has too few digits: after one, scores of the weakest ridges are
# wrong, and after three they are as exact as their sums are in float32.
REFINEMENTS = 3
# Products whose scores a core of a CPU makes at once, so few that they are still in its cache when they are turned.
PRODUCTS_AT_ONCE = 512


@partial(jax.jit, static_argnames="by_rows")
def _item_scores(weights: jax.Array, batch: Batch, by_rows: bool) -> jax.Array:
    return product(batch, weights, by_rows=by_rows)


@jax.jit
def _item_terms(weights: jax.Array, batch: Batch, items: jax.Array) -> jax.Array:
    """What each product of a batch `[B, L]` adds to the scores of the products `[B, K]` -> `[B, L, K]`."""
    found = weights.at[batch.items[:, :, None], items[:, None, :]].get(mode="fill", fill_value=0.0)
    return batch.values[:, :, None] * found


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

    def contributions(self, histories: Histories, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `aejax.models.Additive`."""
        batch = self.encode(histories)
        return np.asarray(batch.items), jax.device_get(_item_terms(self.weights, batch, jnp.asarray(items)))

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
      known: `[B]` int32, which row of Xw that is; -1: none.
      overlap: `[B, U]`, c of the package's docstring; 0 of whose row is known.
    """

    row: Batch
    known: np.ndarray
    overlap: jax.Array


class Refinement(NamedTuple):
    """What `K = Xw L^-1 Xw' + 1` is made of, where M in float32 has too few digits to be its inverse.

    Attributes:
      columns: `Xw'`, a row for each of I products.
      rows: `Xw L^-1`, a row for each of U customers.
    """

    columns: SparseRows
    rows: SparseRows


@jax.jit
def _solved_of_train(inverse: jax.Array, leverage: jax.Array, known: jax.Array) -> jax.Array:
    """`(c M)'` of rows of Xw, `[U, B]`: c is a row of `K - 1`, so that `c M` is one of `1 - M`, and its diagonal, where
    that would be a small difference, the leverage.
    """
    rows = -inverse[known]
    return rows.at[jnp.arange(len(known)), known].set(leverage[known]).T


@jax.jit
def _solved(
    inverse: jax.Array, leverage: jax.Array, refinement: Refinement | None, known: jax.Array, overlap: jax.Array
) -> jax.Array:
    """`(c M)'` of the package's docstring, `[U, B]`."""
    overlap = overlap.T
    solved = jnp.matmul(inverse, overlap, precision="highest")
    if refinement is not None:
        for _ in range(REFINEMENTS):  # what K leaves of the overlap is solved for as well
            through = sparse_product(refinement.columns, solved)
            left = overlap - solved - sparse_product(refinement.rows, through)
            solved += jnp.matmul(inverse, left, precision="highest")
    return jnp.where(known >= 0, _solved_of_train(inverse, leverage, known), solved)


@jax.jit
def _user_scores(columns: SparseRows, own: jax.Array, solved: jax.Array, row: Batch) -> jax.Array:
    rows = jnp.arange(row.items.shape[0])[:, None]
    own_share = row.values * own.at[row.items].get(mode="fill", fill_value=0)
    return sparse_product(columns, solved).T.at[rows, row.items].add(-own_share, mode="drop")


@dataclasses.dataclass(frozen=True)
class UserWeights:
    """The model as a matrix between the customers of train: `scores(x) = c inverse columns' - x * own`.

    Attributes:
      inverse: M of the package's docstring, `[U, U]`.
      columns: `((Yw + Xw diag(g / L)) diag(n)^-item_power)'`, `[I, U]` float32.
      leverage: `[U]` float32, the diagonal of `1 - M`.
      own: `[I]` float32, `g / L * n^-item_power`.
      scale: `[I]`, `n^item_power`.
      back: `L^-1 Xw'`, `[I, U]`.
      refinement: None where M has digits enough.
      settings: of the value transform.
      beside: what a run stores beside the half of M; `columns` are `Xw'`.
    """

    inverse: jax.Array
    columns: sp.csr_array
    leverage: np.ndarray
    own: np.ndarray
    scale: np.ndarray
    back: sp.csr_array
    refinement: Refinement | None
    settings: EASESettings
    beside: Mapping[str, Any]

    def encode(self, histories: Histories) -> UserBatch:
        """Histories of n customers -> a batch on the host."""
        return self._batch(self.settings.history_matrix(histories))

    def scores_of_rows(self, matrix: sp.csr_array, *, as_others: bool) -> np.ndarray:
        """Rows of n customers, `[n, I]` float32, scaled in place -> their scores `[n, I]`; `as_others`: made as of
        customers whom train does not have, of rows that it has too.
        """
        return np.asarray(self.scores(self._batch(matrix, as_others=as_others)))

    @functools.cached_property
    def _row_of(self) -> dict[bytes, int]:
        rows = sp.csr_array(from_state(self.beside["columns"], len(self.leverage)).T)
        return {row: number for number, row in enumerate(_digests(rows))}

    def _batch(self, matrix: sp.csr_array, *, as_others: bool = False) -> UserBatch:
        matrix.data *= self.scale[matrix.indices]
        known = np.full(matrix.shape[0], -1, dtype=np.int32)
        if self.refinement is None and not as_others:
            known[:] = [self._row_of.get(row, -1) for row in _digests(matrix)]
        overlap, others = solve.empty(matrix.shape[0], self.back.shape[1]), np.flatnonzero(known < 0)
        overlap[known >= 0] = 0.0

        def fill(start: int, stop: int) -> None:
            overlap[others[start:stop]] = (matrix[others[start:stop]] @ self.back).toarray()

        solve.in_blocks(len(others), solve.THROUGH_SPARSE, fill)
        return UserBatch(pad_rows(matrix), known, overlap)  # pyright: ignore[reportArgumentType] (host until jitted)

    def scores(self, batch: UserBatch) -> jax.Array:
        """A batch of B users -> scores `[B, I]`, higher is better. On a CPU it waits for them: SciPy adds them up."""
        if (np.asarray(batch.known) >= 0).all():
            solved = _solved_of_train(self.inverse, self.leverage, batch.known)
        else:
            solved = _solved(self.inverse, self.leverage, self.refinement, batch.known, batch.overlap)
        if devices.on_cpu():
            return jax.device_put(self._scores_by_products(np.asarray(solved), batch.row))
        return _user_scores(self._columns_on_device, self.own, solved, batch.row)  # pyright: ignore[reportArgumentType]

    @functools.cached_property
    def _columns_on_device(self) -> SparseRows:
        return sparse_rows(self.columns)[0]

    @functools.cached_property
    def _columns_in_blocks(self) -> list[sp.csr_array]:
        return [
            self.columns[start : start + PRODUCTS_AT_ONCE]
            for start in range(0, self.columns.shape[0], PRODUCTS_AT_ONCE)
        ]

    def _scores_by_products(self, solved: np.ndarray, row: Batch) -> np.ndarray:
        """`_user_scores` as a CPU is quick with it: SciPy adds whole rows of what is solved, on all cores."""
        count = self.columns.shape[0]
        scores, blocks = solve.empty(solved.shape[1], count), self._columns_in_blocks

        def fill(start: int, stop: int) -> None:
            scores[:, start:stop] = (blocks[start // PRODUCTS_AT_ONCE] @ solved).T

        solve.in_blocks(count, PRODUCTS_AT_ONCE, fill)
        items, values = np.asarray(row.items), np.asarray(row.values)
        customers, places = np.nonzero(items < count)
        items, values = items[customers, places], values[customers, places]
        scores[customers, items] -= values * self.own[items]
        return scores

    @property
    def facts(self) -> dict[str, str]:
        """The side on which it was solved."""
        return {"side": "users"}

    def state(self) -> dict[str, Any]:
        """What a run stores of it."""
        return {**lower_half(np.asarray(self.inverse)), **self.beside}


def _digests(matrix: sp.csr_array) -> list[bytes]:
    """Rows of a CSR -> 16 bytes each, equal where the rows are."""
    items, values = matrix.indices.astype(np.int32), matrix.data.astype(np.float32)
    return [
        hashlib.blake2b(items[start:stop].tobytes() + values[start:stop].tobytes(), digest_size=16).digest()
        for start, stop in itertools.pairwise(map(int, matrix.indptr))
    ]


def lower_half(inverse: np.ndarray) -> dict[str, Any]:
    """What a run stores of M: the half of it, block row by block row."""
    return {"panels": {str(number): panel for number, panel in enumerate(solve.lower_panels(inverse))}}


def whole_of(state: Mapping[str, Any]) -> np.ndarray:
    """M, `[U, U]`, of which a run stored `lower_half`."""
    panels = state["panels"]
    return solve.whole([np.asarray(panels[str(number)]) for number in range(len(panels))])
