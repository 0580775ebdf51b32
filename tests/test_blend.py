"""blend: never below its best part, weights from validation alone, and a run like any other."""

import dataclasses
import json
import re

import numpy as np
import pytest

from aejax import experiment, registry, runs
from aejax.config import DataConfig, SplitConfig
from aejax.errors import InputError
from aejax.evaluation import evaluate, validator
from aejax.experiment import blending
from aejax.experiment.blending import BlendSettings, find_weights
from aejax.models import unknown_customers
from aejax.models.blend import Blend, standardise
from tests.shops import run, write_shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return write_shop(tmp_path_factory.mktemp("blend") / "shop")


@pytest.fixture(scope="module")
def parts(shop):
    return experiment.prepare(DataConfig(str(shop)), SplitConfig("time")).split


def test_standardised_scores_have_mean_0_and_deviation_1():
    scores = np.random.default_rng(0).normal(3.0, 7.0, (5, 40)).astype(np.float32)
    found = np.asarray(standardise(scores))
    np.testing.assert_allclose(found.mean(1), 0.0, atol=1e-6)
    np.testing.assert_allclose(found.std(1), 1.0, rtol=1e-5)
    assert np.array_equal(standardise(np.ones((2, 3), dtype=np.float32)), np.zeros((2, 3)))
    # So do scores whose squares float32 does not hold.
    for factor in (1e-25, 1e25):
        np.testing.assert_allclose(standardise(scores * np.float32(factor)), found, rtol=1e-4, atol=1e-5)


def test_scores_are_the_weighted_sum(parts):
    models = [experiment.fit_model(n, registry.make_settings(n, {}), parts, seed=0).model for n in ("ease", "itemknn")]
    blend = Blend(models, [0.3, 0.7], [0, 1])
    histories = parts.test.inputs
    expected = sum(
        weight * np.asarray(standardise(model.scores(model.encode(histories))))
        for model, weight in zip(models, (0.3, 0.7), strict=True)
    )
    np.testing.assert_allclose(blend.scores(blend.encode(histories)), expected, rtol=1e-5, atol=1e-6)


def test_a_blend_does_not_know_the_customers_that_a_part_does_not_know(parts):
    class Part:
        def __init__(self, *unknown):
            self.ids = unknown

        def unknown(self, histories):
            return np.flatnonzero(np.isin(histories.lines.users.ids, self.ids))

    histories = parts.test.inputs.take(0, 4)
    first, second, third, _ = histories.lines.users.ids
    blend = Blend([Part(third, second), object(), Part(first, second)], [1.0, 1.0, 1.0], [0, 1, 2])
    assert unknown_customers(blend, histories).tolist() == [0, 1, 2]
    assert unknown_customers(Blend([object()], [1.0], [0]), histories).tolist() == []


def test_a_blend_is_at_least_its_best_part_on_validation(parts):
    names = ("popularity", "ease", "itemknn")
    selected = dataclasses.replace(parts, refit=None)
    alone = [experiment.fit_model(n, registry.make_settings(n, {}), selected, seed=0) for n in names]
    weights = find_weights([one.model for one in alone], parts.validation)
    assert sum(weights) == pytest.approx(1.0) and min(weights) >= 0
    fitted = experiment.fit_model("blend", BlendSettings(parts=names), parts, seed=0)
    assert fitted.validation >= max(one.validation for one in alone) - 1e-6
    (record,) = [line for line in fitted.log if line["stage"] == "blend"]
    assert tuple(record["weights"].values()) == weights
    assert record["parts"] == {name: one.validation for name, one in zip(names, alone, strict=True)}
    kept = [(one.model, w, n) for n, (one, w) in enumerate(zip(alone, weights, strict=True)) if w > 0]
    assert fitted.validation == pytest.approx(validator(parts.validation)(Blend(*zip(*kept, strict=True))))


