"""A shop's raw exports, with every trap that they are known to hold, add up to the unit."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from shops import run, write_shop

from aejax import datasets, quality, runs
from aejax.config import DataConfig, RunConfig, SplitConfig, TrainingConfig
from aejax.errors import InputError
from aejax.interactions import Dataset
from aejax.tables import addresses
from aejax.tables.addresses import addresses_of

KEY = "a secret of the shop's own"
ORDERS_1 = """\
Created at,Lineitem quantity,Lineitem name,Lineitem price,Lineitem sku,Name,Email,Financial Status,Cancelled at,\
Currency,Billing Name,Billing Street,Billing Zip,Phone,Id
2024-05-01 09:58:12 +0000,2,Shirt - Red / M,20.00,SH-RM,#1001,Ada@Shop.example,paid,,CHF,Ada Alder,Lime Street 1,'8001,\
+41790000001,'5001
,1,Mug,8.00,'0077,#1001,,,,,,,,,
,1,Shirt - Blue / L,24.00,SH-BL,#1001,,,,,,,,,
2024-05-02 10:00:00 +0200,5,Mug,8.00,0077,#1002,bob@shop.example,voided,,CHF,Bob Birch,"Lime Street
2",'8002,,'5002
,7,Shirt - Red / M,20.00,SH-RM,#1002,,,,,,,,,
2024-05-03 10:00:00 +0000,3,Mug,8.00,0077,#1003,bob@shop.example,refunded,,CHF,Bob Birch,Lime Street 2,,,'5003
2024-05-03 11:00:00 +0000,1,Mug,8.00,0077,#1004,bob@shop.example,paid,2024-05-04 08:00:00 +0000,CHF,,,,,'5004
,1,Poster,5.00,,#1004,,,,,,,,,
2024-05-05 10:00:00 +0000,1,Mug,8.00,0077,#1005,cyd@shop.example,partially_refunded,,CHF,,,,,'5005
,2,Poster,5.00,,#1005,,,,,,,,,
2024-05-06 10:00:00 +0000,4,Poster,5.00,,#1006, ADA@shop.example ,pending,,CHF,,,,,'5006
2024-05-06 11:00:00 +0000,1,Mug,8.00,0077,#1007,,paid,,CHF,,,,,'5007
2024-05-07 10:00:00 +0000,1,Mug,8.00,0077,#1008,bob@shop.example,expired,,CHF,,,,,'5008
2024-05-08 10:00:00 +0000,1,Mug,7.50,0077,#1009,guest@web.example,paid,,EUR,,,,,'5009
2024-05-09 10:00:00 +0000,1,Cup,3.00,CUP-OLD,#1010,bob@shop.example,paid,,USD,,,,,'5010
"""
# The second part begins with what is left of #1010, and knows better what became of #1005.
ORDERS_2 = """\
Name,Email,Financial Status,Created at,Cancelled at,Currency,Lineitem quantity,Lineitem name,Lineitem price,Lineitem sku
#1010,,,,,,2,Shirt - Red / S,19.00,SH-RS
#1005,cyd@shop.example,refunded,2024-05-05 10:00:00 +0000,,CHF,1,Mug,8.00,0077
#1005,,,,,,2,Poster,5.00,
#1011,cyd@shop.example,paid,2024-06-01 10:00:00 +0000,,CHF,3,Shirt - Red / M,20.00,SH-RM
#1011,,,,,,1,Shirt - Red / M,20.00,SH-RM
#1012,cyd@shop.example,paid,2024-06-02 10:00:00 +0000,,CHF,,,,
#1012,,,,,,1,Gift card,50.00,GIFT
#1013,bob@shop.example,partially_refunded,2024-06-03 10:00:00 +0000,,CHF,6,Mug,8.00,0077
"""
CUSTOMERS = """\
Customer ID,First Name,Last Name,Email,Accepts Email Marketing,Default Address Company,Default Address Address1,\
Default Address City,Default Address Zip,Phone,Total Spent,Total Orders,Note,Tags
'9001,Ada,Alder,ada@shop.example,yes,,Lime Street 1,Zürich,'8001,'+41790000001,56.00,2,ring twice,vip
'9002,Bob,Birch,BOB@shop.example,no,Birch & Sons,Lime Street 2,Bern,'3001,,,0,,
'9003,Cyd,Cedar,,no,,Lime Street 3,Bern,'3001,,,0,,
,Nemo,Nobody,,no,,,,,,,0,,
,Cyd,Cedar,cyd@shop.example,yes,,,Basel,,,,0,,
"""
OLDER = """\
Handle,Title,Body (HTML),Vendor,Type,Tags,Published,Option1 Name,Option1 Value,Option2 Name,Option2 Value,Variant SKU,\
Variant Inventory Qty,Variant Price,Image Src,Gift Card,Status
shirt,Shirt,<p>soft</p>,Weave,Clothes,summer,true,Colour,Red,Size,M,SH-RM,0,20.00,https://x/1.png,false,active
shirt,,,,,,,,Red,,S,SH-RS,3,19.00,https://x/2.png,,
shirt,,,,,,,,Blue,,L,SH-BL,1,24.00,,,
shirt,,,,,,,,,,,,,,https://x/3.png,,
mug,Mug,,Kiln,Kitchen,,true,Title,Default Title,,,'0077,9,8.00,,false,active
poster,Poster,,Press,Paper,,true,Title,Default Title,,,,0,5.00,,false,draft
gift,Gift card,,Shop,,,true,Title,Default Title,,,GIFT,,50.00,,true,active
"""
NEWER = """\
Title,URL handle,Description,Vendor,Product category,Type,Tags,Published on online store,Status,SKU,Option1 name,\
Option1 value,Option2 name,Option2 value,Price,Inventory tracker,Inventory quantity,Continue selling when out of stock,\
Product image URL,Gift card
Shirt,shirt,soft,Weave,,Clothes,summer,true,active,SH-RM,Colour,Red,Size,M,20.00,shopify,0,false,,false
,shirt,,,,,,,,SH-RS,,Red,,S,19.00,shopify,3,false,,
,shirt,,,,,,,,SH-BL,,Blue,,L,24.00,shopify,1,false,,
,shirt,,,,,,,,,,,,,,,,,https://x/3.png,
Mug,mug,,Kiln,,Kitchen,,true,active,'0077,Title,Default Title,,,8.00,,0,false,,false
Poster,poster,,Press,,Paper,,true,draft,,Title,Default Title,,,5.00,shopify,0,false,,false
Gift card,gift,,Shop,,,,true,active,GIFT,Title,Default Title,,,50.00,,,false,,true
"""


def exports(folder: Path, **contents: str) -> Path:
    folder.mkdir(exist_ok=True)
    files = {"orders_export_1": ORDERS_1, "orders_export_2": ORDERS_2, "customers_export": CUSTOMERS}
    for name, content in {**files, "products_export_1": OLDER, **contents}.items():
        if content:
            (folder / f"{name}.csv").write_text(content, encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("AEJAX_KEY", KEY)


def rows_of(dataset: Dataset) -> list[tuple]:
    """(customer, item, quantity, date, price) of each line."""
    lines = dataset.interactions
    assert lines.at is not None and lines.price is not None
    ids = (lines.users.ids[lines.user], lines.items.ids[lines.item])
    price = [None if np.isnan(one) else one for one in lines.price.tolist()]
    return list(zip(*ids, lines.quantity.tolist(), lines.at.astype("M8[D]").astype(str).tolist(), price, strict=True))


def account(dataset: Dataset, name: str) -> dict:
    """A file's account, which adds up."""
    found = dataset.quality["files"][name]
    assert found["read"] == found["kept"] + found["merged"] + found["netted"] + sum(
        reason["rows"] for reason in found["dropped"].values()
    )
    return found


