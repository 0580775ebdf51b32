"""What customers paid for what was recommended: from the split to the table, and against hindsight."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from aejax import evaluation, experiment, hindsight, metrics, ranking, report
from aejax.config import REPEAT_PROTOCOLS
from aejax.errors import InputError
from aejax.experiment.comparing import _means
from aejax.experiment.loading import largest_difference
from aejax.headings import with_revenue
from aejax.interactions import Interactions, net_returns
from aejax.models import popularity
from aejax.split import HeldOut, split
from aejax.tasks import evaluate_tasks
from tests.shops import run, write_shop
from tests.test_report import make_page, row_of
from tests.test_split import cut_by, last_orders, shop

PROTOCOLS = ("users", "items", "last-order", "time", "predefined", "cold-items", "reconstruction")


def priced(lines: Interactions, *, known: float = 0.8, seed: int = 4) -> Interactions:
    """The lines with prices in cents, a part of them unknown."""
    rng = np.random.default_rng(seed)
    price = rng.integers(1, 500, len(lines)) / 100
    return dataclasses.replace(lines, price=np.where(rng.random(len(lines)) < known, price, np.nan).astype(np.float32))


def most_popular(lines: Interactions) -> popularity.Popularity:
    return popularity.fit(lines, popularity.PopularitySettings())


def test_the_value_of_each_item_of_a_list_is_looked_up_in_its_row():
    items = jnp.array([[3, 0, 5], [0, 3, 1]])  # 5 is no item
    lists, values = jnp.array([[0, 3, 5], [3, 5, 5]]), jnp.array([[1.5, 2.0, 9.0], [4.0, 9.0, 9.0]])
    np.testing.assert_array_equal(ranking.values_of(items, lists, values, 5), [[2.0, 1.5, 0.0], [0.0, 4.0, 0.0]])


def test_revenue_is_what_was_paid_for_the_first_k():
    paid = jnp.zeros((2, metrics.DEPTH)).at[0, 0].set(2.5).at[0, 4].set(1.0).at[0, 99].set(0.25).at[1, 7].set(-3.0)
    values = metrics.per_user_revenue(paid)
    assert tuple(values) == metrics.REVENUE_KEYS
    assert [float(values[f"revenue@{k}"][0]) for k in metrics.CUTOFFS] == [2.5, 3.5, 3.5, 3.5, 3.5, 3.75]
    assert [float(values[f"revenue@{k}"][1]) for k in (1, 5, 10)] == [0.0, 0.0, -3.0]


def held_out_lines(lines: Interactions, protocol: str, part: HeldOut) -> list[tuple[int, int, int, float]]:
    """Customer, product, pieces and price of every purchase that may be a target of the test part, returns netted; what
    was seen is none.
    """
    bought = net_returns(lines)
    if protocol == "time":
        bought = net_returns(lines.take(lines.at >= part.inputs.as_of[0]))
    elif protocol == "last-order":  # a return is a note on earlier orders, and takes nothing from the last one
        last = last_orders(lines)
        in_last = [order == last[user][-1] for user, order in zip(lines.user, lines.order, strict=True) if user in last]
        kept = np.isin(lines.user, list(last))
        bought = lines.take(np.flatnonzero(kept)[in_last])
        bought = bought.take(bought.quantity > 0)
    columns = (bought.user, bought.item, bought.quantity, bought.price.astype(float))
    return list(zip(*(column.tolist() for column in columns), strict=True))


@pytest.mark.parametrize("protocol", [name for name in PROTOCOLS if name != "predefined"])
@pytest.mark.parametrize("repeat", ["include", "exclude"])
@pytest.mark.parametrize("seed", [3, 7])
def test_the_revenue_of_a_target_is_the_sum_over_its_own_lines(protocol, repeat, seed):
    lines = priced(shop(seed, users=30, orders=150))
    part = cut_by(lines, protocol, **({"repeat": repeat} if protocol in REPEAT_PROTOCOLS else {})).test
    is_target, expected = part.targets.toarray() > 0, np.zeros(part.targets.shape)
    row_of = {int(user): row for row, user in enumerate(part.users)}
    for user, item, pieces, price in held_out_lines(lines, protocol, part):
        if user in row_of and is_target[row_of[user], item] and not np.isnan(price):
            expected[row_of[user], item] += price * pieces
    assert expected.sum() > 0
    np.testing.assert_allclose(part.revenue.toarray(), expected, rtol=1e-12)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_without_prices_there_is_none(protocol):
    for lines in (shop(1), priced(shop(1), known=0.0)):
        parts = cut_by(lines, protocol)
        assert all(part.revenue is None for part in (parts.validation, parts.test, *parts.tasks.values()))


@pytest.mark.parametrize("chunk", [7, None])
def test_each_customers_revenue_is_a_plain_sum_whatever_the_chunk(tiny_lines, chunk):
    parts = split(priced(tiny_lines), protocol="time", repeat="include")
    model, part = most_popular(parts.train), parts.test
    result = evaluation.evaluate(model, part, chunk=chunk)
    order = np.argsort(-np.asarray(model.scores(model.encode(part.inputs.take(0, 1))))[0], kind="stable")
    paid = part.revenue.toarray()
    for k in metrics.CUTOFFS:
        np.testing.assert_allclose(result.values[f"revenue@{k}"], paid[:, order[:k]].sum(axis=1), rtol=1e-5)
    assert 0 < result.values["revenue@1"].mean() < result.values["revenue@100"].mean()


def test_some_of_the_customers_keep_their_revenue(tiny_lines):
    part = split(priced(tiny_lines), protocol="time").test
    rows = np.array([1, 4, 5])
    np.testing.assert_array_equal(part.take(rows).revenue.toarray(), part.revenue.toarray()[rows])


@pytest.mark.parametrize("protocol", ["last-order", "cold-items"])
def test_each_task_has_the_revenue_of_its_own_targets(tiny_lines, protocol):
    parts = split(priced(tiny_lines), protocol=protocol)
    model = most_popular(parts.refit)
    for name, found in evaluate_tasks(model, parts.tasks, chunk=7).items():
        alone = evaluation.evaluate(model, parts.tasks[name])
        for key in metrics.REVENUE_KEYS:
            np.testing.assert_allclose(found.whole.values[key], alone.values[key], rtol=1e-6, err_msg=name)


def lists_of(part: HeldOut, model: popularity.Popularity, lines: Interactions) -> pd.DataFrame:
    """The first ten of each customer of the part, as a file of recommendations has them."""
    asked = {"": evaluation.Asked(part.seen, {}, part.offered)}
    first = evaluation.answer(model, part, asked, None)[""].first
    rows = [
        (lines.users.ids[user], rank, lines.items.ids[item])
        for user, items in zip(part.users, first, strict=True)
        for rank, item in enumerate(items, start=1)
        if item < len(lines.items)
    ]
    return pd.DataFrame(rows, columns=["customer_id", "rank", "sku"])


@pytest.mark.parametrize("repeat", ["include", "exclude"])
def test_hindsight_says_the_same_of_the_same_lists_and_orders(repeat):
    lines = priced(shop(5, users=30, orders=120))
    parts = split(lines, protocol="time", repeat=repeat)
    model, part = most_popular(parts.refit), parts.test
    lists = lists_of(part, model, lines)
    values = evaluation.evaluate(model, part).values
    purchases = hindsight.purchases_of(lines.take(lines.at >= part.inputs.as_of[0]))
    for cut in (1, 5, 10):
        amounts = hindsight.amounts_of(lists, purchases, list(lines.users.ids[part.users]), cut)
        assert amounts["revenue"].sum() > 0
        np.testing.assert_allclose(values[f"revenue@{cut}"], amounts["revenue"], rtol=1e-6, atol=1e-6)


@pytest.fixture(scope="module")
def shop_with_prices(tmp_path_factory):
    folder = write_shop(tmp_path_factory.mktemp("shops") / "priced")
    orders = pd.read_csv(folder / "orders.csv", dtype=str)
    price = 1 + orders["lineitem_sku"].astype(int)
    orders.assign(lineitem_price=price.map("{:.2f}".format)).to_csv(folder / "orders.csv", index=False)
    return folder


@pytest.mark.parametrize("repeat", ["include", "exclude"])
def test_fit_recommend_and_hindsight_tell_of_the_same_money(shop_with_prices, tmp_path, repeat):
    cut, last = "2024-03-21", "2024-03-20"  # test begins where the last day that is known has ended
    kept, lists = tmp_path / "run", tmp_path / "lists.csv"
    options = ("--split", "time", "--cut", cut, "--repeat", repeat, "--min-customers", 1)
    assert run("fit", shop_with_prices, "--model", "popularity", *options, "--run", kept) == 0
    assert run("recommend", kept, "--on", last, "--top", 10, "--out", lists) == 0
    figures = tmp_path / "hindsight.json"
    assert run("hindsight", lists, shop_with_prices, "--json", figures) == 0
    metrics_of_run = json.loads((kept / "metrics.json").read_text())
    part = experiment.load_run(kept).prepared.split.test
    cuts = json.loads(figures.read_text())["cuts"]
    for k in (1, 5, 10):
        expected = metrics_of_run["metrics"][f"revenue@{k}"]["mean"] * len(part)
        assert cuts[str(k)]["revenue"] == pytest.approx(expected, rel=1e-6) and expected > 0


def test_fit_and_evaluate_show_revenue_where_orders_have_prices(shop_with_prices, shop, tmp_path, capsys):
    kept = tmp_path / "run"
    assert run("fit", shop_with_prices, "--model", "popularity", "--run", kept) == 0
    assert "revenue@10" in capsys.readouterr().out
    figures = json.loads((kept / "metrics.json").read_text())
    found = figures["metrics"]["revenue@10"]
    assert found["ci95"][0] < found["mean"] < found["ci95"][1]
    assert figures["tasks"]["include"]["metrics"]["revenue@10"]["mean"] > 0
    assert run("evaluate", kept) == 0
    said = capsys.readouterr().out
    assert "They equal those of metrics.json" in said and f"{found['mean']:,.2f}" in said
    assert "revenue@10" in (kept / "report.html").read_text()

    bare = tmp_path / "bare"
    assert run("fit", shop, "--model", "popularity", "--run", bare) == 0
    assert "revenue" not in capsys.readouterr().out
    assert "revenue@10" not in json.loads((bare / "metrics.json").read_text())["metrics"]
    assert "revenue@" not in (bare / "report.html").read_text()


@pytest.mark.parametrize("protocol", ["time", "users"])
def test_compare_has_revenue_and_its_differences(shop_with_prices, tmp_path, capsys, protocol):
    options = ("--models", "popularity,itemknn", "--split", protocol)
    assert run("compare", shop_with_prices, *options, "--out", tmp_path / "out") == 0
    assert "revenue@10" in capsys.readouterr().out
    models = json.loads((tmp_path / "out" / "comparison.json").read_text())["models"]
    first, second = (models[name]["metrics"]["revenue@10"]["mean"] for name in ("popularity", "itemknn"))
    difference = models["itemknn"]["difference"]["metrics"]["revenue@10"]
    assert difference["mean"] == pytest.approx(second - first, abs=1e-5)
    assert difference["ci95"][0] <= difference["mean"] <= difference["ci95"][1]
    if protocol == "time":
        assert "revenue@10" in models["itemknn"]["tasks"]["include"]["difference"]["metrics"]
    per_user = pd.read_parquet(tmp_path / "out" / "per_user.parquet")
    assert per_user["revenue@10"].mean() == pytest.approx((first + second) / 2, rel=1e-5)


def test_a_metric_that_some_splits_lack_is_in_no_mean(shop_with_prices, tmp_path, capsys):
    """One customer's orders have prices, whom one draw of the test part holds and another does not."""
    folder = write_shop(tmp_path / "some")
    orders = pd.read_csv(shop_with_prices / "orders.csv", dtype=str)
    orders.loc[orders["customer_id"] != "001", "lineitem_price"] = None
    orders.to_csv(folder / "orders.csv", index=False)
    options = ("--models", "popularity", "--split", "users", "--split-seeds", 8)
    assert run("compare", folder, *options, "--out", tmp_path / "out") == 0
    row = json.loads((tmp_path / "out" / "comparison.json").read_text())["models"]["popularity"]
    with_revenue_alone = ["revenue@10" in trial["test"] for trial in row["trials"]]
    assert any(with_revenue_alone) and not all(with_revenue_alone)
    assert "revenue@10" not in row["metrics"] and "revenue@10" not in capsys.readouterr().out


