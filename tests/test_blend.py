"""blend: never below its best part, weights from validation alone, and a run like any other."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aejax import experiment, registry, runs
from aejax.config import DataConfig, SplitConfig
from aejax.errors import InputError
from aejax.evaluation import evaluate, validator
from aejax.experiment import blending, weighing
from aejax.experiment.blending import BlendSettings
from aejax.experiment.weighing import find_weights, learn_gate, score_part
from aejax.interactions import Interactions, Vocabulary
from aejax.models import unknown_customers
from aejax.models.blend import Blend, Gate, GateWeights, OwnBatch, gated, standardise
from aejax.split import held_out
from tests.shops import run


@pytest.fixture(scope="module")
def parts(shop):
    return experiment.prepare(DataConfig(str(shop)), SplitConfig("time")).split


def test_standardised_scores_have_mean_0_and_deviation_1():
    scores = np.random.default_rng(0).normal(3.0, 7.0, (5, 40)).astype(np.float32)
    found = np.asarray(standardise(scores))
    np.testing.assert_allclose(found.mean(1), 0.0, atol=1e-6)
    np.testing.assert_allclose(found.std(1), 1.0, rtol=1e-5)
    for alike in (np.ones((2, 3), dtype=np.float32), scores[:, :1]):
        assert np.array_equal(standardise(alike), np.zeros(alike.shape))
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
    weights = find_weights(score_part([one.model for one in alone], parts.validation))
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
    weights = find_weights(score_part([Half(0), Half(1)], part))
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
    weights = find_weights(score_part(models, part))
    assert weights[0] > weights[1] > 0

    def score(weights):
        return validator(part, once=True)(Blend(models, weights, [0, 1]))

    assert score(weights) > max(score(start) for start in ((1.0, 0.0), (0.0, 1.0), (0.5, 0.5)))


def test_weights_that_lose_on_all_customers_give_way_to_the_best_part(parts, monkeypatch):
    monkeypatch.setattr(blending, "find_weights", lambda scored: (1.0, 0.0, 0.0))
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
    monkeypatch.setattr(weighing, "CELLS", 5 * part.targets.shape[1])
    weights = find_weights(score_part(models, part))
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


def some_gate(rng, parts=2, features=3):
    """Weights of a gate, `[2, P]`, `[2, P]` and `[2, 1 + F]`."""
    shapes = (2, parts), (2, parts), (2, 1 + features)
    return GateWeights(*(jnp.asarray(rng.normal(size=shape), dtype=jnp.float32) for shape in shapes))


def some_own(rng, batch=3, items=7, length=4, features=3):
    """What three customers bought: two, none and four of seven products."""
    rows = [np.sort(rng.choice(items, count, replace=False)) for count in (2, 0, 4)]
    padded = np.stack([np.pad(row, (0, length - len(row)), constant_values=items) for row in rows])
    cells = rng.normal(size=(batch, length, features)) * (padded < items)[..., None]
    return OwnBatch(padded, cells.astype(np.float32), rng.normal(size=batch).astype(np.float32))


def test_gated_scores_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    weights, own = some_gate(rng), some_own(rng)
    scores = rng.normal(size=(2, 3, 7)).astype(np.float32)
    found = np.asarray(gated(scores, own, weights))
    of_parts, of_own, of_features = (np.asarray(leaf, dtype=float) for leaf in weights)
    for user in range(3):
        activity = np.array([1.0, own.activity[user]])
        for item in range(7):
            expected = sum(activity @ of_parts[:, part] * scores[part, user, item] for part in range(2))
            place = np.flatnonzero(own.items[user] == item)
            if len(place):
                expected += sum(activity @ of_own[:, part] * scores[part, user, item] for part in range(2))
                expected += activity @ of_features @ np.append(1.0, own.features[user, place[0]])
            assert found[user, item] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_candidates_keep_the_scores_and_the_targets_of_the_first_products(monkeypatch):
    monkeypatch.setattr(weighing, "CANDIDATES", 4)
    rng = np.random.default_rng(1)
    weights, own, fixed = some_gate(rng), some_own(rng), jnp.array([0.3, 0.7])
    scores = rng.normal(size=(2, 3, 7)).astype(np.float32)
    seen = np.array([[0, 7], [7, 7], [1, 2]])
    targets = np.array([[1, 2, 7], [0, 7, 7], [3, 4, 5]])
    example = weighing.Example(*map(jnp.asarray, (scores,)), own, seen, targets, jnp.array([2, 1, 3]))
    narrow = jax.jit(weighing._candidates.__wrapped__)(example, fixed)
    whole, found = np.asarray(gated(scores, own, weights)), np.asarray(gated(narrow.scores, narrow.own, weights))
    blended = np.einsum("pbi,p->bi", scores, fixed)
    for user in range(3):
        free = [item for item in range(7) if item not in seen[user]]
        first = sorted(free, key=lambda item: -blended[user, item])[:4]
        np.testing.assert_allclose(found[user], whole[user, first], rtol=1e-5)
        expected = [item in targets[user] for item in first]
        assert np.asarray(narrow.is_target)[user, : len(first)].tolist() == expected
        assert np.asarray(narrow.is_open)[user].all()


def two_kinds_of_customers():
    """60 customers of 20 products: who has many orders buys the same again, who has few buys something new."""
    rng = np.random.default_rng(0)
    rows, later = [], []
    for user in range(60):
        many = user // 2 % 2
        own = rng.choice(20, 4, replace=False)
        rows += [(user, item, user * 10 + order, 10 * order) for order in range(6 if many else 1) for item in own]
        if many:  # one of them no longer
            rows = [row for row in rows if row[:2] != (user, own[3]) or row[3] < 30]
        later += [(user, item) for item in (own[:2] if many else np.setdiff1d(np.arange(20), own)[:2])]
    user, item, order, day = (np.array(column, dtype=np.int32) for column in zip(*rows, strict=True))
    names = [Vocabulary.of(f"{kind}{n:02d}" for n in range(count)) for kind, count in (("u", 60), ("i", 20))]
    lines = Interactions(
        user,
        item,
        np.ones(len(user), np.int32),
        *names,
        order=order,
        at=day.astype("datetime64[D]").astype("datetime64[s]"),
    )
    user, item = (np.array(column, dtype=np.int32) for column in zip(*later, strict=True))
    targets = Interactions(user, item, np.ones(len(user), np.int32), *names)
    as_of = np.full(60, np.datetime64(70 * 86_400, "s"))
    return lines, held_out(lines, targets, seen=None, repeat="include", as_of=as_of)


class Again:
    """Scores a customer's own products above, or with -1 below, all others, with noise."""

    def __init__(self, part, sign, seed):
        own = np.zeros(part.targets.shape)
        own[part.inputs.lines.user, part.inputs.lines.item] = 1.0
        self.table = sign * own + np.random.default_rng(seed).normal(0, 0.1, own.shape)
        self.ids = part.inputs.lines.users.ids

    def encode(self, histories):
        return np.searchsorted(self.ids, histories.lines.users.ids)

    def scores(self, batch):
        return jnp.asarray(self.table[batch], dtype=jnp.float32)