@pytest.mark.parametrize("products", [OLDER, NEWER])
def test_raw_exports_add_up_to_the_unit(tmp_path, products):
    dataset = datasets.read(exports(tmp_path, products_export_1=products))
    lines = rows_of(dataset)
    hashes = {one for one, *_ in lines if one.startswith("h-")}
    cyd, guest = lines[6][0], lines[3][0]
    assert hashes == {cyd, guest} and len(hashes) == 2
    assert lines == [
        ("9001", "shirt", 3, "2024-05-01", pytest.approx(64 / 3)),
        ("9001", "mug", 1, "2024-05-01", 8),
        ("9001", "poster", 4, "2024-05-06", 5),
        (guest, "mug", 1, "2024-05-08", None),
        ("9002", "CUP-OLD", 1, "2024-05-09", None),
        ("9002", "shirt", 2, "2024-05-09", None),
        (cyd, "shirt", 4, "2024-06-01", 20),
        (cyd, "gift", 1, "2024-06-02", 50),
        ("9002", "mug", 6, "2024-06-03", 8),
    ]
    orders = [account(dataset, f"orders_export_{n}.csv") for n in (1, 2)]
    assert [one["read"] for one in orders] == [15, 8]
    assert [(one["kept"], one["merged"], one["netted"]) for one in orders] == [(5, 1, 0), (4, 1, 0)]
    # The cell over two lines of #1002 moves what follows down.
    assert {reason: rows["lines"] for reason, rows in orders[0]["dropped"].items()} == {
        "order is in a newer file too": [11, 12],
        "order was cancelled": [9, 10],
        "order is refunded": [8],
        "order is voided": [5, 7],
        "order is expired": [15],
        "no customer": [14],
    }
    assert {reason: rows["lines"] for reason, rows in orders[1]["dropped"].items()} == {
        "order is refunded": [3, 4],
        "no product": [7],
    }
    assert dataset.interactions.order is not None and len(set(dataset.interactions.order.tolist())) == 7


