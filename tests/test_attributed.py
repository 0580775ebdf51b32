"""Networks that know attributes: sums of vectors against dense twins, cold products, customers, and whole runs."""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from flax import nnx
from jax.test_util import check_grads

from aejax import attributed, batching, memory
from aejax.errors import InputError, ResourceError
from aejax.experiment import tuning
from aejax.interactions import Features, Interactions, Vocabulary, histories_of
from aejax.models import multvae
from aejax.registry import family, make_settings
from tests.shops import run, write_shop

ITEMS, FEATURES, CUSTOMER_FEATURES, HIDDEN = 7, 5, 3, 4
NAMES = ("multdae", "multvae")
each_network = pytest.mark.parametrize("name", NAMES)


def features_of(matrix: np.ndarray) -> Features:
    return Features(sp.csr_array(matrix.astype(np.float32)), tuple(("kind", str(f)) for f in range(matrix.shape[1])))


# The sums

PRODUCTS = np.array(
    [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 1, 1, 1, 0],
        [0, 0, 0, 0, 0],
        [1, 0, 0.5, 0, 0],
        [0, 1, 0, 1, 1],  # nobody bought it
        [0, 0, 0, 0, 1],  # nor this one
    ]
)
BOUGHT = np.array([1, 1, 1, 1, 1, 0, 0], dtype=bool)
KNOWN = batching.pad_rows(sp.csr_array(PRODUCTS.astype(np.float32)))
ROWS = np.array([[1, 0, 1, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0], [1, 1, 0, 0, 1, 0, 0]], dtype=np.float64)
CUSTOMERS = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.6, 0.8]])
BATCH = jax.tree.map(
    jnp.asarray,
    batching.pad_rows(sp.csr_array(ROWS.astype(np.float32)))._replace(
        customers=batching.pad_rows(sp.csr_array(CUSTOMERS.astype(np.float32)))
    ),
)


def module_with_random_weights(name: str) -> tuple[nnx.GraphDef, dict[str, Any]]:
    """A network whose products have features, and its customers too."""
    variational = name == "multvae"
    sizes = {"hidden": (HIDDEN,), "latent_dim": 3, "variational": variational, "customers": CUSTOMER_FEATURES}
    build = functools.partial(multvae.MultAE, **sizes)
    graphdef, variables = nnx.split(attributed.Attributed(ITEMS, nnx.Rngs(params=0), build=build, features=FEATURES))
    rng = np.random.default_rng(3)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / 2, jnp.float32), nnx.to_pure_dict(variables)
    )
    return graphdef, params


def dense_of_training(params: dict[str, Any]) -> dict[str, Any]:
    """The dense twin: the parameters of a plain network, by products of dense matrices."""
    own, vectors = params["module"], params["vectors"]
    first, last = own["encoder"][0], own["decoder"][1]
    products = jnp.asarray(PRODUCTS, jnp.float32)
    inputs, outputs, bias = vectors[:, :HIDDEN], vectors[:, HIDDEN : 2 * HIDDEN], vectors[:, 2 * HIDDEN]
    summed = {"kernel": last["kernel"] + (products @ outputs).T, "bias": last["bias"] + products @ bias}
    return {
        **own,
        "encoder": {**own["encoder"], 0: {**first, "kernel": first["kernel"] + products @ inputs}},
        "decoder": {**own["decoder"], 1: summed},
    }


def dense_fitted(params: dict[str, Any]) -> dict[str, Any]:
    """The same, with the mean of the products that were bought in place of what is the own of another."""
    own = jax.tree.map(np.array, params["module"])
    for leaf in (own["encoder"][0]["kernel"], own["decoder"][1]["kernel"].T, own["decoder"][1]["bias"]):
        leaf[~BOUGHT] = leaf[BOUGHT].mean(axis=0)
    return dense_of_training({**params, "module": own})