def test_the_report_shows_money_in_hundredths():
    page = make_page()
    assert with_revenue(("a",), page["models"]) == ("a",)
    for name, mean in (("popularity", 1234.5), ("multvae", 1300.0)):
        page["models"][name]["metrics"]["revenue@10"] = {"mean": mean, "ci95": [mean - 1, mean + 1]}
    page["models"]["multvae"]["difference"]["metrics"]["revenue@10"] = {"mean": 65.5, "ci95": [-1.0, 132.0]}
    text = report.render(page)
    assert row_of(text, 'id="results"', "popularity")[-1] == "1,234.50<small>[1,233.50, 1,235.50]</small>"
    assert row_of(text, 'id="results"', "multvae")[-1].startswith("<strong>1,300.00</strong>")
    assert "+65.50<small>[\N{MINUS SIGN}1.00, +132.00]</small><small>holds 0</small>" in text


def test_figures_of_a_run_from_before_revenue_are_compared_without_it():
    old, new = {"ndcg@10": {"mean": 0.5, "ci95": None}}, {"mean": 2.0, "ci95": None}
    with_it = {**old, **dict.fromkeys(metrics.REVENUE_KEYS, new)}
    assert largest_difference({"metrics": with_it}, {"metrics": old}) == 0.0
    for now, stored in (
        (with_it, {}),
        (old, with_it),  # prices that the run had are gone
        (with_it, {**old, "revenue@10": new}),
    ):
        with pytest.raises(InputError, match="damaged"):
            largest_difference({"metrics": now}, {"metrics": stored})


def test_only_revenue_may_be_missing_from_a_mean():
    rows = pd.DataFrame({"customer_id": ["a", "a"], "ndcg@10": [0.5, np.nan], "revenue@10": [1.0, np.nan]})
    assert list(_means(rows)) == ["ndcg@10"]
    assert list(_means(rows.iloc[:1])) == ["ndcg@10", "revenue@10"]
