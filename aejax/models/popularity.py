"""`popularity`, `popularity-recent`, `popularity-category`: the most popular products, the bar for every other model.

The score of a product is the sum of its column of the user-item matrix. With the default, `values=binary`, that is the
number of customers who bought it: counting customers and not pieces keeps one large buyer from making a product
popular. With `values=recency` it is what is popular lately: each order counts 2^(-age / half_life), its age counting to
the latest purchase of train, for what is popular is so by the calendar and not by the customers' own cuts.
`popularity-recent` is exactly that, `popularity` with `values=recency`, under a name of its own: the half-life is its
one setting, 30 days where `popularity` has 180, and `tune` searches for it. `popularity-category` gives a product that
nobody bought what products of its kind have on average: the bar for whatever scores products by their attributes.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

from aejax.errors import InputError, nearest
from aejax.interactions import Histories, Interactions
from aejax.matrix import AgeSettings, ValueSettings
from aejax.models import Family, Range, require_column


@dataclasses.dataclass(frozen=True)
class PopularitySettings(ValueSettings):
    """Settings of `popularity`: the value transform of what is summed."""


@dataclasses.dataclass(frozen=True)
class RecentPopularitySettings(AgeSettings):
    """Settings of `popularity-recent`: those of `popularity` with `values=recency`, which is not one to choose."""

    half_life: float = 30.0


@dataclasses.dataclass(frozen=True)
class CategoryPopularitySettings(ValueSettings):
    """Settings of `popularity-category`: the value transform of what is summed, and what makes a kind.

    Attributes:
      column: of products.csv, whose categories, bands or words count; None: all that there are.
    """

    column: str | None = None


@partial(jax.jit, static_argnames="users")
def _broadcast(popularity: jax.Array, users: int) -> jax.Array:
    return jnp.broadcast_to(popularity[None, :], (users, popularity.shape[0]))


@dataclasses.dataclass(frozen=True)
class Popularity:
    """Every customer gets the same scores.

    Attributes:
      popularity: `[I]` float32, the score of each product.
    """

    popularity: jax.Array

    def encode(self, histories: Histories) -> np.ndarray:
        """Histories of n customers -> `[n]`: nothing of them matters but their number."""
        return np.zeros(len(histories), dtype=np.int8)

    def scores(self, batch: np.ndarray) -> jax.Array:
        """`[n]` -> scores `[n, I]`."""
        return _broadcast(self.popularity, len(batch))

    def state(self) -> dict[str, jax.Array]:
        """What a run stores."""
        return {"popularity": self.popularity}


def fit(train: Interactions, settings: PopularitySettings) -> Popularity:
    """Sum the columns of the user-item matrix, in float64."""
    matrix = settings.train_matrix(dataclasses.replace(train, as_of=None))
    popularity = np.bincount(matrix.indices, weights=matrix.data, minlength=matrix.shape[1])
    return Popularity(jnp.asarray(popularity, dtype=jnp.float32))


def fit_recent(train: Interactions, settings: RecentPopularitySettings) -> Popularity:
    """`fit` with `values=recency`, and nothing else.

    Raises:
      InputError: the data have no dates.
    """
    require_column(train, "at", model="popularity-recent", instead="popularity")
    return fit(train, PopularitySettings(settings.half_life, values="recency"))


def fit_category(train: Interactions, settings: CategoryPopularitySettings) -> Popularity:
    """`fit`, and for each product without a purchase the mean over its features of what the products bought with that
    feature have on average, features and products weighted by the feature's cells.

    Raises:
      InputError: the products have no attributes, or not this one.
    """
    features = train.item_features
    if features is None:
        raise InputError(
            "model popularity-category needs attributes of products (columns of products.csv beside the SKU), and "
            "these data have none; try --model popularity"
        )
    columns = np.array([column for column, _ in features.names])
    if settings.column is not None and settings.column not in columns:
        raise InputError(
            f'column is "{settings.column}", of which there are no features; {nearest(settings.column, {*columns})}'
        )
    kinds = sp.csr_array(features.matrix[:, np.isin(columns, settings.column or columns)], dtype=np.float64)
    own = np.asarray(
        fit(train, PopularitySettings(settings.half_life, values=settings.values)).popularity, dtype=np.float64
    )
    bought = kinds[own > 0]
    average = (own[own > 0] @ bought) / np.maximum(np.asarray(bought.sum(axis=0)), np.finfo(float).tiny)
    of_kind = (kinds @ average) / np.maximum(np.asarray(kinds.sum(axis=1)), np.finfo(float).tiny)
    return Popularity(jnp.asarray(np.where(own > 0, own, of_kind), dtype=jnp.float32))


def restore(state: dict[str, jax.Array], settings: Any, *, items: int) -> Popularity:
    """The model whose `state()` that was."""
    del settings, items
    return Popularity(state["popularity"])


FAMILY = Family(PopularitySettings, {}, fit, restore, is_network=False)
CATEGORY = Family(CategoryPopularitySettings, {}, fit_category, restore, is_network=False, needs_attributes=True)
RECENT = Family(
    RecentPopularitySettings, {"half_life": Range(2.0, 1000.0, log=True)}, fit_recent, restore, is_network=False
)
