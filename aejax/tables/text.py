"""Tables as columns of text: one pass with pyarrow, ids coded at once, errors with their physical line.

Most are delimited text, in whatever encoding, separator and packing; Parquet and workbooks go the same way.

Nothing here guesses a type: `007` stays `007`. What a cell means is decided elsewhere, on the distinct values alone.
"""

# pyarrow.compute makes its functions when it is imported:
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from aejax.errors import InputError
from aejax.interactions import Vocabulary
from aejax.quality import masked_text, shown
from aejax.tables import grids, records, sources
from aejax.tables.grids import Grid

SUFFIXES = (*sources.TEXT_SUFFIXES, *(f"{suffix}.gz" for suffix in sources.TEXT_SUFFIXES), ".zip", *grids.SUFFIXES)
SEPARATORS = ",;\t|"
_SAMPLE = 50  # records by which a separator is recognised
_BLOCK = 2 << 20  # of pyarrow: larger ones take more memory, and of smaller ones each has its own distinct values
_CODED = pa.dictionary(pa.int32(), pa.string())


def normalised_name(name: str) -> str:
    """A column name in lower case, trimmed, with `_` for spaces."""
    return re.sub(r"\s+", "_", name.strip().lower())


@dataclasses.dataclass(frozen=True)
class TextFile:
    """A delimited text file whose header has been read.

    Attributes:
      path: the file.
      header: the column names as they stand in the file, without byte order mark; empty where it has none.
      names: the names they go by.
      separator: between cells; more than one character only in unquoted files.
      quoted: whether `"` may enclose a cell.
      marked: whether it starts with a byte order mark of UTF-8.
      encoding: a Python codec.
      quotes: how many `"` there are, where they may enclose a cell.
      grid: the table, where it is no delimited text.
      date_format: of all dates, as `strptime` has it; None: recognised.
      decimal: `,` or `.`, which then never groups thousands; None: recognised.
      told: what was guessed, in plain sentences.
    """

    path: Path
    header: tuple[str, ...]
    names: tuple[str, ...]
    separator: str = ","
    quoted: bool = True
    marked: bool = False
    encoding: str = "utf-8"
    quotes: int = 0
    grid: Grid | None = None
    date_format: str | None = None
    decimal: str | None = None
    told: tuple[str, ...] = ()

    @property
    def renamed(self) -> dict[str, str]:
        """The names that do not stand in the file as they are used."""
        header = ("\ufeff" * self.marked + name if n == 0 else name for n, name in enumerate(self.header))
        return {old: new for old, new in zip(header, self.names, strict=False) if old != new}

    def records(self) -> Iterator[tuple[int, list[str]]]:
        """`records.of_file`, the header's first where it has one."""
        return records.of_file(self.path, self.encoding, self.separator, self.quoted)


@dataclasses.dataclass(frozen=True)
class Coded:
    """A column of text by its distinct values.

    Attributes:
      values: `[V]` distinct trimmed texts, in no order.
      codes: `[N]` int32, each row's position in `values`.
    """

    values: pa.StringArray
    codes: np.ndarray

    def blank(self) -> np.ndarray:
        """`[N]` whether the cell is blank."""
        return self.codes == pc.index(self.values, "").as_py()

    def text(self, row: int) -> str:
        """The cell of a row."""
        return self.values[int(self.codes[row])].as_py()

    def vocabulary(self) -> tuple[np.ndarray, Vocabulary]:
        """`[N]` int32 positions in the vocabulary of those values that occur, and that vocabulary."""
        occurring = np.flatnonzero(np.bincount(self.codes, minlength=len(self.values)))
        values = self.values.take(pa.array(occurring))
        by_text = pc.array_sort_indices(values).to_numpy()  # UTF-8 sorts as Python's str does: by code point
        position = np.zeros(len(self.values), dtype=np.int32)
        position[occurring[by_text]] = np.arange(len(by_text), dtype=np.int32)
        return position[self.codes], Vocabulary(values.take(pa.array(by_text)).to_numpy(zero_copy_only=False))

    def take(self, rows: np.ndarray) -> Coded:
        """These rows, with the same values."""
        return Coded(self.values, self.codes[rows])


def open_text(
    path: Path,
    *,
    separator: str | None = None,
    quoted: bool = True,
    encoding: str | None = None,
    name_of: Callable[[str], str] = normalised_name,
) -> TextFile:
    """Read the header of a file.

    Args:
      path: delimited text, which may be packed (`.gz`, `.zip`), a `.parquet` file or an `.xlsx` workbook.
      separator: between cells; None: recognised.
      quoted: whether `"` may enclose a cell.
      encoding: a Python codec; None: recognised.
      name_of: a column's name in the file -> the name it goes by.

    Raises:
      InputError: the file is empty, damaged or of no known encoding, two columns go by one name, or the first line is a
        row.
    """
    if path.suffix in grids.SUFFIXES:
        grid = grids.open_grid(path)
        return TextFile(path, grid.header, _names(path, grid.header, name_of), grid=grid, told=grid.told)
    return _opened(path, sources.scan(path, encoding), separator, quoted, encoding, name_of)


