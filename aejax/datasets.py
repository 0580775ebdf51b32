"""Any folder of data -> a data set. What it holds is recognised by its files: a shop's tables or a public format."""

# pyarrow.compute makes its functions when it is imported:
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from aejax import quality
from aejax.config import DataConfig
from aejax.errors import InputError
from aejax.interactions import TEST, TRAIN, VALIDATION, Dataset, Interactions, Origin
from aejax.quality import Dropped, FileAccount, counted
from aejax.tables import proposal, shopify, sources, text, values
from aejax.tables.columns import PROPOSES, TABLES, UnknownColumnsError, table_of, tables_in
from aejax.tables.shop import read_shop
from aejax.tables.text import TextFile

_EXPECTED = (
    "customers.csv, orders.csv and products.csv (a shop); orders_export.csv, customers_export.csv and "
    "products_export.csv (Shopify); train.txt and test.txt (LightGCN); NAME.inter, or "
    "NAME.train.inter and NAME.test.inter (RecBole); ratings.csv or ratings.dat (MovieLens)"
)
_MOVIELENS_RATINGS = ("userid", "movieid", "rating", "timestamp")
_MOVIELENS_MOVIES = ("movieid", "title", "genres")


def read(
    folder: Path,
    *,
    min_rating: float | None = None,
    statuses: Sequence[str] = (),
    by: str | None = None,
    columns: Mapping[str, str] = MappingProxyType({}),
) -> Dataset:
    """Read a folder, whatever of the known formats it holds.

    In a public format each pair of a user and an item is an order of its own, of quantity 1. A pair that occurs twice
    in a part is merged (the earliest counts); one that an earlier part has is dropped from the later part.

    Args:
      folder: the folder.
      min_rating: ratings below are dropped; None keeps every rating as a positive.
      statuses: Shopify's exports: financial statuses of the orders that count; empty: those of orders that stand.
      by: Shopify's exports: whether an item is a `product` or a `variant`; None: a product.
      columns: of a shop whose files or columns have other names; see `aejax.tables.columns`.

    Returns:
      The data set.

    Raises:
      InputError: nothing in the folder is recognised, something in a file is malformed, or an argument is given that
        belongs to another format.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; expected one with {_EXPECTED}")
    there = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    exports = None if columns else shopify.find_exports(folder)
    if exports is not None:
        if min_rating is not None:
            raise _no_ratings(min_rating, exports.orders[0].path.name)
        return shopify.read_exports(exports, statuses=statuses, by=by)
    for option, value in (("--statuses", ",".join(statuses)), ("--by", by)):
        if value:
            raise InputError(f"{option} {value} belongs to Shopify's exports, and {folder} holds none; leave it out")
    tables = tables_in(folder)
    if columns or any(table_of(path) in TABLES for path in tables):
        if min_rating is not None:
            raise _no_ratings(min_rating, "orders.csv")
        return read_shop(folder, columns)
    if "train.txt" in there or "test.txt" in there:
        return _read_lightgcn(folder, there, min_rating)
    if interactions := [name for name in there if name.endswith(".inter")]:
        return _read_recbole(folder, interactions, min_rating)
    if "ratings.csv" in there or "ratings.dat" in there:
        return _read_movielens(folder, "ratings.csv" if "ratings.csv" in there else "ratings.dat", min_rating)
    unknown = f"{folder} holds no known data (there are: {', '.join(there) or 'no files'}); expected {_EXPECTED}"
    raise UnknownColumnsError(f"{unknown}; {PROPOSES}") if tables else InputError(unknown)


def proposed_mapping(folder: Path) -> str:
    """What `--columns` could say of a shop whose columns are not known, as TOML.

    Raises:
      InputError: a file of the folder cannot be read.
    """
    return proposal.propose(folder)


def read_as(config: DataConfig) -> Dataset:
    """Read the folder of a config as it says; for what it raises see `read`."""
    return read(
        Path(config.path),
        min_rating=config.min_rating,
        statuses=config.statuses,
        by=config.by,
        columns=config.columns,
    )


@dataclasses.dataclass(frozen=True)
class _Pairs:
    """The pairs of one file.

    Attributes:
      path: the file.
      part: the part that the file is; None where it is all there is.
      user: `[n]` dictionary-coded ids.
      item: `[n]` dictionary-coded ids.
      at: `[n]` datetime64[s]; None without timestamps.
      low: `[n]` whether the rating is below the least one that counts.
      lines: rows -> physical lines.
      left_out: columns that are not used.
    """

    path: Path
    part: int | None
    user: pa.ChunkedArray
    item: pa.ChunkedArray
    at: np.ndarray | None
    low: np.ndarray
    lines: Callable[[Iterable[int]], list[int]]
    left_out: Sequence[str] = ()


def _read_lightgcn(folder: Path, there: Sequence[str], min_rating: float | None) -> Dataset:
    for name in ("train.txt", "test.txt"):
        if name not in there:
            raise InputError(f"{folder} has no {name} (there are: {', '.join(there)}); a LightGCN split has both files")
    if min_rating is not None:
        raise _no_ratings(min_rating, "train.txt")
    files = [_lightgcn_file(folder / "train.txt", TRAIN), _lightgcn_file(folder / "test.txt", TEST)]
    return _assemble("lightgcn", files, min_rating=None)


def _lightgcn_file(path: Path, part: int) -> _Pairs:
    """A line a user: the user's id, then the ids of the items."""
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise sources.not_utf8(path) from None
    words = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(pa.array(content.split("\n"), pa.string())))
    starts = words.offsets.to_numpy()[:-1]
    coded = words.flatten().dictionary_encode()
    code, size = coded.indices.to_numpy(), np.diff(words.offsets.to_numpy())
    # A blank line is one empty word.
    blank = (
        code[np.minimum(starts, len(code) - 1)] == pc.index(coded.dictionary, "").as_py() if len(code) else size == 0
    )
    number = np.flatnonzero((size > 0) & ~blank)
    starts, items_each = starts[number], size[number] - 1
    is_item = np.ones(len(code), dtype=bool)
    is_item[starts] = False
    is_item[words.offsets.to_numpy()[:-1][blank]] = False
    if not is_item.any():
        raise InputError(f"{path.name} holds no pairs; expected a line a user: its id, then the ids of its items")
    line_of_pair = np.repeat(number + 1, items_each)
    return _Pairs(
        path=path,
        part=part,
        user=_dictionary(np.repeat(code[starts], items_each), coded.dictionary),
        item=_dictionary(code[is_item], coded.dictionary),
        at=None,
        low=np.zeros(len(line_of_pair), dtype=bool),
        lines=lambda rows: [int(line_of_pair[row]) for row in rows],
    )


