"""The inverse in parts against the dense one, and what its parts must be."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from aejax import dissection, solve
from aejax.dissection import Dissection


def matrix(cells, shape, seed=0):
    """Positive values at random cells, no customer without one."""
    rng = np.random.default_rng(seed)
    filled = np.array(cells, dtype=bool).reshape(shape)
    filled[np.arange(shape[0]), rng.integers(shape[1], size=shape[0])] |= ~filled.any(axis=1)
    return sp.csr_array((filled * rng.uniform(0.5, 2.0, shape)).astype(np.float32))


def planted(groups=4, users=30, items=20, travellers=8, everywhere=3, seed=0):
    """Groups of customers with products of their own; travellers buy of all, and some products are bought by all."""
    rng = np.random.default_rng(seed)
    cells = sp.block_diag([rng.random((users, items)) < 0.3 for _ in range(groups)]).toarray().astype(bool)
    cells = np.vstack([cells, rng.random((travellers, groups * items)) < 0.3])
    cells = np.hstack([cells, rng.random((len(cells), everywhere)) < 0.3])
    mixed = cells[rng.permutation(len(cells))][:, rng.permutation(cells.shape[1])]
    return matrix(mixed, mixed.shape, seed)


def unstructured(users=60, items=40):
    return matrix(np.random.default_rng(0).random((users, items)) < 0.3, (users, items))


def ridge_of(rows, seed=1):
    return np.random.default_rng(seed).uniform(0.5, 5.0, rows.shape[1])


def assert_inverse(rows, ridge, parts):
    """`inverse` is the dense one in the dissection's order, and exactly symmetric."""
    found = dissection.inverse(rows, ridge, parts)
    dense = rows.toarray().astype(np.float64)[parts.order]
    expected = np.linalg.inv(dense / ridge @ dense.T + np.eye(len(dense)))
    assert np.array_equal(found, found.T)
    assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def assert_separated(rows, parts):
    """No customer of a leaf has a product of another."""
    user, item = rows.nonzero()
    of_user, of_item = parts.customers[user], parts.products[item]
    assert ((of_user == of_item) | (of_user == parts.leaves) | (of_item == parts.leaves)).all()


@pytest.fixture(autouse=True)
def memory_that_was_used_before(monkeypatch):
    """New arrays hold NaN, so that what is read before it is written shows."""
    empty = solve.empty

    def used(rows, columns):
        array = empty(rows, columns)
        array.fill(np.nan)
        return array

    monkeypatch.setattr(solve, "empty", used)


@pytest.fixture(params=[{}, {"LEAST": 4, "PIECE": 3, "TILE": 5}], ids=["large-blocks", "small-blocks"])
def blocks(request, monkeypatch):
    """The same in blocks of which these matrices have several."""
    for name, rows in request.param.items():
        monkeypatch.setattr(solve, name, rows)
    if request.param:
        monkeypatch.setattr(dissection.solve, "THROUGH_SPARSE", 7)


@pytest.mark.parametrize("leaves", [2, 3, 4, 8])
@pytest.mark.parametrize(
    "rows",
    [planted(), planted(everywhere=0), planted(travellers=0), planted(travellers=0, everywhere=0), unstructured()],
    ids=["planted", "no-product-for-all", "no-traveller", "no-tie", "unstructured"],
)
def test_the_inverse_in_parts_is_the_dense_inverse(rows, leaves, blocks):
    parts = dissection.dissect(rows, leaves)
    assert_separated(rows, parts)
    assert_inverse(rows, ridge_of(rows), parts)
    assert_inverse(rows, np.full(rows.shape[1], 80.0), parts)


def test_the_separator_may_be_customers_alone_or_products_alone(blocks):
    rows = planted(users=12, items=10)
    user, item = rows.nonzero()
    for among_customers in (True, False):
        customers, products = np.arange(rows.shape[0]) % 3, np.arange(rows.shape[1]) % 3
        crosses = customers[user] != products[item]
        if among_customers:
            customers[np.unique(user[crosses])[:-1]] = 3  # all but one, whose products are the separator's too
            products[item[user == np.unique(user[crosses])[-1]]] = 3
        else:
            products[np.unique(item[crosses])] = 3
        parts = Dissection(customers, products, 3)
        assert_separated(rows, parts)
        assert_inverse(rows, ridge_of(rows), parts)


