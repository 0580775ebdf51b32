"""Exports as shops have them: any encoding, separator, packing and file type, read to the same data."""

from __future__ import annotations

import gzip
import io
import stat
import zipfile
from pathlib import Path

import fuzz_tables
import pandas as pd
import pytest

from aejax import datasets
from aejax.cli.options import column_mapping
from aejax.config import DataConfig
from aejax.errors import InputError
from aejax.tables import proposal, sources
from tests.shops import run, write_shop

MAPPING = {
    "orders.file": "Aufträge.csv",
    "orders.order_id": "Beleg-Nr.",
    "orders.customer_id": "Kunden-Nr.",
    "orders.created_at": "Datum",
    "orders.lineitem_sku": "Artikelnummer",
    "orders.lineitem_quantity": "Menge",
    "orders.lineitem_price": "Einzelpreis",
    "customers.file": "Kunden.csv",
    "customers.customer_id": "Kunden-Nr.",
    "products.file": "Artikel.csv",
    "products.sku": "Artikelnummer",
    "products.title": "Bezeichnung",
    "products.price": "VK-Preis",
}


@pytest.fixture
def shop(tmp_path):
    return write_shop(tmp_path / "shop")


def german(folder: Path, shop: Path) -> dict[str, pd.DataFrame]:
    """The shop as an ERP of a German firm exports it, and its tables."""
    orders, customers, products = (
        pd.read_csv(shop / f"{name}.csv", dtype=str) for name in ("orders", "customers", "products")
    )
    tables = {
        "Aufträge": pd.DataFrame(
            {
                "Beleg-Nr.": orders["order_id"],
                "Kunden-Nr.": orders["customer_id"],
                "Datum": pd.to_datetime(orders["created_at"]).dt.strftime("%d.%m.%Y 08:26"),
                "Artikelnummer": orders["lineitem_sku"],
                "Menge": orders["lineitem_quantity"] + ",000",
                "Einzelpreis": "1.002,50",
            }
        ),
        "Kunden": customers.set_axis(["Kunden-Nr."], axis=1).assign(Straße="Süd"),
        "Artikel": pd.DataFrame(
            {"Artikelnummer": products["sku"], "Bezeichnung": products["title"], "VK-Preis": products["sku"] + ",50"}
        ),
    }
    folder.mkdir()
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False, sep=";", encoding="cp1252")
    return tables


def lines(dataset) -> list[tuple]:
    """(customer, product, quantity, day, number of the order) of each line."""
    found = dataset.interactions
    ids = (found.users.ids[found.user], found.items.ids[found.item], found.quantity.tolist())
    return list(zip(*ids, found.at.astype("datetime64[D]").astype(str), found.order.tolist(), strict=True))


def test_a_german_erp_s_export_is_read_as_the_original_and_says_what_was_guessed(tmp_path, shop):
    german(tmp_path / "erp", shop)
    dataset = datasets.read(tmp_path / "erp", columns=MAPPING)
    assert lines(dataset) == lines(datasets.read(shop))
    assert dataset.products["price"].tolist() == [f"{n:03d}.50" for n in range(16)]
    told = dataset.quality["warnings"]
    assert {
        'the cells of Aufträge.csv are separated by ";"',
        "lineitem_quantity of Aufträge.csv was read with a decimal comma",
        "created_at of Aufträge.csv was read as DD.MM.YYYY",
        "Kunden.csv is not UTF-8; it was read as Windows-1252",
        "price of Artikel.csv: read with a decimal comma",
    } <= set(told)
    assert list(dataset.quality["files"]) == ["Kunden.csv", "Aufträge.csv", "Artikel.csv"]


