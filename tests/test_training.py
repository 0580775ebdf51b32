from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse as sp
from flax import nnx
from jax.test_util import check_grads

from aejax import batching
from aejax.errors import InputError
from aejax.network import Linear, add_bias
from aejax.training import (
    Phase,
    Progress,
    TrainState,
    init_progress,
    init_state,
    make_epoch,
    run_epochs,
    single_phase,
    train_step,
)

USERS, ITEMS, BATCH = 7, 5, 3
LEARNING_RATE = 0.05


@pytest.fixture(scope="module")
def matrix() -> sp.csr_array:
    rng = np.random.default_rng(0)
    return sp.csr_array((rng.uniform(size=(USERS, ITEMS)) < 0.5).astype(np.float32) + np.eye(USERS, ITEMS, dtype="f4"))


def distance(params: dict[str, jax.Array], batch: batching.Batch, step: jax.Array, key: jax.Array) -> jax.Array:
    """Squared distance of each row to one learned point. No noise, so it can be followed by hand."""
    del step, key
    point = jnp.broadcast_to(params["point"], (batch.items.shape[0], ITEMS))
    return jnp.square(batching.densify(batch, ITEMS) - point).sum(1)


def noisy(params: dict[str, jax.Array], batch: batching.Batch, step: jax.Array, key: jax.Array) -> jax.Array:
    """The same, of rows with noise from the step's key and a weight that depends on the step."""
    x = batching.densify(batch, ITEMS)
    point = jnp.broadcast_to(params["point"], x.shape)
    return jnp.square(x + jax.random.normal(key, x.shape) - point).sum(1) / (1.0 + step)


def fresh(optimizer: optax.GradientTransformation) -> TrainState[dict[str, jax.Array]]:
    return init_state({"point": jnp.arange(ITEMS, dtype=jnp.float32)}, optimizer)


def epoch_of(matrix: sp.csr_array, loss: Any, optimizer: optax.GradientTransformation, batch_size: int = BATCH) -> Any:
    return make_epoch(
        batching.row_examples(matrix),
        batch_size=batch_size,
        phases=single_phase(loss),
        optimizer=optimizer,
    )


@pytest.fixture(scope="module")
def epoch(matrix) -> Any:
    """An epoch of `noisy`, compiled once for all the trainings below."""
    return epoch_of(matrix, noisy, optax.adam(LEARNING_RATE))


def train(epoch: Any, *, seed: int = 0, start: Any = None, stored: list | None = None, **changes: Any) -> Any:
    """A whole noisy training of up to 6 epochs; `stored` gets a host copy of the progress of every epoch."""
    optimizer = optax.adam(LEARNING_RATE)

    def on_epoch(progress: Progress, record: dict[str, float]) -> None:
        if stored is not None:
            stored.append((jax.device_get(progress), record))

    arguments: dict[str, Any] = {
        "key": jax.random.key(seed),
        "epochs": 6,
        "patience": 6,
        "remedy": "do this",
        "validate": None,
        "on_epoch": on_epoch,
    }
    start = init_progress(fresh(optimizer), changes.get("averaging", 0.0)) if start is None else start
    return run_epochs(epoch, start, **(arguments | changes))


def scripted(scores: list[float]) -> Any:
    """A validation that says these scores one after another."""
    remaining = iter(scores)
    return lambda params: next(remaining)


