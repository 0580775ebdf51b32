"""tune: settings from validation alone, resumable to the same trials."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from aejax import evaluation, experiment, registry
from aejax.config import DataConfig, SplitConfig
from aejax.experiment import fitting, tuning
from aejax.models import Range, linear
from tests.shops import run


def trials_of(folder):
    return [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]


def test_the_best_trial_is_the_settings_file_and_fit_takes_it(shop, tmp_path, capsys):
    out = tmp_path / "tuned"
    assert run("tune", shop, "--model", "ease", "--trials", 12, "--run", out) == 0
    assert "aejax fit" in capsys.readouterr().out
    trials = trials_of(out)
    assert [trial["trial"] for trial in trials] == list(range(12))
    assert trials[0]["settings"] == {"l2": 500.0, "user_power": 0.0, "values": "binary"}  # the defaults first
    assert len({trial["settings"]["l2"] for trial in trials}) == 12
    best = max(trials, key=lambda trial: trial["validation"])
    chosen = json.loads((out / "settings.json").read_text())["ease"]
    assert {name: chosen[name] for name in best["settings"]} == best["settings"]
    assert run("fit", shop, "--model", "ease", "--settings", out / "settings.json", "--run", tmp_path / "fitted") == 0
    config = json.loads((tmp_path / "fitted" / "config.json").read_text())
    assert config["settings"] == chosen
    # The figure that chose is the one that a fit of these settings has on validation.
    parts = experiment.prepare(DataConfig(str(shop)), SplitConfig()).split
    fitted = experiment.fit_model("ease", registry.make_settings("ease", chosen), parts, seed=0)
    assert fitted.validation == pytest.approx(best["validation"], abs=1e-6)  # from shared products in the search


def test_trials_that_differ_in_the_ridge_share_the_products_between_rows(shop, tmp_path, monkeypatch):
    made = []
    original = linear.gram
    monkeypatch.setattr(linear, "gram", lambda *a: made.append(1) or original(*a))
    common = ("tune", shop, "--model", "ease", "--values", "binary")
    assert run(*common, "--set", "user_power=0", "--trials", 6, "--run", tmp_path / "one") == 0
    assert len(made) == 1
    made.clear()
    assert run(*common, "--set", "l2=50", "--trials", 4, "--run", tmp_path / "each") == 0
    powers = [trial["settings"]["user_power"] for trial in trials_of(tmp_path / "each")]
    assert len(made) == 1 + sum(one != other for one, other in itertools.pairwise(powers)) > 1


def test_the_test_part_is_not_looked_at(shop, tmp_path, monkeypatch):
    parts = []
    original = evaluation.batches

    def watched(model, part, size):
        parts.append(part)
        return original(model, part, size)

    monkeypatch.setattr(evaluation, "batches", watched)
    assert run("tune", shop, "--model", "itemknn", "--trials", 3, "--run", tmp_path / "tuned") == 0
    expected = experiment.prepare(DataConfig(str(shop)), SplitConfig()).split.validation
    assert len(parts) == 3
    assert all((part.targets != expected.targets).nnz == 0 for part in parts)


@pytest.mark.parametrize(("again", "dated"), [(True, True), (True, False), (False, True)])
def test_values_are_searched_where_products_are_bought_again(again, dated, tiny_lines):
    first = np.unique(tiny_lines.pair, return_index=True)[1]
    lines = tiny_lines if again else tiny_lines.take(np.sort(first))
    lines = lines if dated else dataclasses.replace(lines, at=None)
    silent = tuning._saying_nothing(lines, registry.family("rdlae"))
    assert silent == (set() if again and dated else {"values"})
    bare = dataclasses.replace(lines, item_features=None)
    assert tuning._saying_nothing(bare, registry.family("rdlae")) == silent | {"attribute_weight"}


def test_an_interrupted_search_ends_with_the_same_trials(shop, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("aejax.experiment.tuning.STARTUP", 2)  # so that the estimator proposes most of them
    options = ("tune", shop, "--model", "multvae", "--trials", 5, "--epochs", 3, "--set", "hidden=8", "dropout=.5")
    assert run(*options, "--run", tmp_path / "whole") == 0
    count = []

    def stopping(*arguments, **named):
        count.append(1)
        if len(count) == 4:
            raise KeyboardInterrupt
        return fitting.fit_model(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr("aejax.experiment.tuning.fit_model", stopping)
        assert run(*options, "--run", tmp_path / "cut") == 130
    assert not (tmp_path / "cut").exists()
    assert len(trials_of(tmp_path / ".cut.unfinished")) == 3
    capsys.readouterr()
    # A default that was given was fixed, though the settings are the same without it.
    assert run(*options[:-1], "--run", tmp_path / "cut", "--resume") == 1
    assert "was started with another --set: it searches latent_dim" in " ".join(capsys.readouterr().err.split())
    assert run(*options, "--run", tmp_path / "cut", "--resume") == 0
    assert (tmp_path / "cut" / "trials.jsonl").read_bytes() == (tmp_path / "whole" / "trials.jsonl").read_bytes()
    settings = trials_of(tmp_path / "cut")[-1]["settings"]
    assert "hidden" not in settings and "epochs" not in settings  # what is given is fixed


def test_a_hopeless_network_is_stopped_early(shop, tmp_path, monkeypatch):
    monkeypatch.setattr("aejax.experiment.tuning.PRUNE_AFTER_TRIALS", 1)
    monkeypatch.setattr("aejax.experiment.tuning.PRUNE_AFTER_EPOCHS", 1)
    options = (
        "--model",
        "multvae",
        "--trials",
        4,
        "--epochs",
        8,
        "--set",
        "hidden=8",
        "learning_rate=0.02",
        "batch_size=50",
    )
    assert run("tune", shop, *options, "--run", tmp_path / "tuned") == 0
    trials = trials_of(tmp_path / "tuned")
    pruned = [trial for trial in trials if trial["state"] == "pruned"]
    assert pruned and all("validation" not in trial and 1 <= len(trial["curve"]) < 8 for trial in pruned)


def test_a_trial_that_fails_is_recorded_and_the_search_goes_on(shop, tmp_path, monkeypatch):
    family = registry.family("ae")
    search = {"learning_rate": Range(1e25, 1e30, log=True)}
    monkeypatch.setattr(registry, "family", lambda name: type(family)(**{**vars(family), "search": search}))
    assert run("tune", shop, "--model", "ae", "--trials", 3, "--epochs", 2, "--run", tmp_path / "tuned") == 0
    trials = trials_of(tmp_path / "tuned")
    assert [trial["state"] for trial in trials] == ["complete", "failed", "failed"]
    assert "learning_rate" in trials[1]["message"]


def test_a_ridge_that_fit_would_refuse_fails_its_trial_with_the_same_reason(tmp_path, monkeypatch, capsys):
    """The search solves in float64, fit in float32."""
    folder = tmp_path / "data"  # more products than customers: without a ridge there is no inverse between products
    folder.mkdir()
    (folder / "train.txt").write_text(
        "".join(f"{u} {' '.join(str((3 * u + n) % 20) for n in range(12))}\n" for u in range(8))
    )
    (folder / "test.txt").write_text("".join(f"{u} {(3 * u + 13) % 20}\n" for u in range(8)))
    family = registry.family("ease")
    search = {"l2": Range(1e-6, 1e-5, log=True)}
    given = (folder, "--model", "ease", "--set", "side=items")
    with monkeypatch.context() as patched:
        patched.setattr(registry, "family", lambda name: type(family)(**{**vars(family), "search": search}))
        assert run("tune", *given, "--trials", 3, "--run", tmp_path / "tuned") == 0
    trials = trials_of(tmp_path / "tuned")
    assert [trial["state"] for trial in trials] == ["complete", "failed", "failed"]
    assert "leaves the system singular in float32; try a larger l2" in trials[1]["message"]
    capsys.readouterr()
    assert run("fit", *given, f"l2={trials[1]['settings']['l2']}", "--run", tmp_path / "fitted") == 1
    assert trials[1]["message"] in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(("model", "instead"), [("popularity-recent", "popularity"), ("own-recency", "own-frequency")])
def test_a_rule_that_needs_dates_is_not_tuned_without(model, instead, tmp_path, capsys):
    """A LightGCN folder has none."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.txt").write_text("".join(f"{user} {user % 5} {user % 3 + 5} 8\n" for user in range(30)))
    (folder / "test.txt").write_text("".join(f"{user} {9 + user % 2}\n" for user in range(30)))
    assert run("tune", folder, "--model", model, "--trials", 2, "--run", tmp_path / "tuned") == 1
    message = capsys.readouterr().err
    assert f"model {model} needs order dates (created_at), and these data have none; try --model {instead}" in message
    assert not (tmp_path / "tuned").exists()


@pytest.mark.parametrize("model", ["popularity-recent", "own-recency"])
def test_the_half_life_of_a_rule_is_tuned(model, shop, tmp_path):
    options = ("--split", "last-order", "--repeat", "include", "--trials", 4)
    assert run("tune", shop, "--model", model, *options, "--run", tmp_path / "tuned") == 0
    trials = trials_of(tmp_path / "tuned")
    assert len({trial["settings"]["half_life"] for trial in trials}) == 4
    assert all(trial["state"] == "complete" for trial in trials)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--model", "blend"], "model blend has no setting left to tune"),
        (["--model", "own-frequency"], "model own-frequency has no setting left to tune"),
        (["--model", "ease", "--trials", "0"], "--trials is 0"),
        (["--model", "ease", "--split", "reconstruction"], "no validation part"),
        (["--model", "ease", "--set", "l2=1", "user_power=0", "values=orders"], "no setting left to tune"),
        (["--model", "eas"], 'did you mean "ease"'),
    ],
)
def test_bad_input(options, says, shop, tmp_path, capsys):
    assert run("tune", shop, "--run", tmp_path / "tuned", *options) == 1
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
