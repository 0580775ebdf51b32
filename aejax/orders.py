"""Examples of the next order: what a customer had bought before an order, and what that order holds.

An example's moment is the first second of its order, and its inputs are the customer's earlier orders alone. Order
lines stand on the device once, sorted by customer and time; an example is two places in them, and a batch of examples
is cut out by those places, padded to the length of its group of customers.

Legend: U customers, I products, N order lines, E examples, n histories, B batch, L padded lines, M padded products of
a customer, T padded targets. Padding holds the item I, the slot M and the age 0.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aejax import batching
from aejax.errors import InputError
from aejax.interactions import Histories, Interactions

DAY = 86_400.0
# Customers' padded lengths: the longest, a quarter of it, and a quarter of that; none below `NARROWEST`.
LENGTHS, NARROWER, NARROWEST = 3, 4, 64


class Purchases(NamedTuple):
    """What B customers had bought.

    Attributes:
      items: `[B, M]` int32, their products in the sequence in which they first bought them.
      slots: `[B, L]` int32, the product of each order line, as a place in `items`.
      ages: `[B, L]` float32, days from each line to the customer's moment.
      orders: `[B]` float32, number of orders.
    """

    items: jax.Array
    slots: jax.Array
    ages: jax.Array
    orders: jax.Array


class Example(NamedTuple):
    """Examples of the next order.

    Attributes:
      inputs: of B customers, up to the example's moment.
      targets: `[B, T]` int32, products of the order.
    """

    inputs: Purchases
    targets: jax.Array


class OrderLines(NamedTuple):
    """Order lines sorted by customer and time, and examples as places in them; behind the last a padding example.

    Attributes:
      items: `[N + padding]` int32.
      slots: `[N + padding]` int32, see `Purchases`.
      at: `[N + padding]` float32, days from the customer's first line here.
      products: `[P + padding]` int32, each customer's products by first purchase.
      start: `[E + 1]` int32, an example's first line.
      stop: `[E + 1]` int32, behind its last line: the first of its order.
      end: `[E + 1]` int32, behind the last line of its order.
      first_product: `[E + 1]` int32, its customer's place in `products`.
      product_count: `[E + 1]` int32, how many of these were bought before it.
      orders: `[E + 1]` float32, how many orders were before it.
      as_of: `[E + 1]` float32, its moment, in days as `at`.
    """

    items: Any
    slots: Any
    at: Any
    products: Any
    start: Any
    stop: Any
    end: Any
    first_product: Any
    product_count: Any
    orders: Any
    as_of: Any


class Lengths(NamedTuple):
    """Padded lengths of a batch: L, M and T."""

    lines: int
    products: int
    targets: int


@dataclasses.dataclass(frozen=True)
class _Sequence:
    """Order lines sorted by customer, moment and order.

    Attributes:
      lines: the lines.
      at: `[N]` float64 seconds, the first moment of each line's order.
      customer_start: `[U + 1]`, each customer's first line.
      order_start: `[K + 1]`, each order's first line.
      products: `[P]`, each customer's products by first purchase.
      products_before: `[N + 1]`, how many of `products` stand before a line.
      slots: `[N]`, see `Purchases`.
    """

    lines: Interactions
    at: np.ndarray
    customer_start: np.ndarray
    order_start: np.ndarray
    products: np.ndarray
    products_before: np.ndarray
    slots: np.ndarray


def _in_sequence(lines: Interactions, model: str) -> _Sequence:
    for column, what in (("order", "order ids (order_id)"), ("at", "order dates (created_at)")):
        if getattr(lines, column) is None:
            raise InputError(f"model {model} needs {what}, and these data have none; try --model ease")
    assert lines.order is not None and lines.at is not None
    seconds = lines.at.astype(np.int64)
    moment = np.full(int(lines.order.max(initial=-1)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(moment, lines.order, seconds)
    rows = np.lexsort((lines.item, lines.order, moment[lines.order], lines.user))
    lines = lines.take(rows)
    assert lines.order is not None
    is_first_of_order = (np.diff(lines.order, prepend=-1) != 0) | (np.diff(lines.user, prepend=-1) != 0)
    _, first, pair = np.unique(lines.pair, return_index=True, return_inverse=True)
    is_new = np.zeros(len(lines), dtype=bool)
    is_new[first] = True
    products_before = np.concatenate([[0], np.cumsum(is_new)])
    customer_start = np.searchsorted(lines.user, np.arange(len(lines.users) + 1))
    slots = products_before[first][pair] - products_before[customer_start[lines.user]]
    return _Sequence(
        lines,
        moment[lines.order].astype(np.float64),
        customer_start,
        np.append(np.flatnonzero(is_first_of_order), len(lines)),
        lines.item[is_new],
        products_before,
        slots,
    )


def _order_lines(
    sequence: _Sequence, owner: np.ndarray, stop: np.ndarray, end: np.ndarray, as_of: np.ndarray, longest: Lengths
) -> OrderLines:
    """Examples of these customers `[E]` at these places `[E]`, whose moments `as_of` `[E]` are seconds."""

    def padded(values: np.ndarray, padding: int, dtype: type) -> np.ndarray:
        return np.concatenate([values, np.zeros(padding)]).astype(dtype)

    # Days count from a customer's first line, which no later line moves.
    begin = np.append(sequence.at, 0.0)[sequence.customer_start[:-1]]
    start = sequence.customer_start[owner]
    before = sequence.products_before
    orders = np.searchsorted(sequence.order_start[:-1], stop) - np.searchsorted(sequence.order_start[:-1], start)
    more = max(longest.lines, longest.targets)
    return OrderLines(
        items=padded(sequence.lines.item, more, np.int32),
        slots=padded(sequence.slots, more, np.int32),
        at=padded((sequence.at - begin[sequence.lines.user]) / DAY, more, np.float32),
        products=padded(sequence.products, longest.products, np.int32),
        start=padded(start, 1, np.int32),
        stop=padded(stop, 1, np.int32),
        end=padded(end, 1, np.int32),
        first_product=padded(before[start], 1, np.int32),
        product_count=padded(before[stop] - before[start], 1, np.int32),
        orders=padded(orders, 1, np.float32),
        as_of=padded((as_of - begin[owner]) / DAY, 1, np.float32),
    )


def cut(data: OrderLines, chosen: Any, lengths: Lengths, count: int, xp: Any = jnp) -> Example:
    """Examples `[B]` (E for padding) -> the same, padded; `count` is I, `xp` is NumPy or its twin on the device."""
    start, stop = data.start[chosen][:, None], data.stop[chosen][:, None]
    line = xp.arange(lengths.lines, dtype=np.int32)[None, :]
    place = xp.arange(lengths.products, dtype=np.int32)[None, :]
    target = xp.arange(lengths.targets, dtype=np.int32)[None, :]
    inside = line < stop - start
    inputs = Purchases(
        xp.where(
            place < data.product_count[chosen][:, None],
            data.products[data.first_product[chosen][:, None] + place],
            np.int32(count),
        ),
        xp.where(inside, data.slots[start + line], np.int32(lengths.products)),
        # The lines of an order may lie seconds apart: never younger than 0.
        xp.where(inside, xp.maximum(data.as_of[chosen][:, None] - data.at[start + line], 0), np.float32(0)),
        data.orders[chosen],
    )
    is_target = target < data.end[chosen][:, None] - stop
    return Example(inputs, xp.where(is_target, data.items[stop + target], np.int32(count)))


def encode(histories: Histories, model: str) -> Purchases:
    """Histories of n customers -> their purchases up to their cut, padded on the host."""
    lines = histories.lines
    sequence = _in_sequence(lines, model)
    start, stop = sequence.customer_start[:-1], sequence.customer_start[1:]
    as_of = histories.as_of
    if as_of is None:
        assert lines.at is not None  # checked with the order ids
        as_of = np.full(len(histories), lines.at.max() if len(lines) else np.datetime64(0, "s"))
    lengths = Lengths(
        batching.bucket((stop - start).max(initial=0)),
        batching.bucket(np.diff(sequence.products_before[sequence.customer_start]).max(initial=0)),
        1,
    )
    everyone = np.arange(len(histories))
    data = _order_lines(sequence, everyone, stop, stop, as_of.astype(np.int64), lengths)
    return cut(data, everyone, lengths, len(lines.items), np).inputs


def next_orders(train: Interactions, model: str, *, latest: int | None, per_pass: int | None) -> batching.Examples:
    """Every order that has one before it, as an example.

    Args:
      train: purchases.
      model: for messages.
      latest: only so many of each customer's latest orders; None: all.
      per_pass: the most examples of a customer in a pass, drawn anew in each: one of every stretch of the customer's
        orders of equal length. None: all.

    Raises:
      InputError: no order ids, no dates, or no customer with two orders.
    """
    sequence = _in_sequence(train, model)
    bounds = sequence.order_start
    owner = sequence.lines.user[bounds[:-1]]
    is_example = bounds[:-1] > sequence.customer_start[owner]
    from_last = np.searchsorted(owner, owner, side="right") - np.arange(len(owner)) - 1
    if latest is not None:
        is_example &= from_last < latest
    places = np.flatnonzero(is_example)
    if len(places) == 0:
        raise InputError(
            f"model {model} learns from customers' second and later orders, and of {len(np.unique(owner)):,} customers "
            "none has two; try --model ease"
        )
    stop, end = bounds[places], bounds[places + 1]
    owner = owner[places]
    start = sequence.customer_start[owner]
    lines, products = stop - start, sequence.products_before[stop] - sequence.products_before[start]
    widest = Lengths(int(lines.max()), int(products.max()), int((end - stop).max()))
    data = _order_lines(sequence, owner, stop, end, sequence.at[stop], widest)

    # Visits: so many of each customer's examples in a pass, each drawn from a stretch of its own.
    _, first, count = np.unique(owner, return_index=True, return_counts=True)
    visits = count if per_pass is None else np.minimum(count, per_pass)
    whose = np.repeat(np.arange(len(count)), visits)
    which = np.arange(len(whose)) - np.repeat(np.cumsum(visits) - visits, visits)
    low = first[whose] + which * count[whose] // visits[whose]
    size = first[whose] + (which + 1) * count[whose] // visits[whose] - low

    # Groups of customers by their longest history, so that few long ones do not lengthen everyone's padding.
    longest = np.maximum.reduceat(lines, first)
    narrowest = min(NARROWEST, widest.lines)
    limits = [max(widest.lines // NARROWER**power, narrowest) for power in reversed(range(LENGTHS))]
    group = np.searchsorted(limits, longest)
    group_of_visit, group_of_example = group[whose], np.repeat(group, count)
    sequence_of_visits = np.argsort(group_of_visit, kind="stable")
    low, size = low[sequence_of_visits], size[sequence_of_visits]
    present, sizes = np.unique(group_of_visit, return_counts=True)
    lengths = [
        Lengths(
            int(lines[group_of_example == number].max()),
            int(products[group_of_example == number].max()),
            widest.targets,
        )
        for number in present
    ]

    def shaped(lengths: Lengths) -> Any:
        def cut_out(data: tuple[OrderLines, jax.Array, jax.Array], chosen: jax.Array) -> tuple[Example, jax.Array]:
            return cut(data[0], chosen, lengths, len(train.items)), (chosen < len(places)).astype(jnp.float32)

        return cut_out

    on_device = jax.tree.map(
        jnp.asarray,
        (data, np.append(low, len(places)).astype(np.int32), np.append(size, 1).astype(np.int32)),
    )
    return batching.Examples(on_device, len(whose), partial(_draw, tuple(sizes.tolist())), tuple(map(shaped, lengths)))


def _draw(
    sizes: tuple[int, ...], data: tuple[OrderLines, jax.Array, jax.Array], key: jax.Array, batch_size: int
) -> tuple[jax.Array, jax.Array]:
    """A pass over all visits, in batches of one group of customers each, whose sizes in visits these are."""
    _, low, size = data
    draw_key, batches_key, *group_keys = jax.random.split(key, 2 + len(sizes))
    total, parts, shapes = sum(sizes), [], []
    for number, (group_key, count) in enumerate(zip(group_keys, sizes, strict=True)):
        order = batching.epoch_order(group_key, count, batch_size)
        parts.append(jnp.where(order < count, order + sum(sizes[:number]), total))
        shapes.append(jnp.full(order.shape[0], number, jnp.int32))
    visits, shapes = jnp.concatenate(parts), jnp.concatenate(shapes)
    mixed = jax.random.permutation(batches_key, visits.shape[0])
    drawn = jax.random.uniform(draw_key, (total + 1,))
    within = jnp.minimum((drawn * size).astype(jnp.int32), size - 1)
    return (low + within)[visits[mixed]], shapes[mixed]
