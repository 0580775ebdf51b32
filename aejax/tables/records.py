"""Delimited text record by record, each with the physical line where it starts, as Python's `csv` reads it.

Slow (a second for a million lines): only for a file with something to report, or for its first records.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from aejax.errors import InputError
from aejax.tables import sources

LARGEST = 64 << 20  # characters of a cell, and bytes of a record
csv.field_size_limit(LARGEST)


def of_file(path: Path, encoding: str, separator: str, quoted: bool) -> Iterator[tuple[int, list[str]]]:
    """The physical line where each record starts, header included, and its cells. Blank lines are none.

    Raises:
      InputError: a cell is longer than `LARGEST`.
    """
    content = sources.open_utf8(path, encoding)
    with io.TextIOWrapper(content, encoding="utf-8-sig", errors="replace", newline="") as lines:
        if quoted:
            reader = csv.reader(lines, delimiter=separator)
            start = 1
            try:
                for record in reader:
                    if record:
                        yield start, record
                    start = reader.line_num + 1
            except csv.Error:
                raise InputError(
                    f"{path.name}:{start}: a cell of more than {LARGEST:,} characters; "
                    'a quote (") may open it that nothing closes'
                ) from None
        else:
            for start, line in enumerate(lines, start=1):
                if text := line.rstrip("\r\n"):
                    yield start, text.split(separator)


def a_line_each(path: Path, encoding: str, quoted: bool, lines: int) -> bool:
    """Whether each of the first records surely is one of the first `lines`: there are no quotes and no blank lines."""
    before = b"\n"
    for chunk in sources.chunks(path, encoding):
        joined = before + chunk
        if (quoted and b'"' in chunk) or any(blank in joined for blank in (b"\n\n", b"\n\r", b"\r\r")):
            return False
        lines -= chunk.count(b"\n")
        if lines < 0:
            break
        before = chunk[-1:]
    return True


def check_quotes(path: Path, encoding: str, separator: str) -> None:
    """An odd number of quotes: one may never be closed, and would swallow the rest of the file in silence.

    Raises:
      InputError: it is the one; says where it is.
    """
    content = sources.open_utf8(path, encoding)
    with io.TextIOWrapper(content, encoding="utf-8", errors="replace", newline="") as lines:
        reader = csv.reader(lines, delimiter=separator, strict=True)
        start = 1
        try:
            for _ in reader:
                start = reader.line_num + 1
        except csv.Error:
            raise InputError(
                f'{path.name}:{start}: a quote (") opens a cell and is not closed; close it, or double it'
            ) from None