def test_a_gate_weighs_what_is_bought_again_by_how_active_the_customer_is():
    lines, part = two_kinds_of_customers()
    models = [Again(part, 1.0, 1), Again(part, -1.0, 2)]
    weights = find_weights(score_part(models, part))
    fixed = validator(part, once=True)(Blend(models, weights, [0, 1]))
    learned = learn_gate(score_part(models, part, lines), weights)
    blend = Blend(models, weights, [0, 1], learned.gate)
    assert learned.without_gate == pytest.approx(fixed)
    # One weight for all cannot be right for both halves of the customers.
    assert learned.with_gate > fixed + 0.05
    assert validator(part, once=True)(blend) > fixed + 0.05
    restored = Gate.restore(jax.tree.map(np.asarray, learned.gate.state()))
    again = Blend(models, weights, [0, 1], restored)
    np.testing.assert_array_equal(again.scores(again.encode(part.inputs)), blend.scores(blend.encode(part.inputs)))


def test_a_batch_says_which_of_it_is_the_gates():
    lines, part = two_kinds_of_customers()
    models = [Again(part, 1.0, 1), Again(part, -1.0, 2)]
    gate = learn_gate(score_part(models, part, lines), [0.5, 0.5]).gate
    batch = Blend(models, [0.5, 0.5], [0, 1], gate).encode(part.inputs)
    jax.tree.map(np.testing.assert_array_equal, batch.own, gate.encode(part.inputs))
    jax.tree.map(np.testing.assert_array_equal, batch.parts, tuple(model.encode(part.inputs) for model in models))
    ungated = Blend(models, [0.5, 0.5], [0, 1]).encode(part.inputs)
    assert ungated.own is None and len(ungated.parts) == 2


