r"""Neighbourhood models: `itemknn`, `userknn` and `rp3beta`, baselines that are hard to beat when they are tuned.

X is the user-item matrix `[U, I]`, x a customer's row.

* `itemknn`: scores `x S`, `S_ij = x_i . x_j / (|x_i| |x_j| + shrink)` for i != j, of which every product j is scored by
  the `neighbours` largest. Sarwar et al. (2001), Item-based collaborative filtering recommendation algorithms; the
  shrinkage is Bell and Koren's (2007). `power` sharpens: similarities are raised to it.
* `userknn`: the same between customers: the sum of the rows of the `neighbours` most similar customers of train,
  weighted by similarity. A customer of train is their own nearest neighbour, which adds only what they have bought.
* `rp3beta`: the walk customer -> product -> customer -> product, `S = (D_i^-1 X')^alpha (D_u^-1 X)^alpha` with each
  transition probability raised to `alpha`, and popular products pushed down: `S_ij / n_j^beta`, of which every product
  j is scored by the `neighbours` largest. Paudel et al. (2017), Updatable, accurate, diverse, and scalable
  recommendations for interactive applications, eq. 5. As published, the first step from the customer is uniform and
  does not change the order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

from aejax.batching import Batch, pad_rows
from aejax.interactions import Histories, Interactions
from aejax.matrix import ValueSettings, check_counts, check_not_negative, check_positive, from_state, to_state
from aejax.models import Family, Range
from aejax.sparse_weights import SparseItemWeights, scores_of

BLOCK = 512


@dataclasses.dataclass(frozen=True)
class ItemKNNSettings(ValueSettings):
    """Settings of `itemknn` and `userknn`.

    Attributes:
      neighbours: how many are kept.
      shrink: added to the denominator; weakens similarities that few purchases carry.
      power: similarities are raised to it.
    """

    neighbours: int = 100
    shrink: float = 10.0
    power: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "neighbours")
        check_not_negative(self, "shrink")
        check_positive(self, "power")


@dataclasses.dataclass(frozen=True)
class RP3BetaSettings(ValueSettings):
    """Settings of `rp3beta`.

    Attributes:
      neighbours: how many products each product leads to.
      alpha: power of the transition probabilities.
      beta: power of the popularity that scores are divided by.
    """

    neighbours: int = 100
    alpha: float = 1.0
    beta: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "neighbours")
        check_positive(self, "alpha")


@partial(jax.jit, static_argnames="k")
def _largest(values: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    return jax.lax.top_k(values, k)


def _keep_largest(matrix_rows: Iterable[sp.csr_array], k: int) -> sp.csr_array:
    """The k largest positive entries of every row, ties by column; the rows come in blocks."""
    blocks = []
    for block in matrix_rows:
        values, columns = jax.device_get(_largest(jnp.asarray(block.toarray()), min(k, block.shape[1])))
        row = np.repeat(np.arange(block.shape[0]), values.shape[1])
        kept = values.ravel() > 0
        blocks.append(sp.csr_array((values.ravel()[kept], (row[kept], columns.ravel()[kept])), shape=block.shape))
    return sp.csr_array(sp.vstack(blocks, format="csr"))


def _columns_kept(
    left: sp.csr_array, right: sp.csr_array, k: int, weigh: Callable[[sp.coo_array, int], None]
) -> sp.csr_array:
    """The transpose of `left right`, `[I, U] [U, I]`, weighed in place, of whose rows the k largest are kept, without
    the diagonal. `weigh` is given a block of rows and the number of its first.
    """

    def blocks() -> Iterable[sp.csr_array]:
        for start in range(0, left.shape[0], BLOCK):
            block = sp.coo_array(left[start : start + BLOCK] @ right)
            weigh(block, start)
            block.data[block.coords[0] + start == block.coords[1]] = 0.0
            yield sp.csr_array(block)

    return sp.csr_array(_keep_largest(blocks(), k).T)


def _norms(matrix: sp.csr_array, axis: int) -> np.ndarray:
    return np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=axis), dtype=np.float64)).ravel()


def fit_itemknn(train: Interactions, settings: ItemKNNSettings) -> SparseItemWeights:
    """Similarities of all products, block by block."""
    matrix = settings.train_matrix(train)
    norms = _norms(matrix, 0)

    def weigh(block: sp.coo_array, start: int) -> None:
        row, column = block.coords
        block.data /= norms[row + start] * norms[column] + settings.shrink
        block.data **= settings.power

    return SparseItemWeights(_columns_kept(sp.csr_array(matrix.T), matrix, settings.neighbours, weigh), settings)


def fit_rp3beta(train: Interactions, settings: RP3BetaSettings) -> SparseItemWeights:
    """Transition probabilities of all products, block by block."""
    matrix = settings.train_matrix(train)
    to_item, to_user = (_transitions(one, settings.alpha) for one in (matrix, sp.csr_array(matrix.T)))
    customers = np.maximum(np.bincount(matrix.indices, minlength=matrix.shape[1]), 1).astype(np.float64)

    def weigh(block: sp.coo_array, start: int) -> None:
        block.data /= customers[block.coords[0] + start] ** settings.beta

    return SparseItemWeights(
        _columns_kept(sp.csr_array(to_item.T), sp.csr_array(to_user.T), settings.neighbours, weigh), settings
    )


def _transitions(matrix: sp.csr_array, alpha: float) -> sp.csr_array:
    """The steps from a row to its columns, each raised to `alpha`."""
    step = sp.csr_array(matrix, copy=True)
    totals = np.maximum(matrix.sum(axis=1), np.finfo(np.float32).tiny)
    step.data /= np.repeat(totals, np.diff(matrix.indptr))
    step.data **= alpha
    return step


def restore_items(
    state: Mapping[str, Any], settings: ItemKNNSettings | RP3BetaSettings, *, items: int
) -> SparseItemWeights:
    """The model whose `state()` that was."""
    return SparseItemWeights(from_state(state, items), settings)


@dataclasses.dataclass(frozen=True)
class UserNeighbours:
    """The customers of train.

    Attributes:
      matrix: `[U, I]`, their rows.
      settings: of similarity and value transform.
    """

    matrix: sp.csr_array
    settings: ItemKNNSettings

    def encode(self, histories: Histories) -> Batch:
        """Histories of n customers -> their scores above 0, padded, on the host, where sparse products are quick."""
        own = self.settings.history_matrix(histories)
        overlap = sp.coo_array(own @ self.matrix.T)
        row, column = overlap.coords
        overlap.data /= _norms(own, 1)[row] * _norms(self.matrix, 1)[column] + self.settings.shrink
        overlap.data **= self.settings.power
        nearest = _keep_largest([sp.csr_array(overlap)], self.settings.neighbours)
        return pad_rows(sp.csr_array(nearest @ self.matrix))

    def scores(self, batch: Batch) -> jax.Array:
        """A batch of B users -> scores `[B, I]`, higher is better."""
        return scores_of(batch, self.matrix.shape[1])

    def state(self) -> dict[str, np.ndarray]:
        """What a run stores of it."""
        return to_state(self.matrix)


def fit_userknn(train: Interactions, settings: ItemKNNSettings) -> UserNeighbours:
    """Keep the customers who bought something."""
    matrix = settings.train_matrix(train)
    return UserNeighbours(sp.csr_array(matrix[np.diff(matrix.indptr) > 0]), settings)


def restore_users(state: Mapping[str, Any], settings: ItemKNNSettings, *, items: int) -> UserNeighbours:
    """The model whose `state()` that was."""
    return UserNeighbours(from_state(state, items), settings)


_NEIGHBOURS = {"neighbours": Range(10, 1000, log=True)}
_KNN = {**_NEIGHBOURS, "shrink": Range(0.1, 1000.0, log=True), "power": Range(0.5, 3.0)}
ITEMKNN = Family(ItemKNNSettings, _KNN, fit_itemknn, restore_items, is_network=False)
USERKNN = Family(ItemKNNSettings, _KNN, fit_userknn, restore_users, is_network=False)
RP3BETA = Family(
    RP3BetaSettings,
    {**_NEIGHBOURS, "alpha": Range(0.3, 2.0), "beta": Range(0.0, 1.2)},
    fit_rp3beta,
    restore_items,
    is_network=False,
)