def assert_same_bits(left: Any, right: Any) -> None:
    left_leaves, right_leaves = jax.tree.leaves(left), jax.tree.leaves(right)
    assert jax.tree.structure(left) == jax.tree.structure(right)
    assert len(left_leaves) > 0
    for a, b in zip(left_leaves, right_leaves, strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


# One step


def test_steps_equal_adam_written_by_hand(matrix):
    optimizer = optax.adam(LEARNING_RATE)
    state = fresh(optimizer)
    batch = batching.pad_rows(matrix[:BATCH])
    weight = np.ones(BATCH, np.float32)
    x = matrix[:BATCH].toarray().astype(np.float64)
    point, first, second = np.arange(ITEMS, dtype=np.float64), np.zeros(ITEMS), np.zeros(ITEMS)
    for number in range(1, 6):
        expected_total = ((x - point) ** 2).sum()
        gradient = 2 * (point - x).mean(axis=0)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        step_size = LEARNING_RATE / (np.sqrt(second / (1 - 0.999**number)) + 1e-8)
        point = point - step_size * first / (1 - 0.9**number)
        state, total = train_step(state, batch, weight, jax.random.key(number), loss=distance, optimizer=optimizer)
        np.testing.assert_allclose(total, expected_total, rtol=1e-5)
        np.testing.assert_allclose(state.params["point"], point, rtol=1e-4, atol=1e-6)
        assert state.step == number


def test_a_transformation_that_needs_the_parameters_gets_them(matrix):
    optimizer = optax.chain(optax.add_decayed_weights(0.5), optax.sgd(0.1))
    batch = batching.pad_rows(matrix[:BATCH])
    before = np.arange(ITEMS, dtype=np.float64)
    gradient = 2 * (before - matrix[:BATCH].toarray()).mean(axis=0)
    state, _ = train_step(
        fresh(optimizer), batch, jnp.ones(BATCH), jax.random.key(0), loss=distance, optimizer=optimizer
    )
    np.testing.assert_allclose(state.params["point"], before - 0.1 * (gradient + 0.5 * before), rtol=1e-5)


def test_padded_examples_have_no_weight(matrix):
    optimizer = optax.sgd(0.1)
    alone = batching.pad_rows(matrix[:2])
    # What stands in the padded row must not matter, so it is a real and far-off row here.
    padded = batching.Batch(np.vstack([alone.items, alone.items[:1]]), np.vstack([alone.values, 99 + alone.values[:1]]))
    key = jax.random.key(0)
    expected = train_step(fresh(optimizer), alone, jnp.ones(2), key, loss=distance, optimizer=optimizer)
    got = train_step(fresh(optimizer), padded, jnp.array([1.0, 1.0, 0.0]), key, loss=distance, optimizer=optimizer)
    counted = train_step(fresh(optimizer), padded, jnp.ones(3), key, loss=distance, optimizer=optimizer)
    chex.assert_trees_all_close(got, expected, rtol=1e-6)
    assert not np.allclose(counted[0].params["point"], expected[0].params["point"])


# One epoch


def test_an_epoch_is_its_batches_one_after_another(matrix):
    optimizer = optax.adam(LEARNING_RATE)
    epoch_key = jax.random.key(3)
    state, mean_loss = epoch_of(matrix, noisy, optimizer)(fresh(optimizer), jax.random.clone(epoch_key))

    order_key, steps_key = jax.random.split(epoch_key)
    order = np.asarray(batching.epoch_order(order_key, USERS, BATCH))
    expected, total = fresh(optimizer), 0.0
    for index, chosen in enumerate(order):
        real = chosen[chosen < USERS]
        dense = np.zeros((BATCH, ITEMS), np.float32)  # the batch keeps its shape, so that the noise is the same
        dense[: len(real)] = matrix[real].toarray()
        weight = jnp.asarray(chosen < USERS, jnp.float32)
        key = jax.random.fold_in(steps_key, index)
        batch = batching.pad_rows(sp.csr_array(dense))
        expected, batch_total = train_step(expected, batch, weight, key, loss=noisy, optimizer=optimizer)
        total += float(batch_total)
    chex.assert_trees_all_close(state, expected, rtol=1e-5)
    np.testing.assert_allclose(mean_loss, total / USERS, rtol=1e-5)
    assert state.step == 3


@pytest.mark.parametrize("batch_size", [1, 3, 7, 10])
def test_the_mean_loss_is_over_users_whatever_the_batch(matrix, batch_size):
    optimizer = optax.sgd(0.0)  # nothing moves: the mean is that of the first parameters
    _, mean_loss = epoch_of(matrix, distance, optimizer, batch_size)(fresh(optimizer), jax.random.key(0))
    expected = ((matrix.toarray() - np.arange(ITEMS)) ** 2).sum(axis=1).mean()
    np.testing.assert_allclose(mean_loss, expected, rtol=1e-5)


def test_several_epochs_of_several_batches_compile_once(matrix):
    chex.clear_trace_counter()
    optimizer = optax.adam(LEARNING_RATE)
    traced = chex.assert_max_traces(noisy, n=1)
    progress = init_progress(fresh(optimizer))
    epoch = epoch_of(matrix, traced, optimizer)
    arguments: dict[str, Any] = {"patience": 9, "remedy": "do this", "on_epoch": lambda progress, record: None}
    key = jax.random.key(0)
    progress = run_epochs(epoch, progress, key=key, epochs=4, validate=lambda params: 0.0, **arguments)
    assert progress.state.step == 4 * 3
    # The counter does count: a second compilation is refused.
    with pytest.raises(AssertionError, match="traced"):
        epoch_of(matrix, traced, optimizer, batch_size=2)(fresh(optimizer), jax.random.key(1))


def test_the_state_is_donated(matrix):
    optimizer = optax.adam(LEARNING_RATE)
    state = fresh(optimizer)
    progress = init_progress(state)
    epoch_of(matrix, noisy, optimizer)(state, jax.random.key(0))
    assert state.params["point"].is_deleted()
    np.testing.assert_array_equal(progress.best_params["point"], np.arange(ITEMS))


# An epoch of phases


class HandAdam:
    """Adam by hand."""

    def __init__(self) -> None:
        self.count, self.first, self.second = 0, np.zeros(ITEMS), np.zeros(ITEMS)

    def update(self, gradient: np.ndarray) -> np.ndarray:
        self.count += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        scale = np.sqrt(self.second / (1 - 0.999**self.count)) + 1e-8
        return -LEARNING_RATE * self.first / (1 - 0.9**self.count) / scale


def towards(pull: float) -> Any:
    """A row with noise is to be near a + b, and both near what they were when the epoch began."""

    def loss(params: Any, start: Any, batch: batching.Batch, step: jax.Array, key: jax.Array) -> jax.Array:
        x = batching.densify(batch, ITEMS)
        middle = jnp.broadcast_to(params["a"] + params["b"], x.shape)
        moved = sum(jnp.square(params[part] - start[part]).sum() for part in ("a", "b"))
        return jnp.square(x + jax.random.normal(key, x.shape) - middle).sum(1) / (1.0 + step) + pull * moved

    return loss


PULLS = {"a": 0.5, "b": 2.0}
PASSES = {"a": 3, "b": 2}
PHASES = [Phase(towards(PULLS[part]), part=part, passes=PASSES[part]) for part in ("a", "b")]


def two_parts() -> dict[str, jax.Array]:
    return {"a": jnp.linspace(0, 1, ITEMS), "b": jnp.linspace(-1, 2, ITEMS)}


def phased_epoch(matrix: sp.csr_array, phases: list[Phase]) -> Any:
    examples = batching.row_examples(matrix)
    return make_epoch(examples, batch_size=BATCH, phases=phases, optimizer=optax.adam(LEARNING_RATE))


def test_each_phase_updates_its_part_with_an_adam_of_its_own_and_sees_where_the_epoch_began(matrix):
    state = init_state(two_parts(), optax.adam(LEARNING_RATE), ["a", "b"])
    epoch = phased_epoch(matrix, PHASES)
    values = {part: np.asarray(value, np.float64) for part, value in two_parts().items()}
    adams = {"a": HandAdam(), "b": HandAdam()}
    dense = np.vstack([matrix.toarray(), np.zeros((1, ITEMS))])
    step = 0
    for number in (1, 2):
        epoch_key = jax.random.key(number)
        state, mean_loss = epoch(state, jax.random.clone(epoch_key))
        start, total = dict(values), 0.0
        for part, pass_key in zip("aaabb", jax.random.split(epoch_key, 5), strict=True):
            order_key, steps_key = jax.random.split(pass_key)
            for index, chosen in enumerate(np.asarray(batching.epoch_order(order_key, USERS, BATCH))):
                noise = np.asarray(jax.random.normal(jax.random.fold_in(steps_key, index), (BATCH, ITEMS)))
                error = (values["a"] + values["b"] - dense[chosen] - noise)[chosen < USERS]
                moved = {name: values[name] - start[name] for name in values}
                pulled = PULLS[part] * sum(np.square(change).sum() for change in moved.values())
                total += ((error**2).sum(axis=1) / (1 + step) + pulled).sum()
                gradient = 2 * error.mean(axis=0) / (1 + step) + 2 * PULLS[part] * moved[part]
                values[part] = values[part] + adams[part].update(gradient)
                step += 1
        np.testing.assert_allclose(mean_loss, total / (USERS * 5), rtol=1e-4)
        for part in values:
            np.testing.assert_allclose(state.params[part], values[part], rtol=1e-4, atol=1e-5)
    assert state.step == 2 * 5 * 3


def test_what_no_phase_updates_keeps_its_bits_and_has_no_moments(matrix):
    state = init_state(two_parts(), optax.adam(LEARNING_RATE), ["a"])
    state, _ = phased_epoch(matrix, PHASES[:1])(state, jax.random.key(0))
    assert_same_bits({"b": state.params["b"]}, {"b": two_parts()["b"]})
    assert not np.array_equal(state.params["a"], two_parts()["a"])
    assert set(state.opt_state) == {"a"}


def test_an_epoch_of_phases_compiles_once_and_its_state_is_donated(matrix):
    chex.clear_trace_counter()
    # The two losses share a name, and by it the traces are counted: one of each.
    traced = [dataclasses.replace(phase, loss=chex.assert_max_traces(phase.loss, n=2)) for phase in PHASES]
    state = init_state(two_parts(), optax.adam(LEARNING_RATE), ["a", "b"])
    epoch = phased_epoch(matrix, traced)
    later, _ = epoch(state, jax.random.key(0))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    epoch(later, jax.random.key(1))


# The loop


def test_without_validation_the_last_parameters_are_the_best(epoch):
    stored: list = []
    progress = train(epoch, stored=stored, epochs=4, patience=1)
    assert (progress.epoch, progress.best_epoch) == (4, 4)
    assert_same_bits(progress.best_params, progress.state.params)
    assert [record["epoch"] for _, record in stored] == [1, 2, 3, 4]
    assert all(set(record) == {"epoch", "loss"} for _, record in stored)


def test_the_best_parameters_are_kept(epoch):
    stored: list = []
    progress = train(epoch, stored=stored, validate=scripted([0.1, 0.3, 0.2, 0.3, 0.25, 0.1]))
    assert (progress.epoch, progress.best_epoch, progress.best_score) == (6, 2, 0.3)  # a tie does not replace the first
    at_two = stored[1][0]
    assert_same_bits(progress.best_params, at_two.state.params)
    assert not np.array_equal(progress.best_params["point"], progress.state.params["point"])
    assert [record["validation"] for _, record in stored] == [0.1, 0.3, 0.2, 0.3, 0.25, 0.1]


@pytest.mark.parametrize(
    ("patience", "scores", "last", "best"),
    [
        (1, [0.5, 0.4], 2, 1),
        (2, [0.5, 0.4, 0.6, 0.1, 0.2], 5, 3),
        (3, [0.5, 0.4, 0.4, 0.4], 4, 1),
        (3, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 6, 6),
    ],
)
def test_patience_counts_epochs_in_a_row_without_a_better_score(epoch, patience, scores, last, best):
    progress = train(epoch, patience=patience, validate=scripted(scores))
    assert (progress.epoch, progress.best_epoch) == (last, best)


def test_validation_sees_the_parameters_of_its_epoch(epoch):
    seen: list = []
    stored: list = []

    def validate(params: dict[str, jax.Array]) -> float:
        seen.append(np.asarray(params["point"]).copy())
        return float(len(seen))

    train(epoch, stored=stored, validate=validate)
    np.testing.assert_array_equal(seen, [progress.state.params["point"] for progress, _ in stored])


def test_what_is_validated_and_kept_is_the_mean_over_epochs_and_training_goes_on_from_the_last(epoch):
    plain: list = []
    train(epoch, stored=plain)
    seen: list = []

    def validate(params: dict[str, jax.Array]) -> float:
        seen.append(np.asarray(params["point"]).copy())
        return [0.1, 0.2, 0.3, 0.9, 0.5, 0.6][len(seen) - 1]

    stored: list = []
    progress = train(epoch, stored=stored, validate=validate, averaging=0.7)
    ends = [progress.state.params["point"] for progress, _ in plain]
    np.testing.assert_array_equal([progress.state.params["point"] for progress, _ in stored], ends)
    for last, mean in enumerate(seen):
        # The first three weigh alike: (e - 1) / e is below .7 until the fourth, from which on each new one weighs .3.
        weight = [1 / 3 if number < 3 else 0.3 / 0.7 ** (number - 2) for number in range(last + 1)]
        np.testing.assert_allclose(mean, np.average(ends[: last + 1], axis=0, weights=weight), rtol=1e-5)
    assert progress.best_epoch == 4
    np.testing.assert_array_equal(progress.best_params["point"], seen[3])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_epoch_and_remedy(matrix, value):
    optimizer = optax.adam(0.5)

    def breaks(params: Any, batch: batching.Batch, step: jax.Array, key: jax.Array) -> jax.Array:
        # Three updates an epoch: the seventh belongs to epoch 3.
        return distance(params, batch, step, key) + jnp.where(step == 6, value, 0.0)

    told: list = []
    with pytest.raises(InputError) as caught:
        run_epochs(
            epoch_of(matrix, breaks, optimizer),
            init_progress(fresh(optimizer)),
            key=jax.random.key(0),
            epochs=9,
            patience=9,
            remedy="do this",
            validate=None,
            on_epoch=lambda progress, record: told.append(record["epoch"]),
        )
    message = str(caught.value)
    assert message.startswith(f"epoch 3: the loss is {value}")
    assert message.endswith("; do this")
    assert told == [1, 2]


def test_one_seed_twice_gives_the_same_bits_and_two_seeds_do_not(epoch):
    first, again, other = train(epoch, seed=1), train(epoch, seed=1), train(epoch, seed=2)
    assert_same_bits(first, again)
    assert not np.array_equal(first.best_params["point"], other.best_params["point"])


def test_epochs_draw_different_noise(matrix):
    """With nothing learned, only the noise and the step's weight differ between epochs."""
    optimizer = optax.sgd(0.0)
    records: list = []

    def unweighted(params: Any, batch: batching.Batch, step: jax.Array, key: jax.Array) -> jax.Array:
        return noisy(params, batch, jnp.zeros_like(step), key)

    run_epochs(
        epoch_of(matrix, unweighted, optimizer),
        init_progress(fresh(optimizer)),
        key=jax.random.key(0),
        epochs=4,
        patience=4,
        remedy="do this",
        validate=None,
        on_epoch=lambda progress, record: records.append(record["loss"]),
    )
    assert len(set(records)) == 4


@pytest.mark.parametrize("on_device", [False, True], ids=["host", "device"])
@pytest.mark.parametrize("validated", [False, True], ids=["unvalidated", "validated"])
@pytest.mark.parametrize("averaging", [0.0, 0.3])
def test_going_on_from_any_epoch_ends_in_the_bits_of_the_undisturbed(epoch, averaging, validated, on_device):
    def score(params: dict[str, jax.Array]) -> float:
        # Rises and falls, so that the best epoch lies before, at and after the interruption.
        return -abs(float(params["point"][3]) - 2.65)

    train_on = partial(train, epoch, validate=score if validated else None, averaging=averaging)
    stored: list = []
    undisturbed = train_on(stored=stored)
    if validated:
        assert 1 < undisturbed.best_epoch < 6
    for progress, _ in stored:
        start = (
            dataclasses.replace(progress, state=jax.tree.map(jnp.asarray, progress.state)) if on_device else progress
        )
        rest: list = []
        resumed = train_on(start=start, stored=rest)
        assert_same_bits(resumed, undisturbed)
        assert [record for _, record in rest] == [record for _, record in stored[progress.epoch :]]


def test_a_finished_training_goes_no_further(epoch):
    stopped = train(epoch, patience=2, validate=scripted([0.5, 0.4, 0.3]))
    again = train(epoch, patience=2, start=stopped, validate=scripted([]))
    assert again is stopped


def test_a_validation_score_that_is_nan_stops_with_its_epoch(epoch):
    with pytest.raises(InputError, match="epoch 2: the validation score is nan; do this"):
        train(epoch, validate=scripted([0.5, math.nan]), patience=3, epochs=9)


def test_a_bias_has_the_gradient_of_a_sum_over_rows_and_no_reduction_over_rows_is_made():
    rng = np.random.default_rng(0)
    rows, bias, weight = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((7, 5), (5,), (7, 5)))

    def loss(add, rows, bias):
        return (weight * jnp.tanh(add(rows, bias))).sum()

    found = jax.grad(partial(loss, add_bias), argnums=(0, 1))(rows, bias)
    expected = jax.grad(partial(loss, lambda rows, bias: rows + bias[None, :]), argnums=(0, 1))(rows, bias)
    for ours, plain in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-6)
    check_grads(add_bias, (rows, bias), order=1, modes=["rev"])
    layer = Linear(5, 5, rngs=nnx.Rngs(0))
    gradient = jax.make_jaxpr(jax.grad(lambda layer: layer(rows).sum()))(layer)
    assert "reduce_sum[axes=(0,)" not in str(gradient)
