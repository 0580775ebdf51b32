"""Lazy Adam beside a plain dense twin, by rows and by dense products, and through the networks that have it."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse as sp

from aejax import batching, network, registry, runs
from aejax.errors import InputError
from aejax.interactions import Interactions, Vocabulary
from aejax.lazy_adam import update_rows
from tests import silent

RATE = 0.05
WIDE, NARROW = 200, 12  # products whose rows of at most 8 are read one by one on a CPU, and whose rows are made dense
COLUMNS = 3


def uneven_rows(rng: np.random.Generator, count: int) -> np.ndarray:
    """Six customers with 0 to 5 products, of which two are everybody's."""
    rows = np.zeros((6, count), np.float32)
    for row, more in enumerate((0, 1, 3, 0, 2, 1)):
        rows[row, [1, 4, *rng.choice(np.arange(5, count), more, replace=False)]] = rng.uniform(0.5, 2.0)
    rows[0] = 0.0
    return rows


def steps_by_hand(matrix: np.ndarray, examples: list[tuple[np.ndarray, np.ndarray]], everywhere: bool) -> list:
    """Adam in float64 on dense gradients; lazy, unless everywhere: what no cell names stands still."""
    matrix, first, second = matrix.astype(np.float64), np.zeros_like(matrix), np.zeros_like(matrix)
    for number, (rows, outer) in enumerate(examples, start=1):
        gradient = rows.T.astype(np.float64) @ outer
        moves = (rows != 0).any(axis=0)[:, None] | everywhere
        first = np.where(moves, 0.9 * first + 0.1 * gradient, first)
        second = np.where(moves, 0.999 * second + 0.001 * gradient**2, second)
        step = (first / (1 - 0.9**number)) / (np.sqrt(second / (1 - 0.999**number)) + 1e-8)
        matrix = np.where(moves, matrix - RATE * step, matrix)
    return [matrix, first, second]


def steps_by_rows(matrix: np.ndarray, examples: list[tuple[np.ndarray, np.ndarray]]) -> list:
    step = jax.jit(partial(update_rows, learning_rate=RATE))
    state = [jnp.asarray(matrix), *jnp.zeros((2, *matrix.shape))]
    for number, (rows, outer) in enumerate(examples, start=1):
        cells = batching.pad_rows(sp.csr_array(rows), length=8)
        assert batching.reads_rows(cells, len(matrix)) == (len(matrix) == WIDE and jax.default_backend() == "cpu")
        state = list(step(*state, jnp.int32(number), cells, jnp.asarray(outer)))
    return state


@pytest.mark.parametrize("count", [WIDE, NARROW])
def test_steps_on_uneven_rows_equal_a_dense_twin(count):
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(count, COLUMNS)).astype(np.float32)
    examples = [(uneven_rows(rng, count), rng.normal(size=(6, COLUMNS)).astype(np.float32)) for _ in range(5)]
    found = steps_by_rows(matrix, examples)
    expected = steps_by_hand(matrix, examples, False)
    for got, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=1e-6)
    assert np.abs(steps_by_hand(matrix, examples, True)[0] - expected[0]).max() > 1e-2  # it is another optimizer
    never = ~np.any([rows.any(axis=0) for rows, _ in examples], axis=0)
    assert never.any() and (np.asarray(found[0])[never] == matrix[never]).all()


