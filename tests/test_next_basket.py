"""`tifuknn` and `upcf` against slow twins in plain Python, written from the papers' definitions."""

from __future__ import annotations

import dataclasses
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aejax import registry, runs
from aejax.errors import InputError
from aejax.interactions import Histories, Interactions, Vocabulary, histories_of, orders_since
from aejax.models import next_basket
from aejax.models.next_basket import TIFUKNNSettings, UPCFSettings
from aejax.split import split

ITEMS = 30
MODELS = {TIFUKNNSettings: ("tifuknn", next_basket.TIFUKNN), UPCFSettings: ("upcf", next_basket.UPCF)}


def baskets_of(lines: Interactions) -> dict[str, list[set[int]]]:
    """Customer -> the products of each order, the orders by date and number."""
    orders = defaultdict(dict)
    for user, item, order, at in zip(lines.user, lines.item, lines.order, lines.at, strict=True):
        orders[lines.users.ids[user]].setdefault((at, int(order)), set()).add(int(item))
    return {customer: [own[key] for key in sorted(own)] for customer, own in orders.items()}


def vector_slowly(baskets: list[set[int]], settings: TIFUKNNSettings) -> list[float]:
    """Group by group, each a list of orders; in the first groups one order fewer, where they do not come out even."""
    n = len(baskets)
    m = min(n, settings.groups)
    sizes = [n // m + (1 if number >= m - n % m else 0) for number in range(m)]
    vector = [0.0] * ITEMS
    for number, size in enumerate(sizes, start=1):
        start = sum(sizes[: number - 1])
        for place, basket in enumerate(baskets[start : start + size], start=1):
            for item in basket:
                of_group = settings.within_decay ** (size - place) / size
                vector[item] += settings.group_decay ** (m - number) * of_group / m
    return vector


def tifuknn_slowly(
    customer: str, baskets: list[set[int]], train: dict[str, list[set[int]]], settings: TIFUKNNSettings
) -> list[float]:
    own = vector_slowly(baskets, settings)
    others = []
    for name in sorted(train):
        if name != customer:
            theirs = vector_slowly(train[name], settings)
            others.append((np.float32(sum((a - b) ** 2 for a, b in zip(own, theirs, strict=True))), name, theirs))
    nearest = [theirs for _, _, theirs in sorted(others, key=lambda other: other[:2])[: settings.neighbours]]
    return [
        settings.alpha * own[item] + (1 - settings.alpha) * sum(v[item] for v in nearest) / len(nearest)
        for item in range(ITEMS)
    ]


def popularity_slowly(baskets: list[set[int]], settings: UPCFSettings) -> list[float]:
    last = baskets[-settings.recency :]
    return [sum(item in basket for basket in last) / len(last) for item in range(ITEMS)]


def upcf_slowly(
    customer: str, baskets: list[set[int]], train: dict[str, list[set[int]]], settings: UPCFSettings
) -> list[float]:
    scores = [0.0] * ITEMS
    bought = set().union(*baskets)
    for theirs in {**train, customer: baskets}.values():
        other = set().union(*theirs)
        cosine = len(bought & other) / (len(bought) ** settings.alpha * len(other) ** (1 - settings.alpha))
        for item, share in enumerate(popularity_slowly(theirs, settings)):
            scores[item] += cosine**settings.locality * share
    return scores


SLOWLY = {TIFUKNNSettings: tifuknn_slowly, UPCFSettings: upcf_slowly}
CASES = [
    TIFUKNNSettings(neighbours=5, groups=3, within_decay=0.83, group_decay=0.61, alpha=0.4),
    TIFUKNNSettings(neighbours=1, groups=1, within_decay=0.7, alpha=0.0),
    TIFUKNNSettings(neighbours=7, groups=50, group_decay=0.55),
    TIFUKNNSettings(neighbours=500, groups=2, within_decay=0.31, group_decay=0.47, alpha=0.2),
    UPCFSettings(recency=2, alpha=0.3, locality=3.0),
    UPCFSettings(recency=1, alpha=0.0, locality=1.0),
    UPCFSettings(recency=100, alpha=1.0, locality=2.5),
]


def fitted(settings, train: Interactions):
    return registry.family(MODELS[type(settings)][0]).fit(train, settings)


def scores_of(model, histories: Histories) -> np.ndarray:
    return np.asarray(model.scores(model.encode(histories)), dtype=np.float64)


@pytest.mark.parametrize("settings", CASES, ids=str)
@pytest.mark.parametrize("cells", [next_basket.CELLS, 500])  # 500: train in blocks of 8 customers
def test_scores_are_those_of_the_slow_twin(settings, cells, tiny_lines, monkeypatch):
    """Of customers in train whose history went on, and of some who are not in train."""
    monkeypatch.setattr(next_basket, "CELLS", cells)
    known = tiny_lines.at < np.datetime64("2024-09-01")
    train = tiny_lines.take((tiny_lines.user < 45) & known)
    model = fitted(settings, train)
    found = scores_of(model, Histories(tiny_lines.take(np.argsort(tiny_lines.user, kind="stable"))))
    of_train = baskets_of(train)
    assert 40 < len(of_train) < 60
    expected = [
        SLOWLY[type(settings)](customer, baskets, of_train, settings)
        for customer, baskets in sorted(baskets_of(tiny_lines).items())
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 3)), max_size=14), st.booleans())
def test_orders_are_counted_from_the_last(rows, dated):
    """Orders of one day, of several lines, of one number by several customers, and lines in any sequence."""
    user, order, day = np.array(rows, dtype=np.int32).reshape(-1, 3).T
    day = (day + order) % 4 if dated else day  # an order may hold lines of several days
    lines = Interactions(
        user,
        np.zeros_like(user),
        np.ones_like(user),
        Vocabulary.of("abc"),
        Vocabulary.of("i"),
        order=order,
        at=np.datetime64("2024-01-01", "s") + day.astype("timedelta64[D]") if dated else None,
    )
    end = {}
    for row, key in enumerate(zip(user, order, strict=True)):
        end[key] = max(end.get(key, (-1, -1)), (day[row] if dated else row, key[1]))
    expected = [sum(end[other] > end[u, o] for other in end if other[0] == u) for u, o in zip(user, order, strict=True)]
    assert orders_since(lines).tolist() == expected


