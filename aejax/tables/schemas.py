"""What the distinct values of a column must be, as schemas: apart, for what checks them takes long to import."""

from __future__ import annotations

import numpy as np
import pandera.pandas as pandera

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


def dates_written(form: str) -> pandera.DataFrameSchema:
    """`MOMENTS` of dates that are written otherwise."""
    return pandera.DataFrameSchema(dict(MOMENTS.columns), description=f"a date written {form}")
