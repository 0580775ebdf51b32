"""What a cell of the matrix holds, as every model's inputs, as what networks and closed forms learn to predict, and as
the weight of it."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

from aejax import batching, losses, network, registry
from aejax.errors import InputError
from aejax.interactions import Histories, Interactions, Vocabulary, histories_of
from aejax.matrix import VALUES, user_item_matrix
from aejax.models import ae, autorec, cdae, elsa, macridvae, multvae, recvae, vae
from aejax.network import NetworkSettings
from tests import silent
from tests.test_models import MULTINOMIAL, NETWORKS, lines_of, module_of, untrained

RULES = ("popularity-recent", "own-frequency", "own-recency", "last-basket", "tifuknn", "upcf", "nextorder")
READ_VALUES = sorted(
    registry.MODELS.keys() - {*RULES, "blend", "popularity-category", "popularity-segment"}
)  # the last needs attributes
USERS, ITEMS = 12, 6
SMALL = {"epochs": 1, "latent_dim": 3, "factors": 3}
SIZES = {"hidden": (4,), "hidden_dim": 4, "latent_dim": 3}


def shop(orders_of_first: int) -> Interactions:
    """Customers who buy 4 of 6 products each, the first two the same ones and once each; but the first buys the first
    of them in so many orders, a day apart, in twos.
    """
    rng = np.random.default_rng(0)
    rows = [(user, item, 0, 1) for user in (0, 1) for item in range(4)]
    rows += [(0, 0, day, 2) for day in range(1, orders_of_first)]
    for user in range(2, USERS):
        for item in rng.choice(ITEMS, 4, replace=False):
            rows += [(user, item, int(day), int(rng.integers(1, 4))) for day in rng.integers(0, 30, rng.integers(1, 4))]
    user, item, day, quantity = np.array(rows).T
    return Interactions(
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        quantity=quantity.astype(np.int32),
        users=Vocabulary.of(f"u{n:02d}" for n in range(USERS)),
        items=Vocabulary.of(f"i{n}" for n in range(ITEMS)),
        order=np.arange(len(user), dtype=np.int32),
        at=np.datetime64("2024-01-01", "s") + day.astype("timedelta64[D]"),
    )


def small_settings(name: str, **given: Any) -> Any:
    known = registry.field_types(registry.family(name).settings)
    return registry.make_settings(name, {key: value for key, value in SMALL.items() if key in known} | given)


def fitted(name: str, lines: Interactions, settings: Any) -> Any:
    family = registry.family(name)
    if not family.is_network:
        return family.fit(lines, settings)
    return family.fit(lines, settings, **silent.training())[0]


def standardised(scores: Any) -> np.ndarray:
    """Each row with mean 0 and deviation 1: rows that differ in scale alone are equal."""
    scores = np.asarray(scores, dtype=np.float64)
    scores = scores - scores.mean(axis=1, keepdims=True)
    return scores / np.maximum(scores.std(axis=1, keepdims=True), 1e-12)


# Inputs


def readers(name: str, lines: Interactions) -> Any:
    """`model(values)`: a fitted model, or a network with random weights, that reads its histories with these values."""
    if name in NETWORKS:
        known = registry.field_types(registry.family(name).settings)
        sizes = {key: size for key, size in SIZES.items() if key in known}
        return lambda values: untrained(name, sizes | {"values": values, "half_life": 30.0}, ITEMS)
    if name == "popularity":  # which reads train alone
        return lambda values: fitted(name, lines, small_settings(name, values=values, half_life=30.0))
    state, restore = fitted(name, lines, small_settings(name)).state(), registry.family(name).restore
    return lambda values: restore(state, small_settings(name, values=values, half_life=30.0), items=ITEMS)


@pytest.mark.parametrize("name", READ_VALUES)
def test_a_planted_difference_in_counts_changes_the_scores(name):
    """Customers 0 and 1 differ in nothing but how often, how many and when they bought one product."""
    lines = shop(orders_of_first=5)
    histories = histories_of(lines, np.arange(USERS), np.full(USERS, lines.at.max()))
    model, of = readers(name, lines), {}
    for values in VALUES:
        reader = model(values)
        of[values] = standardised(reader.scores(reader.encode(histories)))
        assert np.isfinite(of[values]).all()
    np.testing.assert_allclose(of["binary"][0], of["binary"][1], atol=1e-5)
    for values in set(VALUES) - {"binary"}:
        assert np.abs(of[values][0] - of["binary"][0]).max() > 1e-3, values
        if name != "popularity":  # which scores everyone alike
            assert np.abs(of[values][0] - of[values][1]).max() > 1e-3, values


@pytest.mark.parametrize("name", sorted({*READ_VALUES} - {*NETWORKS}))
def test_what_is_learned_depends_on_the_values_of_train(name):
    """The counts of a customer who is not asked for are other ones, and the histories that are scored are not."""
    settings = small_settings(name, values="orders")
    once, often = (fitted(name, shop(orders_of_first=orders), settings) for orders in (1, 9))
    lines = shop(orders_of_first=1)
    histories = histories_of(lines, np.arange(2, USERS), np.full(USERS - 2, lines.at.max()))
    scores = [np.asarray(model.scores(model.encode(histories))) for model in (once, often)]
    assert np.abs(scores[0] - scores[1]).max() > 1e-4 * np.abs(scores[0]).max()


@pytest.mark.parametrize("unit", [False, True])
def test_networks_learn_from_each_customers_rows_of_inputs_targets_and_weights(unit):
    lines = shop(orders_of_first=5)
    lines = dataclasses.replace(lines.take(lines.user != 3), as_of=np.full(USERS, np.datetime64("2024-03-01", "s")))
    settings = NetworkSettings(values="orders", targets="quantity", target_weight="recency", half_life=9.0)
    inputs, columns = network._training_rows(lines, settings, unit)
    row = 0
    for user in range(USERS):
        own = [line for line in zip(lines.user, lines.item, lines.quantity, lines.at, strict=True) if line[0] == user]
        if not own:
            continue
        cells: dict[int, list[float]] = {item: [0.0, 0.0, 0.0] for _, item, _, _ in own}
        for _, item, quantity, at in own:
            age = (np.datetime64("2024-03-01", "s") - at) / np.timedelta64(1, "D")
            cells[item] = [a + b for a, b in zip(cells[item], (1.0, quantity, 0.5 ** (age / 9.0)), strict=True)]
        for place, matrix in enumerate((inputs, columns["targets"], columns["weights"])):
            largest = max(cell[place] for cell in cells.values()) if unit and place < 2 else 1.0
            expected = [cells[item][place] / largest if item in cells else 0.0 for item in range(ITEMS)]
            np.testing.assert_allclose(matrix.toarray()[row], expected, rtol=1e-5)
        row += 1
    assert row == inputs.shape[0] == USERS - 1
    assert network._training_rows(lines, NetworkSettings(values="orders", targets="orders"), unit)[1] == {}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_refuses_values(name):
    with pytest.raises(InputError, match=f"--values orders is nothing to model {name}, .*; leave it out"):
        registry.make_settings(name, {"values": "orders"})


def test_a_blend_gives_values_to_the_parts_that_have_them():
    settings = registry.make_settings(
        "blend",
        {"parts": "ease,own-frequency,gfcf", "values": "orders", "settings": {"ease": {"l2": 9.0, "values": "binary"}}},
    )
    assert (settings.of("ease").values, settings.of("ease").l2, settings.of("gfcf").values) == ("orders", 9.0, "orders")
    apart = registry.make_settings("blend", {"parts": "ease,gfcf", "settings": {"gfcf": {"values": "quantity"}}})
    assert (apart.of("ease").values, apart.of("gfcf").values) == ("binary", "quantity")


@pytest.mark.parametrize(("setting", "name"), [("targets", "ease"), ("targets", "ae"), ("target_weight", "elsa")])
def test_an_unknown_transform_is_named_by_its_setting(setting, name):
    with pytest.raises(InputError, match=f'^{setting} is "order"; did you mean "orders"'):
        registry.make_settings(name, {setting: "order"})


# Targets and weights of batches


def test_batches_hold_targets_and_weights_of_their_own_cells():
    lines = shop(orders_of_first=5)
    orders, quantity, recency = (user_item_matrix(lines, values) for values in ("orders", "quantity", "recency"))
    rows, length = batching.sparse_rows(orders, targets=quantity, weights=recency)
    users = [3, 0, USERS]  # the last is padding
    batch = batching.gather_rows(rows, jnp.array(users), length, ITEMS)
    targets, weight = batching.target_rows(batch, ITEMS)
    product = batching.densify(batching.weighted_targets(batch), ITEMS)
    for place, user in enumerate(users):
        for item in range(ITEMS):
            own = user < USERS and orders[user, item] > 0
            assert targets[place, item] == (quantity[user, item] if own else 0)
            assert float(weight[place, item]) == pytest.approx(recency[user, item] if own else 1, rel=1e-6)
            assert float(product[place, item]) == pytest.approx(
                quantity[user, item] * recency[user, item] if own else 0, rel=1e-6
            )
    alone, length = batching.sparse_rows(orders)
    batch = batching.gather_rows(alone, jnp.array(users), length, ITEMS)
    targets, weight = batching.target_rows(batch, ITEMS)
    np.testing.assert_array_equal(targets[:2], orders.toarray()[[3, 0]])
    assert weight == 1.0 and batching.weighted_targets(batch).values is batch.values


def test_another_matrix_must_have_the_same_cells():
    orders = user_item_matrix(shop(orders_of_first=2))
    with pytest.raises(AssertionError):
        batching.sparse_rows(orders, targets=sp.csr_array(orders[:, ::-1]))


# Losses, against loops over the cells


QUANTITIES = np.array([[2, 0, 8, 0, 4], [0, 0, 0, 1, 0], [0, 3, 3, 1, 1]])
TARGETS = np.array([[0.5, 0, 1.0, 0, 0.25], [0, 0, 0, 1.0, 0], [0, 0.75, 0.75, 0.25, 0.25]])
WEIGHTS = np.array([[3.0, 0, 0.5, 0, 1.0], [0, 0, 0, 2.0, 0], [0, 1.0, 4.0, 0.25, 1.5]])


def batch_of(targets: np.ndarray | None, weights: np.ndarray | None, users: int = 3) -> batching.Batch:
    """Rows of the quantities' cells."""
    matrix = sp.csr_array((QUANTITIES > 0).astype(np.float32))

    def like(values):
        return None if values is None else sp.csr_array((values[QUANTITIES > 0], matrix.indices, matrix.indptr))

    rows, length = batching.sparse_rows(matrix, targets=like(targets), weights=like(weights))
    return batching.gather_rows(rows, jnp.arange(users), length, QUANTITIES.shape[1])


