"""Cold products: the protocol's two tasks, the baseline, and new products in what is recommended."""

from __future__ import annotations

import dataclasses
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from aejax import evaluation, experiment, recommendation, registry, selection
from aejax.config import DataConfig, SplitConfig
from aejax.errors import InputError
from aejax.interactions import Features
from aejax.matrix import user_item_matrix
from aejax.models.popularity import CategoryPopularitySettings, PopularitySettings, fit, fit_category
from aejax.ranking import Caps
from aejax.rules import ListRules
from aejax.split import split
from aejax.tasks import evaluate_tasks
from tests.shops import run, write_shop


@dataclasses.dataclass(frozen=True)
class Table:
    """A row of scores for each customer of the shop."""

    table: np.ndarray
    users: np.ndarray

    def encode(self, histories):
        return self.table[np.searchsorted(self.users, histories.lines.users.ids)]

    def scores(self, batch):
        return jnp.asarray(batch)


def test_a_cold_list_holds_cold_products_alone_and_a_mixed_one_all_that_is_unseen(tiny_lines):
    parts = split(tiny_lines, protocol="cold-items")
    table = np.random.default_rng(0).random((60, 30)).astype(np.float32)
    result = evaluate_tasks(Table(table, tiny_lines.users.ids), parts.tasks, chunk=7)
    history = user_item_matrix(parts.refit).toarray() > 0
    bought = user_item_matrix(tiny_lines).toarray() > 0
    cold = ~history.any(axis=0)
    assert cold.sum() == 3
    for name, task in result.items():
        expected, listed = [], set()
        for user in task.whole.users:
            open_to = [i for i in range(30) if (cold[i] if name == "cold" else not history[user, i])]
            top = sorted(open_to, key=lambda i: -table[user, i])[:10]
            targets = set(np.flatnonzero(bought[user] & cold))
            listed |= set(top)
            expected.append(len(targets & set(top)) / len(targets))
        np.testing.assert_allclose(task.whole.values["recall_all@10"], expected, rtol=1e-6, err_msg=name)
        assert task.whole.coverage == len(listed) / (3 if name == "cold" else 30)
        assert (task.repeat_targets.targets, len(task.repeat_targets.users)) == (0, 0)
        assert task.new_targets.targets == parts.test.targets.nnz
    assert result["cold"].whole.values["hit@10"].min() == 1.0 > result["mixed"].whole.values["hit@10"].min()


def test_what_chooses_looks_at_cold_products_alone(tiny_lines):
    """All others have the higher scores."""
    parts = split(tiny_lines, protocol="cold-items")
    cold = parts.validation.offered
    score = evaluation.validator(parts.validation)(
        Table(np.tile(~cold, (60, 1)).astype(np.float32), tiny_lines.users.ids)
    )
    assert score > 0.5


@pytest.mark.parametrize("column", [None, "colour"])
def test_a_cold_product_is_as_popular_as_its_kind(tiny_lines, column):
    rng = np.random.default_rng(3)
    matrix = ((rng.random((30, 5)) < 0.4) * rng.random((30, 5))).astype(np.float32)
    names = (("colour", "red"), ("colour", "blue"), *(("title", word) for word in "abc"))
    lines = dataclasses.replace(
        tiny_lines.take(tiny_lines.item >= 6), item_features=Features(sp.csr_array(matrix), names)
    )
    found = np.asarray(fit_category(lines, CategoryPopularitySettings(column=column)).popularity)
    customers = [len(set(lines.user[lines.item == item])) for item in range(30)]
    own = [f for f, (name, _) in enumerate(names) if column in (None, name)]
    for item in range(30):
        expected, weight = 0.0, 0.0
        for f in own:
            of_kind = sum(matrix[i, f] for i in range(6, 30))
            average = sum(matrix[i, f] * customers[i] for i in range(6, 30)) / of_kind
            expected, weight = expected + matrix[item, f] * average, weight + matrix[item, f]
        expected = expected / weight if weight else 0.0
        assert found[item] == pytest.approx(customers[item] if item >= 6 else expected, rel=1e-5)
    with pytest.raises(InputError, match='column is "color", of which there are no features; did you mean "colour"'):
        fit_category(lines, CategoryPopularitySettings(column="color"))


