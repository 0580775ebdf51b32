from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from shops import ORDER_COLUMNS, run, write_shop
from test_shopify import KEY, exports

from aejax import checking, datasets, findings, quality

TODAY = np.datetime64("2024-12-01", "s")
GOLDEN = Path(__file__).parent / "golden" / "shopify_check.json"


def change(folder: Path, rows: list[tuple]) -> Path:
    """The shop with further order lines."""
    orders = pd.read_csv(folder / "orders.csv", dtype=str)
    more = pd.DataFrame(rows, columns=ORDER_COLUMNS).astype(str)
    pd.concat([orders, more]).to_csv(folder / "orders.csv", index=False)
    return folder


def found_in(folder: Path) -> dict[str, findings.Finding]:
    dataset = datasets.read(folder)
    netting = quality.account_for_returns(dataset.interactions)
    return {one.kind: one for one in findings.find(dataset, netting, today=TODAY)}


def test_a_clean_shop_has_nothing_odd(tmp_path):
    assert found_in(write_shop(tmp_path)) == {}


def test_each_oddity_is_found_where_it_stands(tmp_path):
    # 480 lines stand below the header, so that the first of these is line 482.
    later = [(f"x{n}", "new", "2024-05-01", "003", 20) for n in range(20)]
    folder = change(
        write_shop(tmp_path),
        [
            ("y1", "001", "2024-05-02", "001", 74215),
            ("y2", "001", "2025-05-02", "002", 1),
            ("y3", "002", "2024-05-02", "003", 1),
            ("y3", "002", "2024-05-02", "003", 1),
            ("y4", "002", "2024-05-03", "015", -3),
            ("y5", "002", "2024-05-03", "POST", 1),
            *later,
        ],
    )
    found = found_in(folder)
    places = {kind: one.samples[0].split()[0] for kind, one in found.items()}
    assert places == {
        "duplicates": "orders.csv:485",
        "orphans": "orders.csv:487",
        "returns": "orders.csv:486",
        "odd-products": '"POST",',
        "quantities": "orders.csv:482",
        "resellers": "customer",
        "dates": "orders.csv:483",
        "volume": "2024-06:",  # up to the date in the future
    }
    assert '"new": 400 pieces in 20 lines' in found["resellers"].samples[0]
    assert found["quantities"].rows == 1 and "74,215" in found["quantities"].sentence
    assert found["odd-products"].remedy.endswith('[never] and sku = ["POST"]')


def test_a_table_of_customers_that_lacks_some_is_told_of(tmp_path):
    found = found_in(change(write_shop(tmp_path), [("y", "zoe", "2024-05-01", "001", 1)]))
    assert list(found) == ["orphans"] and found["orphans"].samples == ('orders.csv:482 1 of "001" by customer "zoe"',)


@pytest.mark.parametrize(
    ("title", "odd"),
    [
        ("POSTAGE", True), ("DOTCOM POSTAGE", True), ("Next Day Carriage", True), ("Gift Card $50", True),
        ("Geschenkgutschein 50 CHF", True), ("Versandkosten", True), ("Frais de port (Suisse)", True),
        ("Carte cadeau 25 €", True), ("Spese di spedizione", True), ("Tarjeta regalo", True), ("10% Discount", True),
        ("AMAZON FEE", True), ("Muster", True), ("test product", True),
        ("FRENCH CARRIAGE LANTERN", False), ("Pregnancy Test Kits, 1 CT", False), ("Toilet Bowl Manual, 24 OZ", False),
        ("Gift card holder", False), ("Postage stamp earrings", False), ("Kleine Fee", False), ("Coffee", False),
        ("Shipping crate toy", False), ("", False),
    ],
)  # fmt: skip
def test_titles_that_are_no_products(title, odd):
    assert findings.is_no_product(title) == odd


def test_months_without_orders_and_orders_out_of_order_are_found(tmp_path):
    folder = write_shop(tmp_path)
    days = [f"2024-{month:02d}-{day:02d}" for month in (1, 2, 3, 4, 5, 7, 8, 9) for day in range(1, 28)]
    rows = [(f"o{n}", f"{n % 7:03d}", day, f"{n % 16:03d}", 1) for n, day in enumerate(days)]
    rows[100], rows[130] = (*rows[100][:2], "2024-02-01", *rows[100][3:]), rows[130]
    pd.DataFrame(rows, columns=ORDER_COLUMNS).to_csv(folder / "orders.csv", index=False)
    found = found_in(folder)
    assert found["volume"].samples == ("2024-06: 0 orders",)
    assert [one.split()[0] for one in found["order-of-dates"].samples] == ["orders.csv:102"]


def test_a_shop_too_small_for_the_default_is_told_what_helps(tmp_path):
    folder = write_shop(tmp_path)
    orders = pd.read_csv(folder / "orders.csv", dtype=str)
    orders[orders["customer_id"] < "006"].to_csv(folder / "orders.csv", index=False)
    found = found_in(folder)
    assert found["too-small"].remedy.endswith("--min-customers 3")


def test_data_that_nothing_can_be_held_out_of_exit_with_1_and_their_report(tmp_path, capsys):
    (tmp_path / "orders.csv").write_text("customer_id,lineitem_sku,lineitem_quantity\na,x,1\nb,y,1\n")
    (tmp_path / "customers.csv").write_text("customer_id\na\nb\n")
    (tmp_path / "products.csv").write_text("sku\nx\ny\n")
    assert run("check", tmp_path, "--json", tmp_path / "check.json") == 1
    assert "no protocol can hold anything out" in capsys.readouterr().err
    assert json.loads((tmp_path / "check.json").read_text())["protocols"]["possible"] == ["reconstruction"]


def test_check_does_without_jax_and_plots(tmp_path):
    code = (
        "import sys\nfrom aejax.cli import main\nmain(['check', sys.argv[1], '--json', sys.argv[2]])\n"
        "print([name for name in ('jax', 'matplotlib', 'jinja2') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, write_shop(tmp_path), tmp_path / "check.json"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"


def test_the_page_escapes_titles_and_holds_findings_and_plots(tmp_path):
    folder = change(write_shop(tmp_path), [("y5", "002", "2024-05-03", "<b>POST", 1)])
    assert run("check", folder, "--report", tmp_path / "check.html") == 0
    page = (tmp_path / "check.html").read_text()
    assert "<b>POST" not in page and "&lt;b&gt;POST" in page
    assert page.count("<svg") == 3 and "Every row is accounted for" in page


def test_the_check_of_the_raw_export_is_the_golden_one(tmp_path, monkeypatch):
    monkeypatch.setenv("AEJAX_KEY", KEY)
    found = checking.check(datasets.read(exports(tmp_path)), {}, today=TODAY)
    text = json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    assert json.loads(text) == json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert "@" not in text.replace("@...", "") and "Alder" not in text and "Lime" not in text