@pytest.mark.parametrize("packing", ["gz", "zip", "named member", "parquet", "xlsx"])
def test_packed_and_typed_tables_are_read_as_the_plain_ones(tmp_path, shop, packing):
    expected = datasets.read(shop)
    for name in ("customers", "orders", "products"):
        path = shop / f"{name}.csv"
        frame = pd.read_csv(path, dtype={"customer_id": str, "lineitem_sku": str, "sku": str})
        if packing == "gz":
            path.with_suffix(".csv.gz").write_bytes(gzip.compress(path.read_bytes()))
        elif packing == "parquet":
            if name == "orders":
                frame["created_at"] = pd.to_datetime(frame["created_at"])
                frame["lineitem_quantity"] = frame["lineitem_quantity"].astype(float)
            frame.to_parquet(path.with_suffix(".parquet"))
        elif packing == "xlsx":
            pytest.importorskip("openpyxl")
            frame.to_excel(path.with_suffix(".xlsx"), index=False)
        else:
            with zipfile.ZipFile(path.with_suffix(".zip"), "w") as archive:
                archive.write(path, "sub/any.csv" if packing == "zip" else f"{name}.csv")
                if packing == "named member":
                    archive.writestr("other.csv", "x\n")
        path.unlink()
    dataset = datasets.read(shop)
    assert lines(dataset) == lines(expected)
    assert dataset.products.equals(expected.products)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be-bom", "utf-32", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_encodings_and_separators_are_recognised(shop, encoding, separator):
    text = (shop / "products.csv").read_text().replace("Product 000", "Äpfel").replace(",", separator)
    content = b"\xfe\xff" + text.encode("utf-16-be") if encoding == "utf-16-be-bom" else text.encode(encoding)
    (shop / "products.csv").write_bytes(content)
    assert datasets.read(shop).products["title"][0] == "Äpfel"


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("%d/%m/%Y %H:%M", "DD/MM/YYYY"),
        ("%m/%d/%Y %I:%M %p", "MM/DD/YYYY"),
        ("%d-%m-%y", "DD-MM-YY"),
        ("%d.%m.%Y", "DD.MM.YYYY"),
    ],
)
def test_dates_are_recognised_over_the_whole_column(shop, written, says):
    expected = lines(datasets.read(shop))
    orders = pd.read_csv(shop / "orders.csv", dtype=str)
    orders["created_at"] = pd.to_datetime(orders["created_at"]).dt.strftime(written)
    orders.to_csv(shop / "orders.csv", index=False)
    dataset = datasets.read(shop)
    assert lines(dataset) == expected
    assert f"created_at of orders.csv was read as {says}" in dataset.quality["warnings"]


def test_ambiguous_dates_and_numbers_are_refused_with_the_remedy(shop):
    orders = pd.read_csv(shop / "orders.csv", dtype=str)
    orders["created_at"] = "02/01/2024"
    orders.to_csv(shop / "orders.csv", index=False)
    with pytest.raises(InputError, match=r'--columns orders\.date_format="%d/%m/%Y" or "%m/%d/%Y"'):
        datasets.read(shop)
    read = datasets.read(shop, columns={"orders.date_format": "%m/%d/%Y"})
    assert str(read.interactions.at[0]) == "2024-02-01T00:00:00"
    orders["created_at"] = "2024-02-01"
    orders["lineitem_quantity"] = "1.000"
    orders.to_csv(shop / "orders.csv", index=False, sep=";")
    with pytest.raises(InputError, match=r'one or a thousand; say which: --columns orders\.decimal=","'):
        datasets.read(shop)
    units = [datasets.read(shop, columns={"orders.decimal": mark}).interactions.quantity[0] for mark in ",."]
    assert units == [1000, 1]


def test_orders_alone_are_enough_and_it_is_said(shop):
    expected = lines(datasets.read(shop))
    for name in ("customers", "products"):
        (shop / f"{name}.csv").unlink()
    dataset = datasets.read(shop)
    assert lines(dataset) == expected
    assert sum("there is no table of" in warning for warning in dataset.quality["warnings"]) == 2
    assert list(dataset.quality["files"]) == ["orders.csv"]


def test_check_proposes_a_mapping_that_reads_the_folder(tmp_path, shop, capsys):
    german(tmp_path / "erp", shop)
    assert run("check", tmp_path / "erp") == 1
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and "Save the mapping" in printed.err
    (tmp_path / "columns.toml").write_text(printed.out, encoding="utf-8")
    assert column_mapping((str(tmp_path / "columns.toml"),)) == MAPPING
    assert run("check", tmp_path / "erp", "--columns", tmp_path / "columns.toml", "--json", tmp_path / "report") == 0


@pytest.mark.parametrize(
    ("header", "roles"),
    [
        ("Numéro commande;Code client;Date commande;Réf. article;Qté", ("Code client", "Réf. article", "Qté")),
        ("Nº pedido;Código cliente;Fecha pedido;Código artículo;Cantidad", None),
        ("Ordernummer;Klantnummer;Besteldatum;Artikelcode;Aantal", ("Klantnummer", "Artikelcode", "Aantal")),
        (
            "Order Number;Customer User ID;Order Date;SKU;Quantity (- Refund)",
            ("Customer User ID", "SKU", "Quantity (- Refund)"),
        ),
    ],
)
def test_usual_terms_of_other_languages_are_known(tmp_path, header, roles):
    (tmp_path / "export.csv").write_text(f"{header}\n1;a;2024-05-01;p;2\n", encoding="utf-8")
    proposed = proposal.propose(tmp_path)
    names = header.split(";")
    roles = roles or (names[1], names[3], names[4])
    needed = zip(("customer_id", "lineitem_sku", "lineitem_quantity"), roles, strict=True)
    for role, column in [*needed, ("order_id", names[0]), ("created_at", names[2])]:
        assert f'{role} = "{column}"  # by its name' in proposed


