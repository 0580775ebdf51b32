"""Lists written to a file, whole or not at all, with an account beside it and a control group apart."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

import aejax
from aejax import recommendation, runs
from aejax.errors import InputError
from aejax.experiment.loading import Run
from aejax.experiment.reading import escape_cells
from aejax.experiment.recommending import (
    Names,
    Request,
    long_columns,
    product_names,
    recommended_lists,
    resolve,
    silent,
)
from aejax.lists import COLUMNS, Lists
from aejax.quality import counted

MANIFEST = 1  # the format's number


@dataclasses.dataclass(frozen=True)
class Layout:
    """How lists stand in a file.

    Attributes:
      wide: a row for each customer, not for each recommendation.
      raw: texts as they are, where a spreadsheet would take them for formulas, too.
      addresses: customer id -> e-mail address, for a last column `email`, blank where there is none; None: no column.
    """

    wide: bool = False
    raw: bool = False
    addresses: Mapping[str, str] | None = dataclasses.field(default=None, repr=False)


def _wide(lists: Lists, names: Names, why: bool) -> dict[str, np.ndarray]:
    """The columns of a table with a row for each customer with a list: `customer_id`, and `sku_1, title_1, ...` of its
    first place and so on.
    """
    lists = lists.take(np.flatnonzero((lists.items < len(names.skus)).any(axis=1)))
    columns = {"sku": names.skus, "title": names.titles, **names.more}
    none = np.array([None], dtype=object)
    texts = {name: np.concatenate([column, none])[lists.items] for name, column in columns.items()}
    if why:
        texts["why"] = names.why(lists.why)
        texts["why"][lists.items == len(names.skus)] = None
    wide = {"customer_id": lists.customers}
    for place in range(lists.items.shape[1]):
        wide |= {f"{name}_{place + 1}": column[:, place] for name, column in texts.items()}
    return wide


def _schema(request: Request, layout: Layout, names: Names, email: bool) -> pa.Schema:
    more = [*names.more, *["why"] * request.why]
    last = ["email"] * email
    if layout.wide:
        places = range(1, request.top + 1)
        of_places = (f"{name}_{place}" for place in places for name in ("sku", "title", *more))
        return pa.schema(dict.fromkeys(("customer_id", *of_places, *last), pa.string()))
    types = dict.fromkeys((*COLUMNS, *more, *last), pa.string()) | {"rank": pa.int32(), "score": pa.float32()}
    return pa.schema(types)


def _check_join(run: Run, out: Path, customers: Sequence[str], addresses: Mapping[str, str]) -> None:
    """Addresses are written where they may be, and to some purpose."""
    if out.resolve().is_relative_to(run.folder.resolve()):
        raise InputError(
            f"--join writes e-mail addresses, which never stand in a run; give --out a file outside of {run.folder}"
        )
    if not any(name in addresses for name in customers):
        raise InputError(
            f"--join has an address of none of the {counted(len(customers), 'customer')} asked for; give the shop's "
            "customers, and where keyed hashes stand for them the AEJAX_KEY that the run was fitted with"
        )


def manifest_path(out: Path) -> Path:
    """Where the account of a file of recommendations is."""
    return out.with_name(f"{out.name}.manifest.json")


def holdout_path(out: Path) -> Path:
    """Where the lists are of the customers whom a file of recommendations leaves out by chance."""
    return out.with_name(f"{out.stem}.holdout{out.suffix}")


def held_out(customers: Sequence[str], share: float, seed: int) -> set[str]:
    """A share of the customers, drawn by chance: those of the least keyed hashes, so that a customer is drawn again
    next time, whoever else is among them, as long as the seed is the same.

    Raises:
      InputError: it is no share, or leaves one of the two groups empty.
    """
    if not 0.0 <= share < 1.0:
        raise InputError(f"--holdout is {share:g}; expected a share of the customers such as 10% or 0.1")
    distinct = set(customers)
    number = round(share * len(distinct))
    if share and not 0 < number < len(distinct):
        raise InputError(
            f"--holdout {share:g} of {len(distinct):,} customers leaves {number:,} of them out; give a share that "
            "leaves someone in and someone out"
        )
    return set(sorted(distinct, key=lambda name: (hashlib.sha256(f"{seed}:{name}".encode()).digest(), name))[:number])


def write_recommendations(
    run: Run,
    out: Path,
    request: Request | None = None,
    layout: Layout | None = None,
    *,
    holdout: float = 0.0,
    seed: int = 0,
    say: Callable[[str], None] = silent,
) -> dict[str, Any]:
    """Stream recommendations to a .csv or .parquet file, whole or not at all, and an account of it to `manifest_path`.

    Args:
      run: a loaded run.
      out: the file.
      request: what is asked; None: ten products for each customer.
      layout: of the file; None: a row for each recommendation.
      holdout: the share of customers who are left out by chance, as a control group: what they would have got is
        written to `holdout_path`.
      seed: of that chance.
      say: see `recommended_lists`.

    Returns:
      The account, as it is in the file: the `run`, its data, the `request` with its rules; `customers`: how many were
      asked for, `left_out` by each rule, `held_out`, with a list, and, those held out among them, with one of fewer
      than `top` products;
      `products`: how many were sold, how many each rule took of them, and what took products from the short lists;
      `notes`, on what was asked and does nothing, or stands on doubtful data;
      `rows`, and of these or of their customers on each `basis`; `join`: of how many customers the file has no address,
      where it has addresses, which stand nowhere else.

    Raises:
      InputError: see `resolve` and `held_out`; or there are addresses, but none of these customers, or the file is in
        the run.
    """
    request, layout = request or Request(), layout or Layout()
    asked = resolve(run, request)
    chosen = held_out(asked.customers, holdout, seed)
    addresses = layout.addresses
    if addresses is not None:
        _check_join(run, out, asked.customers, addresses)
    safe = out.suffix == ".csv" and not layout.raw
    names = product_names(run, asked.known, request.stock, escape=safe)
    count, table = _Counts(), _wide if layout.wide else long_columns
    schema = _schema(request, layout, names, addresses is not None)
    of_control = _schema(request, layout, names, False)  # these lists are not to be sent
    make = pq.ParquetWriter if out.suffix == ".parquet" else pc.CSVWriter
    with ExitStack() as files:

        def opened(path: Path, schema: pa.Schema) -> Any:
            return files.enter_context(make(files.enter_context(runs.whole_file(path)), schema))

        def write(writer: Any, lists: Lists, schema: pa.Schema) -> None:
            columns = table(lists, names, request.why)
            whose = columns["customer_id"]
            if safe:
                written = dict(zip(lists.customers, escape_cells(lists.customers), strict=True))
                columns["customer_id"] = np.array([written[name] for name in whose], dtype=object)
            if "email" in schema.names:
                assert addresses is not None
                emails = [addresses.get(name, "") for name in whose]
                columns["email"] = escape_cells(emails) if safe else np.array(emails, dtype=object)
            if len(whose):
                writer.write_table(pa.Table.from_pydict(columns, schema))

        control = opened(holdout_path(out), of_control) if chosen else None
        writer = opened(out, schema)
        for lists in recommended_lists(run, request, asked, say):
            given = lists
            if control is not None:
                drawn = np.array([name in chosen for name in lists.customers])
                write(control, lists.take(np.flatnonzero(drawn)), of_control)
                given = lists.take(np.flatnonzero(~drawn))
            write(writer, given, schema)
            count.add(given, lists, len(names.skus))
    given_to = [name for name in asked.customers if name not in chosen]
    account = {
        "format": MANIFEST,
        "aejax": aejax.__version__,
        "file": {"name": out.name, "sha256": runs.sha256(out), "layout": "wide" if layout.wide else "long"},
        "run": {
            "path": str(run.folder),
            "model": run.config.model,
            "data_sha256": runs.read_json(run.folder / "environment.json")["data_sha256"],
        },
        "request": {
            "top": request.top,
            "repeat": asked.repeat,
            "as_of": None if asked.known.as_of is None else str(asked.known.as_of),
            "new_places": asked.new_places,
            "rules": request.rules.to_json(),
            "in_stock": request.stock is not None,
            "exclude": request.excluded is not None,
            "why": request.why,
        },
        "holdout": {"share": holdout, "seed": seed, "file": holdout_path(out).name} if chosen else None,
        "join": None if addresses is None else {"without_address": sum(name not in addresses for name in given_to)},
        "customers": {
            "asked": len(asked.customers) + sum(asked.left_out.values()),
            "left_out": asked.left_out,
            "held_out": len(chosen),
            "with_list": count.customers,
            "with_short_list": count.short,
            **{basis: count.basis[basis] for basis in recommendation.BASES},
        },
        "products": {
            "sold": int(asked.known.sold.sum()),
            "taken": asked.taken,
            "taken_from_short_lists": dict(count.taken),
        },
        "notes": asked.notes,
        "rows": count.rows,
        "rows_by_attributes": count.by_attributes,
    }
    runs.write_json(manifest_path(out), account)
    return account


@dataclasses.dataclass
class _Counts:
    """What was written."""

    rows: int = 0
    by_attributes: int = 0
    customers: int = 0
    short: int = 0
    basis: Counter[str] = dataclasses.field(default_factory=Counter)
    taken: Counter[str] = dataclasses.field(default_factory=Counter)

    def add(self, lists: Lists, made: Lists, products: int) -> None:
        """Count more lists, all that were made among them."""
        held = lists.items < products
        lengths = held.sum(axis=1)
        self.rows += int(lengths.sum())
        self.by_attributes += int((lists.basis[held] == "attributes").sum())
        self.customers += int((lengths > 0).sum())
        self.short += int((made.items == products).any(axis=1).sum())
        for basis in recommendation.BASES:
            self.basis[basis] += int(((lists.basis == basis) & held).any(axis=1).sum())
        self.taken.update(made.taken)