def test_what_was_decided_is_said(tmp_path):
    dataset = datasets.read(exports(tmp_path))
    assert dataset.quality["warnings"] == [
        "1 customer of orders_export_1.csv and 1 more file not in customers_export.csv: "
        f'"{rows_of(dataset)[3][0]}"; kept, without attributes',
        "1 product of orders_export_1.csv and 1 more file not in products_export_1.csv: "
        '"CUP-OLD"; kept, without attributes',
        "1 order in several files; each counts once, in the newest of them, not in orders_export_1.csv",
        "1 order partially refunded; they count in full, for an export does not say which lines came back",
        "orders in 3 currencies (CHF 6, USD 1, EUR 1); prices count in CHF alone, other lines have none",
        "1 order without an e-mail address (sold at a counter?); left out",
    ]


CUT = "Name,Email,Financial Status,Created at,Cancelled at,Lineitem quantity,Lineitem name,Lineitem sku\n"


@pytest.mark.parametrize("first", ["a", "z"])  # whichever file is read first
def test_an_order_that_a_part_cuts_off_is_whole_though_its_later_rows_repeat_the_date(tmp_path, first):
    head = (
        "#1,a@x.example,paid,2024-05-01 10:00:00 +0000,,1,Mug,MUG\n"
        "#2,b@x.example,refunded,2024-05-03 10:00:00 +0000,,1,Mug,MUG\n"
        "#2,b@x.example,,2024-05-03 10:00:00 +0000,,2,Cup,CUP\n"
        "#3,b@x.example,paid,2024-05-02 10:00:00 +0000,,4,Cup,CUP\n"
        "#3,b@x.example,,2024-05-02 10:00:00 +0000,,8,Mug,MUG\n"
    )
    tail = (
        "#3,b@x.example,,2024-05-02 10:00:00 +0000,,16,Jug,JUG\n"
        "#2,b@x.example,,2024-05-03 10:00:00 +0000,,32,Jug,JUG\n"
        "#4,a@x.example,paid,2024-05-04 10:00:00 +0000,,64,Jug,JUG\n"
    )
    files = {f"orders_export_{first}": CUT + head, "orders_export_m": CUT + tail}
    dataset = datasets.read(exports(tmp_path, orders_export_1="", orders_export_2="", products_export_1="", **files))
    assert sorted(dataset.interactions.quantity.tolist()) == [1, 4, 8, 16, 64]
    assert account(dataset, f"orders_export_{first}.csv")["dropped"] == {
        "order is refunded": {"rows": 2, "lines": [3, 4]}
    }
    assert account(dataset, "orders_export_m.csv")["dropped"] == {"order is refunded": {"rows": 1, "lines": [3]}}
    assert not any("in several files" in told or "status" in told for told in dataset.quality["warnings"])


@pytest.mark.parametrize(
    ("statuses", "units"),
    [((), 23), (("paid",), 13), (("paid", "cancelled"), 15), (("voided", "refunded", "expired"), 12 + 3 + 1 + 3)],
)
def test_statuses_choose_the_orders_that_count(tmp_path, statuses, units):
    dataset = datasets.read(exports(tmp_path), statuses=statuses)
    assert dataset.interactions.quantity.sum() == units
    for name in dataset.quality["files"]:
        account(dataset, name)


