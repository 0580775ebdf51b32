"""Alternating least squares against a slow twin that solves row by row."""

import jax
import numpy as np
import pytest

from aejax.errors import InputError
from aejax.interactions import Histories
from aejax.matrix import user_item_matrix
from aejax.models import ials
from aejax.models.ials import IALSSettings
from tests import silent


def fitted(lines, settings, **changes):
    return ials.fit(lines, settings, **silent.training(**changes))


def solve_slowly(rows, other, settings):
    """Every row's exact solution against the factors of the other side."""
    solved = np.zeros((len(rows), other.shape[1]))
    for n, row in enumerate(rows):
        ridge = settings.l2 * ((row > 0).sum() + settings.alpha0 * len(row)) ** settings.nu
        system = settings.alpha0 * other.T @ other + ridge * np.eye(other.shape[1])
        system += (other * row[:, None]).T @ other
        solved[n] = np.linalg.solve(system, other.T @ row)
    return solved


def objective(x, users, items, settings):
    y = users @ items.T
    counts = ((x > 0).sum(1), (x > 0).sum(0))
    loss = (x * (y - 1) ** 2).sum() + settings.alpha0 * (y**2).sum()
    for count, size, factors in ((counts[0], x.shape[1], users), (counts[1], x.shape[0], items)):
        loss += settings.l2 * ((count + settings.alpha0 * size) ** settings.nu * (factors**2).sum(1)).sum()
    return loss


@pytest.mark.parametrize(
    "settings",
    [IALSSettings(latent_dim=4, epochs=3), IALSSettings(latent_dim=4, epochs=3, nu=0.5, values="orders", alpha0=0.5)],
)
def test_epochs_equal_the_slow_twin(tiny_lines, settings, monkeypatch):
    monkeypatch.setattr(ials, "GATHERED", 16 * 4 * 7)  # blocks of a few rows, the last one padded
    states = []
    start = []

    def resume(progress):
        start.append(jax.device_get(progress.state.params))
        return progress

    model, _ = fitted(
        tiny_lines, settings, resume=resume, on_epoch=lambda progress, record: states.append(progress.state.params)
    )
    x = user_item_matrix(tiny_lines, settings.values).toarray().astype(np.float64)
    items = start[0]["items"].astype(np.float64)
    losses = []
    for state in states:
        users = solve_slowly(x, items, settings)
        items = solve_slowly(x.T, users, settings)
        np.testing.assert_allclose(state["users"], users, atol=2e-4)
        np.testing.assert_allclose(state["items"], items, atol=2e-4)
        losses.append(objective(x, users, items, settings))
    assert losses[0] > losses[1] > losses[2]
    scores = np.asarray(model.scores(model.encode(Histories(tiny_lines, None))))
    np.testing.assert_allclose(scores, solve_slowly(x, items, settings) @ items.T, atol=5e-4)


def test_a_new_customer_is_scored_like_one_of_train_with_the_same_purchases(tiny_lines):
    train = tiny_lines.take(tiny_lines.user < 50)
    model, _ = fitted(train, IALSSettings(latent_dim=4, epochs=2))
    scores = np.asarray(model.scores(model.encode(Histories(tiny_lines, None))))
    assert np.isfinite(scores).all()
    x = user_item_matrix(tiny_lines).toarray()
    items = np.asarray(model.items, dtype=np.float64)
    np.testing.assert_allclose(scores[50:], solve_slowly(x[50:], items, model.settings) @ items.T, atol=5e-4)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"latent_dim": 0}, "latent_dim is 0"),
        ({"l2": 0.0}, "l2 is 0"),
        ({"nu": 2.0}, "nu is 2"),
        ({"values": "order"}, 'did you mean "orders"'),
    ],
)
def test_settings_out_of_range_are_refused(changes, says):
    with pytest.raises(InputError, match=says):
        IALSSettings(**changes)
