"""popularity-segment: against a dense ridge regression, and what it makes of attributes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp

from aejax import memory
from aejax.errors import InputError, ResourceError
from aejax.interactions import Features, Histories, Interactions, Vocabulary
from aejax.models import popularity_segment
from aejax.models.popularity_segment import RIDGES, SegmentPopularity, SegmentSettings, fit


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


def scores_of(model: SegmentPopularity, lines: Interactions) -> np.ndarray:
    return np.asarray(model.scores(model.encode(Histories(lines))))


def dense_scores(matrix: np.ndarray, features: np.ndarray) -> np.ndarray:
    """The definition, by a dense solve for each ridge."""
    bought, known = matrix.any(1), matrix.any(1) & features.any(1)
    x, f = matrix[known], features[known]
    centred, identity = f - f.mean(0), np.eye(features.shape[1])
    largest = np.linalg.eigvalsh(centred.T @ centred).max()
    best, effects = np.inf, np.zeros((features.shape[1], matrix.shape[1]))
    for ridge in reversed(RIDGES):
        solution, hat = np.zeros_like(effects), 0.0
        if np.isfinite(ridge):
            inverse = np.linalg.inv(centred.T @ centred + ridge * largest * identity)
            solution, hat = inverse @ centred.T @ x, np.trace(centred @ inverse @ centred.T)
        residual = np.square(x - x.mean(0) - centred @ solution).sum()
        if residual / (len(x) - 1 - hat) ** 2 < best * (1 - 1e-6):
            best, effects = residual / (len(x) - 1 - hat) ** 2, solution
    assert np.abs(effects).max() > 0.05
    of_all = matrix[bought].mean(0)
    own = features * (f.mean(0) > 0)
    return np.where(own.any(axis=1)[:, None], of_all + (own - f.mean(0)) @ effects, of_all)


@pytest.mark.parametrize("towns", [0, 12, 200], ids=["few features", "a dozen more", "more than customers"])
def test_scores_are_those_of_a_dense_ridge_regression(towns, monkeypatch):
    monkeypatch.setattr(popularity_segment, "BLOCK", 4)
    rng = np.random.default_rng(0)
    matrix, features = shop(rng, says=0.3)
    if towns:
        town = (np.eye(towns)[rng.integers(towns, size=len(matrix))] * 0.7).astype(np.float32).astype(float)
        features = np.hstack([features, town * features.any(1)[:, None]])
    lines = lines_of(matrix, features)
    found = scores_of(fit(lines, SegmentSettings()), lines)
    np.testing.assert_allclose(found, dense_scores(matrix, features), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [15, 60])
def test_both_sides_decompose_the_same(count):
    """40 features, one of no customer and two that are the same."""
    rng = np.random.default_rng(5)
    features = (rng.random((count, 40)) < 0.2) * rng.random((count, 40))
    features[:, 7], features[:, 9] = 0.0, features[:, 8]
    centred = features - features.mean(0)
    for side in (popularity_segment.by_features, popularity_segment.by_customers):
        values, vectors = side(sp.csr_array(features), features.mean(0))
        assert len(values) == np.linalg.matrix_rank(centred)
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(len(values)), atol=1e-9)
        np.testing.assert_allclose(vectors * values @ vectors.T, centred.T @ centred, atol=1e-9)


@pytest.mark.parametrize(
    ("customers", "features", "says"),
    [(30, 200, "200 features of 30 customers x 5 products need"), (200, 30, "30 features of 200 customers x 5 pro")],
)
def test_what_does_not_fit_is_refused_before_it_is_made(customers, features, says, monkeypatch):
    lines = lines_of(np.ones((customers, 5)), np.eye(max(customers, features))[:customers, :features] + 0.1)
    needed = 8 * (4 * 30**2 + features * 30 + 30 * 5 + 3 * features * popularity_segment.BLOCK) + 4 * features * 5
    monkeypatch.setattr(memory, "available", lambda: needed)
    fit(lines, SegmentSettings())
    monkeypatch.setattr(memory, "available", lambda: needed - 1)
    monkeypatch.setattr(np.linalg, "eigh", None)
    with pytest.raises(ResourceError, match=rf"{says}.*--attributes customers\.COLUMN=none"):
        fit(lines, SegmentSettings())


def test_an_encoded_batch_holds_what_customers_have_and_no_column_for_what_they_have_not():
    lines = lines_of(np.eye(300), np.eye(300))
    batch = fit(lines, SegmentSettings()).encode(Histories(lines))
    assert batch.items.shape == batch.values.shape == (300, 8)


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


@pytest.mark.parametrize("segments", [[], [0], [1, 1], [0, 1]], ids=str)
def test_few_customers_get_what_is_popular_among_them(segments):
    """Of two customers any ridge fits as well as any other, so there is no reason to believe in their difference."""
    matrix = (np.random.default_rng(3).random((len(segments), 15)) < 0.5).astype(float)
    features = np.eye(3)[np.array(segments, dtype=int)]
    popular = matrix.mean(0) if segments else np.zeros(15)
    if not segments:
        matrix, features = np.zeros((2, 15)), np.eye(3)[:2]
    lines = lines_of(matrix, features)
    expected = np.tile(popular, (len(matrix), 1))
    np.testing.assert_allclose(scores_of(fit(lines, SegmentSettings()), lines), expected, rtol=1e-6, atol=1e-7)


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
    assert model.unknown(Histories(new)).tolist() == [0]


def test_too_many_features_of_too_many_customers_are_refused_with_their_numbers(monkeypatch):
    monkeypatch.setattr(popularity_segment, "MOST_ROWS", 3)
    with pytest.raises(ResourceError, match=r"4 features of 5 customers x 2 products are too many.*--attributes"):
        fit(lines_of(np.ones((5, 2)), np.eye(5, 4) + np.eye(5, 4, -1)), SegmentSettings())
    fit(lines_of(np.ones((5, 2)), np.eye(5, 3) + np.eye(5, 3, -2)), SegmentSettings())
