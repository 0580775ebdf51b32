"""The three tables of a shop -> interactions, customers and products, with an account of every row."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from aejax import quality
from aejax.errors import InputError
from aejax.interactions import Dataset
from aejax.quality import Dropped, FileAccount, counted, shown
from aejax.tables import text, values
from aejax.tables.cleaning import Cleaned, OrderLines, clean
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

    Args:
      folder: holds the three files.

    Returns:
      The data set, of format `shop`.

    Raises:
      InputError: a file or column is missing, a cell or row is malformed, or nothing is left to learn from.
    """
    _require_files(folder)
    lines, orders_file = _read_orders(folder / "orders.csv")
    cleaned = clean(lines)
    interactions = cleaned.lines
    gone = {rule: len(rows) for rule, rows in cleaned.dropped.items()}
    gone["returns and purchases of one order cancel each other"] = cleaned.netted
    quality.require_something_to_learn("orders.csv", interactions, gone)
    customers, customers_account = _read_entities(folder / "customers.csv", _CUSTOMERS_NEED, quality.NO_CUSTOMER)
    products, products_account = _read_entities(folder / "products.csv", _PRODUCTS_NEED, quality.NO_PRODUCT)
    new_customers = _not_among(interactions.users.ids, customers.loc[:, "customer_id"])
    new_products = _not_among(interactions.items.ids, products.loc[:, "sku"])
    warnings = [
        *_unknown(new_customers, "customer", "customers.csv"),
        *_unknown(new_products, "product", "products.csv"),
        *cleaned.warnings,
    ]
    customers = _with_rows(customers, "customer_id", new_customers)
    products = _titled(_with_rows(products, "sku", new_products))
    netting = quality.account_for_returns(interactions)
    if len(netting.bought) == 0:
        raise InputError("orders.csv: nothing to learn from; there are only returns and the purchases they cancel")
    if netting.excess:
        warnings.append(f"units returned beyond what was bought before: {netting.excess:,}; they are ignored")
    orders_account = _orders_account(orders_file, len(lines.quantity), cleaned, netting)
    return Dataset(
        format="shop",
        interactions=interactions,
        customers=customers,
        products=products,
        quality=quality.report(
            files=dict(zip(FILES, (customers_account, orders_account, products_account), strict=True)),
            bought=netting.bought,
            customers=len(customers),
            products=len(products),
            repeats=True,
            described=_described(products),
            warnings=warnings,
        ),
        files=tuple(folder / name for name in FILES),
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


def _read_orders(path: Path) -> tuple[OrderLines, TextFile]:
    file = text.open_text(path)
    text.require_columns(file, _ORDERS_NEED)
    table = text.read_columns(file, [name for name in (*_ORDERS_NEED, *_ORDERS_USE) if name in file.names])
    columns = {name: text.coded(table[name]) for name in table.column_names}
    del table
    order, created_at, price = (
        None if (column := columns.get(name)) is None or column.blank().all() else column for name in _ORDERS_USE
    )
    lines = OrderLines(
        customer=columns["customer_id"],
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
    named = (frame[name] != "").to_numpy()
    rows = np.flatnonzero(named)
    values.check_unique(file, name, frame[name][named], rows)
    blank = np.flatnonzero(~named)
    dropped = {no_id: Dropped(len(blank), text.physical_lines(file, blank[: quality.FIRST_LINES]))}
    return frame.loc[named], FileAccount(read=len(frame), dropped=dropped, renamed=file.renamed)


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


def _unknown(unknown: np.ndarray, noun: str, where: str) -> list[str]:
    if len(unknown) == 0:
        return []
    sample = ", ".join(shown(value) for value in unknown[:3])
    more = ", ..." if len(unknown) > 3 else ""
    return [f"{counted(len(unknown), noun)} of orders.csv not in {where}: {sample}{more}; kept, without attributes"]


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
