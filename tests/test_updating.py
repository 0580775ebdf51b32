"""Next week's exports: what they add to a run, and whether the run gains by it."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from aejax import datasets, experiment, runs
from aejax.errors import InputError
from aejax.evaluation import evaluate
from aejax.experiment import updating
from aejax.experiment.merging import merge
from aejax.interactions import Vocabulary
from aejax.training import Progress, TrainState
from tests.shops import run, write_shop

CUT = "2024-03-10"
NETWORK = ["--epochs", 2, "--set", "hidden=8", "batch_size=16"]


def part_of(shop, folder, keep):
    """The shop with those of its orders that `keep` says."""
    folder.mkdir(parents=True, exist_ok=True)
    orders = pd.read_csv(shop / "orders.csv", dtype=str)
    orders[keep(orders)].to_csv(folder / "orders.csv", index=False)
    for name in ("customers.csv", "products.csv"):
        (folder / name).write_bytes((shop / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A shop whose customer 039 comes with the later orders, and with them twelve customers' product `new`."""
    folder = write_shop(tmp_path_factory.mktemp("whole"))
    orders = pd.read_csv(folder / "orders.csv", dtype=str)
    later = orders["created_at"] >= CUT
    orders = orders[later | (orders["customer_id"] != "039")]
    extra = orders[orders["created_at"] >= CUT].drop_duplicates("customer_id").head(24)
    pd.concat([orders, extra.assign(lineitem_sku="new")]).to_csv(folder / "orders.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def earlier(whole, tmp_path_factory):
    return part_of(whole, tmp_path_factory.mktemp("earlier"), lambda orders: orders["created_at"] < CUT)


@pytest.fixture(scope="module")
def ease(earlier, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "ease"
    assert run("fit", earlier, "--model", "ease", "--min-customers", 5, "--run", folder) == 0
    return folder


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sorted_lines(dataset):
    lines = dataset.interactions
    return sorted(
        zip(lines.users.ids[lines.user], lines.items.ids[lines.item], lines.at.tolist(), lines.quantity, strict=True)
    )


@pytest.mark.parametrize("again", [True, False])
def test_old_and_new_data_together_are_the_whole_whether_they_overlap_or_not(whole, earlier, tmp_path, again):
    newer = part_of(whole, tmp_path / "new", lambda orders: (orders["created_at"] >= CUT) | again)
    old, new, all_of_it = (datasets.read(folder) for folder in (earlier, newer, whole))
    merged, changes = merge(old, new, old.interactions.items)
    assert sorted_lines(merged) == sorted_lines(all_of_it)
    assert changes.repeated == (len(old.interactions) if again else 0)
    assert changes.lines == len(all_of_it.interactions) - len(old.interactions)
    assert (changes.customers, changes.products, changes.late) == (1, 1, 0)
    assert len(np.unique(merged.interactions.order)) == len(np.unique(all_of_it.interactions.order))
    assert changes.orders == len(np.unique(all_of_it.interactions.order)) - len(np.unique(old.interactions.order))


@pytest.mark.parametrize("again", [True, False])
def test_a_second_order_of_a_day_and_a_return_are_new_where_dates_have_no_clock(tmp_path, again):
    """The first export was made at noon; later that day a product is bought once more, and another is sent back."""
    columns = ["order_id", "customer_id", "created_at", "lineitem_sku", "lineitem_quantity"]
    noon = [
        ("o1", "ann", "2024-01-02", "a", 1),
        ("o1", "ann", "2024-01-02", "b", 1),
        ("o2", "bob", "2024-01-02", "a", 1),
    ]
    night = [
        ("o3", "ann", "2024-01-02", "a", 5),
        ("o4", "ann", "2024-01-02", "b", -1),
        ("o5", "bob", "2024-01-09", "b", 1),
    ]
    read = {}
    for name, lines in {"old": noon, "new": [*noon, *night] if again else night, "all": [*noon, *night]}.items():
        (tmp_path / name).mkdir()
        pd.DataFrame(lines, columns=columns).to_csv(tmp_path / name / "orders.csv", index=False)
        pd.DataFrame({"customer_id": ["ann", "bob"]}).to_csv(tmp_path / name / "customers.csv", index=False)
        pd.DataFrame({"sku": ["a", "b"]}).to_csv(tmp_path / name / "products.csv", index=False)
        read[name] = datasets.read(tmp_path / name)
    merged, changes = merge(read["old"], read["new"], read["old"].interactions.items)
    if again:
        assert sorted_lines(merged) == sorted_lines(read["all"])
        assert (changes.repeated, changes.lines, changes.orders) == (3, 3, 3)
    else:  # nothing tells o3 from o1, which is the shorter side's one purchase
        assert (changes.repeated, changes.lines, changes.orders) == (1, 2, 2)
    assert len(np.unique(merged.interactions.order)) == changes.orders + 2


def test_cells_of_the_newer_tables_count_where_they_are_not_blank(whole, earlier, tmp_path):
    old = datasets.read(earlier)
    old = dataclasses.replace(old, products=old.products.assign(colour="red", brand="x"))
    new = datasets.read(whole)
    titles = new.products["title"].where(new.products["sku"] != "001", "Renamed")
    titles = titles.where(new.products["sku"] != "002", "002")  # the SKU stands in for a title
    new = dataclasses.replace(new, products=new.products.assign(title=titles, colour=["blue", *[""] * 16]))
    merged, _ = merge(old, new, old.interactions.items)
    table = merged.products.set_index("sku")
    assert table.loc["001", "title"] == "Renamed" and table.loc["002", "title"] == "Product 002"
    assert table["colour"].tolist() == ["blue", *["red"] * 15, ""]
    assert table.loc["new", "brand"] == "" and table.loc["001", "brand"] == "x"


def test_an_update_knows_all_orders_and_products_and_leaves_the_run_alone(ease, whole, tmp_path, capsys):
    before = contents(ease)
    assert run("update", ease, whole, "--run", tmp_path / "next") == 0
    said = capsys.readouterr().out
    assert "1 new customer" in said and "1 new product" in said and "popularity" in said
    assert contents(ease) == before
    loaded = experiment.load_run(tmp_path / "next")
    old_items = experiment.load_run(ease).prepared.interactions.items
    assert set(loaded.prepared.interactions.items.ids) == {*old_items.ids, "new"}
    assert sorted_lines(loaded.prepared.dataset) == sorted_lines(datasets.read(whole))
    # It is the model of all orders, in every bit.
    again = dataclasses.replace(loaded.config, production=None)
    model = experiment.production.fit_on_all(
        again, loaded.model, loaded.prepared.interactions, {}, experiment.production.Hooks()
    )
    jax.tree.map(np.testing.assert_array_equal, model.state(), loaded.model.state())
    figures = json.loads((tmp_path / "next" / "metrics.json").read_text())
    assert figures["update"]["changes"]["products"] == 1 and figures["update"]["worse"] == []
    assert run("recommend", tmp_path / "next", "--top", 3) == 0
    assert run("evaluate", tmp_path / "next") == 1
    assert "in production" in capsys.readouterr().err


def test_the_old_run_is_compared_on_its_own_products(ease, whole):
    """A product that it does not know is never in its lists, and its scores of the others are its own."""
    old = experiment.load_run(ease)
    merged, _ = merge(old.prepared.dataset, datasets.read(whole), old.prepared.interactions.items)
    prepared = experiment.prepare_dataset(merged, old.config.data, dataclasses.replace(old.config.split, cut=CUT))
    older = updating.Predecessor(old, prepared)
    part = prepared.split.test
    scores = np.asarray(older.scores(older.encode(part.inputs)))
    items = prepared.interactions.items
    assert np.isneginf(scores[:, items.index(["new"])[0]]).all()
    own = np.asarray(
        old.model.scores(
            old.model.encode(
                part.inputs.__class__(
                    experiment.preparing.onto(
                        part.inputs.lines, part.inputs.lines.users, old.prepared.interactions.items
                    )
                )
            )
        )
    )
    np.testing.assert_array_equal(scores[:, items.index(old.prepared.interactions.items.ids)], own)
    assert evaluate(older, part).values["ndcg@100"].mean() > 0


class Backwards:
    """A model that likes best what the one within likes least."""

    def __init__(self, model):
        self.model = model

    def encode(self, histories):
        return self.model.encode(histories)

    def scores(self, batch):
        return -self.model.scores(batch)

    def state(self):
        return self.model.state()


def test_a_worse_run_is_written_only_if_it_is_forced(ease, whole, tmp_path, monkeypatch, capsys):
    fit_model = updating.fit_model

    def backwards(*arguments, **options):
        fitted = fit_model(*arguments, **options)
        return dataclasses.replace(fitted, model=Backwards(fitted.model))

    monkeypatch.setattr(updating, "fit_model", backwards)
    assert run("update", ease, whole, "--run", tmp_path / "next") == 1
    said = capsys.readouterr().err
    assert "worse than" in said and str(ease) in said and "--force" in said
    assert list(tmp_path.iterdir()) == []
    assert run("update", ease, whole, "--run", tmp_path / "next", "--force") == 0
    figures = json.loads((tmp_path / "next" / "metrics.json").read_text())
    assert str(ease) in figures["update"]["worse"]


def test_a_refit_of_an_updated_network_trains_as_long_as_its_parameters_did(earlier, whole, tmp_path):
    assert run("fit", earlier, "--model", "ae", "--min-customers", 5, "--run", tmp_path / "one", *NETWORK) == 0
    of_first = experiment.production.epochs_of_run(experiment.load_run(tmp_path / "one"), tmp_path / "one")
    assert run("update", tmp_path / "one", whole, "--run", tmp_path / "two", "--force") == 0
    of_update = experiment.production.chosen_epochs(runs.read_log(tmp_path / "two" / "log.jsonl"))
    updated = experiment.load_run(tmp_path / "two").config.production
    assert updated is not None and min(of_first[""], of_update[""]) >= 1
    assert updated.epochs == {"": of_first[""] + of_update[""]}


def test_a_network_starts_where_the_old_one_ended(earlier, whole, tmp_path):
    assert run("fit", earlier, "--model", "ae", "--min-customers", 5, "--run", tmp_path / "one", *NETWORK) == 0
    old = experiment.load_run(tmp_path / "one")
    before = old.prepared.interactions.items
    items = Vocabulary.of([*before.ids, "0000", "zz"])
    warm = updating.WarmStart.of(old, items)
    params = old.model.state()

    def wider(leaf):
        shape = tuple(len(items) if size == len(before) else size for size in leaf.shape)
        return jnp.full(shape, -7.0)

    fresh = jax.tree.map(wider, params)
    progress, _ = warm.resume("refit", Progress(TrainState(fresh, (), jnp.zeros((), jnp.int32)), fresh, 0.0, 0, 0))
    place, new = items.index(before.ids), items.index(["0000", "zz"])
    for was, now in zip(*map(jax.tree.leaves, (params, progress.state.params)), strict=True):
        was, now = np.asarray(was), np.asarray(now)
        if now.shape == was.shape:
            np.testing.assert_array_equal(now, was)
        else:
            axis = next(axis for axis, size in enumerate(was.shape) if size == len(before))
            np.testing.assert_array_equal(np.take(now, place, axis), was)
            assert (np.take(now, new, axis) == -7.0).all()
    assert any(leaf.shape != other.shape for leaf, other in zip(*map(jax.tree.leaves, (params, fresh)), strict=True))
    assert run("update", tmp_path / "one", whole, "--run", tmp_path / "two", "--force") == 0
    log = runs.read_log(tmp_path / "two" / "log.jsonl")
    first = runs.read_log(tmp_path / "one" / "log.jsonl")[0]["loss"]
    assert log[0]["loss"] < first


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda orders: orders.assign(lineitem_sku="x" + orders["lineitem_sku"]), "no product of the new orders"),
        (lambda orders: orders[orders["created_at"] < CUT], "no order after"),
        (lambda orders: orders.drop(columns="created_at"), "needs order dates"),
        (lambda orders: orders[orders["created_at"] <= "2024-03-10"], "too few orders"),
    ],
)
def test_data_that_bring_nothing_are_one_message(ease, whole, tmp_path, capsys, change, said):
    folder = part_of(whole, tmp_path / "new", lambda orders: orders["created_at"] > "")
    orders = pd.read_csv(folder / "orders.csv", dtype=str)
    change(orders).to_csv(folder / "orders.csv", index=False)
    assert run("update", ease, folder, "--run", tmp_path / "next") == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "next").exists()


def test_another_format_is_refused(whole):
    old = datasets.read(whole)
    with pytest.raises(InputError, match="format shop, the new ones recbole"):
        merge(old, dataclasses.replace(old, format="recbole"), old.interactions.items)
