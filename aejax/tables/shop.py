"""The three tables of a shop -> interactions, customers and products, with an account of every row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd

from aejax import quality
from aejax.errors import InputError
from aejax.interactions import Dataset
from aejax.quality import Dropped, FileAccount, counted, shown
from aejax.tables import columns, text, values
from aejax.tables.cleaning import Cleaned, OrderLines, clean
from aejax.tables.text import TextFile

# Names under which shop systems and public data sets are known to export what we need.
_CUSTOMER = ("email", "customer", "customer_email", "customerid", "client_id", "user_id", "household_id", "id")
_SKU = ("variant_sku", "product_id", "item_id", "stockcode", "stock_code", "product", "article", "id")
_ORDERS_NEED = {
    "customer_id": _CUSTOMER,
    "lineitem_sku": ("sku", *_SKU),
    "lineitem_quantity": ("quantity", "qty", "units", "amount"),
}
_ORDERS_USE = ("order_id", "created_at")
_NEED = {"customers": {"customer_id": _CUSTOMER}, "products": {"sku": ("lineitem_sku", *_SKU)}}


def read_shop(folder: Path, mapping: Mapping[str, str] = MappingProxyType({})) -> Dataset:
    """Read the tables of a shop: customers.csv, orders.csv and products.csv, or what `columns.find` takes for them.

    Lines of one order, customer and SKU are summed. Without `order_id`, lines of one customer at one `created_at` are
    one order; a line with a blank `order_id` is an order of its own; without both columns there are no orders, and
    nothing is summed. A line with a blank `created_at` has the date of its order. Returns stay as lines with a negative
    quantity: only a protocol, after its cut, may net them; the account says what netting them on all data does.

    Args:
      folder: holds the files.
      mapping: which file is which table and which column is what, where they have other names; see `columns`.

    Returns:
      The data set, of format `shop`.

    Raises:
      InputError: a file or column is missing, a cell or row is malformed, or nothing is left to learn from.
    """
    found = columns.find(folder, mapping)
    source = found["orders"].name
    lines, orders_file, guessed = _read_orders(found["orders"], mapping)
    cleaned = clean(lines, source)
    interactions = cleaned.lines
    gone = {rule: len(rows) for rule, rows in cleaned.dropped.items()}
    gone["returns and purchases of one order cancel each other"] = cleaned.netted
    quality.require_something_to_learn(source, interactions, gone)
    customers, customers_account, told = _read_entities(found, "customers", mapping, quality.NO_CUSTOMER)
    products, products_account, told_too = _read_entities(found, "products", mapping, quality.NO_PRODUCT)
    new_customers = _not_among(interactions.users.ids, customers.loc[:, "customer_id"])
    new_products = _not_among(interactions.items.ids, products.loc[:, "sku"])
    warnings = [
        *guessed,
        *told,
        *told_too,
        *_unknown(new_customers, "customer", source, found.get("customers")),
        *_unknown(new_products, "product", source, found.get("products")),
        *cleaned.warnings,
    ]
    customers = _with_rows(customers, "customer_id", new_customers)
    products = _titled(_with_rows(products, "sku", new_products))
    netting = quality.account_for_returns(interactions)
    if len(netting.bought) == 0:
        raise InputError(f"{source}: nothing to learn from; there are only returns and the purchases they cancel")
    if netting.excess:
        warnings.append(f"units returned beyond what was bought before: {netting.excess:,}; they are ignored")
    accounts = {"customers": customers_account, "orders": None, "products": products_account}
    accounts["orders"] = _orders_account(orders_file, len(lines.quantity), cleaned, netting)
    return Dataset(
        format="shop",
        interactions=interactions,
        customers=customers,
        products=products,
        quality=quality.report(
            files={found[table].name: account for table, account in accounts.items() if account is not None},
            bought=netting.bought,
            customers=len(customers),
            products=len(products),
            repeats=True,
            described=_described(products),
            warnings=warnings,
        ),
        files=tuple(found.values()),
    )


def _read_orders(path: Path, mapping: Mapping[str, str]) -> tuple[OrderLines, TextFile, list[str]]:
    """The order lines, their file, and what was guessed."""
    file = columns.open_table(path, "orders", mapping, _ORDERS_NEED)
    table = text.read_columns(file, [name for name in (*_ORDERS_NEED, *_ORDERS_USE) if name in file.names])
    cells = {name: text.coded(table[name]) for name in table.column_names}
    del table
    order, created_at = (cells.get(name) for name in _ORDERS_USE)
    cells, guessed = values.with_points(file, cells, ("lineitem_quantity", "lineitem_price"))
    at = None
    if created_at is not None and not created_at.blank().all():
        at, read_as = values.moments(file, "created_at", created_at)
        guessed += read_as
    lines = OrderLines(
        customer=cells["customer_id"],
        sku=cells["lineitem_sku"],
        quantity=values.quantities(file, "lineitem_quantity", cells["lineitem_quantity"]),
        order=order if order is not None and not order.blank().all() else None,
        at=at,
    )
    return lines, file, [*file.told, *guessed]


def _read_entities(
    found: Mapping[str, Path], table: str, mapping: Mapping[str, str], no_id: str
) -> tuple[pd.DataFrame, FileAccount | None, list[str]]:
    """A table with an id a row, as text, the account of its rows, and what was guessed; empty where there is none."""
    need = _NEED[table]
    (name,) = need
    if table not in found:
        return pd.DataFrame({name: []}, dtype="str"), None, []
    file = columns.open_table(found[table], table, mapping, need)
    names = [name, *(other for other in file.names if other != name)]
    frame = text.read_columns(file, names, coded=False).to_pandas().astype("str")
    frame[name] = frame[name].str.strip()
    guessed = values.numbers_with_points(file, frame, names[1:])
    named = (frame[name] != "").to_numpy()
    rows = np.flatnonzero(named)
    values.check_unique(file, name, frame[name][named], rows)
    blank = np.flatnonzero(~named)
    dropped = {no_id: Dropped(len(blank), text.physical_lines(file, blank[: quality.FIRST_LINES]))}
    account = FileAccount(read=len(frame), dropped=dropped, renamed=file.renamed)
    return frame.loc[named], account, [*file.told, *guessed]


def _with_rows(frame: pd.DataFrame, name: str, new: np.ndarray) -> pd.DataFrame:
    """The table sorted by id, with a row for each id that only orders.csv knows; its attributes are blank."""
    rows = pd.DataFrame({column: new if column == name else "" for column in frame.columns}, dtype="str")
    return pd.concat([frame, rows]).sort_values(name, ignore_index=True)


def _titled(products: pd.DataFrame) -> pd.DataFrame:
    """The products with `title` as second column; the SKU stands in for a title that is missing."""
    titles = products["title"].str.strip() if "title" in products else products["sku"]
    titles = titles.where(titles != "", products["sku"])
    others = [name for name in products.columns if name not in ("sku", "title")]
    return products[["sku"]].assign(title=titles, **{name: products[name] for name in others})


def _described(products: pd.DataFrame) -> bool:
    """Whether any cell but the SKU, and a title that repeats it, holds anything."""
    others = products.drop(columns="sku")
    return bool(((others != "") & others.ne(products["sku"], axis=0)).any(axis=None))


def _not_among(used: np.ndarray, known: pd.Series) -> np.ndarray:
    """The ids that are used and not known, in their order."""
    return used[pd.Index(known.to_numpy(dtype=object)).get_indexer(used) < 0]


def _unknown(unknown: np.ndarray, noun: str, source: str, where: Path | None) -> list[str]:
    if len(unknown) == 0:
        return []
    if where is None:
        return [f"there is no table of {noun}s: nothing but their ids in {source} is known of them"]
    sample = ", ".join(shown(value) for value in unknown[:3])
    more = ", ..." if len(unknown) > 3 else ""
    return [f"{counted(len(unknown), noun)} of {source} not in {where.name}: {sample}{more}; kept, without attributes"]


def _orders_account(file: TextFile, read: int, cleaned: Cleaned, netting: quality.Netting) -> FileAccount:
    unmatched = cleaned.row_of_line[netting.unmatched]
    dropped_rows = cleaned.dropped | {quality.UNMATCHED_RETURN: unmatched}
    first = {reason: rows[: quality.FIRST_LINES] for reason, rows in dropped_rows.items()}
    # One pass over the file finds the lines of all reasons.
    lines = iter(text.physical_lines(file, np.concatenate(list(first.values()))))
    return FileAccount(
        read=read,
        merged=cleaned.merged,
        netted=cleaned.netted + int(netting.netted.sum()),
        dropped={
            reason: Dropped(len(rows), [next(lines) for _ in first[reason]]) for reason, rows in dropped_rows.items()
        },
        left_out=[name for name in file.names if name not in (*_ORDERS_NEED, *_ORDERS_USE)],
        renamed=file.renamed,
    )
