from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend.core import jaxprs_in_params

from aejax import batching

# Few shapes, because every new one is compiled; the cells are free.
densify = jax.jit(batching.densify, static_argnames="count")
gather_rows = jax.jit(batching.gather_rows, static_argnames=("length", "count"))
epoch_order = jax.jit(batching.epoch_order, static_argnames=("users", "batch_size"))
few = settings(deadline=None, max_examples=20, derandomize=True)


@st.composite
def matrices(draw: st.DrawFn) -> sp.csr_array:
    shape = draw(st.sampled_from([(1, 1), (5, 4)]))
    cells = st.sampled_from([0.0, 0.0, 0.5, 1.0, 7.0])
    dense = draw(st.lists(cells, min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
    return sp.csr_array(np.array(dense, dtype=np.float32).reshape(shape))


@few
@given(matrices(), st.data())
def test_gathered_rows_are_the_rows_in_the_order_asked_for(matrix, data):
    users, items = matrix.shape
    # Index U is padding: an empty row.
    asked = np.array(data.draw(st.lists(st.integers(0, users), min_size=4, max_size=4)), dtype=np.int32)
    rows, length = batching.sparse_rows(matrix)
    batch = gather_rows(rows, jnp.asarray(asked), length, items)
    expected = np.vstack([matrix.toarray(), np.zeros((1, items), np.float32)])[asked]
    np.testing.assert_array_equal(densify(batch, items), expected)
    padding = np.asarray(batch.items) == items
    assert np.all(np.asarray(batch.values)[padding] == 0)
    np.testing.assert_array_equal((~padding).sum(axis=1), (expected != 0).sum(axis=1))
    np.testing.assert_array_equal(batch.users, asked)


@few
@given(matrices(), st.integers(0, 2))
def test_padded_rows_are_the_rows_and_then_empty_ones(matrix, more):
    users, items = matrix.shape
    batch = batching.pad_rows(matrix, rows=users + more)
    dense = np.asarray(densify(batch, items))
    np.testing.assert_array_equal(dense[:users], matrix.toarray())
    np.testing.assert_array_equal(dense[users:], 0)
    assert batch.items.shape == (users + more, batching.bucket(batching.longest_row(matrix)))
    assert np.all(batch.values[batch.items == items] == 0)


def test_rows_default_to_those_of_the_matrix():
    matrix = sp.csr_array(np.eye(3, 4, dtype=np.float32))
    np.testing.assert_array_equal(batching.densify(batching.pad_rows(matrix), 4), np.eye(3, 4))


def test_a_matrix_without_cells_gives_empty_rows():
    matrix = sp.csr_array((2, 3), dtype=np.float32)
    rows, length = batching.sparse_rows(matrix)
    gathered = batching.gather_rows(rows, jnp.arange(3), length, 3)
    np.testing.assert_array_equal(batching.densify(gathered, 3), np.zeros((3, 3)))
    np.testing.assert_array_equal(batching.densify(batching.pad_rows(matrix), 3), np.zeros((2, 3)))


def test_the_last_row_does_not_run_into_its_neighbour():
    # The longest row comes first, so that gathering the last one reads beyond the cells.
    matrix = sp.csr_array(np.array([[1, 2, 3, 4], [0, 0, 0, 5]], dtype=np.float32))
    rows, length = batching.sparse_rows(matrix)
    assert length == 4
    batch = batching.gather_rows(rows, jnp.array([1, 2]), length, 4)
    np.testing.assert_array_equal(batch.items, [[3, 4, 4, 4], [4, 4, 4, 4]])
    np.testing.assert_array_equal(batch.values, [[5, 0, 0, 0], [0, 0, 0, 0]])


@few
@given(st.sampled_from([(1, 1), (5, 2), (6, 3), (7, 10)]), st.integers(0, 2**31 - 1))
def test_an_epoch_holds_every_user_once_and_pads_only_the_last_batch(sizes, seed):
    users, batch_size = sizes
    order = np.asarray(epoch_order(jax.random.key(seed), users, batch_size))
    assert order.shape == (-(-users // batch_size), batch_size)
    np.testing.assert_array_equal(np.sort(order.ravel()[:users]), np.arange(users))
    np.testing.assert_array_equal(order.ravel()[users:], users)


def test_the_order_of_an_epoch_is_its_keys():
    def order(seed: int) -> list[int]:
        return batching.epoch_order(jax.random.key(seed), 50, 7).ravel().tolist()

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(1)[:50] != list(range(50))


@few
@given(matrices(), st.integers(0, 3))
def test_filled_rows_repeat_the_last_customer(matrix, more):
    users, items = matrix.shape
    filled = batching.fill_rows(batching.pad_rows(matrix), users + more)
    dense = matrix.toarray()
    np.testing.assert_array_equal(densify(filled, items), np.vstack([dense, *[dense[-1:]] * more]))


def test_fill_rows_takes_any_encoded_batch():
    filled = batching.fill_rows({"a": np.array([1, 2]), "b": np.array([[[1]], [[9]]])}, 4)
    np.testing.assert_array_equal(filled["a"], [1, 2, 2, 2])
    np.testing.assert_array_equal(filled["b"].ravel(), [1, 9, 9, 9])


@given(st.integers(0, 10**7))
def test_a_bucket_is_the_smallest_power_of_two_that_holds_the_length(length):
    size = batching.bucket(length)
    assert size >= length
    assert size & (size - 1) == 0
    assert size == 8 or size < 2 * length


@pytest.mark.parametrize(("length", "size"), [(0, 8), (8, 8), (9, 16), (16, 16), (17, 32), (1024, 1024), (1025, 2048)])
def test_bucket_at_its_edges(length, size):
    assert batching.bucket(length) == size


@given(st.integers(0, 10**8))
def test_a_scoring_chunk_stays_near_64_mib(items):
    chunk = batching.scoring_chunk(items)
    assert 8 <= chunk <= 512
    assert chunk == 8 or 4 * chunk * items <= 2**26
    assert chunk == 512 or 4 * 2 * chunk * items > 2**26


def test_densify_refuses_unequal_shapes():
    with pytest.raises(AssertionError):
        batching.densify(batching.Batch(jnp.zeros((2, 3), jnp.int32), jnp.zeros((2, 1))), 5)


@pytest.mark.parametrize("by_rows", [False, True])
def test_a_product_and_its_gradients_are_those_of_dense_rows(by_rows):
    rng = np.random.default_rng(0)
    rows = sp.csr_array(sp.random(6, 40, 0.2, rng=rng, dtype=np.float32))
    matrix, weight = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((40, 5), (6, 5)))
    batch = batching.pad_rows(sp.vstack([rows, sp.csr_array((1, 40))]), rows=7)

    def total(values, matrix, product):
        return (product(batch._replace(values=values), matrix)[:6] * weight).sum()

    def dense(batch, matrix):
        return batching.densify(batch, 40) @ matrix

    found = jax.jit(lambda batch: batching.product(batch, matrix, by_rows=by_rows))(batch)
    np.testing.assert_allclose(found[:6], rows @ np.asarray(matrix), atol=1e-5)
    assert not np.asarray(found[6]).any()
    product = partial(batching.product, by_rows=by_rows)
    for own, expected in zip(
        *(jax.grad(total, (0, 1))(batch.values, matrix, f) for f in (product, dense)), strict=True
    ):
        np.testing.assert_allclose(own, expected, atol=1e-5)


def test_what_dropout_hides_is_not_read_where_rows_are_read_one_by_one(monkeypatch):
    rng = np.random.default_rng(0)
    rows = sp.csr_array(sp.random(6, 40, 0.3, rng=rng, dtype=np.float32))
    batch = batching.pad_rows(sp.vstack([rows, sp.csr_array((1, 40))]), rows=7)
    matrix = jnp.asarray(rng.normal(size=(40, 5)), jnp.float32)
    assert not batching.reads_rows(batch, 40)
    hidden = batching.drop_inputs(batch._replace(targets=batch.values), 0.5, 40, dropout_key=jax.random.key(4))
    monkeypatch.setattr(batching, "LONGEST_SHARE", 100.0)
    assert batching.reads_rows(batch, 40) == (jax.default_backend() == "cpu")
    left_out = batching.drop_inputs(batch._replace(targets=batch.values), 0.5, 40, dropout_key=jax.random.key(4))
    for row, (items, values) in enumerate(zip(hidden.items, hidden.values, strict=True)):
        kept = np.flatnonzero(values)
        np.testing.assert_array_equal(left_out.items[row, : len(kept)], items[kept])
        np.testing.assert_array_equal(left_out.values[row, : len(kept)], values[kept])
        assert (left_out.items[row, len(kept) :] == 40).all() and not left_out.values[row, len(kept) :].any()
    assert left_out.targets is None and hidden.targets is None  # they belong to cells that are not there any more

    def total(values, matrix, batch):
        dropped = batching.drop_inputs(batch._replace(values=values), 0.5, 40, dropout_key=jax.random.key(4))
        found = batching.product(dropped, matrix)
        return jnp.sin(found).sum(), found

    both = jax.value_and_grad(total, (0, 1), has_aux=True)
    own = both(batch.values, matrix, batch)
    monkeypatch.setattr(batching, "LONGEST_SHARE", 0.0)
    for one, other in zip(*map(jax.tree.leaves, (own, both(batch.values, matrix, batch))), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


# Off a CPU: rows one by one, in chunks of which the last is not full, in chunks that fit, and all at once.
@pytest.mark.parametrize(("on_cpu", "at_once"), [(True, 1), (False, 0), (False, 3), (False, 5), (False, 99)])
def test_a_sparse_product_is_that_of_the_dense_matrix(on_cpu, at_once, monkeypatch):
    monkeypatch.setattr(batching.devices, "on_cpu", lambda: on_cpu)
    monkeypatch.setattr(batching, "DENSE_CELLS", 11 * at_once)
    rng = np.random.default_rng(0)
    cells = sp.csr_array(sp.random(7, 11, 0.4, rng=rng, dtype=np.float32))
    matrix = rng.normal(size=(11, 5)).astype(np.float32)
    for sparse in (cells, sp.csr_array(sp.vstack([sp.csr_array((1, 11)), cells, sp.csr_array((2, 11))]))):
        found = jax.jit(lambda rows: batching.sparse_product(rows, jnp.asarray(matrix)))(
            batching.sparse_rows(sparse)[0]
        )
        np.testing.assert_allclose(found, sparse @ matrix, atol=1e-5)


def _sizes(jaxpr):
    """The number of elements of everything that a jaxpr, and what it calls, computes."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.size for variable in equation.outvars)
        for inner in jaxprs_in_params(equation.params):
            yield from _sizes(inner)


@pytest.mark.parametrize("on_cpu", [True, False])
def test_a_sparse_product_makes_no_dense_matrix_of_all_rows(on_cpu, monkeypatch):
    monkeypatch.setattr(batching.devices, "on_cpu", lambda: on_cpu)
    monkeypatch.setattr(batching, "DENSE_CELLS", 400)
    rng = np.random.default_rng(0)
    rows, _ = batching.sparse_rows(sp.csr_array(sp.random(90, 50, 0.02, rng=rng, dtype=np.float32)))
    # A function of its own: a trace is kept by function, and would be that of the other device.
    program = jax.make_jaxpr(lambda rows, matrix: batching.sparse_product(rows, matrix))(rows, jnp.zeros((50, 3)))
    assert ("dot_general" in str(program)) is not on_cpu
    sizes = list(_sizes(program.jaxpr))
    most = 12 * 8 * 3  # the result in chunks of 8 rows, the last of them filled up
    assert 90 * 3 in sizes and max(sizes) <= max(400, most) < 90 * 50


def test_short_histories_of_a_large_catalogue_need_no_dense_rows():
    batch = batching.pad_rows(sp.csr_array(np.eye(3, 8, dtype=np.float32)))
    wide = batch._replace(items=jnp.where(batch.items == 8, 4_000, batch.items))
    assert "while" in str(jax.make_jaxpr(batching.product)(wide, jnp.zeros((4_000, 2))))
    assert "3,4000" not in str(jax.make_jaxpr(batching.product)(wide, jnp.zeros((4_000, 2))))
    assert "dot_general" in str(jax.make_jaxpr(batching.product)(batch, jnp.zeros((8, 2))))