@pytest.mark.parametrize("settings", CASES[::4], ids=str)
def test_the_own_row_in_train_is_not_a_neighbour(settings, tiny_lines):
    """Whoever is in train has the scores that a stranger to train with that history has, if train lacks that one."""
    parts = split(tiny_lines, protocol="last-order", repeat="include")
    user = parts.test.users[3]
    alone = histories_of(tiny_lines, np.array([user]))
    model, without = (fitted(settings, train) for train in (parts.refit, parts.refit.take(parts.refit.user != user)))
    np.testing.assert_allclose(scores_of(model, alone), scores_of(without, alone), rtol=1e-6)
    namesake = dataclasses.replace(alone, lines=dataclasses.replace(alone.lines, users=Vocabulary.of(["another"])))
    assert np.abs(scores_of(model, namesake) - scores_of(model, alone)).max() > 1e-3


@pytest.mark.parametrize("cells", [next_basket.CELLS, 1])  # 1: each customer of train in a block of their own
def test_of_customers_equally_far_the_first_is_nearer(cells, monkeypatch):
    monkeypatch.setattr(next_basket, "CELLS", cells)
    same = np.arange(4, dtype=np.int32)
    train = Interactions(
        same, same, np.ones_like(same), Vocabulary.of("abcd"), Vocabulary.of(f"{n}" for n in range(5)), order=same
    )
    new = Histories(dataclasses.replace(train.take(same[:1]), item=same[:1] + 4, users=Vocabulary.of("e")))
    scores = scores_of(fitted(TIFUKNNSettings(neighbours=2, alpha=0.0), train), new)
    assert scores.tolist() == [[0.5, 0.5, 0, 0, 0]]


@pytest.mark.parametrize("settings", [TIFUKNNSettings(neighbours=3), UPCFSettings(recency=1)], ids=str)
def test_a_stored_model_scores_alike(settings, tiny_lines, tmp_path):
    name, _ = MODELS[type(settings)]
    train = tiny_lines.take(tiny_lines.user != 7)
    model = fitted(settings, train)
    runs.save_state(tmp_path / "state", model.state())
    again = registry.family(name).restore(runs.load_state(tmp_path / "state"), settings, items=ITEMS)
    histories = Histories(tiny_lines.take(np.argsort(tiny_lines.user, kind="stable")))
    np.testing.assert_array_equal(scores_of(again, histories), scores_of(model, histories))


@pytest.mark.parametrize("settings", [TIFUKNNSettings(), UPCFSettings()], ids=str)
def test_without_dates_the_rows_are_in_time_and_without_orders_there_is_none(settings, tiny_lines):
    undated = dataclasses.replace(tiny_lines, at=None)  # tiny_lines are sorted by date
    found = [scores_of(fitted(settings, lines), histories_of(lines, np.arange(60))) for lines in (undated, tiny_lines)]
    np.testing.assert_array_equal(*found)
    name, _ = MODELS[type(settings)]
    says = rf"model {name} needs order ids \(order_id\), and these data have none; try --model userknn"
    with pytest.raises(InputError, match=says):
        fitted(settings, dataclasses.replace(tiny_lines, order=None))
    with pytest.raises(InputError, match=says):
        fitted(settings, tiny_lines).encode(Histories(dataclasses.replace(tiny_lines, order=None)))


@pytest.mark.parametrize(
    ("kind", "changes", "says"),
    [
        (TIFUKNNSettings, {"neighbours": 0}, "neighbours is 0; expected 1 or more"),
        (TIFUKNNSettings, {"groups": 0}, "groups is 0"),
        (TIFUKNNSettings, {"within_decay": 1.01}, "within_decay is 1.01; expected 0 to 1"),
        (TIFUKNNSettings, {"group_decay": -0.1}, "group_decay is -0.1"),
        (TIFUKNNSettings, {"alpha": float("nan")}, "alpha is nan"),
        (UPCFSettings, {"recency": 0}, "recency is 0"),
        (UPCFSettings, {"alpha": 2.0}, "alpha is 2.0; expected 0 to 1"),
        (UPCFSettings, {"locality": 0.0}, "locality is 0.0; expected more than 0"),
    ],
)
def test_settings_out_of_range_are_refused(kind, changes, says):
    with pytest.raises(InputError, match=says):
        kind(**changes)