def test_new_items_take_the_last_places_and_stand_by_their_score():
    scores, items = (
        np.array([[9.0, 8.0, 7.0], [5.0, -np.inf, -np.inf], [4.0, 3.0, 2.0]]),
        np.array([[1, 2, 3], [4, 9, 9], [5, 6, 7]]),
    )
    new_scores, new_items = np.array([[8.5], [6.0], [-np.inf]]), np.array([[8], [8], [9]])
    best, best_of = selection.with_new_items(scores, items, new_scores, new_items, 9)
    assert best_of.tolist() == [[1, 8, 2], [8, 4, 9], [5, 6, 7]]
    assert best.tolist() == [[9.0, 8.5, 8.0], [6.0, 5.0, -np.inf], [4.0, 3.0, 2.0]]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """The small shop with the half that a product belongs to, a product of each half without an order, a rare one that
    customer 001 bought, and one of which nothing is known."""
    folder = write_shop(tmp_path_factory.mktemp("cold") / "shop")
    products = pd.read_csv(folder / "products.csv", dtype=str)
    half = ["low" if int(sku) < 8 else "high" for sku in products["sku"]]
    new = pd.DataFrame(
        {"sku": ["new-high", "new-low", "rare", "unknown"], "title": "", "half": ["high", "low", "high", ""]}
    )
    pd.concat([products.assign(half=half), new]).to_csv(folder / "products.csv", index=False)
    orders = pd.read_csv(folder / "orders.csv", dtype=str)
    rare = pd.DataFrame([["rare", "001", "2024-01-02", "rare", "1"]], columns=orders.columns)
    pd.concat([orders, rare]).to_csv(folder / "orders.csv", index=False)
    return folder


OPTIONS = ("--model", "ease", "--set", "l2=5", "attribute_weight=3", "--split", "last-order", "--min-customers", 2)


@pytest.fixture(scope="module")
def new_run(shop, tmp_path_factory):
    """A run that knows the new products."""
    folder = tmp_path_factory.mktemp("cold") / "run"
    assert run("fit", shop, *OPTIONS, "--new-products", "--run", folder) == 0
    return folder


def test_new_products_are_recommended_by_their_attributes_where_they_are_asked_for(new_run, tmp_path, capsys):
    folder = new_run
    assert json.loads((folder / "config.json").read_text())["data"]["new_products"] is True
    assert run("evaluate", folder) == 0
    assert "They equal those of metrics.json." in capsys.readouterr().out
    frames = {}
    for share in (0, 0.25):
        out = tmp_path / f"{share}.csv"
        assert run("recommend", folder, "--top", 4, "--include-new", share, "--out", out) == 0
        frames[share] = pd.read_csv(out, dtype={"customer_id": str, "sku": str})
    assert "40 of the recommendations are of new products, by their attributes." in capsys.readouterr().out
    assert set(frames[0]["basis"]) == {"model", "popular"}
    assert not set(frames[0]["sku"]) & {"new-high", "new-low", "rare"}
    new = frames[0.25][frames[0.25]["basis"] == "attributes"]
    assert new["customer_id"].is_unique and len(new) == 40 and set(frames[0.25].groupby("customer_id").size()) == {4}
    of_high = new["customer_id"].astype(int) % 2 == 1
    assert set(new["sku"][~of_high]) == {"new-low"} and set(new["sku"][of_high]) <= {"new-high", "rare"}
    # Customer 001 has bought the rare product, which the model set aside.
    assert new["sku"][new["customer_id"] == "001"].tolist() == ["new-high"]
    assert set(frames[0.25]["basis"][frames[0.25]["customer_id"] == "040"]) == {"popular"}
    for _, own in frames[0.25].groupby("customer_id"):
        assert own["score"].is_monotonic_decreasing


def test_the_rule_of_new_products_holds_for_customers_without_orders(new_run, tmp_path, capsys):
    (tmp_path / "rules.toml").write_text("new = 1")
    (tmp_path / "who.txt").write_text("040\n")
    options = ("--top", 4, "--rules", tmp_path / "rules.toml", "--customers", tmp_path / "who.txt")
    assert run("recommend", new_run, *options, "--out", tmp_path / "out.csv") == 0
    frame = pd.read_csv(tmp_path / "out.csv", dtype=str)
    assert len(frame) == 4 and sorted(frame["basis"]) == ["attributes", "popular", "popular", "popular"]
    assert set(frame["sku"][frame["basis"] == "attributes"]) <= {"new-high", "new-low", "rare"}
    assert frame["score"].astype(float).is_monotonic_decreasing


