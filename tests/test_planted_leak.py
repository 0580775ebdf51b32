"""Orders are planted after the cut, huge and of the very products: nothing that is learned, encoded or scored moves."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from aejax import experiment, registry
from aejax.experiment.selecting import Hooks, refit_alone
from aejax.interactions import Histories, Interactions
from aejax.split import Split, split

CUT = "2024-11-01"
PROTOCOLS = {"last-order": {}, "time": {"cut": CUT}}
MODELS = {
    "popularity": {"values": "recency", "half_life": 20.0},
    "popularity-recent": {"half_life": 20.0},
    "own-frequency": {},
    "own-recency": {"half_life": 20.0},
    "last-basket": {},
    "ease": {"values": "recency", "targets": "recency", "half_life": 20.0, "l2": 5.0},
    "itemknn": {"values": "recency", "half_life": 20.0},
    "blend": {"parts": ("ease", "own-recency"), "gate": True},
    "tifuknn": {"neighbours": 5},
    "upcf": {"recency": 2},
}
NETWORKS = {
    "multvae": {"values": "recency", "half_life": 20.0, "hidden": (4,), "latent_dim": 2, "epochs": 1},
    "nextorder": {"latent_dim": 2, "own_hidden": 2, "epochs": 1},
}


def planted(lines: Interactions, user: np.ndarray, order: np.ndarray, at: np.ndarray) -> Interactions:
    """The lines and, for each of these orders, every product of the shop a thousand times: once bought, once returned,
    and bought again, so that returns leak no more than purchases.
    """
    count = len(lines.items)
    quantity = np.tile(np.repeat([1_000, -999, 1_000], count), len(user))
    new = {
        "user": np.repeat(user, 3 * count),
        "item": np.tile(np.arange(count), 3 * len(user)),
        "order": np.repeat(order, 3 * count),
        "at": np.repeat(at, 3 * count),
        "quantity": quantity,
    }
    columns = {
        name: np.append(getattr(lines, name), values.astype(getattr(lines, name).dtype)) for name, values in new.items()
    }
    return dataclasses.replace(lines, **columns)


def last_order_lines(lines: Interactions) -> np.ndarray:
    """Every customer's last line, the customers in order."""
    return np.array([np.flatnonzero(lines.user == user)[-1] for user in range(len(lines.users))])


def plant_after(lines: Interactions, protocol: str) -> Interactions:
    """Under `last-order` in everyone's last order; under `time` in new orders from the cut on."""
    everyone = np.arange(len(lines.users))
    if protocol == "last-order":
        last = last_order_lines(lines)
        return planted(lines, everyone, lines.order[last], lines.at[last])
    late = np.datetime64(CUT, "s") + everyone * np.timedelta64(1, "D")
    return planted(lines, everyone, lines.order.max() + 1 + everyone, late)


def plant_before(lines: Interactions, protocol: str, user: int = 7) -> Interactions:
    """One more order of one customer, a second before that customer's cut: what every detector must see."""
    cut = np.datetime64(CUT, "s") if protocol == "time" else lines.at[last_order_lines(lines)[user]]
    return planted(
        lines, np.array([user]), lines.order.max(keepdims=True) + 1, np.array([cut - np.timedelta64(1, "s")])
    )


def seen_of(parts: Split, users: np.ndarray, name: str) -> list[np.ndarray]:
    """All that a fit and its inputs come to, as arrays: the fitted states, and the encoded histories and the scores of
    these users in both parts.
    """
    settings = registry.make_settings(name, MODELS[name])
    assert parts.refit is not None
    fitted = [
        experiment.fit_model(name, settings, dataclasses.replace(parts, train=train, refit=None), seed=0).model
        for train in (parts.train, parts.refit)
    ]
    found = [model.state() for model in fitted]
    for model, part in zip(fitted, (parts.validation, parts.test), strict=True):
        batch = model.encode(part.take(np.flatnonzero(np.isin(part.users, users))).inputs)
        found += [batch, model.scores(batch)]
    return [np.asarray(leaf) for leaf in jax.tree.leaves(found)]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", NETWORKS)
