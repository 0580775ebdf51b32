"""popularity-segment: against a dense ridge regression, and what it makes of attributes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp

from aejax.errors import InputError
from aejax.interactions import Features, Histories, Interactions, Vocabulary
from aejax.models import popularity_segment
from aejax.models.popularity_segment import RIDGES, SegmentSettings, fit


def lines_of(matrix: np.ndarray, features: np.ndarray | None) -> Interactions:
    """A dense user-item matrix, and features of the users, as order lines."""
    user, item = np.nonzero(matrix)
    names = [
        Vocabulary.of(f"{kind}{n:04d}" for n in range(count)) for kind, count in zip("ui", matrix.shape, strict=True)
    ]
    own = None
    if features is not None:
        cells = sp.csr_array(features.astype(np.float32))
        own = Features(cells, tuple(("segment", str(n)) for n in range(features.shape[1])))
    return Interactions(
        user.astype(np.int32), item.astype(np.int32), np.ones(len(user), np.int32), *names, user_features=own
    )


def shop(rng: np.random.Generator, *, says: float, customers: int = 120, items: int = 15):
    """Customers of three segments; what a segment buys differs by `says`. Every tenth has no attributes, and one in
    thirty has bought nothing.
    """
    segment = rng.integers(3, size=customers)
    liked = np.arange(items) % 3 == segment[:, None]
    matrix = (rng.random((customers, items)) < 0.3 + says * (liked - 0.33)).astype(float)
    features = np.eye(3)[segment]
    features[::10] = 0.0
    matrix[::30] = 0.0
    return matrix, features


def test_scores_are_those_of_a_dense_ridge_regression():
    matrix, features = shop(np.random.default_rng(0), says=0.3)
    lines = lines_of(matrix, features)
    model = fit(lines, SegmentSettings())
    found = np.asarray(model.scores(model.encode(Histories(lines))))

    bought, known = matrix.any(1), matrix.any(1) & features.any(1)
    x, f = matrix[known], features[known]
    centred = f - f.mean(0)
    largest = np.linalg.eigvalsh(centred.T @ centred).max()
    best, expected = np.inf, None
    for ridge in RIDGES:
        solve = (
            np.zeros((3, 15))
            if np.isinf(ridge)
            else np.linalg.solve(centred.T @ centred + ridge * largest * np.eye(3), centred.T @ x)
        )
        hat = (
            0.0
            if np.isinf(ridge)
            else np.trace(centred @ np.linalg.solve(centred.T @ centred + ridge * largest * np.eye(3), centred.T))
        )
        residual = np.square(x - x.mean(0) - centred @ solve).sum()
        if residual / (len(x) - 1 - hat) ** 2 < best:
            best, expected = residual / (len(x) - 1 - hat) ** 2, solve
    assert np.abs(expected).max() > 0.05
    of_all = matrix[bought].mean(0)
    shown = np.where(features.any(1)[:, None], of_all + (features - f.mean(0)) @ expected, of_all)
    np.testing.assert_allclose(found, shown, rtol=1e-4, atol=1e-5)


def test_a_segment_gets_what_it_buys_and_noise_moves_little():
    rng = np.random.default_rng(1)
    matrix, features = shop(rng, says=0.5)
    lines = lines_of(matrix, features)
    model = fit(lines, SegmentSettings())
    new = dataclasses.replace(lines_of(np.zeros((3, 15)), np.eye(3)), items=lines.items)
    best = np.argsort(-np.asarray(model.scores(model.encode(Histories(new)))), axis=1)[:, :5]
    assert (best % 3 == np.arange(3)[:, None]).all()
    noise = fit(lines_of(matrix, np.eye(3)[rng.integers(3, size=len(matrix))]), SegmentSettings())
    assert np.abs(noise.effects).max() < 0.2 * np.abs(model.effects).max()


def test_a_customer_without_features_gets_what_is_popular(monkeypatch):
    matrix, features = shop(np.random.default_rng(2), says=0.5)
    lines = lines_of(matrix, features)
    model = fit(lines, SegmentSettings())
    popular = matrix[matrix.any(1)].mean(0)
    for new in (lines_of(np.zeros((2, 15)), np.zeros((2, 3))), lines_of(np.zeros((2, 15)), None)):
        scores = model.scores(model.encode(Histories(dataclasses.replace(new, items=lines.items))))
        np.testing.assert_allclose(scores, np.tile(popular, (2, 1)), rtol=1e-6)
    # An infinite ridge is popularity for everyone.
    monkeypatch.setattr(popularity_segment, "RIDGES", (np.inf,))
    none = fit(lines, SegmentSettings())
    np.testing.assert_array_equal(none.effects, 0.0)


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_few_customers_are_no_trouble(rows):
    matrix, features = shop(np.random.default_rng(3), says=0.5)
    lines = lines_of(matrix[1 : 1 + rows], features[1 : 1 + rows])
    if not rows:
        lines = lines_of(np.zeros((2, 15)), np.eye(3)[:2])
    model = fit(lines, SegmentSettings())
    assert np.isfinite(np.asarray(model.scores(model.encode(Histories(lines))))).all()


def test_without_attributes_of_customers_it_says_so():
    with pytest.raises(InputError, match=r"columns of customers\.csv"):
        fit(lines_of(np.eye(4), None), SegmentSettings())


def test_a_feature_that_no_buyer_has_says_nothing():
    """Of 100 customers 60 are of the first segment and buy one product, 40 of the second buy the other."""
    segment = np.repeat([0, 1], [60, 40])
    lines = lines_of(np.eye(2)[segment], np.eye(3)[segment])
    model = fit(lines, SegmentSettings())
    new = lines_of(np.zeros((2, 2)), np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 1.0]]))
    scores = np.asarray(model.scores(model.encode(Histories(new))))
    np.testing.assert_allclose(scores[0], [0.6, 0.4], rtol=1e-6)
    assert scores[1, 0] > 0.9 > scores[1, 1]
    assert model.knows(new.user_features).tolist() == [False, True]
