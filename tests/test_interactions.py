from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aejax.errors import InputError
from aejax.interactions import (
    Histories,
    Interactions,
    Vocabulary,
    distinct,
    histories_of,
    net_returns,
    reindex,
    set_aside_rare,
)

USERS, ITEMS = 3, 3
ids = st.lists(st.text(max_size=6), max_size=20)
# (user, item, day, quantity): few users, products and days, so that pairs and moments collide.
rows_of_lines = st.lists(
    st.tuples(
        st.integers(0, USERS - 1),
        st.integers(0, ITEMS - 1),
        st.integers(0, 4),
        st.integers(-3, 3).filter(bool),
    ),
    max_size=25,
)


def lines_of(rows, *, users: int = USERS, items: int = ITEMS, dated: bool = True) -> Interactions:
    table = np.array(rows, dtype=np.int64).reshape(-1, 4)
    start = np.datetime64("2024-01-01", "s")
    return Interactions(
        user=table[:, 0].astype(np.int32),
        item=table[:, 1].astype(np.int32),
        quantity=table[:, 3].astype(np.int32),
        users=Vocabulary.of(f"u{n:02d}" for n in range(users)),
        items=Vocabulary.of(f"i{n:02d}" for n in range(items)),
        order=np.arange(len(table), dtype=np.int32),
        at=start + table[:, 2].astype("timedelta64[D]") if dated else None,
    )


def remaining_slowly(rows, *, dated: bool) -> dict[int, int]:
    """Row -> quantity that remains: walk through the events piece by piece, as a shop assistant would."""
    when = {n: (row[2] if dated else 0, dated and row[3] < 0, n) for n, row in enumerate(rows)}
    left = {n: row[3] for n, row in enumerate(rows) if row[3] > 0}
    for n in sorted(when, key=when.get):
        user, item, _, quantity = rows[n]
        for _ in range(-quantity):
            earlier = [m for m in left if rows[m][:2] == (user, item) and when[m] < when[n] and left[m] > 0]
            if earlier:
                left[max(earlier, key=when.get)] -= 1
    return {n: quantity for n, quantity in left.items() if quantity > 0}


@given(ids)
def test_vocabulary_round_trip(given_ids):
    vocabulary = Vocabulary.of(given_ids)
    positions = vocabulary.index(given_ids)
    assert [vocabulary.ids[p] for p in positions] == given_ids
    assert vocabulary.index(vocabulary.ids).tolist() == list(range(len(set(given_ids))))
    stored = vocabulary.to_state()
    assert stored.dtype == np.uint8
    assert Vocabulary.from_state(stored).ids.tolist() == vocabulary.ids.tolist()


@given(ids, ids)
def test_an_id_that_a_vocabulary_does_not_know_is_minus_one(known, asked):
    positions = Vocabulary.of(known).index(asked)
    assert [p == -1 for p in positions] == [text not in known for text in asked]


@pytest.mark.parametrize("wrong", [["b", "a"], ["a", "a"]])
def test_a_vocabulary_refuses_ids_that_are_unsorted_or_repeated(wrong):
    with pytest.raises(ValueError, match="sorted and unique"):
        Vocabulary(np.array(wrong, dtype=object))


def test_vocabulary_take_must_increase():
    vocabulary = Vocabulary.of("abc")
    assert vocabulary.take(np.array([0, 2])).ids.tolist() == ["a", "c"]
    with pytest.raises(ValueError, match="sorted and unique"):
        vocabulary.take(np.array([2, 0]))


@settings(max_examples=200, deadline=None)
@given(rows_of_lines, st.booleans())
def test_net_returns_is_its_slow_twin(rows, dated):
    netted = net_returns(lines_of(rows, dated=dated))
    # `order` numbers the rows of `lines_of`, so it says which purchases remain and in which sequence.
    expected = remaining_slowly(rows, dated=dated)
    assert netted.order.tolist() == sorted(expected)
    assert netted.quantity.tolist() == [expected[n] for n in sorted(expected)]


@settings(max_examples=50, deadline=None)
@given(rows_of_lines)
def test_net_returns_changes_no_argument_and_is_done_after_one_pass(rows):
    lines = lines_of(rows)
    before = lines.quantity.copy()
    netted = net_returns(lines)
    np.testing.assert_array_equal(lines.quantity, before)
    again = net_returns(netted)
    np.testing.assert_array_equal(again.order, netted.order)
    np.testing.assert_array_equal(again.quantity, netted.quantity)


