"""What the cells of a text column mean: schemas that look at each distinct value once, however long the column."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pandera.pandas as pandera
from pandera.errors import SchemaErrors

from aejax.errors import InputError
from aejax.quality import shown
from aejax.tables.text import Coded, TextFile, physical_lines, place

LARGEST_QUANTITY = 1_000_000
_LATEST_UNIX = 7_258_118_400  # 2200-01-01: above it a timestamp is in milliseconds

QUANTITIES = pandera.DataFrameSchema(
    {
        "number": pandera.Column(
            float,
            [
                pandera.Check(lambda number: number == number.round(), name="whole"),
                pandera.Check.in_range(-LARGEST_QUANTITY, LARGEST_QUANTITY),
            ],
        )
    },
    description=f"a whole number from -{LARGEST_QUANTITY:,} to {LARGEST_QUANTITY:,} without separators, such as 2",
)
MOMENTS = pandera.DataFrameSchema(
    {"written": pandera.Column(bool, pandera.Check(lambda written: written)), "at": pandera.Column(None)},
    description="an ISO date such as 2024-05-01, 2024-05-01T09:58:12 or 2024-05-01 09:58:12 +0200",
)
RATINGS = pandera.DataFrameSchema(
    {"number": pandera.Column(float, pandera.Check(np.isfinite, name="finite"))}, description="a number such as 4.5"
)
UNIX_SECONDS = pandera.DataFrameSchema(
    {"number": pandera.Column(float, pandera.Check.in_range(-_LATEST_UNIX, _LATEST_UNIX))},
    description="Unix seconds such as 1714557492 (milliseconds are to be divided by 1000)",
)
PRICES = pandera.DataFrameSchema(
    {"number": pandera.Column(float, pandera.Check(np.isfinite, name="finite"))},
    description="a number without currency, such as 4.50",
)
IDS = pandera.DataFrameSchema({"id": pandera.Column(None, unique=True)})


def quantities(file: TextFile, name: str, column: Coded) -> np.ndarray:
    """`[N]` int32 quantities.

    Raises:
      InputError: one is not a whole number, or above a million.
    """
    number = _checked(file, name, column, QUANTITIES, _numbers)["number"].to_numpy()
    return number.astype(np.int32)[column.codes]


def moments(file: TextFile, name: str, column: Coded) -> np.ndarray:
    """`[N]` datetime64[s] in UTC; NaT where the cell is blank. A time without a zone is UTC.

    Raises:
      InputError: one is not an ISO date.
    """
    at = _checked(file, name, column, MOMENTS, _dates, blank_allowed=True)["at"]
    return at.to_numpy().astype("datetime64[s]")[column.codes]


def ratings(file: TextFile, name: str, column: Coded) -> np.ndarray:
    """`[N]` float64 ratings.

    Raises:
      InputError: one is not a number.
    """
    return _checked(file, name, column, RATINGS, _numbers)["number"].to_numpy()[column.codes]


def prices(file: TextFile, name: str, column: Coded) -> np.ndarray:
    """`[N]` float32 prices; NaN where the cell is blank.

    Raises:
      InputError: one is not a number.
    """
    number = _checked(file, name, column, PRICES, _numbers, blank_allowed=True)["number"].to_numpy()
    return number.astype(np.float32)[column.codes]


def unix_moments(file: TextFile, name: str, column: Coded) -> np.ndarray:
    """`[N]` datetime64[s] from Unix seconds.

    Raises:
      InputError: one is not a number, or beyond the year 2200.
    """
    number = _checked(file, name, column, UNIX_SECONDS, _numbers)["number"].to_numpy()
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
    try:
        IDS.validate(pd.DataFrame({"id": ids.to_numpy()}), lazy=True)
    except SchemaErrors as problem:
        first = int(problem.failure_cases["index"].min())
        second = int(np.flatnonzero((ids == ids.iloc[first]).to_numpy())[1])
        line, again = physical_lines(file, [rows[first], rows[second]])
        raise InputError(
            f"{file.path.name}:{again}: {name} {shown(ids.iloc[first])} stands in line {line} already; keep one of them"
        ) from None


def _checked(
    file: TextFile,
    name: str,
    column: Coded,
    schema: pandera.DataFrameSchema,
    parse: Callable[[pd.Series], pd.DataFrame],
    blank_allowed: bool = False,
) -> pd.DataFrame:
    """The distinct values `[V]`, parsed and validated; the message names the first row with a bad one."""
    distinct = column.values.to_pandas().astype("str")
    parsed = parse(distinct)
    present = parsed.loc[distinct != ""] if blank_allowed else parsed
    try:
        schema.validate(present, lazy=True)
    except SchemaErrors as problem:
        bad = problem.failure_cases["index"].to_numpy().astype(int)
        row = int(np.flatnonzero(np.isin(column.codes, bad))[0])
        found = shown(column.text(row)) if column.text(row) else "blank"
        raise InputError(f"{place(file, row)}: {name} is {found}; expected {schema.description}") from None
    return parsed


def _numbers(text: pd.Series) -> pd.DataFrame:
    return pd.DataFrame({"number": pd.to_numeric(text, errors="coerce")}, dtype=float)


def _dates(text: pd.Series) -> pd.DataFrame:
    at = pd.to_datetime(text.str.removesuffix(" UTC"), format="ISO8601", utc=True, errors="coerce")
    return pd.DataFrame({"written": text.str.match(r"\d{4}-\d{2}-\d{2}").astype(bool), "at": at.dt.tz_localize(None)})