@pytest.mark.parametrize("with_segments", [True, False])
@pytest.mark.parametrize("caps", [None, Caps(np.arange(30)[None, :] % 2, np.array([2]))])
def test_new_products_without_a_history_are_those_of_the_kind_most_bought(tiny_lines, with_segments, caps):
    """Products 0 to 5 are new; the even and the odd are the kinds."""
    bought = tiny_lines.take(tiny_lines.item >= 6)
    nobody = Features(sp.csr_array((60, 1), dtype=np.float32), (("age", "young"),))
    lines = dataclasses.replace(bought, user_features=nobody)
    model = fit(bought, PopularitySettings())
    lists = recommendation.recommended_lists(
        model,
        recommendation.known_at(lines),
        ["stranger", "c00"],
        top=4,
        least_new=2,
        segments=nobody.take(np.array([0, 0])),
        for_unknown=(lambda _: model) if with_segments else None,
        rules=ListRules(caps=caps),
    )
    (found,) = lists
    customers = np.array([len(set(bought.user[bought.item == item])) for item in range(30)])
    of_kind = [customers[6 + kind :: 2].mean() for kind in (0, 1)]
    best = int(np.argmax(of_kind))
    is_new = found.items < 6
    assert is_new[0].sum() == 2 and not is_new[1].any()
    assert sorted(found.items[0][is_new[0]]) == [best, best + 2]
    np.testing.assert_allclose(found.scores[0][is_new[0]], of_kind[best] / 60, rtol=1e-5)
    assert found.basis[0][is_new[0]].tolist() == ["attributes"] * 2
    if caps is not None:
        assert sorted(found.items[0] % 2) == [0, 0, 1, 1]


@pytest.mark.parametrize("on", ["2024-01-01", "2024-01-02"])
def test_the_orders_of_set_aside_products_end_at_the_day_too(new_run, on):
    """Customer 001 bought the rare product on the second of January."""
    loaded = experiment.load_run(new_run)
    known, _ = experiment.known_on(loaded, on)
    rare = int(known.everything.items.index(["rare"])[0])
    assert (rare in known.everything.item) == (on == "2024-01-02") and known.new[rare] and not known.sold[rare]
    assert rare not in known.lines.item and known.as_of >= known.everything.at.max()


def test_new_products_change_no_figure(shop, tmp_path):
    """No protocol offers them, and with attributes of their own they would be no neighbours of any other."""
    figures = []
    for flag in ((), ("--new-products",)):
        folder = tmp_path / f"with{len(flag)}"
        options = ("--model", "popularity-category", "--split", "last-order", "--min-customers", 2)
        assert run("fit", shop, *options, *flag, "--run", folder) == 0
        figures.append(json.loads((folder / "metrics.json").read_text()))
    assert figures[0] == figures[1]


def test_new_products_of_which_nothing_is_known_are_left_out(shop):
    data = DataConfig(str(shop), min_customers=2, new_products=True)
    items = experiment.prepare(data, SplitConfig()).interactions.items.ids
    assert {"new-high", "new-low", "rare"} < {*items} and "unknown" not in items
    with pytest.raises(InputError, match="--new-products needs attributes of products"):
        experiment.prepare(dataclasses.replace(data, attributes={"half": "none"}), SplitConfig())


def test_new_products_that_share_nothing_with_one_that_was_bought_are_left_out(shop, tmp_path, capsys):
    """Nothing could be learnt of them, and what is known of customers does not help."""
    folder = tmp_path / "shop"
    shutil.copytree(shop, folder)
    products = pd.read_csv(folder / "products.csv", dtype=str).assign(title="")
    like = pd.DataFrame({"sku": ["other-1", "other-2"], "title": "", "half": "other"})
    pd.concat([products, like]).to_csv(folder / "products.csv", index=False)
    data = DataConfig(str(folder), min_customers=2, new_products=True)
    items = {*experiment.prepare(data, SplitConfig()).interactions.items.ids}
    assert {"new-high", "new-low", "rare"} < items and not {"other-1", "other-2"} & items
    customers = pd.read_csv(folder / "customers.csv", dtype=str)
    customers.assign(taste=["a", "b"] * 20 + ["a"]).to_csv(folder / "customers.csv", index=False)
    is_new = products["sku"].isin(["new-high", "new-low", "rare"])
    for half in (products["half"].where(is_new, ""), ""):
        products.assign(half=half).to_csv(folder / "products.csv", index=False)
        options = ("--model", "multvae", "--set", "attributes=true", "--min-customers", 2, "--run", tmp_path / "run")
        assert run("fit", folder, *options, "--new-products") == 1
        assert "--new-products needs attributes of products" in " ".join(capsys.readouterr().err.split())
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "share", "says"),
    [
        ((), 0.2, "--include-new 0.2 needs a run that was fitted with --new-products"),
        (("--new-products", "--set", "attribute_weight=0"), 0.2, "whose model uses attributes"),
    ],
)
def test_new_products_that_cannot_be_scored_are_refused(shop, options, share, says, tmp_path, capsys):
    assert run("fit", shop, *OPTIONS, *options, "--run", tmp_path / "run") == 0
    assert run("recommend", tmp_path / "run", "--include-new", share, "--out", tmp_path / "out.csv") == 1
    said = " ".join(capsys.readouterr().err.split())
    assert says in said and f"with one of these models: {registry.attribute_models()}" in said
    assert not (tmp_path / "out.csv").exists()