def test_two_parts_that_know_different_things_are_both_kept(parts):
    """Each part is good for half of the customers; only together they are good for all."""
    part = parts.validation
    rng = np.random.default_rng(0)
    truth = part.targets.toarray()

    class Half:
        def __init__(self, rest):
            self.rest = rest

        def encode(self, histories):
            return np.searchsorted(part.inputs.lines.users.ids, histories.lines.users.ids)

        def scores(self, batch):
            noise = rng_noise[self.rest][batch]
            known = (batch % 2 == self.rest)[:, None]
            return np.where(known, truth[batch] * 4.0 + noise, noise).astype(np.float32)

    rng_noise = rng.normal(0.0, 1.0, (2, *truth.shape))
    weights = find_weights([Half(0), Half(1)], part)
    assert min(weights) > 0.2


class Noisy:
    """What the part's customers bought later, under noise of a given size."""

    def __init__(self, part, size, seed):
        noise = np.random.default_rng(seed).normal(0.0, size, part.targets.shape)
        self.ids, self.table = part.inputs.lines.users.ids, part.targets.toarray() + noise

    def encode(self, histories):
        return np.searchsorted(self.ids, histories.lines.users.ids)

    def scores(self, batch):
        return self.table[batch].astype(np.float32)


def test_the_search_finds_more_than_its_starts(parts):
    """Two parts of unequal noise: the best weights are neither one of them nor the same for both."""
    part = parts.validation
    models = [Noisy(part, 0.6, 1), Noisy(part, 1.5, 2)]
    weights = find_weights(models, part)
    assert weights[0] > weights[1] > 0

    def score(weights):
        return validator(part, once=True)(Blend(models, weights, [0, 1]))

    assert score(weights) > max(score(start) for start in ((1.0, 0.0), (0.0, 1.0), (0.5, 0.5)))


def test_weights_that_lose_on_all_customers_give_way_to_the_best_part(parts, monkeypatch):
    monkeypatch.setattr(blending, "find_weights", lambda models, part: (1.0, 0.0, 0.0))
    fitted = experiment.fit_model("blend", BlendSettings(parts=("popularity", "ease", "itemknn")), parts, seed=0)
    (record,) = [line for line in fitted.log if line["stage"] == "blend"]
    best = max(record["parts"], key=record["parts"].get)
    assert best != "popularity" and record["weights"][best] == 1.0
    assert fitted.validation == record["validation"] == record["parts"][best]


def test_weights_may_come_from_some_of_the_customers(parts, monkeypatch):
    part = parts.validation
    models = [Noisy(part, 0.4, 1), Noisy(part, 50.0, 2)]
    encoded, encode = [], Noisy.encode
    monkeypatch.setattr(Noisy, "encode", lambda model, some: encoded.append(some) or encode(model, some))
    monkeypatch.setattr(blending, "CELLS", 5 * part.targets.shape[1])
    weights = find_weights(models, part)
    assert weights[0] > weights[1]
    asked = np.concatenate([histories.lines.users.ids for histories in encoded[::2]])
    everyone = part.inputs.lines.users.ids
    assert len(asked) == 5 and asked[0] == everyone[0] and asked[-1] == everyone[-1]  # from the first to the last


def test_given_weights_stay_and_a_part_of_weight_0_is_left_out(parts):
    settings = BlendSettings(parts=("popularity", "ease"), weights=(0.0, 2.0))
    blend = experiment.fit_model("blend", settings, parts, seed=0).model
    assert (blend.positions, blend.weights) == ([1], [2.0])
    ease = experiment.fit_model("ease", registry.make_settings("ease", {}), parts, seed=0).model
    ours, theirs = (evaluate(model, parts.test).values["ndcg@100"] for model in (blend, ease))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_given_weights_are_not_validated_unless_asked_for(parts, monkeypatch):
    settings = BlendSettings(parts=("popularity", "ease"), weights=(0.5, 2.0))
    asked = experiment.fit_model("blend", settings, parts, seed=0)
    monkeypatch.setattr(blending, "select", None)
    fitted = experiment.fit_model("blend", settings, parts, seed=0, validated=False)
    assert fitted.validation is None
    ours, theirs = (evaluate(model, parts.test).values["ndcg@100"] for model in (fitted.model, asked.model))
    np.testing.assert_array_equal(ours, theirs)


