"""Hostile tables through `aejax check`: every one ends in success with all rows accounted for, or in one message.

    python scripts/fuzz_tables.py --tables 10000

Each table is a shop of up to three files with cells, headers, quotes, encodings, separators, line ends and packings as
hypothesis draws them. A traceback, a hang, a partial report, a row without account or an address in a message ends it,
with the smallest shop that does it.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import gzip
import io
import json
import os
import signal
import tempfile
import time
import zipfile
from collections import Counter
from pathlib import Path
from unittest import mock

import tyro
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from aejax.cli import main as aejax
from aejax.tables import addresses

LONGEST = 60  # seconds for one table
PROGRESS = 500  # shops
ADDRESS = "ada.secret@shop.example"
DATES = ("2024-05-01", "2024-05-02 09:58:12 +0200", "1900-01-01", "9999-12-31", "0000-00-00", "2262-04-12",
         "31.12.2010", "01.12.2010 08:26", "12/31/2010", "1/2/10", "2024-13-01", "45413", "1714557492", "heute",
         "")  # fmt: skip
NUMBERS = ("1", "2", "-1", "0", "1.0", "1,0", "2,50", "1.000", "1,000", "1.234,50", "1e3", "1e400", "NaN", "inf",
           "zwei", "74215", "99999999999999999999", "１", " 3 ", "")  # fmt: skip
IDS = ("a", "b", "007", "7", " a ", "=1+1", "Kunde Ä", ADDRESS, "")
HOSTILE = ('"', 'x"y', "a\nb", ";", ",", "\t|", "\x00", "\ufeff", "\u202e", "😀", "\x85", "\x1c", "NULL", "<b>",
           "x" * 1_000_000)  # fmt: skip
GOOD_HEADERS = {
    "orders": ("order_id", "customer_id", "created_at", "lineitem_sku", "lineitem_quantity", "lineitem_price"),
    "customers": ("customer_id", "city"),
    "products": ("sku", "title", "price"),
}
GERMAN = {
    "orders": ("Beleg-Nr", "Kunden-Nr", "Datum", "Artikelnummer", "Menge", "Preis"),
    "customers": ("Kunden-Nr", "Ort"),
    "products": ("Artikelnummer", "Bezeichnung", "Preis"),
}
MAPPING = [
    f"{table}.{name}={column}"
    for table, names in GOOD_HEADERS.items()
    for name, column in zip(names, GERMAN[table], strict=True)
]
SUFFIXES = (".csv", ".csv", ".csv.gz", ".zip", ".txt", ".tsv", ".parquet", ".xlsx")


@dataclasses.dataclass(frozen=True)
class Shop:
    """Files by name, options of the command, how many rows the orders have where that is certain, and whether the user
    has a key for addresses that stand in place of ids.
    """

    files: dict[str, bytes]
    options: list[str]
    rows: int | None
    keyed: bool


@st.composite
def shops(draw: st.DrawFn) -> Shop:
    """A shop; half of them are mild, so that many are read to the end."""
    german, mild = draw(st.booleans()), draw(st.booleans())
    files, rows = {}, None
    for table in draw(st.sampled_from((*[tuple(GOOD_HEADERS)] * 4, ("orders",), ("orders", "customers")))):
        names = (GERMAN if german else GOOD_HEADERS)[table]
        content, count = draw(tables(table, names, mild))
        suffix = draw(st.sampled_from(SUFFIXES[:6] if mild else SUFFIXES))
        files[table + suffix] = draw(packed(content, suffix, mild))
        rows = count if table == "orders" else rows
    there = {name.partition(".")[0] for name in files}
    options = ["--columns", *(pair for pair in MAPPING if pair.partition(".")[0] in there)]
    options = options if german and "customers" in there else []
    return Shop(files, options, rows, mild or draw(st.booleans()))


@st.composite
def tables(draw: st.DrawFn, table: str, names: tuple[str, ...], mild: bool) -> tuple[bytes, int | None]:
    """The bytes of a table, and its rows where they are certain."""
    sound = mild or draw(st.integers(0, 2)) > 0
    header = list(names)
    if not sound:
        header = draw(st.permutations(header))[: draw(st.sampled_from((len(header), len(header), len(header), 1)))]
        header += draw(st.sampled_from(([], [], [], header[:1], [""], ["x\ny"], [ADDRESS])))
    cells = {
        "created_at": DATES, "Datum": DATES, "lineitem_quantity": NUMBERS, "Menge": NUMBERS, "Preis": NUMBERS,
        "price": NUMBERS, "lineitem_price": NUMBERS,
    }  # fmt: skip
    ids = st.sampled_from(IDS[:4])
    tame = mild or draw(st.integers(0, 2)) > 0
    dates = draw(st.sampled_from((DATES[:2], DATES[6:8], DATES)[: 3 - mild]))
    numbers = draw(st.sampled_from((NUMBERS[:5], ("1,0", "2,0", "1.000,0"), NUMBERS)[: 3 - mild]))

    kinds = {DATES: dates, NUMBERS: numbers, IDS: IDS} if tame else {DATES: DATES, NUMBERS: NUMBERS, IDS: IDS}
    drawn = {kind: st.sampled_from(some) for kind, some in kinds.items()}  # made once: that costs more than a draw
    if not tame:
        drawn = {kind: _hostile_once_in(9, some) for kind, some in drawn.items()}

    def cell(name: str, row: int) -> str:
        if tame and table != "orders" and name == header[0]:
            return f"{draw(ids)}{row}"
        return draw(drawn[cells.get(name, IDS)])

    body = [[cell(name, row) for name in header] for row in range(draw(st.integers(0 if not sound else 3, 12)))]
    if table == "orders" and sound:
        solid = {"Kunden-Nr": "yz", "customer_id": "yz", "Artikelnummer": "st", "lineitem_sku": "st"}
        for pick in (0, 1):
            row = [cell(name, 0) if tame else "" for name in header]
            for n, name in enumerate(header):
                values = solid.get(name, "")
                row[n] = "1" if name in ("Menge", "lineitem_quantity") else values[pick] if values else row[n]
            body.append(row)
    certain = all("\0" not in value for row in (header, *body) for value in row)
    if not sound and body and draw(st.booleans()):
        body[draw(st.integers(0, len(body) - 1))].append("more")
        certain = False
    separator = draw(st.sampled_from((",", ",", ";", "\t", "|")))
    end = draw(st.sampled_from(("\n", "\r\n", "\r")))
    written = io.StringIO()
    csv.writer(written, delimiter=separator, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([header, *body])
    text = written.getvalue()
    if draw(st.booleans()) and not any(
        mark in value for row in (header, *body) for value in row for mark in '\n\r",;\t|'
    ):
        text = text.replace('"', "")  # cells without quotes
        certain &= len(header) > 1
    if not sound and draw(st.integers(0, 3)) == 0:
        place = draw(st.integers(0, len(text)))
        text = text[:place] + draw(st.sampled_from(('"', "\n\n", "\0", separator, "\r"))) + text[place:]
        certain = False
    encodings = ("utf-8", "utf-8-sig", "utf-16", "cp1252", "utf-32", "utf-16-le", "cp437")
    encoding = draw(st.sampled_from(encodings[: 5 if mild else 7]))
    content = text.encode(encoding, errors="replace")
    if not sound and draw(st.integers(0, 3)) == 0:
        content = content[: draw(st.integers(0, len(content)))] + draw(st.binary(max_size=8))
        certain = False
    return content, len(body) if certain else None


@st.composite
def _hostile_once_in(draw: st.DrawFn, times: int, ordinary: st.SearchStrategy[str]) -> str:
    """An ordinary cell, or once in so many times a hostile one; `one_of` would take equal branches for one."""
    if draw(st.integers(1, times)) < times:
        return draw(ordinary)
    return draw(st.sampled_from(HOSTILE) | st.text(max_size=5))


@st.composite
def packed(draw: st.DrawFn, content: bytes, suffix: str, mild: bool) -> bytes:
    """The content as a file of this suffix has it, sometimes damaged, a bomb, or not packed at all."""
    if suffix not in (".csv.gz", ".zip") or (not mild and draw(st.integers(0, 5)) == 0):
        return content
    if suffix == ".zip":
        whole = io.BytesIO()
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
            names = st.sampled_from(
                ("orders.csv", "orders.csv", "a/b.csv", "../../b.csv", "/b.csv", "b.exe", "orders.zip")
            )
            archive.writestr("any.csv" if mild else draw(names), content)
        content = whole.getvalue()
    else:
        content = gzip.compress(content, 1)
    if not mild and draw(st.integers(0, 5)) == 0:
        content = content[: draw(st.integers(0, len(content)))]
    return content


def outcome(shop: Shop) -> str:
    """Check a shop as a user does; `read`, or the message without what is particular to it.

    Raises:
      AssertionError: it ended in any other way.
    """
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as ends:
        folder, report = Path(place) / "shop", Path(place) / "out" / "report.json"
        folder.mkdir()
        report.parent.mkdir()
        for name, content in shop.files.items():
            (folder / name).write_bytes(content)
        ends.enter_context(mock.patch.dict(os.environ, {addresses.KEY: "a key of the user's" if shop.keyed else ""}))
        out, err = io.StringIO(), io.StringIO()
        signal.signal(signal.SIGALRM, _too_long)
        signal.alarm(LONGEST)
        ends.callback(signal.alarm, 0)
        code: object = 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                aejax(["check", str(folder), "--json", str(report), *shop.options])
            except SystemExit as stop:
                code = stop.code
        message = err.getvalue()
        assert ADDRESS not in message + out.getvalue(), message
        left = [path.name for path in report.parent.iterdir()]
        assert left in ([], ["report.json"]), left
        if left:  # with code 1, too: of a shop on which no model can be tested
            assert ADDRESS not in report.read_text()
            accounts = json.loads(report.read_text())["files"]
            for account in accounts.values():
                dropped = sum(reason["rows"] for reason in account["dropped"].values())
                assert account["read"] == account["kept"] + account["merged"] + account["netted"] + dropped, account
            orders = next(account for name, account in accounts.items() if name.startswith("orders"))
            assert shop.rows is None or orders["read"] == shop.rows, (orders, shop.rows)
        if code == 0:
            assert not message and left, message
            return "read"
        assert code == 1, code
        assert message.startswith("aejax: ") and message.count("\n") == 1 and len(message) < 4000, message[:4000]
        return "refused"


def _too_long(*_: object) -> None:
    raise AssertionError(f"more than {LONGEST} s")


def fuzz(count: int, draw_seed: int) -> Counter[str]:
    """Outcomes of so many shops; those so far are printed after every `PROGRESS`."""
    outcomes: Counter[str] = Counter()
    start = time.perf_counter()

    @seed(draw_seed)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
        phases=[Phase.generate, Phase.shrink],
    )
    @given(shops())
    def one(shop: Shop) -> None:
        outcomes[outcome(shop)] += 1
        if outcomes.total() % PROGRESS == 0:
            print(told(outcomes, start), flush=True)

    one()
    return outcomes


def told(outcomes: Counter[str], start: float) -> str:
    """A line on the outcomes since `start`."""
    counts = ", ".join(f"{count:,} {name}" for name, count in outcomes.most_common())
    return f"{outcomes.total():,} shops in {time.perf_counter() - start:.0f} s: {counts}"


def main(tables: int = 10_000, seed: int = 0) -> None:
    """Fuzz, and print the outcomes.

    Args:
      tables: how many shops.
      seed: of what is drawn.
    """
    start = time.perf_counter()
    print(told(fuzz(tables, seed), start))


if __name__ == "__main__":
    tyro.cli(main)
