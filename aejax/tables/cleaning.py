"""Order lines as they stand in the file -> clean lines, with every rule's victims. All on codes, none on text."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from aejax import quality
from aejax.errors import InputError
from aejax.interactions import Interactions
from aejax.quality import counted, shown
from aejax.tables.text import Coded

_NO_DATE = np.iinfo(np.int64).min  # numpy's NaT
_NEVER = np.iinfo(np.int64).max


@dataclasses.dataclass(frozen=True)
class OrderLines:
    """The rows of orders.csv.

    Attributes:
      customer: `[N]`.
      sku: `[N]`.
      quantity: `[N]` int32.
      order: `[N]`; None where the file has no order ids.
      at: `[N]` datetime64[s], NaT where blank; None where the file has no dates.
      price: `[N]` float32 of one unit, NaN where blank; None where the file has no prices.
    """

    customer: Coded
    sku: Coded
    quantity: np.ndarray
    order: Coded | None
    at: np.ndarray | None
    price: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> OrderLines:
        """These rows."""
        return OrderLines(
            self.customer.take(rows),
            self.sku.take(rows),
            self.quantity[rows],
            None if self.order is None else self.order.take(rows),
            None if self.at is None else self.at[rows],
            None if self.price is None else self.price[rows],
        )


@dataclasses.dataclass(frozen=True)
class Cleaned:
    """The clean lines and what became of the others.

    Attributes:
      read: how many rows the file has.
      lines: the clean lines `[M]`, returns included.
      row_of_line: `[M]` the row of the file where each line (or the first of those summed) stands.
      dropped: rule -> the rows of the file that it dropped, increasing.
      merged: rows of the file that were added to another.
      netted: rows of the file that, within their order and SKU, add up to nothing.
      warnings: plain sentences.
    """

    read: int
    lines: Interactions
    row_of_line: np.ndarray
    dropped: dict[str, np.ndarray]
    merged: np.ndarray
    netted: np.ndarray
    warnings: list[str]


def clean(lines: OrderLines, source: str = "orders.csv") -> Cleaned:
    """Apply the rules, in this order: no customer, no product, quantity zero, no date, one line an order and SKU.

    `source` is the file, for messages.
    """
    kept = np.ones(len(lines.quantity), dtype=bool)
    dropped: dict[str, np.ndarray] = {}
    for rule, broken in (
        (quality.NO_CUSTOMER, lines.customer.blank()),
        (quality.NO_PRODUCT, lines.sku.blank()),
        (quality.QUANTITY_IS_ZERO, lines.quantity == 0),
    ):
        dropped[rule] = np.flatnonzero(broken & kept)
        kept &= ~broken
    rows = np.flatnonzero(kept)
    if len(rows) < len(kept):
        lines = lines.take(rows)
    rows = rows.astype(np.int32)
    order, at, warnings = _orders(lines)
    if at is not None and (undated := np.isnat(at)).any():
        dropped[quality.NO_DATE] = rows[undated]
        dated = np.flatnonzero(~undated)
        rows, lines, at = rows[dated], lines.take(dated), at[dated]
        order = None if order is None else order[dated]
    quantity, price, first, merged, netted = _summed(order, lines, source)
    merged, netted = rows[merged], rows[netted]
    if first is not None:
        rows, lines, order = rows[first], lines.take(first), None if order is None else order[first]
        at = None if at is None else at[first]
    user, users = lines.customer.vocabulary()
    item, items = lines.sku.vocabulary()
    return Cleaned(
        len(kept),
        Interactions(user, item, quantity, users, items, order=order, at=at, price=price),
        rows,
        dropped,
        merged,
        netted,
        warnings,
    )


def _orders(lines: OrderLines) -> tuple[np.ndarray | None, np.ndarray | None, list[str]]:
    """`[N]` int32 order numbers and `[N]` dates, one date an order, and what is odd about them."""
    if lines.order is None:
        if lines.at is None:
            return None, None, []
        moment_code, moments = pd.factorize(lines.at.view(np.int64))
        key = lines.customer.codes.astype(np.int64) * len(moments) + moment_code
        told = ["no order_id: a customer's lines of one created_at are taken as one order"]
        return pd.factorize(key)[0].astype(np.int32), lines.at, told
    order, warnings = _by_order_id(lines.order, lines.customer)
    if lines.at is None:
        return order, None, warnings
    at = lines.at.view(np.int64)
    dated = at != _NO_DATE
    earliest = np.full(int(order.max(initial=-1)) + 1, _NEVER)
    np.minimum.at(earliest, order, at if dated.all() else np.where(dated, at, _NEVER))
    earliest[earliest == _NEVER] = _NO_DATE
    at_order = earliest[order]
    several = np.unique(order[dated & (at != at_order)])
    if len(several):
        warnings.append(f"{counted(len(several), 'order')} with several dates in created_at; the earliest counts")
    return order, at_order.view("datetime64[s]"), warnings


def _by_order_id(order: Coded, customer: Coded) -> tuple[np.ndarray, list[str]]:
    """`[N]` int32 order numbers: one for each order id and customer, and one for each line without an id."""
    codes = order.codes.copy()
    blank = np.flatnonzero(order.blank())
    owner = np.full(len(order.values), -1, dtype=np.int32)
    owner[codes[::-1]] = customer.codes[::-1]  # the first line of an order names its owner
    foreign = owner[codes] != customer.codes
    foreign[blank] = False
    warnings = []
    if foreign.any():
        shared = len(np.unique(codes[foreign]))
        warnings.append(
            f"{counted(shared, 'order id')} with several customers; each customer's part counts as an order"
        )
        key = codes[foreign].astype(np.int64) * len(customer.values) + customer.codes[foreign]
        codes[foreign] = len(order.values) + pd.factorize(key)[0]
    codes[blank] = codes.max(initial=0) + 1 + np.arange(len(blank), dtype=np.int32)
    return codes, warnings


def _summed(
    order: np.ndarray | None, lines: OrderLines, source: str
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None, np.ndarray, np.ndarray]:
    """Sum the lines of one order and SKU.

    Returns:
      The quantities and prices that remain, which lines carry them (None: all, as they are), lines merged into another,
      lines that add up to nothing.

    Raises:
      InputError: a sum is beyond int32.
    """
    sku, quantity, price = lines.sku, lines.quantity, lines.price
    none = np.empty(0, dtype=np.intp)
    if order is None:
        return quantity, price, None, none, none
    key = order.astype(np.int64) * len(sku.values) + sku.codes
    in_order = np.sort(key)
    again = in_order[1:][in_order[1:] == in_order[:-1]]
    if len(again) == 0:
        return quantity, price, None, none, none
    repeated = np.flatnonzero(np.isin(key, again))
    _, first, group = np.unique(key[repeated], return_index=True, return_inverse=True)
    total = np.zeros(len(first), dtype=np.int64)
    np.add.at(total, group, quantity[repeated])
    if np.abs(total).max() > np.iinfo(np.int32).max:
        worst = shown(sku.text(int(repeated[first[np.abs(total).argmax()]])))
        raise InputError(
            f"{source}: the lines of one order with lineitem_sku {worst} add up to {np.abs(total).max():,} units; "
            f"expected at most {np.iinfo(np.int32).max:,}"
        )
    summed = quantity.copy()
    summed[repeated] = 0
    summed[repeated[first]] = total
    remaining = np.flatnonzero(summed)
    if price is not None:
        price = price.copy()
        price[repeated[first]] = _mean_prices(price[repeated], quantity[repeated], group)
        price = price[remaining]
    nothing = total[group] == 0
    added = ~nothing
    added[first] = False
    return summed[remaining], price, remaining, repeated[added], repeated[nothing]


def _mean_prices(price: np.ndarray, quantity: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The mean price of each group's units, returned ones included, float32; of lines without a price nothing is known.

    Args:
      price: `[n]`, NaN where there is none.
      quantity: `[n]`, not 0.
      group: `[n]`, the group of each line.
    """
    units = np.where(np.isnan(price), 0, np.abs(quantity.astype(np.int64)))
    count = np.bincount(group, weights=units)
    value = np.bincount(group, weights=units * np.nan_to_num(price))
    return np.divide(value, count, out=np.full(len(count), np.nan), where=count > 0).astype(np.float32)
