"""What the check says of the data that a run was fitted on, in the run's report."""

import json
import re
import shutil

import pandas as pd
import pytest

from aejax import report, runs
from aejax.experiment import fitting
from tests.shops import ORDER_COLUMNS, run, write_shop
from tests.test_report import Reader, make_page


@pytest.fixture(scope="module")
def odd_shop(tmp_path_factory):
    """The small shop with a product that is none, a far quantity, categories, and addresses wherever they may stand."""
    folder = write_shop(tmp_path_factory.mktemp("odd") / "shop")
    orders = pd.read_csv(folder / "orders.csv", dtype=str)
    more = [
        ("x1", "0170 7654321", "2024-05-02", "001", 74215),
        ("x2", "mia.miller@example.com", "2024-05-02", "POST", 1),
        ("x2", "mia.miller@example.com", "2024-05-02", "003", 1),
        ("x2", "mia.miller@example.com", "2024-05-02", "003", 1),
    ]
    pd.concat([orders, pd.DataFrame(more, columns=ORDER_COLUMNS).astype(str)]).to_csv(
        folder / "orders.csv", index=False
    )
    customers = pd.read_csv(folder / "customers.csv", dtype=str)
    customers.assign(email="kim" + customers["customer_id"] + "@example.com").to_csv(
        folder / "customers.csv", index=False
    )
    products = pd.read_csv(folder / "products.csv", dtype=str)
    post = pd.DataFrame({"sku": ["POST"], "title": ["Ask bob.brown@example.com, +49 170 12345678"]})
    products = pd.concat([products, post])
    cells = {
        "brand": ["Acme", "A 0171/2345678", "by jo.jones@example.com"],
        "contact_name": ["Anna Schmidt", "Otto Weber", ""],
        "street": ["Main Street 1", "Elm Road 2", ""],
    }
    for name, own in cells.items():
        products[name] = [own[place % 3] for place in range(len(products))]
    products.to_csv(folder / "products.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def odd_run(odd_shop, tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd") / "run"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("AEJAX_KEY", "a key of the tests, long enough")
        options = ("--model", "popularity", "--min-customers", 1)
        assert run("fit", odd_shop, *options, "--run", folder) == 0
        assert run("compare", odd_shop, "--models", "popularity", "--min-customers", 1, "--out", folder / "c") == 0
    return folder


def test_the_report_of_a_run_says_what_is_odd_and_how_orders_are_spread(odd_run):
    for folder in (odd_run, odd_run / "c"):
        text = (folder / "report.html").read_text()
        data = text[text.index('<section id="data">') : text.index('<section id="results">')]
        kinds = re.search(r"What is odd(.*?)</summary>", data, re.DOTALL)[1]
        assert "<small>quantities 1</small>" in kinds and "<small>duplicates 1</small>" in kinds
        assert "74,215 pieces" in data and "orders.csv:482" in data
        plots = re.findall(r'aria-label="([^"]*)\.', data)
        assert [one.split(".")[0] for one in plots] == [
            "Orders per month",
            "Pieces of an order line",
            "Products per customer",
            "Purchases by brand",
        ]
        Reader(text)


def test_no_address_gets_into_the_report_or_what_it_is_made_of(odd_run):
    secrets = (
        *("mia.miller", "kim0", "bob.brown", "jo.jones", "@example"),
        *("12345678", "0171/2", "2345678", "7654321"),
        *("Schmidt", "Weber", "Main Street", "Elm Road"),
    )
    files = [path for path in odd_run.rglob("*") if path.is_file()]
    assert {"report.html", "check.json", "products.parquet", "per_user.parquet"} <= {path.name for path in files}
    for path in files:
        content = path.read_bytes()
        if path.suffix == ".parquet":
            content += pd.read_parquet(path).to_csv().encode()
        assert not [one for one in secrets if one.encode() in content], path
    account = runs.read_json(odd_run / "data" / "quality.json")["quality"]["files"]["products.csv"]
    assert account["columns_left_out"] == ["contact_name", "street"]


def test_forget_leaves_none_of_it(odd_run, tmp_path):
    kept = tmp_path / "run"
    shutil.copytree(odd_run, kept, ignore=shutil.ignore_patterns("c"))
    assert runs.read_check(kept) is not None
    (tmp_path / "who.txt").write_text("001\n")
    assert run("forget", kept, "--customers", tmp_path / "who.txt") == 0
    assert runs.read_check(kept) is None and not (kept / "report.html").exists()


def test_a_shop_with_nothing_odd_says_so_and_a_page_without_a_look_says_nothing(shop, tmp_path):
    assert run("fit", shop, "--model", "popularity", "--run", tmp_path / "run") == 0
    text = (tmp_path / "run" / "report.html").read_text()
    assert "Nothing in the orders is odd." in text and "How the orders are spread" in text
    bare = report.render(make_page())
    assert "odd" not in bare and "How the orders are spread" not in bare


def test_a_resumed_fit_shows_what_was_seen_when_the_files_were_read(shop, tmp_path, monkeypatch):
    """Its data come from the unfinished run, which knows no file."""
    options = ("fit", shop, "--model", "popularity", "--run", tmp_path / "run")
    with monkeypatch.context() as patched:
        patched.setattr(fitting, "finish_run", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run(*options) == 130
    assert run(*options, "--resume") == 0
    looked = runs.read_check(tmp_path / "run")
    assert looked is not None
    assert looked["findings"] == [] and json.dumps(looked["distributions"])
    assert "How the orders are spread" in (tmp_path / "run" / "report.html").read_text()
