"""MacridVAE against a twin that goes through users, concepts and items one by one."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aejax import batching
from aejax.errors import InputError
from aejax.models import macridvae
from aejax.models.macridvae import FAMILY, MacridVAE, MacridVAESettings

CONCEPTS, ITEMS, DIM, TAU = 3, 7, 4, 0.25
# The last row is one of padding; the one before has an item of which the batch knows two.
BATCH = batching.Batch(
    jnp.array([[0, 2, 5, 6], [3, 7, 7, 7], [1, 2, 7, 7], [7, 7, 7, 7]], jnp.int32),
    jnp.array([[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0], [1.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]),
)
ROWS = np.array(
    [[1, 0, 1, 0, 0, 1, 1], [0, 0, 0, 1, 0, 0, 0], [0, 1, 2, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]], dtype=np.float64
)
SEED = 5


@functools.cache
def split_module(hidden: tuple[int, ...] = (6, 5)) -> tuple[nnx.GraphDef, Any]:
    """A module whose weights are far from nought, biases included."""
    module = MacridVAE(ITEMS, nnx.Rngs(params=0), concepts=CONCEPTS, hidden=hidden, latent_dim=DIM, tau=TAU)
    graphdef, variables = nnx.split(module)
    rng = np.random.default_rng(3)
    return graphdef, jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), nnx.to_pure_dict(variables)
    )


@functools.cache
def compiled_loss(hidden: tuple[int, ...], changes: tuple[tuple[str, Any], ...]) -> Any:
    graphdef, params = split_module(hidden)
    arguments: dict[str, Any] = {"dropout": 0.0, "std": 0.0, "gumbel": False, "penalty": 0.0}
    arguments |= {"anneal_cap": 0.2, "anneal_steps": 1000} | dict(changes)
    return jax.jit(functools.partial(macridvae._loss, nnx.merge(graphdef, params), BATCH, **arguments))


def losses_of(step: int = 0, *, hidden: tuple[int, ...] = (6, 5), **changes: Any) -> np.ndarray:
    return np.asarray(compiled_loss(hidden, tuple(changes.items()))(jnp.asarray(step), jax.random.key(SEED)))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def slowly(
    params: Any,
    rows: np.ndarray,
    *,
    gumbel: np.ndarray | None = None,
    kept: np.ndarray | None = None,
    noise: np.ndarray | None = None,
    std: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """The model of the paper for rows `[B, I]`: log-probabilities `[B, I]` and KL `[B]`.

    Kept is `[K, B, I]`, what dropout multiplies the inputs with; noise is `[K, B, D]`.
    """
    plain = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    vectors, prototypes = plain["vectors"], plain["prototypes"]
    encoder = [plain["encoder"][number] for number in sorted(plain["encoder"])]
    shares = np.zeros((ITEMS, CONCEPTS))
    for i in range(ITEMS):
        odds = [
            math.exp(cosine(vectors[i], m) / TAU + (0.0 if gumbel is None else gumbel[i, k]))
            for k, m in enumerate(prototypes)
        ]
        shares[i] = np.array(odds) / sum(odds)
    log_p, kl = np.zeros(rows.shape), np.zeros(len(rows))
    for user, row in enumerate(rows):
        likelihood = np.zeros(ITEMS)
        for k in range(CONCEPTS):
            h = row * shares[:, k]
            h = h / max(np.linalg.norm(h), 1e-6)
            if kept is not None:
                h = h * kept[k, user]
            for layer in encoder[:-1]:
                h = np.tanh(h @ layer["kernel"] + layer["bias"])
            h = h @ encoder[-1]["kernel"] + encoder[-1]["bias"]
            a, b = h[:DIM], h[DIM:]
            mean, deviation = a / np.linalg.norm(a), np.exp(-b / 2)  # in units of the prior's
            # KL of N(mean, (std * deviation)^2) to N(0, std^2), without the constant mean^2 / (2 std^2) = 1 / (2 std^2)
            kl[user] += sum(deviation**2 / 2 - 1 / 2 - np.log(deviation))
            z = mean if noise is None else mean + std * deviation * noise[k, user]
            likelihood += [shares[i, k] * math.exp(cosine(z, vectors[i]) / TAU) for i in range(ITEMS)]
        log_p[user] = np.log(likelihood / likelihood.sum())
    return log_p, kl


def nll(log_p: np.ndarray) -> np.ndarray:
    return -(ROWS * log_p).sum(axis=1)


@pytest.mark.parametrize("hidden", [(), (6, 5)])
def test_scores_equal_the_slow_twin_up_to_a_constant_of_the_user(hidden):
    graphdef, params = split_module(hidden)
    scores = np.asarray(jax.jit(nnx.merge(graphdef, params))(BATCH))
    expected, _ = slowly(params, ROWS)
    normalised = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(normalised, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("hidden", [(), (6, 5)])
def test_the_likelihood_equals_the_slow_twin(hidden):
    expected, _ = slowly(split_module(hidden)[1], ROWS)
    np.testing.assert_allclose(losses_of(hidden=hidden), nll(expected), rtol=1e-4)


def test_beta_grows_by_updates_to_its_cap_and_weighs_the_kl_of_all_concepts():
    _, kl = slowly(split_module()[1], ROWS)
    for step, beta in [(1, 0.001), (50, 0.05), (200, 0.2), (10**6, 0.2)]:
        np.testing.assert_allclose(losses_of(step) - losses_of(0), beta * kl, rtol=1e-3, atol=1e-5)


def test_training_draws_shares_once_and_dropout_and_tastes_for_each_concept():
    share_key, dropout_key, latent_key = jax.random.split(jax.random.key(SEED), 3)
    gumbel = np.asarray(jax.random.gumbel(share_key, (ITEMS, CONCEPTS)))
    kept, noise = np.zeros((CONCEPTS, *ROWS.shape)), np.zeros((CONCEPTS, len(ROWS), DIM))
    for k in range(CONCEPTS):
        mask = np.asarray(jax.random.bernoulli(jax.random.fold_in(dropout_key, k), 0.4, BATCH.items.shape))
        for user, item in zip(*np.nonzero(BATCH.values), strict=True):
            kept[k, user, BATCH.items[user, item]] = mask[user, item] / 0.4
        noise[k] = jax.random.normal(jax.random.fold_in(latent_key, k), (len(ROWS), DIM))
    assert len({part.tobytes() for part in kept}) == CONCEPTS
    given: dict[str, Any] = {"gumbel": gumbel, "kept": kept, "noise": noise}
    expected, kl = slowly(split_module()[1], ROWS, **given, std=0.3)
    got = losses_of(100, dropout=0.6, std=0.3, gumbel=True)
    np.testing.assert_allclose(got, nll(expected) + 0.1 * kl, rtol=1e-4, atol=1e-4)
    # Each of the three matters.
    for name in given:
        without, its_kl = slowly(split_module()[1], ROWS, **given | {name: None}, std=0.3)
        assert not np.allclose(got, nll(without) + 0.1 * its_kl, rtol=1e-3)


def test_weight_decay_is_that_of_kernels_vectors_and_prototypes_and_not_of_biases():
    _, params = split_module()
    weights = [layer["kernel"] for layer in params["encoder"].values()] + [params["vectors"], params["prototypes"]]
    squares = sum(float(np.square(weight).sum()) for weight in weights)
    np.testing.assert_allclose(losses_of(penalty=0.25) - losses_of(), 0.25 * squares, rtol=1e-4)


def gradient_of_loss(params: Any, batch: batching.Batch) -> Any:
    graphdef, _ = split_module()

    def loss(params: Any) -> jax.Array:
        settings: dict[str, Any] = {"dropout": 0.5, "std": 0.1, "gumbel": True, "penalty": 0.0}
        module = nnx.merge(graphdef, params)
        return macridvae._loss(
            module, batch, 100, jax.random.key(SEED), anneal_cap=0.2, anneal_steps=1000, **settings
        ).sum()

    return jax.grad(loss)(params)


def test_rows_of_padding_leave_the_gradient_finite():
    """Their norm is 0, where a square root has no derivative."""
    _, params = split_module()
    with_padding = jax.jit(gradient_of_loss)(params, BATCH)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(with_padding))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(with_padding))


def test_no_concept_keeps_a_likelihood_or_a_kernel_of_its_own_for_its_gradient():
    _, params = split_module()
    program = str(jax.make_jaxpr(gradient_of_loss)(params, BATCH))
    assert f"f32[{len(ROWS)},{ITEMS}]" in program
    assert f"[{CONCEPTS},{len(ROWS)},{ITEMS}]" not in program
    assert f"[{CONCEPTS},{ITEMS},6]" not in program


def test_the_smallest_temperature_stays_within_float32():
    module = MacridVAE(2, nnx.Rngs(params=0), concepts=200, hidden=(), latent_dim=1, tau=macridvae.LEAST_TAU)
    # All tastes are 1: the second item is opposite to every one of them.
    module.vectors[...] = jnp.array([[1.0], [-1.0]])
    module.prototypes[...] = jnp.ones((200, 1))
    module.encoder[0].bias[...] = jnp.array([50.0, 0.0])
    module.encoder[0].kernel[...] = jnp.zeros((2, 2))
    scores = jax.jit(module)(batching.Batch(jnp.array([[0]]), jnp.array([[1.0]])))
    np.testing.assert_allclose(scores[0, 0] - scores[0, 1], 2 / macridvae.LEAST_TAU, rtol=1e-5)


def test_defaults_are_those_of_the_authors():
    settings = MacridVAESettings()
    assert (settings.concepts, settings.hidden, settings.latent_dim) == (7, (100,), 100)
    assert (settings.tau, settings.std, settings.dropout, settings.assignment) == (0.1, 0.075, 0.5, "gumbel")
    assert (settings.anneal_cap, settings.learning_rate, settings.weight_decay) == (0.2, 1e-3, 0.0)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("concepts", 0),
        ("latent_dim", 0),
        ("hidden", (8, 0)),
        ("dropout", 1.0),
        ("dropout", math.nan),
        ("tau", 0.02),
        ("tau", math.nan),
        ("std", -0.1),
        ("assignment", "hard"),
        ("anneal_cap", -0.2),
        ("anneal_steps", 0),
        ("weight_decay", -1.0),
        ("learning_rate", 0.0),
    ],
)
def test_a_setting_out_of_range_is_named_with_its_value_and_what_was_expected(setting, value):
    with pytest.raises(InputError, match="expected") as caught:
        FAMILY.settings(**{setting: value})
    assert setting in str(caught.value)
    assert str(value) in str(caught.value)
