from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aejax import explanation
from aejax.errors import InputError
from aejax.evaluation import evaluate
from aejax.interactions import Histories, Interactions, Vocabulary, histories_of
from aejax.models import own_history
from aejax.registry import family, make_settings
from aejax.split import split
from tests.shops import run, write_shop

RULES = ("own-frequency", "own-recency", "last-basket")
USERS, ITEMS = 4, 6
START = np.datetime64("2024-01-01", "s")
# An order is (customer, day, products); days up to 20 and a half-life of a day keep every decayed sum exact in float32.
HALF_LIFE, LAST_DAY = 1.0, 20
orders = st.lists(
    st.tuples(
        st.integers(0, USERS - 1), st.integers(0, LAST_DAY), st.sets(st.integers(0, ITEMS - 1), min_size=1, max_size=4)
    ),
    max_size=14,
)


def lines_of(given_orders, *, dated: bool = True, numbered: bool = True) -> Interactions:
    rows = [(u, i, n, on) for n, (u, on, items) in enumerate(given_orders) for i in sorted(items)]
    user, item, order, on = np.array(rows, dtype=np.int32).reshape(-1, 4).T
    return Interactions(
        user=user,
        item=item,
        quantity=np.ones_like(user),
        users=Vocabulary.of(f"u{n}" for n in range(USERS)),
        items=Vocabulary.of(f"i{n}" for n in range(ITEMS)),
        order=order if numbered else None,
        at=START + on.astype("timedelta64[D]") if dated else None,
    )


def fitted(name: str, lines: Interactions):
    settings = {"half_life": HALF_LIFE} if name == "own-recency" else {}
    return family(name).fit(lines, make_settings(name, settings))


def histories(lines: Interactions) -> Histories:
    last = START + np.timedelta64(LAST_DAY, "D")
    return histories_of(lines, np.arange(USERS), None if lines.at is None else np.full(USERS, last))


def scores_of(name: str, lines: Interactions) -> np.ndarray:
    model = fitted(name, lines)
    return np.asarray(model.scores(model.encode(histories(lines))))


def own_slowly(name: str, given_orders, user: int) -> dict[int, float]:
    """Product -> what the rule counts of it for one customer."""
    own = [(on, n, items) for n, (owner, on, items) in enumerate(given_orders) if owner == user]
    if name == "last-basket":
        return dict.fromkeys(max(own)[2], 1.0) if own else {}
    counts: dict[int, float] = {}
    for on, _, items in own:
        for item in items:
            counts[item] = counts.get(item, 0) + (0.5 ** (LAST_DAY - on) if name == "own-recency" else 1)
    return counts


def ranking_slowly(name: str, given_orders, user: int) -> list[int]:
    """Every product, best first: own ones by the rule, then all others; ties by customers, then by the lower index."""
    own = own_slowly(name, given_orders, user)
    buyers = [len({u for u, _, items in given_orders if item in items}) for item in range(ITEMS)]
    return sorted(range(ITEMS), key=lambda item: (-own.get(item, 0), -buyers[item], item))


@pytest.mark.parametrize("name", RULES)
@given(given_orders=orders)
def test_the_order_is_that_of_the_slow_twin(name, given_orders):
    scores = scores_of(name, lines_of(given_orders))
    for user in range(USERS):
        assert np.argsort(-scores[user], kind="stable").tolist() == ranking_slowly(name, given_orders, user)
        # Scores stay what they count, and tell the customer's own products from the others.
        own = own_slowly(name, given_orders, user)
        np.testing.assert_allclose([scores[user, item] for item in own], list(own.values()), rtol=1e-5)
        others = np.delete(scores[user], list(own))
        assert np.all((others >= -1) & (others < 0))


@given(
    values=st.lists(
        st.floats(float(np.finfo(np.float32).tiny), float(2**100), width=32) | st.integers(1, 2**24).map(float),
        max_size=30,
    ),
    rows=st.lists(st.integers(0, 3), max_size=30),
)
def test_rising_values_rise_by_as_little_as_they_can(values, rows):
    count = min(len(values), len(rows))
    rows, values = np.sort(np.array(rows[:count], dtype=int)), np.array(values[:count], dtype=np.float32)
    values = values[np.lexsort((values, rows))]
    expected = values.copy()
    for n in range(1, count):
        if rows[n] == rows[n - 1]:
            expected[n] = max(expected[n], np.nextafter(expected[n - 1], np.float32(np.inf)))
    np.testing.assert_array_equal(own_history.strictly_rising(values, rows), expected)


def test_popularity_never_reaches_the_next_count_however_large_both_are():
    """Of two products in 3,000 and 3,001 orders of one customer, 5,000 others bought the first, and none the second."""
    few = [(0, 0, 1)] * 3_000 + [(0, 1, 1)] * 3_001
    user, item = np.array([row[:2] for row in few] + [(n, 0) for n in range(1, 5_001)], dtype=np.int32).T
    lines = Interactions(
        user, item, np.ones_like(user), Vocabulary.of(f"{n:05d}" for n in range(5_001)), Vocabulary.of("abc")
    )
    model = fitted("own-frequency", lines)
    scores = np.asarray(model.scores(model.encode(histories_of(lines, np.array([0])))))[0]
    assert scores.tolist() == [3_000, 3_001, -1]


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("protocol", ["last-order", "time"])
def test_for_new_products_alone_a_rule_is_popularity(name, protocol, tiny_lines):
    parts = split(tiny_lines, protocol=protocol)
    rule, popular = (
        evaluate(family(model).fit(parts.refit, make_settings(model, {})), parts.test).values
        for model in (name, "popularity")
    )
    for key, expected in popular.items():
        np.testing.assert_array_equal(rule[key], expected)


