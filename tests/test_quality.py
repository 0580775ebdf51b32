from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aejax import quality
from aejax.interactions import Interactions, Vocabulary, net_returns
from aejax.quality import Dropped, FileAccount

rows_of_lines = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(0, 4), st.integers(-3, 3).filter(bool)), max_size=20
)


def lines_of(rows, *, dated: bool = True, order=None) -> Interactions:
    """Lines from (user, item, day, quantity)."""
    table = np.array(rows, dtype=np.int64).reshape(-1, 4)
    return Interactions(
        user=table[:, 0].astype(np.int32),
        item=table[:, 1].astype(np.int32),
        quantity=table[:, 3].astype(np.int32),
        users=Vocabulary.of(f"u{n}" for n in range(max([1, *table[:, 0]]) + 1)),
        items=Vocabulary.of(f"i{n}" for n in range(max([1, *table[:, 1]]) + 1)),
        order=np.array(order if order is not None else range(len(table)), dtype=np.int32),
        at=np.datetime64("2024-01-01", "s") + table[:, 2].astype("timedelta64[D]") if dated else None,
    )


def walk(rows, dated: bool) -> tuple[list[str], int]:
    """What becomes of each line, and the units returned in excess: unit by unit, as a shop assistant would."""
    when = [(row[2] if dated else 0, dated and row[3] < 0, n) for n, row in enumerate(rows)]
    left = {n: max(row[3], 0) for n, row in enumerate(rows)}
    fate = ["kept"] * len(rows)
    excess = 0
    for n in sorted(range(len(rows)), key=when.__getitem__):
        user, item, _, quantity = rows[n]
        if quantity < 0:
            fate[n] = "unmatched"
        for _ in range(-quantity):
            earlier = [m for m in left if rows[m][:2] == (user, item) and when[m] < when[n] and left[m] > 0]
            if not earlier:
                excess += 1
                continue
            latest = max(earlier, key=when.__getitem__)
            left[latest] -= 1
            fate[n] = "netted"
            if left[latest] == 0:
                fate[latest] = "netted"
    return fate, excess


@given(rows_of_lines, st.booleans())
def test_what_becomes_of_each_line_against_a_walk(rows, dated):
    lines = lines_of(rows, dated=dated, order=[7 * n % 100 for n in range(len(rows))])
    netting = quality.account_for_returns(lines)
    fate, excess = walk(rows, dated)
    assert netting.netted.tolist() == [name == "netted" for name in fate]
    assert netting.unmatched.tolist() == [name == "unmatched" for name in fate]
    assert netting.excess == excess
    expected = net_returns(lines)
    for name in ("user", "item", "quantity", "order", "at"):
        found, wanted = getattr(netting.bought, name), getattr(expected, name)
        assert (found is wanted is None) or found.tolist() == wanted.tolist()


def test_large_returns_of_many_pairs_do_not_overflow():
    pairs = [(n, 0, 0, 1_000_000) for n in range(3000)] + [(n, 0, 1, -999_999) for n in range(3000)]
    netting = quality.account_for_returns(lines_of(pairs))
    assert netting.excess == 0 and netting.netted.sum() == 3000
    assert set(netting.bought.quantity.tolist()) == {1}


def test_facts_are_counted_by_hand():
    # u0 buys i0 in two orders and i1 once; u1 buys i1 once. 4 lines, 3 pairs of 4 possible.
    lines = lines_of([(0, 0, 0, 1), (0, 1, 0, 5), (0, 0, 3, 1), (1, 1, 4, 2)], order=[0, 0, 1, 2])
    facts = quality.report(files={}, bought=lines, customers=9, products=8, repeats=True, warnings=[])["facts"]
    assert facts == {
        "customers": 9,
        "customers_with_purchases": 2,
        "products": 8,
        "products_bought": 2,
        "orders": 3,
        "lines": 4,
        "period": ["2024-01-01T00:00:00", "2024-01-05T00:00:00"],
        "repeat_share": 0.25,
        "density": 0.75,
    }


@given(rows_of_lines.filter(bool))
def test_share_of_repeats_against_a_walk(rows):
    bought = net_returns(lines_of(rows))
    if len(bought) == 0:
        return
    seen: Counter = Counter()
    repeats = 0
    for pair in zip(bought.user.tolist(), bought.item.tolist(), strict=True):
        repeats += seen[pair] > 0
        seen[pair] += 1
    facts = quality.report(files={}, bought=bought, customers=2, products=2, repeats=True, warnings=[])["facts"]
    assert facts["repeat_share"] == repeats / len(bought)


