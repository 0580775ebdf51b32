"""What the cells of a text column mean; each distinct value is looked at once, however long the column."""

# pyarrow.compute makes its functions when it is imported:
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from aejax.errors import InputError
from aejax.quality import shown
from aejax.tables.text import Coded, TextFile, physical_lines, place

LARGEST_QUANTITY = 1_000_000
_LATEST_UNIX = 7_258_118_400  # 2200-01-01: above it a timestamp is in milliseconds

_COMMA_NUMBER = r"[+-]?(\d+|\d{1,3}(\.\d{3})+)(,\d+)?"
_OTHER_DATE = r"^(?P<first>\d{1,2})(?P<mark>[./-])(?P<second>\d{1,2})(?P=mark)(?P<year>\d{4}|\d{2})(?:$|\D)"


@dataclasses.dataclass(frozen=True)
class Kind:
    """What the cells of a column are.

    Attributes:
      parse: distinct texts `[V]` -> values `[V]`.
      holds: values -> `[V]` bool, which of them may be.
      expected: what a message says of the others.
      blank_allowed: whether a cell may be blank.
    """

    parse: Callable[[pd.Series], np.ndarray]
    holds: Callable[[np.ndarray], np.ndarray]
    expected: str
    blank_allowed: bool = False


def quantities(file: TextFile, name: str, column: Coded) -> np.ndarray:
    """`[N]` int32 quantities.

    Raises:
      InputError: one is not a whole number, or above a million.
    """
    return _checked(file, name, column, _KINDS["quantity"]).astype(np.int32)[column.codes]


def moments(file: TextFile, name: str, column: Coded) -> tuple[np.ndarray, list[str]]:
    """`[N]` datetime64[s] in UTC, NaT where the cell is blank, and how they were read where they are not ISO dates. A
    time without a zone is UTC.

    Raises:
      InputError: one is no date, or the dates may be read with the day first or the month first.
    """
    form, told = file.date_format, []
    if form is None and (at := _plain_dates(column.values)) is not None:
        return at[column.codes], told
    if form is None and (style := _style(column.values.to_pandas().astype("str"))) is not None:
        form = _form_of(file, name, style)
        told = [f"{name} of {file.path.name} was read as {_written(form)}"]
    kind = _KINDS["moment"]
    if form is not None:
        parse = partial(_formatted, form=form)
        kind = dataclasses.replace(kind, parse=parse, expected=f"a date written {_written(form)}")
    return _checked(file, name, column, kind)[column.codes], told


def with_points(
    file: TextFile, columns: Mapping[str, Coded], names: Iterable[str]
) -> tuple[dict[str, Coded], list[str]]:
    """The columns, with points for decimal commas in those of these names that have such, and what was done.

    Raises:
      InputError: numbers such as 1.000 may be grouped or decimal.
    """
    changed, told = dict(columns), []
    for name in names:
        if name in columns:
            distinct = columns[name].values.to_pandas().astype("str")
            plain = _with_points(distinct, file)
            if plain is None and file.decimal is None and file.separator != "," and _grouped_by_points(distinct):
                raise InputError(
                    f"{file.path.name}: {name} holds numbers such as 1.000, which is one or a thousand; say which: "
                    f'--columns orders.decimal="," (a thousand) or orders.decimal="." (one)'
                )
            if plain is not None and (name != "lineitem_quantity" or _whole(plain)):
                changed[name] = dataclasses.replace(columns[name], values=pa.array(plain, pa.string()))
                told.append(f"{name} of {file.path.name} was read with a decimal comma")
    return changed, told


def numbers_with_points(file: TextFile, frame: pd.DataFrame, names: Iterable[str]) -> list[str]:
    """Write points for the decimal commas of those columns that are numbers with such; returns what was done.

    Only where no comma separates cells, or the mapping says so: else `12,15` may as well be a list.
    """
    if file.decimal != "," and file.separator == ",":
        return []
    done = []
    for name in names:
        column = pd.Series(frame[name])
        few = pd.Series(column[column != ""]).iloc[:20].str.strip()
        if len(few) and few.str.fullmatch(_COMMA_NUMBER).all():
            distinct = pd.Series(frame[name].unique(), dtype="str")
            plain = _with_points(distinct.str.strip(), file)
            if plain is not None:
                frame[name] = plain.to_numpy()[pd.Index(distinct).get_indexer(column)]
                done.append(name)
    return [f"{', '.join(done)} of {file.path.name}: read with a decimal comma"] if done else []


