"""A run put to use: lists for its customers under a shop's rules, written to a file with an account beside it."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

import aejax
from aejax import attributes, recommendation, registry, runs
from aejax.errors import InputError, ResourceError
from aejax.experiment.loading import Run, known_on
from aejax.experiment.reading import Excluded, Stock, escape_cells
from aejax.explanation import Causes
from aejax.interactions import Interactions, Vocabulary
from aejax.lists import COLUMNS, Lists
from aejax.models import Model
from aejax.quality import counted
from aejax.rules import ListRules, Rules, chosen_customers, list_rules

LINKS = ("link", "url", "product_url")
MANIFEST = 1  # the format's number


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked of a run.

    Attributes:
      top: products per customer.
      repeat: `include` or `exclude`; None: as the run was fitted.
      customers: ids; None: every customer of any file.
      known: what may be looked at (`known_on`); None: all orders.
      include_new: the share of places for new products.
      rules: of the shop.
      stock: what may be sold; None: nothing is known of it.
      excluded: what is not to come again; None: nothing.
      why: tell which bought products speak for each recommendation.
    """

    top: int = 10
    repeat: str | None = None
    customers: Sequence[str] | None = None
    known: recommendation.Known | None = None
    include_new: float = 0.0
    rules: Rules = dataclasses.field(default_factory=Rules)
    stock: Stock | None = None
    excluded: Excluded | None = None
    why: bool = False


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


@dataclasses.dataclass(frozen=True)
class Names:
    """Texts of the products as they are written.

    Attributes:
      skus: `[I]`.
      titles: `[I]`.
      more: further columns, each `[I]`: `variant_sku`, a variant that is in stock, empty where none is, and `link`,
        where the products have them.
      plain_titles: `[I]`, as they are in the data.
      escape: whether texts are made safe for spreadsheets.
    """

    skus: np.ndarray
    titles: np.ndarray
    more: Mapping[str, np.ndarray]
    plain_titles: np.ndarray
    escape: bool

    def why(self, causes: Causes | None) -> np.ndarray:
        """Causes `[n, K, C]` -> texts `[n, K]` such as `Blue mug 60%; Red mug 40%`, empty where there is none."""
        assert causes is not None
        # Together they are rounded once, so that no sum is above 100.
        whole = np.rint(100 * np.cumsum(causes.shares, axis=-1)).astype(int)
        shares = np.diff(whole, prepend=0, axis=-1)
        titled = np.append(self.plain_titles, "")[causes.items]
        texts = np.empty(shares.shape[:-1], dtype=object)
        for place in np.ndindex(texts.shape):
            parts = zip(titled[place], shares[place], strict=True)
            texts[place] = "; ".join(f"{title} {share}%" for title, share in parts if share)
        return escape_cells(texts.ravel()).reshape(texts.shape) if self.escape else texts


@dataclasses.dataclass(frozen=True)
class Asked:
    """A request as a run can answer it.

    Attributes:
      known: what may be looked at.
      customers: who gets a list, consent and segments applied.
      left_out: rule -> customers that it left out.
      rules: of the lists.
      taken: rule -> products that it takes of those sold.
      new_places: places for new products.
      repeat: `include` or `exclude`.
    """

    known: recommendation.Known
    customers: list[str]
    left_out: dict[str, int]
    rules: ListRules
    taken: dict[str, int]
    new_places: int
    repeat: str


def _silent(sentence: str) -> None:
    """Tell no one."""


def every_sku(run: Run) -> Vocabulary:
    """Every product of the run's data, those that its model does not know among them."""
    return Vocabulary.of(run.prepared.dataset.products["sku"])


def resolve(run: Run, request: Request) -> Asked:
    """What a request means for a run.

    Raises:
      InputError: `include_new` is no share, or the run knows no new products or its model cannot score them; a rule
        names what is not there; or the rules leave no product or no customer.
    """
    dataset = run.prepared.dataset
    known = known_on(run)[0] if request.known is None else request.known
    ids = list(dataset.customers["customer_id"]) if request.customers is None else list(request.customers)
    customers, left_out = chosen_customers(request.rules, dataset.customers, ids)
    rules = list_rules(
        request.rules,
        dataset.products,
        known.lines.items,
        in_stock=None if request.stock is None else request.stock.skus,
        excluded=() if request.excluded is None else request.excluded.skus,
        earlier=None if request.excluded is None else request.excluded.earlier,
    )
    repeat = request.repeat or run.prepared.split_config.repeat
    return Asked(known, customers, left_out, rules, rules.account(known.sold), _new_places(run, request), str(repeat))


def _new_places(run: Run, request: Request) -> int:
    """Places for new products: of `--include-new`, and of the rules at least."""
    share, top, least = request.include_new, request.top, request.rules.new
    if not 0.0 <= share <= 1.0:
        raise InputError(f"--include-new is {share:g}; expected a share of the places, 0 to 1, such as 0.2")
    asked = f"--include-new {share:g}" if share else f"new = {least} of the rules"
    settings = registry.make_settings(run.config.model, run.config.settings)
    uses_attributes = registry.family(run.config.model).uses_attributes(settings)
    if (share or least) and not (run.config.data.new_products and uses_attributes):
        raise InputError(
            f"{asked} needs a run that was fitted with --new-products and whose model uses "
            f"attributes; fit it again with one of these models: {registry.attribute_models()}"
        )
    places = int(share * top + 1e-9)  # floating point: 0.3 of 10 places are 3
    if share and not places:
        raise InputError(
            f"--include-new {share:g} of --top {top} is less than one place; give a larger share, or --top "
            f"{math.ceil(1 / share)} or more"
        )
    if least > top:
        raise InputError(f"new = {least} of the rules is more than --top {top}; lower one or raise the other")
    return max(places, least)