@pytest.mark.parametrize("products", [OLDER, NEWER])
def test_a_product_carries_its_variants_and_names_one_in_stock(tmp_path, products):
    dataset = datasets.read(exports(tmp_path, products_export_1=products))
    rows = dataset.products.set_index("sku")
    assert rows.index.tolist() == ["CUP-OLD", "gift", "mug", "poster", "shirt"]
    assert rows["title"].tolist() == ["Cup", "Gift card", "Mug", "Poster", "Shirt"]
    assert rows["variant_sku"].tolist() == ["", "GIFT", "0077", "", "SH-RS"]
    assert json.loads(rows["variants"]["shirt"]) == ["SH-RM", "SH-RS", "SH-BL"]
    assert rows.loc["shirt", ["vendor", "type", "published", "price"]].tolist() == ["Weave", "Clothes", "true", "19.00"]
    found = account(dataset, "products_export_1.csv")
    assert (found["read"], found["kept"], found["merged"]) == (7, 4, 2)
    assert found["dropped"] == {"image of a product": {"rows": 1, "lines": [5]}}


def test_a_product_that_a_part_cuts_off_is_whole(tmp_path):
    lines = OLDER.splitlines(keepends=True)
    whole = datasets.read(exports(tmp_path / "whole"))
    parts = {"products_export_1": "".join(lines[:3]), "products_export_2": "".join([lines[0], *lines[3:]])}
    cut = datasets.read(exports(tmp_path / "cut", **parts))
    pd.testing.assert_frame_equal(cut.products, whole.products)
    assert rows_of(cut) == rows_of(whole)
    assert [account(cut, f"{name}.csv")["read"] for name in parts] == [2, 5]
    newer = {"products_export_2": lines[0] + "shirt,Blouse,,Weave,,,true,Colour,Red,,,SH-RM,0,20.00,,,active\n"}
    again = datasets.read(exports(tmp_path / "again", **newer))
    assert again.products.set_index("sku").loc["shirt", ["title", "variants"]].tolist() == ["Blouse", '["SH-RM"]']
    assert account(again, "products_export_1.csv")["dropped"]["product is in a later file too"]["rows"] == 4


def test_a_title_may_begin_with_an_apostrophe(tmp_path):
    orders = ORDERS_2 + "#1014,bob@shop.example,paid,2024-06-04 10:00:00 +0000,,CHF,6,'Tis a Print,8.00,\n"
    products = OLDER + "print,'Tis a Print,,Press,Paper,,true,Title,Default Title,,,,0,5.00,,false,active\n"
    dataset = datasets.read(exports(tmp_path, orders_export_2=orders, products_export_1=products))
    assert rows_of(dataset)[-1][:3] == ("9002", "print", 6)


@pytest.mark.parametrize("by", ["product", "variant"])
def test_products_hold_no_addresses(tmp_path, by):
    orders = ORDERS_2 + "#1014,bob@shop.example,paid,2024-06-04 10:00:00 +0000,,CHF,1,Mug for Ada@shop.example,8.00,\n"
    products = OLDER.replace("Press", "Press (ann@shop.example)").replace("summer", '"summer, +41 79 000 00 01"')
    dataset = datasets.read(exports(tmp_path, orders_export_2=orders, products_export_1=products), by=by)
    assert rows_of(dataset)[-1][1] == "Mug for A...@..."
    rows = dataset.products.set_index("sku")
    assert rows["title"]["Mug for A...@..."] == "Mug for A...@..."
    assert "shop.example" not in rows.to_csv() and "79" not in rows.to_csv()
    assert {"Press (...@...", "Kiln"} <= set(rows["vendor"]) and "summer, +4..." in set(rows["tags"])
    assert (
        "products_export_1.csv: e-mail addresses or phone numbers in title, vendor, tags of products; masked"
    ) in dataset.quality["warnings"]


def recommended(folder: Path, out: Path, *options: object) -> pd.DataFrame:
    assert run("recommend", folder, "--top", 5, "--repeat", "include", "--out", out, *options) == 0
    return pd.read_csv(out, dtype=str, keep_default_na=False)


