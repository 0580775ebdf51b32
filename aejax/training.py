"""Training as pure functions: a state, one step, one epoch as scans, and the loop that stops in time.

Legend: B batch, T steps of an epoch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import optax

from aejax import batching
from aejax.errors import InputError

Params = TypeVar("Params")
# (params, batch, step, key) -> the loss of each example, [B]
LossFunction = Callable[[Any, Any, jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Phase:
    """Passes over all examples in which one loss updates one part of the parameters.

    Attributes:
      loss: `(params, start, batch, step, key)` -> the loss of each example, `[B]`; `start` are all parameters as they
        were when the epoch began.
      part: the key of what is updated in the dictionary of parameters; the rest has no gradient, no update and no
        moments in this phase. None: all of them. An epoch's phases either all name a part or none does.
      passes: how often each example is seen.
    """

    loss: Callable[..., jax.Array]
    part: str | None = None
    passes: int = 1


def single_phase(loss: LossFunction) -> tuple[Phase]:
    """An epoch that is one pass over all examples and updates all parameters."""
    return (Phase(lambda params, start, batch, step, key: loss(params, batch, step, key)),)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState(Generic[Params]):
    """What a step takes and returns. It is donated: the old one is gone after the step.

    Attributes:
      params: the parameters.
      opt_state: the optimizer's state, or one for each part of the parameters that phases update.
      step: int32 scalar, number of updates made.
    """

    params: Params
    opt_state: optax.OptState
    step: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Progress(Generic[Params]):
    """Where a training stands after an epoch: all that is needed to go on in the same bits.

    Attributes:
      state: the latest state.
      best_params: the parameters of the best epoch by validation, or the latest ones where nothing is validated.
      best_score: validation score of the best epoch, `-inf` before the first.
      best_epoch: that epoch, counted from 1; the latest one where nothing is validated.
      epoch: epochs done.
      averaged: the mean of the parameters over the epochs, see `averaged`; None where they are not averaged.
    """

    state: TrainState[Params]
    best_params: Params
    best_score: float
    best_epoch: int
    epoch: int
    averaged: Params | None = None


def init_state(params: Params, optimizer: Any, parts: Sequence[str | None] = (None,)) -> TrainState[Params]:
    """The state before the first step of an optimizer, optax's or one with its `init`; `parts` are those of the epoch's
    phases.
    """
    tree: Any = params
    opt_state = optimizer.init(tree) if None in parts else {part: optimizer.init(tree[part]) for part in parts}
    return TrainState(params, opt_state, jnp.zeros((), jnp.int32))  # pyright: ignore[reportArgumentType]


def init_progress(state: TrainState[Params], averaging: float = 0.0) -> Progress[Params]:
    """The progress before the first epoch."""
    # Copies: the state is donated to the first epoch, and the best parameters must survive it.
    mean = jax.tree.map(jnp.copy, state.params) if averaging else None
    return Progress(state, jax.tree.map(jnp.copy, state.params), -math.inf, 0, 0, mean)


@jax.jit
def averaged(mean: Params, params: Params, epoch: int, averaging: float) -> Params:
    """The mean of the parameters over the epochs so far, of which each weighs `averaging` times what the next one does.

    Polyak and Juditsky (1992) average the updates of a training whose steps stay long; here it is the ends of epochs,
    and early ones are forgotten. Of the first epochs, which are few, all weigh alike, so that the start has no weight.
    """
    kept = jnp.minimum(averaging, (epoch - 1) / epoch)
    return jax.tree.map(lambda old, new: kept * old + (1.0 - kept) * new, mean, params)


def train_step(
    state: TrainState[Params],
    batch: Any,
    weight: jax.Array,
    key: jax.Array,
    *,
    loss: LossFunction,
    optimizer: optax.GradientTransformation,
) -> tuple[TrainState[Params], jax.Array]:
    """One update on the weighted mean of the examples' losses.

    Args:
      state: the state.
      batch: B examples, as the loss takes them.
      weight: `[B]`, 0 for padding.
      key: for dropout and sampling of this step.
      loss: unreduced loss.
      optimizer: an optax transformation.

    Returns:
      The next state and the summed weighted loss of the batch.
    """

    def mean_loss(params: Params) -> tuple[jax.Array, jax.Array]:
        total = (loss(params, batch, state.step, key) * weight).sum()
        return total / weight.sum(), total

    grads, total = jax.grad(mean_loss, has_aux=True)(state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)  # pyright: ignore[reportArgumentType]
    params = optax.apply_updates(state.params, updates)  # pyright: ignore[reportArgumentType]
    return TrainState(params, opt_state, state.step + 1), total  # pyright: ignore[reportReturnType]


def make_epoch(
    examples: batching.Examples,
    *,
    batch_size: int,
    phases: Sequence[Phase],
    optimizer: Any,
    step: Callable[..., tuple[TrainState[Any], jax.Array]] = train_step,
) -> Callable[[TrainState[Params], jax.Array], tuple[TrainState[Params], jax.Array]]:
    """One epoch as one compiled function: `(state, epoch_key) -> (state, mean loss over examples and passes)`.

    The state is donated. Each pass is a scan over the batches of an order of its own; a loss is traced once for each
    shape of a batch. `step` is `train_step` or one like it, of the optimizer.
    """

    def one_pass(data: Any, loss: Callable[..., jax.Array], state: TrainState, pass_key: jax.Array):
        order_key, steps_key = jax.random.split(pass_key)

        def step_of(cut: Callable[..., tuple[Any, jax.Array]], state: TrainState, index: jax.Array, chosen: jax.Array):
            batch, weight = cut(data, chosen)
            step_key = jax.random.fold_in(steps_key, index)
            return step(state, batch, weight, step_key, loss=loss, optimizer=optimizer)

        def body(state: TrainState, xs: tuple[jax.Array, jax.Array, jax.Array]):
            index, chosen, shape = xs
            return jax.lax.switch(shape, [partial(step_of, cut) for cut in examples.cuts], state, index, chosen)

        order, shapes = examples.draw(data, order_key, batch_size)
        state, totals = jax.lax.scan(body, state, (jnp.arange(order.shape[0]), order, shapes))
        return state, totals.sum()

    passes = sum(phase.passes for phase in phases)

    def epoch(data: Any, state: TrainState[Params], epoch_key: jax.Array):
        start, total = state.params, jnp.zeros(())
        keys = jax.random.split(epoch_key, passes) if passes > 1 else epoch_key[None]
        for phase in phases:
            # What a phase leaves alone is no part of its scan's state: it is read there, and no step copies it.
            run_pass = partial(one_pass, data, partial(_loss_of_part, phase, state.params, start))
            part, totals = jax.lax.scan(run_pass, _part_of(state, phase.part), keys[: phase.passes])
            state, total, keys = _with_part(state, phase.part, part), total + totals.sum(), keys[phase.passes :]
        return state, total / (examples.count * passes)

    compiled = jax.jit(epoch, donate_argnums=1)
    return lambda state, epoch_key: compiled(examples.data, state, epoch_key)


def _loss_of_part(phase: Phase, params: Any, start: Any, part: Any, *example: jax.Array) -> jax.Array:
    return phase.loss(part if phase.part is None else {**params, phase.part: part}, start, *example)


def _part_of(state: TrainState[Any], part: str | None) -> TrainState[Any]:
    if part is None:
        return state
    moments: Any = state.opt_state
    return TrainState(state.params[part], moments[part], state.step)


def _with_part(state: TrainState[Any], part: str | None, updated: TrainState[Any]) -> TrainState[Any]:
    if part is None:
        return updated
    moments: Any = state.opt_state
    return TrainState(
        {**state.params, part: updated.params},
        {**moments, part: updated.opt_state},  # pyright: ignore[reportArgumentType]
        updated.step,
    )


def _diverged(epoch: int, name: str, value: float, remedy: str) -> InputError:
    return InputError(f"epoch {epoch}: the {name} is {value}; {remedy}")


def run_epochs(
    epoch: Callable[[TrainState[Params], jax.Array], tuple[TrainState[Params], jax.Array]],
    progress: Progress[Params],
    *,
    key: jax.Array,
    epochs: int,
    patience: int,
    remedy: str,
    validate: Callable[[Params], float] | None,
    on_epoch: Callable[[Progress[Params], dict[str, float]], None],
    averaging: float = 0.0,
) -> Progress[Params]:
    """Train until `epochs` are done, or until `patience` epochs in a row brought no better validation score.

    Epoch e draws everything from `fold_in(key, e)`, so a training that goes on from a stored progress ends in the same
    bits as one that was never interrupted.

    Args:
      epoch: from `make_epoch`.
      progress: where to start.
      key: for all epochs.
      epochs: the most epochs.
      patience: epochs without improvement before stopping.
      remedy: what the message says when training diverges.
      validate: parameters to a score, higher is better; None: no early stopping, the last parameters are the best.
      on_epoch: told the progress and a record of plain numbers after every epoch.
      averaging: of a progress that began with it: see `averaged`, whose mean is validated and kept; 0: those of
        the epoch itself.

    Raises:
      InputError: the loss is not finite, or a validation score is NaN.
    """
    while progress.epoch < epochs and not (validate and progress.epoch - progress.best_epoch >= patience):
        number = progress.epoch + 1
        state, mean_loss = epoch(progress.state, jax.random.fold_in(key, number))
        loss = float(jax.device_get(mean_loss))  # the one fetch of this epoch
        if not math.isfinite(loss):
            raise _diverged(number, "loss", loss, remedy)
        record = {"epoch": number, "loss": loss}
        mean = progress.averaged
        if mean is not None:
            mean = averaged(mean, state.params, number, averaging)
        params = state.params if mean is None else mean
        score = math.inf
        if validate is not None:
            score = record["validation"] = validate(params)
            if math.isnan(score):
                raise _diverged(number, "validation score", score, remedy)
        if validate is None or score > progress.best_score:
            progress = Progress(state, jax.tree.map(jnp.copy, params), score, number, number, mean)
        else:
            progress = dataclasses.replace(progress, state=state, epoch=number, averaged=mean)
        on_epoch(progress, record)
    return progress
