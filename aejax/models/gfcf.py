r"""`gfcf`: a graph filter without training. Shen et al. (2021), How Powerful is Graph Convolution for Recommendation?,
https://arxiv.org/abs/2108.07567, section 5, eq. 11 to 13.

With `R = D_u^-1/2 X D_i^-1/2`, the user-item matrix normalised by the degrees of both sides, and V the `factors` right
singular vectors of R with the largest singular values, a customer's scores are

    x R' R  +  alpha * x D_i^-1/2 V V' D_i^1/2

a linear filter plus an ideal low-pass filter. The customer's own row x is not normalised, which scales all their scores
alike in the second term and is what the authors' program does in the first.

The singular vectors come from a randomised range finder with power iterations (Halko, Martinsson and Tropp 2011,
algorithm 4.4), whose sketch has a fixed key: the model has no randomness to seed.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

from aejax.batching import Batch, densify, pad_rows
from aejax.errors import InputError
from aejax.interactions import Histories, Interactions
from aejax.matrix import check_values, from_state, history_matrix, to_state, user_item_matrix
from aejax.models import Family, Range

SKETCH_KEY = 0
OVERSAMPLING = 32
POWER_ITERATIONS = 12


@dataclasses.dataclass(frozen=True)
class GFCFSettings:
    """Settings of `gfcf`.

    Attributes:
      values: value transform of the rows, one of `aejax.matrix.VALUES`.
      half_life: days, for `values=recency`.
      factors: singular vectors of the low-pass filter; there are no more than customers or products.
      alpha: its weight.
    """

    values: str = "binary"
    half_life: float = 180.0
    factors: int = 256
    alpha: float = 0.3

    def __post_init__(self) -> None:
        check_values(self.values)
        if self.factors < 1:
            raise InputError(f"factors is {self.factors}; expected 1 or more")
        if not self.alpha >= 0 or not self.half_life > 0:
            raise InputError(
                f"alpha is {self.alpha:g} and half_life {self.half_life:g}; expected 0 or more, and more than 0"
            )


class FilterBatch(NamedTuple):
    """Rows of customers, plain and after the linear filter.

    Attributes:
      row: `[B, L]`.
      filtered: `x R' R`, padded.
    """

    row: Batch
    filtered: Batch


@jax.jit
def _scores(low_pass: jax.Array, root: jax.Array, alpha: float, batch: FilterBatch) -> jax.Array:
    count = root.shape[0]
    row = densify(batch.row, count) / root[None, :]
    return densify(batch.filtered, count) + alpha * (row @ low_pass.T @ low_pass) * root[None, :]


@dataclasses.dataclass(frozen=True)
class GraphFilter:
    """The fitted filter.

    Attributes:
      normal: R, `[U, I]`.
      low_pass: V', `[factors, I]`.
      root: `[I]`, square root of each product's degree.
      settings: of value transform and weight.
    """

    normal: sp.csr_array
    low_pass: jax.Array
    root: jax.Array
    settings: GFCFSettings

    def encode(self, histories: Histories) -> FilterBatch:
        """Histories of n customers -> a batch on the host."""
        row = history_matrix(histories, self.settings.values, half_life=self.settings.half_life)
        return FilterBatch(pad_rows(row), pad_rows(sp.csr_array(row @ self.normal.T @ self.normal)))

    def scores(self, batch: FilterBatch) -> jax.Array:
        """A batch of B users -> scores `[B, I]`, higher is better."""
        return _scores(self.low_pass, self.root, self.settings.alpha, batch)

    def state(self) -> dict[str, Any]:
        """What a run stores of it."""
        return {"normal": to_state(self.normal), "low_pass": self.low_pass, "root": self.root}


@partial(jax.jit, donate_argnums=0)
def _orthonormal(columns: jax.Array) -> jax.Array:
    return jnp.linalg.qr(columns)[0]


def right_singular_vectors(matrix: sp.csr_array, count: int) -> np.ndarray:
    """The right singular vectors `[count, I]` of the largest singular values, largest first, up to their sign."""
    items = matrix.shape[1]
    width = min(count + OVERSAMPLING, matrix.shape[0], items)
    transposed = sp.csr_array(matrix.T)
    sketch = np.asarray(jax.random.normal(jax.random.key(SKETCH_KEY), (items, width)))
    basis = np.asarray(_orthonormal(jnp.asarray(matrix @ sketch)))
    for _ in range(POWER_ITERATIONS):
        back = np.asarray(_orthonormal(jnp.asarray(transposed @ basis)))
        basis = np.asarray(_orthonormal(jnp.asarray(matrix @ back)))
    _, _, vectors = np.linalg.svd((transposed @ basis).T.astype(np.float64), full_matrices=False)
    return vectors[:count].astype(np.float32)


def fit(train: Interactions, settings: GFCFSettings) -> GraphFilter:
    """Normalise the matrix and find its largest singular vectors."""
    matrix = user_item_matrix(train, settings.values, half_life=settings.half_life)
    matrix = sp.csr_array(matrix[np.diff(matrix.indptr) > 0])
    degree = np.asarray(matrix.sum(axis=0), dtype=np.float64).ravel()
    root = np.sqrt(np.where(degree > 0, degree, 1.0))
    normal = sp.csr_array(matrix, copy=True)
    lengths = np.sqrt(np.asarray(matrix.sum(axis=1), dtype=np.float64).ravel())
    normal.data /= (np.repeat(lengths, np.diff(matrix.indptr)) * root[matrix.indices]).astype(np.float32)
    vectors = right_singular_vectors(normal, min(settings.factors, matrix.shape[0], matrix.shape[1]))
    return GraphFilter(normal, jnp.asarray(vectors), jnp.asarray(root, dtype=jnp.float32), settings)


def restore(state: dict[str, Any], settings: GFCFSettings, *, items: int) -> GraphFilter:
    """The model whose `state()` that was."""
    normal = from_state(state["normal"], items)
    return GraphFilter(normal, state["low_pass"], state["root"], settings)


GFCF = Family(
    GFCFSettings,
    {"factors": Range(16, 512, log=True), "alpha": Range(0.01, 3.0, log=True)},
    fit,
    restore,
    is_network=False,
)
