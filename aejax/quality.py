"""The account of every row that was read: kept, merged, netted or dropped, why and where; and what the data hold."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from aejax.errors import InputError
from aejax.interactions import Interactions, net_returns

FIRST_LINES = 5

NO_CUSTOMER = "no customer"
NO_PRODUCT = "no product"
QUANTITY_IS_ZERO = "quantity is zero"
NO_DATE = "no date"
UNMATCHED_RETURN = "return without an earlier purchase"

# Each begins where a word does, lest a long word without `@` be searched from each of its characters.
_LIKE_ADDRESS = re.compile(r"(?<![^\s@<])([^\s@<])[^\s@<]*@[^\s@]+")
_ADDRESS = re.compile(r"(?<![^\s@<])([^\s@<])[^\s@<]*@[^\s@]+\.[^\s@]{2,}")
# 9 to 15 digits after a country's code; after 0 and an area code, which something parts from the rest, as an article
# number is not parted; or ten in the American way. No dates.
PHONE = re.compile(
    r"(?<![\w+])(?<!\d[./-])(?:"
    r"\+\d(?:[ ()./-]{0,2}\d){8,14}(?!\w)|"
    r"(?!0\d([./-])[0-3]\d\1\d\d(?:\d\d)?(?!\1?\d))"
    r"(?:\(0\) ?|\(?00?)[1-9](?=\d{0,4}\)?[ ./-])(?:[ ()./-]{0,3}\d){7,13}"
    r"(?:(?![ ()./-]{0,2}\d|[\w:])|(?=[ /-]+\(?[+0]))|"
    r"\(?[2-9]\d\d\)?[ .-]{1,2}[2-9]\d\d[ .-]\d{4}(?![ ()./-]{0,2}\d|[\w:]))"
)
# A text in which this finds nothing holds neither.
MAY_BE_MASKED = r"[@+]|\(0\)|0[1-9]\d{0,4}\)?[ ./-][ ()./\d-]{2}|[2-9]\d\d\)?[ .-]{1,2}[2-9]\d\d[ .-]\d{4}"


@dataclasses.dataclass(frozen=True)
class Dropped:
    """Rows that left for one reason.

    Attributes:
      rows: how many.
      lines: the physical lines of the first ones.
    """

    rows: int
    lines: Sequence[int]


@dataclasses.dataclass(frozen=True)
class FileAccount:
    """What became of the rows of one file.

    Attributes:
      read: rows in the file.
      merged: rows that were added to another row of the same order and product (or pair of a public format).
      netted: returns that cancelled something, and the purchases that they cancelled whole.
      dropped: what left, by reason.
      left_out: columns of the file that are not used.
      renamed: column names as they stand in the file -> as they are used.
    """

    read: int
    merged: int = 0
    netted: int = 0
    dropped: Mapping[str, Dropped] = dataclasses.field(default_factory=dict)
    left_out: Sequence[str] = ()
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def kept(self) -> int:
        """The rows that count."""
        return self.read - self.merged - self.netted - sum(reason.rows for reason in self.dropped.values())

    def to_json(self) -> dict[str, Any]:
        """The form of `aejax check --json`."""
        return {
            "read": self.read,
            "kept": self.kept,
            "merged": self.merged,
            "netted": self.netted,
            "dropped": {
                reason: {"rows": dropped.rows, "lines": list(dropped.lines)}
                for reason, dropped in self.dropped.items()
                if dropped.rows
            },
            "columns_left_out": list(self.left_out),
            "columns_renamed": dict(self.renamed),
        }


@dataclasses.dataclass(frozen=True)
class Netting:
    """What returns do on all data, without a cut.

    Attributes:
      bought: the purchases that remain.
      netted: `[N]` lines that are gone for a good reason: returns that cancelled something, purchases cancelled whole.
      unmatched: `[N]` returns without an earlier purchase.
      excess: units returned beyond what was bought before.
    """

    bought: Interactions
    netted: np.ndarray
    unmatched: np.ndarray
    excess: int


def account_for_returns(lines: Interactions) -> Netting:
    """Net all returns, as `net_returns` does, and tell what became of each line.

    Args:
      lines: `[N]` purchases and returns.
    """
    returned = lines.quantity < 0
    if not returned.any():
        return Netting(lines, returned, returned, 0)
    numbered = dataclasses.replace(lines, order=np.arange(len(lines), dtype=np.int32))
    survivors = net_returns(numbered)
    assert survivors.order is not None
    gone = ~returned
    gone[survivors.order] = False
    bought = dataclasses.replace(survivors, order=None if lines.order is None else lines.order[survivors.order])
    cancelled = _units_cancelled(lines)
    return Netting(
        bought,
        netted=gone | (returned & (cancelled > 0)),
        unmatched=returned & (cancelled == 0),
        excess=int(-lines.quantity[returned].sum(dtype=np.int64) - cancelled.sum()),
    )


def _units_cancelled(lines: Interactions) -> np.ndarray:
    """`[N]` units of earlier purchases that each return cancels; 0 for purchases.

    What a customer holds of a product is a sum that never falls below zero: the running sum, less its running minimum
    where that is negative. Which purchase a unit came from does not matter for it.
    """
    pair = lines.pair
    affected = np.flatnonzero(np.isin(pair, pair[lines.quantity < 0]))
    by_time = (lines.at[affected],) if lines.at is not None else ()
    # At one instant purchases come first, as in `net_returns`; without dates the order of the rows is that of time.
    by_kind = (lines.quantity[affected] < 0,) if lines.at is not None else ()
    affected = affected[np.lexsort((*by_kind, *by_time, pair[affected]))]
    quantity = lines.quantity[affected].astype(np.int64)
    starts = np.concatenate([[True], np.diff(pair[affected]) != 0])
    group = np.cumsum(starts) - 1
    total = np.cumsum(quantity)
    total -= (total - quantity)[starts][group]
    # One running minimum serves all groups when each lies wholly below the one before it.
    step = total.max() - total.min() + 1
    lowest = np.minimum.accumulate(total - group * step) + group * step
    held = total - np.minimum(lowest, 0)
    held_before = np.where(starts, 0, np.concatenate([[0], held[:-1]]))
    cancelled = np.zeros(len(lines), dtype=np.int64)
    cancelled[affected] = np.where(quantity < 0, np.minimum(-quantity, held_before), 0)
    return cancelled


def _facts(bought: Interactions, pairs: np.ndarray, *, customers: int, products: int, repeats: bool) -> dict[str, Any]:
    """What the data hold.

    Args:
      bought: purchases after returns.
      pairs: their distinct pairs.
      customers: customers of any file.
      products: products of any file.
      repeats: whether a customer can buy a product again (public formats hold each pair once).

    Returns:
      Counts, the period, the share of repeats among order lines and the density of the user-item matrix.
    """
    lines = len(bought)
    buyers, sold = (_distinct(column) for column in (bought.user, bought.item))
    return {
        "customers": customers,
        "customers_with_purchases": buyers,
        "products": products,
        "products_bought": sold,
        "orders": None if bought.order is None or not repeats else _distinct(bought.order),
        "lines": lines,
        "period": None if bought.at is None else [str(bought.at.min()), str(bought.at.max())],
        # Lines of one order and product are one line, so every line of a pair but the first is of a later order.
        "repeat_share": (lines - len(pairs)) / lines if repeats and bought.order is not None else None,
        "density": len(pairs) / (buyers * sold),
    }


def _protocols(bought: Interactions, pairs: np.ndarray, described: bool) -> dict[str, Any]:
    """The protocols that the data can carry, and for each that they cannot, why."""
    products_each = np.bincount(pairs // len(bought.items), minlength=len(bought.users))
    obstacle = {
        "predefined": "the files assign no train and test parts" if bought.part is None else None,
        "time": _no_period(bought),
        "last-order": _no_last_order(bought),
        "users": None
        if np.sum(products_each > 1) >= 3
        else "it needs 3 customers with 2 or more products, to hold whole customers out",
        "items": None if np.any(products_each > 2) else "no customer has bought 3 or more products",
        "cold-items": _no_cold_items(bought, described),
        "reconstruction": None,
    }
    return {
        "possible": [name for name, reason in obstacle.items() if reason is None],
        "impossible": {name: reason for name, reason in obstacle.items() if reason is not None},
    }


def _no_period(bought: Interactions) -> str | None:
    if bought.at is None:
        return "there are no order dates"
    return "all orders have one date" if bought.at.min() == bought.at.max() else None


def _no_cold_items(bought: Interactions, described: bool) -> str | None:
    if not described:
        return "nothing but their ids is known of the products"
    return None if _distinct(bought.item) >= 10 else "fewer than 10 products were bought"


def _no_last_order(bought: Interactions) -> str | None:
    if bought.order is None:
        return "there are no orders (neither ids nor dates)"
    if bought.at is None:
        return "there are no order dates"
    # Validation needs the order before the last, and one before that.
    owner = np.full(int(bought.order.max()) + 1, -1)
    owner[bought.order] = bought.user
    return "no customer has a third order" if np.bincount(owner[owner >= 0]).max() < 3 else None


def _distinct(codes: np.ndarray) -> int:
    return int(np.count_nonzero(np.bincount(codes)))


def _pairs(bought: Interactions) -> np.ndarray:
    """The distinct pairs of a user and an item, sorted, as `user * I + item`."""
    pair = np.sort(bought.pair)
    return pair[np.concatenate([[True], pair[1:] != pair[:-1]])]


def require_something_to_learn(source: str, lines: Interactions, gone: Mapping[str, int]) -> None:
    """Check that there are two customers and two products at least.

    Args:
      source: where the lines come from.
      lines: the clean lines.
      gone: rows that left, by rule.

    Raises:
      InputError: there are not.
    """
    if len(lines) == 0:
        rules = ", ".join(f'{counted(rows, "row")}: "{rule}"' for rule, rows in gone.items() if rows)
        raise InputError(f"{source}: nothing to learn from; every row was dropped ({rules})")
    for noun, ids in (("customer", lines.users.ids), ("product", lines.items.ids)):
        if len(ids) == 1:
            raise InputError(
                f"{source}: nothing to learn from; there is only one {noun}, {shown(ids[0])}, "
                "and at least 2 customers and 2 products are needed"
            )


def report(
    *,
    files: Mapping[str, FileAccount],
    bought: Interactions,
    customers: int,
    products: int,
    repeats: bool,
    described: bool = False,
    warnings: Iterable[str],
) -> dict[str, Any]:
    """The account in the form of `aejax check --json`.

    Args:
      files: the account of each file by name.
      bought: purchases after returns, on all data; at least one.
      customers: customers of any file.
      products: products of any file.
      repeats: whether a customer can buy a product again.
      described: whether anything but its id is known of a product.
      warnings: plain sentences.

    Returns:
      Plain data: `files`, `facts`, `protocols` and `warnings`.
    """
    pairs = _pairs(bought)
    return {
        "files": {name: account.to_json() for name, account in files.items()},
        "facts": _facts(bought, pairs, customers=customers, products=products, repeats=repeats),
        "protocols": _protocols(bought, pairs, described),
        "warnings": list(warnings),
    }


def summary_lines(quality: Mapping[str, Any]) -> list[str]:
    """The account in plain sentences, for the terminal.

    Args:
      quality: what `report` returned, or the same read back from JSON.
    """
    sentences: list[str] = []
    for name, account in quality["files"].items():
        sentences += _file_sentences(name, account)
    sentences += fact_sentences(quality["facts"])
    protocols = quality["protocols"]
    sentences.append(f"These data can be split by: {', '.join(protocols['possible'])}.")
    sentences += [f"Not by {name}: {reason}." for name, reason in protocols["impossible"].items()]
    return sentences + [f"Warning: {warning}" for warning in quality["warnings"]]


def _file_sentences(name: str, account: Mapping[str, Any]) -> list[str]:
    parts = [f"{account['kept']:,} kept"]
    if account["merged"]:
        parts.append(f"{account['merged']:,} merged with another of the same order and product")
    if account["netted"]:
        parts.append(f"{account['netted']:,} netted (returns and the purchases they cancel)")
    if dropped := sum(reason["rows"] for reason in account["dropped"].values()):
        parts.append(f"{dropped:,} dropped")
    sentences = [f"{name}: {counted(account['read'], 'row')} read, {', '.join(parts)}."]
    for reason, rows in account["dropped"].items():
        more = ", ..." if rows["rows"] > len(rows["lines"]) else ""
        where = ", ".join(f"{name}:{line}" for line in rows["lines"])
        sentences.append(f"  {counted(rows['rows'], 'row')} dropped because: {reason} ({where}{more}).")
    if account["columns_left_out"]:
        sentences.append(f"  Columns not used: {', '.join(account['columns_left_out'])}.")
    if account["columns_renamed"]:
        pairs = (f"{old!r} as {new}" for old, new in account["columns_renamed"].items())
        sentences.append(f"  Columns read under another name: {', '.join(pairs)}.")
    return sentences


def fact_sentences(facts: Mapping[str, Any]) -> list[str]:
    """What the data hold, in plain sentences."""
    when = ""
    if facts["period"]:
        first, last = (moment[:10] for moment in facts["period"])
        when = f" between {first} and {last}"
    orders = "" if facts["orders"] is None else f" in {counted(facts['orders'], 'order')}"
    sentences = [
        f"{facts['customers_with_purchases']:,} of {counted(facts['customers'], 'customer')} bought "
        f"{facts['products_bought']:,} of {counted(facts['products'], 'product')}: "
        f"{counted(facts['lines'], 'purchase')}{orders}{when}."
    ]
    if facts["repeat_share"] is not None:
        sentences.append(
            f"{facts['repeat_share']:.1%} of the purchases are of a product the customer had bought before."
        )
    sentences.append(f"{facts['density']:.3%} of all pairs of a customer and a product occur.")
    return sentences


def samples(values: Sequence[str] | np.ndarray, most: int = 3) -> str:
    """The first ones as messages show them, with dots where there are more."""
    return ", ".join(shown(str(value)) for value in values[:most]) + (", ..." if len(values) > most else "")


def counted(number: int, noun: str) -> str:
    """`1 row`, `2 rows`, `1,200 rows`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def masked_text(value: str) -> str:
    """Text that is kept, with what holds e-mail addresses and phone numbers masked (`b...@...`, `+4...`, `01...`)."""
    return PHONE.sub(lambda found: f"{found[0][:2]}...", _ADDRESS.sub(r"\1...@...", value))


def shown(value: str) -> str:
    """A value as messages show it: in quotes, shortened, on one line, likely addresses and phone numbers masked."""
    value = masked_text(_LIKE_ADDRESS.sub(r"\1...@...", value))
    if not value.isprintable():
        value = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in value[:60]) + value[60:]
    return '"' + (value if len(value) <= 60 else value[:57] + "...") + '"'