@pytest.mark.parametrize("protocol", ["last-order", "time"])
def test_habits_are_what_comes_again(protocol):
    """Each customer has a product of their own in every order; the most popular one they all bought once."""
    given_orders = [(u, 5 * n + u, {u, 4} if n == 0 else {u}) for u in range(USERS) for n in range(4)]
    cut = "2024-01-15" if protocol == "time" else None
    parts = split(lines_of(given_orders), protocol=protocol, cut=cut, repeat="include")
    for name, expected in {**dict.fromkeys(RULES, 1.0), "popularity": 0.0}.items():
        result = evaluate(family(name).fit(parts.refit, make_settings(name, {})), parts.test)
        assert result.values["hit@1"].mean() == expected


def test_two_orders_of_one_moment_are_told_apart_by_their_number():
    lines = lines_of([(0, 3, {0, 1}), (0, 3, {2}), (0, 1, {3})])
    assert np.argsort(-scores_of("last-basket", lines)[0], kind="stable")[0] == 2
    undated = lines_of([(0, 3, {0, 1}), (0, 3, {2}), (0, 1, {3})], dated=False)
    assert np.argsort(-scores_of("last-basket", undated)[0], kind="stable")[0] == 3


def test_a_longer_half_life_forgives_age():
    lines = lines_of([(0, 0, {0}), (0, 1, {0}), (0, 20, {1})])
    best = {}
    for half_life in (1.0, 400.0):
        model = family("own-recency").fit(lines, make_settings("own-recency", {"half_life": half_life}))
        best[half_life] = int(np.argmax(np.asarray(model.scores(model.encode(histories(lines))))[0]))
    assert best == {1.0: 1, 400.0: 0}


@pytest.mark.parametrize(
    ("name", "lacks", "says"),
    [
        ("own-recency", {"dated": False}, r"own-recency needs order dates \(created_at\).*try --model own-frequency"),
        ("popularity-recent", {"dated": False}, r"popularity-recent needs order dates .*try --model popularity"),
        ("last-basket", {"numbered": False}, r"last-basket needs order ids \(order_id\).*try --model own-frequency"),
    ],
)
def test_a_rule_names_what_it_lacks(name, lacks, says):
    with pytest.raises(InputError, match=says):
        fitted(name, lines_of([(0, 0, {0, 1}), (1, 3, {2})], **lacks))


def test_popularity_recent_is_popularity_of_decayed_orders(tiny_lines):
    for train in (tiny_lines, split(tiny_lines, protocol="last-order").train):  # without cuts, and with
        for half_life in (9.0, make_settings("popularity-recent", {}).half_life):
            recent, plain = (
                family(name).fit(train, make_settings(name, {"half_life": half_life, **given})).popularity
                for name, given in (("popularity-recent", {}), ("popularity", {"values": "recency"}))
            )
            np.testing.assert_array_equal(recent, plain)


def test_popularity_recent_is_of_the_calendar(tiny_lines):
    """Under `last-order` the customers' cuts differ; what is popular does not depend on them."""
    train = split(tiny_lines, protocol="last-order").train
    assert train.as_of is not None
    without = dataclasses.replace(train, as_of=None)
    one, other = (
        family("popularity-recent").fit(lines, make_settings("popularity-recent", {})) for lines in (train, without)
    )
    np.testing.assert_array_equal(one.popularity, other.popularity)


@pytest.mark.parametrize("name", RULES)
def test_similar_is_refused_for_a_rule_lifts_only_what_was_bought(name, tiny_lines):
    with pytest.raises(InputError, match="scores every customer alike but for what the customer has bought"):
        explanation.similar(fitted(name, tiny_lines), tiny_lines, "p04", pd.Series(dtype=object))


def test_a_run_of_a_rule_recommends_again_and_its_figures_agree(tmp_path: Path):
    shop = write_shop(tmp_path / "shop")
    folder = tmp_path / "run"
    options = ("--split", "last-order", "--repeat", "include")
    assert run("fit", shop, "--model", "last-basket", *options, "--run", folder) == 0
    assert run("evaluate", folder, "--json", tmp_path / "again.json") == 0
    assert (tmp_path / "again.json").read_bytes() == (folder / "metrics.json").read_bytes()
    assert run("recommend", folder, "--top", 2) == 0
    rows = pd.read_csv(folder / "recommendations.csv", dtype={"customer_id": str, "sku": str})
    lines = pd.read_csv(shop / "orders.csv", dtype=str)
    lines = lines[lines["order_id"].str.endswith("-5")]
    last = lines.groupby("customer_id")["lineitem_sku"].apply(set)
    found = rows[rows["basis"] == "model"].groupby("customer_id")["sku"].apply(set)
    assert found.to_dict() == last.to_dict()  # two products each
