"""Orders exports -> order lines, in this order: one copy of an order, what an order says once is filled in, status,
customers by their addresses, products by their SKUs. Returns are netted later, as everywhere.
"""

# What pyright infers from the sources of pandas, which ship no complete types:
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from aejax.config import COUNTED_STATUSES, STATUSES
from aejax.quality import counted, shown
from aejax.tables import addresses, text, values
from aejax.tables.cleaning import Cleaned, OrderLines
from aejax.tables.joining import OrderFiles
from aejax.tables.shopify.columns import blank_column, filled, joined, parts, without_apostrophe
from aejax.tables.shopify.products import Products
from aejax.tables.text import Coded, TextFile

_NEED = {
    "name": ("order", "order_name", "order_number", "id"),
    "email": ("customer_email", "contact_email"),
    "lineitem_quantity": ("quantity",),
    "lineitem_name": ("lineitem_title", "title"),
}
_USE = ("financial_status", "created_at", "cancelled_at", "lineitem_sku", "lineitem_price", "currency")
_ELSEWHERE = "order is in a newer file too"
_CANCELLED = "order was cancelled"
_OTHER_STATUS = "order has another financial status"


@dataclasses.dataclass(frozen=True)
class Orders:
    """What the exports hold.

    Attributes:
      lines: `[n]` the order lines that count.
      rows: `[n]` the row of each, of all files' `[N]` rows in one sequence.
      dropped: reason -> the rows of all files that it took before.
      files: the files.
      titles: item -> the title that its first line gives it.
      warnings: plain sentences.
    """

    lines: OrderLines
    rows: np.ndarray
    dropped: Mapping[str, np.ndarray]
    files: OrderFiles
    titles: Mapping[str, str]
    warnings: Sequence[str]

    def in_files(self, cleaned: Cleaned) -> Cleaned:
        """What cleaning the lines found, by rows of the files."""
        return dataclasses.replace(
            cleaned,
            row_of_line=self.rows[cleaned.row_of_line],
            dropped={**self.dropped, **{rule: self.rows[rows] for rule, rows in cleaned.dropped.items()}},
            merged=self.rows[cleaned.merged],
            netted=self.rows[cleaned.netted],
        )


@dataclasses.dataclass(frozen=True)
class _Rows:
    """All rows `[N]` of all files, as they stand; `file` is the file of each."""

    file: np.ndarray
    name: Coded
    email: Coded
    status: Coded
    currency: Coded
    sku: Coded
    title: Coded
    cancelled: np.ndarray
    quantity: np.ndarray
    at: np.ndarray
    price: np.ndarray


def read_orders(
    files: Sequence[TextFile], statuses: Sequence[str], known: Mapping[str, str], products: Products
) -> Orders:
    """The order lines.

    An order that two files hold counts in the newer one, by the latest date in it; rows of an order that its file cut
    off, without the status that an order says once, go with the file before.

    Args:
      files: the exports, part by part.
      statuses: financial statuses that count; empty: `COUNTED_STATUSES`.
      known: e-mail address, as `addresses.normal` gives it -> the shop's id of that customer.
      products: to find a line's item.

    Raises:
      InputError: a column is missing, a cell is malformed, or an address needs a hash and there is no key.
    """
    rows, read_as = _read(files)
    order, alone = rows.name.codes, rows.name.blank()
    elsewhere, warnings = _elsewhere(rows, [file.path.name for file in files])
    warnings += read_as
    kept = np.flatnonzero(~elsewhere)
    order, alone = order[kept], alone[kept]
    status = rows.status.take(kept)
    status = status.take(filled(order, alone, ~status.blank()))
    email = rows.email.take(kept)
    email = email.take(filled(order, alone, ~email.blank()))
    currency = rows.currency.take(kept)
    currency = currency.take(filled(order, alone, ~currency.blank()))
    cancelled = rows.cancelled[kept][filled(order, alone, rows.cancelled[kept])]
    at = rows.at[kept]
    at = at[filled(order, alone, ~np.isnat(at))]
    gone, told = _by_status(status, cancelled, statuses, order)
    warnings += told
    dropped = {_ELSEWHERE: np.flatnonzero(elsewhere), **{reason: kept[own] for reason, own in gone.items()}}
    counts = np.flatnonzero(~np.logical_or.reduce([np.zeros(len(kept), dtype=bool), *gone.values()]))
    kept, order = kept[counts], order[counts]
    email, currency, at = email.take(counts), currency.take(counts), at[counts]
    price, told = _in_one_currency(rows.price[kept], currency, order)
    warnings += told
    item = products.items_of(rows.sku.take(kept), rows.title.take(kept))
    nameless = len(np.unique(order[email.blank()]))
    if nameless:
        warnings.append(f"{counted(nameless, 'order')} without an e-mail address (sold at a counter?); left out")
    source = files[0].path.name
    lines = OrderLines(
        customer=addresses.replaced(email, lambda ids: _customers(ids, source, known)),
        sku=item,
        quantity=rows.quantity[kept],
        order=rows.name.take(kept),
        at=None if np.isnat(rows.at).all() else at,
        price=None if np.isnan(price).all() else price,
    )
    titles = _titles(item, rows.title.take(kept))
    sizes = np.bincount(rows.file, minlength=len(files)).tolist()
    return Orders(lines, kept, dropped, OrderFiles(files, sizes, (*_NEED, *_USE)), titles, warnings)


