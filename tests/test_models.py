from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from flax import nnx

from aejax import batching
from aejax.errors import InputError
from aejax.interactions import Histories, Interactions, Vocabulary, histories_of
from aejax.models import ae, autorec, cdae, elsa, macridvae, multvae, popularity, recvae, unknown_customers, vae
from aejax.registry import family, make_settings
from tests import silent

NETWORKS = ("ae", "vae", "multdae", "multvae", "recvae", "autorec", "cdae", "macridvae", "elsa")
MULTINOMIAL = ("multdae", "multvae", "recvae", "macridvae")
CLUSTERS, CLUSTER_ITEMS, CLUSTER_USERS = 3, 8, 20
ITEMS = CLUSTERS * CLUSTER_ITEMS

each_network = pytest.mark.parametrize("name", NETWORKS)
each_model = pytest.mark.parametrize("name", (*NETWORKS, "popularity"))


def lines_of(quantities: np.ndarray) -> Interactions:
    """A `[U, I]` array of quantities -> order lines."""
    user, item = np.nonzero(quantities)
    return Interactions(
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        quantity=quantities[user, item].astype(np.int32),
        users=Vocabulary(np.array([f"u{n:03d}" for n in range(quantities.shape[0])], dtype=object)),
        items=Vocabulary(np.array([f"i{n:03d}" for n in range(quantities.shape[1])], dtype=object)),
    )


def all_histories(lines: Interactions) -> Histories:
    return histories_of(lines, np.arange(len(lines.users)))


def fitted(name: str, lines: Interactions, settings: dict[str, Any], *, seed: int = 0, **training: Any) -> Any:
    model = family(name)
    arguments = silent.training(seed, **training) if model.is_network else {}
    fitted = model.fit(lines, make_settings(name, settings), **arguments)
    return fitted[0] if model.is_network else fitted


def scores_of(model: Any, lines: Interactions) -> np.ndarray:
    return np.array(model.scores(model.encode(all_histories(lines))))


@pytest.fixture(scope="module")
def planted() -> Interactions:
    """Three groups of 20 customers; each customer buys 5 of the 8 products of the group, and one of another group."""
    rng = np.random.default_rng(0)
    quantities = np.zeros((CLUSTERS * CLUSTER_USERS, ITEMS), dtype=np.int32)
    for user, row in enumerate(quantities):
        own = CLUSTER_ITEMS * (user // CLUSTER_USERS) + np.arange(CLUSTER_ITEMS)
        row[rng.choice(own, 5, replace=False)] = rng.integers(1, 6, size=5)
        row[rng.choice(np.setdiff1d(np.arange(ITEMS), own))] = 1
    return lines_of(quantities)


SMALL: dict[str, dict[str, Any]] = {
    "ae": {"hidden": (16, 4), "epochs": 15, "batch_size": 16, "learning_rate": 0.01},
    "vae": {"hidden": (16,), "latent_dim": 4, "epochs": 60, "batch_size": 16, "learning_rate": 0.01},
    "multdae": {"hidden": (16,), "latent_dim": 8, "epochs": 40, "batch_size": 16, "learning_rate": 0.01},
    "multvae": {"hidden": (16,), "latent_dim": 8, "epochs": 40, "batch_size": 16, "learning_rate": 0.01},
    "recvae": {"hidden_dim": 16, "latent_dim": 8, "epochs": 40, "batch_size": 16, "learning_rate": 0.01},
    "autorec": {"latent_dim": 8, "epochs": 40, "batch_size": 16, "learning_rate": 0.02, "l2": 1.0},
    "cdae": {"latent_dim": 8, "epochs": 60, "batch_size": 16, "learning_rate": 0.02},
    "macridvae": {
        "concepts": 3,
        "tau": 0.3,
        "hidden": (16,),
        "latent_dim": 8,
        "epochs": 40,
        "batch_size": 16,
        "learning_rate": 0.01,
    },
    "elsa": {"latent_dim": 8, "epochs": 20, "batch_size": 16, "learning_rate": 0.03},
    "popularity": {},
}


BRIEF = {name: settings | {"epochs": 2} for name, settings in SMALL.items()}


@pytest.fixture(scope="module")
def small(planted) -> Any:
    """`small(name)`: that model fitted to the planted groups, once."""
    return functools.cache(lambda name: fitted(name, planted, SMALL[name]))


@pytest.fixture(scope="module")
def brief(planted) -> Any:
    """`brief(name)`: scores after two epochs, and the progress after each as the host stores it."""

    def fit(name: str) -> tuple[bytes, list[Any]]:
        stored: list[Any] = []
        model = fitted(name, planted, BRIEF[name], on_epoch=lambda progress, _: stored.append(jax.device_get(progress)))
        return scores_of(model, planted).tobytes(), stored

    return functools.cache(fit)


# What every network must be able to learn


@each_network
def test_planted_groups_are_found_among_products_not_yet_bought(name, small, planted):
    scores = scores_of(small(name), planted)
    scores[planted.user, planted.item] = -np.inf
    # Three products of the own group are left; the customer bought none of them.
    top = np.argsort(-scores, axis=1)[:, :3]
    group = np.arange(len(planted.users)) // CLUSTER_USERS
    # By chance it would be 3 of 18. Trained on, the plain `ae` learns each customer by heart and loses the group.
    assert np.mean(top // CLUSTER_ITEMS == group[:, None]) > 0.85


# Not `elsa`: it predicts a product from the others alone.
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "elsa"])
def test_a_tiny_matrix_is_learned_by_heart(name):
    bought = np.random.default_rng(1).uniform(size=(8, 12)) < 0.4
    bought[:, 0] |= ~bought.any(axis=1)
    settings: dict[str, Any] = {"epochs": 250, "learning_rate": 0.01, "batch_size": 8}
    settings |= {
        "ae": {"hidden": (32,)},
        "vae": {"hidden": (32,), "latent_dim": 8, "kl_weight": 0.0},
        "multdae": {"hidden": (32,), "latent_dim": 16, "dropout": 0.0, "weight_decay": 0.0},
        "multvae": {"hidden": (32,), "latent_dim": 16, "dropout": 0.0, "anneal_cap": 0.0},
        "recvae": {"hidden_dim": 32, "latent_dim": 16, "dropout": 0.0, "gamma": 0.0},
        "autorec": {"latent_dim": 32, "l2": 0.0},
        "cdae": {"latent_dim": 32, "l2": 0.0, "dropout": 0.0},
        "macridvae": {
            "concepts": 2,
            "hidden": (32,),
            "latent_dim": 16,
            "dropout": 0.0,
            "anneal_cap": 0.0,
            "assignment": "softmax",
        },
    }[name]
    losses: list[float] = []
    lines = lines_of(bought.astype(np.int32))
    model = fitted(name, lines, settings, on_epoch=lambda progress, record: losses.append(record["loss"]))
    scores = scores_of(model, lines)
    for row, own in zip(scores, bought, strict=True):
        assert row[own].min() > row[~own].max()
    # A multinomial cannot do better than to share its mass evenly among a customer's products.
    counts = bought.sum(axis=1)
    floor = np.mean(counts * np.log(counts)) if name in MULTINOMIAL else 0.0
    assert losses[-1] - floor < 0.1 * (losses[0] - floor)


