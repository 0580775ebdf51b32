"""`own-frequency`, `own-recency`, `last-basket`: the rules that a careful shop would use before any model.

Each orders a customer's own products by that customer's purchases alone, and all other products by how many customers
bought them:

- `own-frequency`: by the number of the customer's orders that hold the product.
- `own-recency`: each of these orders counts 2^(-age / half_life), its age counting to the customer's cut.
- `last-basket`: the products of the customer's last order first; earlier ones are no better than any other product.

The order is lexicographic and exact. Of equal own products the one that more customers bought comes first, and of
equals in that too the lower index. Scores stay what they count (orders, or their decayed sum): a tie is broken by the
next float32 above, never by a fraction that could reach the next count. A product that is not the customer's own has
a score from -1 to below 0. Where what was bought before must not be recommended, each rule is `popularity`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

from aejax import batching
from aejax.interactions import Histories, Interactions, customers_of_products, orders_since
from aejax.matrix import AgeSettings, history_matrix
from aejax.models import Family, Range, require_column

# Above every float32's bits and every history's length, so that the rows of one array never meet.
_APART = 2**33


@dataclasses.dataclass(frozen=True)
class RuleSettings:
    """Settings of `own-frequency` and `last-basket`, which have none."""


@dataclasses.dataclass(frozen=True)
class OwnRecencySettings(AgeSettings):
    """Settings of `own-recency`."""

    half_life: float = 120.0


def strictly_rising(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Values `[m]` float32, above 0 and never falling within a row -> the least that rise strictly and are not below.

    Args:
      values: grouped by row.
      rows: `[m]`, never falling.

    Returns:
      `[m]` float32; a value that is above the one before it stays as it is, as long as ties before it leave it room.
    """
    # Positive floats are ordered as their bits are; the next float is the next whole number.
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.int32).astype(np.int64)
    place = np.arange(len(values)) - np.searchsorted(rows, rows)
    base = rows.astype(np.int64) * _APART
    rising = np.maximum.accumulate(base + bits - place) - base + place
    return rising.astype(np.int32).view(np.float32)


@jax.jit
def _scores(behind: jax.Array, batch: batching.Batch) -> jax.Array:
    rows = jnp.arange(batch.items.shape[0])[:, None]
    scores = jnp.broadcast_to(behind[None, :], (batch.items.shape[0], behind.shape[0]))
    return scores.at[rows, batch.items].set(batch.values, mode="drop")


@dataclasses.dataclass(frozen=True)
class OwnHistory:
    """A rule that puts the customer's own products before all others.

    Attributes:
      customers: `[I]` int, how many customers bought each product.
      own: histories of n customers -> `[n, I]` CSR float32, above 0 for the products that come first.
    """

    customers: np.ndarray
    own: Callable[[Histories], sp.csr_array]

    @cached_property
    def behind(self) -> jax.Array:
        """`[I]` float32, from -1 to below 0: the score of a product that is not the customer's own."""
        most = self.customers.max(initial=0) + 1
        fewer, which = np.unique(most - self.customers, return_inverse=True)
        rising = strictly_rising((fewer / most).astype(np.float32), np.zeros(len(fewer), dtype=np.int64))
        return jnp.asarray(-rising[which])

    def encode(self, histories: Histories) -> batching.Batch:
        """Histories of n customers -> their own products, padded, each with its score."""
        matrix = self.own(histories)
        row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
        customers = self.customers[matrix.indices]
        order = np.lexsort((customers, matrix.data, row))
        row, own, customers = row[order], matrix.data[order], customers[order]
        # Equal in both: one score, so that the lower index comes first, as everywhere.
        changes = (np.diff(row) != 0) | (np.diff(own) != 0) | (np.diff(customers) != 0)
        first = np.concatenate([np.ones(min(1, len(own)), dtype=bool), changes])
        scores = np.empty_like(matrix.data)
        scores[order] = strictly_rising(own[first], row[first])[np.cumsum(first) - 1]
        return batching.pad_rows(sp.csr_array((scores, matrix.indices, matrix.indptr), shape=matrix.shape))

    def scores(self, batch: batching.Batch) -> jax.Array:
        """A batch of B customers -> scores `[B, I]`."""
        return _scores(self.behind, batch)

    def state(self) -> dict[str, np.ndarray]:
        """What a run stores."""
        return {"customers": self.customers}


def last_orders(histories: Histories) -> Histories:
    """The histories with each customer's last order alone, as `orders_since` has it."""
    lines = histories.lines
    require_column(lines, "order", model="last-basket", instead="own-frequency")
    return dataclasses.replace(histories, lines=lines.take(orders_since(lines) == 0))


def _frequency(settings: RuleSettings, histories: Histories) -> sp.csr_array:
    return history_matrix(histories, "orders")


def _recency(settings: OwnRecencySettings, histories: Histories) -> sp.csr_array:
    require_column(histories.lines, "at", model="own-recency", instead="own-frequency")
    return history_matrix(histories, "recency", half_life=settings.half_life)


def _last_basket(settings: RuleSettings, histories: Histories) -> sp.csr_array:
    return history_matrix(last_orders(histories))


def _family(settings: type, search: dict[str, Range], own: Callable[[Any, Histories], sp.csr_array]) -> Family:
    def fit(train: Interactions, settings: Any) -> OwnHistory:
        own(settings, Histories(train.take(slice(0, 0))))  # raises where the data lack what the rule needs
        return OwnHistory(customers_of_products(train), partial(own, settings))

    def restore(state: dict[str, Any], settings: Any, *, items: int) -> OwnHistory:
        del items
        return OwnHistory(np.asarray(state["customers"]), partial(own, settings))

    return Family(settings, search, fit, restore, is_network=False)


OWN_FREQUENCY = _family(RuleSettings, {}, _frequency)
OWN_RECENCY = _family(OwnRecencySettings, {"half_life": Range(30.0, 720.0, log=True)}, _recency)
LAST_BASKET = _family(RuleSettings, {}, _last_basket)
