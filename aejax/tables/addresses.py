"""E-mail addresses, phone numbers, names and streets: they stop at the reader, and nothing that is kept holds them.

A customer who is known by an address alone goes by a keyed hash of it, `h-` and 16 hexadecimal digits of HMAC-SHA256
(RFC 2104). The key is the user's, in the environment variable `AEJAX_KEY`: with the same key next week's orders get the
same ids, and without it nobody can try addresses until one fits. `addresses_of` finds the addresses of ids again, in a
file that the user still has.

Columns of customers are taken for personal by their names, and by their cells: addresses, phone numbers, streets, or
words that look like names. A first name alone, or a name in a script without capitals, is known by its column's name
only; a name that stands as a customer's id cannot be told from an id, and is kept as one. Columns of products are taken
for personal by their names only, and less readily: a product has a name.
"""

# What pyright infers from the sources of pandas, which ship no complete types:
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
from __future__ import annotations

import hashlib
import hmac
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pandas as pd
import pyarrow as pa

from aejax.errors import InputError
from aejax.quality import PHONE, counted
from aejax.tables import columns, text
from aejax.tables.text import Coded

KEY = "AEJAX_KEY"
_SHORTEST_KEY = 16
_DIGITS = 16  # 64 bits: among a million customers two share an id with a chance of 3 in 100 million

_ADDRESS = re.compile(r"[^\s@]@[^\s@]")
# Digits alone after a 0 may be an article's number, or a customer's; in what a shop writes of customers, a phone's.
_BARE_PHONE = re.compile(r"(?<![\w+])0\d{8,14}(?!\w)")
_STREET = re.compile(
    r"\b(street|st\.|road|rd|avenue|ave|lane|drive|boulevard|blvd|square|rue|via|viale|calle|avenida|rua|ulica|ul\.)\b"
    r"|(strasse|straße|str\.|gasse|weg|platz|allee|straat|laan|plein|gatan|vägen)(?=[\s,\d]|$)",
    re.IGNORECASE,
)
_NAME = re.compile(r"[^\W\d_a-z][\w'’.-]*( [\w'’.-]+)* [^\W\d_a-z][\w'’.-]*")

# Column names that mean one person whatever else they say, and those that do where they do not name an area or a kind.
_PERSONAL = re.compile(
    r"e_?mail|phone|telefon|mobile(_?(no|nr|number))?$|handynummer|(^|_)(tel|fax|mail|iban)(_|$)"
    r"|street|stra(ss|ß)e|(^|_)(str|rue|calle|via)(_|$)|address_?(line)?_?\d|anschrift"
    r"|(sur|first|last|full|given|family|middle|maiden|user|nick|vor|nach|customer)_?name|prenom|apellido|cognome"
    r"|(^|_)(company|firma|login|notes?|comments?|notiz(en)?|(be|an)merkung(en)?|kommentare?)$"
)
_OF_PERSON_OR_AREA = re.compile(r"(^|_)(names?|address|adresse)(_|$)")
_AREA = re.compile(
    r"(^|_)(city|town|country|province|state|region|county|zip|postcode|postal|plz|type|code|segment|group|store|shop|"
    r"channel|campaign|brand|tier|plan|language)(_|$)"
)
# Those of products that mean a person: who supplies, made or ordered it, and where.
_PERSONAL_OF_PRODUCT = re.compile(
    r"(^|_)(e_?mail|mail|(tele)?phone|telefon|handy|tel|fax|mobile|iban)(_?(no|nr|nummer|number|address|adresse|\d))?$"
    r"|(^|_)(street|stra(ss|ß)e|str|rue)(_?(no|nr|number|\d))?$|stra(ss|ß)e$|(^|_)(address|adresse)(_?line)?(_?\d)?$"
    r"|anschrift|(^|_)(sur|first|last|full|maiden|nick|user|vor|nach|customer|contact|kontakt|person|owner)_?name$"
    r"|prenom|apellido|cognome|(^|_)(contact|kontakt)(_?person)?$|ansprechpartner"
)
# Whether mail is wanted is no address.
_ABOUT = re.compile(r"accept|consent|opt_?(in|out)|subscri|marketing|newsletter|verified")


