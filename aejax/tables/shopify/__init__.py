"""Raw exports of Shopify: orders, customers and products, in one or several files each, as the shop's pages save them.

Columns are known by their names, in any order, of the older and the newer layout. What an export leaves blank after the
first row of an order or of a product is filled before anything is left out. The item of a line is the product that its
variant belongs to (its handle), or the variant (`by`).
"""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections.abc import Sequence
from pathlib import Path

from aejax.errors import InputError
from aejax.interactions import Dataset
from aejax.tables import joining, text
from aejax.tables.cleaning import clean
from aejax.tables.shopify.customers import read_customers
from aejax.tables.shopify.orders import read_orders
from aejax.tables.shopify.products import read_products
from aejax.tables.text import TextFile

# What a file is called, and which columns tell what it is whatever it is called: all of one of the sets.
_KINDS = {
    "orders": ("orders_export*.csv", ({"name", "lineitem_quantity", "lineitem_name"},)),
    "customers": (
        "customers_export*.csv",
        ({"email", "accepts_email_marketing"}, {"email", "accepts_marketing"}, {"email", "first_name", "last_name"}),
    ),
    "products": (
        "products_export*.csv",
        ({"handle", "title", "variant_sku"}, {"url_handle", "title", "sku"}, {"handle", "title", "variant_price"}),
    ),
}


@dataclasses.dataclass(frozen=True)
class Exports:
    """The exports in a folder, each kind in the order of the numbers in their names.

    Attributes:
      orders: at least one.
      customers: may be none.
      products: may be none.
      others: names of the CSV files that are none of these.
    """

    orders: Sequence[TextFile]
    customers: Sequence[TextFile]
    products: Sequence[TextFile]
    others: Sequence[str]


def find_exports(folder: Path) -> Exports | None:
    """The exports in a folder; None where it has no orders among them.

    Raises:
      InputError: a file that is called an export has no header that can be read.
    """
    found: dict[str, list[TextFile]] = {kind: [] for kind in _KINDS}
    others = []
    for path in sorted((path for path in folder.iterdir() if path.suffix.lower() == ".csv"), key=_by_number):
        if path.name.startswith(".") or not path.is_file():
            continue
        kind, file = _recognised(path)
        if kind is None or file is None:
            others.append(path.name)
        else:
            found[kind].append(file)
    return Exports(**found, others=others) if found["orders"] else None


def read_exports(exports: Exports, *, statuses: Sequence[str] = (), by: str | None = None) -> Dataset:
    """Read a shop's exports.

    Args:
      exports: the files.
      statuses: financial statuses of the orders that count, `cancelled` for cancelled ones among them; empty:
        `config.COUNTED_STATUSES`.
      by: `product` or `variant`, what an item is; None: products where there are handles, else variants.

    Returns:
      The data set, of format `shop`. Its products have, by product, `variant_sku`, the first variant that is in stock
      (blank: none is), and `variants`, all of them as a JSON list.

    Raises:
      InputError: a column is missing, a cell or row is malformed, or nothing is left to learn from.
    """
    if by == "product" and not exports.products:
        raise InputError(
            "--by product needs the products' handles, and there is no products_export*.csv; add it, or leave --by out"
        )
    customers, known, told_of_customers = read_customers(exports.customers)
    products = read_products(exports.products, by=by or "product")
    orders = read_orders(exports.orders, statuses, known, products)
    cleaned = clean(orders.lines)
    return joining.dataset_of(
        orders.in_files(cleaned),
        orders.files,
        customers,
        products.table,
        titles=orders.titles,
        files=[file.path for file in (*exports.customers, *exports.orders, *exports.products)],
        warnings=[
            *(told for file in (*exports.customers, *exports.orders, *exports.products) for told in file.told),
            *told_of_customers,
            *orders.warnings,
            *products.warnings,
            *(f"{name} is not read: it is no export of orders, customers or products" for name in exports.others),
        ],
    )


def _recognised(path: Path) -> tuple[str | None, TextFile | None]:
    """What a file is an export of, and its header; by its name, else by its columns."""
    named = next((kind for kind, (name, _) in _KINDS.items() if fnmatch.fnmatch(path.name.lower(), name)), None)
    try:
        names = set(text.column_names(path))
        if "customer_id" in names and "lineitem_sku" in names:
            return None, None  # prepared orders
        kind = named or next((kind for kind, (_, sets) in _KINDS.items() if any(own <= names for own in sets)), None)
        return kind, text.open_text(path) if kind else None
    except InputError:
        if named:
            raise
        return None, None


def _by_number(path: Path) -> list[tuple[int, str]]:
    """So that part 2 comes before part 10."""
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"(\d+)", path.name.lower())]
