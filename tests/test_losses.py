from __future__ import annotations

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from jax.test_util import check_grads

from aejax import losses


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def multinomial_twin(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return np.array([-np.dot(x, scipy.special.log_softmax(row)) for row, x in zip(logits, targets, strict=True)])


def bernoulli_twin(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    p = scipy.special.expit(logits)
    return -(targets * np.log(p) + (1 - targets) * np.log1p(-p)).sum(axis=1)


def squared_twin(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return np.array([((row - x) ** 2).sum() for row, x in zip(outputs, targets, strict=True)])


def kl_twin(mean: np.ndarray, log_var: np.ndarray) -> np.ndarray:
    std = np.exp(log_var / 2)
    return (-np.log(std) + (std**2 + mean**2) / 2 - 0.5).sum(axis=1)


TWINS = {
    losses.multinomial_nll: multinomial_twin,
    losses.bernoulli_nll: bernoulli_twin,
    losses.squared_error: squared_twin,
    losses.kl_to_standard_normal: kl_twin,
}
each_loss = pytest.mark.parametrize("loss", TWINS, ids=lambda loss: loss.__name__)


@each_loss
def test_equals_the_numpy_twin_example_by_example(loss, rng):
    first = rng.normal(size=(5, 7))
    second = rng.uniform(size=(5, 7))
    got = loss(jnp.asarray(first, jnp.float32), jnp.asarray(second, jnp.float32))
    np.testing.assert_allclose(got, TWINS[loss](first, second), rtol=1e-5)


@each_loss
def test_gradients_equal_finite_differences(loss, rng):
    first = jnp.asarray(rng.normal(size=(2, 4)), jnp.float32)
    second = jnp.asarray(rng.uniform(size=(2, 4)), jnp.float32)
    check_grads(jax.jit(loss), (first, second), order=2, modes=("fwd", "rev"), eps=1e-2, atol=2e-2, rtol=2e-2)


@each_loss
def test_an_example_does_not_see_its_neighbours(loss, rng):
    first = jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)
    second = jnp.asarray(rng.uniform(size=(3, 4)), jnp.float32)
    jacobian = np.array(jax.jit(jax.jacrev(loss))(first, second))  # [B, B, I]
    own = np.eye(3, dtype=bool)
    assert np.all(jacobian[~own] == 0)
    assert np.all(np.abs(jacobian[own]).sum(axis=1) > 0)


@each_loss
def test_unequal_shapes_are_refused(loss):
    with pytest.raises(AssertionError):
        loss(jnp.zeros((2, 3)), jnp.zeros((1, 3)))


@pytest.mark.parametrize(
    ("loss", "first", "second", "expected"),
    [
        (losses.multinomial_nll, [0.0, 1.0, 2.0], [1.0, 0.0, 2.0], 3 * 2.40760596 - 4.0),
        (losses.multinomial_nll, [1000.0, 0.0], [0.0, 1.0], 1000.0),
        (losses.multinomial_nll, [3.0, -3.0], [0.0, 0.0], 0.0),
        (losses.bernoulli_nll, [0.0, 0.0], [1.0, 0.0], 2 * 0.69314718),
        (losses.bernoulli_nll, [100.0, -100.0], [1.0, 0.0], 0.0),
        (losses.bernoulli_nll, [1000.0, -1000.0], [0.0, 1.0], 2000.0),
        (losses.squared_error, [1.0, 3.0], [0.0, 1.0], 5.0),
        (losses.kl_to_standard_normal, [1.0, 2.0], [0.0, 0.0], 2.5),
        (losses.kl_to_standard_normal, [0.0], [1.0], 0.35914091),
        (losses.kl_to_standard_normal, [0.0], [-1.0], 0.18393972),
    ],
)
def test_golden_constants_also_far_out(loss, first, second, expected):
    got = loss(jnp.array([first], jnp.float32), jnp.array([second], jnp.float32))
    np.testing.assert_allclose(got, [expected], rtol=1e-6, atol=1e-6)


def test_squared_error_weighs_each_entry():
    got = losses.squared_error(jnp.array([[1.0, 3.0, 2.0]]), jnp.zeros((1, 3)), jnp.array([[1.0, 0.5, 0.0]]))
    np.testing.assert_allclose(got, [5.5])


def test_multinomial_is_the_multinomial_likelihood_up_to_its_coefficient():
    logits = np.array([0.3, -1.0, 2.0])
    counts = np.array([2, 1, 3])
    coefficient = scipy.special.gammaln(7) - scipy.special.gammaln(counts + 1).sum()
    expected = coefficient - scipy.stats.multinomial.logpmf(counts, 6, scipy.special.softmax(logits))
    got = losses.multinomial_nll(jnp.asarray(logits[None], jnp.float32), jnp.asarray(counts[None], jnp.float32))
    np.testing.assert_allclose(got, [expected], rtol=1e-5)


def test_kl_equals_its_monte_carlo_estimate(rng):
    mean = np.array([0.7, -1.2, 0.0])
    log_var = np.array([0.5, -1.0, 0.2])
    samples = mean + np.exp(log_var / 2) * rng.normal(size=(400_000, 3))
    log_ratio = scipy.stats.norm.logpdf(samples, mean, np.exp(log_var / 2)) - scipy.stats.norm.logpdf(samples)
    per_sample = log_ratio.sum(axis=1)
    error = per_sample.std() / np.sqrt(len(per_sample))
    got = losses.kl_to_standard_normal(jnp.asarray(mean[None], jnp.float32), jnp.asarray(log_var[None], jnp.float32))
    assert error < 0.01
    assert abs(float(got[0]) - per_sample.mean()) < 4 * error


def test_doctests_run():
    result = doctest.testmod(losses)
    assert result.attempted >= 2
    assert result.failed == 0
