"""RecVAE against a slow NumPy twin of the paper's equations."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.stats import norm

from aejax import batching, losses
from aejax.interactions import Histories
from aejax.models import recvae
from aejax.models.recvae import RecVAESettings
from aejax.training import TrainState

ITEMS, HIDDEN, LATENT, USERS = 7, 6, 3, 3
SETTINGS = RecVAESettings(hidden_dim=HIDDEN, latent_dim=LATENT, gamma=0.3, batch_size=2, epochs=1)
WEIGHTS = SETTINGS.mixture_weights
ROWS = np.array([[1, 0, 1, 0, 0, 1, 0], [0, 0, 0, 2, 0, 0, 0], [1, 1, 1, 1, 3, 1, 1]], dtype=np.float64)
UNIT_ROWS = ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True)
BATCH = batching.Batch(
    jnp.asarray([[i if row[i] else ITEMS for i in range(ITEMS)] for row in ROWS], jnp.int32),
    jnp.asarray(ROWS, jnp.float32),
)


def random_params(seed: int) -> dict[str, Any]:
    """Parameters far from nought, biases and scales included."""
    build = functools.partial(recvae.RecVAE, ITEMS, hidden_dim=HIDDEN, latent_dim=LATENT)
    abstract = nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: build(rngs=nnx.Rngs(params=0)))))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / 2, jnp.float32), abstract)


def network_of(params: dict[str, Any]) -> Any:
    return recvae.FAMILY.restore(params, SETTINGS, items=ITEMS)


def module_of(params: dict[str, Any]) -> Any:
    return nnx.merge(network_of(params).graphdef, params)


def dense(layer: dict[str, Any], x: np.ndarray) -> np.ndarray:
    return x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64)


def slow_encoder(encoder: dict[str, Any], x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    outputs: list[np.ndarray] = []
    for number in range(5):
        h = dense(encoder["layers"][number], outputs[-1] if outputs else x)
        for earlier in outputs:
            h = h + earlier
        h = h / (1 + np.exp(-h))
        h = (h - h.mean(axis=1, keepdims=True)) / np.sqrt(h.var(axis=1, keepdims=True) + 0.1)
        layer_norm = encoder["norms"][number]
        outputs.append(h * np.asarray(layer_norm["scale"], np.float64) + np.asarray(layer_norm["bias"], np.float64))
    mean_and_log_var = dense(encoder["code"], outputs[-1])
    return mean_and_log_var[:, :LATENT], mean_and_log_var[:, LATENT:]


def slow_nll(logits: np.ndarray) -> np.ndarray:
    return (ROWS * (np.log(np.exp(logits).sum(axis=1, keepdims=True)) - logits)).sum(axis=1)


def slow_kl(z: np.ndarray, posterior: Any, old: Any, weights: Any = WEIGHTS) -> np.ndarray:
    prior = weights[0] * norm.pdf(z)
    prior = prior + weights[1] * norm.pdf(z, old[0], np.exp(old[1] / 2))
    prior = prior + weights[2] * norm.pdf(z, 0.0, np.exp(10 / 2))
    return (norm.logpdf(z, posterior[0], np.exp(posterior[1] / 2)) - np.log(prior)).sum(axis=1)


def slow_sample(posterior: Any, latent_key: jax.Array, noise: float) -> np.ndarray:
    drawn = np.asarray(jax.random.normal(latent_key, (USERS, LATENT)), np.float64)
    return posterior[0] + noise * np.exp(posterior[1] / 2) * drawn


def test_scores_equal_the_twin_at_the_mean_of_the_code():
    params = random_params(0)
    expected = dense(params["decoder"], slow_encoder(params["encoder"], UNIT_ROWS)[0])
    np.testing.assert_allclose(network_of(params).scores(BATCH), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("gamma", "noise"), [(0.0, 1.0), (0.3, 1.0), (0.3, 0.2)])
def test_the_encoders_loss_equals_the_twin_with_the_old_encoder_of_the_epochs_start(gamma, noise):
    params, start = random_params(0), random_params(1)
    key = jax.random.key(5)
    got = recvae._encoder_loss(
        module_of(params), module_of(start), BATCH, jnp.array(0), jax.random.clone(key),
        dropout=0.0, gamma=gamma, noise=noise, mixture_weights=WEIGHTS,
    )  # fmt: skip
    posterior, old = slow_encoder(params["encoder"], UNIT_ROWS), slow_encoder(start["encoder"], UNIT_ROWS)
    z = slow_sample(posterior, jax.random.split(key)[1], noise)
    # The weight of the KL term is gamma for each of the user's items.
    expected = slow_nll(dense(params["decoder"], z)) + gamma * ROWS.sum(axis=1) * slow_kl(z, posterior, old)
    np.testing.assert_allclose(got, expected, rtol=1e-3)


def test_the_encoders_dropout_hides_items_from_the_new_encoder_alone():
    params, start = random_params(0), random_params(1)
    key = jax.random.key(7)
    dropout_key, latent_key = jax.random.split(key)
    got = recvae._encoder_loss(
        module_of(params), module_of(start), BATCH, jnp.array(0), jax.random.clone(key),
        dropout=0.5, gamma=0.3, noise=1.0, mixture_weights=WEIGHTS,
    )  # fmt: skip
    kept = np.asarray(jax.random.bernoulli(dropout_key, 0.5, ROWS.shape))
    assert 0 < kept[ROWS > 0].sum() < (ROWS > 0).sum()
    old = slow_encoder(start["encoder"], UNIT_ROWS)
    posterior = slow_encoder(params["encoder"], np.where(kept, 2 * UNIT_ROWS, 0.0))
    z = slow_sample(posterior, latent_key, 1.0)
    expected = slow_nll(dense(params["decoder"], z)) + 0.3 * ROWS.sum(axis=1) * slow_kl(z, posterior, old)
    np.testing.assert_allclose(got, expected, rtol=1e-3)


@pytest.mark.parametrize("noise", [1.0, 0.2])
def test_the_decoders_loss_is_the_likelihood_of_a_sample_from_the_whole_row(noise):
    params = random_params(0)
    key = jax.random.key(5)
    module = module_of(params)
    got = recvae._decoder_loss(module, module, BATCH, jnp.array(0), jax.random.clone(key), noise=noise)
    z = slow_sample(slow_encoder(params["encoder"], UNIT_ROWS), key, noise)
    np.testing.assert_allclose(got, slow_nll(dense(params["decoder"], z)), rtol=1e-3)


def test_the_kl_term_equals_its_closed_forms_where_they_exist():
    rng = np.random.default_rng(0)
    mean, log_var = (jnp.asarray(rng.normal(size=(USERS, LATENT)), jnp.float32) for _ in range(2))
    noise = jax.random.normal(jax.random.key(1), (40_000, USERS, LATENT))

    def mean_kl(old: Any, weights: tuple[float, ...]) -> np.ndarray:
        def one(noise: jax.Array) -> jax.Array:
            z = mean + jnp.exp(0.5 * log_var) * noise
            return recvae.composite_kl(z, (mean, log_var), old, mixture_weights=weights)

        return np.asarray(jax.vmap(one)(noise).mean(axis=0))

    far = (mean + 5, log_var)
    np.testing.assert_allclose(
        mean_kl(far, (1.0, 0.0, 0.0)), losses.kl_to_standard_normal(mean, log_var), rtol=0.02, atol=0.02
    )
    np.testing.assert_array_equal(mean_kl((mean, log_var), (0.0, 1.0, 0.0)), np.zeros(USERS))
    # The posterior of a moment ago, moved by one deviation in each dimension: half a nat each.
    moved = (mean + jnp.exp(0.5 * log_var), log_var)
    np.testing.assert_allclose(mean_kl(moved, (0.0, 1.0, 0.0)), np.full(USERS, LATENT / 2), rtol=0.02)


@pytest.mark.parametrize("weights", [WEIGHTS, (0.2, 0.0, 0.8), (0.0, 0.5, 0.5)])
def test_the_mixture_is_that_of_each_dimension_and_its_gradient_is_finite_far_from_every_component(weights):
    rng = np.random.default_rng(0)
    z, mean, old_mean = (rng.normal(size=(USERS, LATENT)) * 3 for _ in range(3))
    log_var, old_log_var = (rng.normal(size=(USERS, LATENT)) for _ in range(2))
    got = recvae.composite_kl(
        *as_float32((z, (mean, log_var), (old_mean, old_log_var))), mixture_weights=weights
    )  # fmt: skip
    np.testing.assert_allclose(got, slow_kl(z, (mean, log_var), (old_mean, old_log_var), weights), rtol=1e-4)

    def far(z: jax.Array) -> jax.Array:
        old = as_float32((old_mean, old_log_var))
        return recvae.composite_kl(z, as_float32((mean, log_var)), old, mixture_weights=weights).sum()

    assert np.all(np.isfinite(jax.grad(far)(jnp.full((USERS, LATENT), 1e4))))


def as_float32(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


def test_an_epoch_is_three_passes_of_the_encoder_and_one_of_the_decoder_each_with_its_moments(tiny_lines):
    stored: list[TrainState] = []
    users = len(tiny_lines.users)
    settings = RecVAESettings(hidden_dim=HIDDEN, latent_dim=LATENT, batch_size=25, epochs=2)
    model, _ = recvae.FAMILY.fit(
        tiny_lines,
        settings,
        key=jax.random.key(0),
        validate=None,
        on_epoch=lambda progress, record: stored.append(jax.device_get(progress.state)),
        resume=lambda progress: progress,
    )
    batches = -(-users // settings.batch_size)
    moments: Any = stored[-1].opt_state
    assert {part: int(adam[0].count) for part, adam in moments.items()} == {
        "encoder": 2 * 3 * batches,
        "decoder": 2 * batches,
    }
    assert stored[-1].step == 2 * 4 * batches
    assert jax.tree.structure(moments["decoder"][0].mu) == jax.tree.structure(stored[-1].params["decoder"])
    assert np.isfinite(model.scores(model.encode(Histories(tiny_lines, None)))).all()


def test_weights_and_biases_start_uniform_within_one_over_the_root_of_the_inputs():
    module = recvae.RecVAE(400, nnx.Rngs(params=0), hidden_dim=100, latent_dim=64)
    for layer, inputs in ((module.encoder.layers[0], 400), (module.encoder.code, 100), (module.decoder, 64)):
        for weights in (layer.kernel[...], layer.bias[...]):
            bound = inputs**-0.5
            assert 0.9 * bound < np.abs(weights).max() <= bound
            np.testing.assert_allclose(np.std(weights), bound / np.sqrt(3), rtol=0.15)


def test_defaults_are_those_of_the_authors():
    settings = RecVAESettings()
    assert (settings.hidden_dim, settings.latent_dim, settings.dropout) == (600, 200, 0.5)
    assert (settings.batch_size, settings.learning_rate, settings.gamma) == (500, 5e-4, 0.005)
    assert settings.mixture_weights == (0.15, 0.75, 0.1)
    assert (settings.encoder_passes, settings.decoder_passes) == (3, 1)
