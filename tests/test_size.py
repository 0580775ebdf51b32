"""The size test, on little."""

import pandas as pd
import pytest
import size_test

from aejax import datasets
from tests.shops import run, write_shop


@pytest.fixture
def shop(tmp_path):
    return write_shop(tmp_path / "shop")


def test_copies_have_customers_and_orders_of_their_own(shop, tmp_path):
    size_test.make(shop, tmp_path / "large", lines=1_000)
    orders = pd.read_csv(tmp_path / "large" / "orders.csv", dtype=str)
    once = pd.read_csv(shop / "orders.csv", dtype=str)
    assert len(orders) == 1_000 and len(once) == 480
    pd.testing.assert_frame_equal(orders[:480], once)
    for own in ("customer_id", "order_id"):
        assert (orders[own][480:960].to_numpy() == (once[own] + "-1").to_numpy()).all()
    shared = ["created_at", "lineitem_sku", "lineitem_quantity"]
    assert (orders[shared][480:960].to_numpy() == once[shared].to_numpy()).all()
    lines = datasets.read(tmp_path / "large").interactions
    assert len(lines) == 1_000 and len(lines.items) == 16


def test_more_customers_than_the_lines_need_have_fewer_lines_each(shop, tmp_path):
    size_test.make(shop, tmp_path / "large", lines=1_000, customers=400)
    customers = pd.read_csv(tmp_path / "large" / "customers.csv", dtype=str)["customer_id"]
    orders = pd.read_csv(tmp_path / "large" / "orders.csv", dtype=str)
    assert customers.nunique() == len(customers) == 10 * 41
    assert 900 < len(orders) <= 1_000
    assert set(orders["customer_id"]) <= set(customers) and orders["customer_id"].nunique() > 300


@pytest.mark.slow
def test_the_check_and_the_lists_say_what_they_take(shop, tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"more than 0\.01 GB"):
        size_test.check(shop, most_gigabytes=0.01)
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("check: 480 order lines, ") and told[0].endswith(" GB at most")
    assert "40 customers x 16 products" in told[1]
    assert run("fit", shop, "--model", "popularity", "--min-customers", 1, "--run", tmp_path / "run") == 0
    capsys.readouterr()
    size_test.recommend(tmp_path / "run", shop / "customers.csv", (41,))
    assert capsys.readouterr().out.startswith("41 customers: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "shop"]


def test_memory_that_grows_with_the_customers_is_said(tmp_path, monkeypatch, capsys):
    (tmp_path / "customers.csv").write_text("customer_id\n" + "\n".join("abcdef"))

    def measured(*words):
        (tmp_path / words[-1]).touch()
        customers = (tmp_path / words[-3]).read_text().split()[1:]
        return size_test.Measured(1.0, 2.0 + 1e-3 * len(customers), "")  # GB: a MB a customer

    monkeypatch.setattr(size_test, "measured", measured)
    with pytest.raises(SystemExit, match="more than 1000 MB"):
        size_test.recommend(tmp_path / "run", tmp_path / "customers.csv", (2, 6), growth_megabytes_per_million=1000)
    assert "grows by 1,000,000 MB per million customers" in capsys.readouterr().out