def logits_of(params: dict[str, Any], name: str) -> np.ndarray:
    """A plain network of one hidden layer on `ROWS`, in NumPy."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def layer(part: str, number: int, x: np.ndarray) -> np.ndarray:
        return x @ params[part][number]["kernel"] + params[part][number]["bias"]

    x = ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True)
    code = layer("encoder", 1, np.tanh(layer("encoder", 0, x) + CUSTOMERS @ params["customers"]))
    code = code[:, :3] if name == "multvae" else np.tanh(code)
    return layer("decoder", 1, np.tanh(layer("decoder", 0, code)))


@each_network
def test_kernels_and_scores_are_those_of_the_dense_twin(name):
    graphdef, params = module_with_random_weights(name)
    in_training = nnx.merge(graphdef, params).of_training(KNOWN, jnp.asarray(BOUGHT))
    expected = logits_of(dense_of_training(params), name)
    got = np.asarray(in_training(BATCH))
    np.testing.assert_allclose(got[:, BOUGHT], expected[:, BOUGHT], rtol=1e-4, atol=1e-5)
    assert np.all(got[:, ~BOUGHT] < -1e8)
    fitted = nnx.merge(graphdef, params).fitted(KNOWN, jnp.asarray(BOUGHT))
    found = jax.tree.leaves(nnx.to_pure_dict(nnx.state(fitted)))
    for one, other in zip(found, jax.tree.leaves(dense_fitted(params)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(fitted(BATCH), logits_of(dense_fitted(params), name), rtol=1e-4, atol=1e-5)


def loss_of(graphdef: nnx.GraphDef, params: dict[str, Any]) -> jax.Array:
    settings = {"dropout": 0.3, "penalty": 0.0, "anneal_cap": 0.2, "anneal_steps": 10, "noise": 1.0}
    module = nnx.merge(graphdef, params).of_training(KNOWN, jnp.asarray(BOUGHT))
    return multvae._loss(module, BATCH, jnp.asarray(5), jax.random.key(1), **settings).mean()


@pytest.mark.parametrize("share", [0.0, 100.0], ids=["dense", "by rows"])
@each_network
def test_gradients_are_those_of_the_loss_and_of_the_dense_twin(name, share, monkeypatch):
    monkeypatch.setattr(batching, "LONGEST_SHARE", share)
    graphdef, params = module_with_random_weights(name)
    loss = jax.jit(functools.partial(loss_of, graphdef))
    check_grads(loss, (params,), order=1, modes=["rev"], eps=1e-2, atol=2e-2, rtol=2e-2)
    plain = nnx.graphdef(nnx.merge(graphdef, params).module)

    def dense_loss(params: dict[str, Any]) -> jax.Array:
        summed = dense_of_training(params)
        bias = jnp.where(jnp.asarray(BOUGHT), summed["decoder"][1]["bias"], attributed.NEVER)
        last = {**summed["decoder"][1], "bias": bias}
        module = nnx.merge(plain, {**summed, "decoder": {**summed["decoder"], 1: last}})
        settings = {"dropout": 0.3, "penalty": 0.0, "anneal_cap": 0.2, "anneal_steps": 10, "noise": 1.0}
        return multvae._loss(module, BATCH, jnp.asarray(5), jax.random.key(1), **settings).mean()

    found = jax.jit(jax.grad(loss))(params)
    expected = jax.jit(jax.grad(dense_loss))(params)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    # A feature of products that nobody bought alone, and what is their own, learn nothing; all others do.
    moved = np.abs(np.asarray(found["vectors"])).max(axis=1) > 0
    assert moved.tolist() == [True, True, True, True, False]
    last = found["module"]["decoder"][1]
    assert (np.abs(np.asarray(last["kernel"])).max(axis=0) > 0).tolist() == BOUGHT.tolist()
    assert (np.abs(np.asarray(last["bias"])) > 0).tolist() == BOUGHT.tolist()


def lines_of(bought: np.ndarray, products: np.ndarray | None, customers: np.ndarray | None) -> Interactions:
    user, item = np.nonzero(bought)
    return Interactions(
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        quantity=np.ones(len(user), dtype=np.int32),
        users=Vocabulary.of(f"u{n:03d}" for n in range(bought.shape[0])),
        items=Vocabulary.of(f"i{n:03d}" for n in range(bought.shape[1])),
        item_features=None if products is None else features_of(products),
        user_features=None if customers is None else features_of(customers),
    )


def test_features_are_of_length_1_and_of_two_products_of_which_one_was_bought():
    products = np.array([[1, 1, 0, 3, 0], [4, 0, 0, 1, 0], [0, 0, 2, 0, 0], [0, 0, 5, 0, 0], [0, 0, 0, 0, 0]])
    lines = lines_of(np.array([[1, 1, 0, 0, 0]]), products, None)
    found = attributed.product_features(lines)
    # The second is of one product alone, the third of products that nobody bought, the last of none.
    root = np.sqrt(np.array([10.0, 17.0]))[:, None]
    expected = np.vstack([np.array([[1, 3], [4, 1]]) / root, np.zeros((3, 2))])
    assert found is not None
    np.testing.assert_allclose(found.toarray(), expected, rtol=1e-6)
    long = np.ones((2, 30))
    assert np.linalg.norm(attributed.unit_length(sp.csr_array(long)).toarray(), axis=1) == pytest.approx(1.0)


# What is learnt

GROUPS, GROUP_ITEMS, GROUP_USERS, COLD = 3, 10, 24, 2
SMALL: dict[str, Any] = {"hidden": (16,), "latent_dim": 8, "epochs": 40, "batch_size": 16, "learning_rate": 0.01}
BRIEF = SMALL | {"epochs": 2}


@pytest.fixture(scope="module")
def planted() -> Interactions:
    """Three groups of customers and products; nobody bought the last two of a group's products. A product has its
    group and a word that says nothing; of most customers the group is known.
    """
    rng = np.random.default_rng(0)
    bought = np.zeros((GROUPS * GROUP_USERS, GROUPS * GROUP_ITEMS), dtype=int)
    for user, row in enumerate(bought):
        own = GROUP_ITEMS * (user // GROUP_USERS) + np.arange(GROUP_ITEMS - COLD)
        row[rng.choice(own, 4, replace=False)] = 1
    group = np.arange(bought.shape[1]) // GROUP_ITEMS
    products = np.hstack([np.eye(GROUPS)[group], np.eye(4)[np.arange(len(group)) % 4]])
    customers = np.eye(GROUPS)[np.arange(len(bought)) // GROUP_USERS]
    customers[::5] = 0
    return lines_of(bought, products, customers)


def fitted(name: str, lines: Interactions, settings: dict[str, Any], **training: Any) -> Any:
    arguments: dict[str, Any] = {
        "key": jax.random.key(0),
        "validate": None,
        "on_epoch": lambda progress, record: None,
        "resume": lambda progress: progress,
    } | training
    return family(name).fit(lines, make_settings(name, settings), **arguments)[0]


def scores_of(model: Any, lines: Interactions) -> np.ndarray:
    return np.array(model.scores(model.encode(histories_of(lines, np.arange(len(lines.users))))))


def share_of_own_cold(model: Any, lines: Interactions) -> float:
    """How many of the best two among the products that nobody bought are of the customer's group."""
    scores = scores_of(model, lines)
    sold = np.bincount(lines.item, minlength=len(lines.items)) > 0
    best = np.argsort(-np.where(sold, -np.inf, scores), axis=1)[:, :COLD]
    return float(np.mean(best // GROUP_ITEMS == (np.arange(len(scores)) // GROUP_USERS)[:, None]))


@each_network
def test_products_that_nobody_bought_are_ranked_by_their_attributes_and_by_chance_without(name, planted):
    assert share_of_own_cold(fitted(name, planted, SMALL | {"attributes": True}), planted) > 0.95
    assert share_of_own_cold(fitted(name, planted, SMALL), planted) < 0.6


def test_attributes_of_products_alone_make_a_plain_network_also_without_a_hidden_layer(planted):
    lines = dataclasses.replace(planted, user_features=None)
    model = fitted("multvae", lines, SMALL | {"hidden": (), "attributes": True})
    plain = fitted("multvae", lines, BRIEF | {"hidden": ()})
    assert type(model) is type(plain)
    assert jax.tree.map(jnp.shape, model.state()) == jax.tree.map(jnp.shape, plain.state())
    assert share_of_own_cold(model, lines) > 0.95


@each_network
def test_attributes_of_customers_alone_move_their_scores_by_the_dense_definition(name, planted):
    lines = dataclasses.replace(planted, item_features=None)
    lines = with_features(lines, np.hstack([planted.user_features.matrix.toarray(), np.zeros((len(planted.users), 1))]))
    model = fitted(name, lines, SMALL | {"attributes": True})
    state = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), model.state())
    assert state["customers"].shape == (GROUPS + 1, 16) and np.abs(state["customers"]).max() > 0.01

    # One history, by customers of whom something else is known: a group, another and a feature that no customer of the
    # training has, two groups at once, that feature alone, nothing.
    known = np.array([[1, 0, 0, 0], [0, 1, 0, 1], [3, 4, 0, 5], [0, 0, 0, 1], [0, 0, 0, 0]])
    one = planted.take(planted.user == 1)
    histories = dataclasses.replace(
        one.take(np.tile(np.arange(len(one)), 5)),
        user=np.repeat(np.arange(5, dtype=np.int32), len(one)),
        users=Vocabulary.of("abcde"),
        user_features=features_of(known),
    )
    row = np.zeros(len(planted.items))
    row[one.item] = 1 / np.sqrt(len(one))
    first = row @ state["encoder"][0]["kernel"] + state["encoder"][0]["bias"]
    met = known[:, :GROUPS]
    added = (met / np.maximum(np.linalg.norm(met, axis=1, keepdims=True), 1)) @ state["customers"][:GROUPS]
    code = np.tanh(first + added) @ state["encoder"][1]["kernel"] + state["encoder"][1]["bias"]
    code = code[:, :8] if name == "multvae" else np.tanh(code)
    hidden = np.tanh(code @ state["decoder"][0]["kernel"] + state["decoder"][0]["bias"])
    expected = hidden @ state["decoder"][1]["kernel"] + state["decoder"][1]["bias"]
    found = scores_of(model, histories)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert np.ptp(found, axis=0).max() > 0.1
    # Where the table of customers has nothing, all of them are as the last one.
    unknown = scores_of(model, dataclasses.replace(histories, user_features=None))
    np.testing.assert_allclose(unknown, found[[4] * 5], rtol=1e-5, atol=1e-6)


