"""The most popular products: the bar that every other model must clear.

The score of a product is the number of customers who bought it. Counting customers and not pieces keeps one large buyer
from making a product popular.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from aejax.interactions import Histories, Interactions, customers_of_products
from aejax.models import Family


@dataclasses.dataclass(frozen=True)
class PopularitySettings:
    """Popularity has no settings."""


@partial(jax.jit, static_argnames="users")
def _broadcast(customers: jax.Array, users: int) -> jax.Array:
    return jnp.broadcast_to(customers[None, :], (users, customers.shape[0]))


@dataclasses.dataclass(frozen=True)
class Popularity:
    """Every customer gets the same scores.

    Attributes:
      customers: `[I]` float32, how many customers bought each product.
    """

    customers: jax.Array

    def encode(self, histories: Histories) -> np.ndarray:
        """Histories of n customers -> `[n]`: nothing of them matters but their number."""
        return np.zeros(len(histories), dtype=np.int8)

    def scores(self, batch: np.ndarray) -> jax.Array:
        """`[n]` -> scores `[n, I]`."""
        return _broadcast(self.customers, len(batch))

    def state(self) -> dict[str, jax.Array]:
        """What a run stores."""
        return {"customers": self.customers}


def fit(train: Interactions, settings: PopularitySettings) -> Popularity:
    """Count the customers of each product."""
    del settings
    return Popularity(jnp.asarray(customers_of_products(train), dtype=jnp.float32))


def restore(state: dict[str, jax.Array], settings: PopularitySettings, *, items: int) -> Popularity:
    """The model whose `state()` that was."""
    del settings, items
    return Popularity(state["customers"])


FAMILY = Family(PopularitySettings, {}, fit, restore, is_network=False)