def column_names(path: Path) -> tuple[str, ...]:
    """The names that the columns of delimited text go by, told from its first piece.

    Raises:
      InputError: see `open_text`, as far as the first piece tells.
    """
    return _opened(path, sources.scan(path, whole=False), None, True, None, normalised_name).names


def _opened(
    path: Path,
    scan: sources.Scan,
    separator: str | None,
    quoted: bool,
    encoding: str | None,
    name_of: Callable[[str], str],
) -> TextFile:
    """A file of delimited text that has been looked at; see `open_text`."""
    told = ()
    if scan.encoding != "utf-8" and encoding is None:
        known = {"cp1252": "Windows-1252"}.get(scan.encoding, scan.encoding.upper())
        told = (f"{path.name} is not UTF-8; it was read as {known}",)
    start = records.of_file(path, scan.encoding, separator or ",", quoted)
    if next((record for _, record in start if any(cell.strip() for cell in record)), None) is None:
        raise InputError(f"{path.name} is empty: it has no header line; export it again")
    if separator is None:
        separator = _separator(path, scan.encoding)
        if separator != ",":
            named = {"\t": "tabs"}.get(separator, f'"{separator}"')
            told += (f"the cells of {path.name} are separated by {named}",)
    _, cells = next(records.of_file(path, scan.encoding, separator, quoted))
    header = tuple(cells)
    return TextFile(
        path,
        header,
        _names(path, header, name_of),
        separator,
        quoted,
        scan.marked,
        scan.encoding,
        scan.quotes if quoted else 0,
        told=told,
    )


def _names(path: Path, header: Sequence[str], name_of: Callable[[str], str]) -> tuple[str, ...]:
    if not any(name.strip() for name in header):
        raise InputError(f"{path.name} is empty: it has no header line; export it again")
    if any(masked_text(name) != name for name in header):
        raise _no_header(path, "an e-mail address or a phone number")
    names = tuple(name_of(name) or f"column_{n}" for n, name in enumerate(header, start=1))
    if _has_number(header) and len(set(names)) < len(names):
        raise _no_header(path, "a number")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        twice = ", ".join(shown(old) for old, new in zip(header, names, strict=True) if new == repeated[0])
        raise InputError(
            f"{path.name}: two columns go by the name {shown(repeated[0])} ({twice}); remove or rename one of them"
        )
    return names


def _separator(path: Path, encoding: str) -> str:
    """The separator under which most of the first records have as many cells as the header, then the most cells."""
    best, fit = ",", (0.0, 0)
    for separator in SEPARATORS:
        first = islice(records.of_file(path, encoding, separator, quoted=True), _SAMPLE)
        cells = [len(record) for _, record in first]
        own = (cells.count(cells[0]) / len(cells), cells[0])
        if cells[0] > 1 and own > fit:
            best, fit = separator, own
    return best


def without_header(path: Path, names: Sequence[str], *, separator: str) -> TextFile:
    """An unquoted file whose columns are known beforehand. One that is not UTF-8 is taken for Windows-1252.

    Raises:
      InputError: the file is empty, or of neither encoding.
    """
    scan = sources.scan(path)
    return TextFile(path, (), tuple(names), separator, quoted=False, encoding=scan.encoding)


def require_columns(file: TextFile, needed: Mapping[str, Sequence[str]]) -> None:
    """Check that a file has the columns it needs.

    Args:
      file: the file.
      needed: column name -> other names under which shops are known to export it.

    Raises:
      InputError: one is missing; says what is there and proposes the likeliest.
    """
    for name, synonyms in needed.items():
        if name in file.names:
            continue
        if _has_number(file.header):
            raise _no_header(file.path, "a number")
        free = [other for other in file.names if other not in needed]
        likely = [other for other in synonyms if other in free] or difflib.get_close_matches(name, free, n=1)
        remedy = f'; if "{likely[0]}" is that column, rename it to "{name}"' if likely else "; add it to the export"
        there = ", ".join(shown(other)[1:-1] for other in file.names)
        raise InputError(f'{file.path.name} has no column "{name}" (there are: {there}){remedy}')


def read_columns(file: TextFile, columns: Sequence[str], *, coded: bool = True) -> pa.Table:
    """Read columns as text.

    Args:
      file: the file.
      columns: by the names they go by.
      coded: as dictionaries (ids, dates, quantities) instead of plain strings (titles).

    Returns:
      The columns `[N]`, under the names they go by, in the order asked for.

    Raises:
      InputError: a row has too few or too many cells, a cell is not UTF-8, a quote is not closed, or no row is there.
    """
    in_file = file.header or file.names
    wanted = [in_file[file.names.index(name)] for name in columns]
    if file.grid is not None:
        table = file.grid.read(wanted)
        if coded:
            table = pa.table({name: table[name].dictionary_encode() for name in wanted})
    else:
        if file.quotes % 2:
            records.check_quotes(file.path, file.encoding, file.separator)
        try:
            table = _read_csv(file, wanted, _CODED if coded else pa.string(), _BLOCK)
        except pa.ArrowInvalid as problem:
            if "straddling" not in str(problem):
                raise _explained(file, problem) from None
            try:  # a record that is longer than two blocks
                table = _read_csv(file, wanted, _CODED if coded else pa.string(), records.LARGEST)
            except pa.ArrowInvalid as again:
                raise _explained(file, again) from None
    if table.num_rows == 0:
        raise _no_rows(file)
    return table.rename_columns(list(columns))


