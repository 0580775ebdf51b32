"""Clean order lines, customers and products of a shop, however they were exported -> the data set and its account."""

# pyarrow.compute makes its functions when it is imported:
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from aejax import quality
from aejax.errors import InputError
from aejax.interactions import Dataset, Origin
from aejax.quality import MAY_BE_MASKED, Dropped, FileAccount, counted, masked_text, samples
from aejax.tables import text
from aejax.tables.cleaning import Cleaned
from aejax.tables.text import TextFile


@dataclasses.dataclass(frozen=True)
class OrderFiles:
    """The files that order lines stand in, one after the other.

    Attributes:
      files: in the order of their rows.
      rows: how many each has.
      used: the names of the columns that are used.
    """

    files: Sequence[TextFile]
    rows: Sequence[int]
    used: Sequence[str]

    @property
    def title(self) -> str:
        """What messages call them."""
        first = self.files[0].path.name
        return first if len(self.files) == 1 else f"{first} and {counted(len(self.files) - 1, 'more file')}"

    def places(self, rows: np.ndarray) -> list[str]:
        """`orders.csv:143` for each of these rows of all files in one sequence."""
        stops = np.cumsum(self.rows)
        file_of_row = np.searchsorted(stops, rows, side="right")
        found = [""] * len(rows)
        for number, file in enumerate(self.files):
            own = np.flatnonzero(file_of_row == number)
            start = stops[number] - self.rows[number]
            for position, line in zip(own, text.physical_lines(file, rows[own] - start), strict=True):
                found[position] = f"{file.path.name}:{line}"
        return found


@dataclasses.dataclass(frozen=True)
class Table:
    """Customers or products.

    Attributes:
      frame: a row each, the id first, all cells text.
      accounts: file -> what became of its rows.
      title: what messages call the files; None: there are none.
    """

    frame: pd.DataFrame
    accounts: Mapping[str, FileAccount]
    title: str | None


def dataset_of(
    cleaned: Cleaned,
    orders: OrderFiles,
    customers: Table,
    products: Table,
    *,
    titles: Mapping[str, str] | None = None,
    files: Iterable[Path],
    warnings: Iterable[str] = (),
) -> Dataset:
    """The data set of a shop.

    Args:
      cleaned: the order lines.
      orders: where they stand.
      customers: `customer_id` first.
      products: `sku` first.
      titles: sku -> the title of a product that only the orders know.
      files: all files that were read, in a fixed order.
      warnings: what the readers found.

    Raises:
      InputError: nothing is left to learn from.
    """
    interactions = cleaned.lines
    gone = {rule: len(rows) for rule, rows in cleaned.dropped.items()}
    gone["returns and purchases of one order cancel each other"] = len(cleaned.netted)
    quality.require_something_to_learn(orders.title, interactions, gone)
    new_customers = _not_among(interactions.users.ids, customers.frame.loc[:, "customer_id"])
    new_products = _not_among(interactions.items.ids, products.frame.loc[:, "sku"])
    told = [
        *_unknown(new_customers, "customer", orders.title, customers.title),
        *_unknown(new_products, "product", orders.title, products.title),
        *cleaned.warnings,
    ]
    customer_rows = _with_rows(customers.frame, "customer_id", new_customers)
    product_rows = _titled(_with_rows(products.frame, "sku", new_products), titles or {})
    product_rows, masked_columns = _masked(product_rows)
    if masked_columns:
        among = ", ".join(masked_columns)
        told.append(
            f"{products.title or orders.title}: e-mail addresses or phone numbers in {among} of products; masked"
        )
    netting = quality.account_for_returns(interactions)
    if len(netting.bought) == 0:
        raise InputError(f"{orders.title}: nothing to learn from; there are only returns and the purchases they cancel")
    if netting.excess:
        told.append(f"units returned beyond what was bought before: {netting.excess:,}; they are ignored")
    accounts = {**customers.accounts, **_orders_accounts(orders, cleaned, netting), **products.accounts}
    return Dataset(
        format="shop",
        interactions=interactions,
        customers=customer_rows,
        products=product_rows,
        quality=quality.report(
            files=accounts,
            bought=netting.bought,
            customers=len(customer_rows),
            products=len(product_rows),
            repeats=True,
            described=_described(product_rows),
            warnings=[*told, *warnings],
        ),
        files=tuple(files),
        origin=Origin(
            cleaned.row_of_line,
            cleaned.merged,
            orders.places,
            {
                name: new
                for name, new, table in (("customers", new_customers, customers), ("products", new_products, products))
                if table.title is not None
            },
        ),
    )


