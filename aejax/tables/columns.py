"""Which file of a folder is which table of a shop, and which of its columns is what: by name, or by a user's mapping.

A mapping has keys such as `orders.customer_id` (the column that holds it, as it stands in the file) and
`orders.file`, `.encoding`, `.decimal` and `.date_format` (how the table is to be read); see `aejax.config`.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

from aejax.config import READING
from aejax.errors import InputError
from aejax.quality import shown
from aejax.tables import text
from aejax.tables.text import TextFile, normalised_name

TABLES = ("customers", "orders", "products")
PROPOSES = "aejax check DATA proposes a mapping for --columns"


class UnknownColumnsError(InputError):
    """A table or a column of a shop is not there under its own name; `aejax check` then proposes a mapping."""


def tables_in(folder: Path) -> list[Path]:
    """The files of a folder that may be tables, by name."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and not path.name.startswith((".", "~$")) and path.name.lower().endswith(text.SUFFIXES)
    )


def table_of(path: Path) -> str:
    """`orders` of `orders.csv.gz`."""
    return path.name.split(".")[0].lower()


def find(folder: Path, mapping: Mapping[str, str]) -> dict[str, Path]:
    """Table -> its file: as the mapping says, else by its name. Customers and products may be missing, where orders are
    the only table of the folder or the mapping names the file of the orders.

    Raises:
      InputError: a file that the mapping names is not there, or two go by a table's name.
      UnknownColumnsError: a table is missing.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; expected one with customers.csv, orders.csv and products.csv")
    there = tables_in(folder)
    found: dict[str, Path] = {}
    for table in TABLES:
        if name := mapping.get(f"{table}.file"):
            if not (folder / name).is_file():
                likely = difflib.get_close_matches(name, [path.name for path in there], n=1)
                remedy = f'did you mean "{likely[0]}"?' if likely else f"there are: {_named(there)}"
                raise InputError(f"--columns {table}.file={name}: {folder} has no such file; {remedy}")
            found[table] = folder / name
            continue
        own = [path for path in there if table_of(path) == table]
        if len(own) > 1:
            raise InputError(
                f"{folder} has several files named {table} ({_named(own)}); remove all but one, or say which: "
                f"--columns {table}.file={own[0].name}"
            )
        if own:
            found[table] = own[0]
    others = [path for path in there if path not in found.values()]
    alone = "orders" in found and ("orders.file" in mapping or there == [found["orders"]])
    for table in TABLES:
        if table not in found and (table == "orders" or not alone):
            likely = difflib.get_close_matches(f"{table}.csv", [path.name for path in others], n=1)
            remedy = f'; if "{likely[0]}" is that file, rename it, or' if likely else ";"
            raise UnknownColumnsError(
                f"{folder} has no {table}.csv (there are: {_named(there)}){remedy} say which files there are: "
                f"--columns orders.file=...; {PROPOSES}"
            )
    return found


def open_table(path: Path, table: str, mapping: Mapping[str, str], needed: Mapping[str, Sequence[str]]) -> TextFile:
    """Open a table of a shop, its columns named as the mapping says.

    Args:
      path: its file.
      table: which it is.
      mapping: of all tables.
      needed: column -> other names under which shops are known to export it.

    Raises:
      InputError: see `text.open_text`; or the mapping names a column that is not there.
      UnknownColumnsError: a needed column is missing.
    """
    own = {key.partition(".")[2]: value for key, value in mapping.items() if key.startswith(f"{table}.")}
    file = text.open_text(path, encoding=own.get("encoding"))
    names = list(file.names)
    for name, column in own.items():
        if name in READING:
            continue
        at = _position(file, f"{table}.{name}", column)
        if name in names and names.index(name) != at:
            names[names.index(name)] = f"other_{name}"  # the mapping's column takes its name
        names[at] = name
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"--columns gives two columns of {path.name} the name {twice}; give each its own")
    file = dataclasses.replace(file, names=tuple(names), date_format=own.get("date_format"), decimal=own.get("decimal"))
    try:
        text.require_columns(file, needed)
    except InputError as problem:
        raise UnknownColumnsError(f"{problem}, or map it: --columns {table}.NAME=COLUMN; {PROPOSES}") from None
    return file


def _position(file: TextFile, key: str, column: str) -> int:
    for names in (file.header, file.names):
        if column in names:
            return names.index(column)
    if normalised_name(column) in file.names:
        return file.names.index(normalised_name(column))
    likely = difflib.get_close_matches(column, file.header, n=1, cutoff=0.4)
    remedy = f"did you mean {shown(likely[0])}? " if likely else ""
    there = ", ".join(shown(name)[1:-1] for name in file.header)
    raise InputError(f"--columns {key}={column}: {file.path.name} has no such column; {remedy}There are: {there}")


def _named(paths: Sequence[Path]) -> str:
    return ", ".join(path.name for path in paths) or "no files"