def _dictionary(codes: np.ndarray, dictionary: pa.Array) -> pa.ChunkedArray:
    return pa.chunked_array([pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), dictionary)])


def _read_recbole(folder: Path, names: Sequence[str], min_rating: float | None) -> Dataset:
    parts = {
        name: part
        for name in names
        for ending, part in ((".train.inter", TRAIN), (".valid.inter", VALIDATION), (".test.inter", TEST))
        if name.endswith(ending)
    }
    stems = {name.rsplit(".", 2)[0] for name in parts} or {name.removesuffix(".inter") for name in names}
    if len(stems) > 1:
        raise InputError(f"{folder} holds more than one data set ({', '.join(names)}); give each a folder of its own")
    if parts and not {TRAIN, TEST} <= set(parts.values()):
        raise InputError(f"{folder} holds {', '.join(names)}; a RecBole split has at least a train and a test file")
    (stem,) = stems
    chosen = sorted(parts, key=lambda name: parts[name]) if parts else names
    files = [_recbole_file(folder / name, parts.get(name), min_rating) for name in chosen]
    ignored = [name for name in names if name not in chosen]
    warnings = [f"{name} is not read: {', '.join(chosen)} are the split" for name in ignored]
    return _assemble("recbole", files, min_rating, _recbole_titles(folder / f"{stem}.item"), warnings)


def _recbole_name(name: str) -> str:
    """`user_id` of `user_id:token`."""
    return text.normalised_name(name.split(":")[0])


def _recbole_file(path: Path, part: int | None, min_rating: float | None) -> _Pairs:
    file = text.open_text(path, separator="\t", quoted=False, name_of=_recbole_name)
    return _table_of_pairs(file, part, ("user_id", "item_id"), min_rating)


def _recbole_titles(path: Path) -> pd.DataFrame | None:
    if not path.is_file():
        return None
    file = text.open_text(path, separator="\t", quoted=False, name_of=_recbole_name)
    text.require_columns(file, {"item_id": ("item", "id")})
    titles = [name for name in file.names if "title" in name or "name" in name]
    return _titles(file, "item_id", titles[0]) if titles else None


