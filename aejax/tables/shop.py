"""The three tables of a shop -> interactions, customers and products, with an account of every row."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd

from aejax import quality
from aejax.interactions import Dataset
from aejax.quality import Dropped, FileAccount
from aejax.tables import addresses, columns, joining, text, values
from aejax.tables.cleaning import OrderLines, clean
from aejax.tables.joining import OrderFiles, Table
from aejax.tables.text import TextFile

# Names under which shop systems and public data sets are known to export what we need.
_CUSTOMER = ("email", "customer", "customer_email", "customerid", "client_id", "user_id", "household_id", "id")
_SKU = ("variant_sku", "product_id", "item_id", "stockcode", "stock_code", "product", "article", "id")
_ORDERS_NEED = {
    "customer_id": _CUSTOMER,
    "lineitem_sku": ("sku", *_SKU),
    "lineitem_quantity": ("quantity", "qty", "units", "amount"),
}
_ORDERS_USE = ("order_id", "created_at", "lineitem_price")
_NEED = {"customers": {"customer_id": _CUSTOMER}, "products": {"sku": ("lineitem_sku", *_SKU)}}


def read_shop(folder: Path, mapping: Mapping[str, str] = MappingProxyType({})) -> Dataset:
    """Read the tables of a shop: customers.csv, orders.csv and products.csv, or what `columns.find` takes for them.

    Lines of one order, customer and SKU are summed. Without `order_id`, lines of one customer at one `created_at` are
    one order; a line with a blank `order_id` is an order of its own; without both columns there are no orders, and
    nothing is summed. A line with a blank `created_at` has the date of its order. Returns stay as lines with a negative
    quantity: only a protocol, after its cut, may net them; the account says what netting them on all data does.

    E-mail addresses, phone numbers, names and streets are left out (`aejax.tables.addresses`); a customer whose id is
    an address goes by the id that customers.csv has for it, else by a keyed hash.

    Args:
      folder: holds the files.
      mapping: which file is which table and which column is what, where they have other names; see `columns`.

    Returns:
      The data set, of format `shop`.

    Raises:
      InputError: a file or column is missing, a cell or row is malformed, or nothing is left to learn from.
    """
    found = columns.find(folder, mapping)
    customers, known, warnings = _read_customers(found, mapping)
    with ThreadPoolExecutor(max_workers=1) as beside:  # pyarrow works outside the interpreter's lock
        waiting = beside.submit(_read_products, found, mapping)
        file = columns.open_table(found["orders"], "orders", mapping, _ORDERS_NEED)
        guessed = list(file.told)
        # No name is given to the lines, so that `clean` lets go of what it drops.
        cleaned = clean(_order_lines(file, known, guessed), file.path.name)
        products, told = waiting.result()
    return joining.dataset_of(
        cleaned,
        OrderFiles([file], [cleaned.read], (*_ORDERS_NEED, *_ORDERS_USE)),
        customers,
        products,
        files=found.values(),
        warnings=[*guessed, *warnings, *told],
    )


def _read_customers(found: Mapping[str, Path], mapping: Mapping[str, str]) -> tuple[Table, dict[str, str], list[str]]:
    """The customers without their addresses, the shop's ids by address, and warnings."""
    table, told = _read_entities(found, "customers", mapping, quality.NO_CUSTOMER)
    known = addresses.ids_by_address(table.frame)
    frame, personal, warnings = addresses.without_personal(table.frame, table.title or "")
    return _without(table, frame, personal), known, [*told, *warnings]


def _read_products(found: Mapping[str, Path], mapping: Mapping[str, str]) -> tuple[Table, list[str]]:
    """The products without whom they come from, and what was guessed."""
    table, told = _read_entities(found, "products", mapping, quality.NO_PRODUCT)
    personal = [name for name in table.frame.columns[1:] if addresses.is_personal_of_product(name)]
    return _without(table, table.frame.loc[:, ~table.frame.columns.isin(personal)], personal), told


def _without(table: Table, frame: pd.DataFrame, personal: Sequence[str]) -> Table:
    """What is left of a table, whose account says which columns are gone."""
    accounts = {name: dataclasses.replace(account, left_out=personal) for name, account in table.accounts.items()}
    return Table(frame, accounts, table.title)


def _order_lines(file: TextFile, known: Mapping[str, str], guessed: list[str]) -> OrderLines:
    """The order lines; `known` are the shop's ids by address, and what was guessed is added to `guessed`."""
    names = [name for name in (*_ORDERS_NEED, *_ORDERS_USE) if name in file.names]
    cells = text.read_coded(file, names)
    cells, read_as = values.with_points(file, cells, ("lineitem_quantity", "lineitem_price"))
    guessed += read_as
    order, created_at, price = (
        None if (column := cells.get(name)) is None or column.blank().all() else column for name in _ORDERS_USE
    )
    at = None
    if created_at is not None:
        at, read_as = values.moments(file, "created_at", created_at)
        guessed += read_as
    return OrderLines(
        customer=addresses.replaced(
            cells["customer_id"], lambda ids: addresses.without_addresses(ids, file.path.name, known)
        ),
        sku=cells["lineitem_sku"],
        quantity=values.quantities(file, "lineitem_quantity", cells["lineitem_quantity"]),
        order=order,
        at=at,
        price=None if price is None else values.prices(file, "lineitem_price", price),
    )


def _read_entities(
    found: Mapping[str, Path], table: str, mapping: Mapping[str, str], no_id: str
) -> tuple[Table, list[str]]:
    """A table with an id a row, as text, and what was guessed; empty where there is none."""
    need = _NEED[table]
    (name,) = need
    if table not in found:
        return Table(pd.DataFrame({name: []}, dtype="str"), {}, None), []
    file = columns.open_table(found[table], table, mapping, need)
    names = [name, *(other for other in file.names if other != name)]
    frame = text.read_columns(file, names, coded=False).to_pandas().astype("str")
    frame[name] = frame[name].str.strip()
    if name == "customer_id":
        frame[name] = addresses.without_addresses(frame[name].tolist(), file.path.name, {})
    guessed = values.numbers_with_points(file, frame, names[1:])
    named = (frame[name] != "").to_numpy()
    rows = np.flatnonzero(named)
    values.check_unique(file, name, frame[name][named], rows)
    blank = np.flatnonzero(~named)
    dropped = {no_id: Dropped(len(blank), text.physical_lines(file, blank[: quality.FIRST_LINES]))}
    account = FileAccount(read=len(frame), dropped=dropped, renamed=file.renamed)
    return Table(frame.loc[named], {file.path.name: account}, file.path.name), [*file.told, *guessed]
