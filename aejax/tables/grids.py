"""Tables that are no text, as text: Parquet, a column at a time, and the first sheet of a workbook."""

# pyarrow.compute makes its functions when it is imported:
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import dataclasses
import datetime
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from aejax.errors import InputError
from aejax.quality import shown
from aejax.tables import sources

SUFFIXES = (".parquet", ".xlsx")


@dataclasses.dataclass(frozen=True)
class Grid:
    """A table whose cells are typed.

    Attributes:
      header: the column names.
      read: columns of the header -> a table of strings, blank where a cell is empty.
      lines: rows -> the rows as the file's own program numbers them.
      told: what was guessed.
    """

    header: tuple[str, ...]
    read: Callable[[Sequence[str]], pa.Table]
    lines: Callable[[Sequence[int]], list[int]]
    told: tuple[str, ...] = ()


def open_grid(path: Path) -> Grid:
    """Open a Parquet file or a workbook.

    Raises:
      InputError: it is damaged, unpacks to more than a table of its size does, has a column that is neither text,
        number nor date, or is a workbook and the extra `excel` is not installed.
    """
    return _open_parquet(path) if path.suffix == ".parquet" else _open_workbook(path)


def _open_parquet(path: Path) -> Grid:
    try:
        with pq.ParquetFile(path) as file:
            metadata, header = file.metadata, tuple(file.schema_arrow.names)
            unpacked = sum(metadata.row_group(n).total_byte_size for n in range(metadata.num_row_groups))
    except (pa.ArrowException, OSError, ValueError) as problem:
        raise _unreadable(path, problem) from None
    # A value that never changes takes no space however many rows it fills; a table of orders has others too.
    sources.check_expansion(path, max(unpacked, metadata.num_rows))

    def read(columns: Sequence[str]) -> pa.Table:
        try:
            with pq.ParquetFile(path) as file:
                plain = not any("." in name for name in header)  # a dot would lead into a nested column
                table = file.read(columns=list(columns) if plain else None).select(list(columns))
                return pa.table({name: _as_text(path, name, table[name]) for name in columns})
        except (pa.ArrowException, OSError, ValueError) as problem:
            raise problem if isinstance(problem, InputError) else _unreadable(path, problem) from None

    return Grid(header, read, lambda rows: [row + 1 for row in rows])


def _as_text(path: Path, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_duration(kind):
        raise InputError(f"{path.name}: column {shown(name)} holds {kind}; expected text, numbers or dates")
    if pa.types.is_floating(kind):
        column = pc.if_else(pc.is_nan(column.cast(pa.float64())), None, column.cast(pa.float64()))
        whole = pc.and_(pc.equal(column, pc.round(column)), pc.less(pc.abs(column), 1e15))
        # An id that met a missing value became a float on its way: 17850.0 is 17850.
        as_whole = pc.if_else(whole, column, None).cast(pa.int64()).cast(pa.string())
        text = pc.coalesce(as_whole, column.cast(pa.string()))
    elif pa.types.is_timestamp(kind):
        text = pc.strftime(column.cast(pa.timestamp("s", kind.tz), safe=False), "%Y-%m-%dT%H:%M:%S")
        if kind.tz is not None:
            text = pc.strftime(
                column.cast(pa.timestamp("s", kind.tz), safe=False).cast(pa.timestamp("s", "UTC")), "%Y-%m-%dT%H:%M:%SZ"
            )
    else:
        text = column.cast(pa.string())
    text = pc.fill_null(text, "")
    text.validate(full=True)
    return text


def _open_workbook(path: Path) -> Grid:
    try:
        import openpyxl
    except ImportError:
        raise InputError(f'{path.name} is a workbook; save it as CSV, or: pip install "aejax[excel]"') from None
    try:
        with zipfile.ZipFile(path) as archive:
            sources.check_members(path, archive)
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        try:
            sheets = [sheet for sheet in book.worksheets if sheet.sheet_state == "visible"] or book.worksheets
            if not sheets:
                raise InputError(f"{path.name} holds no sheet; export it again")
            name, header, columns, numbers = sheets[0].title, *_sheet(path, sheets[0])
        finally:
            book.close()
    except InputError:
        raise
    except Exception as problem:  # whatever a damaged workbook makes the library say
        raise _unreadable(path, problem) from None
    told = ()
    if len(sheets) > 1:
        told = (f"{path.name} holds {len(sheets)} sheets; only the first, {shown(name)}, was read",)
    table = dict(zip(header, columns, strict=True))
    return Grid(
        header, lambda names: pa.table({name: table[name] for name in names}), lambda rows: numbers[rows].tolist(), told
    )


def _sheet(path: Path, sheet: Any) -> tuple[tuple[str, ...], list[pa.ChunkedArray], np.ndarray]:
    """The header, the columns and the number of each row that is not blank."""
    header: tuple[str, ...] = ()
    pending: list[list[str]] = []
    chunks: list[list[pa.Array]] = []
    numbers: list[int] = []
    for number, row in enumerate(sheet.iter_rows(values_only=True), start=1):
        cells = [_cell_text(cell) for cell in row]
        if not any(cells):
            continue
        if not header:
            while cells and not cells[-1]:
                cells.pop()
            header, pending = tuple(cells), [[] for _ in cells]
            chunks = [[] for _ in cells]
            continue
        if any(cells[len(header) :]):
            raise InputError(f"{path.name}:{number}: a cell stands right of the last column with a name; name it")
        for column, cell in zip(pending, [*cells, *[""] * len(header)], strict=False):
            column.append(cell)
        numbers.append(number)
        if len(pending[0]) == 1 << 14:
            for done, column in zip(chunks, pending, strict=True):
                done.append(pa.array(column, pa.string()))
                column.clear()
    columns = [
        pa.chunked_array([*done, pa.array(column, pa.string())]) for done, column in zip(chunks, pending, strict=True)
    ]
    return header, columns, np.array(numbers, dtype=np.int64)


def _cell_text(cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 1e15:
        return str(int(cell))
    if isinstance(cell, datetime.datetime | datetime.date | datetime.time):
        return cell.isoformat()
    return str(cell)


def _unreadable(path: Path, problem: BaseException) -> InputError:
    lines = str(problem).splitlines() or [type(problem).__name__]
    return InputError(f"{path.name} cannot be read as a table: {lines[0][:100]}; export it again")
