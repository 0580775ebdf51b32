"""What a shop asks of its lists: a TOML file of rules, and what they mean for the products and customers of a run.

```toml
published = true          # only products whose columns published, published_on_online_store, active, status say so
new = 1                   # at least so many places of every list for products that nobody has bought yet
not_bought_days = 90      # nothing that the customer bought in the last so many days, where repeats are included

[only]                    # columns of products.csv, sku among them: one of these values
category = ["Toys", "Books"]

[never]
vendor = ["Acme"]
sku = ["A-1"]

[at_most]                 # places in one list for products of equal value
category = 3

[consent]                 # columns of customers.csv: who has none of these values is left out
accepts_marketing = "yes"

[segments]                # the same, for whom the lists are made
country = ["France"]
```

A rule of products is a mask, taken off before the best are chosen, so that a list is as long as it can be. A list with
`at_most` takes the best product that may still be added, again and again. With one such column none is longer.

Legend: I products, n customers, A columns of `at_most`.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from aejax.errors import InputError, nearest
from aejax.interactions import Vocabulary
from aejax.quality import counted, samples, shown
from aejax.ranking import Caps
from aejax.tables.text import normalised_name

PUBLISHED = ("published", "published_on_online_store", "active", "status")
_YES = ("true", "yes", "y", "1", "active", "published")
_SOME = 8  # values shown of those that are known

Values = Mapping[str, tuple[str, ...]]
NOTHING: Values = {}


@dataclasses.dataclass(frozen=True)
class Rules:
    """The rules of a file, as they stand in it; see this module.

    Attributes:
      only: column of products -> values of which a product must have one.
      never: column of products -> values of which it must have none.
      at_most: column of products -> the most products of equal value in a list; a blank value is none.
      published: only what is published and active.
      new: the least places for new products.
      not_bought_days: days since the customer's last purchase of a product, which may not be in the list before.
      consent: column of customers -> values of which a customer must have one.
      segments: the same.
    """

    only: Values = dataclasses.field(default_factory=dict)
    never: Values = dataclasses.field(default_factory=dict)
    at_most: Mapping[str, int] = dataclasses.field(default_factory=dict)
    published: bool = False
    new: int = 0
    not_bought_days: int = 0
    consent: Values = dataclasses.field(default_factory=dict)
    segments: Values = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The rules that say something, as plain data."""
        plain = dataclasses.asdict(self)
        return {name: value for name, value in plain.items() if value}


@dataclasses.dataclass(frozen=True)
class Earlier:
    """What earlier lists held.

    Attributes:
      customers: who got one.
      matrix: `[len(customers) + 1, I]` CSR, 1 for what is not to come again; the last row is empty.
    """

    customers: Vocabulary
    matrix: sp.csr_array

    def of(self, ids: Iterable[str]) -> sp.csr_array:
        """Ids of n customers -> `[n, I]`."""
        row = self.customers.index(ids)
        return self.matrix[np.where(row < 0, len(self.customers), row)]


@dataclasses.dataclass(frozen=True)
class ProductRule:
    """A rule that allows products to everyone or to no one.

    Attributes:
      name: as it is told, such as `only category`.
      allowed: `[I]` bool.
    """

    name: str
    allowed: np.ndarray


@dataclasses.dataclass(frozen=True)
class ListRules:
    """Rules as they are followed, for the products of a run.

    Attributes:
      products: in the order in which they take products.
      caps: at most so many of a group; None: of all as many as come.
      not_bought_days: see `Rules`.
      earlier: pairs of customers and products that may not come again; None: there are none.
      notes: sentences on what the rules name and no product has.
    """

    products: tuple[ProductRule, ...] = ()
    caps: Caps | None = None
    not_bought_days: int = 0
    earlier: Earlier | None = None
    notes: tuple[str, ...] = ()

    def allowed(self, count: int) -> np.ndarray:
        """`[I]` bool, what all rules of products allow, of I = `count`."""
        return np.logical_and.reduce([rule.allowed for rule in self.products], initial=True) & np.ones(count, bool)

    def first_taker(self, count: int) -> np.ndarray:
        """`[I]` int, the position of the first rule that does not allow a product; `len(products)`: all do."""
        allowed = [rule.allowed for rule in self.products]
        return np.argmin([*allowed, np.zeros(count, bool)], axis=0)

    def account(self, sold: np.ndarray) -> dict[str, int]:
        """Rule -> the products that it takes of those `sold` `[I]` which the rules before it have left.

        Raises:
          InputError: nothing remains.
        """
        taker = self.first_taker(len(sold))[sold]
        taken = {rule.name: int(np.sum(taker == number)) for number, rule in enumerate(self.products)}
        if self.products and not np.any(taker == len(self.products)):
            told = ", ".join(f"{name} took {number:,}" for name, number in taken.items() if number)
            raise InputError(f"the rules leave none of {counted(len(taker), 'product')} sold: {told}; loosen one")
        return taken


