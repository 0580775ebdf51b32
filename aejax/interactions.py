"""The types that everything meets at: who bought what, in which order, when, and how many.

Legend of shapes used throughout: U users, I items, N order lines, n users of a part.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from aejax.errors import InputError

TRAIN, VALIDATION, TEST = 0, 1, 2  # of Interactions.part


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Sorted, unique text ids; the position of an id is its index in every matrix.

    Attributes:
      ids: `[n]` object array of `str`, strictly increasing.
    """

    ids: np.ndarray

    def __post_init__(self) -> None:
        if len(self.ids) > 1 and not np.all(self.ids[1:] > self.ids[:-1]):
            raise ValueError("a vocabulary's ids must be sorted and unique")

    @classmethod
    def of(cls, ids: Iterable[str]) -> Vocabulary:
        """The vocabulary of any ids, repeated or not."""
        return cls(np.array(sorted(set(ids)), dtype=object))

    @cached_property
    def _index(self) -> pd.Index:
        return pd.Index(self.ids, dtype=object)

    def index(self, ids: Iterable[str]) -> np.ndarray:
        """Ids `[m]` -> their positions `[m]`, -1 for an id that is not in the vocabulary."""
        return self._index.get_indexer(pd.Index(list(ids), dtype=object))

    def to_state(self) -> np.ndarray:
        """The ids as the bytes of a JSON list, uint8: a model that knows its customers stores them so."""
        return np.frombuffer(json.dumps(self.ids.tolist()).encode(), dtype=np.uint8)

    @classmethod
    def from_state(cls, state: np.ndarray) -> Vocabulary:
        """The vocabulary that `to_state` gave."""
        return cls(np.array(json.loads(np.asarray(state).tobytes()), dtype=object))

    def take(self, positions: np.ndarray) -> Vocabulary:
        """The vocabulary of these positions, which must increase."""
        return Vocabulary(self.ids[positions])

    def __len__(self) -> int:
        return len(self.ids)


@dataclasses.dataclass(frozen=True)
class Features:
    """What is known of n products or customers beside their orders; see `aejax.attributes`.

    Attributes:
      matrix: `[n, F]` float32 CSR, a row each.
      names: `[F]`, the column of the table that each feature is from, and its value, band or word.
    """

    matrix: sp.csr_array
    names: tuple[tuple[str, str], ...]

    def take(self, rows: np.ndarray) -> Features:
        """These rows `[m]`; all features."""
        return Features(self.matrix[rows], self.names)


@dataclasses.dataclass(frozen=True)
class Interactions:
    """Order lines as columns: one row per customer x order x product. A negative quantity is a return.

    Attributes:
      user: `[N]` int32, index into `users`.
      item: `[N]` int32, index into `items`.
      quantity: `[N]` int32; positive for a purchase, negative for a return, never 0.
      users: the customers.
      items: the products.
      order: `[N]` int32, equal for lines of one order; None where the source has no order ids.
      at: `[N]` datetime64[s], UTC; None where the source has no dates.
      part: `[N]` int8, the part that the source's own files assign (0 train, 1 validation, 2 test); None where they
        assign none.
      price: `[N]` float32, what one unit of the line cost, NaN where that is not known; None where the source has no
        prices.
      as_of: `[U]` datetime64[s], each customer's cut, where these lines are a part to learn from: what ages in the
        customer's row count to, as they do in the history that a fitted model is given; None: the latest line.
      item_features: `[I, F]`, attributes of the products; None where the source has none.
      user_features: `[U, F]`, attributes of the customers; None where the source has none.
    """

    user: np.ndarray
    item: np.ndarray
    quantity: np.ndarray
    users: Vocabulary
    items: Vocabulary
    order: np.ndarray | None = None
    at: np.ndarray | None = None
    part: np.ndarray | None = None
    price: np.ndarray | None = None
    as_of: np.ndarray | None = None
    item_features: Features | None = None
    user_features: Features | None = None

    def __len__(self) -> int:
        return len(self.user)

    @property
    def pair(self) -> np.ndarray:
        """`[N]` int64, `user * I + item`."""
        return self.user.astype(np.int64) * len(self.items) + self.item

    @cached_property
    def by_user(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions `[N]` of the lines, grouped by customer, and where each customer's begin `[U + 1]`."""
        positions = np.argsort(self.user, kind="stable")
        return positions, np.searchsorted(self.user[positions], np.arange(len(self.users) + 1))

    def take(self, rows: np.ndarray | slice) -> Interactions:
        """These rows (a mask, positions or a slice), with the same vocabularies."""
        columns = ("user", "item", "quantity", "order", "at", "part", "price")
        return dataclasses.replace(
            self, **{name: None if (column := getattr(self, name)) is None else column[rows] for name in columns}
        )

    def for_users(self, user: np.ndarray, users: np.ndarray) -> Interactions:
        """These lines with other indices `[N]` of customers: into `users`, increasing positions `[n]` of this
        vocabulary.
        """
        return dataclasses.replace(
            self,
            user=user,
            users=self.users.take(users),
            as_of=None if self.as_of is None else self.as_of[users],
            user_features=None if self.user_features is None else self.user_features.take(users),
        )


@dataclasses.dataclass(frozen=True)
class Histories:
    """What a model sees of n customers: their purchases up to their cut. A new customer is only a new history.

    Attributes:
      lines: purchases grouped by customer: `lines.user` increases, and `lines.users` are these n customers.
      as_of: `[n]` datetime64[s], the moment up to which each customer is known; None without dates.
    """

    lines: Interactions
    as_of: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.lines.users)

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.searchsorted(self.lines.user, np.arange(len(self) + 1))

    def take(self, start: int, stop: int) -> Histories:
        """The histories of customers `start` to `stop`."""
        stop = min(stop, len(self))
        lines = self.lines.take(slice(self._starts[start], self._starts[stop]))
        lines = lines.for_users(lines.user - np.int32(start), np.arange(start, stop))
        return Histories(lines, None if self.as_of is None else self.as_of[start:stop])


