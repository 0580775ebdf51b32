"""A run put to use: what is asked of it, and lists for its customers under a shop's rules."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from aejax import attributes, recommendation, registry
from aejax.errors import InputError, ResourceError
from aejax.experiment.loading import Run, known_on
from aejax.experiment.reading import Excluded, Stock, escape_cells
from aejax.explanation import Causes
from aejax.interactions import Interactions, Vocabulary
from aejax.lists import Lists
from aejax.models import Model
from aejax.rules import ListRules, Rules, chosen_customers, list_rules

LINKS = ("link", "url", "product_url")


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
      notes: sentences on what was asked and does nothing, or stands on doubtful data.
    """

    known: recommendation.Known
    customers: list[str]
    left_out: dict[str, int]
    rules: ListRules
    taken: dict[str, int]
    new_places: int
    repeat: str
    notes: list[str]


def silent(sentence: str) -> None:
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
    repeat = str(request.repeat or run.prepared.split_config.repeat)
    notes = [*rules.notes]
    if rules.not_bought_days and repeat == "exclude":
        notes.append(
            f"not_bought_days = {rules.not_bought_days} of the rules does nothing where all that was bought before is "
            "left out; it is for --repeat include"
        )
    notes += doubtful_moment(known.lines, _orders_place(run))
    taken, new_places = rules.account(known.sold), _new_places(run, request)
    return Asked(known, customers, left_out, rules, taken, new_places, repeat, notes)


def _orders_place(run: Run) -> str:
    """Where the run's orders were read from: their file, or the folder of several. Of a run in production that may be
    its latest exports alone.
    """
    data = run.config.data
    if run.config.production is not None:
        return f"this run, whose latest exports are {data.path},"
    files = [name for name in run.prepared.dataset.quality["files"] if name.startswith("orders")]
    return data.columns.get("orders.file") or (files[0] if len(files) == 1 else data.path)


def doubtful_moment(lines: Interactions, place: str) -> list[str]:
    """A sentence where the last moment, to which the ages of everyone's orders count, is in the future, or farther from
    all orders before it than these are from the first; `place` is where they were read from.
    """
    if lines.at is None:
        return []
    first, last, now = lines.at.min(), lines.at.max(), np.datetime64("now", "s")
    in_future = last > now + np.timedelta64(1, "D")  # now in another zone
    sound = lines.at[lines.at <= now] if in_future else lines.at[lines.at < last - np.timedelta64(1, "D")]
    before = sound.max(initial=first)
    if not in_future and not (before > first and last - before > before - first):
        return []
    day, day_before = (moment.astype("M8[D]") for moment in (last, before))
    why = "in the future" if in_future else f"far behind all others, which end on {day_before}"
    instead = f", or give --on {day_before}" if len(sound) else ""
    return [
        f"the last order of {place} is of {day}, {why}; what is recent is so by then, for every customer: correct it "
        f"in the export{instead}"
    ]


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


def recommended_lists(run: Run, request: Request, asked: Asked, say: Callable[[str], None] = silent) -> Iterator[Lists]:
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
        least_new=request.rules.new,
        segments=attributes.encode(run.prepared.attributes["customers"], dataset.customers, asked.customers),
        for_unknown=fit_segments,
        rules=asked.rules,
        why=request.why,
    )


def recommend(run: Run, request: Request | None = None, say: Callable[[str], None] = silent) -> Iterator[pd.DataFrame]:
    """Recommendations as frames, a chunk of customers at a time: the columns `COLUMNS`, then `variant_sku` and `link`
    where products have them, then `why` where it is asked; see `recommendation`.

    Raises:
      InputError: see `resolve`.
    """
    request = request or Request()
    asked = resolve(run, request)
    names = product_names(run, asked.known, request.stock)
    return (
        pd.DataFrame(long_columns(lists, names, request.why)) for lists in recommended_lists(run, request, asked, say)
    )


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


def long_columns(lists: Lists, names: Names, why: bool) -> dict[str, np.ndarray]:
    """The columns of a table with a row for each recommendation, as `recommend` describes it."""
    columns = lists.columns(names.skus, names.titles)
    rows, places = lists.rows(len(names.skus))
    for name, column in names.more.items():
        columns[name] = column[lists.items[rows, places]]
    if why:
        columns["why"] = names.why(lists.why)[rows, places]
    return columns
