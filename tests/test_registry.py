from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys

import jax
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from aejax import explanation, registry, runs
from aejax.errors import InputError
from aejax.interactions import Features, Interactions, Vocabulary, histories_of
from aejax.models.blend import Blend

# Sizes that make a network small; a model takes those that it has.
SMALL = {"epochs": 1, "batch_size": 4, "hidden": (8,), "hidden_dim": 8, "latent_dim": 4, "neighbours": 3}
USERS, ITEMS = 9, 7


def purchases() -> Interactions:
    user, item = np.nonzero(np.random.default_rng(0).random((USERS, ITEMS)) < 0.5)
    return Interactions(
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        quantity=np.ones(len(user), dtype=np.int32),
        users=Vocabulary.of(f"u{n}" for n in range(USERS)),
        items=Vocabulary.of(f"i{n}" for n in range(ITEMS)),
        order=np.arange(len(user), dtype=np.int32),
        at=np.datetime64("2024-01-01", "s") + np.arange(len(user)).astype("timedelta64[D]"),
        item_features=Features(sp.csr_array(np.ones((ITEMS, 1), dtype=np.float32)), (("kind", "any"),)),
        user_features=Features(sp.csr_array(np.eye(USERS, dtype=np.float32)[:, :2]), (("age", "20"), ("age", "30"))),
    )


def small_settings(name: str):
    known = registry.field_types(registry.family(name).settings)
    return registry.make_settings(name, {key: value for key, value in SMALL.items() if key in known})


def fit(name: str):
    family = registry.family(name)
    if not family.is_network:
        return family.fit(purchases(), small_settings(name))
    model, _ = family.fit(
        purchases(),
        small_settings(name),
        key=jax.random.key(0),
        validate=None,
        on_epoch=lambda progress, record: None,
        resume=lambda progress: progress,
    )
    return model


@pytest.fixture(scope="module", params=sorted(registry.MODELS.keys() - {"blend"}))
def fitted(request):
    return request.param, fit(request.param)


# The protocol encode / scores / state


def test_every_user_gets_a_finite_score_of_every_item(fitted):
    _, model = fitted
    lines = purchases()
    histories = histories_of(lines, np.array([1, 4, 5]), np.full(3, lines.at.max()))
    scores = model.scores(model.encode(histories))
    assert isinstance(scores, jax.Array)
    assert scores.shape == (3, ITEMS)
    assert np.all(np.isfinite(scores))


def test_encode_is_pure_and_a_users_scores_do_not_depend_on_the_others(fitted):
    _, model = fitted
    lines = purchases()
    histories = histories_of(lines, np.arange(USERS), np.full(USERS, lines.at.max()))
    together = model.scores(model.encode(histories))
    np.testing.assert_array_equal(model.scores(model.encode(histories)), together)
    alone = [model.scores(model.encode(histories.take(n, n + 1)))[0] for n in range(USERS)]
    np.testing.assert_allclose(np.stack(alone), together, rtol=1e-5, atol=1e-6)


def test_the_stored_state_scores_the_same(fitted, tmp_path):
    name, model = fitted
    runs.save_state(tmp_path / "state", model.state())
    restored = registry.family(name).restore(runs.load_state(tmp_path / "state"), small_settings(name), items=ITEMS)
    histories = histories_of(purchases(), np.arange(USERS))
    expected = model.scores(model.encode(histories))
    np.testing.assert_array_equal(restored.scores(restored.encode(histories)), expected)


# What goes with a product, and why one is recommended

# Their scores of what a customer has not bought are everyone's.
ALIKE = {
    *("popularity", "popularity-recent", "popularity-category", "popularity-segment"),
    *("own-frequency", "own-recency", "last-basket"),
}


def check_similar(model, *, alike: bool):
    lines = purchases()
    titles = pd.Series([f"Title {sku}" for sku in lines.items.ids], lines.items.ids)
    if alike:
        with pytest.raises(InputError, match="scores every customer alike"):
            explanation.similar(model, lines, "i2", titles, top=3)
        return
    found = explanation.similar(model, lines, "i2", titles, top=3)
    assert found["title"].tolist() == [f"Title {sku}" for sku in found["sku"]] and "i2" not in set(found["sku"])
    assert np.isfinite(found["score"]).all() and found["score"].is_monotonic_decreasing


def check_explained(model, *, by_nothing: bool):
    lines = purchases()
    histories = histories_of(lines, np.array([1, 4, 5]), np.full(3, lines.at.max()))
    lists = np.argsort(-np.asarray(model.scores(model.encode(histories))), axis=1, kind="stable")[:, :4]
    lists[1, 3] = ITEMS  # a short list
    causes = explanation.explain(model, histories, lists)
    told = causes.items < ITEMS
    assert np.isfinite(causes.shares).all() and ((causes.shares > 0) == told).all()
    assert causes.shares.sum(axis=2).max() <= 1 + 1e-6 and not told[1, 3].any()
    bought = np.zeros((3, ITEMS + 1), dtype=bool)
    bought[histories.lines.user, histories.lines.item] = True
    assert bought[np.arange(3)[:, None, None], causes.items][told].all()
    assert told.any() != by_nothing


def test_similar_products_and_causes_of_every_model(fitted):
    name, model = fitted
    check_similar(model, alike=name in ALIKE)
    check_explained(model, by_nothing=name.startswith("popularity"))


def test_similar_products_and_causes_of_a_blend():
    blend = Blend([fit(name) for name in ("ease", "last-basket", "tifuknn")], [0.5, 0.2, 0.3], [0, 1, 2])
    check_similar(blend, alike=False)
    check_explained(blend, by_nothing=False)