def test_a_run_of_a_blend_is_like_any_other(shop, tmp_path, capsys):
    file = tmp_path / "s.json"
    file.write_text(json.dumps({"ease": {"l2": 3.0}, "multvae": {"hidden": [], "latent_dim": 4, "epochs": 3}}))
    options = ("--model", "blend", "--set", "parts=ease,multvae,popularity", "--settings", file)
    for name in ("one", "two"):
        assert run("fit", shop, *options, "--run", tmp_path / name) == 0
    (record,) = [line for line in runs.read_log(tmp_path / "one" / "log.jsonl") if line["stage"] == "blend"]
    said = " ".join(capsys.readouterr().out.split())
    assert f"blend: weights (ease {record['weights']['ease']:.4g}, multvae" in said
    page = re.sub("<[^>]*>", " ", (tmp_path / "one" / "report.html").read_text())
    assert f"blend.weights.ease  {record['weights']['ease']}" in page
    config = json.loads((tmp_path / "one" / "config.json").read_text())
    assert config["settings"]["settings"]["ease"]["l2"] == 3.0
    assert config["settings"]["settings"]["multvae"]["dropout"] == 0.5  # defaults included
    assert run("evaluate", tmp_path / "one", "--json", tmp_path / "again.json") == 0
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "one" / "metrics.json").read_bytes()
    assert run("recommend", tmp_path / "one", "--top", 3) == 0
    for file in ("metrics.json", "log.jsonl", "report.html"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert (
        run(
            "compare", shop, "--models", "popularity,ease,blend", "--set", "parts=ease,itemknn", "--out", tmp_path / "c"
        )
        == 0
    )


def test_in_a_comparison_a_part_has_the_settings_that_it_has_beside_the_blend():
    stored = {"ease": {"user_power": 0.5}, "itemknn": {"shrink": 7.0}}
    found = experiment.compare_settings(("ease", "blend"), {"l2": 5, "parts": "ease,itemknn"}, stored)
    assert found["ease"] == found["blend"].of("ease") == registry.make_settings("ease", {"l2": 5.0, "user_power": 0.5})
    assert found["blend"].of("itemknn").shrink == 7.0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"parts": ("ease",)}, "expected two or more different models"),
        ({"parts": ("ease", "ease")}, "expected two or more different models"),
        ({"parts": ("ease", "blend")}, "expected two or more different models"),
        ({"parts": ("ease", "gfcg")}, 'did you mean "gfcf"'),
        ({"parts": ("ease", "gfcf"), "weights": (1.0,)}, "expected 2 numbers"),
        ({"parts": ("ease", "gfcf"), "weights": (1.0, -1.0)}, "0 or more"),
        ({"parts": ("ease", "gfcf"), "weights": (0.0, 0.0)}, "not all 0"),
        ({"parts": ("ease", "gfcf"), "settings": {"ease": {"l3": 1}}}, 'did you mean "l2"'),
        ({"parts": ("ease", "gfcf"), "settings": {"eaze": {"l2": 1}}}, 'did you mean "ease"'),
        ({"parts": ("ease", "gfcf"), "settings": {"ease": 3}}, "settings of ease in a blend is 3"),
    ],
)
def test_bad_settings(options, says):
    with pytest.raises(InputError, match=says):
        BlendSettings(**options)


def test_text_becomes_parts_and_weights():
    settings = registry.make_settings("blend", {"parts": "ease,gfcf", "weights": "0.3,0.7"})
    assert settings.parts == ("ease", "gfcf") and settings.weights == (0.3, 0.7)
    with pytest.raises(InputError, match="expected numbers such as"):
        registry.make_settings("blend", {"parts": "ease,gfcf", "weights": "a,b"})