def with_features(lines: Interactions, matrix: np.ndarray) -> Interactions:
    return dataclasses.replace(lines, user_features=features_of(matrix))


def test_a_feature_that_no_customer_of_the_training_has_changes_nothing(planted):
    """Not even how much the features beside it count; of a customer whose only feature it is, nothing is known."""
    matrix = planted.user_features.matrix.toarray()
    wider = with_features(planted, np.hstack([matrix, np.zeros((len(matrix), 1))]))
    model = fitted("multvae", wider, SMALL | {"attributes": True})
    assert not np.asarray(model.state()["customers"])[-1].any()
    later = with_features(planted, np.hstack([matrix, np.ones((len(matrix), 1))]))
    np.testing.assert_array_equal(scores_of(model, later), scores_of(model, wider))
    # Nothing of this is empty: the feature that was met counts.
    shrunk = with_features(planted, np.hstack([matrix / 2**0.5, np.zeros((len(matrix), 1))]))
    np.testing.assert_allclose(scores_of(model, shrunk), scores_of(model, wider), rtol=1e-5, atol=1e-5)
    unknown = with_features(planted, np.zeros((len(matrix), 4)))
    assert np.abs(scores_of(model, unknown) - scores_of(model, wider)).max() > 0.1
    restored = family("multvae").restore(
        jax.tree.map(np.asarray, model.state()), make_settings("multvae", SMALL | {"attributes": True}), items=30
    )
    np.testing.assert_array_equal(scores_of(restored, later), scores_of(model, wider))