def test_what_a_gate_is_worth_comes_from_customers_that_it_has_not_learned_from(monkeypatch):
    lines, part = two_kinds_of_customers()
    learned_from, scored = [], []
    learn, ndcg = weighing._learn, weighing._ndcg
    monkeypatch.setattr(
        weighing, "_learn", lambda some, start: learned_from.append(some.is_target.any(axis=1)) or learn(some, start)
    )
    monkeypatch.setattr(weighing, "_ndcg", lambda weights, example: scored.append(example) or ndcg(weights, example))
    models = [Again(part, 1.0, 1), Again(part, -1.0, 2)]
    learn_gate(score_part(models, part, lines), [0.5, 0.5])
    for half, other in zip(learned_from[:2], scored[:2], strict=True):
        assert half.sum() == 30 and not (half & (other.counts > 0)).any()
    assert learned_from[2].sum() == 60  # the gate that is kept learns from everyone


def test_a_gated_run_is_read_back_and_follows_the_rhythm_of_the_refit(shop, tmp_path):
    options = ("--model", "blend", "--set", "parts=ease,own-recency", "--split", "last-order", "--repeat", "include")
    assert run("fit", shop, *options, "--set", "gate=true", "--run", tmp_path / "run") == 0
    (record,) = [line for line in runs.read_log(tmp_path / "run" / "log.jsonl") if line["stage"] == "blend"]
    assert 0 < record["with_gate"] == record["validation"] != record["without_gate"]
    assert run("evaluate", tmp_path / "run", "--json", tmp_path / "again.json") == 0
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "run" / "metrics.json").read_bytes()
    split = experiment.prepare(DataConfig(str(shop)), SplitConfig("last-order", repeat="include")).split
    settings = BlendSettings(parts=("ease", "own-recency"), gate=True)
    blend = experiment.fit_model("blend", settings, split, seed=0).model
    np.testing.assert_array_equal(blend.gate.rhythm.interval, blending.rhythm.rhythm_of(split.refit).interval)
    assert not np.array_equal(blend.gate.rhythm.interval, blending.rhythm.rhythm_of(split.train).interval)


def test_a_gate_is_kept_where_it_is_better_and_not_asked_for_where_it_says_nothing(shop, parts, monkeypatch):
    real = weighing.learn_gate
    settings = BlendSettings(parts=("ease", "own-frequency"))
    parts = experiment.prepare(DataConfig(str(shop)), SplitConfig("time", repeat="include")).split
    for worth, kept in ((2.0, True), (0.0, False)):
        monkeypatch.setattr(blending, "learn_gate", lambda *given, worth=worth: real(*given)._replace(with_gate=worth))
        fitted = experiment.fit_model("blend", settings, parts, seed=0)
        assert (fitted.model.gate is not None) is kept and (fitted.validation == worth) is kept
    monkeypatch.setattr(blending, "learn_gate", None)
    experiment.fit_model("blend", dataclasses.replace(settings, gate=False), parts, seed=0)
    dateless = dataclasses.replace(parts, train=dataclasses.replace(parts.train, at=None, as_of=None))
    first_time = experiment.prepare(DataConfig(str(shop)), SplitConfig("time")).split
    for other in (dateless, first_time):
        experiment.fit_model("blend", settings, other, seed=0)
        with pytest.raises(InputError, match="order ids and dates"):
            experiment.fit_model("blend", dataclasses.replace(settings, gate=True), other, seed=0)


@pytest.fixture(scope="module")
def parts_with_repeats(shop):
    return experiment.prepare(DataConfig(str(shop)), SplitConfig("time", repeat="include")).split


