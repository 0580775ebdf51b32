"""Lazy Adam: Adam whose moments and parameters of a row stand still in an update that has no gradient for it.

The rows are those of an input layer's kernel `[I, D]`, of which an update reads what the batch's products name. It is
the LazyAdam of TensorFlow Addons (`tfa.optimizers.LazyAdam`) and PyTorch's `torch.optim.SparseAdam`, with the constants
of Kingma and Ba (2015), https://arxiv.org/abs/1412.6980. From Adam it differs in this alone:

* a row that no product of the batch names keeps its moments, which Adam lets decay, and its parameters, which Adam
  goes on to move by what is left of the first moment. What dropout hides is not named, nor is a cell whose value is 0.
* the corrections of the moments' start at 0 go by the number of all updates, not of those that a row was in.

All other parameters are Adam's. No gradient `[I, D]` is made where a CPU reads rows one by one, and no row is read or
written that is not named: of Adam's 28 bytes for a parameter and update the other rows cost none. Elsewhere the same
numbers come from a dense gradient and a mask.

Legend: I items, B batch, L padded length, D columns.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from aejax import batching
from aejax.training import LossFunction, TrainState

FIRST_DECAY, SECOND_DECAY, EPSILON = 0.9, 0.999, 1e-8  # Adam's, and those of `optax.adam`


@dataclasses.dataclass(frozen=True)
class LazyAdam:
    """The optimizer of a dictionary of parameters.

    Attributes:
      learning_rate: of every parameter.
      rows: keys that lead to the matrix `[I, D]`, which a loss reads by one `batching.product` with a batch's rows and
        in no other way: any other gradient of it is left out.
    """

    learning_rate: float
    rows: tuple[str | int, ...]

    def init(self, params: dict[str, Any]) -> tuple[optax.OptState, jax.Array, jax.Array]:
        """Adam's state of all other parameters, and the two moments of the matrix."""
        matrix = _at(params, self.rows)
        rest = _with(params, self.rows, None)
        return optax.adam(self.learning_rate).init(rest), jnp.zeros_like(matrix), jnp.zeros_like(matrix)