def recommended_lists(
    run: Run, request: Request, asked: Asked, say: Callable[[str], None] = _silent
) -> Iterator[Lists]:
    """The lists that were asked for; `say` is told why customers without orders get no lists by their attributes, where
    they have too many.
    """
    dataset = run.prepared.dataset
    segments = registry.family("popularity-segment")

    def fit_segments(bought: Interactions) -> Model | None:
        try:
            return segments.fit(bought, segments.settings())
        except ResourceError as problem:
            say(f"Note: customers without orders get the most popular products: {problem}.")
            return None

    return recommendation.recommended_lists(
        run.model,
        asked.known,
        asked.customers,
        top=request.top,
        repeat=asked.repeat,
        new_places=asked.new_places,
        segments=attributes.encode(run.prepared.attributes["customers"], dataset.customers, asked.customers),
        for_unknown=fit_segments,
        rules=asked.rules,
        why=request.why,
    )


def recommend(run: Run, request: Request | None = None, say: Callable[[str], None] = _silent) -> Iterator[pd.DataFrame]:
    """Recommendations as frames, a chunk of customers at a time: the columns `COLUMNS`, then `variant_sku` and `link`
    where products have them, then `why` where it is asked; see `recommendation`.

    Raises:
      InputError: see `resolve`.
    """
    request = request or Request()
    asked = resolve(run, request)
    names = product_names(run, asked.known, request.stock)
    return (_long(lists, names, request.why) for lists in recommended_lists(run, request, asked, say))


def product_names(run: Run, known: recommendation.Known, stock: Stock | None, escape: bool = False) -> Names:
    """Texts of the products that the run's model knows, safe for spreadsheets with `escape`; of variants those in the
    stock, or as the products themselves say.
    """
    products = run.prepared.dataset.products.set_index("sku").reindex(known.lines.items.ids)
    link = next((name for name in LINKS if name in products.columns), None)
    made = escape_cells if escape else np.asarray
    titles = products["title"].to_numpy(dtype=object)
    more = {}
    if "variant_sku" in products.columns:
        of_stock = {} if stock is None else stock.variants
        own = zip(products.index, products["variant_sku"].fillna(""), strict=True)
        more["variant_sku"] = made(np.array([of_stock.get(sku, variant) for sku, variant in own], dtype=object))
    if link is not None:
        more["link"] = made(products[link].fillna("").to_numpy(dtype=object))
    return Names(made(known.lines.items.ids), made(titles), more, titles, escape)


def _long(lists: Lists, names: Names, why: bool) -> pd.DataFrame:
    frame = lists.frame(names.skus, names.titles)
    rows, places = lists.rows(len(names.skus))
    for name, column in names.more.items():
        frame[name] = column[lists.items[rows, places]]
    if why:
        frame["why"] = names.why(lists.why)[rows, places]
    return frame


def _wide(lists: Lists, names: Names, why: bool) -> pd.DataFrame:
    """A row for each customer with a list: `customer_id`, and `sku_1, title_1, ...` of its first place and so on."""
    lists = lists.take(np.flatnonzero((lists.items < len(names.skus)).any(axis=1)))
    columns = {"sku": names.skus, "title": names.titles, **names.more}
    none = np.array([None], dtype=object)
    texts = {name: np.concatenate([column, none])[lists.items] for name, column in columns.items()}
    if why:
        texts["why"] = names.why(lists.why)
        texts["why"][lists.items == len(names.skus)] = None
    frame = {"customer_id": lists.customers}
    for place in range(lists.items.shape[1]):
        frame |= {f"{name}_{place + 1}": column[:, place] for name, column in texts.items()}
    return pd.DataFrame(frame)


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
    say: Callable[[str], None] = _silent,
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
    count, table = _Counts(), _wide if layout.wide else _long
    schema = _schema(request, layout, names, addresses is not None)
    of_control = _schema(request, layout, names, False)  # these lists are not to be sent
    make = pq.ParquetWriter if out.suffix == ".parquet" else pc.CSVWriter
    with ExitStack() as files:

        def opened(path: Path, schema: pa.Schema) -> Any:
            return files.enter_context(make(files.enter_context(runs.whole_file(path)), schema))

        def write(writer: Any, lists: Lists, schema: pa.Schema) -> None:
            frame = table(lists, names, request.why)
            if "email" in schema.names:
                assert addresses is not None
                frame["email"] = [addresses.get(name, "") for name in frame["customer_id"]]
            for name in ("customer_id", "email"):
                if safe and name in frame:
                    frame[name] = escape_cells(frame[name].to_numpy(dtype=object))
            if len(frame):
                writer.write_table(pa.Table.from_pandas(frame, schema, preserve_index=False))

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