def test_a_gate_from_some_of_the_customers_is_reported_with_the_score_of_all(parts_with_repeats, monkeypatch):
    part = parts_with_repeats.validation
    monkeypatch.setattr(weighing, "CELLS", 5 * part.targets.shape[1])
    settings = BlendSettings(parts=("ease", "own-frequency"), gate=True)
    split = dataclasses.replace(parts_with_repeats, refit=None)  # so that the blend is the one that was validated
    fitted = experiment.fit_model("blend", settings, split, seed=0)
    assert fitted.model.gate is not None and len(part) > 5
    (record,) = [line for line in fitted.log if line["stage"] == "blend"]
    on_all = evaluate(fitted.model, part).values["ndcg@100"].mean(dtype=float)
    assert fitted.validation == record["validation"] == pytest.approx(on_all, rel=1e-6)
    assert record["with_gate"] != pytest.approx(on_all, rel=1e-3)  # or the two could be taken for each other


def test_a_gate_that_wins_on_some_of_the_customers_and_loses_on_all_is_left_out(parts_with_repeats, monkeypatch):
    real = weighing.learn_gate

    def learn(scored, weights):
        learned = real(scored, weights)
        upside_down = dataclasses.replace(learned.gate, weights=jax.tree.map(jnp.negative, learned.gate.weights))
        return learned._replace(gate=upside_down, with_gate=1.0, without_gate=0.0)

    monkeypatch.setattr(blending, "learn_gate", learn)
    monkeypatch.setattr(weighing, "CELLS", 5 * parts_with_repeats.validation.targets.shape[1])
    settings = BlendSettings(parts=("ease", "own-frequency"))
    fitted = experiment.fit_model("blend", settings, parts_with_repeats, seed=0)
    (record,) = [line for line in fitted.log if line["stage"] == "blend"]
    assert fitted.model.gate is None
    assert fitted.validation >= max(record["parts"].values())


def test_a_gate_may_use_a_part_that_has_no_fixed_weight(shop, monkeypatch):
    monkeypatch.setattr(blending, "find_weights", lambda scored: (1.0, 0.0))
    parts = experiment.prepare(DataConfig(str(shop)), SplitConfig("time", repeat="include")).split
    settings = BlendSettings(parts=("own-frequency", "ease"), gate=True)
    blend = experiment.fit_model("blend", settings, dataclasses.replace(parts, refit=None), seed=0).model
    assert blend.positions == [0, 1] and blend.gate.weights.parts.shape == (2, 2)
    assert np.isfinite(np.asarray(blend.scores(blend.encode(parts.test.inputs)))).all()


def test_each_product_has_its_own_features_in_units_of_what_was_learned_from():
    lines, part = two_kinds_of_customers()
    read = blending.rhythm.rhythm_of(lines)
    count = len(blending.rhythm.FEATURES) + 1
    rng = np.random.default_rng(0)
    scales = np.stack([rng.normal(size=count), rng.uniform(1, 2, count), np.full(count, -0.5), np.full(count, 0.6)])
    gate = Gate(some_gate(rng, features=count - 1), read, scales, np.array([1.0, 0.0]))
    found, own = gate.encode(part.inputs), blending.rhythm.own_products(part.inputs, read)
    assert len(np.unique(own.features.round(4), axis=0)) > 20  # products that are taken for each other are found out
    cell = 0
    for user in range(len(part)):
        items = own.orders[[user]].indices
        assert found.items[user, : len(items)].tolist() == items.tolist()
        assert (found.items[user, len(items) :] == 20).all()
        for place in range(len(items)):
            expected = np.clip((own.features[cell] - scales[0, :-1]) / scales[1, :-1], -0.5, 0.6)
            np.testing.assert_allclose(found.features[user, place], expected, rtol=1e-5)
            cell += 1
        expected = np.clip((own.activity[user] - scales[0, -1]) / scales[1, -1], -0.5, 0.6)
        assert found.activity[user] == pytest.approx(expected, rel=1e-5)


