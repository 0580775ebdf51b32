"""Columns of several files as one, and cells that stand once for several rows."""

# pyarrow.compute makes its functions when it is imported:
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from aejax.tables import text
from aejax.tables.text import Coded, TextFile


def without_apostrophe(values: Sequence[str]) -> list[str]:
    """Values without the apostrophe that keeps a spreadsheet from reading them as numbers."""
    return [value.removeprefix("'").strip() for value in values]


def joined(columns: Sequence[Coded]) -> Coded:
    """The rows of several columns, one after the other."""
    starts = np.cumsum([0, *(len(column.values) for column in columns)])
    values = pa.concat_arrays([column.values for column in columns]).dictionary_encode()
    codes = np.concatenate([column.codes + start for column, start in zip(columns, starts[:-1], strict=True)])
    return Coded(values.dictionary, values.indices.to_numpy()[codes])


def blank_column(rows: int) -> Coded:
    """A column without anything in it."""
    return Coded(pa.array([""]), np.zeros(rows, dtype=np.int32))


def filled(order: np.ndarray, own: np.ndarray, has: np.ndarray) -> np.ndarray:
    """The row `[N]` that each row takes a cell from: itself where it has one, else the first of its order that has.

    Args:
      order: `[N]` which order each row is of.
      own: `[N]` whether the row belongs to no order but its own.
      has: `[N]` whether the cell is filled.
    """
    first = np.full(int(order.max(initial=-1)) + 1, -1, dtype=np.int64)
    rows = np.flatnonzero(has & ~own)
    first[order[rows[::-1]]] = rows[::-1]
    themselves = np.arange(len(order))
    return np.where(has | own | (first[order] < 0), themselves, first[order])


def parts(group: np.ndarray, file: np.ndarray, head: np.ndarray) -> np.ndarray:
    """The file `[N]` that each row goes with: its own where its group begins in it, else the nearest before in which it
    begins, or after where none before does: an export of several parts cuts a group where a part is full.

    Args:
      group: `[N]` which order or product each row is of.
      file: `[N]` the file it stands in.
      head: `[N]` whether it is a row that a group begins with.
    """
    files = int(file.max(initial=0)) + 1
    held, position = np.unique(group.astype(np.int64) * files + file, return_inverse=True)
    own = pd.Series(held % files)
    begins = own.where(np.bincount(position, weights=head, minlength=len(held)) > 0).groupby(held // files)
    return begins.ffill().fillna(begins.bfill()).fillna(own).to_numpy(dtype=np.int64)[position]


def frame_of(file: TextFile) -> pd.DataFrame:
    """All columns of a file as trimmed text."""
    frame = text.read_columns(file, file.names, coded=False)
    return pd.DataFrame(
        {name: pc.utf8_trim_whitespace(frame[name]).to_pandas() for name in frame.column_names}, dtype="str"
    )