def _customers(emails: Sequence[str], source: str, known: Mapping[str, str]) -> list[str]:
    """Every address is one, whatever it looks like: a wrong one must not leave either."""
    unnamed = [one for one in emails if one and addresses.normal(one) not in known]
    hashes = dict(zip(unnamed, addresses.hashed(unnamed, source), strict=True))
    return [hashes.get(one) or known.get(addresses.normal(one), "") for one in emails]


def _read(files: Sequence[TextFile]) -> tuple[_Rows, list[str]]:
    """All rows, and how dates were read that are not as the shop system writes them."""
    parts_told = [_read_part(file) for file in files]
    read = [part for part, _ in parts_told]
    whole: dict[str, Any] = {
        field.name: (
            joined([getattr(part, field.name) for part in read])
            if isinstance(getattr(read[0], field.name), Coded)
            else np.concatenate([getattr(part, field.name) for part in read])
        )
        for field in dataclasses.fields(_Rows)
    }
    whole["file"] = np.repeat(np.arange(len(files)), [len(part.file) for part in read])
    return _Rows(**whole), [one for _, told in parts_told for one in told]


def _read_part(file: TextFile) -> tuple[_Rows, list[str]]:
    text.require_columns(file, _NEED)
    columns = text.read_coded(file, [name for name in (*_NEED, *_USE) if name in file.names])
    count = len(columns["name"].codes)
    columns = {name: columns.get(name) or blank_column(count) for name in (*_NEED, *_USE)}
    sku, title = addresses.replaced(columns["lineitem_sku"], without_apostrophe), columns["lineitem_name"]
    no_line = sku.blank() & title.blank() & columns["lineitem_quantity"].blank()
    at, told = values.moments(file, "created_at", columns["created_at"])
    rows = _Rows(
        file=np.zeros(count, dtype=np.int64),
        name=addresses.replaced(columns["name"], without_apostrophe),
        email=columns["email"],
        status=addresses.replaced(columns["financial_status"], lambda found: [_status(one) for one in found]),
        currency=columns["currency"],
        sku=sku,
        title=title,
        cancelled=~columns["cancelled_at"].blank(),
        quantity=values.quantities(file, "lineitem_quantity", _zero_where(columns["lineitem_quantity"], no_line)),
        at=at,
        price=values.prices(file, "lineitem_price", columns["lineitem_price"]),
    )
    return rows, told


def _status(written: str) -> str:
    return "_".join(written.lower().split())


def _zero_where(column: Coded, rows: np.ndarray) -> Coded:
    """The column with `0` in these rows `[N]`: a row that is no order line has no quantity to be wrong."""
    if not rows.any():
        return column
    extended = pa.concat_arrays([column.values, pa.array(["0"])])
    codes = np.where(rows, len(column.values), column.codes).astype(np.int32)
    used = np.unique(codes)
    position = np.zeros(len(extended), dtype=np.int32)
    position[used] = np.arange(len(used), dtype=np.int32)
    return Coded(extended.take(pa.array(used)), position[codes])


