r"""`popularity-segment`: what is popular among customers of the same attributes, for who has bought nothing yet.

A ridge regression of the binary rows X of customers on their features F (`aejax.attributes`), both centred: with the
mean row p of all customers with a purchase, and c the mean features of those n of them who have any,

    scores(f) = p + (f - c) (F'F + l I)^-1 F'X,

and p alone for a customer without features, or with none that a customer with a purchase has. The ridge l is the one of
least generalised cross-validation, `|(1 - H) X|^2 / (n - tr H)^2` with H the hat matrix, intercept included (Golub,
Heath and Wahba 1979, Generalized Cross-Validation as a Method for Choosing a Good Ridge Parameter); an infinite one,
which leaves `popularity`, is among those that are tried, and of ridges between which rounding decides the largest is
taken.

The decomposition is of the smaller side: of centred F'F `[F, F]`, or of FF' `[n, n]`, which has the same eigenvalues.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

from aejax import memory
from aejax.batching import Batch, pad_rows, product
from aejax.errors import InputError, ResourceError
from aejax.interactions import Features, Histories, Interactions
from aejax.matrix import user_item_matrix
from aejax.models import Family

# Ridges that are tried, times the largest eigenvalue of F'F, which counts as 1 at least.
RIDGES = (*np.logspace(-4, 4, 25), math.inf)
# Below this relative difference two values of the criterion are equal: of its numerator, a small difference of large
# numbers, as many digits are good at the smallest ridge.
ROUNDING = 1e-6
# Products whose dense columns are made at once.
BLOCK = 256
# The most rows of a matrix whose eigenvectors are found: some ten seconds on two cores.
MOST_ROWS = 4096


@dataclasses.dataclass(frozen=True)
class SegmentSettings:
    """`popularity-segment` has none."""


@jax.jit
def _scores(popularity: jax.Array, centre: jax.Array, effects: jax.Array, batch: Batch) -> jax.Array:
    with jax.default_matmul_precision("highest"):
        own = product(batch, effects) - (centre @ effects)[None, :]
    return popularity[None, :] + jnp.where((batch.values != 0).any(axis=1)[:, None], own, 0.0)


@dataclasses.dataclass(frozen=True)
class SegmentPopularity:
    """The fitted regression.

    Attributes:
      popularity: p, `[I]` float32.
      centre: c, `[F]` float32.
      effects: `[F, I]` float32, what a feature adds to the score of each product.
    """

    popularity: Any
    centre: Any
    effects: Any

    @property
    def met(self) -> np.ndarray:
        """`[F]` bool, the features that a customer with a purchase has: nothing is known of others."""
        return np.asarray(self.centre) > 0

    def encode(self, histories: Histories) -> Batch:
        """Histories of n customers -> a padded batch of their features that were met, on the host."""
        features = histories.lines.user_features
        own = sp.csr_array((len(histories), len(self.centre)), dtype=np.float32)
        if features is not None:
            own = features.matrix.copy()
            own.data *= self.met[own.indices]
            own.eliminate_zeros()
        return pad_rows(own)

    def unknown(self, histories: Histories) -> np.ndarray:
        """Histories of n customers -> the positions of those without a feature that was met."""
        features = histories.lines.user_features
        if features is None:
            return np.arange(len(histories))
        return np.flatnonzero(features.matrix @ self.met.astype(np.float32) == 0)

    def scores(self, batch: Batch) -> jax.Array:
        """A batch of n customers -> scores `[n, I]`: of one without features p."""
        return _scores(self.popularity, self.centre, self.effects, batch)

    def state(self) -> dict[str, Any]:
        """What a run stores."""
        return {"popularity": self.popularity, "centre": self.centre, "effects": self.effects}


def has_any(features: Features) -> np.ndarray:
    """`[n]` bool, the rows with a feature."""
    return np.diff(features.matrix.indptr) > 0


def fit(train: Interactions, settings: SegmentSettings) -> SegmentPopularity:
    """Solve the regression, in float64.

    Raises:
      InputError: the data have no attributes of customers.
      ResourceError: the customers and features are too many for the memory that is free.
    """
    del settings
    if train.user_features is None:
        raise InputError(
            "model popularity-segment needs attributes of customers (columns of customers.csv beside the id), and "
            "these data have none; try --model popularity"
        )
    matrix = sp.csr_array(user_item_matrix(train), dtype=np.float64)
    bought = np.diff(matrix.indptr) > 0
    known = bought & has_any(train.user_features)
    count = int(np.count_nonzero(known))
    rows, features = sp.csr_array(matrix[known]), sp.csr_array(train.user_features.matrix[known], dtype=np.float64)
    popularity = np.asarray(matrix.sum(axis=0)) / max(np.count_nonzero(bought), 1)
    centre = np.asarray(features.sum(axis=0)) / max(count, 1)
    mean = np.asarray(rows.sum(axis=0)) / max(count, 1)

    _require_memory(count, len(centre), len(train.items))
    values, vectors = (by_features if len(centre) <= count else by_customers)(features, centre)
    rotated = np.empty((len(values), len(train.items)))
    by_product = sp.csc_array(rows)
    blocks = [slice(start, start + BLOCK) for start in range(0, len(train.items), BLOCK)]
    for block in blocks:
        shared = (features.T @ by_product[:, block]).toarray() - count * np.outer(centre, mean[block])
        rotated[:, block] = vectors.T @ shared
    energy = np.einsum("ri,ri->r", rotated, rotated) / values
    ridge = _best_ridge(values, energy, rows.nnz - count * np.square(mean).sum(), count)
    rotated /= (values + ridge)[:, None]
    effects = np.empty((len(centre), len(train.items)), dtype=np.float32)
    for block in blocks:
        effects[:, block] = vectors @ rotated[:, block]
    return SegmentPopularity(*(jnp.asarray(array, dtype=jnp.float32) for array in (popularity, centre, effects)))


def by_features(features: sp.csr_array, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features F `[n, F]` and their means `[F]` -> the eigenvalues `[r]` of the centred F'F that are not 0, and their
    eigenvectors `[F, r]`.
    """
    values, vectors = np.linalg.eigh((features.T @ features).toarray() - features.shape[0] * np.outer(centre, centre))
    kept = _is_not_0(values)
    return values[kept], vectors[:, kept]