def test_recommendations_name_a_variant_in_stock(tmp_path, capsys):
    folder = tmp_path / "run"
    arguments = ("--model", "popularity", "--min-customers", 1, "--split", "reconstruction", "--run", folder)
    assert run("fit", exports(tmp_path / "shop"), *arguments) == 0

    def of(frame: pd.DataFrame, name: str = "variant_sku") -> dict[str, str]:
        return dict(zip(frame["sku"], frame[name], strict=True))

    frame = recommended(folder, tmp_path / "lists.csv")
    assert frame.columns.tolist() == ["customer_id", "rank", "sku", "title", "score", "basis", "variant_sku"]
    assert of(frame)["shirt"] == "SH-RS" and of(frame)["mug"] == "0077" and of(frame)["poster"] == ""

    stock = tmp_path / "stock.csv"
    stock.write_text("sku,quantity\nSH-BL,4\nSH-RM,0\nSH-RS,2\n0077,0\nGIFT,1\nnone,1\n")
    capsys.readouterr()
    frame = recommended(folder, tmp_path / "lists.csv", "--in-stock", stock)
    assert of(frame) == {"shirt": "SH-RS", "gift": "GIFT"}
    assert '1 SKU of 6 unknown to this run: "none"' in capsys.readouterr().out
    stock.write_text("sku\nSH-BL\nposter\n")
    wide = recommended(folder, tmp_path / "lists.csv", "--in-stock", stock, "--wide")
    places = ["sku_1", "title_1", "variant_sku_1", "sku_2", "title_2", "variant_sku_2"]
    assert wide.columns.tolist()[:7] == ["customer_id", *places]
    cells = {tuple(row) for row in wide[places].to_numpy().tolist()}
    assert cells == {("shirt", "Shirt", "SH-BL", "poster", "Poster", "")}
    stock.write_text("sku\nnone\n")
    assert run("recommend", folder, "--in-stock", stock, "--out", tmp_path / "lists.csv") == 1
    assert "none of its 1 SKU is a product of this run" in capsys.readouterr().err


def test_by_variant_sizes_are_items_of_their_own(tmp_path):
    dataset = datasets.read(exports(tmp_path), by="variant")
    assert [row[:3] for row in rows_of(dataset)[:4]] == [
        ("9001", "SH-RM", 2), ("9001", "0077", 1), ("9001", "SH-BL", 1), ("9001", "Poster", 4),
    ]  # fmt: skip
    titles = dataset.products.set_index("sku")["title"]
    assert titles["SH-BL"] == "Shirt - Blue / L" and titles["0077"] == "Mug"
    assert account(dataset, "products_export_1.csv")["kept"] == 6


def test_exports_that_a_spreadsheet_wrote_again_are_read_and_it_is_said(tmp_path):
    folder = exports(tmp_path, orders_export_1="", orders_export_2="", products_export_1="")
    rows = "#1,ada@shop.example,paid,31.05.2024 10:00,1,Café\n#2,bob@shop.example,paid,01.06.2024 10:00,2,Mug\n"
    orders = "Name,Email,Financial Status,Created at,Lineitem quantity,Lineitem name\n" + rows
    (folder / "orders_export.csv").write_bytes(orders.replace(",", ";").encode("cp1252"))
    dataset = datasets.read(folder)
    assert dataset.interactions.at is not None
    assert dataset.interactions.at.astype("M8[D]").astype(str).tolist() == ["2024-05-31", "2024-06-01"]
    assert dataset.interactions.items.ids.tolist() == ["Café", "Mug"]
    said = " ".join(dataset.quality["warnings"])
    assert (
        "Windows-1252" in said and 'separated by ";"' in said and "created_at of orders_export.csv was read as" in said
    )


def test_one_sku_under_two_titles_is_said(tmp_path):
    again = OLDER + "print,Print,,Press,Paper,,true,Title,Default Title,,,GIFT,,5.00,,false,active\n"
    dataset = datasets.read(exports(tmp_path, products_export_1=again))
    assert (
        '1 SKU under several products, such as "GIFT" ("Gift card", "Print"); the first counts: '
        "give each variant a SKU of its own"
    ) in dataset.quality["warnings"]