def test_a_column_that_no_name_tells_is_found_by_its_ids(tmp_path):
    (tmp_path / "sales.csv").write_text("qty,xx,yy\n1,c1,p1\n2,c2,p2\n")
    (tmp_path / "goods.csv").write_text("code,colour\np1,red\np2,blue\n")
    proposed = proposal.propose(tmp_path)
    assert 'lineitem_sku = "yy"  # its ids are those of goods.csv' in proposed and 'sku = "code"' in proposed


@pytest.mark.parametrize(
    ("mapping", "says"),
    [
        ({"orders.customer_id": "Kunden Nr"}, 'no such column; did you mean "Kunden-Nr.".'),
        ({"orders.file": "Auftrage.csv"}, 'no such file; did you mean "Aufträge.csv"'),
        ({"products.title": "Artikelnummer"}, "Artikel.csv has no column|two columns"),
    ],
)
def test_a_mapping_that_names_what_is_not_there_is_refused(tmp_path, shop, mapping, says):
    german(tmp_path / "erp", shop)
    with pytest.raises(InputError, match=says):
        datasets.read(tmp_path / "erp", columns=MAPPING | mapping)


@pytest.mark.parametrize(
    "key_value",
    [
        ("order.file", "x"),
        ("orders.sku", "x"),
        ("orders.decimal", ";"),
        ("orders.date_format", "DD"),
        ("orders.encoding", "hex"),
    ],
)
def test_a_mapping_is_validated(key_value):
    with pytest.raises(InputError, match=f"--columns .*{key_value[0]}"):
        DataConfig("x", columns=dict([key_value]))


def archive(entries: dict[str, bytes], mode: int = 0) -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in entries.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = mode << 16
            packed.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return whole.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("orders.zip", archive({"../orders.csv": b"a\n"}), "leads out of it"),
        ("orders.zip", archive({"C:\\orders.csv": b"a\n"}), "leads out of it"),
        ("orders.zip", archive({"orders.csv": b"/etc/passwd"}, stat.S_IFLNK | 0o777), "holds the link"),
        ("orders.zip", archive({"a.csv": b"a\n", "b.csv": b"a\n"}), "expected one text file"),
        ("orders.zip", archive({"orders.pkl": b"a\n"}), "expected one text file"),
        ("orders.zip", b"PK\3\4 no archive", "damaged"),
        ("orders.csv.gz", gzip.compress(b"a,b\n" * 99)[:-9], "damaged"),
        ("orders.csv.gz", b"no archive", "damaged"),
        ("orders.parquet", b"PAR1 no table PAR1", "cannot be read as a table"),
    ],
    ids=[f"{number}" for number in range(9)],  # of what is packed they would tell the time
)
def test_archives_that_are_damaged_or_lead_elsewhere_are_refused(shop, name, content, says):
    (shop / "orders.csv").unlink()
    (shop / name).write_bytes(content)
    with pytest.raises(InputError, match=says):
        datasets.read(shop)


@pytest.mark.parametrize("name", ["orders.zip", "orders.csv.gz"])
def test_an_archive_bomb_is_refused_by_size(shop, monkeypatch, name):
    monkeypatch.setattr(sources, "ALWAYS_UNPACKED", 1 << 20)
    content = b"a,b\n" + b"1,2\n" * (1 << 20)
    (shop / "orders.csv").unlink()
    (shop / name).write_bytes(gzip.compress(content) if name.endswith("gz") else archive({"orders.csv": content}))
    with pytest.raises(InputError, match="unpacks to more than"):
        datasets.read(shop)


@pytest.mark.parametrize(("mark", "says"), [(b"\0", "customers.csv:4: a NUL byte"), (b'"', "customers.csv:4: a quote")])
def test_what_stands_behind_the_first_piece_of_a_file_is_found_by_its_line(shop, monkeypatch, mark, says):
    monkeypatch.setattr(sources, "CHUNK", 16)  # the first piece is little more than the header
    (shop / "customers.csv").write_bytes(b"customer_id,city\n1,Ulm\n2,Bonn\n3,%sTrier\n" % mark)
    with pytest.raises(InputError, match=says):
        datasets.read(shop)


@pytest.mark.slow
def test_hostile_tables_end_in_success_or_one_message():
    outcomes = fuzz_tables.fuzz(300, draw_seed=0)
    assert outcomes["read"] >= 300 / 4, outcomes  # what is refused at its first cell tries nothing behind it
    assert outcomes["refused"] >= 300 / 10, outcomes