@pytest.mark.parametrize(
    ("lines", "impossible"),
    [
        (
            lines_of([(u, i, u + i, 1) for u in range(3) for i in range(3)]),
            {"predefined"},
        ),
        (
            lines_of([(u, i, 0, 1) for u in range(3) for i in range(3)]),
            {"predefined", "time"},
        ),
        (
            lines_of([(u, i, u, 1) for u in range(3) for i in range(2)], order=[0, 0, 1, 1, 2, 2]),
            {"predefined", "last-order", "items"},
        ),
        (
            lines_of([(u, i, 0, 1) for u in range(2) for i in range(3)], dated=False),
            {"predefined", "last-order", "time", "users"},
        ),
        (
            lines_of([(0, 0, 0, 1), (0, 1, 1, 1), (0, 2, 2, 1), (1, 0, 3, 1), (1, 1, 4, 1), (2, 0, 5, 1)]),
            {"predefined", "users"},
        ),
    ],
)
def test_protocols_that_the_data_cannot_carry(lines, impossible):
    protocols = quality.report(files={}, bought=lines, customers=3, products=3, repeats=True, warnings=[])["protocols"]
    impossible = impossible | {"cold-items"}  # nothing is known of the products
    assert set(protocols["impossible"]) == impossible
    assert set(protocols["possible"]) | impossible == {
        "predefined",
        "time",
        "last-order",
        "users",
        "items",
        "cold-items",
        "reconstruction",
    }
    assert all(protocols["impossible"].values())


def test_cold_items_needs_products_of_which_something_is_known():
    lines = lines_of([(u, i, u + i, 1) for u in range(3) for i in range(10)])
    few = lines.take(lines.item < 9)
    carried = [
        "cold-items"
        in quality.report(
            files={}, bought=bought, customers=3, products=10, repeats=True, described=described, warnings=[]
        )["protocols"]["possible"]
        for bought, described in ((lines, True), (lines, False), (few, True))
    ]
    assert carried == [True, False, False]


def test_the_account_has_the_form_that_others_read():
    account = FileAccount(
        read=10, merged=1, netted=2, dropped={"no customer": Dropped(3, [2, 4]), "no date": Dropped(0, [])}
    )
    assert account.to_json() == {
        "read": 10,
        "kept": 4,
        "merged": 1,
        "netted": 2,
        "dropped": {"no customer": {"rows": 3, "lines": [2, 4]}},
        "columns_left_out": [],
        "columns_renamed": {},
    }


def test_sentences_say_what_happened_and_survive_json():
    account = FileAccount(
        read=1200,
        merged=100,
        netted=20,
        dropped={"no customer": Dropped(7, [2, 4, 5, 6, 9]), "no product": Dropped(1, [11])},
        left_out=["price"],
        renamed={"Customer ID": "customer_id"},
    )
    lines = lines_of([(0, 0, 0, 1), (0, 1, 0, 5), (0, 0, 3, 1), (1, 1, 4, 2)], order=[0, 0, 1, 2])
    report = quality.report(
        files={"orders.csv": account}, bought=lines, customers=2, products=1200, repeats=True, warnings=["odd things"]
    )
    sentences = quality.summary_lines(json.loads(json.dumps(report)))
    assert sentences[:7] == [
        "orders.csv: 1,200 rows read, 1,072 kept, 100 merged with another of the same order and product, "
        "20 netted (returns and the purchases they cancel), 8 dropped.",
        "  7 rows dropped because: no customer "
        "(orders.csv:2, orders.csv:4, orders.csv:5, orders.csv:6, orders.csv:9, ...).",
        "  1 row dropped because: no product (orders.csv:11).",
        "  Columns not used: price.",
        "  Columns read under another name: 'Customer ID' as customer_id.",
        "2 of 2 customers bought 2 of 1,200 products: 4 purchases in 3 orders between 2024-01-01 and 2024-01-05.",
        "25.0% of the purchases are of a product the customer had bought before.",
    ]
    assert "These data can be split by: time, reconstruction." in sentences
    assert sentences[-1] == "Warning: odd things"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("two", '"two"'),
        ("bob@shop.org", '"b...@..."'),
        ("Bob <bob.b+1@mail.shop.org>", '"Bob <b...@..."'),
        ("A 0171/2345678", '"A 01..."'),
        ("0171 2345678 / 0172 3456789", '"01... / 01..."'),
        ("x" * 70, '"' + "x" * 57 + '..."'),
    ],
)
def test_shown_values_are_short_and_addresses_masked(value, expected):
    assert quality.shown(value) == expected