@each_network
def test_one_seed_twice_gives_the_same_bits_and_two_seeds_do_not(name, brief, planted):
    first, _ = brief(name)
    again, other = (scores_of(fitted(name, planted, BRIEF[name], seed=seed), planted) for seed in (0, 1))
    assert first == again.tobytes()
    assert not np.allclose(again, other)


@each_network
def test_going_on_from_a_stored_epoch_ends_in_the_same_bits(name, brief, planted):
    undisturbed, stored = brief(name)
    resumed = fitted(name, planted, BRIEF[name], resume=lambda progress: stored[0])
    assert scores_of(resumed, planted).tobytes() == undisturbed


def test_validation_is_given_a_fitted_network_and_its_best_epoch_is_returned(planted):
    seen: list[bytes] = []

    def validate(network: Any) -> float:
        seen.append(scores_of(network, planted).tobytes())
        return {2: 1.0}.get(len(seen), 0.0)

    best = fitted("ae", planted, SMALL["ae"] | {"epochs": 9, "patience": 3}, validate=validate)
    assert len(seen) == 5
    assert scores_of(best, planted).tobytes() == seen[1]


def test_customers_without_a_purchase_leave_the_training_alone(brief, planted):
    quantities = np.zeros((len(planted.users) + 1, ITEMS), dtype=np.int32)
    quantities[planted.user + (planted.user >= 10), planted.item] = planted.quantity
    with_empty = fitted("multvae", lines_of(quantities), BRIEF["multvae"])
    assert scores_of(with_empty, planted).tobytes() == brief("multvae")[0]


# What evaluation and recommendation rely on


def as_text(state: Any) -> Any:
    """What a checkpoint gives back: host arrays under keys that are text."""
    if isinstance(state, dict):
        return {str(key): as_text(value) for key, value in state.items()}
    return np.asarray(state)


@each_model
@pytest.mark.parametrize("stored", [lambda state: state, as_text], ids=["same", "text"])
def test_a_restored_model_gives_the_same_bits(name, stored, small, planted):
    model = small(name)
    restored = family(name).restore(stored(model.state()), make_settings(name, SMALL[name]), items=ITEMS)
    expected = scores_of(model, planted)
    assert np.ptp(expected) > 0
    assert scores_of(restored, planted).tobytes() == expected.tobytes()


@each_model
def test_a_customers_scores_do_not_depend_on_who_else_is_scored(name, small, planted):
    model = small(name)
    histories = all_histories(planted)
    together = scores_of(model, planted)
    alone = np.vstack([model.scores(model.encode(histories.take(n, n + 1))) for n in (0, 25, 59)])
    np.testing.assert_allclose(alone, together[[0, 25, 59]], rtol=1e-4, atol=1e-5)


@each_model
def test_a_customer_without_history_gets_finite_scores(name, small):
    scores = scores_of(small(name), lines_of(np.zeros((1, ITEMS), dtype=np.int32)))
    assert scores.shape == (1, ITEMS)
    assert np.all(np.isfinite(scores))


# Popularity


