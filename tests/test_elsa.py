"""The linear autoencoder of low rank against its equations in NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aejax import batching, registry
from aejax.interactions import Histories
from aejax.matrix import user_item_matrix
from aejax.models import elsa
from aejax.models.elsa import ELSASettings
from tests import silent

ITEMS, DIM = 30, 3


def with_factors(factors, **settings) -> Any:
    state = {"factors": jnp.asarray(factors, jnp.float32)}
    settings = ELSASettings(latent_dim=factors.shape[1], **settings)
    return registry.family("elsa").restore(state, settings, items=len(factors))


def factors_of(dim):
    """Rows of very different lengths."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(ITEMS, dim)) * rng.uniform(0.1, 10.0, size=(ITEMS, 1))


@pytest.fixture
def factors():
    return factors_of(DIM)


def slow_scores(factors, x):
    weights = np.zeros((len(factors), len(factors)))
    for i, one in enumerate(factors):
        for j, other in enumerate(factors):
            if i != j:
                weights[i, j] = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    return x @ weights


def fitted(lines, settings, on_epoch=lambda progress, record: None):
    model, _ = registry.family("elsa").fit(lines, settings, **silent.training(on_epoch=on_epoch))
    return model


@pytest.mark.parametrize("values", ["binary", "quantity"])
@pytest.mark.parametrize("longest_share", [0.0, 9.0])
def test_scores_are_cosines_with_what_was_bought_and_a_product_does_not_predict_itself(
    tiny_lines, factors, values, longest_share, monkeypatch
):
    monkeypatch.setattr(batching, "LONGEST_SHARE", longest_share)
    jax.clear_caches()
    x = user_item_matrix(tiny_lines, values).toarray().astype(np.float64)
    model = with_factors(factors, values=values)
    scores = model.scores(model.encode(Histories(tiny_lines, None)))
    np.testing.assert_allclose(scores, slow_scores(factors, x), rtol=1e-4, atol=1e-4)


def state_and_loss(factors, lines, **settings):
    """The factors, and each user's loss as a function of them."""
    model = with_factors(factors, **settings)
    batch = jax.tree.map(jnp.asarray, model.encode(Histories(lines, None)))

    def loss(state):
        return elsa._loss(nnx.merge(model.graphdef, state), batch, jnp.asarray(0), jax.random.key(0))

    return model.state(), loss


def slow_losses(factors, x):
    scores = slow_scores(factors, x)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (scores, x)]
    return np.square(unit[0] - unit[1]).sum(axis=1)


# There are 60 customers and 30 products.
each_way = pytest.mark.parametrize("dim", [DIM, 40, 100])


@each_way
@pytest.mark.parametrize("values", ["binary", "quantity"])
def test_the_loss_is_the_squared_error_between_rows_of_length_1(tiny_lines, dim, values):
    factors = factors_of(dim)
    x = user_item_matrix(tiny_lines, values).toarray().astype(np.float64)
    state, loss = state_and_loss(factors, tiny_lines, values=values)
    np.testing.assert_allclose(loss(state), slow_losses(factors, x), rtol=1e-4)


@each_way
def test_the_slope_of_the_loss_is_that_of_its_definition(tiny_lines, dim):
    factors = factors_of(dim)
    x = user_item_matrix(tiny_lines).toarray().astype(np.float64)
    state, loss = state_and_loss(factors, tiny_lines)
    slope = jax.grad(lambda state: loss(state).sum())(state)["factors"]
    step = 1e-4
    for item, part in ((0, 0), (7, 2), (29, 1)):
        moved = []
        for sign in (1, -1):
            other = factors.copy()
            other[item, part] += sign * step
            moved.append(slow_losses(other, x).sum())
        np.testing.assert_allclose(slope[item, part], (moved[0] - moved[1]) / (2 * step), rtol=1e-3, atol=1e-3)


@each_way
def test_scores_that_are_nearly_nothing_have_a_finite_loss_and_slope(tiny_lines, dim):
    """Factors at right angles: no product tells of another, and all scores are 0."""
    single = tiny_lines.take(np.unique(tiny_lines.user, return_index=True)[1])
    state, loss = state_and_loss(np.eye(ITEMS, dim), single)
    assert np.isfinite(loss(state)).all()
    assert np.isfinite(jax.grad(lambda state: loss(state).sum())(state)["factors"]).all()


def test_the_loss_depends_neither_on_the_length_of_factors_nor_on_rows_of_zeros(tiny_lines, factors):
    state, loss = state_and_loss(factors, tiny_lines.take(tiny_lines.user != 3))  # customer 3 has an empty row
    longer = {"factors": state["factors"] * jnp.linspace(0.5, 2.0, ITEMS)[:, None]}
    np.testing.assert_allclose(loss(longer), loss(state), rtol=1e-4, atol=1e-5)
    slope = jax.grad(lambda state: loss(state).sum())(state)["factors"]
    assert np.abs(slope).max() > 0.1
    assert np.all(np.isfinite(slope))
    # Along a factor the loss is flat.
    np.testing.assert_allclose((slope * state["factors"]).sum(axis=1), 0.0, atol=1e-4)


def shapes_in(jaxpr):
    """Shapes of all that a program computes, in its inner programs too."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.shape for variable in equation.outvars)
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from shapes_in(inner)


@each_way
def test_no_matrix_between_products_and_where_there_are_more_users_than_factors_no_scores(tiny_lines, dim, monkeypatch):
    monkeypatch.setattr(batching, "LONGEST_SHARE", 9.0)
    state, loss = state_and_loss(factors_of(dim), tiny_lines)
    model = with_factors(factors_of(dim))
    batch = model.encode(Histories(tiny_lines, None))
    scoring = set(shapes_in(jax.make_jaxpr(model.scores)(batch).jaxpr))
    training = set(shapes_in(jax.make_jaxpr(jax.grad(lambda state: loss(state).sum()))(state).jaxpr))
    assert (60, ITEMS) in scoring  # the walk has seen the program
    assert (ITEMS, dim) in training
    assert (ITEMS, ITEMS) not in scoring | training
    assert ((60, ITEMS) in training) == (dim > 60)


def test_training_lowers_the_loss_and_a_run_stores_the_factors_alone(tiny_lines):
    losses = []
    settings = ELSASettings(latent_dim=DIM, epochs=20, batch_size=16, learning_rate=0.03)
    model = fitted(tiny_lines, settings, on_epoch=lambda progress, record: losses.append(record["loss"]))
    # Two tastes: three factors are enough to tell them apart.
    assert losses[-1] < 0.9 * losses[0]
    assert {name: array.shape for name, array in model.state().items()} == {"factors": (ITEMS, DIM)}


def test_an_empty_row_of_the_last_batch_spoils_no_step(tiny_lines):
    model = fitted(tiny_lines, ELSASettings(latent_dim=DIM, epochs=3, batch_size=7))
    assert np.all(np.isfinite(model.state()["factors"]))