def test_features_of_customers_who_bought_nothing_are_none_to_learn_from(planted):
    """The only customer of whom something is known has no purchase."""
    known = np.zeros((len(planted.users), 1))
    known[0] = 1
    lines = with_features(planted.take(planted.user != 0), known)
    assert attributed.customer_features(lines) is None


@each_network
def test_a_customers_scores_do_not_depend_on_who_else_is_scored(name, planted):
    model = fitted(name, planted, BRIEF | {"attributes": True})
    histories = histories_of(planted, np.arange(0, len(planted.users), 3))
    together = np.asarray(model.scores(model.encode(histories)))
    for size in (1, 7):
        parts = [histories.take(start, start + size) for start in range(0, len(histories), size)]
        found = np.vstack([model.scores(batching.fill_rows(model.encode(part), size))[: len(part)] for part in parts])
        np.testing.assert_allclose(found, together, rtol=1e-5, atol=1e-6)


def test_the_features_of_a_training_are_those_of_the_customers_who_bought_something(planted):
    """Customers without a purchase stand between the others."""
    order = np.arange(len(planted.users)) + (np.arange(len(planted.users)) >= 10)
    known = np.ones((len(planted.users) + 1, GROUPS))
    known[order] = planted.user_features.matrix.toarray()
    with_empty = dataclasses.replace(
        planted,
        user=order[planted.user].astype(np.int32),
        users=Vocabulary.of(f"u{n:03d}" for n in range(len(known))),
        user_features=features_of(known),
    )
    settings = BRIEF | {"attributes": True}
    expected = scores_of(fitted("multvae", planted, settings), planted)
    np.testing.assert_array_equal(scores_of(fitted("multvae", with_empty, settings), planted), expected)


@each_network
def test_going_on_from_a_stored_epoch_ends_in_the_same_bits(name, planted):
    settings, stored = BRIEF | {"attributes": True}, []
    whole = fitted(name, planted, settings, on_epoch=lambda progress, _: stored.append(jax.device_get(progress)))
    resumed = fitted(name, planted, settings, resume=lambda progress: stored[0])
    assert scores_of(resumed, planted).tobytes() == scores_of(whole, planted).tobytes()
    assert scores_of(whole, planted).tobytes() == scores_of(fitted(name, planted, settings), planted).tobytes()
    restored = family(name).restore(jax.tree.map(np.asarray, whole.state()), make_settings(name, settings), items=30)
    assert scores_of(restored, planted).tobytes() == scores_of(whole, planted).tobytes()