def test_popularity_counts_customers_and_not_pieces():
    quantities = np.array([[9, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0]])
    lines = lines_of(quantities)
    # The first customer's second order of the first product.
    lines = lines.take(np.append(np.arange(len(lines)), 0))
    scores = scores_of(fitted("popularity", lines, {}), lines)
    np.testing.assert_array_equal(scores, [[1, 3, 2, 0]] * 3)


DAY = np.timedelta64(86_400, "s")


def dated(rows: list[tuple[int, int, int, int]]) -> Interactions:
    """Rows of (customer, product, pieces, days ago), each an order of its own; three customers and three products."""
    user, item, quantity, days = np.array(rows, dtype=np.int32).T
    return Interactions(
        user=user,
        item=item,
        quantity=quantity,
        users=Vocabulary.of("abc"),
        items=Vocabulary.of("xyz"),
        order=np.arange(len(rows), dtype=np.int32),
        at=np.datetime64("2024-06-01T00:00:00", "s") - days * DAY,
    )


def test_popularity_is_the_sum_of_a_products_column():
    lines = dated([(0, 0, 5, 0), (0, 0, 1, 30), (1, 0, 2, 60), (1, 1, 1, 0), (2, 1, 1, 30), (2, 2, 7, 90)])
    expected = {
        "binary": [2, 2, 1],
        "orders": [3, 2, 1],
        "quantity": [8, 2, 7],
        "log1p-orders": [np.log(3) + np.log(2), 2 * np.log(2), np.log(2)],
        "log1p-quantity": [np.log(7) + np.log(3), 2 * np.log(2), np.log(8)],
        "recency": [1 + 1 / 2 + 1 / 4, 1 + 1 / 2, 1 / 8],
    }
    for values, totals in expected.items():
        scores = scores_of(fitted("popularity", lines, {"values": values, "half_life": 30.0}), lines)
        np.testing.assert_allclose(scores, [totals] * 3, rtol=1e-6)


def test_recent_popularity_follows_its_half_life():
    """Many bought the first product long ago, one the second of late: the shorter half-life sees only that one."""
    lines = dated([(0, 0, 1, 100), (1, 0, 1, 100), (2, 0, 1, 100), (0, 1, 1, 0)])
    long, short = (
        scores_of(fitted("popularity", lines, {"values": "recency", "half_life": days}), lines)[0]
        for days in (1000.0, 10.0)
    )
    assert long[0] > long[1] > long[2] == 0
    assert short[1] > short[0] > 0


def test_popularity_follows_a_permutation_of_products_and_ignores_one_of_customers(planted):
    rng = np.random.default_rng(2)
    quantities = np.zeros((len(planted.users), ITEMS), dtype=np.int32)
    quantities[planted.user, planted.item] = planted.quantity
    products, customers = rng.permutation(ITEMS), rng.permutation(len(quantities))
    expected = scores_of(fitted("popularity", planted, {}), planted)[:, products]
    shuffled = lines_of(quantities[customers][:, products])
    np.testing.assert_array_equal(scores_of(fitted("popularity", shuffled, {}), shuffled), expected)


# Forward passes against NumPy