def by_customers(features: sp.csr_array, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What `by_features` returns, by way of the eigenvectors of the centred FF' `[n, n]`."""
    shared = features @ centre
    between = (features @ features.T).toarray() - shared[:, None] - shared[None, :] + centre @ centre
    values, vectors = np.linalg.eigh(between)
    kept = _is_not_0(values)
    values, vectors = values[kept], vectors[:, kept]
    return values, (features.T @ vectors - np.outer(centre, vectors.sum(axis=0))) / np.sqrt(values)


def _is_not_0(values: np.ndarray) -> np.ndarray:
    return values > max(values.max(initial=0.0), 1.0) * 1e-9


def _require_memory(count: int, features: int, items: int) -> None:
    """Raises `ResourceError` where the fit of n customers with F features does not fit, before anything is made."""
    least = min(count, features)
    # The matrix, its eigenvectors and what their making takes; those of the features, and products by them; effects.
    needed = 8 * (4 * least**2 + features * least + least * items + 3 * features * BLOCK) + 4 * features * items
    what = f"{features:,} features of {count:,} customers x {items:,} products"
    remedy = "fit with --attributes customers.COLUMN=none for columns of customers.csv that have many values"
    if least > MOST_ROWS:
        raise ResourceError(f"{what} are too many to solve for what customers of the same attributes buy; {remedy}")
    memory.require(what, needed, remedy)


def _best_ridge(values: np.ndarray, energy: np.ndarray, total: float, count: int) -> float:
    """The ridge of least generalised cross-validation.

    Args:
      values: `[r]` eigenvalues of F'F.
      energy: `[r]` of X in the direction of each.
      total: energy of X.
      count: n.
    """

    def criterion(ridge: float) -> float:
        shrunk = values / (values + ridge)
        free = count - 1.0 - shrunk.sum()
        residual = max(total - ((2.0 - shrunk) * shrunk * energy).sum(), 0.0)
        return residual / free**2 if free > 0 else math.inf

    ridges = [float(ridge) * values.max(initial=1.0) for ridge in reversed(RIDGES)]
    found = [criterion(ridge) for ridge in ridges]
    least = min(found) * (1.0 + ROUNDING)
    return next(ridge for ridge, value in zip(ridges, found, strict=True) if value <= least)


def restore(state: dict[str, Any], settings: SegmentSettings, *, items: int) -> SegmentPopularity:
    """The model whose `state()` that was."""
    del settings, items
    return SegmentPopularity(**state)


FAMILY = Family(SegmentSettings, {}, fit, restore, is_network=False)
