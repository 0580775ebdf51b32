"""A mapping of a shop's files and columns, proposed from the names of columns, the look of their cells and what they
have in common. Only names are ever shown, no cell.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import unicodedata
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from aejax.tables import columns, text

_ROWS = 20_000  # that are looked at
_SHARED = 0.5  # share of the order lines' ids that a table of them must know

# English, German, French, Spanish and Dutch, shop systems and ERPs; the surest first.
_CUSTOMER = (
    "customerid customernumber customerno custno kundennr kundennummer kundenid kdnr debitorennr debitor kunde "
    "codeclient numclient numeroclient noclient idclient client idcliente codigocliente numerocliente codcliente "
    "cliente klantnummer klantnr klantid klantcode klant customeruserid customeruser userid memberid buyerid clientid "
    "customer emailbilling billingemail customeremail email"
)
_SKU = (
    "sku lineitemsku productsku itemsku variantsku artikelnummer artikelnr artnr artikelcode artikelid materialnummer "
    "codearticle refarticle referencearticle idarticle codeproduit refproduit idproduit codigoarticulo codarticulo "
    "idarticulo codigoproducto idproducto referencia productnummer productcode stockcode itemnumber itemno productid "
    "itemid reference material artikel article articulo producto produit product item ean"
)
_PRICE = (
    "lineitemprice unitprice itemprice itemcost price regularprice einzelpreis epreis stuckpreis vkpreis preis "
    "prixunitaire prix preciounitario precio stukprijs eenheidsprijs prijs"
)
_TERMS = {
    "orders": {
        "customer_id": _CUSTOMER,
        "lineitem_sku": _SKU,
        "lineitem_quantity": "lineitemquantity quantity quantityrefund qty menge anzahl stuckzahl stuck stk "
        "quantite qte cantidad cant unidades aantal hoeveelheid units itemquantity",
        "order_id": "orderid ordernumber orderno auftragsnummer auftragsnr bestellnummer bestellnr belegnummer belegnr "
        "rechnungsnummer rechnungsnr invoiceno invoicenumber numerocommande numcommande nocommande idcommande "
        "numerofacture idpedido numeropedido numpedido numerofactura bestelnummer ordernummer bestelnr factuurnummer "
        "auftrag bestellung beleg rechnung commande facture pedido factura order invoice",
        "created_at": "createdat orderdate invoicedate bestelldatum auftragsdatum rechnungsdatum belegdatum "
        "datecommande datefacture fechapedido fechafactura besteldatum orderdatum factuurdatum datum date fecha",
        "lineitem_price": _PRICE,
    },
    "customers": {"customer_id": _CUSTOMER + " id"},
    "products": {
        "sku": _SKU + " id",
        "title": "title titel name artikelbezeichnung bezeichnung artikelname produktname productname itemname "
        "designation libelle nombre descripcion omschrijving productnaam description beschreibung",
        "price": _PRICE,
    },
}
_NEEDED = {"orders": 3, "customers": 1, "products": 1}  # of its terms, the first so many
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}|\d{1,2}[./-]\d{1,2}[./-]\d{2,4}(\D|$)")
_NUMBER = re.compile(r"[+-]?\d[\d.,]*")


@dataclasses.dataclass(frozen=True)
class _Look:
    """A file as far as it was looked at: its columns' names and the cells of its first rows, by column."""

    path: Path
    header: Sequence[str]
    cells: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class _Found:
    column: int
    score: float
    why: str


def propose(folder: Path) -> str:
    """A mapping for `--columns`, as TOML with comments on what each line is taken from; `file` is always named.

    Raises:
      InputError: a file cannot be read.
    """
    looks = [_look(path) for path in columns.tables_in(folder)]
    chosen: dict[str, tuple[_Look, dict[str, _Found]]] = {}
    orders = max(looks, key=lambda look: _sum(_by_name(look, "orders"), "orders"), default=None)
    if orders is not None:
        found = _by_name(orders, "orders")
        rest = [look for look in looks if look is not orders]
        for table, key in (("products", "lineitem_sku"), ("customers", "customer_id")):
            rest = [look for look in rest if all(look is not taken for taken, _ in chosen.values())]
            entity = _entity(table, orders, found, key, rest)
            if entity is not None:
                chosen[table] = entity
        chosen["orders"] = (orders, found)
    lines = ["# Proposed from names, types and overlaps: check each line."]
    for table in ("orders", "customers", "products"):
        if table in chosen:
            lines += _section(table, *chosen[table])
        else:
            lines.append(f'# [{table}]: no file looks like it. If one is: file = "..."')
    return "\n".join(lines)