def randomised(params: Any, seed: int = 3) -> Any:
    """The same structure with weights that are far from nought, biases included."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / 2, jnp.float32), params)


def dense(params: dict[str, Any], x: np.ndarray) -> np.ndarray:
    return x @ np.asarray(params["kernel"], np.float64) + np.asarray(params["bias"], np.float64)


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


# Of the customers that `lines_of` names: the fitted model knows the second and the fourth, and one of another name.
KNOWN = Vocabulary.of(("u001", "u003", "u002x"))


def untrained(name: str, given: dict[str, Any], items: int) -> Any:
    """A network with random weights."""
    settings = make_settings(name, given)
    sizes = {key: getattr(settings, key) for key in ("hidden", "hidden_dim", "latent_dim") if hasattr(settings, key)}
    build = {
        "ae": ae.AE,
        "vae": vae.VAE,
        "multdae": functools.partial(multvae.MultAE, variational=False),
        "multvae": functools.partial(multvae.MultAE, variational=True),
        "recvae": recvae.RecVAE,
        "autorec": autorec.AutoRec,
        "cdae": functools.partial(cdae.CDAE, users=len(KNOWN)),
        "elsa": elsa.ELSA,
        "macridvae": functools.partial(macridvae.MacridVAE, concepts=7, tau=0.1),
    }[name]
    abstract = nnx.eval_shape(lambda: build(items, rngs=nnx.Rngs(params=0), **sizes))
    params = randomised(nnx.to_pure_dict(nnx.state(abstract)))
    if name == "cdae":
        params = {"network": params, "users": KNOWN.to_state()}
    return family(name).restore(params, settings, items=items)


def layers(state: dict[Any, Any]) -> list[dict[str, Any]]:
    return [state[number] for number in sorted(state)]


def module_of(network: Any) -> Any:
    network = getattr(network, "network", network)
    return nnx.merge(network.graphdef, network.params)


@pytest.mark.parametrize("name", (*MULTINOMIAL, "autorec"))
def test_a_large_catalogue_is_read_by_rows_to_the_same_scores_and_gradients(name, monkeypatch):
    items = 40
    network = untrained(name, {}, items)
    rng = np.random.default_rng(3)
    batch = batching.pad_rows(sp.csr_array(np.where(rng.random((3, items)) < 0.2, 1.0, 0.0).astype(np.float32)))

    def total(params: Any) -> tuple[jax.Array, jax.Array]:
        scores = nnx.merge(network.graphdef, params)(batch)
        return jnp.tanh(scores).sum(), scores

    found = {}
    for share in (0.0, 100.0):  # none by rows, all by rows
        monkeypatch.setattr(batching, "LONGEST_SHARE", share)
        program = str(jax.make_jaxpr(lambda params: total(params)[1])(network.params))
        assert (("while" in program) or ("_sum_of_rows" in program)) == (share > 0)
        found[share] = jax.grad(total, has_aux=True)(network.params)
    for one, other in zip(*(jax.tree.leaves(found[share]) for share in found), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * max(1.0, np.abs(one).max()))


HISTORIES = np.array([[2, 0, 1, 0, 0, 3, 0], [0, 0, 0, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1], [0, 4, 0, 0, 4, 0, 0]])


@pytest.mark.parametrize("values", ["binary", "quantity"])
def test_multvae_scores_equal_the_numpy_twin(values):
    network = untrained("multvae", {"hidden": (6, 5), "latent_dim": 3, "values": values, "dropout": 0.9}, 7)
    x = HISTORIES.astype(np.float64) if values == "quantity" else (HISTORIES > 0).astype(np.float64)
    h = x / np.linalg.norm(x, axis=1, keepdims=True)
    *hidden, code = layers(network.state()["encoder"])
    assert np.shape(code["kernel"]) == (5, 6)
    for layer in hidden:
        h = np.tanh(dense(layer, h))
    h = dense(code, h)[:, :3]  # z = z_mean: linear, no noise, and no dropout on the way
    *hidden, last = layers(network.state()["decoder"])
    for layer in hidden:
        h = np.tanh(dense(layer, h))
    np.testing.assert_allclose(scores_of(network, lines_of(HISTORIES)), dense(last, h), rtol=1e-4, atol=1e-5)


def test_multdae_scores_equal_the_numpy_twin_whose_code_is_a_tanh_layer():
    network = untrained("multdae", {"hidden": (6,), "latent_dim": 3}, 7)
    x = (HISTORIES > 0).astype(np.float64)
    h = x / np.linalg.norm(x, axis=1, keepdims=True)
    *inner, last = (*layers(network.state()["encoder"]), *layers(network.state()["decoder"]))
    assert [np.shape(layer["kernel"]) for layer in inner] == [(7, 6), (6, 3), (3, 6)]
    for layer in inner:
        h = np.tanh(dense(layer, h))
    np.testing.assert_allclose(scores_of(network, lines_of(HISTORIES)), dense(last, h), rtol=1e-4, atol=1e-5)


def test_ae_scores_equal_the_numpy_twin():
    network = untrained("ae", {"hidden": (6, 4)}, 7)
    h = (HISTORIES > 0).astype(np.float64)
    *hidden, last = layers(network.state()["layers"])
    for layer in hidden:
        h = relu(dense(layer, h))
    np.testing.assert_allclose(scores_of(network, lines_of(HISTORIES)), dense(last, h), rtol=1e-4, atol=1e-5)


def test_vae_scores_equal_the_numpy_twin():
    network = untrained("vae", {"hidden": (6, 4), "latent_dim": 3}, 7)
    state = network.state()
    h = (HISTORIES > 0).astype(np.float64)
    for layer in layers(state["encoder"]):
        h = relu(dense(layer, h))
    h = dense(state["z_mean"], h)
    *hidden, last = layers(state["decoder"])
    for layer in hidden:
        h = relu(dense(layer, h))
    np.testing.assert_allclose(scores_of(network, lines_of(HISTORIES)), dense(last, h), rtol=1e-4, atol=1e-5)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("values", ["binary", "quantity"])
def test_autorec_scores_equal_the_numpy_twin(values):
    network = untrained("autorec", {"latent_dim": 3, "values": values}, 7)
    x = HISTORIES.astype(np.float64) if values == "quantity" else (HISTORIES > 0).astype(np.float64)
    expected = dense(network.state()["decoder"], sigmoid(dense(network.state()["encoder"], x)))
    np.testing.assert_allclose(scores_of(network, lines_of(HISTORIES)), expected, rtol=1e-4, atol=1e-5)


def test_cdae_scores_equal_the_numpy_twin_and_a_customer_not_of_train_has_the_mean_vector():
    model = untrained("cdae", {"latent_dim": 3, "dropout": 0.9}, 7)
    params = model.state()["network"]
    vectors = np.asarray(params["users"], np.float64)
    # The rows are u000 to u003; the model knows u001, u002x, u003 in this order.
    own = np.stack([vectors.mean(axis=0), vectors[0], vectors.mean(axis=0), vectors[2]])
    x = (HISTORIES > 0).astype(np.float64)
    expected = dense(params["decoder"], sigmoid(dense(params["encoder"], x) + own))
    lines = lines_of(HISTORIES)
    np.testing.assert_allclose(scores_of(model, lines), expected, rtol=1e-4, atol=1e-5)
    assert unknown_customers(model, all_histories(lines)).tolist() == [0, 2]
    alone = histories_of(lines, np.array([3]))
    np.testing.assert_allclose(model.scores(model.encode(alone)), expected[3:], rtol=1e-4, atol=1e-5)


def test_ae_has_the_layers_of_the_original_pipeline():
    hidden = ae.AESettings().hidden
    params = nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: ae.AE(50, rngs=nnx.Rngs(params=0), hidden=hidden))))
    sizes = [layer["kernel"].shape for layer in layers(params["layers"])]
    assert sizes == [(50, 128), (128, 64), (64, 32), (32, 64), (64, 128), (128, 50)]
    assert ae.AESettings().learning_rate == 1e-3


def test_defaults_of_the_mult_models_are_those_of_the_paper():
    settings = multvae.MultVAESettings()
    assert (settings.hidden, settings.latent_dim, settings.dropout) == ((600,), 200, 0.5)
    assert (settings.batch_size, settings.learning_rate, settings.anneal_cap) == (500, 1e-3, 0.2)
    assert (settings.weight_decay, multvae.MultDAESettings().weight_decay) == (0.0, 0.01)


# Losses of the models


BATCH = batching.Batch(jnp.array([[0, 2, 5], [3, 7, 7]], jnp.int32), jnp.array([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]))
ROWS = np.array([[1, 0, 1, 0, 0, 1, 0], [0, 0, 0, 1, 0, 0, 0]], dtype=np.float64)


def multvae_loss(network: Any, step: int, **changes: Any) -> np.ndarray:
    arguments: dict[str, Any] = {"dropout": 0.0, "penalty": 0.0, "anneal_cap": 0.2, "anneal_steps": 1000}
    arguments |= {"noise": 1.0} | changes
    loss = jax.jit(functools.partial(multvae._loss, module_of(network), BATCH, **arguments))
    return np.asarray(loss(jnp.asarray(step), jax.random.key(5)))


def test_beta_grows_by_updates_to_its_cap_and_weighs_the_summed_kl():
    network = untrained("multvae", {"hidden": (6,), "latent_dim": 3}, 7)
    hidden, code = layers(network.state()["encoder"])
    h = np.tanh(dense(hidden, ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True)))
    mean, log_var = np.split(dense(code, h), 2, axis=1)
    kl = 0.5 * (mean**2 + np.exp(log_var) - 1 - log_var).sum(axis=1)
    steps, betas = (0, 1, 50, 199, 200, 201, 10**6), [0.0, 0.001, 0.05, 0.199, 0.2, 0.2, 0.2]
    module = module_of(network)
    settings = {"dropout": 0.0, "penalty": 0.0, "anneal_cap": 0.2, "anneal_steps": 1000, "noise": 1.0}
    loss = jax.jit(lambda step: multvae._loss(module, BATCH, step, jax.random.key(5), **settings))
    losses = np.array([loss(step) for step in steps])
    np.testing.assert_allclose(losses - losses[0], np.outer(betas, kl), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("noise", [1.0, 0.2])
def test_multvae_samples_its_code_in_training_by_the_key_of_the_step(noise):
    network = untrained("multvae", {"hidden": (6,), "latent_dim": 3}, 7)
    module = module_of(network)
    settings = {"dropout": 0.0, "penalty": 0.0, "anneal_cap": 0.0, "anneal_steps": 1, "noise": noise}
    keys = jax.random.split(jax.random.key(0), 20_000)
    sampled = jax.jit(jax.vmap(lambda key: multvae._loss(module, BATCH, 0, key, **settings)))(keys)
    h = np.tanh(dense(layers(network.state()["encoder"])[0], ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True)))
    mean, log_var = np.split(dense(layers(network.state()["encoder"])[1], h), 2, axis=1)
    z = mean + noise * np.exp(log_var / 2) * np.random.default_rng(0).normal(size=(20_000, 2, 3))
    first, last = layers(network.state()["decoder"])
    logits = dense(last, np.tanh(dense(first, z)))
    expected = (ROWS * (np.log(np.exp(logits).sum(axis=2, keepdims=True)) - logits)).sum(axis=2)
    error = np.hypot(expected.std(axis=0), np.std(sampled, axis=0)) / math.sqrt(20_000)
    assert np.all(np.abs(np.mean(sampled, axis=0) - expected.mean(axis=0)) < 4 * error)
    np.testing.assert_allclose(np.std(sampled, axis=0), expected.std(axis=0), rtol=0.05)


def test_weight_decay_is_that_of_kernels_and_not_of_biases():
    network = untrained("multdae", {"hidden": (6,), "latent_dim": 3}, 7)
    squares = sum(
        np.square(layer["kernel"]).sum() for part in ("encoder", "decoder") for layer in layers(network.state()[part])
    )
    difference = multvae_loss(network, 0, penalty=0.25) - multvae_loss(network, 0)
    np.testing.assert_allclose(difference, 0.25 * squares, rtol=1e-4)


@pytest.mark.parametrize(("updates", "length"), [(1, 1_000), (12, 12_000), (200, 200_000), (5_000, 200_000)])
def test_annealing_reaches_its_cap_after_200_epochs_unless_the_papers_updates_come_first(updates, length):
    assert multvae.annealing_length(updates) == length
    assert 0.2 * length <= 200 * updates


def test_the_length_of_annealing_follows_the_updates_of_an_epoch(brief, planted):
    """60 customers in batches of 16 are 4 updates; so is the setting 4,000, and the setting 10 is not."""
    default, _ = brief("multvae")
    same, short = (
        scores_of(fitted("multvae", planted, BRIEF["multvae"] | {"anneal_steps": steps}), planted).tobytes()
        for steps in (4000, 10)
    )
    assert default == same
    assert default != short


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.5])
def test_dropout_hides_only_own_items_and_scales_the_rest(rate):
    values = np.random.default_rng(0).uniform(1, 2, size=(100, 80)).astype(np.float32)
    items = np.tile(np.arange(80, dtype=np.int32), (100, 1))
    items[:, 60:], values[:, 60:] = 90, 0.0  # padding
    batch = batching.Batch(jnp.asarray(items), jnp.asarray(values))
    dropped = batching.drop_inputs(batch, rate, 90, dropout_key=jax.random.key(0))
    np.testing.assert_array_equal(dropped.items, items)
    got = np.asarray(dropped.values)
    assert np.all(got[:, 60:] == 0)
    kept = got[:, :60] != 0
    np.testing.assert_allclose(got[:, :60][kept], values[:, :60][kept] / (1 - rate), rtol=1e-6)
    assert abs(kept.mean() - (1 - rate)) < 4 * math.sqrt(rate * (1 - rate) / kept.size) + 1e-12


def test_dropout_comes_after_the_norm_and_leaves_the_targets_whole():
    """With every layer but the last bias at nought the logits are constant, and the loss is that of the whole row."""
    network = untrained("multdae", {"hidden": (6,), "latent_dim": 3}, 7)
    nought = jax.tree.map(jnp.zeros_like, network.state())
    network = family("multdae").restore(nought, make_settings("multdae", {"hidden": (6,), "latent_dim": 3}), items=7)
    np.testing.assert_allclose(multvae_loss(network, 0, dropout=0.9), ROWS.sum(axis=1) * np.log(7), rtol=1e-5)


def test_dropout_changes_the_loss_in_training():
    network = untrained("multdae", {"hidden": (6,), "latent_dim": 3}, 7)
    assert not np.allclose(multvae_loss(network, 0, dropout=0.5), multvae_loss(network, 0))


@pytest.mark.parametrize(("values", "norm"), [([3.0, 4.0], [0.6, 0.8]), ([0.0, 0.0], [0.0, 0.0]), ([1e-3, 0], [1, 0])])
def test_unit_norm_also_of_empty_and_of_small_rows(values, norm):
    batch = batching.Batch(jnp.array([[0, 1]], jnp.int32), jnp.array([values]))
    np.testing.assert_allclose(multvae.unit_norm(batch).values, [norm], rtol=1e-6)


def test_ae_loss_is_the_mean_squared_error_of_the_sigmoid():
    network = untrained("ae", {"hidden": (6,)}, 7)
    logits = np.asarray(network.scores(BATCH), np.float64)
    expected = np.square(1 / (1 + np.exp(-logits)) - ROWS).mean(axis=1)
    got = ae._loss(module_of(network), BATCH, jnp.asarray(0), jax.random.key(0))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize(("unobserved", "l2"), [(0.0, 0.0), (0.0, 3.0), (0.3, 3.0), (1.0, 0.0)])
def test_autorec_losses_add_up_to_the_objective_over_all_customers(unobserved, l2):
    """With `unobserved` at 0 that is the paper's, over the entries that a customer has."""
    settings = autorec.AutoRecSettings(latent_dim=3, unobserved=unobserved, l2=l2)
    network = untrained("autorec", {"latent_dim": 3}, 7)
    encoder, decoder = network.state()["encoder"], network.state()["decoder"]
    error = (dense(decoder, sigmoid(dense(encoder, ROWS))) - ROWS) ** 2
    expected = error[ROWS > 0].sum() + unobserved * error[ROWS == 0].sum()
    expected += l2 / 2 * (np.square(encoder["kernel"]).sum() + np.square(decoder["kernel"]).sum())
    got = autorec._loss_of(settings, len(ROWS))(module_of(network), BATCH, jnp.asarray(0), jax.random.key(0))
    np.testing.assert_allclose(got.sum(), expected, rtol=1e-5)