def read_coded(file: TextFile, columns: Sequence[str]) -> dict[str, Coded]:
    """Read columns, each as its distinct trimmed values and codes; see `read_columns`."""
    table = read_columns(file, columns)
    return {name: coded(table[name]) for name in columns}


def _read_csv(file: TextFile, wanted: Sequence[str], kind: pa.DataType, block_size: int) -> pa.Table:
    """These columns of the file, named as in it."""
    with contextlib.ExitStack() as opened:
        # By its path it is read by several threads.
        plain = file.encoding == "utf-8" and len(file.separator) == 1 and file.path.suffix not in (".gz", ".zip")
        return pa_csv.read_csv(
            str(file.path) if plain else opened.enter_context(_content(file)),
            read_options=pa_csv.ReadOptions(
                block_size=block_size, column_names=None if file.header else list(file.names)
            ),
            parse_options=pa_csv.ParseOptions(
                delimiter="\t" if len(file.separator) > 1 else file.separator,
                quote_char='"' if file.quoted else False,
                newlines_in_values=file.quotes > 0,  # costs a third of the time
            ),
            convert_options=pa_csv.ConvertOptions(column_types=dict.fromkeys(wanted, kind), include_columns=wanted),
            memory_pool=pa.system_memory_pool(),  # see `coded`
        )


def coded(column: pa.ChunkedArray) -> Coded:
    """A dictionary column as distinct trimmed values and codes. Only the distinct values are touched as text."""
    pool = pa.system_memory_pool()  # gives back what it no longer needs
    whole = column.unify_dictionaries(memory_pool=pool).combine_chunks(memory_pool=pool)
    if isinstance(whole, pa.ChunkedArray):  # pyarrow < 21 returns one chunk, wrapped
        whole = whole.chunk(0)
    codes = whole.indices.to_numpy()
    trimmed = pc.utf8_trim_whitespace(whole.dictionary)
    if trimmed.equals(whole.dictionary):
        return Coded(trimmed, codes)
    again = trimmed.dictionary_encode()  # some may be equal but for blanks around them
    return Coded(again.dictionary, again.indices.to_numpy()[codes])


def physical_lines(file: TextFile, rows: Iterable[int]) -> list[int]:
    """The physical line (the first is 1) where each of these rows (the first after the header is 0) starts."""
    rows = [int(row) for row in rows]
    if not rows:
        return []
    if file.grid is not None:
        return file.grid.lines(rows)
    last = max(rows)
    if records.a_line_each(file.path, file.encoding, file.quoted, last + 2):
        return [row + (2 if file.header else 1) for row in rows]
    start_of = dict.fromkeys(rows, 0)
    for row, (line, _) in enumerate(file.records(), start=-1 if file.header else 0):
        if row in start_of:
            start_of[row] = line
        if row == last:
            break
    return [start_of[row] for row in rows]


def place(file: TextFile, row: int) -> str:
    """`orders.csv:1843`, the place of a row."""
    return f"{file.path.name}:{physical_lines(file, [row])[0]}"


def _has_number(header: Sequence[str]) -> bool:
    return any(re.fullmatch(r"[\s'#]*\d[\d\s.,:/+-]*", name) for name in header)


def _no_header(path: Path, holds: str) -> InputError:
    """The error for a first line that is a row: of customers, perhaps, so it is not shown."""
    return InputError(
        f"{path.name}:1: the first line holds {holds}, so it seems to be a row; put the line with the names of the "
        "columns above it, or export the file again"
    )


def _no_rows(file: TextFile) -> InputError:
    return InputError(f"{file.path.name} has a header but no rows; export it again")


def _content(file: TextFile) -> BinaryIO:
    """What pyarrow reads: UTF-8 with a separator of one character."""
    content = sources.open_utf8(file.path, file.encoding)
    if len(file.separator) == 1:
        return content
    with content:
        return io.BytesIO(content.read().replace(file.separator.encode(), b"\t"))


def _explained(file: TextFile, problem: pa.ArrowInvalid) -> InputError:
    """The error that stands for pyarrow's."""
    if "UTF8" in str(problem):
        return sources.not_utf8(file.path)
    expected, count = len(file.names), 0
    for line, cells in file.records():
        count += 1
        if len(cells) != expected:
            return InputError(
                f"{file.path.name}:{line}: expected {expected} cells as in the header, got {len(cells)}; "
                f"put a cell that contains {file.separator!r} in quotes"
            )
    if count <= bool(file.header):
        return _no_rows(file)
    return InputError(f"{file.path.name} cannot be read as a table: {str(problem).splitlines()[0]}")
