"""Baskets of customers whom a run does not know."""

import numpy as np
import pandas as pd
import pytest

from aejax import experiment
from tests import shops
from tests.shops import run

GUEST = "zz guest"
SMALL = ["--epochs", 3, "--set", "hidden=8", "latent_dim=4", "batch_size=16"]
MODELS = {"multvae": SMALL, "ease": [], "own-recency": [], "last-basket": [], "popularity": []}
REPEATING = ("own-recency", "last-basket")


@pytest.fixture(scope="module", params=MODELS)
def fitted(shop, tmp_path_factory, request):
    name = request.param
    # Own-history models have nothing to say of what was not bought.
    repeat = ["--repeat", "include"] if name in REPEATING else []
    return shops.fitted(shop, tmp_path_factory.mktemp("runs") / name, name, *repeat, *MODELS[name])


@pytest.fixture(scope="module")
def ease(shop, tmp_path_factory):
    return shops.fitted(shop, tmp_path_factory.mktemp("runs") / "ease", "ease")


def lists(folder, tmp_path, *options):
    out = tmp_path / "lists.csv"
    code = run("recommend", folder, "--out", out, "--top", 5, *options)
    return pd.read_csv(out, dtype={"customer_id": str, "sku": str}) if code == 0 else code


def written(folder, rows, columns):
    path = folder / "baskets.csv"
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False)
    return path


def test_a_basket_gets_the_list_of_a_customer_who_has_the_same_orders(shop, fitted, tmp_path):
    orders = pd.read_csv(shop / "orders.csv", dtype=str)
    own = orders[orders["customer_id"] == "003"]
    rows = own.assign(customer_id=GUEST).rename(columns={"lineitem_sku": "sku", "lineitem_quantity": "quantity"})
    whole = lists(fitted, tmp_path, "--baskets", written(tmp_path, rows, list(rows.columns)))
    stored = lists(fitted, tmp_path)
    stored = stored[stored["customer_id"] == "003"].reset_index(drop=True)
    assert set(whole["customer_id"]) == {GUEST} and len(whole) == 5
    assert whole["sku"].tolist() == stored["sku"].tolist()
    np.testing.assert_allclose(whole["score"], stored["score"], rtol=1e-5)


def test_a_basket_of_skus_alone_is_an_order_of_the_last_day(shop, fitted, tmp_path):
    basket = ["001", "003", "005"]
    path = written(tmp_path, [(GUEST, sku) for sku in basket], ["customer_id", "sku"])
    found = lists(fitted, tmp_path, "--baskets", path)
    loaded = experiment.load_run(fitted)
    items = loaded.prepared.interactions.items
    read = experiment.read_baskets(path, items)
    known = experiment.with_baskets(loaded, experiment.known_on(loaded)[0], read)
    lines = known.lines.take(known.lines.users.ids[known.lines.user] == GUEST)
    assert set(items.ids[lines.item]) == set(basket) and len(set(lines.order)) == 1
    assert set(lines.at) == {known.as_of} == {loaded.prepared.interactions.at.max()}
    assert not set(lines.order) & set(loaded.prepared.interactions.order)
    if loaded.prepared.split_config.repeat == "exclude":
        assert not set(found["sku"]) & set(basket)
    else:
        assert set(found["sku"][:3]) == set(basket)


def test_what_a_basket_holds_of_the_same_order_is_added_up_and_what_was_sent_back_is_gone(ease, tmp_path):
    items = experiment.load_run(ease).prepared.interactions.items
    rows = [("b", "003", 1), ("a", "001", 2), ("b", "002", 1), ("b", "003", 4), ("b", "002", -1), ("", "001", 1)]
    read = experiment.read_baskets(written(tmp_path, rows, ["customer_id", "sku", "quantity"]), items)
    lines = read.lines
    assert read.customers == ["b", "a"]
    found = list(zip(lines.users.ids[lines.user], items.ids[lines.item], lines.quantity.tolist(), strict=True))
    assert found == [("b", "003", 5), ("a", "001", 2)]
    assert any("1 row" in note for note in read.notes)


def test_a_customer_of_the_run_has_the_basket_added_to_what_is_stored(ease, tmp_path):
    stored = lists(ease, tmp_path)
    best = stored[stored["customer_id"] == "003"]["sku"].iloc[0]
    found = lists(ease, tmp_path, "--baskets", written(tmp_path, [("003", best)], ["customer_id", "sku"]))
    assert best not in set(found["sku"])
    assert set(found["basis"]) == {"model"}


def test_unknown_skus_are_reported_and_who_has_none_other_gets_what_is_popular(ease, tmp_path, capsys):
    rows = [("a", "001"), ("a", "no such"), ("b", "no such"), ("b", "nor this")]
    found = lists(ease, tmp_path, "--baskets", written(tmp_path, rows, ["customer_id", "sku"]))
    said = capsys.readouterr().out
    assert "3 rows" in said and "2 SKUs" in said and '"no such", "nor this"' in said
    assert found.groupby("customer_id")["basis"].first().to_dict() == {"a": "model", "b": "popular"}


@pytest.mark.parametrize(
    ("rows", "columns", "said"),
    [
        ([("a", "no such")], ["customer_id", "sku"], "none of its 1 SKU"),
        ([("a", "001")], ["customer_id", "thing"], 'no column "sku"'),
        ([("", "001")], ["customer_id", "sku"], "holds no basket"),
        ([("a", "001", "two")], ["customer_id", "sku", "quantity"], "expected a whole number"),
    ],
)
def test_baskets_that_say_nothing_are_one_message(ease, tmp_path, capsys, rows, columns, said):
    assert lists(ease, tmp_path, "--baskets", written(tmp_path, rows, columns)) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "lists.csv").exists()


def test_a_missing_file_and_two_choices_of_customers_are_refused(ease, tmp_path, capsys):
    assert lists(ease, tmp_path, "--baskets", tmp_path / "none.csv") == 1
    assert "is no file" in capsys.readouterr().err
    path = written(tmp_path, [("a", "001")], ["customer_id", "sku"])
    assert lists(ease, tmp_path, "--baskets", path, "--customers", path) == 1
    assert "leave one of them out" in capsys.readouterr().err