@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_cdae_loss_is_logistic_and_its_penalty_holds_the_own_vector(l2):
    model = untrained("cdae", {"latent_dim": 3}, 7)
    params = model.state()["network"]
    users = [2, 0]
    own = np.asarray(params["users"], np.float64)[users]
    p = sigmoid(dense(params["decoder"], sigmoid(dense(params["encoder"], ROWS) + own)))
    expected = -(ROWS * np.log(p) + (1 - ROWS) * np.log(1 - p)).sum(axis=1)
    shared = sum(np.square(params[side][name]).sum() for side in ("encoder", "decoder") for name in ("kernel", "bias"))
    expected += l2 / 2 * (shared + np.square(own).sum(axis=1))
    batch = BATCH._replace(users=jnp.array(users, jnp.int32))
    got = cdae._loss(module_of(model), batch, jnp.asarray(0), jax.random.key(0), dropout=0.0, l2=l2)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_cdae_corrupts_its_input_and_not_its_target():
    model = untrained("cdae", {"latent_dim": 3}, 7)
    batch = BATCH._replace(users=jnp.array([2, 0], jnp.int32))

    def loss(model: Any, dropout: float) -> np.ndarray:
        return cdae._loss(module_of(model), batch, jnp.asarray(0), jax.random.key(1), dropout=dropout, l2=0.0)

    assert not np.allclose(loss(model, 0.5), loss(model, 0.0))
    nought = {**model.state(), "network": jax.tree.map(jnp.zeros_like, model.state()["network"])}
    constant = family("cdae").restore(nought, make_settings("cdae", {"latent_dim": 3}), items=7)
    np.testing.assert_allclose(loss(constant, 0.9), 7 * np.log(2), rtol=1e-5)