def read_rules(path: Path) -> Rules:
    """The rules of a TOML file; see this module.

    Raises:
      InputError: it is missing or no TOML, or holds a key or value that no rule has.
    """
    try:
        with path.open("rb") as opened:
            content = tomllib.load(opened)
    except OSError:
        raise InputError(f"--rules {path} is no file that can be read; expected a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise InputError(f"{path.name} is not TOML: {problem}") from None
    expected = {field.name for field in dataclasses.fields(Rules)}
    for key in content:
        if key not in expected:
            raise InputError(f"{path.name}: no rule is called {shown(key)}; {nearest(key, expected)}")
    read = {}
    for key, value in content.items():
        place = f"{path.name}: {key}"
        if key == "published":
            if not isinstance(value, bool):
                raise InputError(f"{place} is {shown(str(value))}; expected true or false")
            read[key] = value
        elif key in ("new", "not_bought_days"):
            read[key] = _whole(place, value, 0)
        elif not isinstance(value, dict):
            raise InputError(f"{place} is {shown(str(value))}; expected a table: [{key}] and a line column = ... below")
        elif key == "at_most":
            read[key] = {column: _whole(f"{place}.{column}", most, 1) for column, most in value.items()}
        else:
            read[key] = {column: _texts(f"{place}.{column}", given) for column, given in value.items()}
    return Rules(**read)


def _whole(place: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{place} is {shown(str(value))}; expected a whole number from {least}")
    return value


def _texts(place: str, value: Any) -> tuple[str, ...]:
    several = value if isinstance(value, list) else [value]
    if not several or not all(isinstance(one, str | int | float) for one in several):
        raise InputError(f'{place} is {shown(str(value))}; expected one or more texts such as ["a", "b"]')
    # TOML's true is text in a table.
    return tuple(str(one).lower() if isinstance(one, bool) else str(one) for one in several)


def list_rules(
    rules: Rules,
    products: pd.DataFrame,
    items: Vocabulary,
    *,
    in_stock: Collection[str] | None = None,
    excluded: Collection[str] = (),
    earlier: Earlier | None = None,
) -> ListRules:
    """Rules -> what they mean for the products of a run.

    Args:
      rules: of a file.
      products: products.csv of the run; all cells text.
      items: the products, I of them.
      in_stock: the SKUs that may be sold; None: nothing is known of it.
      excluded: SKUs that no one is to get.
      earlier: what single customers are not to get.

    Raises:
      InputError: a column is not in products.csv, or no product has a value of one of `only`, or of one of `never`
        other than SKUs.
    """
    row = pd.Index(products["sku"].to_numpy(dtype=object)).get_indexer(pd.Index(items.ids, dtype=object))
    made, notes = [], []
    if rules.published:
        made.append(ProductRule("published", _published(products)[row] & (row >= 0)))
    for kind, columns in (("only", rules.only), ("never", rules.never)):
        for column, values in columns.items():
            cells = _cells(products, column, f"[{kind}]", "products")
            strange = _strange(cells, values, f"[{kind}] {column}", "products")
            # A misspelt category would forbid nothing; a list of SKUs may name what is no longer there.
            may_be_gone = kind == "never" and normalised_name(column) == "sku"
            if len(strange) == len(values) and not may_be_gone:
                raise InputError(strange[0])
            notes += strange
            has = np.isin(cells, _folded(values))[row] & (row >= 0)
            made.append(ProductRule(f"{kind} {column}", has if kind == "only" else ~has))
    for name, skus, allows in (("in stock", in_stock, True), ("exclude", excluded or None, False)):
        if skus is not None:
            named = items.index(skus)
            found = np.zeros(len(items), dtype=bool)
            found[named[named >= 0]] = True
            made.append(ProductRule(name, found == allows))
    caps = None
    if rules.at_most:
        groups = []
        for column in rules.at_most:
            values = np.append(_cells(products, column, "[at_most]", "products"), "")[row]
            groups.append(np.where(values == "", -1, np.unique(values, return_inverse=True)[1]).astype(np.int32))
        caps = Caps(np.stack(groups), np.array(list(rules.at_most.values()), dtype=np.int32))
    return ListRules(tuple(made), caps, rules.not_bought_days, earlier, tuple(notes))


def chosen_customers(rules: Rules, customers: pd.DataFrame, ids: Sequence[str]) -> tuple[list[str], dict[str, int]]:
    """The customers of `ids` whom consent and segments leave, and how many each rule left out.

    Raises:
      InputError: a column or value is not in customers.csv, or no customer is left.
    """
    kept = np.ones(len(ids), dtype=bool)
    left_out: dict[str, int] = {}
    row = None
    for kind, columns in (("consent", rules.consent), ("segments", rules.segments)):
        for column, values in columns.items():
            if row is None:
                row = pd.Index(customers["customer_id"].to_numpy(dtype=object)).get_indexer(list(ids))
            # One of whom nothing is known has not agreed, and is in no segment.
            cells = _cells(customers, column, f"[{kind}]", "customers")
            if strange := _strange(cells, values, f"[{kind}] {column}", "customers"):
                raise InputError(strange[0])
            has = np.append(np.isin(cells, _folded(values)), False)[row]
            left_out[f"{kind} {column}"] = int(np.sum(kept & ~has))
            kept &= has
    if left_out and not kept.any():
        told = ", ".join(f"{name} left out {number:,}" for name, number in left_out.items() if number)
        raise InputError(f"the rules leave none of {counted(len(ids), 'customer')}: {told}; loosen one")
    return [name for name, stays in zip(ids, kept, strict=True) if stays] if left_out else list(ids), left_out


def _cells(table: pd.DataFrame, column: str, place: str, noun: str) -> np.ndarray:
    """A column as text `[n]`, trimmed, in one case."""
    known = {str(name): name for name in table.columns}
    name = column if column in known else normalised_name(column)
    if name not in known:
        raise InputError(f"{place} {column}: {noun}.csv has no such column; {nearest(column, known)}")
    cells = table[known[name]].fillna("").astype(str).str.strip().str.casefold()
    return np.array(cells.to_numpy(dtype=object), dtype=object)


def _folded(values: tuple[str, ...]) -> list[str]:
    """Values in the form of `_cells`."""
    return [value.strip().casefold() for value in values]


def _strange(cells: np.ndarray, values: tuple[str, ...], place: str, noun: str) -> list[str]:
    """A sentence on each of the values that none of the cells has."""
    known = set(cells) - {""}
    return [
        f"{place}: no row of {noun}.csv has {shown(value)} there; {_nearest(one, known)}"
        for value, one in zip(values, _folded(values), strict=True)
        if one not in known
    ]


def _nearest(value: str, known: set[str]) -> str:
    """What may be meant, of many values, none of which may be an address."""
    proposal, _, _ = nearest(value, {shown(one)[1:-1] for one in known}).partition("Known:")
    return f"{proposal}There are {counted(len(known), 'value')}: {samples(sorted(known), _SOME)}"


def _published(products: pd.DataFrame) -> np.ndarray:
    """`[n]` bool, the products that all of the columns `PUBLISHED` which are there call so; blank is no."""
    there = [name for name in PUBLISHED if name in products.columns]
    if not there:
        raise InputError(
            f"published = true needs one of the columns {', '.join(PUBLISHED)} in products.csv, which has none; leave "
            "it out"
        )
    return np.logical_and.reduce([np.isin(_cells(products, name, "published", "products"), _YES) for name in there])
