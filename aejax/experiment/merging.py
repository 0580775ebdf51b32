"""The data of a run and newer ones of the same shop, put together: what is in both counts once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from aejax.errors import InputError
from aejax.interactions import Dataset, Interactions, Vocabulary
from aejax.quality import counted, shown


@dataclasses.dataclass(frozen=True)
class Changes:
    """What newer data add.

    Attributes:
      customers: with an order, who had none before.
      products: bought, that nobody had bought before.
      orders: new ones; without order ids, moments of a customer.
      lines: new order lines.
      repeated: order lines that were there already.
      late: new order lines that are not later than the last that was there.
      before: the last moment that was there.
      period: the first and the last moment of the new lines.
    """

    customers: int
    products: int
    orders: int
    lines: int
    repeated: int
    late: int
    before: np.datetime64
    period: tuple[np.datetime64, np.datetime64]

    def to_json(self) -> dict[str, Any]:
        """Plain data, moments as text."""
        plain = dataclasses.asdict(self)
        return {**plain, "before": str(self.before), "period": [str(moment) for moment in self.period]}

    def sentence(self) -> str:
        """What has changed."""
        first, last = self.period
        known = f"; {counted(self.repeated, 'order line')} were there already" if self.repeated else ""
        late = f", {self.late:,} of them of before {self.before}" if self.late else ""
        products = counted(self.products, "new product")
        return (
            f"New: {counted(self.orders, 'order')} ({counted(self.lines, 'line')}{late}) from {first} to {last}, with "
            f"{counted(self.customers, 'new customer')} and {products}{known}."
        )


def merge(old: Dataset, new: Dataset, items: Vocabulary) -> tuple[Dataset, Changes]:
    """Both data sets as one. Of a customer's purchases of a product at one moment, and of the returns, so many are in
    both as the shorter side has, and stay as the old data have them: where dates have no clock part, a second order of
    the day is new. Of customers and products the new tables count, where their cells are not blank.

    Args:
      old: of a run.
      new: of the same shop, later.
      items: the products of the run's model, which stay in the matrix.

    Raises:
      InputError: the data have no dates or another format, share no product, or the new ones hold no later order.
    """
    if old.format != new.format:
        raise InputError(f"the run's data are of the format {old.format}, the new ones {new.format}; give the same")
    if old.interactions.at is None or new.interactions.at is None:
        whose = "the run" if old.interactions.at is None else "the new export"
        raise InputError(
            f"an update needs order dates (created_at), and the data of {whose} have none; fit the whole data anew"
        )
    if not (items.index(new.interactions.items.ids) >= 0).any():
        raise InputError(
            f"no product of the new orders is one of the run's: theirs are such as "
            f"{shown(str(new.interactions.items.ids[0]))}, the run's such as {shown(str(items.ids[0]))}; are they of "
            "the same shop? If SKUs have changed, fit the whole data anew"
        )
    lines, changes = _merge_lines(old.interactions, new.interactions)
    pinned = old.pinned.ids if old.pinned is not None else ()
    merged = dataclasses.replace(
        new,
        interactions=lines,
        customers=_merge_tables(old.customers, new.customers),
        products=_merge_tables(old.products, new.products),
        pinned=Vocabulary.of([*items.ids, *pinned]),
    )
    return merged, changes


def _merge_lines(old: Interactions, new: Interactions) -> tuple[Interactions, Changes]:
    assert old.at is not None and new.at is not None
    users = Vocabulary.of([*old.users.ids, *new.users.ids])
    items = Vocabulary.of([*old.items.ids, *new.items.ids])

    def column(values: Iterable[Any]) -> np.ndarray:
        return np.concatenate(list(values))

    user = column(users.index(one.users.ids).astype(np.int32)[one.user] for one in (old, new))
    item = column(items.index(one.items.ids).astype(np.int32)[one.item] for one in (old, new))
    at = column((old.at, new.at)).astype("datetime64[s]")
    moment, _ = pd.factorize(at.astype(np.int64))
    when = user.astype(np.int64) * (moment.max() + 1) + moment
    visit, _ = pd.factorize(when)  # of a customer at a moment
    quantity = column((old.quantity, new.quantity))
    is_new = np.arange(len(user)) >= len(old)
    line = _numbered((visit.astype(np.int64) * len(items) + item) * 2 + (quantity < 0), is_new)
    repeated = is_new & np.isin(line, line[: len(old)])
    added = is_new & ~repeated
    later = added & (at > old.at.max())
    if not later.any():
        raise InputError(
            f"the new data hold no order after {old.at.max()}, the last one of the run "
            f"({counted(int(repeated.sum()), 'line')} of theirs are in the run already); export later orders"
        )
    order = None
    if old.order is not None:
        order = _orders(old.order, visit[len(old) :] if new.order is None else new.order, line)
    rest: dict[str, Any] = {}
    if old.price is not None or new.price is not None:
        rest["price"] = column(
            np.full(len(one), np.nan, np.float32) if one.price is None else one.price for one in (old, new)
        )
    whole = Interactions(user, item, quantity, users, items, order=order, at=at, **rest)
    visits = visit if order is None else order
    before = np.zeros(int(visits.max()) + 1, dtype=bool)
    before[visits[: len(old)]] = True
    changes = Changes(
        customers=len(np.setdiff1d(user[added], user[: len(old)])),
        products=len(np.setdiff1d(item[added], item[: len(old)])),
        orders=int((~before[np.unique(visits[added])]).sum()),
        lines=int(added.sum()),
        repeated=int(repeated.sum()),
        late=int((added & ~later).sum()),
        before=old.at.max(),
        period=(at[added].min(), at[added].max()),
    )
    return whole.take(~repeated), changes


def _numbered(key: np.ndarray, is_new: np.ndarray) -> np.ndarray:
    """Keys `[N]` of lines -> `[N]`, equal for the first line of a key in the old and in the new data, for the second
    lines, and so on.
    """
    key, _ = pd.factorize(key)
    number = pd.Series(key).groupby([key, is_new]).cumcount().to_numpy(dtype=np.int64)
    return key * (number.max(initial=0) + 1) + number


def _orders(old: np.ndarray, new: np.ndarray, line: np.ndarray) -> np.ndarray:
    """Order numbers of all lines, `[N + M]` int32: a new order of which the old data have a line is the order of that;
    others are orders of their own.

    Args:
      old: `[N]`.
      new: `[M]`, of the new data alone.
      line: `[N + M]`, equal for a line that is in both.
    """
    place = pd.Index(line[: len(old)]).get_indexer(pd.Index(line[len(old) :]))  # no two lines are equal on one side
    is_found = place >= 0
    number, _ = pd.factorize(new)
    order_of = np.full(int(number.max(initial=-1)) + 1, -1, dtype=np.int64)
    order_of[number[is_found]] = old[place[is_found]]
    own = order_of[number]
    return np.concatenate([old, np.where(own < 0, old.max(initial=-1) + 1 + number, own)]).astype(np.int32)


def _merge_tables(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """A row for each id of either table, sorted; a cell is the new table's, or where that is blank the old one's."""
    name = str(old.columns[0])
    columns = list(dict.fromkeys([*old.columns, *new.columns]))
    ids = sorted({*old[name], *new[name]})
    cells: dict[str, Any] = {name: ids}
    for column in columns[1:]:
        before, after = (
            table.set_index(name)[column].reindex(ids).fillna("").astype(str).to_numpy(dtype=object)
            if column in table
            else np.full(len(ids), "", dtype=object)
            for table in (old, new)
        )
        # An id stands in for a title that is missing.
        told = (after != "") & ~((column == "title") & (after == np.array(ids, dtype=object)) & (before != ""))
        cells[column] = np.where(told, after, before)
    return pd.DataFrame(cells, dtype="str")