def lazy_step(
    state: TrainState[Any],
    batch: batching.Batch,
    weight: jax.Array,
    key: jax.Array,
    *,
    loss: LossFunction,
    optimizer: LazyAdam,
) -> tuple[TrainState[Any], jax.Array]:
    """`training.train_step` by lazy Adam."""
    matrix, rest = _at(state.params, optimizer.rows), _with(state.params, optimizer.rows, None)
    opt_state: Any = state.opt_state
    of_rest, first, second = opt_state

    def mean_loss(rest: Any, offset: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
        # The matrix itself is a constant: its gradient is the product of the rows read and the offset's gradient.
        tap = batching.Tap(offset)
        params = _with(rest, optimizer.rows, matrix)
        total = (loss(params, batch._replace(tap=tap), state.step, key) * weight).sum()
        return total / weight.sum(), (total, *tap.cells())

    offset = jnp.zeros((batch.items.shape[0], matrix.shape[1]))
    (grads, outer), (total, items, values) = jax.grad(mean_loss, argnums=(0, 1), has_aux=True)(rest, offset)
    adam = optax.adam(optimizer.learning_rate)
    updates, of_rest = adam.update(grads, of_rest, rest)
    rest = optax.apply_updates(rest, updates)
    cells = batching.Batch(items, values)
    matrix, first, second = update_rows(matrix, first, second, state.step + 1, cells, outer, optimizer.learning_rate)
    params = _with(rest, optimizer.rows, matrix)
    return TrainState(params, (of_rest, first, second), state.step + 1), total  # pyright: ignore[reportArgumentType]


def update_rows(
    matrix: jax.Array,
    first: jax.Array,
    second: jax.Array,
    number: jax.Array,
    cells: batching.Batch,
    outer: jax.Array,
    learning_rate: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The matrix `[I, D]` and its moments after an update.

    Args:
      matrix: `[I, D]`.
      first: `[I, D]`, the first moment.
      second: `[I, D]`, the second one.
      number: of this update, from 1.
      cells: what the batch read, `[B, L]`.
      outer: `[B, D]`: row i of the gradient is the sum of `value * outer[b]` over the cells of rows b that name i.
      learning_rate: of this matrix.
    """
    first_left, second_left = 1.0 - FIRST_DECAY**number, 1.0 - SECOND_DECAY**number

    def moved(row: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
        return row - learning_rate * (first / first_left) / (jnp.sqrt(second / second_left) + EPSILON)

    def first_of(old: jax.Array, gradient: jax.Array) -> jax.Array:
        return FIRST_DECAY * old + (1.0 - FIRST_DECAY) * gradient

    def second_of(old: jax.Array, gradient: jax.Array) -> jax.Array:
        return SECOND_DECAY * old + (1.0 - SECOND_DECAY) * jnp.square(gradient)

    count = matrix.shape[0]
    if not batching.reads_rows(cells, count):
        rows = batching.densify(cells, count)
        is_named = (rows != 0).any(axis=0)[:, None]
        gradient = jnp.matmul(rows.T, outer)
        first = jnp.where(is_named, first_of(first, gradient), first)
        second = jnp.where(is_named, second_of(second, gradient), second)
        return jnp.where(is_named, moved(matrix, first, second), matrix), first, second

    chains = _chains(cells, count)
    named, rows = _named(chains, count)
    values = cells.values.reshape(-1)
    length = cells.items.shape[1]

    def to_moments(index: jax.Array, moments: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        def add(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            cell, total = state
            return chains[count + 1 + cell], total + values[cell] * _row(outer, cell // length)

        start = (chains[rows[index]], jnp.zeros((1, matrix.shape[1])))
        _, gradient = jax.lax.while_loop(lambda state: state[0] >= 0, add, start)
        first, second = moments
        return (
            _with_row(first, rows[index], first_of(_row(first, rows[index]), gradient)),
            _with_row(second, rows[index], second_of(_row(second, rows[index]), gradient)),
        )

    def to_matrix(index: jax.Array, matrix: jax.Array) -> jax.Array:
        row = rows[index]
        return _with_row(matrix, row, moved(_row(matrix, row), _row(first, row), _row(second, row)))

    # Two loops: in one, a row of the matrix would be written from moments that are being written, and XLA would copy
    # all of them for each row.
    first, second = jax.lax.fori_loop(0, named, to_moments, (first, second))
    return jax.lax.fori_loop(0, named, to_matrix, matrix), first, second


def _chains(cells: batching.Batch, count: int) -> jax.Array:
    """Cells `[B, L]` -> those that name one product as a chain: `[I + 1 + B L]`, at i a cell that names i, at I + 1 + c
    another one that names what the cell c does, -1 at a chain's end. Cells that name nothing hang on I.
    """
    batch_size, length = cells.items.shape
    items = jnp.where(cells.values != 0, cells.items, count)
    ends = (cells.items < count).sum(axis=1)

    def of_row(row: jax.Array, chains: jax.Array) -> jax.Array:
        def hang(position: jax.Array, chains: jax.Array) -> jax.Array:
            item, cell = items[row, position], row * length + position
            return chains.at[count + 1 + cell].set(chains[item]).at[item].set(cell)

        return jax.lax.fori_loop(0, ends[row], hang, chains)

    start = jnp.full(count + 1 + batch_size * length, -1, jnp.int32)
    return jax.lax.fori_loop(0, batch_size, of_row, start)


def _named(chains: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Chains -> how many products are named, and which, in order, `[I + 1]`."""

    def note(item: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        number, rows = state
        return number + (chains[item] >= 0), rows.at[number].set(item)

    return jax.lax.fori_loop(0, count, note, (jnp.int32(0), jnp.zeros(count + 1, jnp.int32)))


def _row(matrix: jax.Array, row: jax.Array) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(matrix, row, 1)


def _with_row(matrix: jax.Array, row: jax.Array, values: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(matrix, values, row, axis=0)


def _at(tree: Any, keys: tuple[str | int, ...]) -> Any:
    for key in keys:
        tree = tree[key]
    return tree


def _with(tree: Any, keys: tuple[str | int, ...], leaf: Any) -> Any:
    """The tree with another leaf there; None is none."""
    if not keys:
        return leaf
    return {**tree, keys[0]: _with(tree[keys[0]], keys[1:], leaf)}