# Bad input, and whole runs


@pytest.mark.parametrize("products", [None, np.eye(30)], ids=["none", "unique"])
def test_attributes_that_the_data_lack_are_refused(products, planted):
    features = None if products is None else features_of(products)
    lines = dataclasses.replace(planted, item_features=features, user_features=None)
    with pytest.raises(InputError, match=r"attributes is True, and these data have none.*--set attributes=false"):
        fitted("multvae", lines, BRIEF | {"attributes": True})


@pytest.mark.parametrize("share", [0.0, 100.0], ids=["dense", "by rows"])
def test_the_memory_of_kernels_with_their_sums_counts(share, planted, monkeypatch):
    """Refused where there is room for the parameters and a batch, but not for what an update makes of them."""
    monkeypatch.setattr(batching, "LONGEST_SHARE", share)
    items, width, features = len(planted.items), 16 + 16 + 1, planted.item_features.matrix.shape[1]
    parameters = items * width + features * width + GROUPS * 16 + (16 * 16 + 16 + 8 * 16 + 16) + 16
    room = 4 * (5 * parameters + 3 * 16 * items)
    needed = room + 4 * items * (3 * width + (0 if share else features))
    monkeypatch.setattr(memory, "available", lambda: needed - 1)
    with pytest.raises(ResourceError, match=f"{parameters:,} parameters and batches of 16 customers x 30 products"):
        fitted("multvae", planted, BRIEF | {"attributes": True})
    monkeypatch.setattr(memory, "available", lambda: needed)
    fitted("multvae", planted, BRIEF | {"attributes": True, "epochs": 1})


@each_network
def test_attributes_are_searched_where_there_are_some(name, planted):
    one = family(name)
    bare = dataclasses.replace(planted, item_features=None, user_features=None)
    assert "attributes" in one.search and tuning._saying_nothing(bare, one) == {"attributes"}
    assert not tuning._saying_nothing(dataclasses.replace(planted, item_features=None), one)
    assert one.uses_attributes(make_settings(name, {"attributes": "true"}))
    assert not one.uses_attributes(make_settings(name, {}))


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """The small shop with each product's half, a product of each half without an order, and customers' tastes."""
    folder = write_shop(tmp_path_factory.mktemp("attributed") / "shop")
    products = pd.read_csv(folder / "products.csv", dtype=str)
    half = ["low" if int(sku) < 8 else "high" for sku in products["sku"]]
    new = pd.DataFrame({"sku": ["new-high", "new-low"], "title": "", "half": ["high", "low"]})
    pd.concat([products.assign(half=half), new]).to_csv(folder / "products.csv", index=False)
    customers = pd.read_csv(folder / "customers.csv", dtype=str)
    taste = [("even", "odd")[int(customer) % 2] if int(customer) % 3 else "" for customer in customers["customer_id"]]
    customers.assign(taste=taste).to_csv(folder / "customers.csv", index=False)
    return folder


OPTIONS = ("--model", "multvae", "--min-customers", 2, "--epochs", 15)
SET = ("--set", "attributes=true", "hidden=8", "latent_dim=4", "learning_rate=.02", "batch_size=8")


@pytest.mark.slow
def test_a_run_gives_its_figures_again_and_recommends_new_products(shop, tmp_path, capsys):
    folder = tmp_path / "run"
    assert run("fit", shop, *OPTIONS, *SET, "--split", "last-order", "--new-products", "--run", folder) == 0
    assert run("evaluate", folder) == 0
    assert "They equal those of metrics.json." in capsys.readouterr().out
    out = tmp_path / "out.csv"
    assert run("recommend", folder, "--top", 4, "--include-new", 0.25, "--out", out) == 0
    new = pd.read_csv(out, dtype={"customer_id": str}).query("basis == 'attributes'")
    expected = np.where(new["customer_id"].astype(int) % 2, "new-high", "new-low")
    assert len(new) == 40 and (new["sku"] == expected).mean() > 0.9


@pytest.mark.slow
def test_cold_items_give_their_figures_again(shop, tmp_path):
    options = ("--split", "cold-items", "--epochs", 3, "--run", tmp_path / "run")
    assert run("fit", shop, "--model", "multdae", "--min-customers", 2, *SET, *options) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["tasks"].keys() == {"cold", "mixed"}
    assert run("evaluate", tmp_path / "run", "--json", tmp_path / "again.json") == 0
    assert json.loads((tmp_path / "again.json").read_text()) == metrics
