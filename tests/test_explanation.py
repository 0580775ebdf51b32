from __future__ import annotations

import numpy as np
import pytest

from aejax import explanation
from aejax.experiment.recommending import Names
from aejax.interactions import Histories, Interactions, Vocabulary, histories_of
from aejax.matrix import user_item_matrix
from aejax.registry import family, make_settings
from tests import silent

A, B, D, T = range(4)  # T is bought with A or B and never else; D, an accessory, with both and alone
BASKETS = [(A, D, T)] * 40 + [(B, D, T)] * 40 + [(D, 4)] * 40 + [(4, 5)] * 40 + [(A, D), (B, D)]
ASKED = np.array([len(BASKETS) - 2, len(BASKETS) - 1])


@pytest.fixture(scope="module")
def planted() -> Interactions:
    rows = [(user, item) for user, basket in enumerate(BASKETS) for item in basket]
    user, item = np.array(rows, dtype=np.int32).T
    users = Vocabulary.of(f"u{n:03d}" for n in range(len(BASKETS)))
    return Interactions(user, item, np.ones(len(user), np.int32), users, Vocabulary.of("abdtxy"))


def asked(lines: Interactions) -> Histories:
    return histories_of(lines, ASKED)


def fitted(name: str, lines: Interactions, **settings: object):
    model = family(name)
    found = model.fit(lines, make_settings(name, settings), **(silent.training(0) if model.is_network else {}))
    return found[0] if model.is_network else found


def test_the_nearest_bought_product_is_not_the_cause(planted):
    matrix = user_item_matrix(planted).toarray()
    cosine = matrix.T @ matrix / np.outer(*[np.linalg.norm(matrix, axis=0)] * 2)
    assert cosine[D, T] > cosine[A, T] and cosine[D, T] > cosine[B, T]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ease", {"l2": 1.0, "side": "items"}),
        ("ease", {"l2": 1.0, "side": "users"}),
        ("multvae", {"hidden": "16", "latent_dim": 8, "epochs": 60, "batch_size": 32, "learning_rate": 0.01}),
    ],
)
def test_the_true_cause_is_named(planted, name, settings):
    causes = explanation.explain(fitted(name, planted, **settings), asked(planted), np.array([[T], [T]]))
    assert causes.items[:, 0, 0].tolist() == [A, B]
    assert (causes.shares[:, 0, 0] > 0.5).all()


@pytest.mark.parametrize("side", ["items", "users"])
def test_what_products_add_is_the_score_of_a_linear_model(planted, side):
    model, histories = fitted("ease", planted, l2=1.0, side=side), asked(planted)
    items = np.array([[T, 4], [T, 6]])
    _, terms = explanation.contributions(model, histories, items)
    scores = np.pad(np.array(model.scores(model.encode(histories))), ((0, 0), (0, 1)))
    np.testing.assert_allclose(terms.sum(axis=1), np.take_along_axis(scores, items, 1), atol=1e-4)


def test_nothing_speaks_for_what_all_get_alike(planted):
    causes = explanation.explain(fitted("popularity", planted), asked(planted), np.array([[T, 4], [T, 6]]))
    assert (causes.items == len(planted.items)).all() and not causes.shares.any()


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ([0.335, 0.335, 0.33], "a 34%; b 33%; d 33%"),  # each rounded by itself would make 101%
        ([0.6, 0.4, 0.0], "a 60%; b 40%"),
        ([0.0, 0.0, 0.0], ""),
    ],
)
def test_shares_are_told_as_at_most_all(shares, said):
    titles = np.array(list("abd"), dtype=object)
    names = Names(titles, titles, {}, titles, escape=False)
    causes = explanation.Causes(np.array([[[0, 1, 2]]]), np.array([[shares]], dtype=np.float32))
    assert names.why(causes).tolist() == [[said]]
