"""Products in bfloat16: what is rounded, what is not, and that float32 stays what it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aejax import registry
from aejax.errors import InputError
from aejax.precision import matmul, products_in
from tests import silent


@pytest.fixture
def factors():
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((5, 40), (40, 6), (5, 6)))


def rounded(array):
    """To the 8 bits of mantissa of bfloat16, ties to even, without its type."""
    bits = np.asarray(array, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(np.float32).astype(np.float64)


def test_factors_are_rounded_and_sums_are_not_forwards_and_in_both_gradients(factors):
    left, right, weight = factors

    def loss(left, right):
        with products_in("bfloat16"):
            return (weight * matmul(left, right)).sum()

    with products_in("bfloat16"):
        found = jax.jit(matmul)(left, right)
    np.testing.assert_allclose(found, rounded(left) @ rounded(right), rtol=2e-6, atol=2e-6)
    assert found.dtype == jnp.float32 and np.abs(np.asarray(found) - np.asarray(left @ right)).max() > 1e-3
    of_left, of_right = jax.jit(jax.grad(loss, argnums=(0, 1)))(left, right)
    np.testing.assert_allclose(of_left, rounded(weight) @ rounded(right).T, rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(of_right, rounded(left).T @ rounded(weight), rtol=2e-6, atol=2e-6)


def test_float32_is_the_plain_product_and_a_compiled_function_heeds_the_setting(factors):
    left, right, _ = factors
    compiled = jax.jit(matmul)
    with products_in("float32"):
        np.testing.assert_array_equal(compiled(left, right), left @ right)
    with products_in("bfloat16"):
        assert (compiled(left, right) != left @ right).any()
    np.testing.assert_array_equal(compiled(left, right), left @ right)


NETWORKS = {
    "ae": {"hidden": "8"},
    "multvae": {"hidden": "16", "latent_dim": 4},
    "recvae": {"hidden_dim": 16, "latent_dim": 4},
    "elsa": {"latent_dim": 8},
    "nextorder": {"latent_dim": 8, "own_hidden": 4},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_trained_in_bfloat16_is_nearly_the_one_trained_in_float32(tiny_lines, name):
    def trained(precision):
        """Parameters before and after."""
        given = {**NETWORKS[name], "epochs": 3, "batch_size": 16, "precision": precision}
        started = []

        def resume(progress):
            started.extend(jax.device_get(jax.tree.leaves(progress.state.params)))
            return progress

        settings = registry.make_settings(name, given)
        model, progress = registry.family(name).fit(tiny_lines, settings, **silent.training(resume=resume))
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(model.state()))
        ended = jax.tree.leaves(progress.best_params)
        return (np.concatenate([np.ravel(leaf) for leaf in leaves]) for leaves in (started, ended))

    (start, plain), (same_start, short) = trained("float32"), trained("bfloat16")
    np.testing.assert_array_equal(start, same_start)
    plain, short = plain - start, short - start
    assert (plain != short).any()
    # Adam's steps have the size of the learning rate, whatever that of a gradient: directions are what can differ.
    assert plain @ short > 0.97 * np.linalg.norm(plain) * np.linalg.norm(short)


def test_an_unknown_precision_and_a_model_without_products_to_shorten():
    with pytest.raises(InputError, match=r'precision is "bfloat61"; did you mean "bfloat16"'):
        registry.make_settings("multvae", {"precision": "bfloat61"})
    with pytest.raises(InputError, match=r'model ease has no setting "precision"'):
        registry.make_settings("ease", {"precision": "bfloat16"})