def test_cdae_starts_at_the_log_odds_of_each_product():
    started: list[Any] = []
    lines = lines_of(np.array([[1, 1, 0], [1, 0, 0], [3, 0, 0], [0, 0, 0]]))

    def resume(progress: Any) -> Any:
        started.append(jax.device_get(progress.state.params["decoder"]["bias"]))
        return progress

    fitted("cdae", lines, {"latent_dim": 2, "epochs": 1}, resume=resume)
    # Of the three customers with a purchase.
    np.testing.assert_allclose(started[0], np.log([3.5 / 0.5, 1.5 / 2.5, 0.5 / 3.5]), rtol=1e-6)


def test_cdae_trains_the_vector_of_each_customer_with_that_customers_row():
    """All have bought the first product and one of their own, which the input hides nine times in ten."""
    own = np.eye(8, dtype=np.int32)
    lines = lines_of(np.hstack([np.ones((8, 1), np.int32), own]))
    settings = {"latent_dim": 8, "epochs": 300, "batch_size": 4, "learning_rate": 0.02, "dropout": 0.9, "l2": 1e-4}
    model = fitted("cdae", lines, settings)
    # From the first product alone, only the vector can tell whose own one comes next.
    bare = lines.take(lines.item == 0)
    np.testing.assert_array_equal(scores_of(model, bare)[:, 1:].argmax(axis=1), np.arange(8))


