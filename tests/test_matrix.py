from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aejax.errors import InputError
from aejax.interactions import Interactions, Vocabulary, histories_of
from aejax.matrix import VALUES, history_matrix, user_item_matrix, weighted_rows

USERS, ITEMS, HALF_LIFE = 4, 5, 30.0
START = np.datetime64("2024-01-01", "s")
purchases = st.lists(
    st.tuples(st.integers(0, USERS - 1), st.integers(0, ITEMS - 1), st.integers(0, 400 * 86_400), st.integers(1, 40)),
    max_size=30,
)


def lines_of(rows, *, dated: bool = True) -> Interactions:
    table = np.array(rows, dtype=np.int64).reshape(-1, 4)
    return Interactions(
        user=table[:, 0].astype(np.int32),
        item=table[:, 1].astype(np.int32),
        quantity=table[:, 3].astype(np.int32),
        users=Vocabulary.of(f"u{n}" for n in range(USERS)),
        items=Vocabulary.of(f"i{n}" for n in range(ITEMS)),
        order=np.arange(len(table), dtype=np.int32),
        at=START + table[:, 2].astype("timedelta64[s]") if dated else None,
    )


def cell_slowly(rows, user: int, item: int, values: str, until: dict[int, int]) -> float:
    own = [row for row in rows if row[:2] == (user, item)]
    pieces, orders = sum(row[3] for row in own), len(own)
    if values == "recency":
        return sum(0.5 ** ((until[user] - row[2]) / 86_400 / HALF_LIFE) for row in own)
    return {
        "binary": float(orders > 0),
        "quantity": float(pieces),
        "log1p-quantity": math.log(1 + pieces),
        "orders": float(orders),
        "log1p-orders": math.log(1 + orders),
    }[values]


def dense_slowly(rows, values: str, until: dict[int, int]) -> list[list[float]]:
    return [[cell_slowly(rows, u, i, values, until) for i in range(ITEMS)] for u in range(USERS)]


@settings(max_examples=40, deadline=None)
@given(purchases)
def test_each_value_is_its_slow_twin(rows):
    latest = max((row[2] for row in rows), default=0)
    for values in VALUES:
        matrix = user_item_matrix(lines_of(rows), values, half_life=HALF_LIFE)
        expected = dense_slowly(rows, values, dict.fromkeys(range(USERS), latest))
        np.testing.assert_allclose(matrix.toarray(), expected, rtol=1e-5, atol=0, err_msg=values)


@settings(max_examples=40, deadline=None)
@given(purchases)
def test_sums_are_a_pandas_pivot_entry_by_entry(rows):
    table = pd.DataFrame(rows, columns=["user", "item", "second", "quantity"])
    grouped = table.groupby(["user", "item"])["quantity"]
    for values, sums in (("quantity", grouped.sum()), ("orders", grouped.size())):
        matrix = user_item_matrix(lines_of(rows), values)
        pivot = sums.unstack(fill_value=0).reindex(index=range(USERS), columns=range(ITEMS), fill_value=0)
        np.testing.assert_array_equal(matrix.toarray(), pivot.to_numpy())
        # Exactly the pairs that occur are stored: no explicit zero, none twice.
        assert matrix.nnz == len(sums)


@settings(max_examples=20, deadline=None)
@given(purchases, st.randoms(use_true_random=False))
def test_the_matrix_is_canonical_whatever_the_order_of_the_lines(rows, random):
    shuffled = random.sample(rows, len(rows))
    for values in ("binary", "log1p-quantity"):
        matrix, other = user_item_matrix(lines_of(rows), values), user_item_matrix(lines_of(shuffled), values)
        assert matrix.dtype == np.float32
        assert matrix.has_canonical_format
        for name in ("indptr", "indices", "data"):
            np.testing.assert_array_equal(getattr(matrix, name), getattr(other, name))


@settings(max_examples=40, deadline=None)
@given(purchases, st.lists(st.integers(400, 800), min_size=USERS, max_size=USERS))
def test_recency_counts_from_each_users_own_cut(rows, days):
    as_of = START + np.array(days).astype("timedelta64[D]")
    until = {user: day * 86_400 for user, day in enumerate(days)}
    expected = dense_slowly(rows, "recency", until)
    matrix = user_item_matrix(lines_of(rows), "recency", as_of=as_of, half_life=HALF_LIFE)
    np.testing.assert_allclose(matrix.toarray(), expected, rtol=1e-4, atol=1e-30)
    # Histories of some users only: each keeps the cut that is its own.
    users = np.array([0, 2, 3])
    histories = histories_of(lines_of(rows), users, as_of[users])
    found = history_matrix(histories, "recency", half_life=HALF_LIFE).toarray()
    np.testing.assert_allclose(found, np.array(expected)[users], rtol=1e-4, atol=1e-30)
    found = history_matrix(histories.take(1, 3), "recency", half_life=HALF_LIFE).toarray()
    np.testing.assert_allclose(found, np.array(expected)[users[1:]], rtol=1e-4, atol=1e-30)


def test_recency_halves_with_each_half_life():
    lines = lines_of([(0, 0, 0, 7), (0, 1, 10 * 86_400, 1), (0, 1, 20 * 86_400, 1)])
    assert user_item_matrix(lines, "recency", half_life=10.0).toarray()[0, :2].tolist() == [0.25, 1.5]


def test_only_recency_reads_half_life_and_as_of():
    lines = lines_of([(0, 0, 0, 7), (1, 0, 5, 2)])
    elsewhere = np.full(USERS, np.datetime64("2030-01-01", "s"))
    for values in set(VALUES) - {"recency"}:
        plain = user_item_matrix(lines, values).toarray()
        np.testing.assert_array_equal(user_item_matrix(lines, values, as_of=elsewhere, half_life=1.0).toarray(), plain)


def test_unknown_values_propose_the_nearest():
    with pytest.raises(InputError, match='--values is "log1p-order"; did you mean "log1p-orders"'):
        user_item_matrix(lines_of([(0, 0, 0, 1)]), "log1p-order")


def test_recency_needs_dates():
    with pytest.raises(InputError, match=r"--values recency needs order dates \(created_at\)"):
        user_item_matrix(lines_of([(0, 0, 0, 1)], dated=False), "recency")


@pytest.mark.parametrize("values", ["binary", "quantity"])
def test_weights_of_customers_move_energy_between_them_and_keep_the_sum(tiny_lines, values):
    matrix = user_item_matrix(tiny_lines.take(tiny_lines.user != 3), values)
    cells = np.diff(matrix.indptr)
    rows, kept, root_weight, _, energy = weighted_rows(matrix, 0.7)
    assert np.array_equal(kept, cells > 0) and not kept[3]
    weight = root_weight**2
    np.testing.assert_allclose(weight / weight[0], (cells[kept] / cells[0]) ** -0.7)
    assert energy.sum() == pytest.approx((matrix.data.astype(float) ** 2).sum(), rel=1e-5)
    np.testing.assert_allclose(rows.toarray(), root_weight[:, None] * matrix[kept].toarray(), rtol=1e-6)