MULTAE = {"dropout": 0.0, "penalty": 0.1, "noise": 1.0}
LOSSES = {
    "ae": lambda module, batch: ae._loss(module, batch, jnp.asarray(0), jax.random.key(3)),
    "autorec": lambda module, batch: autorec._loss(
        module, batch, jnp.asarray(0), jax.random.key(3), penalty=0.1, unobserved=0.3
    ),
    "cdae": lambda module, batch: cdae._loss(module, batch, jnp.asarray(0), jax.random.key(3), dropout=0.0, l2=0.1),
    "vae": lambda module, batch: vae._loss(
        module, batch, jnp.asarray(0), jax.random.key(3), likelihood="bernoulli", kl_weight=0.5
    ),
    "multdae": lambda module, batch: multvae._loss(
        module, batch, jnp.asarray(0), jax.random.key(3), **MULTAE, anneal_cap=0.0, anneal_steps=1
    ),
    "multvae": lambda module, batch: multvae._loss(
        module, batch, jnp.asarray(9), jax.random.key(3), **MULTAE, anneal_cap=0.5, anneal_steps=10
    ),
    "recvae": lambda module, batch: recvae._decoder_loss(
        module, module, batch, jnp.asarray(0), jax.random.key(3), noise=1.0
    ),
    "macridvae": lambda module, batch: macridvae._loss(
        module,
        batch,
        jnp.asarray(1),
        jax.random.key(3),
        dropout=0.0,
        std=0.1,
        gumbel=False,
        penalty=0.1,
        anneal_cap=0.5,
        anneal_steps=10,
    ),
    "elsa": lambda module, batch: elsa._loss(module, batch, jnp.asarray(0), jax.random.key(3)),
}


