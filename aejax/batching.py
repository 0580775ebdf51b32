"""Fixed-shape batches cut from sparse rows: padded, masked, and of few shapes, so that what uses them compiles once.

Legend: U users, I items, B batch, L padded length. Padding holds the item I, which is out of range and dropped by every
scatter, and the value 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import chex
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

from aejax import devices
from aejax.precision import matmul

Encoded = TypeVar("Encoded")
# Rows are read one by one where their padded length, which is many times the usual one, is this small a share of I.
LONGEST_SHARE = 1 / 8
# Rows added to a sum at once: it is read and written once for so many.
CELLS_PER_STEP = 8
# Cells of a sparse matrix that are made dense at once where a device multiplies dense matrices: 64 MiB.
DENSE_CELLS = 2**24


class Tap:
    """What an optimizer learns of a product of a batch's rows with a matrix, instead of the matrix's gradient `[I, D]`.

    It lives while a loss is traced. The product is one; another one of the same batch would be left out, so it fails.

    Attributes:
      offset: `[B, D]` zeros that are added to the product: their gradient is the product's.
    """

    def __init__(self, offset: jax.Array):
        self.offset = offset
        self._cells: tuple[jax.Array, jax.Array] | None = None

    def added(self, batch: Batch, total: jax.Array) -> jax.Array:
        """The product `[B, D]` of this batch, with the offset."""
        assert self._cells is None, "a second product of one batch"
        self._cells = jnp.asarray(batch.items), jnp.asarray(batch.values)
        return total + self.offset

    def cells(self) -> tuple[jax.Array, jax.Array]:
        """Items and values `[B, L]` of the batch that was multiplied."""
        assert self._cells is not None, "no product of the batch"
        return self._cells


class Batch(NamedTuple):
    """Rows of a user-item matrix.

    Attributes:
      items: `[B, L]` int32, padded with I.
      values: `[B, L]` float32, padded with 0.
      users: `[B]` int32, each row's number in the matrix that was trained on, U for padding, -1 for one not in it; None
        where the model does not ask who a row belongs to.
      targets: `[B, L]` float32, what is to be predicted of the same cells; None: their values.
      weights: `[B, L]` float32, what a loss weighs the same cells by; None: 1, as every other cell.
      customers: rows of another matrix, `[U, Fu]`, with the features of whom the rows belong to; None where the model
        does not ask for them.
      tap: on its product with a matrix, while a loss is traced; None: on none.
    """

    items: jax.Array
    values: jax.Array
    users: jax.Array | None = None
    targets: jax.Array | None = None
    weights: jax.Array | None = None
    customers: Batch | None = None
    tap: Tap | None = None


class SparseRows(NamedTuple):
    """A sparse matrix on the device, `[U, I]` as here or `[I, U]`, with one empty row behind the last for the padding
    of batches.

    Attributes:
      starts: `[U + 2]` int32, where each row begins.
      items: `[nnz + L]` int32, padded with I.
      values: `[nnz + L]` float32, padded with 0.
      targets: the same of another matrix with these cells, or None; see `Batch`.
      weights: the same of another matrix with these cells, or None; see `Batch`.
    """

    starts: jax.Array
    items: jax.Array
    values: jax.Array
    targets: jax.Array | None = None
    weights: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Examples:
    """What a pass of a training sees: numbered examples, cut on the device into batches of a few fixed shapes.

    Attributes:
      data: a pytree of arrays that the examples are cut from.
      count: examples in a pass.
      draw: `(data, key, batch_size)` -> a pass's batches `[T, B]` int32, by their examples' numbers, and the shape of
        each `[T]` int32, an index into `cuts`.
      cuts: for each shape `(data, numbers [B])` -> a batch for the loss, and the weight of each example `[B]`, 0 for
        padding.
    """

    data: Any
    count: int
    draw: Callable[[Any, jax.Array, int], tuple[jax.Array, jax.Array]]
    cuts: tuple[Callable[[Any, jax.Array], tuple[Any, jax.Array]], ...]


def bucket(length: int) -> int:
    """The padded length for `length`: the next power of two, at least 8; data of similar size share a shape."""
    return max(8, 1 << max(0, int(length) - 1).bit_length())


def longest_row(matrix: sp.csr_array) -> int:
    """The largest number of cells in a row."""
    return int(np.diff(matrix.indptr).max(initial=0))


def sparse_rows(
    matrix: sp.csr_array, *, targets: sp.csr_array | None = None, weights: sp.csr_array | None = None
) -> tuple[SparseRows, int]:
    """CSR `[U, I]`, and others with the same cells -> the same on the device, and the length L to which `gather_rows`
    pads.
    """
    length = max(1, longest_row(matrix))
    pad = np.full(length, matrix.shape[1], dtype=np.int32)

    def column(other: sp.csr_array) -> jax.Array:
        assert np.array_equal(other.indptr, matrix.indptr) and np.array_equal(other.indices, matrix.indices)
        return jnp.asarray(np.concatenate([other.data.astype(np.float32), np.zeros(length, np.float32)]))

    return SparseRows(
        jnp.asarray(np.append(matrix.indptr, matrix.indptr[-1]).astype(np.int32)),
        jnp.asarray(np.concatenate([matrix.indices.astype(np.int32), pad])),
        column(matrix),
        None if targets is None else column(targets),
        None if weights is None else column(weights),
    ), length


def gather_rows(rows: SparseRows, users: jax.Array, length: int, count: int) -> Batch:
    """Users `[B]` (U for padding) -> their rows, padded to `length`; `count` is I."""
    chex.assert_rank(users, 1)
    offsets = jnp.arange(length, dtype=jnp.int32)[None, :]
    starts = rows.starts[users][:, None]
    inside = offsets < rows.starts[users + 1][:, None] - starts

    def cells(column: jax.Array) -> jax.Array:
        return jnp.where(inside, column[starts + offsets], 0.0)

    return Batch(
        jnp.where(inside, rows.items[starts + offsets], count),
        cells(rows.values),
        users,
        None if rows.targets is None else cells(rows.targets),
        None if rows.weights is None else cells(rows.weights),
    )


def epoch_order(key: jax.Array, users: int, batch_size: int) -> jax.Array:
    """A random order of all users as batches `[ceil(U / B), B]`: every user once, the last batch padded with U."""
    steps = -(-users // batch_size)
    order = jax.random.permutation(key, users)
    padding = jnp.full((steps * batch_size - users,), users, dtype=order.dtype)
    return jnp.concatenate([order, padding]).reshape(steps, batch_size)


def row_examples(
    matrix: sp.csr_array,
    *,
    targets: sp.csr_array | None = None,
    weights: sp.csr_array | None = None,
    customers: sp.csr_array | None = None,
) -> Examples:
    """CSR `[U, I]` -> its rows as examples, each once in a pass: the inputs of an autoencoder are its targets, but for
    what `sparse_rows` takes beside them. `customers` `[U, Fu]` are the features of whom the rows belong to.
    """
    rows, length = sparse_rows(matrix, targets=targets, weights=weights)
    known, most = (None, 0) if customers is None else sparse_rows(customers)
    users, items = int(matrix.shape[0]), int(matrix.shape[1])

    def draw(data: Any, key: jax.Array, batch_size: int) -> tuple[jax.Array, jax.Array]:
        order = epoch_order(key, users, batch_size)
        return order, jnp.zeros(order.shape[0], jnp.int32)

    def cut(data: tuple[SparseRows, SparseRows | None], chosen: jax.Array) -> tuple[Batch, jax.Array]:
        rows, known = data
        batch = gather_rows(rows, chosen, length, items)
        if known is not None and customers is not None:
            batch = batch._replace(customers=gather_rows(known, chosen, most, customers.shape[1]))
        return batch, (chosen < users).astype(jnp.float32)

    return Examples((rows, known), users, draw, (cut,))


def pad_rows(matrix: sp.csr_array, *, rows: int | None = None, length: int | None = None) -> Batch:
    """CSR `[n, I]` -> a batch of `rows >= n` rows (default n), padded on the host to `length`, by default a bucketed
    one.
    """
    rows = matrix.shape[0] if rows is None else rows
    length = bucket(longest_row(matrix)) if length is None else length
    items = np.full((rows, length), matrix.shape[1], dtype=np.int32)
    values = np.zeros((rows, length), dtype=np.float32)
    before = np.arange(matrix.shape[0]) * length - matrix.indptr[:-1]
    place = np.arange(matrix.nnz) + np.repeat(before, np.diff(matrix.indptr))
    items.reshape(-1)[place] = matrix.indices
    values.reshape(-1)[place] = matrix.data
    return Batch(items, values)  # pyright: ignore[reportArgumentType] (host arrays until a jitted function takes them)


def fill_rows(batch: Encoded, rows: int) -> Encoded:
    """Any encoded batch of n customers -> the same with its last customer repeated up to `rows`."""

    def fill(leaf: np.ndarray) -> np.ndarray:
        if leaf.shape[0] == rows:
            return leaf
        return np.pad(leaf, ((0, rows - leaf.shape[0]), *((0, 0),) * (leaf.ndim - 1)), mode="edge")

    return jax.tree.map(fill, batch)


def densify(batch: Batch, count: int) -> jax.Array:
    """A batch -> its rows as a dense `[B, I]` array; `count` is I."""
    chex.assert_equal_shape([batch.items, batch.values])
    rows = jnp.arange(batch.items.shape[0])[:, None]
    return jnp.zeros((batch.items.shape[0], count)).at[rows, batch.items].set(batch.values, mode="drop")


def target_rows(batch: Batch, count: int) -> tuple[jax.Array, jax.Array | float]:
    """A batch -> what is to be predicted `[B, I]`, and the weight of each entry, `[B, I]`, or 1 of all; `count` is I.

    An entry that is not one of a user's cells has the target 0 and the weight 1.
    """
    targets = densify(batch._replace(values=batch.values if batch.targets is None else batch.targets), count)
    return targets, 1.0 if batch.weights is None else 1.0 + densify(batch._replace(values=batch.weights - 1.0), count)


def weighted_targets(batch: Batch) -> Batch:
    """The batch whose values are what is to be predicted times its weight: all that a loss needs which is linear in the
    targets.
    """
    targets = batch.values if batch.targets is None else batch.targets
    return batch._replace(values=targets if batch.weights is None else targets * batch.weights)


def drop_inputs(batch: Batch, rate: float, count: int, *, dropout_key: jax.Array) -> Batch:
    """Hide a share `rate` of each user's items and scale the rest by 1 / (1 - rate): inputs alone; `count` is I.

    Where `product` reads rows one by one, what is hidden is left out, so that it is not read; elsewhere its value is 0.
    """
    kept = jax.random.bernoulli(dropout_key, 1.0 - rate, batch.values.shape)
    values = batch.values / (1.0 - rate)
    if not reads_rows(batch, count):
        return batch._replace(values=jnp.where(kept, values, 0.0), targets=None, weights=None)
    places = _places(kept, _count(batch.items, count))
    cells = partial(jnp.take_along_axis, indices=places, axis=1, mode="fill")
    return batch._replace(
        items=cells(batch.items, fill_value=count), values=cells(values, fill_value=0), targets=None, weights=None
    )


def _places(kept: jax.Array, ends: jax.Array) -> jax.Array:
    """Which cells are kept `[B, L]`, of the first `ends` `[B]` -> where they are, in order, then L. `[B, L]`

    A loop over what is there: a scatter of sums takes all of `[B, L]`, and six times as long where rows are uneven.
    """
    length = kept.shape[1]

    def of_row(row: tuple[jax.Array, jax.Array]) -> jax.Array:
        kept, end = row

        def note(cell: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            number, places = state
            return number + kept[cell], places.at[number].set(cell)

        # The place behind the last kept cell is written over and over, so there is one more than cells.
        number, places = jax.lax.fori_loop(0, end, note, (jnp.int32(0), jnp.zeros(length + 1, jnp.int32)))
        return jnp.where(jnp.arange(length) < number, places[:length], length)

    return jax.lax.map(of_row, (kept, ends))


def is_short(length: int, count: int) -> bool:
    """Whether a padded length is so small a share of `count` columns that a CPU reads rows one by one."""
    return length < LONGEST_SHARE * count


def reads_rows(batch: Batch, count: int) -> bool:
    """Whether `product` reads rows of a matrix of `count` rows one by one, left to itself."""
    return is_short(batch.items.shape[1], count) and devices.on_cpu()


def product(batch: Batch, matrix: jax.Array, *, by_rows: bool | None = None) -> jax.Array:
    """The rows of a batch times a matrix `[I, D]` -> `[B, D]`, differentiable in the values and the matrix.

    Args:
      batch: rows; its items of one row differ.
      matrix: `[I, D]`.
      by_rows: read only the rows of the matrix that a customer's items name, one by one, instead of multiplying dense
        rows: what is quick on a CPU for short histories. None: on a CPU where the padded length is a small share of I.
    """
    if batch.tap is not None:
        return batch.tap.added(batch, product(batch._replace(tap=None), matrix, by_rows=by_rows))
    if by_rows is None:
        by_rows = is_short(batch.items.shape[1], matrix.shape[0])
    if by_rows and devices.on_cpu():
        return _sum_of_rows(jnp.asarray(batch.items), jnp.asarray(batch.values), matrix)
    return matmul(densify(batch, matrix.shape[0]), matrix)


@jax.custom_vjp
def _sum_of_rows(items: jax.Array, values: jax.Array, matrix: jax.Array) -> jax.Array:
    def one(row: tuple[jax.Array, jax.Array]) -> jax.Array:
        own, weights = row
        return _weighted_sum(own, weights, matrix, 0, _count(own, matrix.shape[0]))

    return jax.lax.map(one, (items, values))


def _weighted_sum(
    items: jax.Array, weights: jax.Array, matrix: jax.Array, first: jax.Array | int, end: jax.Array
) -> jax.Array:
    """The rows of a matrix `[I, D]` that cells from `first` up to `end` name, each times its weight, summed. `[D]`."""

    def add(step: jax.Array, total: jax.Array) -> jax.Array:
        for within in range(CELLS_PER_STEP):
            cell = first + step * CELLS_PER_STEP + within
            total = total + jnp.where(cell < end, weights[cell] * matrix[items[cell]], 0.0)
        return total

    steps = (end - first + CELLS_PER_STEP - 1) // CELLS_PER_STEP
    return jax.lax.fori_loop(0, steps, add, jnp.zeros(matrix.shape[1], matrix.dtype))


def _count(items: jax.Array, count: int) -> jax.Array:
    """How many items of padded rows `[..., L]` are there; they stand before the padding. `[...]`"""
    return (items < count).sum(axis=-1)


def _forward(items: jax.Array, values: jax.Array, matrix: jax.Array):
    return _sum_of_rows(items, values, matrix), (items, values, matrix)


def _backward(kept: tuple[jax.Array, jax.Array, jax.Array], gradient: jax.Array):
    items, values, matrix = kept

    def of_row(row: jax.Array, total: jax.Array) -> jax.Array:
        def add(position: jax.Array, total: jax.Array) -> jax.Array:
            return total.at[items[row, position]].add(values[row, position] * gradient[row])

        return jax.lax.fori_loop(0, _count(items[row], matrix.shape[0]), add, total)

    rows = matrix.at[items].get(mode="fill", fill_value=0)  # dropped by the compiler where no one asks for it
    return (
        None,
        jnp.einsum("bld,bd->bl", rows, gradient),
        jax.lax.fori_loop(0, items.shape[0], of_row, jnp.zeros_like(matrix)),
    )


_sum_of_rows.defvjp(_forward, _backward)


def sparse_product(rows: SparseRows, matrix: jax.Array) -> jax.Array:
    """The rows `[n, m]` of a sparse matrix times a dense matrix `[m, D]` -> `[n, D]`.

    On a CPU row by row, as many multiplications as there are cells; elsewhere as products of dense matrices, of as many
    rows at a time as `DENSE_CELLS` holds.
    """
    if not devices.on_cpu():
        return _product_of_dense_rows(rows, matrix)

    def one(span: tuple[jax.Array, jax.Array]) -> jax.Array:
        return _weighted_sum(rows.items, rows.values, matrix, *span)

    return jax.lax.map(one, (rows.starts[:-2], rows.starts[1:-1]))


def _product_of_dense_rows(rows: SparseRows, matrix: jax.Array) -> jax.Array:
    count, cells = rows.starts.shape[0] - 2, rows.items.shape[0]
    at_once = min(count, max(1, DENSE_CELLS // matrix.shape[0]))
    firsts = jnp.arange(0, count, at_once)
    row = jnp.repeat(jnp.arange(count + 1), jnp.diff(rows.starts), total_repeat_length=cells)

    def some(first: jax.Array) -> jax.Array:
        # Rows before the first would count from the end: they go where those behind the last go, out of range.
        place = jnp.where(row < first, at_once, row - first)
        dense = jnp.zeros((at_once, matrix.shape[0])).at[place, rows.items].add(rows.values, mode="drop")
        return jnp.matmul(dense, matrix, precision="highest")

    return jax.lax.map(some, firsts).reshape(-1, matrix.shape[1])[:count]


def scoring_chunk(count: int) -> int:
    """How many users to score at once for I = `count` items: about 64 MiB of float32 scores, 8 to 512 users."""
    return int(np.clip(1 << max(0, (2**24 // max(count, 1)).bit_length() - 1), 8, 512))