def _read_movielens(folder: Path, name: str, min_rating: float | None) -> Dataset:
    movies = folder / name.replace("ratings", "movies")
    if name.endswith(".csv"):
        ratings = text.open_text(folder / name)
        titles = text.open_text(movies) if movies.is_file() else None
    else:
        ratings = text.without_header(folder / name, _MOVIELENS_RATINGS, separator="::")
        titles = text.without_header(movies, _MOVIELENS_MOVIES, separator="::") if movies.is_file() else None
    if titles is not None:
        text.require_columns(titles, {"movieid": (), "title": ()})
    return _assemble(
        "movielens",
        [_table_of_pairs(ratings, None, ("userid", "movieid"), min_rating)],
        min_rating,
        None if titles is None else _titles(titles, "movieid", "title"),
    )


def _table_of_pairs(file: TextFile, part: int | None, ids: tuple[str, str], min_rating: float | None) -> _Pairs:
    """The pairs of a table with a column each for users and items, and maybe `rating` and `timestamp`."""
    text.require_columns(file, dict.fromkeys(ids, ()))
    if min_rating is not None and "rating" not in file.names:
        raise _no_ratings(min_rating, file.path.name)
    used = [
        *ids,
        *(["timestamp"] if "timestamp" in file.names else []),
        *(["rating"] if min_rating is not None else []),
    ]
    table = text.read_columns(file, used)
    low = np.zeros(len(table), dtype=bool)
    if min_rating is not None:
        low = values.ratings(file, "rating", text.coded(table["rating"])) < min_rating
    return _Pairs(
        path=file.path,
        part=part,
        user=table[ids[0]],
        item=table[ids[1]],
        at=values.unix_moments(file, "timestamp", text.coded(table["timestamp"])) if "timestamp" in used else None,
        low=low,
        lines=lambda rows: text.physical_lines(file, rows),
        left_out=[name for name in file.names if name not in (*ids, "timestamp", "rating")],
    )


def _titles(file: TextFile, name: str, title: str) -> pd.DataFrame:
    """`sku` and `title` of a file with titles; the first title of an id counts."""
    frame = text.read_columns(file, [name, title], coded=False).to_pandas().astype("str")
    frame = frame.set_axis(["sku", "title"], axis=1)
    frame["sku"] = frame["sku"].str.strip()
    return frame[frame["sku"] != ""].drop_duplicates("sku")


def _no_ratings(min_rating: float, name: str) -> InputError:
    return InputError(f"--min-rating {min_rating:g} needs ratings, and {name} has none; leave it out")


def _assemble(
    name: str,
    files: Sequence[_Pairs],
    min_rating: float | None,
    titles: pd.DataFrame | None = None,
    warnings: Iterable[str] = (),
) -> Dataset:
    """The data set of all files' pairs, with the account of every row."""
    user, item = (
        text.coded(pa.chunked_array([chunk for column in columns for chunk in column.chunks]))
        for columns in ([file.user for file in files], [file.item for file in files])
    )
    file_of_row = np.repeat(np.arange(len(files), dtype=np.int8), [len(file.user) for file in files])
    at = None
    if all(file.at is not None for file in files):
        at = np.concatenate([file.at for file in files if file.at is not None])
    low = np.concatenate([file.low for file in files])
    dropped = {quality.NO_CUSTOMER: user.blank(), quality.NO_PRODUCT: item.blank()}
    if min_rating is not None:
        dropped[f"rating below {min_rating:g}"] = low
    gone = np.zeros(len(low), dtype=bool)
    for reason, broken in dropped.items():
        dropped[reason] = broken & ~gone
        gone |= broken
    merged = _repeated(user, item, file_of_row, at, np.flatnonzero(~gone))
    kept = np.flatnonzero(~gone & ~merged)
    users, items = user.take(kept).vocabulary(), item.take(kept).vocabulary()
    lines = Interactions(
        user=users[0],
        item=items[0],
        quantity=np.ones(len(kept), dtype=np.int32),
        users=users[1],
        items=items[1],
        order=np.arange(len(kept), dtype=np.int32),
        at=None if at is None else at[kept],
        part=None
        if files[0].part is None
        else np.array([file.part for file in files], dtype=np.int8)[file_of_row[kept]],
    )
    sources = ", ".join(file.path.name for file in files)
    quality.require_something_to_learn(sources, lines, {reason: int(rows.sum()) for reason, rows in dropped.items()})
    customers = pd.DataFrame({"customer_id": _all_ids(user)}, dtype="str")
    products = _products(_all_ids(item), titles)
    return Dataset(
        format=name,
        interactions=lines,
        customers=customers,
        products=products,
        quality=quality.report(
            files={
                file.path.name: _account(file, file_of_row == index, merged, dropped)
                for index, file in enumerate(files)
            },
            bought=lines,
            customers=len(customers),
            products=len(products),
            repeats=False,
            described=titles is not None,
            warnings=[*warnings, *_unprepared(lines)],
        ),
        files=tuple(file.path for file in files),
        origin=Origin(kept, np.flatnonzero(merged), lambda rows: _places(files, rows), {}),
    )