def _look(path: Path) -> _Look:
    file = text.open_text(path)
    if file.grid is not None:
        table = file.grid.read(file.header).slice(0, _ROWS)
        return _Look(path, file.header, [table[name].to_pylist() for name in file.header])
    rows = [cells for _, cells in islice(file.records(), 1, _ROWS + 1) if len(cells) == len(file.header)]
    return _Look(path, file.header, list(zip(*rows, strict=True)) or [()] * len(file.header))


def _plain(name: str) -> str:
    """A name without case, accents and punctuation."""
    return re.sub(r"[^a-z0-9]", "", unicodedata.normalize("NFKD", name.lower()).replace("ß", "ss"))


def _by_name(look: _Look, table: str) -> dict[str, _Found]:
    """Role -> the column whose name says so, and whose cells do not contradict."""
    scored = []
    for role, terms in _TERMS[table].items():
        for column, name in enumerate(look.header):
            score = _likeness(_plain(name), terms.split())
            if score and _fits(look.cells[column], role):
                scored.append((score, -column, role))
    found: dict[str, _Found] = {}
    for score, column, role in sorted(scored, reverse=True):
        if role not in found and all(other.column != -column for other in found.values()):
            found[role] = _Found(-column, score, "by its name")
    return found


def _likeness(name: str, terms: Sequence[str]) -> float:
    if name in terms:
        return 1 - terms.index(name) / 1000
    if any(len(term) > 4 and (name.startswith(term) or name.endswith(term)) for term in terms):
        return 0.6
    return 0.5 if len(name) > 4 and difflib.get_close_matches(name, terms, n=1, cutoff=0.85) else 0.0


def _fits(cells: Sequence[str], role: str) -> bool:
    kind = {"created_at": _DATE.match, "lineitem_quantity": _NUMBER.fullmatch}.get(role)
    kind = _NUMBER.match if role.endswith("price") else kind
    present = [cell.strip() for cell in cells[:1000] if cell and cell.strip()]
    return kind is None or not present or sum(bool(kind(cell)) for cell in present) > 0.8 * len(present)


def _sum(found: dict[str, _Found], table: str) -> float:
    needed = list(_TERMS[table])[: _NEEDED[table]]
    return sum(one.score * (2 if role in needed else 1) for role, one in found.items())


def _entity(
    table: str, orders: _Look, found: dict[str, _Found], key: str, rest: Sequence[_Look]
) -> tuple[_Look, dict[str, _Found]] | None:
    """The file that has a row for each id of the orders' `key`, by the ids they share, else by name. Where no name
    tells which column of the orders that is, the ids tell it too: it is added to `found`.
    """
    best: tuple[float, _Look, int, int] | None = None
    taken = [one.column for role, one in found.items() if role != key]
    candidates = [found[key].column] if key in found else [n for n in range(len(orders.header)) if n not in taken]
    for look in rest:
        for column, cells in enumerate(look.cells):
            ids = {cell for cell in cells if cell}
            if len(ids) < 2 or len(ids) < 0.95 * sum(map(bool, cells)):
                continue  # not an id
            for own in candidates:
                used = {cell for cell in orders.cells[own] if cell}
                shared = len(used & ids) / max(len(used), 1)
                if shared >= _SHARED and (best is None or shared > best[0]):
                    best = (shared, look, column, own)
    name = next(iter(_TERMS[table]))
    if best is not None:
        shared, look, column, own = best
        why = f"{shared:.0%} of the ids in the order lines looked at"
        found.setdefault(key, _Found(own, 0.0, f"its ids are those of {look.path.name}"))
        others = {role: one for role, one in _by_name(look, table).items() if role != name and one.column != column}
        return look, {name: _Found(column, 0.0, why), **others}
    stems = {"products": ("produ", "artik", "artic", "item"), "customers": ("custom", "kunde", "client", "klant")}
    for look in rest:
        by_name = _by_name(look, table)
        if name in by_name and _plain(look.path.name).startswith(stems[table]):
            return look, by_name
    return None


def _section(table: str, look: _Look, found: dict[str, _Found]) -> list[str]:
    lines = ["", f"[{table}]", f"file = {_quoted(look.path.name)}"]
    for role in _TERMS[table]:
        if role in found:
            one = found[role]
            lines.append(f"{role} = {_quoted(look.header[one.column])}  # {one.why}")
        elif role in list(_TERMS[table])[: _NEEDED[table]]:
            lines.append(f'# {role} = "..."  # needed, and not found; one of the columns of {look.path.name}')
    return lines


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)