def test_a_customer_without_a_purchase_has_no_vector_and_moves_nobody_elses(brief, planted):
    ids = np.insert(planted.users.ids, 10, "u009x")
    user = (planted.user + (planted.user >= 10)).astype(np.int32)
    with_empty = dataclasses.replace(planted, user=user, users=Vocabulary(ids))
    model = fitted("cdae", with_empty, BRIEF["cdae"])
    assert scores_of(model, planted).tobytes() == brief("cdae")[0]
    assert unknown_customers(model, all_histories(with_empty)).tolist() == [10]


@pytest.mark.parametrize("likelihood", ["bernoulli", "mse"])
@pytest.mark.parametrize("kl_weight", [0.0, 1.0, 2.5])
def test_vae_loss_is_the_negative_lower_bound(likelihood, kl_weight):
    network = untrained("vae", {"hidden": (6,), "latent_dim": 3}, 7)
    state = network.state()
    h = relu(dense(layers(state["encoder"])[0], ROWS))
    mean, log_var = dense(state["z_mean"], h), dense(state["z_log_var"], h)
    noise = np.asarray(jax.random.normal(jax.random.key(4), (2, 3)))
    first, last = layers(state["decoder"])
    output = 1 / (1 + np.exp(-dense(last, relu(dense(first, mean + np.exp(log_var / 2) * noise)))))
    per_item = {
        "bernoulli": -(ROWS * np.log(output) + (1 - ROWS) * np.log(1 - output)),
        "mse": (output - ROWS) ** 2 / 2,
    }[likelihood]
    kl = 0.5 * (mean**2 + np.exp(log_var) - 1 - log_var).sum(axis=1)
    module, step = module_of(network), jnp.asarray(0)
    loss = jax.jit(functools.partial(vae._loss, module, BATCH, likelihood=likelihood, kl_weight=kl_weight))
    got = loss(step, jax.random.key(4))
    np.testing.assert_allclose(got, per_item.sum(axis=1) + kl_weight * kl, rtol=1e-4)


def test_reparameterised_samples_have_the_mean_and_deviation_asked_for():
    mean = jnp.broadcast_to(jnp.array([[1.0, -2.0]]), (50_000, 2))
    log_var = jnp.broadcast_to(jnp.log(jnp.array([[0.25, 4.0]])), (50_000, 2))
    samples = np.asarray(vae.reparameterise(mean, log_var, latent_key=jax.random.key(0)))
    np.testing.assert_allclose(samples.mean(axis=0), [1.0, -2.0], atol=0.04)
    np.testing.assert_allclose(samples.std(axis=0), [0.5, 2.0], rtol=0.02)


# Values


QUANTITIES = np.array([[2, 0, 8, 4], [1, 0, 0, 0], [0, 0, 0, 0], [0, 3, 3, 1]])


@pytest.mark.parametrize("values", ["quantity", "log1p-quantity", "orders", "log1p-orders"])
@pytest.mark.parametrize("name", ["ae", "vae", "cdae"])
def test_values_that_a_sigmoid_cannot_reach_are_scaled_per_user_to_1(name, values):
    lines = lines_of(QUANTITIES)
    network = untrained(name, {"values": values}, 4)
    got = np.asarray(batching.densify(network.encode(all_histories(lines)), 4))
    raw = QUANTITIES if "quantity" in values else (QUANTITIES > 0)
    raw = np.log1p(raw.astype(np.float64)) if values.startswith("log1p") else raw.astype(np.float64)
    np.testing.assert_allclose(got, raw / np.maximum(raw.max(axis=1, keepdims=True), 1e-9), rtol=1e-6)


