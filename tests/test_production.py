"""Runs that are in use: fitted on all data, brought up to date."""

import json

import jax
import numpy as np
import pandas as pd
import pytest

from aejax import experiment, runs
from aejax.experiment import production
from aejax.models import blend
from tests import shops
from tests.shops import run

SMALL = ["--epochs", 6, "--set", "hidden=8", "latent_dim=4", "batch_size=16", "patience=2", "learning_rate=0.1"]


@pytest.fixture(scope="module")
def multvae(shop, tmp_path_factory):
    return shops.fitted(shop, tmp_path_factory.mktemp("runs") / "multvae", "multvae", *SMALL)


@pytest.fixture(scope="module")
def live(multvae, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "live"
    before = contents(multvae)
    assert run("refit", multvae, "--run", folder) == 0
    assert contents(multvae) == before
    return folder


@pytest.fixture(scope="module")
def popular(shop, tmp_path_factory):
    return shops.fitted(shop, tmp_path_factory.mktemp("runs") / "popularity", "popularity")


def contents(folder):
    """The bytes of every file of a run."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_refit_has_learned_for_the_epochs_of_validation(multvae, live):
    log = runs.read_log(multvae / "log.jsonl")
    scores = [line["validation"] for line in log if line["stage"] == "select"]
    chosen = int(np.argmax(scores)) + 1
    assert 1 < chosen < len(scores)  # patience ran out, so that the number is no accident
    again = runs.read_log(live / "log.jsonl")
    assert [(line["stage"], line["epoch"]) for line in again] == [("refit", n + 1) for n in range(chosen)]
    assert runs.read_config(live).production.epochs == {"": chosen}
    assert not any("validation" in line for line in again)


def test_a_refit_has_learned_from_all_orders(shop, popular, tmp_path):
    assert run("refit", popular, "--run", tmp_path / "live") == 0
    orders = pd.read_csv(shop / "orders.csv", dtype=str)
    buyers = orders.groupby("lineitem_sku")["customer_id"].nunique()
    loaded = experiment.load_run(tmp_path / "live")
    found = np.asarray(loaded.model.state()["popularity"])
    assert found.tolist() == buyers.loc[list(loaded.prepared.interactions.items.ids)].tolist()
    assert loaded.learned is loaded.prepared.interactions


def test_its_figures_are_those_of_the_evaluated_run_and_say_so(multvae, live, capsys):
    figures, evaluated = (json.loads((folder / "metrics.json").read_text()) for folder in (live, multvae))
    assert figures["figures_of"] == str(multvae) and str(multvae) in figures["note"]
    assert figures["metrics"] == evaluated["metrics"]
    assert run("evaluate", live) == 1
    said = capsys.readouterr().err
    assert "in production" in said and str(multvae) in said


def test_a_refit_recommends(live, tmp_path):
    assert run("recommend", live, "--top", 3, "--out", tmp_path / "lists.csv") == 0
    assert len(pd.read_csv(tmp_path / "lists.csv")) == 3 * 41


def test_a_refit_of_a_refit_is_the_same_in_every_bit(live, tmp_path):
    assert run("refit", live, "--run", tmp_path / "again") == 0
    one, two = (experiment.load_run(folder).model.state() for folder in (live, tmp_path / "again"))
    jax.tree.map(np.testing.assert_array_equal, one, two)
    for name in ("log.jsonl", "metrics.json", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (live / name).read_bytes()


def test_a_refit_blend_keeps_its_weights(shop, tmp_path):
    assert run("fit", shop, "--model", "blend", "--run", tmp_path / "one", "--set", "parts=ease,popularity") == 0
    assert run("refit", tmp_path / "one", "--run", tmp_path / "live") == 0
    one, live = (experiment.load_run(tmp_path / name).model for name in ("one", "live"))
    assert isinstance(one, blend.Blend) and isinstance(live, blend.Blend)
    assert (live.weights, live.positions) == (one.weights, one.positions)


def test_an_existing_run_is_not_replaced_unasked(popular, tmp_path, capsys):
    assert run("refit", popular, "--run", tmp_path / "live") == 0
    before = contents(tmp_path / "live")
    assert run("refit", popular, "--run", tmp_path / "live") == 1
    assert "--overwrite" in capsys.readouterr().err
    assert contents(tmp_path / "live") == before
    assert run("refit", popular, "--run", tmp_path / "live", "--overwrite") == 0


def test_an_interrupted_refit_leaves_nothing_in_the_way(popular, tmp_path, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(production.runs, "write_log", stop)
    assert run("refit", popular, "--run", tmp_path / "live") == 130
    assert not (tmp_path / "live").exists()
    monkeypatch.undo()
    assert run("refit", popular, "--run", tmp_path / "live") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["live"]