def histories_of(lines: Interactions, users: np.ndarray, as_of: np.ndarray | None = None) -> Histories:
    """The histories of `users` (increasing indices `[n]` into `lines.users`) found in `lines`."""
    positions, starts = lines.by_user
    counts = starts[users + 1] - starts[users]
    rows = np.arange(counts.sum()) + np.repeat(starts[users] - np.cumsum(counts) + counts, counts)
    position = np.repeat(np.arange(len(users), dtype=np.int32), counts)
    return Histories(dataclasses.replace(lines.take(positions[rows]).for_users(position, users), as_of=None), as_of)


def orders_since(lines: Interactions) -> np.ndarray:
    """How many orders each line's customer made after the line's own, `[N]` int64: 0 on the lines of the last order.

    An order is as late as its latest line; of one moment the one numbered last is later. Without dates the order of the
    rows is the order of time.

    Args:
      lines: purchases with order ids.
    """
    assert lines.order is not None
    by_time = np.arange(len(lines)) if lines.at is None else np.lexsort((lines.order, lines.at))
    place = np.empty(len(lines), dtype=np.int64)
    place[by_time] = np.arange(len(lines))
    count = lines.order.max(initial=0).astype(np.int64) + 1
    orders, of_line = np.unique(lines.user * count + lines.order, return_inverse=True)
    end = np.full(len(orders), -1, dtype=np.int64)
    np.maximum.at(end, of_line, place)
    customer = orders // count
    latest_first = np.lexsort((-end, customer))
    since = np.empty(len(orders), dtype=np.int64)
    since[latest_first] = np.arange(len(orders)) - np.searchsorted(customer, customer)
    return since[of_line]


def net_returns(lines: Interactions) -> Interactions:
    """Let each return cancel that customer's latest earlier purchases of that product; only purchases remain.

    A return never cancels a purchase made after it, and what it cannot cancel is forgotten. Apply this to a part after
    the cut, so that no return reaches across it. Without dates, the order of the rows is the order of time.

    Args:
      lines: purchases and returns.

    Returns:
      The purchases that remain, in the order of `lines`, with quantities reduced by what was returned.
    """
    if len(lines) == 0 or lines.quantity.min() > 0:
        return lines
    pair = lines.pair
    affected = np.flatnonzero(np.isin(pair, pair[lines.quantity < 0]))
    # At one instant purchases come first: what is bought and returned in the same second is returned.
    keys = (
        (lines.quantity[affected] < 0, lines.at[affected], pair[affected])
        if lines.at is not None
        else (pair[affected],)
    )
    order = np.lexsort(keys)
    quantity = lines.quantity.copy()
    open_purchases: list[int] = []
    previous = -1
    for row in affected[order]:
        if pair[row] != previous:
            open_purchases, previous = [], pair[row]
        if quantity[row] > 0:
            open_purchases.append(row)
            continue
        returned = -quantity[row]
        while returned > 0 and open_purchases:
            latest = open_purchases[-1]
            cancelled = min(returned, quantity[latest])
            quantity[latest] -= cancelled
            returned -= cancelled
            if quantity[latest] == 0:
                open_purchases.pop()
    remaining = dataclasses.replace(lines, quantity=quantity)
    return remaining.take(quantity > 0)


def distinct(values: np.ndarray) -> np.ndarray:
    """The different values of an array, increasing.

    `np.unique` finds them too, but since NumPy 2.3 hashes whole numbers, which takes 70 times as long for a million.
    """
    ordered = np.sort(values)
    return ordered[np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]]


