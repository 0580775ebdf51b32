"""Examples of the next order, against loops over a customer's orders."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aejax import batching, orders
from aejax.errors import InputError
from aejax.interactions import Histories, Interactions, histories_of

# A moment's second, so that two orders of customer 5 share it.
SAME = np.datetime64("2024-06-01T10:00:00", "s")


@pytest.fixture(scope="module")
def lines(tiny_lines) -> Interactions:
    """The tiny shop in no order, two orders of one customer at one second, and one customer with a single order."""
    at = tiny_lines.at.copy()
    twins = np.unique(tiny_lines.order[tiny_lines.user == 5])[:2]
    at[np.isin(tiny_lines.order, twins)] = SAME
    only = np.unique(tiny_lines.order[tiny_lines.user == 6])[0]
    lines = dataclasses.replace(tiny_lines, at=at)
    lines = lines.take((lines.user != 6) | (lines.order == only))
    return lines.take(np.random.default_rng(1).permutation(len(lines)))


def orders_slowly(lines: Interactions, user: int) -> list[tuple[int, list[int]]]:
    """A customer's orders in time: the first second of each, and its products."""
    found: dict[int, tuple[int, list[int]]] = {}
    for row in np.flatnonzero(lines.user == user):
        second = int(lines.at[row].astype(np.int64))
        earlier, items = found.get(lines.order[row], (second, []))
        found[lines.order[row]] = (min(earlier, second), [*items, int(lines.item[row])])
    return [found[number] for number in sorted(found, key=lambda number: (found[number][0], number))]


def seen_slowly(before: list[tuple[int, list[int]]], moment: int) -> list[tuple[int, float]]:
    """Product and age in days of each line, sorted."""
    return sorted((item, (moment - second) / 86_400) for second, items in before for item in items)


def seen(inputs: orders.Purchases, row: int, count: int) -> list[tuple[int, float]]:
    """The same of a row of a batch, whose padding is checked."""
    items, slots, ages = (np.asarray(leaf)[row] for leaf in inputs[:3])
    real = slots < len(items)
    assert np.all(ages[~real] == 0)
    assert sorted(np.unique(slots[real])) == list(range((items < count).sum()))
    return sorted((int(items[slot]), float(age)) for slot, age in zip(slots[real], ages[real], strict=True))


def assert_same(found: list[tuple[int, float]], expected: list[tuple[int, float]]) -> None:
    assert [item for item, _ in found] == [item for item, _ in expected]
    np.testing.assert_allclose([age for _, age in found], [age for _, age in expected], atol=1e-3)


def all_examples(examples: batching.Examples) -> orders.Example:
    """Every example in one batch, as the widest cut gives it."""
    numbers = jnp.arange(len(examples.data[0].start) - 1)
    return jax.device_get(jax.jit(examples.cuts[-1])(examples.data, numbers)[0])


def test_every_order_with_one_before_it_is_an_example(lines):
    examples = orders.next_orders(lines, "m", latest=None, per_pass=None)
    found, items = all_examples(examples), len(lines.items)
    number = 0
    for user in range(len(lines.users)):
        own = orders_slowly(lines, user)
        for k in range(1, len(own)):
            assert_same(seen(found.inputs, number, items), seen_slowly(own[:k], own[k][0]))
            assert found.inputs.orders[number] == k
            targets = found.targets[number]
            assert targets[targets < items].tolist() == sorted(own[k][1])
            number += 1
    assert number == examples.count == len(found.targets) > 200


def test_its_order_and_later_ones_cannot_change_an_examples_inputs(lines):
    """From a customer's second order on, all is of other products, and what follows the second is a thousand days
    later: what is known at the second order is the first, as before.
    """
    rank = np.full(lines.order.max() + 1, -1)
    for user in range(len(lines.users)):
        own = lines.take(lines.user == user)
        moment = {number: own.at[own.order == number].min() for number in np.unique(own.order)}
        for place, number in enumerate(sorted(moment, key=lambda number: (moment[number], number))):
            rank[number] = place
    place = rank[lines.order]
    changed = dataclasses.replace(
        lines,
        item=np.where(place >= 1, (lines.item + 7) % len(lines.items), lines.item).astype(np.int32),
        at=lines.at + (place >= 2) * np.timedelta64(1_000 * 86_400, "s"),
    )
    plain, other = (orders.next_orders(given, "m", latest=None, per_pass=None) for given in (lines, changed))
    seconds = np.flatnonzero(np.asarray(plain.data[0].orders)[:-1] == 1)
    assert len(seconds) == len(lines.users) - 1
    before, after = all_examples(plain), all_examples(other)
    for number in seconds:
        assert seen(after.inputs, number, len(lines.items)) == seen(before.inputs, number, len(lines.items))
        assert not np.array_equal(after.targets[number], before.targets[number])
    # The examples after it do know it.
    assert seen(after.inputs, seconds[0] + 1, 30) != seen(before.inputs, seconds[0] + 1, 30)


def test_encode_gives_the_bits_of_the_example_whose_history_it_is(lines):
    examples = orders.next_orders(lines, "m", latest=1, per_pass=None)
    last, as_of, users = np.zeros(len(lines), dtype=bool), [], []
    for user in range(len(lines.users)):
        rows = np.flatnonzero(lines.user == user)
        moments = {number: lines.at[rows][lines.order[rows] == number].min() for number in np.unique(lines.order[rows])}
        final = max(moments, key=lambda number: (moments[number], number))
        as_of.append(moments[final])
        if len(moments) > 1:
            last |= lines.order == final
            users.append(user)
    histories = histories_of(lines.take(~last), np.array(users), np.array(as_of)[users])
    encoded = orders.encode(histories, "m")
    inputs = all_examples(examples).inputs
    assert len(encoded.orders) == len(inputs.orders) == examples.count
    for row in range(examples.count):
        assert seen(encoded, row, 30) == seen(inputs, row, 30)
        assert encoded.orders[row] == inputs.orders[row]