@pytest.fixture(scope="module", params=sorted(LOSSES))
def loss_of(request):
    """A network's name, its module, and `loss(targets, weights)` of it, `[3]`."""
    known = registry.field_types(registry.family(request.param).settings)
    fresh = untrained(request.param, {key: size for key, size in SIZES.items() if key in known}, 5)
    module = module_of(fresh)
    compiled = jax.jit(lambda batch: LOSSES[request.param](module, batch))
    return request.param, module, lambda targets, weights: np.asarray(compiled(batch_of(targets, weights)), np.float64)


def each_cell(loss, targets):
    """`[3, 5]`: what a cell adds to the loss for each unit of its weight, all other weights being 1."""
    plain, added = loss(targets, np.ones_like(WEIGHTS)), np.zeros_like(WEIGHTS)
    for item in range(QUANTITIES.shape[1]):
        heavier = np.ones_like(WEIGHTS)
        heavier[:, item] = 2.0
        added[:, item] = loss(targets, heavier) - plain
    return np.where(QUANTITIES > 0, added, 0.0)


def test_a_weight_multiplies_its_cells_term_of_the_loss(loss_of):
    name, module, loss = loss_of
    plain = loss(TARGETS, np.ones_like(WEIGHTS))
    np.testing.assert_allclose(plain, loss(TARGETS, None), rtol=1e-5)
    np.testing.assert_allclose(loss((QUANTITIES > 0) * 1.0, None), loss(None, None), rtol=1e-5)
    found = loss(TARGETS, WEIGHTS) - plain
    if name == "elsa":
        scores = np.asarray(module(batch_of(None, None)), np.float64)
        for got, s, y in zip(loss(TARGETS, WEIGHTS), scores, TARGETS * WEIGHTS, strict=True):
            cosine = sum(a * b for a, b in zip(s, y, strict=True)) / np.sqrt(sum(s**2) * sum(y**2))
            assert got == pytest.approx(2 - 2 * cosine, rel=1e-4)
        return
    terms = each_cell(loss, TARGETS)
    expected = [sum(terms[u, i] * (WEIGHTS[u, i] - 1) for i in range(5) if QUANTITIES[u, i]) for u in range(3)]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    assert np.abs(found).min() > 1e-3
    # The terms themselves, from their definitions.
    if name in MULTINOMIAL:
        unit = each_cell(loss, (QUANTITIES > 0) * 1.0)  # -log p
        np.testing.assert_allclose(terms, TARGETS * unit, rtol=1e-3, atol=1e-4)
        return
    if name == "vae":  # its output depends on the sample: the difference of two targets does not
        terms, y = terms - each_cell(loss, np.zeros_like(TARGETS)), TARGETS
        slope = each_cell(loss, np.ones_like(TARGETS)) - each_cell(loss, np.zeros_like(TARGETS))
        np.testing.assert_allclose(terms, y * slope, rtol=1e-3, atol=1e-4)
        return
    batch = batch_of(None, None)
    outputs = np.asarray(module(batch), np.float64)
    p = 1 / (1 + np.exp(-outputs))
    slow = {
        "ae": lambda u, i: (TARGETS[u, i] - p[u, i]) ** 2 / 5,
        "autorec": lambda u, i: (TARGETS[u, i] - outputs[u, i]) ** 2,
        "cdae": lambda u, i: -TARGETS[u, i] * np.log(p[u, i]) - (1 - TARGETS[u, i]) * np.log(1 - p[u, i]),
    }[name]
    expected = [[slow(u, i) if QUANTITIES[u, i] else 0.0 for i in range(5)] for u in range(3)]
    np.testing.assert_allclose(terms, expected, rtol=1e-3, atol=1e-4)