def _elsewhere(rows: _Rows, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """`[N]` whether a row's order counts in another file, and what to say of it."""
    nothing = np.zeros(len(rows.file), dtype=bool)
    if len(names) == 1:
        return nothing, []
    latest = [
        rows.at[(rows.file == number) & ~np.isnat(rows.at)].max(initial=np.datetime64(0, "s"))
        for number in range(len(names))
    ]
    age = np.empty(len(names), dtype=np.int64)
    age[np.lexsort((np.arange(len(names)), latest))] = np.arange(len(names))
    # Its status stands in an order's first row alone; the date is often repeated.
    has_status = np.bincount(rows.file, weights=~rows.status.blank(), minlength=len(names)) > 0
    head = np.where(has_status[rows.file], ~rows.status.blank(), ~np.isnat(rows.at))
    own = age[parts(rows.name.codes, rows.file, head)]
    newest = np.full(len(rows.name.values), -1)
    np.maximum.at(newest, rows.name.codes, own)
    lost = (own < newest[rows.name.codes]) & ~rows.name.blank()
    if not lost.any():
        return nothing, []
    twice = len(np.unique(rows.name.codes[lost]))
    among = ", ".join(names[number] for number in np.unique(rows.file[lost]))
    told = f"{counted(twice, 'order')} in several files; each counts once, in the newest of them, not in {among}"
    return lost, [told]


def _by_status(
    status: Coded, cancelled: np.ndarray, statuses: Sequence[str], order: np.ndarray
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Reason -> `[n]` the rows of orders that do not count, each row under one reason; and what to say."""
    chosen = statuses or COUNTED_STATUSES
    found = status.values.to_pylist()
    gone: dict[str, np.ndarray] = {}
    left = np.ones(len(cancelled), dtype=bool)
    if "cancelled" not in chosen:
        gone[_CANCELLED] = cancelled
        left &= ~cancelled
    warnings = []
    for code, one in enumerate(found):
        own = (status.codes == code) & left
        if not own.any():
            continue
        orders = counted(len(np.unique(order[own])), "order")
        is_known = one in STATUSES
        if one in chosen or (not statuses and not is_known):
            if one == "partially_refunded":
                warnings.append(
                    f"{orders} partially refunded; they count in full, for an export does not say which lines came back"
                )
            elif not is_known:
                named = f"with the unknown financial status {shown(one)}" if one else "without a financial status"
                warnings.append(f"{orders} {named}; they count (--statuses names those that do)")
            continue
        reason = f"order is {one.replace('_', ' ')}" if is_known else _OTHER_STATUS
        gone[reason] = gone.get(reason, np.zeros(len(left), dtype=bool)) | own
    return gone, warnings


def _in_one_currency(price: np.ndarray, currency: Coded, order: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Prices in the currency of most lines, NaN for others; and what to say."""
    lines = np.bincount(currency.codes, minlength=len(currency.values))
    named = [code for code in np.argsort(-lines, kind="stable") if lines[code] and currency.values[int(code)].as_py()]
    if len(named) < 2:
        return price, []
    shares = ", ".join(
        f"{shown(currency.values[int(code)].as_py())[1:-1]} {len(np.unique(order[currency.codes == code])):,}"
        for code in named
    )
    main = shown(currency.values[int(named[0])].as_py())[1:-1]
    told = f"orders in {len(named)} currencies ({shares}); prices count in {main} alone, other lines have none"
    return np.where(np.isin(currency.codes, named[1:]), np.float32(np.nan), price), [told]


def _titles(item: Coded, title: Coded) -> dict[str, str]:
    """Item -> the title that its first line gives it."""
    codes, first = np.unique(item.codes, return_index=True)
    return {item.values[int(code)].as_py(): title.text(int(row)) for code, row in zip(codes, first, strict=True)}