@pytest.mark.parametrize("count", [WIDE, NARROW])
def test_where_every_batch_has_every_product_it_is_adam(count):
    rng = np.random.default_rng(1)
    share = 5 if count == WIDE else 2
    matrix = rng.normal(size=(count, COLUMNS)).astype(np.float32)
    optimizer = optax.adam(RATE)
    expected, state, examples = matrix, optimizer.init(jnp.asarray(matrix)), []
    for _ in range(4):
        rows = np.repeat(np.eye(count // share, dtype=np.float32), share, axis=1) * rng.uniform(0.5, 2.0, count)
        examples.append((rows.astype(np.float32), rng.normal(size=(len(rows), COLUMNS)).astype(np.float32)))
        updates, state = optimizer.update(jnp.asarray(examples[-1][0].T @ examples[-1][1]), state)
        expected = optax.apply_updates(expected, updates)
    np.testing.assert_allclose(steps_by_rows(matrix, examples)[0], np.asarray(expected), rtol=1e-5, atol=1e-6)


def test_a_product_dropped_or_of_value_0_names_no_row():
    cells = batching.Batch(jnp.array([[3, 7, WIDE]]), jnp.array([[0.0, 2.0, 0.0]]))
    before = jnp.ones((WIDE, COLUMNS))
    found = update_rows(before, before, before, jnp.int32(9), cells, jnp.ones((1, COLUMNS)), RATE)
    for after in found:
        assert np.flatnonzero((np.asarray(after) != 1.0).any(axis=1)).tolist() == [7]


def test_no_matrix_is_copied_and_no_gradient_made():
    cells = batching.Batch(jnp.zeros((4, 8), jnp.int32), jnp.ones((4, 8)))
    if not batching.reads_rows(cells, WIDE):
        pytest.skip("rows are read one by one on a CPU")
    matrix = jnp.zeros((WIDE, COLUMNS))
    jitted = jax.jit(partial(update_rows, learning_rate=RATE), donate_argnums=(0, 1, 2))
    program = jitted.lower(matrix, matrix, matrix, jnp.int32(1), cells, jnp.ones((4, COLUMNS))).compile().as_text()
    assert program is not None
    made = [line for line in program.splitlines() if f" = f32[{WIDE},{COLUMNS}]" in line]
    assert made and not [line for line in made if " copy(" in line or " broadcast(" in line or " dot(" in line]


def sparse_shop(items: int) -> Interactions:
    """20 customers with 1 to 6 products of many."""
    rng = np.random.default_rng(2)
    pairs = [(user, item) for user in range(20) for item in rng.choice(items, 1 + user % 6, replace=False)]
    user, item = np.array(pairs, np.int32).T
    names = [Vocabulary(np.array([f"{n:04d}" for n in range(size)], dtype=object)) for size in (20, items)]
    return Interactions(user=user, item=item, quantity=np.ones(len(user), np.int32), users=names[0], items=names[1])


def twin(learning_rate: float, keys: tuple[str | int, ...]) -> optax.GradientTransformation:
    """Lazy Adam that finds the rows without a gradient in the dense gradient."""

    def moves(gradients):
        def of(path, leaf):
            return (leaf != 0).any(axis=1, keepdims=True) if tuple(k.key for k in path) == keys else jnp.array(True)

        return jax.tree_util.tree_map_with_path(of, gradients)

    def init(params):
        return jnp.int32(0), jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params)

    def update(gradients, state, params=None):
        number, first, second = state[0] + 1, *state[1:]
        moving = moves(gradients)
        first = jax.tree.map(lambda w, m, g: jnp.where(w, 0.9 * m + 0.1 * g, m), moving, first, gradients)
        second = jax.tree.map(lambda w, v, g: jnp.where(w, 0.999 * v + 0.001 * g**2, v), moving, second, gradients)

        def step(w, m, v):
            return -learning_rate * w * (m / (1 - 0.9**number)) / (jnp.sqrt(v / (1 - 0.999**number)) + 1e-8)

        return jax.tree.map(step, moving, first, second), (number, first, second)

    return optax.GradientTransformation(init, update)


NETWORKS = {
    "ae": ({"hidden": "32"}, ("layers", 0, "kernel")),
    "vae": ({"hidden": "32", "latent_dim": 4}, ("encoder", 0, "kernel")),
    "multvae": ({"hidden": "16", "latent_dim": 4}, ("encoder", 0, "kernel")),
    "multdae": ({"hidden": "16", "latent_dim": 4, "weight_decay": 0.0}, ("encoder", 0, "kernel")),
}
BRIEF = {"epochs": 3, "batch_size": 6}


def trained(name: str, lines: Interactions, given: dict, **changes):
    return registry.family(name).fit(
        lines, registry.make_settings(name, {**BRIEF, **given}), **silent.training(**changes)
    )


@pytest.mark.parametrize(
    ("name", "items"), [("ae", 60), ("vae", 15), ("multvae", 60), ("multvae", 15), ("multdae", 60)]
)
def test_a_network_trained_by_it_is_that_of_a_dense_twin(name, items, monkeypatch):
    given, keys = NETWORKS[name]
    lines = sparse_shop(items)
    adam, _ = trained(name, lines, given)
    lazy, progress = trained(name, lines, {**given, "optimizer": "lazy-adam"})
    monkeypatch.setattr(network.optax, "adam", partial(twin, keys=keys))
    expected, _ = trained(name, lines, given)
    assert progress.state.step == 3 * 4
    leaves = [jax.tree.leaves(model.state()) for model in (lazy, expected, adam)]
    for got, wanted in zip(*leaves[:2], strict=True):
        np.testing.assert_allclose(got, wanted, atol=2e-5)
    assert max(np.abs(got - plain).max() for got, plain in zip(leaves[0], leaves[2], strict=True)) > 3e-4


def test_a_training_that_goes_on_from_what_was_stored_ends_in_the_same_bits(tmp_path):
    given = {**NETWORKS["multvae"][0], "optimizer": "lazy-adam", "averaging": 0.5, "precision": "bfloat16"}
    lines = sparse_shop(60)

    def store(progress, record):
        if progress.epoch == 1:
            runs.save_state(tmp_path / "state", progress)

    whole, _ = trained("multvae", lines, given, on_epoch=store)
    resumed, progress = trained(
        "multvae", lines, given, resume=lambda progress: runs.load_state(tmp_path / "state", progress)
    )
    assert progress.epoch == 3
    for one, other in zip(jax.tree.leaves(whole.state()), jax.tree.leaves(resumed.state()), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def test_a_misspelt_optimizer_and_networks_that_have_no_such_layer():
    with pytest.raises(InputError, match=r'optimizer is "lasy-adam"; did you mean "lazy-adam"'):
        registry.make_settings("multvae", {"optimizer": "lasy-adam"})
    for name, given in (
        ("multdae", {}),
        ("vae", {"hidden": ""}),
        ("autorec", {}),
        ("recvae", {"hidden_dim": 8, "latent_dim": 4}),
    ):
        with pytest.raises(InputError, match=r'optimizer is "lazy-adam", .* use --set optimizer=adam'):
            trained(name, sparse_shop(15), {**given, "optimizer": "lazy-adam"})
