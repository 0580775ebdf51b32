"""Files that `recommend` is given beside the run: customers and their addresses, what is in stock, earlier lists."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp

from aejax.errors import InputError
from aejax.interactions import Vocabulary
from aejax.quality import counted, samples, shown
from aejax.rules import Earlier
from aejax.tables import addresses, text
from aejax.tables.text import Coded

_CUSTOMERS = ("id", "customer", "customers", "user_id")
_SKUS = ("lineitem_sku", "variant_sku", "product_id", "item_id", "stockcode", "id")
_PIECES = ("quantity", "stock", "inventory_quantity", "available", "variant_inventory_qty")
_WIDE = re.compile(r"sku_\d+")
_ESCAPED = re.compile(r"'+[=+\-@\t\r]")
NOBODY: Mapping[str, str] = MappingProxyType({})


def read_customers(path: Path, known: Mapping[str, str] = NOBODY) -> list[str]:
    """Ids from the column `customer_id` of a CSV or Parquet file, or from a .txt file with one id a line; repeated ids
    count once, and addresses become the ids that stand for them.

    Args:
      path: the file.
      known: the shop's ids by address, as `ids_by_address` gives them; the keyed hash stands for all others.

    Raises:
      InputError: the file is missing, cannot be read as such, or holds no id; or an address and there is no key.
    """
    column = _read(path, "--customers", "customer_id", _CUSTOMERS)["customer_id"]
    ids = [column.text(row) for row in range(len(column.codes))]
    found = [name for name in ids if name]
    if not found:
        raise InputError(f"--customers {path} holds no customer id")
    return list(dict.fromkeys(addresses.without_addresses(found, f"--customers {path.name}", known)))


def read_addresses(path: Path, mapping: Mapping[str, str]) -> dict[str, str]:
    """Customer id -> e-mail address, from a file of the shop's customers.

    Args:
      path: the file.
      mapping: as the run's data were read by.

    Raises:
      InputError: the file is missing, or see `addresses.addresses_of`.
    """
    if not path.is_file():
        raise InputError(f"--join {path} is no file; expected the shop's customers with their e-mail addresses")
    found = addresses.addresses_of(path, mapping)
    return dict(zip(found["customer_id"], found["email"], strict=True))


def ids_by_address(address_of: Mapping[str, str]) -> dict[str, str]:
    """`read_addresses`, the other way around; of the customers of one address the first counts."""
    return {addresses.normal(address): own for own, address in reversed(list(address_of.items()))}


@dataclasses.dataclass(frozen=True)
class Stock:
    """What may be sold.

    Attributes:
      skus: the SKUs of the products.
      variants: product -> the first of its variants that may be sold, where the file names variants.
      note: a sentence on the SKUs of the file that the run does not know; empty where it knows all.
    """

    skus: frozenset[str]
    variants: Mapping[str, str]
    note: str


def read_stock(path: Path, products: pd.DataFrame) -> Stock:
    """SKUs from the column `sku` of a CSV or Parquet file, or from a .txt file with one a line; where it has a column
    of pieces (`quantity`, `stock`, `inventory_quantity` or `available`), those of which there is one at least. A
    product may be sold when it is named, or one of its variants.

    Args:
      path: the file.
      products: those of the run's data, rare ones among them; their variants are a JSON list in the column `variants`,
        where there is one.

    Raises:
      InputError: the file is missing, cannot be read as such, or none of its SKUs is known or in stock.
    """
    columns = _read(path, "--in-stock", "sku", _SKUS, more=_PIECES)
    sku = columns["sku"]
    is_there = ~sku.blank()
    for name in _PIECES:
        if name in columns:
            is_there &= _pieces(path, name, columns[name]) > 0
            break
    variants = _variants_of(products)
    known = Vocabulary.of([*products["sku"], *(one for own in variants.values() for one in own)])
    of_file = _known(sku, known)
    if not any(of_file.values()):
        raise InputError(
            f"--in-stock {path}: none of its {counted(len(of_file), 'SKU')} is a product of this run "
            f"({samples(list(of_file))}); its SKUs are such as {samples(list(known.ids))}"
        )
    named = sku.values.to_pylist()
    skus = frozenset(named[code] for code in np.unique(sku.codes[is_there]))
    if not skus:
        raise InputError(f"--in-stock {path}: of none of its {counted(len(of_file), 'SKU')} there is a piece")
    first = {product: next((one for one in own if one in skus), None) for product, own in variants.items()}
    sold = {product: one for product, one in first.items() if one is not None}
    return Stock(skus | sold.keys(), sold, _unknown(f"--in-stock {path.name}", of_file))


def _variants_of(products: pd.DataFrame) -> dict[str, list[str]]:
    """Product -> the SKUs of its variants; a cell that is no JSON list says nothing of them."""
    found = {}
    if "variants" in products.columns:
        for product, cell in zip(products["sku"], products["variants"].fillna(""), strict=True):
            try:
                own = json.loads(cell)
            except ValueError:
                continue
            if isinstance(own, list):
                found[product] = [one for one in own if isinstance(one, str) and one]
    return found


@dataclasses.dataclass(frozen=True)
class Excluded:
    """What is not to be recommended again.

    Attributes:
      skus: to no one.
      earlier: to single customers; None: there is none.
      note: a sentence on SKUs that the run does not know; empty where it knows all.
    """

    skus: frozenset[str]
    earlier: Earlier | None
    note: str


def read_excluded(path: Path, known: Vocabulary, items: Vocabulary) -> Excluded:
    """An earlier file of recommendations, of either layout: pairs of `customer_id` and `sku` that may not come again.

    Or a file with a column `sku` alone (or a .txt file with one a line), of products that no one is to get.

    Args:
      path: the file.
      known: every SKU of the run's data, rare ones among them.
      items: the products that the run's model knows.

    Raises:
      InputError: the file is missing, cannot be read as such, or none of its SKUs is known.
    """
    columns = _read(path, "--exclude", "sku", _SKUS, more=("customer_id",), wide=True)
    customer = columns.pop("customer_id", None)
    of_file: dict[str, bool] = {}
    rows, products = [], []
    for column in columns.values():
        values = unescaped(column.values.to_pylist(), known)
        of_file |= {value: place >= 0 for value, place in zip(values, known.index(values), strict=True) if value}
        product = items.index(values)[column.codes]
        rows.append(np.flatnonzero(product >= 0))
        products.append(product[product >= 0])
    if not any(of_file.values()):
        raise InputError(
            f"--exclude {path}: none of its {counted(len(of_file), 'SKU')} is a product of this run "
            f"({samples(list(of_file))}); its SKUs are such as {samples(list(known.ids))}"
        )
    note = _unknown(f"--exclude {path.name}", of_file)
    row, product = np.concatenate(rows), np.concatenate(products)
    if customer is None:
        return Excluded(frozenset(items.ids[np.unique(product)]), None, note)
    plain = [_unescape(value) for value in customer.values.to_pylist()]
    names = Vocabulary.of(plain)
    user = names.index(plain)[customer.codes[row]]
    shape = (len(names) + 1, len(items))
    matrix = sp.csr_array((np.ones(len(row), dtype=np.float32), (user, product)), shape=shape)
    matrix.sum_duplicates()
    return Excluded(frozenset(), Earlier(names, matrix), note)


def read_lists(path: Path) -> pd.DataFrame:
    """A file of recommendations as `customer_id, rank, sku`, whatever its layout and form.

    Raises:
      InputError: it is no such file.
    """
    columns = _read(path, "", "sku", _SKUS, more=("customer_id", "rank"), wide=True)
    customer, rank = columns.pop("customer_id", None), columns.pop("rank", None)
    missing = "customer_id" if customer is None else "rank" if rank is None and "sku" in columns else ""
    if customer is None or missing:
        raise InputError(f'{path} has no column "{missing}"; expected recommendations as aejax recommend wrote them')
    names, frames = customer.values.to_numpy(zero_copy_only=False)[customer.codes], []
    for column, sku in columns.items():
        there = np.ones(len(sku.codes), dtype=bool)
        if column == "sku":  # every row counts as one, whatever was made of its cell
            assert rank is not None
            places = _ranks(path, rank)[rank.codes]
        else:
            places = np.full(len(sku.codes), int(column.removeprefix("sku_")))
            there = ~sku.blank()  # a list that is shorter than others
        skus = sku.values.to_numpy(zero_copy_only=False)[sku.codes]
        frames.append(pd.DataFrame({"customer_id": names, "sku": skus, "rank": places})[there])
    lists = pd.concat(frames, ignore_index=True)
    if not len(lists):
        raise InputError(f"{path} holds no recommendation")
    return lists


def _ranks(path: Path, column: Coded) -> np.ndarray:
    """The whole numbers that the values are."""
    try:
        return np.array([int(value) for value in column.values.to_pylist()])
    except ValueError:
        raise InputError(f"{path}: a rank is no whole number; expected recommendations as aejax wrote them") from None


def escape_cells(values: Sequence[str] | np.ndarray) -> np.ndarray:
    """Texts with an apostrophe before those that a spreadsheet would take for a formula: that begin with `=`, `+`, `-`,
    `@`, a tab or a carriage return, behind apostrophes or not, so that it can be taken off again.
    """
    return np.array([f"'{value}" if _starts_formula(value) else value for value in values], dtype=object)


_BEGINNINGS = ("=", "+", "-", "@", "\t", "\r", "'")


def _starts_formula(value: str) -> bool:
    if not isinstance(value, str) or not value.startswith(_BEGINNINGS):
        return False
    return value[0] != "'" or _ESCAPED.match(value) is not None


def _unescape(value: str) -> str:
    return value[1:] if _ESCAPED.match(value) else value


def unescaped(values: Iterable[str], known: Vocabulary) -> list[str]:
    """Texts as they were before `escape_cells`, where they are not known as they stand."""
    values = list(values)
    places = known.index(values)
    return [value if place >= 0 else _unescape(value) for value, place in zip(values, places, strict=True)]


def _read(
    path: Path, option: str, name: str, synonyms: Sequence[str], *, more: Sequence[str] = (), wide: bool = False
) -> dict[str, Coded]:
    """The column `name` of a file, or with `wide` the columns `sku_1`, `sku_2`, ... in its place, and those of `more`
    that are there.
    """
    place = f"{option} {path}".lstrip()
    if not path.is_file():
        raise InputError(f"{place} is no file; expected a CSV file with a column {name}")
    if path.suffix == ".parquet":
        return _read_parquet(path, place, name, more, wide)
    file = text.without_header(path, [name], separator="\t") if path.suffix == ".txt" else text.open_text(path)
    several = [other for other in file.names if wide and _WIDE.fullmatch(other)]
    if name in file.names or not several:
        text.require_columns(file, {name: synonyms})
        several = [name]
    return text.read_coded(file, [*several, *(other for other in more if other in file.names)])


def _read_parquet(path: Path, place: str, name: str, more: Sequence[str], wide: bool) -> dict[str, Coded]:
    try:
        there = pq.read_schema(path).names
        several = [name] if name in there else [other for other in there if wide and _WIDE.fullmatch(other)]
        if not several:
            named = ", ".join(shown(other)[1:-1] for other in there)
            raise InputError(f'{place} has no column "{name}" (there are: {named})')
        wanted = [*several, *(other for other in more if other in there)]
        table = pq.read_table(path, columns=wanted)
        columns = {other: table[other].cast(pa.string()).fill_null("") for other in wanted}
    except (OSError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as problem:
        raise InputError(f"{place} cannot be read as Parquet ({str(problem).splitlines()[0]})") from None
    return {other: text.coded(pa.chunked_array(column.dictionary_encode())) for other, column in columns.items()}


def _pieces(path: Path, name: str, column: Coded) -> np.ndarray:
    """`[N]` pieces; a blank cell is none."""
    numbers = np.zeros(len(column.values))
    for place, value in enumerate(column.values.to_pylist()):
        try:
            numbers[place] = float(value or 0)
        except ValueError:
            raise InputError(f"{path.name}: {name} is {shown(value)}; expected a number of pieces such as 3") from None
    return numbers[column.codes]


def _known(column: Coded, known: Vocabulary) -> dict[str, bool]:
    values = [value for value in column.values.to_pylist() if value]
    return dict(zip(values, known.index(values) >= 0, strict=True))


def _unknown(place: str, of_file: dict[str, bool]) -> str:
    unknown = [value for value, is_known in of_file.items() if not is_known]
    if not unknown:
        return ""
    return f"{place}: {counted(len(unknown), 'SKU')} of {len(of_file):,} unknown to this run: {samples(unknown)}"
