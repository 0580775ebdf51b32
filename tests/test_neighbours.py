"""Neighbourhood models against slow dense twins."""

import numpy as np
import pytest

from aejax import registry, runs
from aejax.errors import InputError
from aejax.interactions import Histories
from aejax.matrix import user_item_matrix
from aejax.models import neighbours
from aejax.models.neighbours import ItemKNNSettings, RP3BetaSettings


def scores_of(model, lines):
    return np.asarray(model.scores(model.encode(Histories(lines, None))), dtype=np.float64)


def largest_only(matrix, k):
    """Each row's k largest positive entries, ties by the lower column."""
    kept = np.zeros_like(matrix)
    for row, values in enumerate(matrix):
        best = np.argsort(-values, kind="stable")[:k]
        kept[row, best] = np.maximum(values[best], 0.0)
    return kept


def cosine(a, b, settings):
    norms = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)[None, :]
    return ((a @ b.T) / (norms + settings.shrink)) ** settings.power


KNN = [
    ItemKNNSettings(neighbours=5, shrink=0.0),
    ItemKNNSettings(neighbours=7, shrink=20.0, power=2.0),
    ItemKNNSettings(neighbours=500, values="log1p-orders"),
]


@pytest.mark.parametrize("settings", KNN)
def test_itemknn(tiny_lines, settings, monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK", 8)
    x = user_item_matrix(tiny_lines, settings.values).toarray().astype(np.float64)
    similarity = cosine(x.T, x.T, settings)
    np.fill_diagonal(similarity, 0.0)
    expected = x @ largest_only(similarity.astype(np.float32).astype(np.float64), settings.neighbours).T
    np.testing.assert_allclose(scores_of(neighbours.fit_itemknn(tiny_lines, settings), tiny_lines), expected, rtol=1e-4)


@pytest.mark.parametrize("settings", KNN)
def test_userknn_scores_new_customers_by_those_of_train(tiny_lines, settings):
    train = tiny_lines.take(tiny_lines.user < 50)
    x = user_item_matrix(tiny_lines, settings.values).toarray().astype(np.float64)
    similarity = largest_only(cosine(x, x[:50], settings).astype(np.float32).astype(np.float64), settings.neighbours)
    expected = similarity @ x[:50]
    np.testing.assert_allclose(scores_of(neighbours.fit_userknn(train, settings), tiny_lines), expected, rtol=1e-4)


@pytest.mark.parametrize(
    "settings", [RP3BetaSettings(neighbours=6, alpha=1.3, beta=0.4), RP3BetaSettings(neighbours=500, values="orders")]
)
def test_rp3beta(tiny_lines, settings):
    x = user_item_matrix(tiny_lines, settings.values).toarray().astype(np.float64)
    to_user = (x.T / x.T.sum(1, keepdims=True)) ** settings.alpha
    to_item = (x / x.sum(1, keepdims=True)) ** settings.alpha
    walk = to_user @ to_item / (x > 0).sum(0) ** settings.beta
    np.fill_diagonal(walk, 0.0)
    expected = x @ largest_only(walk.T.astype(np.float32).astype(np.float64), settings.neighbours).T
    np.testing.assert_allclose(scores_of(neighbours.fit_rp3beta(tiny_lines, settings), tiny_lines), expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["fit_itemknn", "fit_userknn"])
def test_fewer_neighbours_score_fewer_products(tiny_lines, name):
    few, many = (
        scores_of(getattr(neighbours, name)(tiny_lines, ItemKNNSettings(neighbours=k)), tiny_lines) for k in (1, 40)
    )
    assert (few > 0).sum() < (many > 0).sum()


@pytest.mark.parametrize(
    ("kind", "changes", "says"),
    [
        (ItemKNNSettings, {"neighbours": 0}, "neighbours is 0"),
        (ItemKNNSettings, {"shrink": -1.0}, "shrink is -1"),
        (RP3BetaSettings, {"alpha": 0.0}, "alpha is 0"),
        (RP3BetaSettings, {"values": "order"}, 'did you mean "orders"'),
    ],
)
def test_settings_out_of_range_are_refused(kind, changes, says):
    with pytest.raises(InputError, match=says):
        kind(**changes)


@pytest.mark.parametrize("name", ["itemknn", "rp3beta"])
def test_products_that_nobody_bought_together_can_be_stored(tiny_lines, name, tmp_path):
    apart = tiny_lines.take(np.unique(tiny_lines.user, return_index=True)[1])  # one purchase each
    apart = apart.take(np.unique(apart.item, return_index=True)[1])
    family = registry.family(name)
    runs.save_state(tmp_path / "state", family.fit(apart, family.settings()).state())
    again = family.restore(runs.load_state(tmp_path / "state"), family.settings(), items=len(apart.items))
    assert not scores_of(again, apart).any()