def test_nor_does_it_move_a_network(name, protocol, tiny_lines):
    """Whose rows are made elsewhere than those of the closed forms; one fit each, for each is compiled anew."""
    settings = registry.make_settings(name, NETWORKS[name])
    options = {"protocol": protocol, "repeat": "include", **PROTOCOLS[protocol]}
    plain, leaking = (split(lines, **options) for lines in (tiny_lines, plant_after(tiny_lines, protocol)))
    users = both_tested(plain, leaking)
    known = split(plant_before(tiny_lines, protocol, users[0]), **options)

    def inputs(parts: Split) -> Histories:
        return parts.test.take(np.flatnonzero(np.isin(parts.test.users, users))).inputs

    models = [refit_alone(name, settings, parts.refit, 1, seed=0, hooks=Hooks()) for parts in (plain, leaking)]
    before, after = (
        jax.tree.leaves((model.state(), model.encode(inputs(parts))))
        for model, parts in zip(models, (plain, leaking), strict=True)
    )
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    seen, more = (jax.tree.leaves(models[0].encode(inputs(parts))) for parts in (plain, known))
    assert not all(np.array_equal(one, other) for one, other in zip(seen, more, strict=True))


def both_tested(one: Split, other: Split) -> np.ndarray:
    return np.intersect1d(one.test.users, other.test.users)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_planted_after_the_cut_moves_nothing(protocol, name, tiny_lines):
    options = {"protocol": protocol, "repeat": "include", **PROTOCOLS[protocol]}
    plain, leaking = split(tiny_lines, **options), split(plant_after(tiny_lines, protocol), **options)
    # Validation's targets are the same: what is planted is of the test part alone.
    assert (plain.validation.targets != leaking.validation.targets).nnz == 0
    assert leaking.test.targets.nnz == len(leaking.test) * len(tiny_lines.items) > plain.test.targets.nnz
    users = both_tested(plain, leaking)
    assert len(users) > 20
    for before, after in zip(seen_of(plain, users, name), seen_of(leaking, users, name), strict=True):
        np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_planted_before_the_cut_is_seen(protocol, name, tiny_lines):
    options = {"protocol": protocol, "repeat": "include", **PROTOCOLS[protocol]}
    plain, known = split(tiny_lines, **options), split(plant_before(tiny_lines, protocol), **options)
    users = both_tested(plain, known)
    before, after = seen_of(plain, users, name), seen_of(known, users, name)
    assert not all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_row_to_learn_from_is_as_old_as_the_history_that_is_scored(protocol, tiny_lines):
    settings = registry.make_settings("ease", MODELS["ease"])
    parts = split(tiny_lines, protocol=protocol, repeat="include", **PROTOCOLS[protocol])
    for known, part in ((parts.train, parts.validation), (parts.refit, parts.test)):
        rows, histories = settings.train_matrix(known)[part.users], settings.history_matrix(part.inputs)
        np.testing.assert_array_equal(rows.toarray(), histories.toarray())


def test_when_others_buy_again_ages_no_row_but_theirs(tiny_lines):
    """Half of the customers come back for their last two orders years later."""
    settings = registry.make_settings("ease", MODELS["ease"])
    places = np.full(len(tiny_lines), 9)
    for user in range(len(tiny_lines.users)):
        own = np.flatnonzero(tiny_lines.user == user)
        _, first, which = np.unique(tiny_lines.order[own], return_index=True, return_inverse=True)
        places[own] = (len(first) - 1) - np.argsort(np.argsort(first))[which]  # 0 for the last order
    later = (places < 2) & (tiny_lines.user >= 30)
    moved = dataclasses.replace(tiny_lines, at=tiny_lines.at + later * np.timedelta64(2_000 * 86_400, "s"))
    one, other = (split(lines, protocol="last-order") for lines in (tiny_lines, moved))
    for name in ("train", "refit"):
        before, after = (settings.train_matrix(getattr(parts, name)).toarray() for parts in (one, other))
        np.testing.assert_array_equal(after[:30], before[:30])
        assert np.all((after[30:] < before[30:]).any(axis=1))