def is_address(value: str) -> bool:
    """Whether a value holds an e-mail address, or is a phone number (digits alone are an id)."""
    phone = value.strip().removeprefix("'")
    return bool(_ADDRESS.search(value) or PHONE.fullmatch(phone))


def normal(address: str) -> str:
    """The form in which addresses are compared."""
    return address.strip().lower()


def masked(address: str) -> str:
    """What messages show of an address, a phone number or a name: how it begins."""
    return f'"{address[:1]}...{"@..." if "@" in address else ""}"'


def hashed(addresses: Iterable[str], source: str) -> list[str]:
    """Addresses -> keyed hashes that stand for them; equal ones, however written, get one.

    Args:
      addresses: any of them.
      source: where they stand, for the message.

    Raises:
      InputError: there is no key, or a short one.
    """
    addresses = [normal(address) for address in addresses]
    if not addresses:
        return []
    key = os.environ.get(KEY, "")
    if len(key) < _SHORTEST_KEY:
        found = f"{KEY} has {len(key)} characters" if key else f"{KEY} is not set"
        raise InputError(
            f"{source}: {counted(len(addresses), 'customer')} known by an e-mail address or phone number alone "
            f"({masked(addresses[0])}), which never leaves the reader, and {found}; set that environment variable to a "
            f"secret of {_SHORTEST_KEY} or more characters and keep it: ids are keyed hashes, and the same key gives "
            "the same ids next week"
        )
    return [f"h-{hmac.new(key.encode(), one.encode(), hashlib.sha256).hexdigest()[:_DIGITS]}" for one in addresses]


def replaced(column: Coded, change: Callable[[list[str]], Sequence[str]]) -> Coded:
    """The column with its distinct values changed; values that become equal are one."""
    changed = pa.array(change(column.values.to_pylist()), pa.string()).dictionary_encode()
    return Coded(changed.dictionary, changed.indices.to_numpy()[column.codes])


def without_addresses(ids: Sequence[str], source: str, known: Mapping[str, str]) -> list[str]:
    """Ids of customers, those that are addresses by the shop's own id where it is known, else by their hash.

    Args:
      ids: as a file has them.
      source: the file, for the message.
      known: address, as `normal` gives it -> the shop's id.

    Raises:
      InputError: one needs a hash, and there is no key.
    """
    unnamed = [one for one in ids if is_address(one) and normal(one) not in known]
    hashes = dict(zip(unnamed, hashed(unnamed, source), strict=True))
    return [hashes.get(one) or (known[normal(one)] if is_address(one) else one) for one in ids]


def _plain(name: str) -> str:
    """A column's name in lower case, without accents, its words parted by `_`."""
    signs = (sign for sign in unicodedata.normalize("NFKD", name.lower()) if not unicodedata.combining(sign))
    return re.sub(r"[\W_]+", "_", "".join(signs)).strip("_")


def is_personal_of_product(name: str) -> bool:
    """Whether a column of products, by its name, holds a person's address, phone number, name or street."""
    return bool(_PERSONAL_OF_PRODUCT.search(_plain(name)))


def is_personal(name: str) -> bool:
    """Whether a column of customers, by its name, holds addresses, phone numbers, names, streets or free notes."""
    name = _plain(name)
    if _ABOUT.search(name):
        return False
    return bool(_PERSONAL.search(name) or (_OF_PERSON_OR_AREA.search(name) and not _AREA.search(name)))


