"""A shop's raw exports, with every trap that they are known to hold, add up to the unit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aejax import datasets
from aejax.interactions import Dataset

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


def id_of(dataset: Dataset, sign: str) -> str:
    (found,) = [one for one in dataset.interactions.users.ids if one.startswith("h-") and sign in one]
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