@each_network
def test_binary_is_binary(name):
    lines = lines_of(QUANTITIES)
    network = untrained(name, {}, 4)
    np.testing.assert_array_equal(batching.densify(network.encode(all_histories(lines)), 4), QUANTITIES > 0)


@pytest.mark.parametrize("name", (*MULTINOMIAL, "autorec", "elsa"))
def test_what_has_no_sigmoid_at_its_end_takes_counts_as_they_are(name):
    lines = lines_of(QUANTITIES)
    network = untrained(name, {"values": "quantity"}, 4)
    np.testing.assert_array_equal(batching.densify(network.encode(all_histories(lines)), 4), QUANTITIES)


def test_training_reaches_scaled_counts():
    """One customer again and again: the sigmoid learns the shares of the largest count, which the raw counts exceed."""
    lines = lines_of(np.array([[2, 0, 8, 4]] * 4))
    settings = {"hidden": (8,), "values": "quantity", "epochs": 300, "learning_rate": 0.02}
    outputs = 1 / (1 + np.exp(-scores_of(fitted("ae", lines, settings), lines)))
    np.testing.assert_allclose(outputs, [[0.25, 0.0, 1.0, 0.5]] * 4, atol=0.08)


# Settings


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("popularity", "half_life", 0.0),
        ("popularity", "half_life", math.nan),
        ("ae", "batch_size", 0),
        ("ae", "epochs", 0),
        ("vae", "patience", -1),
        ("multvae", "learning_rate", 0.0),
        ("multvae", "learning_rate", math.nan),
        ("multdae", "half_life", -3.0),
        ("ae", "hidden", ()),
        ("ae", "hidden", (8, 0)),
        ("vae", "hidden", (0,)),
        ("vae", "latent_dim", 0),
        ("vae", "likelihood", "poisson"),
        ("vae", "kl_weight", -0.1),
        ("vae", "kl_weight", math.nan),
        ("multdae", "dropout", 1.0),
        ("multdae", "dropout", -0.1),
        ("multdae", "dropout", math.nan),
        ("multdae", "weight_decay", -1.0),
        ("multvae", "latent_dim", 0),
        ("multvae", "anneal_cap", -0.2),
        ("multvae", "anneal_steps", 0),
        ("recvae", "hidden_dim", 0),
        ("recvae", "latent_dim", 0),
        ("recvae", "encoder_passes", 0),
        ("recvae", "decoder_passes", 0),
        ("recvae", "dropout", 1.0),
        ("recvae", "dropout", math.nan),
        ("recvae", "gamma", -0.1),
        ("recvae", "gamma", math.nan),
        ("recvae", "noise", -0.1),
        ("recvae", "noise", math.nan),
        ("recvae", "mixture_weights", (0.5, 0.5)),
        ("recvae", "mixture_weights", (0.5, 0.6, 0.1)),
        ("recvae", "mixture_weights", (1.5, -0.6, 0.1)),
        ("recvae", "mixture_weights", (math.nan, 0.5, 0.5)),
        ("autorec", "latent_dim", 0),
        ("autorec", "l2", -1.0),
        ("autorec", "l2", math.nan),
        ("autorec", "unobserved", -0.1),
        ("cdae", "latent_dim", 0),
        ("cdae", "dropout", 1.0),
        ("cdae", "dropout", math.nan),
        ("cdae", "l2", -0.5),
        ("elsa", "latent_dim", 0),
    ],
)
def test_a_setting_out_of_range_is_named_with_its_value_and_what_was_expected(name, setting, value):
    with pytest.raises(InputError, match="expected") as caught:
        family(name).settings(**{setting: value})
    assert setting in str(caught.value)
    assert str(value) in str(caught.value)


@pytest.mark.parametrize("name", ["vae", "multdae", "multvae", "macridvae"])
def test_no_hidden_layer_is_a_model_too(name):
    lines = lines_of(QUANTITIES)
    assert np.all(np.isfinite(scores_of(untrained(name, {"hidden": (), "latent_dim": 2}, 4), lines)))


def test_an_unknown_value_transform_is_refused_with_the_nearest():
    with pytest.raises(InputError, match=r'"quantities".*"quantity"'):
        fitted("ae", lines_of(QUANTITIES), {"values": "quantities", "hidden": (4,)})


def test_popularity_is_no_network():
    assert not popularity.FAMILY.is_network
    assert all(family(name).is_network for name in NETWORKS)


def test_a_network_without_any_purchase_to_learn_from_says_so():
    nothing = np.zeros(0, dtype=np.int32)
    lines = Interactions(nothing, nothing, nothing, Vocabulary.of(["a"]), Vocabulary.of(["x", "y"]))
    network = family("multvae")
    with pytest.raises(InputError, match="no purchase to train on"):
        network.fit(
            lines,
            network.settings(),
            key=jax.random.key(0),
            validate=None,
            on_epoch=lambda progress, record: None,
            resume=lambda progress: progress,
        )