def without_personal(customers: pd.DataFrame, source: str) -> tuple[pd.DataFrame, list[str], list[str]]:
    """Customers without what must not leave the reader.

    Args:
      customers: the id first; all cells text.
      source: the file, for the warnings.

    Returns:
      The table without personal columns and with stray addresses blanked, the columns that are gone, warnings.
    """
    gone, warnings = [], []
    kept = customers.copy(deep=False)
    for name in customers.columns[1:]:
        counts = customers[name].value_counts()
        counts = counts[counts.index.str.strip() != ""]
        stray = [one for one in counts.index if any(sign.search(one) for sign in (_ADDRESS, PHONE, _BARE_PHONE))]
        if is_personal(name) or _looks_personal(counts, int(counts[stray].sum())):
            gone.append(name)
        elif stray:
            cells = customers[name].isin(stray)
            kept[name] = customers[name].mask(cells, "")
            holding = counted(int(cells.sum()), "cell")
            warnings.append(f"{source}: {holding} of {name} with an e-mail address or phone number; left blank")
    return kept.drop(columns=gone), gone, warnings


def address_column(customers: pd.DataFrame) -> str | None:
    """The column after the id that holds the customers' e-mail addresses; None where there is none."""
    named = [name for name in customers.columns[1:] if re.search("e[-_]?mail", name) and is_personal(name)]
    for name in [*named, *(other for other in customers.columns[1:] if other not in named)]:
        filled = customers[name][customers[name].str.strip() != ""]
        if len(filled) and filled.str.contains(_ADDRESS).mean() > 0.5:
            return name
    return None


def ids_by_address(customers: pd.DataFrame) -> dict[str, str]:
    """E-mail address, as `normal` gives it -> the shop's id of that customer; the first of an address counts.

    Args:
      customers: the id first, blank where there is none.
    """
    name = address_column(customers)
    if name is None:
        return {}
    return {
        address: own
        for own, address in reversed(
            list(zip(customers.iloc[:, 0].str.strip(), customers[name].map(normal), strict=True))
        )
        if own and address and not is_address(own)
    }


def addresses_of(path: Path, mapping: Mapping[str, str] = MappingProxyType({})) -> pd.DataFrame:
    """The e-mail addresses of the customers in a file, by the ids that stand for them in runs and recommendations.

    Args:
      path: a customers.csv, or a customers export of Shopify.
      mapping: as the data were read by; see `aejax.tables.columns`.

    Returns:
      `customer_id` and `email` as written, a row per customer with an address, sorted by id.

    Raises:
      InputError: no column holds addresses, or one without an id needs a hash and there is no key.
    """
    file = columns.open_table(path, "customers", mapping, {})
    frame = text.read_columns(file, file.names, coded=False).to_pandas().astype("str")
    own = next((name for name in ("customer_id", "id") if name in file.names), None)
    ids = frame[own].str.strip().str.removeprefix("'") if own else pd.Series("", index=frame.index, dtype="str")
    column = address_column(frame.assign(**{"": ""})[["", *frame.columns]])
    if column is None:
        there = ", ".join(file.names)
        raise InputError(f"{path.name} has no column with e-mail addresses (there are: {there}); name a file with one")
    addresses = frame[column].str.strip()
    rows = addresses.str.contains(_ADDRESS)
    ids, addresses = ids[rows], addresses[rows]
    ids = ids.mask(ids == "", addresses)
    unnamed = ids.map(is_address)
    ids[unnamed] = hashed(ids[unnamed], path.name)
    found = pd.DataFrame({"customer_id": ids.to_numpy(), "email": addresses.to_numpy()}, dtype="str")
    return found.drop_duplicates("customer_id").sort_values("customer_id", ignore_index=True)


def _looks_personal(counts: pd.Series, stray: int) -> bool:
    """Whether cells are addresses, phone numbers, streets or names.

    Args:
      counts: distinct filled cell -> rows.
      stray: rows with an address or a phone number.
    """
    rows = int(counts.sum())
    if stray * 10 >= max(rows, 1):
        return True
    streets = [one for one in counts.index if _STREET.search(one) and re.search(r"\d", one)]
    if counts[streets].sum() * 2 > rows:
        return True
    # Cities are words with capitals too, but few of them, each of many customers.
    names = [one for one in counts.index if _NAME.fullmatch(one.strip())]
    return len(counts) >= max(20, 0.8 * rows) and counts[names].sum() >= 0.9 * rows