def _with_rows(frame: pd.DataFrame, name: str, new: np.ndarray) -> pd.DataFrame:
    """The table sorted by id, with a row for each id that only the orders know; its attributes are blank."""
    rows = pd.DataFrame({column: new if column == name else "" for column in frame.columns}, dtype="str")
    return pd.concat([frame, rows]).sort_values(name, ignore_index=True)


def _titled(products: pd.DataFrame, known: Mapping[str, str]) -> pd.DataFrame:
    """The products with `title` as second column; what the orders say, or the SKU, stands in for a missing title."""
    titles = products["title"].str.strip() if "title" in products else pd.Series("", index=products.index, dtype="str")
    untitled = (titles == "").to_numpy()
    titles[untitled] = products.loc[untitled, "sku"].map(lambda sku: known.get(sku, sku))
    others = [name for name in products.columns if name not in ("sku", "title")]
    return products[["sku"]].assign(title=titles, **{name: products[name] for name in others})


def _masked(products: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The products without the addresses of suppliers, or of whom a line was made for; and the columns that had any."""
    masked = {}
    for name in products.columns[1:]:
        some = products.loc[products[name].str.contains(MAY_BE_MASKED), name]
        changed = some.map(masked_text)
        if not changed.equals(some):
            masked[name] = changed.reindex(products.index).fillna(products[name])
    return products.assign(**masked), list(masked)


def _described(products: pd.DataFrame) -> bool:
    """Whether any cell but the SKU, and a title that repeats it, holds anything."""
    others = products.drop(columns="sku")
    return bool(((others != "") & others.ne(products["sku"], axis=0)).any(axis=None))


def _not_among(used: np.ndarray, known: pd.Series) -> np.ndarray:
    """The ids that are used and not known, in their order."""
    there = pc.is_in(pa.array(used, pa.large_string()), value_set=pa.array(known, pa.large_string()))
    return used[~there.to_numpy(zero_copy_only=False)]


def _unknown(unknown: np.ndarray, noun: str, source: str, where: str | None) -> list[str]:
    if len(unknown) == 0:
        return []
    if where is None:
        return [f"there is no table of {noun}s: nothing but their ids in {source} is known of them"]
    return [f"{counted(len(unknown), noun)} of {source} not in {where}: {samples(unknown)}; kept, without attributes"]


def _orders_accounts(orders: OrderFiles, cleaned: Cleaned, netting: quality.Netting) -> dict[str, FileAccount]:
    """The account of each file, given all files' rows in one sequence."""
    dropped = cleaned.dropped | {quality.UNMATCHED_RETURN: cleaned.row_of_line[netting.unmatched]}
    netted = np.concatenate([cleaned.netted, cleaned.row_of_line[netting.netted]])
    stops = np.cumsum(orders.rows)
    accounts = {}
    for file, read, start, stop in zip(orders.files, orders.rows, stops - orders.rows, stops, strict=True):
        own = {reason: rows[(rows >= start) & (rows < stop)] - start for reason, rows in dropped.items()}
        first = {reason: rows[: quality.FIRST_LINES] for reason, rows in own.items()}
        # One pass over the file finds the lines of all reasons.
        lines = iter(text.physical_lines(file, np.concatenate(list(first.values()))))
        accounts[file.path.name] = FileAccount(
            read=read,
            merged=int(((cleaned.merged >= start) & (cleaned.merged < stop)).sum()),
            netted=int(((netted >= start) & (netted < stop)).sum()),
            dropped={reason: Dropped(len(rows), [next(lines) for _ in first[reason]]) for reason, rows in own.items()},
            left_out=[name for name in file.names if name not in orders.used],
            renamed=file.renamed,
        )
    return accounts