def test_recvae_weighs_its_kl_by_the_sum_of_the_targets():
    module = module_of(untrained("recvae", {key: SIZES[key] for key in ("hidden_dim", "latent_dim")}, 5))
    arguments = {"dropout": 0.0, "noise": 1.0, "mixture_weights": (0.15, 0.75, 0.1)}

    def kl_part(targets, weights, gamma):
        batch = batch_of(targets, weights)
        one, none = (
            recvae._encoder_loss(module, module, batch, jnp.asarray(0), jax.random.key(3), gamma=g, **arguments)
            for g in (gamma, 0.0)
        )
        return np.asarray(one - none, np.float64)

    per_unit = kl_part(None, None, 1.0) / (QUANTITIES > 0).sum(axis=1)
    np.testing.assert_allclose(kl_part(TARGETS, WEIGHTS, 1.0), per_unit * (TARGETS * WEIGHTS).sum(axis=1), rtol=1e-3)


def test_the_logistic_loss_weighs_its_entries():
    logits, targets = np.random.default_rng(0).normal(size=(2, 4)), np.array([[1, 0, 0.5, 0], [0, 0, 1, 1]])
    weight = np.array([[2, 1, 3, 1], [1, 0.5, 1, 1]])
    p = 1 / (1 + np.exp(-logits))
    slow = [
        sum(-w * (y * np.log(q) + (1 - y) * np.log(1 - q)) for w, y, q in zip(*rows, strict=True))
        for rows in zip(weight, targets, p, strict=True)
    ]
    found = losses.bernoulli_nll(jnp.asarray(logits), jnp.asarray(targets), jnp.asarray(weight))
    np.testing.assert_allclose(found, slow, rtol=1e-5)


# The settings


@pytest.mark.parametrize("setting", ["targets", "target_weight"])
def test_a_network_learns_what_its_inputs_do_not_hold(setting):
    """One customer again and again, whose row is all that there is to say: the likelihood's shares are the targets'."""
    lines = lines_of(np.array([[2, 0, 8, 4]] * 4))
    given = {"epochs": 150, "batch_size": 4, "learning_rate": 0.03, "latent_dim": 4, "hidden": (), "dropout": 0.0}
    model = fitted("multdae", lines, registry.make_settings("multdae", given | {setting: "quantity"}))
    batch = model.encode(Histories(lines, None))
    np.testing.assert_array_equal(batching.densify(batch, 4)[0], [1, 0, 1, 1])
    shares = np.exp(np.asarray(model.scores(batch))[0])
    np.testing.assert_allclose(shares / shares.sum(), np.array([2, 0, 8, 4]) / 14, atol=0.03)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_both_settings(name):
    known = registry.field_types(registry.family(name).settings)
    assert {"targets", "target_weight"} <= known.keys()