def test_a_share_that_is_none_is_refused(new_run, tmp_path, capsys):
    assert run("recommend", new_run, "--include-new", 1.5, "--out", tmp_path / "out.csv") == 1
    assert "--include-new is 1.5; expected a share of the places, 0 to 1" in capsys.readouterr().err
    assert run("recommend", new_run, "--include-new", 0.15, "--top", 4, "--out", tmp_path / "out.csv") == 1
    assert "0.15 of --top 4 is less than one place; give a larger share, or --top 7" in capsys.readouterr().err


def test_products_like_a_new_one_are_of_its_half(new_run, capsys):
    assert run("similar", new_run, "--sku", "new-low", "--top", 8) == 0
    shown = capsys.readouterr().out
    assert all(f"00{item}" in shown for item in range(8)) and "new-high" not in shown


def test_cold_items_from_the_command_line(shop, tmp_path, capsys):
    found = {}
    for name in ("popularity", "popularity-category", "ease"):
        options = ("--set", "l2=5", "attribute_weight=3") if name == "ease" else ()
        folder = tmp_path / name
        assert run("fit", shop, "--model", name, "--split", "cold-items", *options, "--run", folder) == 0
        found[name] = json.loads((folder / "metrics.json").read_text())
        assert found[name]["tasks"].keys() == {"cold", "mixed"}
        assert found[name]["metrics"] == found[name]["tasks"]["cold"]["metrics"]
    shown = capsys.readouterr().out
    used = ("none of them", "those of products", "those of products")
    assert [f"Model {name} uses {what}." in shown for name, what in zip(found, used, strict=True)] == [True] * 3
    assert "Found attributes of products, 2 features: half as category (2)." in " ".join(shown.split())
    assert "cold products alone" in shown and "among all products" in shown and "First time" not in shown
    assert "Products that nobody had bought" in (tmp_path / "ease" / "report.html").read_text()
    assert run("evaluate", tmp_path / "ease") == 0
    assert "They equal those of metrics.json." in capsys.readouterr().out
    names = "popularity-category,popularity"
    assert run("compare", shop, "--models", names, "--split", "cold-items", "--out", tmp_path / "c") == 0
    compared = json.loads((tmp_path / "c" / "comparison.json").read_text())["models"]
    assert compared["popularity"]["tasks"]["cold"]["metrics"].keys() == found["popularity"]["metrics"].keys()


def test_tune_searches_the_weight_where_there_are_attributes(shop, tmp_path):
    out = tmp_path / "tuned"
    assert run("tune", shop, "--model", "ease", "--split", "cold-items", "--trials", 10, "--run", out) == 0
    trials = [json.loads(line)["settings"] for line in (out / "trials.jsonl").read_text().splitlines()]
    assert trials[0]["attribute_weight"] == 0.0 and trials[0]["l2"] == 500.0
    assert len({trial["attribute_weight"] for trial in trials}) > 2


def test_kinds_of_columns_are_kept_in_the_config_and_hold_for_what_reads_the_run(shop, tmp_path, capsys):
    options = ("--attributes", "products.half=none", "--split", "users", "--min-customers", 1)
    assert run("fit", shop, "--model", "popularity", *options, "--run", tmp_path / "run") == 0
    kinds = json.loads((tmp_path / "run" / "config.json").read_text())["data"]["attributes"]
    assert kinds == {"products.title": "none", "products.half": "none"}
    assert run("evaluate", tmp_path / "run") == 0
    assert run("check", shop, "--attributes", "half=number") == 1
    assert "--attributes half=number: products.csv holds no number there" in capsys.readouterr().err
    assert run("check", shop, "--attributes", "half") == 1
    assert '--attributes got "half"; expected column=kind' in capsys.readouterr().err
    assert run("check", shop, "--json", tmp_path / "check.json") == 0
    reported = json.loads((tmp_path / "check.json").read_text())
    assert reported["attributes"]["products"]["half"] == {
        "kind": "category",
        "features": 2,
        "note": "",
        "warning": False,
    }
    assert "cold-items" in reported["protocols"]["possible"]