@pytest.mark.parametrize("own_products", [True, False])
def test_leaves_may_be_empty_and_one_may_have_all(own_products, blocks):
    rows = unstructured()
    users, items = rows.shape
    everything = Dissection(np.full(users, 1), np.full(items, 1 if own_products else 3), 3)
    assert_separated(rows, everything)
    assert_inverse(rows, ridge_of(rows), everything)
    nothing = Dissection(np.full(users, 3), np.full(items, 0 if own_products else 3), 3)
    assert_inverse(rows, ridge_of(rows), nothing)


def test_what_does_not_separate_is_no_inverse():
    """The test of the inverse can fail: with a customer in the wrong leaf."""
    rows = planted()
    parts = dissection.dissect(rows, 4)
    wrong = Dissection(np.where(parts.customers == 4, 0, parts.customers), parts.products, 4)
    with pytest.raises(AssertionError):
        assert_separated(rows, wrong)
    with pytest.raises(AssertionError):
        assert_inverse(rows, ridge_of(rows), wrong)


@given(st.integers(2, 5), st.integers(0, 10**6), st.floats(0.05, 0.6))
def test_every_dissection_separates_and_inverts(leaves, seed, density):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(leaves + 1, 25, size=2))
    rows = matrix(rng.random(shape) < density, shape, seed)
    parts = dissection.dissect(rows, leaves)
    assert_separated(rows, parts)
    assert_inverse(rows, ridge_of(rows), parts)


@given(st.lists(st.booleans(), min_size=20, max_size=20))
def test_the_cover_is_the_least(cells):
    edges = sp.csr_array(np.array(cells, dtype=float).reshape(4, 5))
    rows, columns = dissection.vertex_cover(edges)
    start, end = edges.nonzero()
    assert (rows[start] | columns[end]).all()

    def covers(chosen):
        return all(row in chosen or 4 + column in chosen for row, column in zip(start, end, strict=True))

    least = next(
        count for count in range(10) if any(covers(set(chosen)) for chosen in itertools.combinations(range(9), count))
    )
    assert rows.sum() + columns.sum() == least


def test_a_matrix_with_groups_is_dissected_into_them_and_another_is_left_whole():
    rows = planted(users=100, items=40)
    parts = dissection.choose(rows)
    assert parts.leaves == 4
    assert parts.sizes[-1] <= 8 and (parts.products == 4).sum() <= 3
    assert dissection.work(parts, rows) < 0.3 * rows.shape[0] ** 3
    single = dissection.choose(unstructured())
    assert single.leaves == 1 and not single.customers.any() and not single.products.any()
    assert np.array_equal(single.order, np.arange(60))
    assert dissection.work(single, unstructured()) == 60.0**3
    assert_inverse(unstructured(), ridge_of(unstructured()), single)


def test_the_work_is_that_of_the_products_in_the_docstring():
    """Two leaves of 3 and 2 customers, each tied to the one customer of the separator, and the first to its product."""
    rows = matrix(
        [[1, 0, 0], [1, 0, 1], [1, 0, 0], [0, 1, 0], [0, 1, 0], [1, 1, 0]],
        (6, 3),
    )
    parts = Dissection(np.array([0, 0, 0, 1, 1, 2]), np.array([0, 1, 2]), 2)
    inverses, separator = 27 + 8 + 1 + 1, 3 * 1 + 3 * 1
    towards, pairs, own = 2 * 2 * (3 * 2 + 2 * 1), 2 * 3 * 2 * 1, 9 * 2 + 4 * 1
    assert dissection.work(parts, rows) == inverses + separator + towards + pairs + own


def test_two_runs_are_the_same_in_every_bit():
    rows = planted()
    first, second = dissection.choose(rows), dissection.choose(rows.copy())
    assert np.array_equal(first.customers, second.customers) and np.array_equal(first.products, second.products)
    ridge = ridge_of(rows)
    assert np.array_equal(dissection.inverse(rows, ridge, first), dissection.inverse(rows, ridge, second))


def test_what_is_not_positive_definite_is_refused():
    rows = planted()
    with pytest.raises(np.linalg.LinAlgError):
        dissection.inverse(rows, np.full(rows.shape[1], -0.01), dissection.choose(rows))