def test_a_gate_sees_what_is_due():
    """Of two products that a customer bought, the one whose interval is over comes next; no part knows which."""
    rng = np.random.default_rng(1)
    rows, later = [], []
    for user in range(80):
        quick, slow = rng.choice(10, 2, replace=False), rng.choice(np.arange(10, 20), 2, replace=False)
        rows += [(user, item, day) for item in quick for day in range(0, 100, 10)]
        rows += [(user, item, day) for item in slow for day in (0, 50, 100)]
        later += [(user, item) for item in quick]
    user, item, day = (np.array(column, dtype=np.int32) for column in zip(*rows, strict=True))
    names = [Vocabulary.of(f"{kind}{n:02d}" for n in range(count)) for kind, count in (("u", 80), ("i", 20))]
    at = (day.astype(np.int64) * 86_400).astype("datetime64[s]")
    lines = Interactions(user, item, np.ones(len(user), np.int32), *names, order=user * 200 + day, at=at)
    user, item = (np.array(column, dtype=np.int32) for column in zip(*later, strict=True))
    targets = Interactions(user, item, np.ones(len(user), np.int32), *names)
    as_of = np.full(80, np.datetime64(102 * 86_400, "s"))
    part = held_out(lines, targets, seen=None, repeat="include", as_of=as_of)
    learned = learn_gate(score_part([Again(part, 1.0, 1), Again(part, -1.0, 2)], part, lines), [1.0, 0.0])
    assert learned.with_gate > 0.95 > learned.without_gate + 0.1


def test_the_likelihood_is_a_mean_over_customers_of_the_mean_over_their_targets():
    rng = np.random.default_rng(2)
    weights, own = some_gate(rng), some_own(rng)
    scores = rng.normal(size=(2, 3, 7)).astype(np.float32)
    is_open, is_target = np.ones((3, 7), bool), np.zeros((3, 7), bool)
    is_open[0, 6] = False
    is_target[0, [0, 2, 3]], is_target[1, 5] = True, True  # the third customer has none
    candidates = weighing.Candidates(scores, own, is_open, is_target)
    point = np.concatenate([np.asarray(leaf) for leaf in weights], axis=1).ravel()
    loss, gradient = weighing._loss(point, candidates)
    logits = np.asarray(gated(scores, own, weights), dtype=float)
    means = []
    for user in (0, 1):
        likely = np.exp(logits[user]) * is_open[user]
        means.append(np.log(likely[is_target[user]] / likely.sum()).mean())
    assert float(loss) == pytest.approx(-np.mean(means) + weighing.RIDGE * np.square(point).sum(), rel=1e-4)
    step = np.zeros_like(point)
    step[3] = 1e-2
    up, down = (float(weighing._loss(point + way * step, candidates)[0]) for way in (1, -1))
    assert float(gradient[3]) == pytest.approx((up - down) / 2e-2, rel=0.02, abs=1e-3)


def test_the_share_of_repeats_that_a_gate_predicts_is_the_one_that_was_bought(monkeypatch):
    """Also where a gate learns from the first products alone, which hold more repeats than there are."""
    monkeypatch.setattr(weighing, "CANDIDATES", 6)
    lines, part = two_kinds_of_customers()
    models = [Again(part, 1.0, 1), Again(part, -1.0, 2)]
    blend = Blend(models, [0.6, 0.4], [0, 1], learn_gate(score_part(models, part, lines), [0.6, 0.4]).gate)
    batch = blend.encode(part.inputs)
    share = np.asarray(blend.share_of_repeats(batch, blend.scores(batch)))
    many = np.arange(60) // 2 % 2 == 1
    assert share.mean() == pytest.approx(0.5, abs=0.05)  # half of the targets are repeats
    assert share[many].mean() > 0.8 > 0.2 > share[~many].mean()
    slope, intercept = blend.gate.line
    likely = jax.nn.softmax(blend.scores(batch), axis=1)
    own = np.zeros(likely.shape, dtype=bool)
    own[part.inputs.lines.user, part.inputs.lines.item] = True
    inside = np.asarray(likely, dtype=float)
    odds = np.log((inside * own).sum(1)) - np.log((inside * ~own).sum(1))
    np.testing.assert_allclose(share, 1 / (1 + np.exp(-(slope * odds + intercept))), rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"parts": ("ease", "gfcf"), "weights": (1.0, 1.0), "gate": True}, "leave one of them out"),
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