def test_latest_orders_are_the_last_of_each_customer(lines):
    every = orders.next_orders(lines, "m", latest=None, per_pass=None).data[0]
    latest = orders.next_orders(lines, "m", latest=2, per_pass=None).data[0]
    start, stop = np.asarray(every.start)[:-1], np.asarray(every.stop)[:-1]
    expected = [number for own in np.unique(start) for number in np.sort(stop[start == own])[-2:]]
    np.testing.assert_array_equal(np.asarray(latest.stop)[:-1], expected)


@pytest.mark.parametrize("per_pass", [1, 3, None])
def test_a_pass_draws_one_example_of_each_stretch_of_a_customers_orders(lines, per_pass):
    examples = orders.next_orders(lines, "m", latest=None, per_pass=per_pass)
    data = examples.data[0]
    count = len(data.start) - 1
    draw, cuts = jax.jit(examples.draw, static_argnums=2), [jax.jit(cut) for cut in examples.cuts]
    owner = np.cumsum(np.diff(np.asarray(data.start)[:-1], prepend=-1) != 0) - 1
    drawn = []
    for seed in range(4):
        batches, shapes = draw(examples.data, jax.random.key(seed), 16)
        chosen, drawn_now = np.asarray(batches), []
        for batch, shape in zip(chosen, np.asarray(shapes), strict=True):
            real = batch[batch < count]
            drawn_now += real.tolist()
            # Its shape holds all of each example.
            example, weight = cuts[shape](examples.data, jnp.asarray(batch))
            inputs = example.inputs
            lines_of = np.asarray(data.stop)[real] - np.asarray(data.start)[real]
            assert np.all((np.asarray(inputs.slots) < inputs.items.shape[1]).sum(axis=1)[batch < count] == lines_of)
            np.testing.assert_array_equal(weight, batch < count)
        assert len(set(drawn_now)) == len(drawn_now) == examples.count
        for user in range(owner.max() + 1):
            own = np.flatnonzero(owner == user)
            visits = len(own) if per_pass is None else min(per_pass, len(own))
            places = np.sort([number for number in drawn_now if owner[number] == user]) - own[0]
            edges = np.arange(visits + 1) * len(own) // visits
            assert np.all((edges[:-1] <= places) & (places < edges[1:]))
        drawn.append(tuple(sorted(drawn_now)))
    assert (len(set(drawn)) > 1) == (per_pass is not None)
    assert not np.array_equal(batches, draw(examples.data, jax.random.key(9), 16)[0])


def width_of(cut, data) -> int:
    """How many purchases of a customer a cut has room for."""
    return jax.eval_shape(cut, data, jnp.array([0]))[0].inputs.slots.shape[1]


def test_few_long_histories_do_not_lengthen_those_of_others(lines):
    """One customer with fifty times the orders of others: batches of the others are as narrow as without."""
    times = 50
    own = lines.take(lines.user == 3)
    more = [dataclasses.replace(own, order=own.order + lines.order.max() + 1, at=own.at + np.timedelta64(9, "D"))]
    for n in range(2, times):
        step = lines.order.max() + 1
        more.append(
            dataclasses.replace(own, order=own.order + np.int32(n * step), at=own.at + np.timedelta64(9 * n, "D"))
        )
    columns = {
        name: np.concatenate([getattr(part, name) for part in (lines, *more)])
        for name in ("user", "item", "quantity", "order", "at")
    }
    wide = orders.next_orders(dataclasses.replace(lines, **columns), "m", latest=None, per_pass=4)
    widths = [width_of(cut, wide.data) for cut in wide.cuts]
    plain = orders.next_orders(lines, "m", latest=None, per_pass=4)
    assert widths[0] == width_of(plain.cuts[-1], plain.data)
    assert widths[-1] > 10 * widths[0]
    _, shapes = wide.draw(wide.data, jax.random.key(0), 16)
    assert (np.asarray(shapes) == len(widths) - 1).sum() == 1


@pytest.mark.parametrize(("column", "what"), [("order", "order ids"), ("at", "order dates")])
def test_what_is_missing_is_named(column, what, lines):
    with pytest.raises(InputError, match=f"model m needs {what} .* try --model ease"):
        orders.next_orders(dataclasses.replace(lines, **{column: None}), "m", latest=None, per_pass=None)


def test_customers_with_one_order_each_are_nothing_to_learn_from(lines):
    first = [np.flatnonzero(lines.user == user)[0] for user in range(len(lines.users))]
    with pytest.raises(InputError, match="of 60 customers none has two"):
        orders.next_orders(lines.take(np.array(first)), "m", latest=None, per_pass=None)


def test_a_history_without_a_purchase_is_empty(lines):
    histories = Histories(dataclasses.replace(lines.take(slice(0, 0)), users=lines.users.take(np.arange(2))))
    encoded = orders.encode(histories, "m")
    assert np.all(encoded.items == len(lines.items)) and np.all(encoded.slots == encoded.items.shape[1])
    assert np.all(encoded.orders == 0)