def customers_of_products(bought: Interactions) -> np.ndarray:
    """`[I]` how many customers have bought each product; returns are netted already."""
    return np.bincount(distinct(bought.pair) % len(bought.items), minlength=len(bought.items))


def set_aside_rare(lines: Interactions, min_customers: int, kept: Vocabulary | None = None) -> Interactions:
    """Leave out products bought by fewer than `min_customers` customers (counted after returns), and then customers
    who never bought one of those that stay. Vocabularies shrink to what remains.

    A customer who sent everything back stays: before a cut, the returns after it have not happened.

    Args:
      lines: order lines with their returns; where products are `kept`, without features.
      min_customers: the fewest customers of a product that stays.
      kept: products that stay however few bought them, those that nobody did among them; None: there are none.

    Raises:
      InputError: nothing is left.
    """
    customers = customers_of_products(net_returns(lines))
    stays = customers >= max(min_customers, 1)
    if kept is not None:
        stays |= kept.index(lines.items.ids) >= 0
    items = np.flatnonzero(stays)
    if len(items) == 0:
        most = int(customers.max()) if len(customers) else 0
        raise InputError(
            f"--min-customers {min_customers} leaves no product: the most bought one has {most} customers; "
            f"try --min-customers {max(most // 2, 1)}"
        )
    users = np.unique(lines.user[(lines.quantity > 0) & np.isin(lines.item, items)])
    rest = reindex(lines, users, items)
    return rest if kept is None else onto(rest, rest.users, Vocabulary.of([*rest.items.ids, *kept.ids]))


def onto(lines: Interactions, users: Vocabulary, items: Vocabulary) -> Interactions:
    """The lines of these customers and products, with their vocabularies in place of the lines' own; no features."""
    user = users.index(lines.users.ids).astype(np.int32)
    item = items.index(lines.items.ids).astype(np.int32)
    kept = lines.take((user[lines.user] >= 0) & (item[lines.item] >= 0))
    return dataclasses.replace(
        kept,
        user=user[kept.user],
        item=item[kept.item],
        users=users,
        items=items,
        as_of=None,
        item_features=None,
        user_features=None,
    )


def reindex(lines: Interactions, users: np.ndarray, items: np.ndarray) -> Interactions:
    """Keep the lines of these users and items (increasing indices) and shrink both vocabularies to them."""
    user_position = np.full(len(lines.users), -1, dtype=np.int32)
    item_position = np.full(len(lines.items), -1, dtype=np.int32)
    user_position[users] = np.arange(len(users), dtype=np.int32)
    item_position[items] = np.arange(len(items), dtype=np.int32)
    kept = lines.take((user_position[lines.user] >= 0) & (item_position[lines.item] >= 0))
    return dataclasses.replace(
        kept.for_users(user_position[kept.user], users),
        item=item_position[kept.item],
        items=lines.items.take(items),
        item_features=None if lines.item_features is None else lines.item_features.take(items),
    )


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where the order lines of a data set stand in the files that it was read from.

    Attributes:
      row_of_line: `[N]` the row, of all files in one sequence, of each line (or of the first of those summed).
      merged: rows that were added to another.
      places: rows -> `orders.csv:143` for each.
      undescribed: `customers` and `products` -> the ids of orders that have no row in that table, increasing; a table
        that is not there is left out.
    """

    row_of_line: np.ndarray
    merged: np.ndarray
    places: Callable[[np.ndarray], list[str]]
    undescribed: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What was read from a folder, cleaned and accounted for.

    Attributes:
      format: what the folder was recognised as: `shop`, `lightgcn`, `recbole` or `movielens`.
      interactions: every clean order line, returns included, rare products included.
      customers: a row per customer of any file, sorted by the text column `customer_id`; further columns as text.
      products: a row per product of any file, sorted by the text column `sku`; `title` and further columns as text.
      quality: the account of every row, in the form of `aejax check --json`.
      files: the files read, by name, in a fixed order.
      pinned: of a run whose data have changed since, the products that are not set aside, however few customers they
        have; None where they have not.
      attributes: of a run, how the columns of its tables were used when it was fitted, table -> a mapping for each
        column; None: as the tables look.
      origin: where the lines stand in `files`; None of a run's data.
    """

    format: str
    interactions: Interactions
    customers: pd.DataFrame
    products: pd.DataFrame
    quality: dict
    files: tuple[Path, ...]
    pinned: Vocabulary | None = None
    attributes: Mapping[str, Sequence[Mapping[str, Any]]] | None = None
    origin: Origin | None = None

    @property
    def min_customers(self) -> int:
        """Products with fewer customers are set aside where nothing else is said."""
        return 10 if self.format == "shop" else 1
