"""When customers buy a product again: what their own histories say of each product that they have bought.

Legend: n customers, m pairs of a customer and a product bought before. Everything ends at the customer's cut.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from aejax.interactions import Histories, Interactions, distinct
from aejax.matrix import history_matrix

# A product's own figures count as much as those of all products once so many purchases speak for it.
PRIOR = 5.0
HALF_LIFE = 120.0  # days after which an order counts half
SHORTEST = 0.5  # days between two purchases, or since the last one, that are told apart from none
FEATURES = ("orders", "share of orders", "recency", "phase", "phase squared", "bought again")


class Rhythm(NamedTuple):
    """How products are bought again.

    Attributes:
      interval: `[I]` float32, mean logarithm of the days between two purchases of a product by one customer.
      again: `[I]` float32, log odds that who bought it bought it twice, above those of all products.
    """

    interval: np.ndarray
    again: np.ndarray


def is_timed(lines: Interactions) -> bool:
    """Whether these lines have the orders and dates that a rhythm is read from."""
    return lines.at is not None and lines.order is not None


def _days(moments: np.ndarray) -> np.ndarray:
    return moments.astype("datetime64[s]").astype(np.int64) / 86_400.0


def rhythm_of(train: Interactions) -> Rhythm:
    """The rhythm of each product in purchases to learn from; of one that is rarely bought twice, that of all."""
    assert train.at is not None
    count = len(train.items)
    order = np.lexsort((train.at, train.pair))
    pair, day = train.pair[order], _days(train.at[order])
    is_again = np.diff(pair) == 0
    gap = np.log(np.maximum(np.diff(day)[is_again], SHORTEST))
    item = pair[1:][is_again] % count
    mean = gap.mean() if len(gap) else 0.0
    interval = (np.bincount(item, gap, count) + PRIOR * mean) / (np.bincount(item, minlength=count) + PRIOR)
    buyers = np.bincount(distinct(pair) % count, minlength=count)
    twice = np.bincount(distinct(pair[1:][is_again]) % count, minlength=count)
    share = (twice.sum() + 1.0) / (buyers.sum() + 2.0)
    odds = (twice + PRIOR * share) / (buyers - twice + PRIOR * (1.0 - share))
    again = np.log(odds) - np.log(share / (1.0 - share))
    return Rhythm(interval.astype(np.float32), again.astype(np.float32))


class OwnProducts(NamedTuple):
    """What n customers have bought before, as numbers.

    Attributes:
      orders: `[n, I]` CSR float32 of m cells, the customer's orders with the product.
      features: `[m, F]` float32 in the order of the cells, as `FEATURES` names them: logarithms of the number of the
        customer's orders with the product, of their share in the customer's orders, and of the sum of
        `2 ** (-age / HALF_LIFE)` over them; the logarithm of the time since the last one over the product's usual
        interval, and its square; and `Rhythm.again`.
      activity: `[n]` float32, logarithm of the customer's number of orders.
    """

    orders: sp.csr_array
    features: np.ndarray
    activity: np.ndarray


def own_products(histories: Histories, rhythm: Rhythm) -> OwnProducts:
    """Histories of n customers -> the products of each with what their rhythm says at the customer's cut.

    Args:
      histories: with dates and orders.
      rhythm: of the products.
    """
    lines, as_of = histories.lines, histories.as_of
    assert lines.at is not None and lines.order is not None and as_of is not None
    orders = history_matrix(histories, "orders")
    recency = history_matrix(histories, "recency", half_life=HALF_LIFE)
    age = np.maximum(_days(as_of)[lines.user] - _days(lines.at), SHORTEST)
    by_pair = np.lexsort((age, lines.pair))
    _, first = np.unique(lines.pair[by_pair], return_index=True)
    phase = np.log(age[by_pair][first]) - rhythm.interval[orders.indices]
    own_orders = distinct(lines.user.astype(np.int64) * (lines.order.max(initial=0) + 1) + lines.order)
    number = np.bincount(own_orders // (lines.order.max(initial=0) + 1), minlength=len(histories))
    user = np.repeat(np.arange(len(histories)), np.diff(orders.indptr))
    columns = (
        np.log(orders.data),
        np.log(orders.data / np.maximum(number, 1)[user]),
        np.log(recency.data),
        phase,
        np.square(phase),
        rhythm.again[orders.indices],
    )
    activity = np.log(np.maximum(number, 1)).astype(np.float32)
    return OwnProducts(orders, np.stack(columns, axis=1).astype(np.float32), activity)