def _with_points(distinct: pd.Series, file: TextFile) -> pd.Series | None:
    """The numbers with points for commas; None where they need none, or nothing tells that a comma is a decimal one."""
    given = file.decimal
    written = pd.Series(distinct[distinct != ""])
    if given == ".":
        grouped = distinct.str.replace(",", "", regex=False)
        return grouped if written.str.fullmatch(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?").any() else None
    has_comma = written.str.contains(",", regex=False)
    if not has_comma.any() and not (given == "," and _grouped_by_points(distinct)):
        return None
    if not written.str.fullmatch(_COMMA_NUMBER).all():
        return None
    # 1,000 is one or a thousand. Where cells are separated by other than a comma, the comma is in use for decimals.
    thousands = pd.Series(written[has_comma]).str.fullmatch(r"[+-]?[1-9]\d{0,2}(,\d{3})+")
    if given is None and file.separator != ";" and thousands.all():
        return None
    return distinct.str.replace(".", "", regex=False).str.replace(",", ".", regex=False)


def _grouped_by_points(distinct: pd.Series) -> bool:
    """Whether some numbers may have points between thousands, and none speaks against it."""
    written = pd.Series(distinct[distinct != ""])
    grouped = written.str.fullmatch(r"[+-]?[1-9]\d{0,2}(\.\d{3})+")
    return bool(grouped.any()) and bool((grouped | written.str.fullmatch(r"[+-]?\d{1,3}")).all())


def _whole(plain: pd.Series) -> bool:
    """Whether all numbers are whole; where not, the message is to show them as they are written."""
    number = pd.Series(plain[plain != ""]).to_numpy().astype(float)
    return bool((number == np.round(number)).all())


def _style(distinct: pd.Series) -> pd.DataFrame | None:
    """The parts of dates that are not written as ISO has it: `first`, `mark`, `second`, `year`; None
    where fewer than half are.
    """
    written = pd.Series(distinct[distinct != ""])
    iso = written.str.match(r"\d{4}-\d{2}-\d{2}")
    if not len(written) or iso.all():
        return None
    parts = pd.Series(written[~iso]).str.extract(_OTHER_DATE)
    other = parts["mark"].notna()
    return parts[other] if other.sum() * 2 > len(written) else None


def _form_of(file: TextFile, name: str, style: pd.DataFrame) -> str:
    """The `strptime` form that all of them have, so far as their parts tell.

    Raises:
      InputError: the day and the month cannot be told apart.
    """
    mark = style["mark"].mode().iloc[0]
    first, second = style["first"].astype(int), style["second"].astype(int)
    day_first = mark == "." or bool(np.any(first > 12))
    if not day_first and not np.any(second > 12):
        table = "orders" if name == "created_at" else "TABLE"
        raise InputError(
            f"{file.path.name}: {name} may be read with the day first or the month first (no part is above 12); say "
            f'which: --columns {table}.date_format="%d{mark}%m{mark}%Y" or "%m{mark}%d{mark}%Y"'
        )
    date = ("%d", "%m") if day_first else ("%m", "%d")
    return mark.join((*date, "%Y" if (style["year"].str.len() == 4).any() else "%y"))


def _formatted(text: pd.Series, form: str) -> np.ndarray:
    """Datetime64[s] of dates of a form, with or without a time of day behind them where the form has none; else NaT."""
    at = pd.Series(pd.NaT, index=text.index, dtype="datetime64[s]")
    times = [""] if re.search("%[HIMSTcfpXzZ]", form) else ["", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p"]
    try:
        for time in times:
            missing = at.isna()
            if not missing.any():
                break
            parsed = pd.to_datetime(pd.Series(text[missing]), format=form + time, errors="coerce", utc=True)
            at[missing] = parsed.dt.tz_localize(None).astype("datetime64[s]")
    except (ValueError, OverflowError):
        raise InputError(f'date_format is "{form}"; expected one such as "%d.%m.%Y" or "%d.%m.%Y %H:%M"') from None
    return at.to_numpy()


def _written(form: str) -> str:
    """`DD.MM.YYYY` of `%d.%m.%Y`."""
    for code, letters in (("%d", "DD"), ("%m", "MM"), ("%Y", "YYYY"), ("%y", "YY")):
        form = form.replace(code, letters)
    return form


def ratings(file: TextFile, name: str, column: Coded) -> np.ndarray:
    """`[N]` float64 ratings.

    Raises:
      InputError: one is not a number.
    """
    return _checked(file, name, column, _KINDS["rating"])[column.codes]


def prices(file: TextFile, name: str, column: Coded) -> np.ndarray:
    """`[N]` float32 prices; NaN where the cell is blank.

    Raises:
      InputError: one is not a number.
    """
    return _checked(file, name, column, _KINDS["price"]).astype(np.float32)[column.codes]


def unix_moments(file: TextFile, name: str, column: Coded) -> np.ndarray:
    """`[N]` datetime64[s] from Unix seconds.

    Raises:
      InputError: one is not a number, or beyond the year 2200.
    """
    number = _checked(file, name, column, _KINDS["unix moment"])
    return number.astype(np.int64).astype("datetime64[s]")[column.codes]


def check_unique(file: TextFile, name: str, ids: pd.Series, rows: np.ndarray) -> None:
    """Check that no id occurs twice.

    Args:
      file: the file.
      name: the column's name.
      ids: `[n]` the ids.
      rows: `[n]` the row of the file where each stands.

    Raises:
      InputError: one does; names it and both its lines.
    """
    repeated = ids.duplicated(keep=False).to_numpy()
    if repeated.any():
        first = int(repeated.argmax())
        second = int(np.flatnonzero((ids == ids.iloc[first]).to_numpy())[1])
        line, again = physical_lines(file, [rows[first], rows[second]])
        raise InputError(
            f"{file.path.name}:{again}: {name} {shown(ids.iloc[first])} stands in line {line} already; keep one of them"
        )


def _checked(file: TextFile, name: str, column: Coded, kind: Kind) -> np.ndarray:
    """The distinct values `[V]`, parsed; the message names the first row with one that does not hold."""
    distinct = column.values.to_pandas().astype("str")
    parsed = kind.parse(distinct)
    bad = ~kind.holds(parsed)
    if kind.blank_allowed:
        bad &= (distinct != "").to_numpy()
    if bad.any():
        row = int(bad[column.codes].argmax())
        found = shown(column.text(row)) if column.text(row) else "blank"
        raise InputError(f"{place(file, row)}: {name} is {found}; expected {kind.expected}")
    return parsed


def _numbers(text: pd.Series) -> np.ndarray:
    """Float64; NaN where it is none."""
    return np.asarray(pd.to_numeric(text, errors="coerce"), dtype=float)


def _plain_dates(values: pa.StringArray) -> np.ndarray | None:
    """Datetime64[s] where all are ISO dates or moments of whole seconds without a zone, or blank; else None."""
    try:
        return pc.if_else(pc.equal(values, ""), None, values).cast(pa.timestamp("s")).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        return None


def _dates(text: pd.Series) -> np.ndarray:
    """Datetime64[s] of ISO dates; NaT where it is none."""
    at = pd.to_datetime(text.str.removesuffix(" UTC"), format="ISO8601", utc=True, errors="coerce")
    written = text.str.match(r"\d{4}-\d{2}-\d{2}").to_numpy(dtype=bool)
    return np.where(written, at.dt.tz_localize(None).to_numpy().astype("datetime64[s]"), np.datetime64("NaT", "s"))


_KINDS = {
    "quantity": Kind(
        _numbers,
        lambda number: (number == np.round(number)) & (np.abs(number) <= LARGEST_QUANTITY),
        f"a whole number from -{LARGEST_QUANTITY:,} to {LARGEST_QUANTITY:,} without separators, such as 2",
    ),
    "rating": Kind(_numbers, np.isfinite, "a number such as 4.5"),
    "price": Kind(_numbers, np.isfinite, "a number without currency, such as 4.50", blank_allowed=True),
    "moment": Kind(
        _dates,
        lambda at: ~np.isnat(at),
        "an ISO date such as 2024-05-01, 2024-05-01T09:58:12 or 2024-05-01 09:58:12 +0200",
        blank_allowed=True,
    ),
    "unix moment": Kind(
        _numbers,
        lambda number: np.abs(number) <= _LATEST_UNIX,
        "Unix seconds such as 1714557492 (milliseconds are to be divided by 1000)",
    ),
}
