"""The order-aware autoencoder against its definition in plain Python, and what a training of it must keep."""

from __future__ import annotations

import dataclasses
import math

import chex
import jax
import numpy as np
import pytest

from aejax import runs
from aejax.interactions import Interactions, Vocabulary, histories_of
from aejax.models import nextorder
from aejax.models.nextorder import NextOrderSettings
from tests import silent

SMALL = NextOrderSettings(epochs=2, batch_size=16, latent_dim=5, l2=3.0, own_hidden=3, orders_per_epoch=2)


def fitted(lines: Interactions, settings: NextOrderSettings = SMALL, *, seed: int = 0, **training):
    return nextorder.fit(lines, settings, **silent.training(seed, **training))


def histories_at(lines: Interactions, day: str):
    """Everyone's purchases before a day, as of it."""
    moment = np.datetime64(day, "s")
    return histories_of(lines.take(lines.at < moment), np.arange(len(lines.users)), np.full(len(lines.users), moment))


def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def scores_slowly(params, settings: NextOrderSettings, bought: dict[int, list[float]], orders: int, items: int):
    """Ages in days of a customer's purchases of each product, and the number of orders -> logits."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    half_lives = [2.0**x for x in p.get("log2_half_lives", [])]
    decayed = {i: [sum(2.0 ** (-age / h) for age in ages) for h in half_lives] for i, ages in bought.items()}
    weights = [softplus(w) for w in p["input_weights"]]
    code = np.zeros(settings.latent_dim)
    for i, ages in bought.items():
        total = weights[0] * len(ages) + sum(w * d for w, d in zip(weights[1:], decayed[i], strict=True))
        code += math.log1p(total) * p["encoder"][i]
    logits = []
    for i in range(items):
        share = sum(code * p["decoder"][i]) / items
        collaborative = math.log(softplus(share * math.exp(-p["log_share"])) + 1e-9)
        logits.append(p["popularity"] * p["bias"][i] + p["share_power"] * collaborative)
    since_order = min((age for ages in bought.values() for age in ages), default=0.0)
    for i, ages in bought.items():
        n, last, first = len(ages), min(ages), max(ages)
        features = [math.log(n), n / orders, math.log1p(orders), math.log1p(len(bought)), logits[i] / 4]
        features += [math.log(d + 1e-3) for d in decayed[i]]
        if settings.rhythm:
            own_interval = (math.exp(p["log_interval"][i]) + first - last) / n
            features += [
                math.log1p(last),
                math.log1p(last) - p["log_interval"][i],
                math.log1p(last) - math.log1p(own_interval),
                p["again"][i],
                math.log1p(since_order),
            ]
        x = np.array(features) / 2
        hidden = np.tanh(x @ p["own_first"]["kernel"] + p["own_first"]["bias"])
        own = hidden @ p["own_last"]["kernel"] + p["own_last"]["bias"] + x @ p["own_linear"]["kernel"]
        logits[i] += float(own[0])
    return logits


@pytest.mark.parametrize("changes", [{}, {"half_lives": ()}, {"rhythm": False}], ids=["all", "counts", "no rhythm"])
def test_scores_are_those_of_the_definition(changes, tiny_lines):
    settings = dataclasses.replace(SMALL, **changes)
    model, _ = fitted(tiny_lines, settings)
    histories = histories_at(tiny_lines, "2024-08-01")
    scores = np.asarray(model.scores(model.encode(histories)))
    lines, items = histories.lines, len(tiny_lines.items)
    for user in range(len(histories)):
        bought: dict[int, list[float]] = {}
        for row in np.flatnonzero(lines.user == user):
            age = (histories.as_of[user] - lines.at[row]).astype(float) / 86_400
            bought.setdefault(int(lines.item[row]), []).append(age)
        orders = len(set(lines.order[lines.user == user].tolist()))
        expected = scores_slowly(model.params, settings, bought, orders, items)
        np.testing.assert_allclose(scores[user], expected, rtol=1e-3, atol=1e-3)


def test_the_collaborative_part_begins_as_the_ridge_of_linear_regression(tiny_lines):
    """With all eigenvectors it is the whole closed form `(X'X + l2)^-1 X'X`."""
    settings = dataclasses.replace(SMALL, latent_dim=30)
    start = nextorder.start_of(tiny_lines, settings)
    x = np.zeros((len(tiny_lines.users), 30))
    np.add.at(x, (tiny_lines.user, tiny_lines.item), 1)
    gram = np.log1p(x).T @ np.log1p(x)
    np.testing.assert_allclose(
        start.encoder @ start.decoder.T, np.linalg.solve(gram + 3.0 * np.eye(30), gram), atol=1e-4
    )


def test_the_loss_is_the_multinomial_likelihood_of_the_order(tiny_lines):
    """One batch of all examples without dropout and without a step: the loss of its first parameters."""
    settings = dataclasses.replace(SMALL, epochs=1, batch_size=1_000, dropout=0.0, latest_orders=1, learning_rate=1e-12)
    records: list = []
    model, _ = fitted(tiny_lines, settings, on_epoch=lambda progress, record: records.append(record))
    total = 0.0
    for user in range(len(tiny_lines.users)):
        own = tiny_lines.take(tiny_lines.user == user)
        last = own.order == own.order[-1]  # the lines are sorted by date
        histories = histories_of(own.take(~last), np.array([user]), own.at[-1:])
        logits = np.asarray(model.scores(model.encode(histories)), np.float64)[0]
        targets = logits[own.item[last]]
        normaliser = np.log(np.exp(logits).sum())
        total += (len(targets) * normaliser - targets.sum()) / len(targets) ** 0.5
    np.testing.assert_allclose(records[0]["loss"], total / len(tiny_lines.users), rtol=1e-4)


def test_one_seed_twice_gives_the_same_bits_and_two_seeds_do_not(tiny_lines):
    (first, _), (again, _), (other, _) = (fitted(tiny_lines, seed=seed) for seed in (1, 1, 2))
    chex.assert_trees_all_equal(first.state(), again.state())
    assert not np.array_equal(first.state()["own_last"]["kernel"], other.state()["own_last"]["kernel"])


def test_going_on_ends_in_the_bits_of_the_undisturbed(tiny_lines):
    stored: list = []
    whole, _ = fitted(tiny_lines, on_epoch=lambda progress, record: stored.append(jax.device_get(progress)))
    resumed, _ = fitted(tiny_lines, seed=0, resume=lambda progress: stored[0])
    assert stored[0].epoch == 1
    chex.assert_trees_all_equal(whole.state(), resumed.state())


def test_all_epochs_are_traced_once(tiny_lines, monkeypatch):
    chex.clear_trace_counter()
    monkeypatch.setattr(nextorder, "_loss", chex.assert_max_traces(nextorder._loss, n=1))
    _, progress = fitted(tiny_lines, dataclasses.replace(SMALL, epochs=3))
    assert progress.epoch == 3
    with pytest.raises(AssertionError):
        fitted(tiny_lines, dataclasses.replace(SMALL, epochs=1))


def test_every_parameter_learns(tiny_lines):
    before = jax.device_get(fitted(tiny_lines, dataclasses.replace(SMALL, learning_rate=1e-12))[0].state())
    after = jax.device_get(fitted(tiny_lines)[0].state())
    for one, other in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert np.abs(one - other).max() > 1e-4


def test_a_rhythm_is_learned():
    """Every customer buys product 0 every 10 days and product 1 every 40: 10 days after both, product 0 is due."""
    user, order, item, day = [], [], [], []
    for customer in range(40):
        for number in range(13):
            for product, every in ((0, 1), (1, 4)):
                if number % every == 0:
                    user.append(customer)
                    order.append(customer * 13 + number)
                    item.append(product)
                    day.append(number * 10 + customer % 7)
    lines = Interactions(
        np.array(user, np.int32),
        np.array(item, np.int32),
        np.ones(len(user), np.int32),
        Vocabulary.of(f"{n:02d}" for n in range(40)),
        Vocabulary.of("ab"),
        np.array(order, np.int32),
        np.datetime64("2024-01-01", "s") + np.array(day) * np.timedelta64(86_400, "s"),
    )
    settings = NextOrderSettings(epochs=40, learning_rate=0.02, latent_dim=2, orders_per_epoch=None, dropout=0.0)
    model, _ = fitted(lines, settings)
    soon, due = (
        np.asarray(model.scores(model.encode(histories_at(lines, day))))[0] for day in ("2024-02-20", "2024-03-21")
    )
    # On day 50, ten days after both were bought, against day 80, when the next of product 1 falls.
    assert soon[0] - soon[1] > due[0] - due[1] + 1


def test_a_network_without_decay_is_stored_and_read_back(tiny_lines, tmp_path):
    """It lacks a parameter that others have."""
    settings = dataclasses.replace(SMALL, half_lives=())
    model, _ = fitted(tiny_lines, settings)
    runs.save_state(tmp_path / "state", model.state())
    again = nextorder.restore(runs.load_state(tmp_path / "state"), settings, items=len(tiny_lines.items))
    histories = histories_at(tiny_lines, "2024-08-01")
    scores, expected = (np.asarray(one.scores(one.encode(histories))) for one in (again, model))
    np.testing.assert_array_equal(scores, expected)
