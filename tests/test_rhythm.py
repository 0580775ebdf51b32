"""The rhythm of purchases against definitions written out in plain Python."""

import math
from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest

from aejax.interactions import Histories, Interactions, Vocabulary, histories_of
from aejax.rhythm import HALF_LIFE, PRIOR, SHORTEST, is_timed, own_products, rhythm_of

DAY = 86_400


def purchases(seed=0, users=6, items=5, orders=25):
    """Orders of one to three products at random days, in no order."""
    rng = np.random.default_rng(seed)
    rows = []
    owner, day = rng.integers(0, users, orders), rng.integers(0, 200, orders)
    for order in range(orders):
        for item in rng.choice(items, rng.integers(1, 4), replace=False):
            rows.append((owner[order], item, order, day[order] * DAY))
    user, item, order, at = (np.array(column) for column in zip(*rng.permutation(rows), strict=True))
    names = [
        Vocabulary(np.array([f"{kind}{n}" for n in range(count)], dtype=object))
        for kind, count in (("u", users), ("i", items))
    ]
    return Interactions(
        user.astype(np.int32),
        item.astype(np.int32),
        np.ones(len(user), np.int32),
        *names,
        order=order.astype(np.int32),
        at=at.astype("datetime64[s]"),
    )


def test_the_rhythm_is_that_of_its_definition():
    lines = purchases()
    days = defaultdict(list)
    for user, item, at in zip(lines.user, lines.item, lines.at.astype(np.int64), strict=True):
        days[int(user), int(item)].append(at / DAY)
    gaps = defaultdict(list)
    for (_, item), moments in days.items():
        ordered = sorted(moments)
        gaps[item] += [math.log(max(later - earlier, SHORTEST)) for earlier, later in pairwise(ordered)]
    every = [gap for item in gaps for gap in gaps[item]]
    buyers = {item: sum(1 for (_, other) in days if other == item) for item in range(5)}
    twice = {item: sum(1 for (_, other), of in days.items() if other == item and len(of) > 1) for item in range(5)}
    share = (sum(twice.values()) + 1) / (sum(buyers.values()) + 2)
    found = rhythm_of(lines)
    for item in range(5):
        mean = sum(every) / len(every)
        interval = (sum(gaps[item]) + PRIOR * mean) / (len(gaps[item]) + PRIOR)
        odds = (twice[item] + PRIOR * share) / (buyers[item] - twice[item] + PRIOR * (1 - share))
        assert found.interval[item] == pytest.approx(interval, rel=1e-5)
        assert found.again[item] == pytest.approx(math.log(odds) - math.log(share / (1 - share)), abs=1e-5)
    assert np.ptp(found.interval) > 0.01 and np.ptp(found.again) > 0.01


def test_features_are_those_of_their_definition_at_each_customers_own_cut():
    lines = purchases(seed=1)
    rhythm = rhythm_of(lines)
    users = np.array([0, 2, 3, 5])
    as_of = (np.array([210, 230, 300, 201]) * DAY).astype("datetime64[s]")
    histories = histories_of(lines, users, as_of)
    own = own_products(histories, rhythm)
    cell = 0
    for row, user in enumerate(users):
        mine = [
            (int(item), int(order), at / DAY)
            for of, item, order, at in zip(lines.user, lines.item, lines.order, lines.at.astype(np.int64), strict=True)
            if of == user
        ]
        number = len({order for _, order, _ in mine})
        assert own.activity[row] == pytest.approx(math.log(number), abs=1e-6)
        cut = as_of[row].astype(np.int64) / DAY
        for item in sorted({item for item, _, _ in mine}):
            moments = [day for other, _, day in mine if other == item]
            phase = math.log(max(cut - max(moments), SHORTEST)) - rhythm.interval[item]
            expected = [
                math.log(len(moments)),
                math.log(len(moments) / number),
                math.log(sum(2.0 ** (-(cut - day) / HALF_LIFE) for day in moments)),
                phase,
                phase**2,
                rhythm.again[item],
            ]
            assert own.orders.indices[cell] == item
            np.testing.assert_allclose(own.features[cell], expected, rtol=1e-4, atol=1e-4)
            cell += 1
    assert cell == len(own.features) == own.orders.nnz


def test_no_purchase_and_none_bought_twice_are_finite():
    lines = purchases().take(slice(0, 1))
    rhythm = rhythm_of(lines)
    assert np.isfinite(rhythm.interval).all() and np.isfinite(rhythm.again).all()
    nothing = Histories(lines.take(slice(0, 0)), np.full(6, np.datetime64(0, "s")))
    own = own_products(nothing, rhythm)
    assert own.features.shape == (0, 6) and own.activity.tolist() == [0.0] * 6


def test_a_rhythm_needs_orders_and_dates():
    lines = purchases()
    assert is_timed(lines)
    assert not is_timed(Interactions(lines.user, lines.item, lines.quantity, lines.users, lines.items))