def _places(files: Sequence[_Pairs], rows: np.ndarray) -> list[str]:
    """`NAME.inter:143` for each of these rows of all files in one sequence."""
    stops = np.cumsum([len(file.user) for file in files])
    found = []
    for row in rows:
        number = int(np.searchsorted(stops, row, side="right"))
        file = files[number]
        (line,) = file.lines([int(row - stops[number] + len(file.user))])
        found.append(f"{file.path.name}:{line}")
    return found


def _repeated(
    user: text.Coded, item: text.Coded, file_of_row: np.ndarray, at: np.ndarray | None, rows: np.ndarray
) -> np.ndarray:
    """Rows that repeat a pair within their file: `[N]` bool. The earliest by date, else the first, is kept.

    A pair of two files stays in both: under `--repeat include` it is a target like any other.

    Args:
      user: `[N]`.
      item: `[N]`.
      file_of_row: `[N]` the files, train first.
      at: `[N]` or None.
      rows: the rows that count.
    """
    pair = user.codes[rows].astype(np.int64) * len(item.values) + item.codes[rows]
    dates = () if at is None else (at[rows],)
    order = np.lexsort((*dates, file_of_row[rows], pair))
    rows, pair = rows[order], pair[order]
    again = (pair[1:] == pair[:-1]) & (file_of_row[rows[1:]] == file_of_row[rows[:-1]])
    merged = np.zeros(len(file_of_row), dtype=bool)
    merged[rows[1:][again]] = True
    return merged


def _account(file: _Pairs, own: np.ndarray, merged: np.ndarray, dropped: dict[str, np.ndarray]) -> FileAccount:
    """The account of one file's rows, given all files' rows in one sequence."""
    reasons = {reason: np.flatnonzero(rows[own]) for reason, rows in dropped.items()}
    return FileAccount(
        read=int(own.sum()),
        merged=int(merged[own].sum()),
        dropped={
            reason: Dropped(len(rows), file.lines(rows[: quality.FIRST_LINES])) for reason, rows in reasons.items()
        },
        left_out=file.left_out,
    )


def _all_ids(column: text.Coded) -> list[str]:
    """Every id of the files, sorted, of dropped rows too."""
    ids = column.vocabulary()[1].ids
    return [name for name in ids if name]


def _products(ids: list[str], titles: pd.DataFrame | None) -> pd.DataFrame:
    """`sku` and `title` of every product of any file, sorted; the id stands in for a missing title."""
    known: dict[str, str] = {} if titles is None else dict(zip(titles["sku"], titles["title"], strict=True))
    skus = sorted(known.keys() | set(ids))
    return pd.DataFrame({"sku": skus, "title": [known.get(sku) or sku for sku in skus]}, dtype="str")


def _unprepared(lines: Interactions) -> list[str]:
    """Warnings of a test part: users or items that train does not know, and pairs that train has already."""
    if lines.part is None:
        return []
    train, test = lines.take(lines.part == TRAIN), lines.take(lines.part == TEST)
    users = len(np.setdiff1d(test.user, train.user))
    items = len(np.setdiff1d(test.item, train.item))
    pairs = int(np.isin(test.pair, train.pair).sum())
    found = {
        f"{counted(users, 'user')} of the test part without anything to train on; left out of its figures": users,
        f"{counted(items, 'item')} of the test part never seen in training; no model can find them": items,
        f"{counted(pairs, 'row')} of the test part also in the train part; targets under --repeat include only": pairs,
    }
    return [warning for warning, count in found.items() if count]