def test_files_are_known_by_their_columns(tmp_path):
    plain = datasets.read(exports(tmp_path / "named"))
    other = exports(
        tmp_path / "other",
        orders_export_1="", orders_export_2="", customers_export="", products_export_1="",
        a=ORDERS_1, b=ORDERS_2, c=CUSTOMERS, d=OLDER,
    )  # fmt: skip
    assert rows_of(datasets.read(other)) == rows_of(plain)


PERSONAL = ("shop.example", "web.example", "Alder", "Lime", "Birch", "4179", "Nemo", "ring twice")


def test_no_address_is_kept_written_or_said(tmp_path, capsys):
    folder = exports(tmp_path / "shop")
    dataset = datasets.read(folder)
    assert dataset.customers.columns.tolist() == [
        "customer_id", "accepts_email_marketing", "default_address_city", "default_address_zip", "tags",
    ]  # fmt: skip
    runs.write_data(tmp_path, dataset)
    assert run("check", folder, "--json", tmp_path / "check.json") == 0
    said = "".join(capsys.readouterr())
    written = [
        *(path.read_text() for path in tmp_path.glob("*.json")),
        *(pd.read_parquet(path).to_csv() for path in (tmp_path / "data").glob("*.parquet")),
        (tmp_path / "data" / "quality.json").read_text(),
    ]
    assert len(written) == 5 and "9001" in written[1] + written[2] + written[3]
    for one in [said, *written]:
        assert not any(sign.lower() in one.lower() for sign in PERSONAL)


def test_a_whole_run_holds_no_address(tmp_path, capsys):
    folder = exports(tmp_path / "shop", orders_export_2="", customers_export="", orders_export_1="")
    orders = [ORDERS_1.splitlines()[0]]
    for n in range(60):
        who = f"Ada Alder{n % 12},Lime Street {n % 12},'8001,+41790000001,'5{n:03d}"
        row = f"2024-{1 + n // 12:02d}-{1 + n % 12:02d},1,{{}},8.00,,#{n},Ada{n % 12}@shop.example,paid,,CHF,{who}"
        orders += [row.format(name) for name in ("Mug", f"Pot {n % 7}", f"for Ada{n % 12}@shop.example")]
    (folder / "orders_export.csv").write_text("\n".join(orders))
    customers = [CUSTOMERS.splitlines()[0].replace("First Name", "First-Name")]
    for n in range(9):
        person = f"'9{n:03d},Ada,Alder{n},ada{n}@shop.example,yes,Birch & Sons,Lime Street {n},Bern,'3001,'+41790000001"
        customers.append(f'{person},9,1,ring twice,"vip, call +41 79 000 00 0{n}"')
    (folder / "customers_export.csv").write_text("\n".join(customers))
    options = ("--split", "last-order", "--min-customers", "1")
    assert run("fit", folder, "--model", "popularity", "--run", tmp_path / "run", *options) == 0
    said = "".join(capsys.readouterr())
    written = {
        path: pd.read_parquet(path).to_csv() if path.suffix == ".parquet" else path.read_bytes().decode("latin-1")
        for path in (tmp_path / "run").rglob("*")
        if path.is_file()
    }
    assert "9001" in written[tmp_path / "run" / "data" / "interactions.parquet"]
    for content in (said, *written.values()):
        assert not any(sign.lower() in content.lower() for sign in (*PERSONAL, "41 79"))


def test_hashes_are_the_key_s_and_addresses_come_back_from_the_user_s_file(tmp_path, monkeypatch):
    folder = exports(tmp_path)
    ids = set(datasets.read(folder).interactions.users.ids)
    found = addresses_of(folder / "customers_export.csv").set_index("customer_id")["email"]
    assert found["9002"] == "BOB@shop.example" and "cyd@shop.example" in found[list(ids & set(found.index))].tolist()
    assert set(datasets.read(folder).interactions.users.ids) == ids
    monkeypatch.setenv("AEJAX_KEY", KEY + "another")
    assert {one for one in ids if one.startswith("h-")}.isdisjoint(datasets.read(folder).interactions.users.ids)
    monkeypatch.setenv("AEJAX_KEY", "short")
    with pytest.raises(InputError, match=r'"c\.\.\.@\.\.\."\).*AEJAX_KEY has 5 characters; set that'):
        datasets.read(folder)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("orders_export_2", "#1,bob@shop.example,paid,2024-06-03,,CHF,6,Mug,8.00,0077,Bob Birch,Lime Street 2\n"),
        ("orders_export_2", "#1,,paid,2024-06-03,,CHF,6,Mug,8.00,0077,Bob Birch,Bob Birch,Lime Street 2\n"),
        ("customers_export", "'9,Bob,Birch,,no,,Lime Street 2,Bern,'3001,,,0,,\n"),
        ("customers_export", ",Bob,Birch,,no,,Lime Street 2,Bern,'3001,+41 79 000 00 00,,0,,\n"),
    ],
)
def test_a_first_line_that_is_a_row_is_refused_and_not_shown(tmp_path, capsys, name, row):
    assert run("check", exports(tmp_path, **{name: row * 2})) == 1
    said = "".join(capsys.readouterr())
    assert f"{name}.csv:1: the first line holds" in said.replace("\n", " ")
    assert not any(sign.lower() in said.lower() for sign in (*PERSONAL, "Bob"))


