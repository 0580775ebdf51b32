"""Columns of customers.csv and products.csv -> sparse matrices with named features.

Two steps, both pure: `recognise` looks at a whole table and says how each column is used, and `encode` makes features
of rows by that; what it has not seen, such as a new category, is no feature. How numbers are read (which of 1,299 and
1.299 is the larger) is settled in the first and holds in the second; where nothing in a column tells, a note says so.
The kinds of column:

* `category`: each value that two rows share is a feature; empty is none.
* `number`: bands of about equally many rows; a price may be text with a currency sign and thousands separators.
* `text`: a feature per word, weighing its inverse document frequency, each row of length 1 (TF-IDF with a word counted
  once a row; Salton and Buckley 1988). The `MOST_WORDS` words are kept whose presence has the largest entropy.
* `none`: not used: empty, the same in every row, or an id in disguise.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp

from aejax.errors import InputError, nearest
from aejax.interactions import Features
from aejax.quality import counted, shown

KINDS = ("category", "number", "text", "none")
BANDS = 10
MOST_WORDS = 2000
# A column is numbers where so many of its cells and of its different values are: "5+" among 1 to 4 makes a category.
NUMBERS = 0.9
# An id in disguise has so many different values a row; what is said of a product in several words may be unique.
UNIQUE = 0.95

# What of a product is on offer says nothing of what it is.
_OFFERED = (("products", "variant_sku"), ("products", "variants"))
_TEXT_NAMES = ("title", "name", "description")
_ID_NAME = re.compile(r"(^|_)(id|ids|code|no|nr|number|zip|postcode)$", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]{2,}")
# A code as a column of ids holds it: in one piece and with a digit, or without a word beside its digits.
_CODE = re.compile(r"(?=.*\d)(?:\S+|(?!.*[^\W\d_]{3}).*)", re.DOTALL)
_CODES = (
    "usd|eur|gbp|chf|jpy|cny|rmb|cad|aud|nzd|hkd|sgd|krw|inr|brl|mxn|clp|zar|aed|sar|ils|try|tl|rub|руб|uah|sek|nok|"
    "dkk|isk|kr|pln|zł|czk|kč|huf|ron|lei|bgn|лв|fr|rs|rp|rm"
)
# With "$" for every currency sign: US$5, R$ 5, Kč 5, 5 €, 5 $CA, and 5,- for a price without decimals.
_CURRENCY = re.compile(
    rf"^([+-]?)(?:[a-z]{{0,3}}\$|(?:{_CODES})\.?)|(?:[.,][-–—]+)?(?:\$(?:[a-z]{{2}})?|(?:{_CODES})\.?)?$"
)
_CODE_AND_SPACE = re.compile(r"[^\W\d_]\.?\s+[\d+-]|\d\s+[^\W\d_]")
_DIGIT = re.compile(r"\d")
# How a number may be written, by the sign before its decimals; the other one separates thousands.
_WRITTEN = {
    ".": re.compile(r"[+-]?(?:\d+|[1-9]\d{0,2}(?:,\d{3})+)?(?:\.\d*)?"),
    ",": re.compile(r"[+-]?(?:\d+|[1-9]\d{0,2}(?:\.\d{3})+)?(?:,\d*)?"),
}


@dataclasses.dataclass(frozen=True)
class Attribute:
    """How a column is used.

    Attributes:
      column: its name.
      kind: one of `KINDS`.
      note: why it is not used, or what of it is not; empty where there is nothing to say.
      is_warning: whether the note is one.
      values: of its features: categories, bands or words.
      edges: `number`: the inner edges of the bands, increasing; a band starts at its edge.
      decimal: `number`: the sign before decimals, point or comma, where a cell alone does not tell.
      weights: `text`: the inverse document frequency of each word.
    """

    column: str
    kind: str
    note: str = ""
    is_warning: bool = False
    values: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()
    decimal: str = "."
    weights: tuple[float, ...] = ()


def from_plain(plain: Mapping[str, Any]) -> Attribute:
    """The attribute of which `dataclasses.asdict` was stored as JSON."""
    values: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in plain.items()}
    return Attribute(**values)


def recognise(tables: Mapping[str, pd.DataFrame], given: Mapping[str, str]) -> dict[str, tuple[Attribute, ...]]:
    """How each column of `products` and `customers` is used.

    Args:
      tables: `products` and `customers` -> a row each, the id first; all cells text, blank where there is none.
      given: column, or table.column -> the kind that it shall have in place of what it looks like.

    Raises:
      InputError: an unknown column or kind, or numbers asked of a column that holds none.
    """
    coded = {
        (table, str(name)): _Coded.of(frame, name)
        for table, frame in tables.items()
        for name in frame.columns[1:]
        if (table, name) not in _OFFERED
    }
    # Where no product has a title, the column is not of the source.
    columns = {
        f"{table}.{name}": (table, name) for (table, name), cells in coded.items() if name != "title" or cells.rows
    }
    chosen: dict[str, str] = {}
    for name, kind in given.items():
        if kind not in KINDS:
            raise InputError(f"--attributes {name}={kind}: no such kind; {nearest(kind, KINDS)}")
        meant = [full for full, (_, column) in columns.items() if name in (full, column)]
        if not meant:
            known = columns if "." in name else {column for _, column in columns.values()}
            raise InputError(f"--attributes {name}={kind}: no such column; {nearest(name, known)}")
        chosen |= dict.fromkeys(meant, kind)
    return {
        table: tuple(
            _recognise(column, coded[own, column], chosen.get(full), table)
            for full, (own, column) in columns.items()
            if own == table
        )
        for table in tables
    }


def report(found: Mapping[str, Sequence[Attribute]]) -> dict[str, Any]:
    """How each column is used, as plain data: table -> column -> `{"kind", "features", "note", "warning"}`."""
    return {
        table: {
            one.column: {"kind": one.kind, "features": len(one.values), "note": one.note, "warning": one.is_warning}
            for one in attributes
        }
        for table, attributes in found.items()
    }


def summary_lines(reported: Mapping[str, Any]) -> list[str]:
    """What `report` returned in plain sentences, for the terminal; of a table without further columns there is none."""
    sentences, warnings = [], []
    for table, columns in reported.items():
        used = [f"{name} as {one['kind']} ({one['features']:,})" for name, one in columns.items() if one["features"]]
        if used:
            features = sum(one["features"] for one in columns.values())
            sentences.append(f"Found attributes of {table}, {counted(features, 'feature')}: {', '.join(used)}.")
        for name, one in columns.items():
            if one["note"]:
                what = "" if one["features"] else " is not used"
                sentence = f"{table}.csv: {name}{what}: {one['note']}."
                (warnings if one["warning"] else sentences).append(sentence)
    return sentences + [f"Warning: {warning}" for warning in warnings]


def encode(attributes: Sequence[Attribute], table: pd.DataFrame, ids: Iterable[str]) -> Features:
    """The features of some rows of a table.

    Args:
      attributes: what `recognise` found, of this table or of an earlier one with the same columns.
      table: its first column holds ids, each once.
      ids: of n rows, in the order in which they come out; one that the table lacks has no features.

    Returns:
      `[n, F]` with the features of all attributes, those that no row has among them.
    """
    used = [attribute for attribute in attributes if attribute.values]
    ids = list(ids)
    if not used:
        return Features(sp.csr_array((len(ids), 0), dtype=np.float32), ())
    row = pd.Index(table.iloc[:, 0].to_numpy(dtype=object)).get_indexer(pd.Index(ids, dtype=object))
    blocks: list[sp.csr_array] = []
    names: list[tuple[str, str]] = []
    for attribute in used:
        cells = _Coded.of(table, attribute.column)
        places, which = np.unique(np.append(cells.place, len(cells.different))[row], return_inverse=True)
        different = [*cells.different, ""]
        blocks.append(sp.csr_array(_features(attribute, [different[place] for place in places])[which]))
        names += [(attribute.column, value) for value in attribute.values]
    return Features(sp.csr_array(sp.hstack(blocks, format="csr", dtype=np.float32)), tuple(names))


class _Coded(NamedTuple):
    """A column as stripped text; an id that stands in for a missing title is no title.

    Attributes:
      different: its k different cells, in the order in which they come first.
      place: `[n]`, which of them each row has.
    """

    different: list[str]
    place: np.ndarray

    @classmethod
    def of(cls, table: pd.DataFrame, column: str) -> _Coded:
        texts = table[column].fillna("").astype(str)
        if column == "title":
            texts = texts.mask(texts.str.strip() == table.iloc[:, 0], "")
        place, different = pd.factorize(texts)
        stripped, texts = pd.factorize(
            np.array([text.strip() for text in np.asarray(different, dtype=object)], dtype=object)
        )
        return cls(texts.tolist(), stripped[place])

    @property
    def rows(self) -> dict[str, int]:
        """How many rows have each cell that is not blank."""
        counts = np.bincount(self.place, minlength=len(self.different)).tolist()
        return {cell: rows for cell, rows in zip(self.different, counts, strict=True) if cell}


def _recognise(column: str, cells: _Coded, given: str | None, table: str) -> Attribute:
    counts = cells.rows
    filled = sum(counts.values())
    if given == "none":
        return Attribute(column, "none", "as --attributes says")
    if not counts:
        return Attribute(column, "none", "it is empty")
    if len(counts) == 1 and filled == len(cells.place):
        return Attribute(column, "none", "it is the same in every row")
    kind = given
    if given in (None, "number"):
        decimals = decimals_of(counts)
        numbers = parse_numbers(counts, decimals.sign)
        kind = given or _kind(column, counts, numbers, filled, is_price=decimals.is_price)
        if kind == "number":
            return _bands(column, counts, numbers, decimals, table)
    if kind == "id":
        return Attribute(
            column,
            "none",
            f"it differs in nearly every row, as an id does; --attributes {column}=category (or text, number) uses it",
            is_warning=True,
        )
    if kind == "text":
        return _words(column, counts, filled)
    shared = tuple(sorted(value for value, rows in counts.items() if rows > 1))
    if not shared:
        return Attribute(column, "none", "no two rows share a value", is_warning=given is not None)
    return Attribute(column, "category", values=shared)


def _kind(column: str, counts: Mapping[str, int], numbers: Mapping[str, float], filled: int, *, is_price: bool) -> str:
    """What a column looks like: a kind, or `id`."""
    rows = sum(counts[value] for value in numbers)
    is_number = rows >= NUMBERS * filled and len(numbers) >= NUMBERS * len(counts)
    is_unique = len(counts) >= UNIQUE * filled
    words = sum(len(_WORD.findall(value)) * number for value, number in counts.items()) / filled
    if is_number and not _ID_NAME.search(column):
        whole = all(number == int(number) for number in numbers.values())
        return "id" if is_unique and whole and not is_price else "number"
    if is_unique and sum(_CODE.fullmatch(value) is not None for value in counts) >= UNIQUE * len(counts):
        return "id"
    if words > 1.5 and (column.lower() in _TEXT_NAMES or 2 * len(counts) > filled):
        return "text"
    return "id" if is_unique else "category"


class Decimals(NamedTuple):
    """How the numbers of a column are written.

    Attributes:
      sign: the one before decimals, `.` or `,`.
      doubtful: a text of which nothing in the column tells how to read it; empty where there is none.
      is_price: a currency stands before or behind most of them.
    """

    sign: str
    doubtful: str
    is_price: bool


def decimals_of(values: Iterable[str]) -> Decimals:
    """Different texts of a column -> how its numbers are written.

    The sign before decimals is that of most numbers which can be read in one way alone (1.5, 1,299.00, 1,000,000 or
    1,5, 1.299,00, 1.000.000). Where that does not decide and there are numbers such as 1.299 or 1,299, one of these is
    `doubtful`, and one currency tells what all of them are: prices have two decimals or none, so in most prices the
    sign is one of thousands; of other numbers the point stands before decimals, as in a weight of 1.299 kg, and the
    comma separates thousands.
    """
    votes: Counter[str] = Counter()
    doubtful: dict[str, list[str]] = {".": [], ",": []}
    prices = numbers = 0
    for value in values:
        text, has_currency = _without_currency(value)
        written = _readings(text)
        numbers += bool(written)
        prices += bool(written) and has_currency
        separator = next((sign for sign in doubtful if sign in text), None)
        if len(written) == 1:
            votes[written[0]] += 1
        elif written and separator:
            doubtful[separator].append(value)
    is_price = 2 * prices > numbers
    if votes["."] != votes[","]:
        return Decimals("," if votes[","] > votes["."] else ".", "", is_price)
    points, commas = doubtful["."], doubtful[","]
    sign = "," if prices and len(points) > len(commas) else "."
    return Decimals(sign, next(iter(points or commas), ""), is_price)


def parse_numbers(values: Iterable[str], decimal: str) -> dict[str, float]:
    """Different texts -> the numbers that they are, without those that are none.

    A currency sign or code may stand before or behind.

    Args:
      values: the texts.
      decimal: the sign before decimals in what can be read in two ways: 1,299 and 1.299 (see `decimals_of`).
    """
    found = {}
    for value in values:
        text, _ = _without_currency(value)
        if written := _readings(text):
            sign = decimal if decimal in written else written[0]
            number = float(text.replace("," if sign == "." else ".", "").replace(sign, "."))
            if math.isfinite(number):
                found[value] = number
    return found


def _readings(text: str) -> list[str]:
    """The signs that may be the one before the decimals of this number; of what is no number none."""
    return [sign for sign, written in _WRITTEN.items() if written.fullmatch(text)] if _DIGIT.search(text) else []


def _without_currency(value: str) -> tuple[str, bool]:
    """A text without spaces and apostrophes, and without a currency at its ends, in lower case; and whether there was
    one: a sign, or a code with a space or decimals beside it, for RM100 may be a shelf as well as ringgit.
    """
    if not _DIGIT.search(value):
        return "", False
    text = unicodedata.normalize("NFC", value.lower())
    if not text.isascii():
        text = "".join("$" if unicodedata.category(sign) == "Sc" else sign for sign in text)
    has_space = _CODE_AND_SPACE.search(text) is not None
    text = re.sub(r"[\s'’]", "", text)
    bare = _CURRENCY.sub(lambda found: found[1] or "", text)
    return bare, bare != text and (has_space or not set("$.,").isdisjoint(text))


def _bands(
    column: str, counts: Mapping[str, int], numbers: Mapping[str, float], decimals: Decimals, table: str
) -> Attribute:
    if not numbers:
        raise InputError(
            f"--attributes {column}=number: {table}.csv holds no number there, but {shown(next(iter(counts)))}"
        )
    others = sum(rows for value, rows in counts.items() if value not in numbers)
    values = np.repeat(list(numbers.values()), [counts[value] for value in numbers])
    edges = np.unique(np.quantile(values, np.arange(1, BANDS) / BANDS, method="lower"))
    edges = edges[edges > values.min()]
    bounds = [f"{edge:g}" for edge in edges]
    names = [f"below {bounds[0]}", *map(" to ".join, itertools.pairwise(bounds))] if bounds else []
    last = [f"{bounds[-1]} or more"] if bounds else []
    if not bounds:
        return Attribute(column, "none", "nearly all its numbers are the same")
    notes = []
    if others:
        odd = next(value for value in counts if value not in numbers)
        notes.append(f"{others:,} of its cells are no number, such as {shown(odd)}, and no feature")
    if decimals.doubtful:
        read = numbers[decimals.doubtful]
        how = "thousands" if abs(read) >= 1000 else "decimals"
        notes.append(
            f"nothing in it tells whether {shown(decimals.doubtful)} has thousands or decimals; it is read as "
            f"{read:g}, with {how}; write some cell with two decimals (1.50 or 1,50) to settle it"
        )
    return Attribute(
        column,
        "number",
        "; ".join(notes),
        bool(notes),
        (*names, *last),
        edges=tuple(float(edge) for edge in edges),
        decimal=decimals.sign,
    )


def _words(column: str, counts: Mapping[str, int], filled: int) -> Attribute:
    found: Counter[str] = Counter()
    for value, rows in counts.items():
        for word in set(_WORD.findall(value.lower())):
            found[word] += rows
    known = {word: rows for word, rows in found.items() if 1 < rows < filled}
    if not known:
        return Attribute(column, "none", "no word of it is in some rows and not in all")
    kept = sorted(known, key=lambda word: (-_entropy(known[word] / filled), word))[:MOST_WORDS]
    note = f"of {len(found):,} different words {len(kept):,} are used" if len(kept) < len(found) else ""
    kept.sort()
    weights = tuple(math.log((1 + filled) / (1 + known[word])) + 1.0 for word in kept)
    return Attribute(column, "text", note, values=tuple(kept), weights=weights)


def _entropy(share: float) -> float:
    return -share * math.log(share) - (1.0 - share) * math.log1p(-share)


def _features(attribute: Attribute, different: Sequence[str]) -> sp.csr_array:
    """Different cells of a column, k -> their features, `[k, values]`."""
    position = {value: number for number, value in enumerate(attribute.values)}
    rows: list[Sequence[int]]
    if attribute.kind == "number":
        numbers = parse_numbers(different, attribute.decimal)
        edges = np.array(attribute.edges)
        rows = [[int(np.searchsorted(edges, numbers[cell], "right"))] if cell in numbers else [] for cell in different]
    elif attribute.kind == "category":
        rows = [[position[cell]] if cell in position else [] for cell in different]
    else:
        words = (set(_WORD.findall(cell.lower())) for cell in different)
        rows = [sorted(position[word] for word in own if word in position) for own in words]
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    indices = np.array([index for row in rows for index in row], dtype=np.int32)
    data = np.ones(len(indices), dtype=np.float32)
    if attribute.kind == "text":
        data = np.asarray(attribute.weights, dtype=np.float64)[indices]
        owner = np.repeat(np.arange(len(rows)), lengths)
        norm = np.sqrt(np.bincount(owner, weights=data**2, minlength=len(rows)))
        data = data / norm[owner]
    shape = (len(different), len(attribute.values))
    return sp.csr_array((data.astype(np.float32), indices, np.concatenate([[0], np.cumsum(lengths)])), shape=shape)
