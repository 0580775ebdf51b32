"""What all networks share: their settings, their fit, and the fitted network as evaluation and recommendation meet it.

Flax NNX modules with a functional boundary: a module is split once into `graphdef` and `params` (a plain nested dict of
arrays) and merged again inside jitted functions. No module stores a key.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.sparse as sp
from flax import nnx

from aejax import batching, devices, memory
from aejax.errors import InputError, nearest
from aejax.interactions import Histories, Interactions
from aejax.lazy_adam import LazyAdam, lazy_step
from aejax.matrix import TargetSettings, check_counts, check_positive, check_shares, check_values, user_item_matrix
from aejax.precision import PRECISIONS, matmul, products_in
from aejax.training import Phase, Progress, init_progress, init_state, make_epoch, run_epochs, single_phase, train_step

OPTIMIZERS = ("adam", "lazy-adam")
# Keys that lead from a network's parameters to a matrix.
Path = tuple[str | int, ...]


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """Settings of all that is trained in epochs.

    Attributes:
      batch_size: examples in an update.
      learning_rate: of the optimizer.
      optimizer: `adam`, or `lazy-adam`, which leaves the rows of an input layer alone that a batch does not read; see
        `aejax.lazy_adam`.
      epochs: the most epochs.
      patience: epochs without a better validation NDCG@100 before training stops.
      averaging: what is validated and kept is the mean of the parameters over the epochs, in which each weighs this
        times what the next one does; 0: those of the epoch itself. It lets a larger learning rate end as well.
      precision: of the products of matrices in training, `float32` or `bfloat16`; see `aejax.precision`. What is
        fitted is scored in float32.
    """

    batch_size: int = 500
    learning_rate: float = 1e-3
    epochs: int = 200
    patience: int = 20
    averaging: float = 0.0
    precision: str = "float32"
    optimizer: str = "adam"

    def __post_init__(self) -> None:
        check_counts(self, "batch_size", "epochs", "patience")
        check_positive(self, "learning_rate")
        check_shares(self, "averaging")
        if self.precision not in PRECISIONS:
            raise InputError(f'precision is "{self.precision}"; {nearest(self.precision, PRECISIONS)}')
        if self.optimizer not in OPTIMIZERS:
            raise InputError(f'optimizer is "{self.optimizer}"; {nearest(self.optimizer, OPTIMIZERS)}')


@dataclasses.dataclass(frozen=True)
class NetworkSettings(TrainingSettings, TargetSettings):
    """Settings of a network that reads the user-item matrix, whose rows are its examples.

    Attributes:
      target_weight: the value transform of the weight w that a bought product's term has in the loss, where one that
        was not bought has 1; `binary`: 1. Squared and logistic losses take `w * loss(output, target)` (as Hu et al.
        2008, with w in place of their 1 + alpha r), the multinomial and the cosine `w * target` as the target.
    """

    target_weight: str = "binary"

    def __post_init__(self) -> None:
        TrainingSettings.__post_init__(self)
        TargetSettings.__post_init__(self)
        check_values(self.target_weight, "target_weight")


@jax.custom_vjp
def add_bias(rows: jax.Array, bias: jax.Array) -> jax.Array:
    """Rows `[B, H]` and a bias `[H]` -> their sum.

    Its gradient, the sum over the rows, is a product with ones: XLA's reduction over the first axis takes a CPU 30
    times as long.
    """
    return rows + bias[None, :]


def _add_bias(rows: jax.Array, bias: jax.Array) -> tuple[jax.Array, None]:
    return add_bias(rows, bias), None


def _add_bias_gradient(_: None, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    ones = jnp.ones(gradient.shape[0], gradient.dtype)
    return gradient, jnp.matmul(ones, gradient, precision="highest")


add_bias.defvjp(_add_bias, _add_bias_gradient)


class Linear(nnx.Linear):
    """`nnx.Linear` on rows `[B, H]`, by `matmul` and `add_bias`."""

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        """Rows `[B, H]` -> `[B, outputs]`."""
        del out_sharding  # of the parent's; nothing here is sharded
        return add_bias(matmul(inputs, self.kernel[...]), self.bias[...])


def xavier_linear(inputs: int, outputs: int, rngs: nnx.Rngs) -> Linear:
    """A linear layer as Liang et al. (2018) begin it: kernel Xavier uniform, bias truncated normal, deviation .001."""
    return Linear(
        inputs,
        outputs,
        kernel_init=jax.nn.initializers.xavier_uniform(),
        bias_init=jax.nn.initializers.truncated_normal(0.001),
        rngs=rngs,
    )


def linear_of_rows(layer: nnx.Linear, batch: batching.Batch) -> jax.Array:
    """A linear layer over the products `[I, H]` on a batch of rows -> `[B, H]`; see `batching.product`."""
    return add_bias(batching.product(batch, layer.kernel[...]), layer.bias[...])


class ScoringModule(Protocol):
    """An NNX module whose call is deterministic scoring."""

    def __call__(self, batch: Any) -> jax.Array:
        """A batch of B users -> scores `[B, I]`."""
        ...


FittedNetwork = TypeVar("FittedNetwork")


@partial(jax.jit, static_argnames="graphdef")
def module_scores(graphdef: nnx.GraphDef, params: dict[str, Any], batch: Any) -> jax.Array:
    """A batch of B users -> what the module makes of it, `[B, I]`."""
    return nnx.merge(graphdef, params)(batch)


@dataclasses.dataclass(frozen=True)
class Network:
    """A fitted network.

    Attributes:
      graphdef: the module's structure.
      params: its parameters.
      items: I.
      settings: of the value transform.
      unit: inputs and targets are divided by each user's largest value, so that they fit a sigmoid.
    """

    graphdef: nnx.GraphDef
    params: dict[str, Any]
    items: int
    settings: NetworkSettings
    unit: bool

    def encode(self, histories: Histories) -> Any:
        """Histories of n customers -> a padded batch on the host."""
        matrix = self.settings.history_matrix(histories)
        return batching.pad_rows(_largest_is_1(matrix) if self.unit else matrix)

    def scores(self, batch: Any) -> jax.Array:
        """A batch of B users -> scores `[B, I]`, higher is better."""
        return module_scores(self.graphdef, self.params, batch)

    def state(self) -> dict[str, Any]:
        """What a run stores of it."""
        return self.params


def _largest_is_1(matrix: sp.csr_array) -> sp.csr_array:
    """The matrix with each row divided by its largest: counts, which do not fit a sigmoid, as an order of preference
    within the user.
    """
    largest = np.maximum(matrix.max(axis=1).toarray().ravel(), np.finfo(np.float32).tiny)
    data = matrix.data / np.repeat(largest, np.diff(matrix.indptr))
    return sp.csr_array((data, matrix.indices, matrix.indptr), shape=matrix.shape)


def _training_rows(
    train: Interactions, settings: NetworkSettings, unit: bool, customers: sp.csr_array | None = None
) -> tuple[sp.csr_array, dict[str, sp.csr_array]]:
    """The inputs of all who bought something, `[n, I]`, and their `targets` and `weights` where these are others, and
    their features of `customers` `[U, Fu]`.
    """
    scaled = _largest_is_1 if unit else lambda matrix: matrix
    matrix = settings.train_matrix(train)
    kept = np.diff(matrix.indptr) > 0
    if not kept.any():
        raise InputError("there is no purchase to train on; a network needs at least one customer with a purchase")
    columns = {}
    if not settings.predicts_inputs:
        columns["targets"] = scaled(settings.target_matrix(train)[kept])
    if settings.target_weight != "binary":
        weights = user_item_matrix(train, settings.target_weight, half_life=settings.half_life, setting="target_weight")
        columns["weights"] = weights[kept]
    if customers is not None:
        columns["customers"] = customers[kept]
    return scaled(matrix[kept]), columns


def restore_network(
    build: Callable[..., nnx.Module], state: dict[str, Any], *, items: int, settings: NetworkSettings, unit: bool
) -> Network:
    """The network that a run stored; for `build` see `restore_module`."""
    return Network(*restore_module(build, state), items, settings, unit)


def restore_module(build: Callable[..., nnx.Module], state: dict[str, Any]) -> tuple[nnx.GraphDef, dict[str, Any]]:
    """What a run stored; `build(rngs=...)` gives the structure, and no parameter is initialised."""
    abstract = nnx.eval_shape(lambda: build(rngs=nnx.Rngs(params=0)))
    return nnx.graphdef(abstract), _with_layer_numbers(state)


def _with_layer_numbers(state: Any) -> Any:
    """Stored keys are text; NNX counts the layers of a list with whole numbers."""
    if not isinstance(state, dict):
        return state
    return {int(key) if str(key).isdigit() else key: _with_layer_numbers(value) for key, value in state.items()}


def fit_network(
    build: Callable[..., nnx.Module],
    loss: Callable[..., jax.Array] | Sequence[Phase],
    train: Interactions,
    settings: NetworkSettings,
    *,
    unit: bool,
    customers: sp.csr_array | None = None,
    made: Callable[..., Network] = Network,
    **training: Any,
) -> tuple[Network, Progress]:
    """Train a module on every user of `train` that has a purchase.

    Args:
      build: see `train_network`.
      loss: see `train_network`; a batch is of users' rows.
      train: purchases.
      settings: the network's settings.
      unit: divide inputs and targets by each user's largest value.
      customers: `[U, Fu]`, features of the customers of `train`, for the batches; None: the module asks for none.
      made: makes the fitted network of what is trained, with the arguments of `Network`.
      **training: see `train_network`.

    Returns:
      The network of the best epoch, and the progress at the end.
    """
    items = len(train.items)
    matrix, columns = _training_rows(train, settings, unit, customers)
    return train_network(
        build,
        loss,
        batching.row_examples(matrix, **columns),
        lambda graphdef, params: made(graphdef, params, items, settings, unit),
        settings,
        items=items,
        **training,
    )


def train_network(
    build: Callable[..., nnx.Module],
    loss: Callable[..., jax.Array] | Sequence[Phase],
    examples: batching.Examples,
    network: Callable[[nnx.GraphDef, dict[str, Any]], FittedNetwork],
    settings: TrainingSettings,
    *,
    items: int,
    key: jax.Array,
    validate: Callable[[FittedNetwork], float] | None,
    on_epoch: Callable[[Progress, dict[str, float]], None],
    resume: Callable[[Progress], Progress],
    beside: int = 0,
    rows: Path | None = None,
) -> tuple[FittedNetwork, Progress]:
    """Train a module on examples of any kind.

    Args:
      build: `build(items, rngs=...)` makes the module.
      loss: `loss(module, batch, step, key)` gives the loss `[B]` of each example; or the phases of an epoch, where a
        loss is `loss(module, start, batch, step, key)` and `start` the module as it was when the epoch began.
      examples: what a pass sees, and how it is cut into batches.
      network: `network(graphdef, params)` is the fitted network.
      settings: the network's settings.
      items: I.
      key: for initialisation and training.
      validate: a fitted network to a score; None: train for exactly `settings.epochs`.
      on_epoch: told the progress after every epoch.
      resume: given the progress before the first epoch, returns where to start: that, or a stored one.
      beside: how many numbers an update holds beside parameters and scores.
      rows: of an input layer `[I, H]` that the loss reads by one product with a batch's rows and in no other way, which
        lazy Adam updates by rows; None: it has none.

    Returns:
      The network of the best epoch, and the progress at the end.
    """
    lazy = settings.optimizer == "lazy-adam"
    if lazy and rows is None:
        raise InputError(
            'optimizer is "lazy-adam", and this network as it is set has no input layer of which a batch moves the '
            "rows of its own products alone (attributes and a penalty on its weights move all of them); use --set "
            "optimizer=adam"
        )
    batch_size = min(settings.batch_size, examples.count)
    init_key, train_key = jax.random.split(key)
    _require_memory(build, items, batch_size, beside)
    graphdef, variables = nnx.split(build(items, rngs=nnx.Rngs(params=init_key)))
    params = nnx.to_pure_dict(variables)
    rate = settings.learning_rate
    optimizer, step = (LazyAdam(rate, rows), lazy_step) if lazy and rows else (optax.adam(rate), train_step)

    def merged(phase: Phase) -> Phase:
        def loss(params: dict[str, Any], start: dict[str, Any], *example: Any) -> jax.Array:
            with products_in(settings.precision):
                return phase.loss(nnx.merge(graphdef, params), nnx.merge(graphdef, start), *example)

        return dataclasses.replace(phase, loss=loss)

    phases = [merged(phase) for phase in (single_phase(loss) if callable(loss) else loss)]
    progress = run_epochs(
        make_epoch(examples, batch_size=batch_size, phases=phases, optimizer=optimizer, step=step),
        resume(init_progress(init_state(params, optimizer, [phase.part for phase in phases]), settings.averaging)),
        key=train_key,
        epochs=settings.epochs,
        patience=settings.patience,
        remedy=f"learning_rate is {settings.learning_rate:g}; try --set learning_rate={_lower(settings.learning_rate)}",
        validate=None if validate is None else lambda params: validate(network(graphdef, params)),
        on_epoch=on_epoch,
        averaging=settings.averaging,
    )
    return network(graphdef, progress.best_params), progress


def _require_memory(build: Callable[..., nnx.Module], items: int, batch_size: int, beside: int) -> None:
    """Raises `ResourceError` where a training does not fit in a CPU's memory, before any parameter is made."""
    if not devices.on_cpu():
        return
    shapes = nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: build(items, rngs=nnx.Rngs(params=0)))))
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    # Parameters, those of the best epoch, two moments and a gradient; scores, their gradient and targets.
    of_parameters, of_customer = 4.0 * (5 * parameters + beside), 12.0 * items
    fits = int((memory.available() - of_parameters) // of_customer)
    memory.require(
        f"{parameters:,} parameters and batches of {batch_size:,} customers x {items:,} products",
        of_parameters + batch_size * of_customer,
        f"--set batch_size={fits} fits"
        if fits > 0
        else "give a smaller latent_dim or hidden with --set, or raise --min-customers",
    )


def _lower(learning_rate: float) -> str:
    """A learning rate to try after one that diverged: a tenth, and nothing that is as hopeless."""
    return f"{min(learning_rate / 10, 1e-3):g}"


def fit_and_restore(
    build: Callable[[Any], Callable[..., nnx.Module]],
    loss: Callable[[Any, int], Callable[..., jax.Array] | Sequence[Phase]],
    *,
    unit: bool,
    rows: Callable[[Any], Path | None] = lambda settings: None,
) -> tuple[Callable[..., tuple[Network, Progress]], Callable[..., Network]]:
    """The `fit` and `restore` of a family of networks.

    Args:
      build: settings -> `build(items, rngs=...)` of its module.
      loss: settings and the number of users trained on -> the loss or the phases that `fit_network` takes.
      unit: divide inputs and targets by each user's largest value.
      rows: settings -> the `rows` that `train_network` takes.
    """

    def fit(train: Interactions, settings: NetworkSettings, **training: Any) -> tuple[Network, Progress]:
        users = len(np.unique(train.user))
        training["rows"] = rows(settings)
        return fit_network(build(settings), loss(settings, users), train, settings, unit=unit, **training)

    def restore(state: dict[str, Any], settings: NetworkSettings, *, items: int) -> Network:
        return restore_network(partial(build(settings), items), state, items=items, settings=settings, unit=unit)

    return fit, restore
