r"""`popularity-segment`: what is popular among customers of the same attributes, for who has bought nothing yet.

A ridge regression of the binary rows X of customers on their features F (`aejax.attributes`), both centred: with the
mean row p of all customers with a purchase, and c the mean features of those n of them who have any,

    scores(f) = p + (f - c) (F'F + l I)^-1 F'X,

and p alone for a customer without features, or with none that a customer with a purchase has. The ridge l is the one of
least generalised cross-validation, `|(1 - H) X|^2 / (n - tr H)^2` with H the hat matrix, intercept included (Golub,
Heath and Wahba 1979, Generalized Cross-Validation as a Method for Choosing a Good Ridge Parameter); an infinite one,
which leaves `popularity`, is among those that are tried.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

from aejax.errors import InputError
from aejax.interactions import Features, Histories, Interactions
from aejax.matrix import user_item_matrix
from aejax.models import Family

# Ridges that are tried, times the largest eigenvalue of F'F, which counts as 1 at least.
RIDGES = (*np.logspace(-4, 4, 25), math.inf)


@dataclasses.dataclass(frozen=True)
class SegmentSettings:
    """`popularity-segment` has none."""


@jax.jit
def _scores(popularity: jax.Array, effects: jax.Array, features: jax.Array) -> jax.Array:
    return popularity[None, :] + jnp.matmul(features, effects, precision="highest")


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

    def encode(self, histories: Histories) -> np.ndarray:
        """Histories of n customers -> their centred features `[n, F]`, 0 for those who have none that was met."""
        features = histories.lines.user_features
        if features is None:
            return np.zeros((len(histories), len(self.centre)), dtype=np.float32)
        own = features.matrix.toarray() * self.met
        return np.where(own.any(axis=1)[:, None], own - np.asarray(self.centre), np.float32(0))

    def knows(self, features: Features) -> np.ndarray:
        """Features of n customers -> `[n]` bool, those with one that was met."""
        return features.matrix @ self.met.astype(np.float32) > 0

    def scores(self, batch: np.ndarray) -> jax.Array:
        """Centred features `[n, F]` -> scores `[n, I]`."""
        return _scores(self.popularity, self.effects, batch)

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
    rows, features = sp.csr_array(matrix[known]), sp.csr_array(train.user_features.matrix[known]).astype(np.float64)
    popularity = np.asarray(matrix.sum(axis=0)) / max(np.count_nonzero(bought), 1)
    centre = np.asarray(features.sum(axis=0)) / max(count, 1)
    mean = np.asarray(rows.sum(axis=0)) / max(count, 1)

    values, vectors = np.linalg.eigh((features.T @ features).toarray() - count * np.outer(centre, centre))
    kept = values > max(values.max(initial=0.0), 1.0) * 1e-9
    values, vectors = values[kept], vectors[:, kept]
    rotated = vectors.T @ ((features.T @ rows).toarray() - count * np.outer(centre, mean))
    energy = np.square(rotated).sum(axis=1) / np.maximum(values, np.finfo(float).tiny)
    ridge = _best_ridge(values, energy, rows.nnz - count * np.square(mean).sum(), count)
    effects = vectors @ (rotated / (values + ridge)[:, None])
    return SegmentPopularity(*(jnp.asarray(array, dtype=jnp.float32) for array in (popularity, centre, effects)))


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
        return (total - ((2.0 - shrunk) * shrunk * energy).sum()) / free**2 if free > 0 else math.inf

    return min((float(ridge) * values.max(initial=1.0) for ridge in reversed(RIDGES)), key=criterion)


def restore(state: dict[str, Any], settings: SegmentSettings, *, items: int) -> SegmentPopularity:
    """The model whose `state()` that was."""
    del settings, items
    return SegmentPopularity(**state)


FAMILY = Family(SegmentSettings, {}, fit, restore, is_network=False)
