"""The three tables of a shop -> interactions, customers and products, with an account of every row."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from aejax import quality
from aejax.errors import InputError
from aejax.interactions import Dataset
from aejax.quality import Dropped, FileAccount
from aejax.tables import addresses, joining, text, values
from aejax.tables.cleaning import OrderLines, clean
from aejax.tables.joining import OrderFiles, Table
from aejax.tables.text import TextFile

FILES = ("customers.csv", "orders.csv", "products.csv")

# Names under which shop systems and public data sets are known to export what we need.
_CUSTOMER = ("email", "customer", "customer_email", "customerid", "client_id", "user_id", "household_id", "id")
_SKU = ("variant_sku", "product_id", "item_id", "stockcode", "stock_code", "product", "article", "id")
_ORDERS_NEED = {
    "customer_id": _CUSTOMER,
    "lineitem_sku": ("sku", *_SKU),
    "lineitem_quantity": ("quantity", "qty", "units", "amount"),
}
_ORDERS_USE = ("order_id", "created_at", "lineitem_price")
_CUSTOMERS_NEED = {"customer_id": _CUSTOMER}
_PRODUCTS_NEED = {"sku": ("lineitem_sku", *_SKU)}


def read_shop(folder: Path) -> Dataset:
    """Read customers.csv, orders.csv and products.csv.

    Lines of one order, customer and SKU are summed. Without `order_id`, lines of one customer at one `created_at` are
    one order; a line with a blank `order_id` is an order of its own; without both columns there are no orders, and
    nothing is summed. A line with a blank `created_at` has the date of its order. Returns stay as lines with a negative
    quantity: only a protocol, after its cut, may net them; the account says what netting them on all data does.

    E-mail addresses, phone numbers, names and streets are left out (`aejax.tables.addresses`); a customer whose id is
    an address goes by the id that customers.csv has for it, else by a keyed hash.

    Args:
      folder: holds the three files.

    Returns:
      The data set, of format `shop`.

    Raises:
      InputError: a file or column is missing, a cell or row is malformed, or nothing is left to learn from.
    """
    _require_files(folder)
    customers, known, warnings = _read_customers(folder / "customers.csv")
    lines, orders_file = _read_orders(folder / "orders.csv", known)
    products, products_account = _read_entities(folder / "products.csv", _PRODUCTS_NEED, quality.NO_PRODUCT)
    return joining.dataset_of(
        clean(lines),
        OrderFiles([orders_file], [len(lines.quantity)], (*_ORDERS_NEED, *_ORDERS_USE)),
        customers,
        Table(products, {"products.csv": products_account}, "products.csv"),
        files=[folder / name for name in FILES],
        warnings=warnings,
    )


def _require_files(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; expected one with {', '.join(FILES)}")
    there = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    for name in FILES:
        if name not in there:
            others = [other for other in there if other not in FILES]
            likely = difflib.get_close_matches(name, others, n=1)
            remedy = f'; if "{likely[0]}" is that file, rename it' if likely else ""
            raise InputError(f"{folder} has no {name} (there are: {', '.join(there) or 'no files'}){remedy}")


def _read_customers(path: Path) -> tuple[Table, dict[str, str], list[str]]:
    """The customers without their addresses, the shop's ids by address, and warnings."""
    frame, account = _read_entities(path, _CUSTOMERS_NEED, quality.NO_CUSTOMER)
    known = addresses.ids_by_address(frame)
    frame, personal, warnings = addresses.without_personal(frame, path.name)
    account = dataclasses.replace(account, left_out=personal)
    return Table(frame, {path.name: account}, path.name), known, warnings


def _read_orders(path: Path, known: Mapping[str, str]) -> tuple[OrderLines, TextFile]:
    file = text.open_text(path)
    text.require_columns(file, _ORDERS_NEED)
    table = text.read_columns(file, [name for name in (*_ORDERS_NEED, *_ORDERS_USE) if name in file.names])
    columns = {name: text.coded(table[name]) for name in table.column_names}
    del table
    order, created_at, price = (
        None if (column := columns.get(name)) is None or column.blank().all() else column for name in _ORDERS_USE
    )
    lines = OrderLines(
        customer=addresses.replaced(
            columns["customer_id"], lambda ids: addresses.without_addresses(ids, path.name, known)
        ),
        sku=columns["lineitem_sku"],
        quantity=values.quantities(file, "lineitem_quantity", columns["lineitem_quantity"]),
        order=order,
        at=None if created_at is None else values.moments(file, "created_at", created_at),
        price=None if price is None else values.prices(file, "lineitem_price", price),
    )
    return lines, file


def _read_entities(path: Path, need: Mapping[str, Sequence[str]], no_id: str) -> tuple[pd.DataFrame, FileAccount]:
    """A table with an id a row, as text, and the account of its rows."""
    (name,) = need
    file = text.open_text(path)
    text.require_columns(file, need)
    columns = [name, *(other for other in file.names if other != name)]
    frame = text.read_columns(file, columns, coded=False).to_pandas().astype("str")
    frame[name] = frame[name].str.strip()
    if name == "customer_id":
        frame[name] = addresses.without_addresses(frame[name].tolist(), path.name, {})
    named = (frame[name] != "").to_numpy()
    rows = np.flatnonzero(named)
    values.check_unique(file, name, frame[name][named], rows)
    blank = np.flatnonzero(~named)
    dropped = {no_id: Dropped(len(blank), text.physical_lines(file, blank[: quality.FIRST_LINES]))}
    return frame.loc[named], FileAccount(read=len(frame), dropped=dropped, renamed=file.renamed)