def test_messages_mask_phone_numbers_and_end_on_long_cells():
    assert quality.shown("ring +41 (0)79 000 00 01") == '"ring +4..."'
    assert quality.shown("<bob@shop.example> b@c") == '"<b...@... b...@..."'
    assert quality.shown("2@5 0123456789 x") == '"2...@... 0123456789 x"'
    assert quality.masked_text("Pack 2@5, ask ann@shop.example") == "Pack 2@5, ask a...@..."
    assert quality.shown("a" * 1_000_000) == '"' + "a" * 57 + '..."'  # minutes, if each character began a search


@pytest.mark.parametrize(
    "number",
    [
        "+41790000001", "+49 (0)171 2345678", "0170 1234567", "0171/2345678", "0171 - 2345678", "(044) 668 18 00",
        "(0)44 668 18 00", "089 123456", "01 23 45 67 89", "06.12.34.56.78", "0049 171 2345678", "(415) 555-2671",
    ],
)  # fmt: skip
def test_phone_numbers_are_known_alone_and_in_a_text(number):
    assert addresses.is_address(number)
    for text in (number, f"A {number}", f"(call {number}!)"):
        assert number not in quality.masked_text(text) and number[-5:] not in quality.masked_text(text)
        assert re.search(quality.MAY_BE_MASKED, text)


@pytest.mark.parametrize(
    "other",
    [
        "4006381333931", "0123456789", "0012345678905", "0 12345 67890 5", "0-306-40615-2", "978-0-306-40615-7",
        "0171-23", "0815-4711", "0001234-567", "123-456-7890", "0.8234567891", "01.02.2024 12:30",
        "2024-05-01 09.58.12", "03.12.2023 - 01.02.2024", "01.02.24-03.02.24", "01/02/2024 10.30",
    ],
)  # fmt: skip
def test_numbers_of_articles_and_orders_and_dates_are_no_phone_numbers(other):
    assert not addresses.is_address(other)
    assert quality.masked_text(other) == other and quality.masked_text(f"A {other} b") == f"A {other} b"


@pytest.mark.parametrize(
    ("written", "seen"), [("Bob Birch <b@x.example>", '"b...@..."'), ("+41 79 000 00 00", '"+..."')]
)
def test_a_message_shows_how_an_address_begins(written, seen):
    assert addresses.masked(addresses.normal(written)) == seen


def test_orders_alone_are_read_and_a_missing_column_is_named(tmp_path):
    folder = exports(tmp_path, orders_export_2="", customers_export="", products_export_1="")
    dataset = datasets.read(folder)
    assert dataset.interactions.items.ids.tolist() == ["0077", "CUP-OLD", "Poster", "SH-BL", "SH-RM"]
    assert dataset.products["title"].tolist() == ["Mug", "Cup", "Poster", "Shirt - Blue / L", "Shirt - Red / M"]
    assert all(one.startswith("h-") for one in dataset.customers["customer_id"])
    with pytest.raises(InputError, match="--by product needs the products' handles"):
        datasets.read(folder, by="product")
    exports(folder, orders_export_1=ORDERS_1.replace(",Email,", ",Mail,"), orders_export_2="")
    with pytest.raises(InputError, match=r'orders_export_1\.csv has no column "email"'):
        datasets.read(folder)


