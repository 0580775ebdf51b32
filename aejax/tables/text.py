"""Delimited text files as columns of text: one pass with pyarrow, ids coded at once, errors with their physical line.

Nothing here guesses a type: `007` stays `007`. What a cell means is decided elsewhere, on the distinct values alone.
"""

# pyarrow.compute makes its functions when it is imported:
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import csv
import dataclasses
import difflib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from aejax.errors import InputError
from aejax.interactions import Vocabulary
from aejax.quality import masked, shown

_CHUNK = 1 << 20
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
      marked: whether it starts with a byte order mark.
      encoding: `utf-8` or `latin-1`.
    """

    path: Path
    header: tuple[str, ...]
    names: tuple[str, ...]
    separator: str = ","
    quoted: bool = True
    marked: bool = False
    encoding: str = "utf-8"

    @property
    def renamed(self) -> dict[str, str]:
        """The names that do not stand in the file as they are used."""
        header = ("\ufeff" * self.marked + name if n == 0 else name for n, name in enumerate(self.header))
        return {old: new for old, new in zip(header, self.names, strict=False) if old != new}


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
    separator: str = ",",
    quoted: bool = True,
    name_of: Callable[[str], str] = normalised_name,
) -> TextFile:
    """Read the header of a file.

    Raises:
      InputError: the file is empty, its header is not UTF-8, two columns go by one name, or it is a row.
    """
    _require_content(path)
    with path.open("rb") as content:
        marked = content.read(3) == b"\xef\xbb\xbf"
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        records = csv.reader(lines, delimiter=separator) if quoted else (_cells(line, separator) for line in lines)
        header = tuple(next((record for record in records if record), ()))
    if any(re.search("[\udc80-\udcff]", name) for name in header):
        raise not_utf8(path)
    if not any(name.strip() for name in header):
        raise InputError(f"{path.name} is empty: it has no header line; export it again")
    if any(masked(name) != name for name in header):
        raise _no_header(path, "an e-mail address or a phone number")
    names = tuple(name_of(name) or f"column_{n}" for n, name in enumerate(header, start=1))
    if _has_number(header) and len(set(names)) < len(names):
        raise _no_header(path, "a number")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        twice = ", ".join(shown(old) for old, new in zip(header, names, strict=True) if new == repeated[0])
        raise InputError(
            f'{path.name}: two columns go by the name "{repeated[0]}" ({twice}); remove or rename one of them'
        )
    return TextFile(path, header, names, separator, quoted, marked)


def without_header(path: Path, names: Sequence[str], *, separator: str) -> TextFile:
    """An unquoted file whose columns are known beforehand. One that is not UTF-8 is taken for Latin-1.

    Raises:
      InputError: the file is empty.
    """
    _require_content(path)
    try:
        path.read_bytes().decode()
        encoding = "utf-8"
    except UnicodeDecodeError:
        encoding = "latin-1"
    return TextFile(path, (), tuple(names), separator, quoted=False, encoding=encoding)


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
        if likely:
            remedy = f'; if "{likely[0]}" is that column, rename it to "{name}"'
        elif len(file.names) == 1 and (other := re.search("[;\t|]", file.header[0])):
            remedy = f"; its columns seem to be separated by {other[0]!r}: save it with commas"
        else:
            remedy = "; add it to the export"
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
    quotes = sum(chunk.count(b'"') for chunk in _chunks(file.path)) if file.quoted else 0
    if quotes % 2:
        _check_quotes(file)
    try:
        table = pa_csv.read_csv(
            _content(file),
            read_options=pa_csv.ReadOptions(
                block_size=_CHUNK, encoding=file.encoding, column_names=None if file.header else list(file.names)
            ),
            parse_options=pa_csv.ParseOptions(
                delimiter="\t" if len(file.separator) > 1 else file.separator,
                quote_char='"' if file.quoted else False,
                newlines_in_values=quotes > 0,  # costs a third of the time
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(wanted, _CODED if coded else pa.string()), include_columns=wanted
            ),
            memory_pool=pa.system_memory_pool(),  # gives back what it no longer needs
        )
    except pa.ArrowInvalid as problem:
        raise _explained(file, problem) from None
    if table.num_rows == 0:
        raise _no_rows(file)
    return table.rename_columns(list(columns))


def coded(column: pa.ChunkedArray) -> Coded:
    """A dictionary column as distinct trimmed values and codes. Only the distinct values are touched as text."""
    whole = column.unify_dictionaries().combine_chunks()
    if isinstance(whole, pa.ChunkedArray):  # pyarrow < 21 returns one chunk, wrapped
        whole = whole.chunk(0)
    trimmed = pc.utf8_trim_whitespace(whole.dictionary).dictionary_encode()
    return Coded(trimmed.dictionary, trimmed.indices.to_numpy()[whole.indices.to_numpy()])


def physical_lines(file: TextFile, rows: Iterable[int]) -> list[int]:
    """The physical line (the first is 1) where each of these rows (the first after the header is 0) starts."""
    rows = [int(row) for row in rows]
    if not rows:
        return []
    last = max(rows)
    if _a_line_each(file, last + 2):
        return [row + (2 if file.header else 1) for row in rows]
    start_of = dict.fromkeys(rows, 0)
    for row, (line, _) in enumerate(_records(file), start=-1 if file.header else 0):
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


def _require_content(path: Path) -> None:
    if path.stat().st_size == 0:
        raise InputError(f"{path.name} is empty (0 bytes); export it again")


def _no_rows(file: TextFile) -> InputError:
    return InputError(f"{file.path.name} has a header but no rows; export it again")


def _content(file: TextFile) -> str | io.BytesIO:
    """What pyarrow reads: the file itself, or its bytes with a separator of one character."""
    if len(file.separator) == 1:
        return str(file.path)
    return io.BytesIO(file.path.read_bytes().replace(file.separator.encode(), b"\t"))


def _cells(line: str, separator: str) -> list[str]:
    """The cells of a line without quotes; none where the line is blank."""
    line = line.rstrip("\r\n")
    return line.split(separator) if line else []


def _records(file: TextFile) -> Iterator[tuple[int, int]]:
    """The physical line where each record starts, header included, and its number of cells. Blank lines are none.

    Slow (a second for a million lines): only for a file with something to report.
    """
    with file.path.open(encoding="latin-1", newline="") as lines:  # the structure is ASCII: any bytes will do
        if file.quoted:
            reader = csv.reader(lines, delimiter=file.separator)
            start = 1
            for record in reader:
                if record:
                    yield start, len(record)
                start = reader.line_num + 1
        else:
            for start, line in enumerate(lines, start=1):
                if cells := _cells(line, file.separator):
                    yield start, len(cells)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as content:
        while chunk := content.read(_CHUNK):
            yield chunk


def _a_line_each(file: TextFile, lines: int) -> bool:
    """Whether each of the first records surely is one of the first `lines`: there are no quotes and no blank lines."""
    before = b"\n"
    for chunk in _chunks(file.path):
        joined = before + chunk
        if (file.quoted and b'"' in chunk) or any(blank in joined for blank in (b"\n\n", b"\n\r", b"\r\r")):
            return False
        lines -= chunk.count(b"\n")
        if lines < 0:
            break
        before = chunk[-1:]
    return True


def _check_quotes(file: TextFile) -> None:
    """An odd number of quotes: one may never be closed, and would swallow the rest of the file in silence."""
    with file.path.open(encoding="latin-1", newline="") as lines:
        reader = csv.reader(lines, delimiter=file.separator, strict=True)
        start = 1
        try:
            for _ in reader:
                start = reader.line_num + 1
        except csv.Error:
            raise InputError(
                f'{file.path.name}:{start}: a quote (") opens a cell and is not closed; close it, or double it'
            ) from None


def not_utf8(path: Path) -> InputError:
    """The error for the first byte that is not UTF-8."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as problem:
                return InputError(
                    f"{path.name}:{number}: byte {problem.start + 1} of the line (0x{line[problem.start]:02x}) is not "
                    f"UTF-8; save the file as UTF-8 (in a spreadsheet: CSV UTF-8)"
                )
    return InputError(f"{path.name} is not UTF-8; save the file as UTF-8 (in a spreadsheet: CSV UTF-8)")


def _explained(file: TextFile, problem: pa.ArrowInvalid) -> InputError:
    """The error that stands for pyarrow's."""
    if "UTF8" in str(problem):
        return not_utf8(file.path)
    expected, records = len(file.names), 0
    for line, cells in _records(file):
        records += 1
        if cells != expected:
            return InputError(
                f"{file.path.name}:{line}: expected {expected} cells as in the header, got {cells}; "
                f"put a cell that contains {file.separator!r} in quotes"
            )
    if records <= bool(file.header):
        return _no_rows(file)
    return InputError(f"{file.path.name} cannot be read as a table: {str(problem).splitlines()[0]}")