# Names and settings


@pytest.mark.parametrize("name", sorted(registry.MODELS))
def test_every_settings_class_is_frozen_and_its_defaults_survive_text_and_json(name):
    family = registry.family(name)
    defaults = registry.make_settings(name, {})
    assert isinstance(defaults, family.settings)
    assert family.settings.__dataclass_params__.frozen
    plain = dataclasses.asdict(defaults)
    assert registry.make_settings(name, json.loads(json.dumps(plain))) == defaults
    text = {key: str(value) for key, value in plain.items() if not isinstance(value, dict)}
    assert registry.make_settings(name, text | {key: plain[key] for key in plain.keys() - text.keys()}) == defaults


def test_an_unknown_model_proposes_the_nearest():
    with pytest.raises(InputError, match='model "multivae" is unknown; did you mean "multvae"') as caught:
        registry.family("multivae")
    assert all(name in str(caught.value) for name in registry.MODELS)


def test_importing_the_registry_imports_no_model_and_no_jax():
    program = (
        "import sys, aejax.registry; print([m for m in sys.modules if m in ('jax', 'flax') or 'aejax.models' in m])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "setting", "text", "value"),
    [
        ("ae", "epochs", "7", 7),
        ("ae", "epochs", 7, 7),
        ("ae", "epochs", 7.0, 7),
        ("ae", "learning_rate", "3e-4", 3e-4),
        ("ae", "learning_rate", 1, 1.0),
        ("ae", "values", "log1p-orders", "log1p-orders"),
        ("ae", "hidden", "128,64", (128, 64)),
        ("ae", "hidden", "128", (128,)),
        ("ae", "hidden", "(128,)", (128,)),
        ("ae", "hidden", "[128, 64]", (128, 64)),
        ("ae", "hidden", [128, 64], (128, 64)),
        ("vae", "hidden", "", ()),
        ("multvae", "anneal_steps", "none", None),
        ("multvae", "anneal_steps", "None", None),
        ("multvae", "anneal_steps", None, None),
        ("multvae", "anneal_steps", "200", 200),
        ("multvae", "dropout", "0", 0.0),
        ("slim", "nonnegative", "False", False),
        ("slim", "nonnegative", "true", True),
        ("slim", "nonnegative", False, False),
    ],
)
def test_text_and_json_become_a_settings_type(name, setting, text, value):
    found = getattr(registry.make_settings(name, {setting: text}), setting)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "setting", "value", "message"),
    [
        ("ae", "epochs", "many", 'epochs of model ae is "many"; expected int'),
        ("ae", "epochs", "1.5", 'epochs of model ae is "1.5"; expected int'),
        ("ae", "epochs", 1.5, 'epochs of model ae is "1.5"; expected int'),
        ("ae", "epochs", math.inf, 'epochs of model ae is "inf"; expected int'),
        ("ae", "epochs", None, 'epochs of model ae is "None"; expected int'),
        ("ae", "learning_rate", "fast", 'learning_rate of model ae is "fast"; expected a finite number'),
        ("ae", "hidden", "128,wide", 'hidden of model ae is "128,wide"; expected whole numbers such as 128,64'),
        ("ae", "hidden", 128, 'hidden of model ae is "128"; expected whole numbers such as 128,64'),
        ("slim", "nonnegative", "no", 'nonnegative of model slim is "no"; expected true or false'),
        ("slim", "nonnegative", 0, 'nonnegative of model slim is "0"; expected true or false'),
        ("multvae", "anneal_steps", "soon", 'anneal_steps of model multvae is "soon"; expected int'),
    ],
)
def test_a_wrong_type_is_named_with_what_was_expected(name, setting, value, message):
    with pytest.raises(InputError) as caught:
        registry.make_settings(name, {setting: value})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("name", "setting", "value", "message"),
    [
        ("ae", "epochs", "0", "epochs is 0; expected 1 or more"),
        ("ae", "batch_size", "-3", "batch_size is -3; expected 1 or more"),
        ("ae", "learning_rate", "nan", 'learning_rate of model ae is "nan"; expected a finite number'),
        ("ae", "half_life", "0", r"half_life is 0\.0; expected more than 0"),
        ("ae", "hidden", "", r"hidden is \(\); expected at least one size"),
        ("vae", "likelihood", "poisson", 'likelihood is "poisson"; expected bernoulli or mse'),
        ("vae", "latent_dim", "0", "latent_dim is 0; expected 1 or more"),
        ("multdae", "dropout", "1", r"dropout is 1\.0; expected 0 or more and less than 1"),
        ("multvae", "anneal_cap", "-1", r"anneal_cap is -1\.0; expected 0 or more"),
        ("multvae", "anneal_steps", "0", "anneal_steps is 0; expected 1 or more"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_range(name, setting, value, message):
    with pytest.raises(InputError, match=message):
        registry.make_settings(name, {setting: value})


def test_an_unknown_setting_proposes_the_nearest():
    with pytest.raises(InputError, match='model vae has no setting "latent_dims"; did you mean "latent_dim"'):
        registry.make_settings("vae", {"latent_dims": 8})


def test_a_message_names_every_model_that_uses_attributes_and_how():
    named = {}
    for group in registry.attribute_models().split("; "):
        names, _, setting = group.rstrip(")").partition(" (--set ")
        named.update(dict.fromkeys(names.split(", "), dict([setting.split("=")]) if setting else {}))
    for name in registry.MODELS:
        family = registry.family(name)
        can = family.needs_attributes or bool(family.of_attributes)
        assert (name in named) is can, name
        if can:
            assert family.uses_attributes(registry.make_settings(name, named[name])), name