def test_a_plain_shop_s_addresses_go_the_same_way(tmp_path):
    columns = "customer_id,name,home_phone,city,hobby,wants_email_newsletter"
    customers = f"{columns}\n1,Ann Ash,1,Bern,ANN@x.example,yes\n2,Bo Bay,2,Bern,bo@x.example,no\n"
    orders = "customer_id,lineitem_sku,lineitem_quantity\nann@x.example,p,1\nBo@x.example,q,1\nzed@x.example,q,1\n"
    for name, content in {"customers": customers, "orders": orders, "products": "sku\np\nq\n"}.items():
        (tmp_path / f"{name}.csv").write_text(content)
    dataset = datasets.read(tmp_path)
    assert dataset.interactions.users.ids[:2].tolist() == ["1", "2"]
    assert dataset.interactions.users.ids[2].startswith("h-")
    assert dataset.customers.columns.tolist() == ["customer_id", "city", "wants_email_newsletter"]
    assert dataset.quality["files"]["customers.csv"]["columns_left_out"] == ["name", "home_phone", "hobby"]


@pytest.mark.parametrize(
    ("name", "personal"),
    [
        ("email", True), ("e-mail", True), ("phone_number", True), ("first_name", True), ("name", True),
        ("default_address_address1", True), ("default_address_company", True), ("shipping_street", True),
        ("first-name", True), ("nom_/_prénom", True), ("tel._nr.", True), ("bemerkung", True), ("e-mail?", True),
        ("accepts_email_marketing", False), ("default_address_city", False), ("country_name", False),
        ("household_size", False), ("segment_name", False), ("tags", False),
    ],
)  # fmt: skip
def test_personal_columns_by_name(name, personal):
    assert addresses.is_personal(name) == personal


@pytest.mark.parametrize(
    ("name", "personal"),
    [
        ("contact_name", True), ("street", True), ("Lieferant Straße", True), ("supplier e-mail", True),
        ("supplier_phone", True), ("address_1", True), ("kontakt", True), ("Tel.", True),
        ("name", False), ("product_name", False), ("brand_name", False), ("headphone_type", False), ("vendor", False),
        ("tasting_notes", False), ("strass", False), ("company", False),
    ],
)  # fmt: skip
def test_personal_columns_of_products_are_fewer(name, personal):
    assert addresses.is_personal_of_product(name) == personal


def test_personal_columns_by_their_cells():
    count = 40
    frame = pd.DataFrame(
        {
            "customer_id": [str(n) for n in range(count)],
            "reach": [f"+41 79 000 00 {n:02d}" for n in range(count)],
            "home": [f"Lindenstrasse {n}" for n in range(count)],
            "who": [f"{chr(65 + n % 26)}nna {chr(65 + n // 2)}sher" for n in range(count)],
            "town": ["New York", "Bad Ragaz"] * (count // 2),
            "remark": [""] * 10 + ["x@y.example", "vip, call 079 000 00 00!"] + ["likes blue"] * 28,
            "call": ["ask for +41 (0)79 000 00 00"] * 5 + ["no"] * 35,
            "since": ["01.02.2024", "03.12.2023 - 01.02.2024"] * (count // 2),
            "seen": ["01.02.2024 12:30", "2024-05-01 09:58:12 +0000"] * (count // 2),
            "share": ["0.8234567891"] * count,
        },
        dtype="str",
    )
    kept, gone, warnings = addresses.without_personal(frame, "customers.csv")
    assert gone == ["reach", "home", "who", "call"]
    assert kept.columns.tolist() == ["customer_id", "town", "remark", "since", "seen", "share"]
    assert set(kept["remark"]) == {"", "likes blue"}
    assert warnings == ["customers.csv: 2 cells of remark with an e-mail address or phone number; left blank"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--statuses", "payed"), '--statuses names "payed"; did you mean "paid"?'),
        (("--statuses", " ,"), '--statuses is " ,", which names none'),
        (("--by", "variant"), "--by variant belongs to Shopify's exports"),
        (("--statuses", "paid"), "--statuses paid belongs to Shopify's exports"),
    ],
)
def test_options_of_exports_are_refused_elsewhere(tmp_path, capsys, arguments, text):
    assert run("check", write_shop(tmp_path), *arguments) == 1
    assert text in capsys.readouterr().err


def test_a_config_keeps_them():
    config = RunConfig(DataConfig("shop", statuses=["paid"], by="variant"), SplitConfig(), TrainingConfig(), "ease", {})
    assert RunConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