@pytest.mark.parametrize(
    ("rows", "remaining"),
    [
        pytest.param([(0, 0, 1, 2), (0, 0, 2, 2), (0, 0, 3, -3)], {0: 1}, id="the latest earlier purchase goes first"),
        pytest.param([(0, 0, 2, 1), (0, 0, 1, -1)], {0: 1}, id="a later purchase is never cancelled"),
        pytest.param([(0, 0, 1, -1), (0, 0, 1, 1)], {}, id="at one instant purchases come first"),
        pytest.param(
            [(0, 0, 1, 1), (1, 0, 2, -1), (0, 1, 2, -1)], {0: 1}, id="neither another customer's nor product's"
        ),
        pytest.param([(0, 0, 1, 1), (0, 0, 2, -3), (0, 0, 3, 1)], {2: 1}, id="what it cannot cancel is forgotten"),
    ],
)
def test_what_a_return_cancels(rows, remaining):
    netted = net_returns(lines_of(rows))
    assert dict(zip(netted.order.tolist(), netted.quantity.tolist(), strict=True)) == remaining


def test_without_dates_the_order_of_the_rows_is_the_order_of_time():
    assert len(net_returns(lines_of([(0, 0, 0, 1), (0, 0, 0, -1)], dated=False))) == 0
    assert net_returns(lines_of([(0, 0, 0, -1), (0, 0, 0, 1)], dated=False)).order.tolist() == [1]


@settings(max_examples=100, deadline=None)
@given(rows_of_lines, st.integers(1, 3))
def test_set_aside_rare_is_its_slow_twin(rows, min_customers):
    lines = lines_of(rows)
    bought = [rows[n] for n in remaining_slowly(rows, dated=True)]
    items = [i for i in range(ITEMS) if len({row[0] for row in bought if row[1] == i}) >= min_customers]
    if not items:
        with pytest.raises(InputError, match=f"--min-customers {min_customers} leaves no product"):
            set_aside_rare(lines, min_customers)
        return
    users = sorted({row[0] for row in rows if row[1] in items and row[3] > 0})  # also who sent everything back
    kept = set_aside_rare(lines, min_customers)
    assert kept.items.ids.tolist() == [f"i{i:02d}" for i in items]
    assert kept.users.ids.tolist() == [f"u{u:02d}" for u in users]
    # Returns of what stays are still there: they are netted after the cut, not before.
    assert kept.order.tolist() == [n for n, row in enumerate(rows) if row[0] in users and row[1] in items]
    assert [kept.items.ids[i] for i in kept.item] == [f"i{rows[n][1]:02d}" for n in kept.order]
    assert [kept.users.ids[u] for u in kept.user] == [f"u{rows[n][0]:02d}" for n in kept.order]


def test_set_aside_rare_names_a_threshold_that_works():
    lines = lines_of([(0, 0, 0, 1), (1, 0, 0, 1), (2, 0, 0, 1), (2, 0, 1, -1), (2, 1, 0, 1)])
    with pytest.raises(InputError, match="the most bought one has 2 customers; try --min-customers 1"):
        set_aside_rare(lines, 3)
    assert set_aside_rare(lines, 2).users.ids.tolist() == ["u00", "u01", "u02"]


def test_reindex_keeps_each_lines_ids_and_columns():
    lines = lines_of([(0, 0, 0, 1), (1, 2, 1, 2), (2, 2, 2, 3), (2, 1, 3, 4)])
    lines = dataclasses.replace(lines, part=np.array([0, 1, 2, 0], dtype=np.int8))
    kept = reindex(lines, np.array([0, 2]), np.array([1, 2]))
    assert kept.quantity.tolist() == [3, 4]
    assert kept.users.ids[kept.user].tolist() == ["u02", "u02"]
    assert kept.items.ids[kept.item].tolist() == ["i02", "i01"]
    assert kept.part.tolist() == [2, 0]
    assert kept.at.tolist() == lines.at[2:].tolist()


@settings(max_examples=100, deadline=None)
@given(rows_of_lines, st.sets(st.integers(0, USERS - 1)), st.booleans(), st.data())
def test_histories_take_equals_the_histories_of_these_users(rows, some, dated, data):
    lines = lines_of(rows, dated=dated)
    users = np.array(sorted(some), dtype=np.int64)
    as_of = np.datetime64("2024-02-01", "s") + users.astype("timedelta64[D]") if dated else None
    histories = histories_of(lines, users, as_of)
    start = data.draw(st.integers(0, len(users)))
    stop = data.draw(st.integers(start, len(users) + 2))

    def content(part: Histories) -> list:
        return [
            (name, None if part.as_of is None else part.as_of[n], part.lines.order[part.lines.user == n].tolist())
            for n, name in enumerate(part.lines.users.ids)
        ]

    expected = [
        (f"u{u:02d}", None if as_of is None else as_of[n], [row for row, line in enumerate(rows) if line[0] == u])
        for n, u in enumerate(users)
    ]
    assert content(histories) == expected
    assert content(histories.take(start, stop)) == expected[start:stop]
    assert np.all(np.diff(histories.lines.user) >= 0)


@pytest.mark.parametrize("values", [[], [3], [5, 1, 5, 5, 2, 1], [2, 2, 2]], ids=str)
def test_distinct_values_are_those_of_unique(values):
    found = distinct(np.array(values, dtype=np.int64))
    np.testing.assert_array_equal(found, np.unique(np.array(values, dtype=np.int64)))
    assert found.dtype == np.int64
