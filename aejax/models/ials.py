r"""`ials`: implicit alternating least squares. Hu, Koren and Volinsky (2008), Collaborative Filtering for Implicit
Feedback Datasets, in the form and with the regularisation of Rendle, Krichene, Zhang and Koren (2021), Revisiting the
Performance of iALS on Item Recommendation Benchmarks, eq. 1 to 6, https://arxiv.org/abs/2110.14037.

Customer factors W `[U, D]` and product factors H `[I, D]` minimise, x being the user-item matrix and y = W H',

    sum over bought (u, i) of x_ui (y_ui - 1)^2  +  alpha0 * sum over all (u, i) of y_ui^2
      + l2 * ( sum_u s_u |w_u|^2 + sum_i s_i |h_i|^2 ),
    s_u = (n_u + alpha0 I)^nu,   s_i = (n_i + alpha0 U)^nu,

n being numbers of purchases: frequency-scaled regularisation, in full at nu = 1. One epoch solves every customer, then
every product, exactly, in padded blocks of rows of similar length. Factors start from N(0, init_scale^2 / D).

A customer is one solve against H, whether known to train or new: W is not stored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

from aejax import memory
from aejax.batching import Batch, bucket, pad_rows
from aejax.errors import InputError
from aejax.interactions import Histories, Interactions
from aejax.matrix import ValueSettings, check_counts, check_positive
from aejax.models import Family, Range
from aejax.training import Progress, TrainState, init_progress, run_epochs

# Floats of the factors that are gathered at once: 64 MiB.
GATHERED = 2**24


@dataclasses.dataclass(frozen=True)
class IALSSettings(ValueSettings):
    """Settings of `ials`.

    Attributes:
      latent_dim: D, the size of a factor.
      alpha0: weight of everything that was not bought.
      l2: weight of the regularisation.
      nu: how far it follows the number of purchases, from 0 (not at all) to 1.
      init_scale: deviation of the length of a factor at the start.
      epochs: the most epochs.
      patience: epochs without a better validation NDCG@100 before training stops.
    """

    latent_dim: int = 128
    alpha0: float = 0.1
    l2: float = 0.003
    nu: float = 1.0
    init_scale: float = 0.1
    epochs: int = 30
    patience: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "latent_dim", "epochs", "patience")
        check_positive(self, "alpha0", "l2", "init_scale")
        if not 0.0 <= self.nu <= 1.0:
            raise InputError(f"nu is {self.nu:g}; expected 0 to 1")


class Problem(NamedTuple):
    """Rows to solve.

    Attributes:
      row: their items and weights.
      ridge: `[B]`, the regularisation of each.
    """

    row: Batch
    ridge: jax.Array


@jax.jit
def _solve(factors: jax.Array, problem: Problem, alpha0: float) -> jax.Array:
    """The factors `[B, D]` of rows, given those `[n, D]` of the other side."""
    length, size = problem.row.items.shape[1], factors.shape[1]
    shared = alpha0 * jnp.matmul(factors.T, factors, precision="highest")

    def one(row: Problem) -> jax.Array:
        own = factors.at[row.row.items].get(mode="fill", fill_value=0.0)
        weighted = own * row.row.values[:, None]
        system = jnp.matmul(weighted.T, own, precision="highest") + shared + row.ridge * jnp.eye(size)
        return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(system, lower=True), weighted.sum(0))

    return jax.lax.map(one, problem, batch_size=max(1, GATHERED // (length * size)))


def _ridge(matrix: sp.csr_array, settings: IALSSettings) -> np.ndarray:
    """`[n]`, the regularisation of each row."""
    scale = (np.diff(matrix.indptr) + settings.alpha0 * matrix.shape[1]) ** settings.nu
    return (settings.l2 * scale).astype(np.float32)


def _blocks(matrix: sp.csr_array, settings: IALSSettings) -> list[tuple[np.ndarray, Problem]]:
    """All rows as problems of few shapes: row numbers, padded with the number of rows, and the padded rows."""
    lengths = np.array([bucket(length) for length in np.diff(matrix.indptr)])
    ridge = _ridge(matrix, settings)
    blocks = []
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        size = min(len(rows), max(1, GATHERED // (int(length) * settings.latent_dim)))
        for start in range(0, len(rows), size):
            chosen = rows[start : start + size]
            batch = pad_rows(sp.csr_array(matrix[chosen]), rows=size, length=int(length))
            numbers = np.pad(chosen, (0, size - len(chosen)), constant_values=matrix.shape[0])
            own_ridge = np.pad(ridge[chosen], (0, size - len(chosen)), constant_values=1.0)
            blocks.append((numbers, jax.tree.map(jnp.asarray, Problem(batch, jnp.asarray(own_ridge)))))
    return blocks


def _solve_side(
    factors: jax.Array, other: jax.Array, blocks: list[tuple[np.ndarray, Problem]], alpha0: float
) -> jax.Array:
    for numbers, problem in blocks:
        factors = factors.at[numbers].set(_solve(other, problem, alpha0), mode="drop")
    return factors


@dataclasses.dataclass(frozen=True)
class Factors:
    """The fitted factors.

    Attributes:
      items: H, `[I, D]`.
      settings: of the solve.
    """

    items: jax.Array
    settings: IALSSettings

    def encode(self, histories: Histories) -> Problem:
        """Histories of n customers -> their rows and regularisation, on the host."""
        row = self.settings.history_matrix(histories)
        return Problem(pad_rows(row), _ridge(row, self.settings))  # pyright: ignore[reportArgumentType] (host)

    def scores(self, batch: Problem) -> jax.Array:
        """A batch of B users -> scores `[B, I]`, higher is better."""
        return _solve(self.items, batch, self.settings.alpha0) @ self.items.T

    def state(self) -> dict[str, jax.Array]:
        """What a run stores of it."""
        return {"items": self.items}


def fit(
    train: Interactions,
    settings: IALSSettings,
    *,
    key: jax.Array,
    validate: Callable[[Factors], float] | None,
    on_epoch: Callable[[Progress, dict[str, float]], None],
    resume: Callable[[Progress], Progress],
) -> tuple[Factors, Progress]:
    """Alternate between customers and products; for the arguments see `aejax.network.fit_network`."""
    matrix = settings.train_matrix(train)
    matrix = sp.csr_array(matrix[np.diff(matrix.indptr) > 0])
    # The factors of both sides, those of the best epoch, and the next; systems, one at least.
    rows = matrix.shape[0] + matrix.shape[1]
    needed = 4.0 * settings.latent_dim * (3 * rows + 3 * settings.latent_dim)
    memory.require(f"{settings.latent_dim:,} factors", needed, "give a smaller --set latent_dim=N")
    by_user, by_item = _blocks(matrix, settings), _blocks(sp.csr_array(matrix.T), settings)
    users_key, items_key = jax.random.split(key)
    scale = settings.init_scale / settings.latent_dim**0.5
    params = {
        "users": scale * jax.random.normal(users_key, (matrix.shape[0], settings.latent_dim)),
        "items": scale * jax.random.normal(items_key, (matrix.shape[1], settings.latent_dim)),
    }

    def epoch(state: TrainState, epoch_key: jax.Array) -> tuple[TrainState, jax.Array]:
        del epoch_key
        users = _solve_side(state.params["users"], state.params["items"], by_user, settings.alpha0)
        items = _solve_side(state.params["items"], users, by_item, settings.alpha0)
        change = jnp.square(items - state.params["items"]).sum(1).mean()
        return TrainState({"users": users, "items": items}, state.opt_state, state.step + 1), change

    start = init_progress(TrainState(params, (), jnp.zeros((), jnp.int32)))
    progress = run_epochs(
        epoch,
        resume(start),
        key=key,
        epochs=settings.epochs,
        patience=settings.patience,
        remedy=f"try --set l2={settings.l2 * 10:g}",
        validate=None if validate is None else lambda params: validate(Factors(params["items"], settings)),
        on_epoch=on_epoch,
    )
    return Factors(progress.best_params["items"], settings), progress


def restore(state: dict[str, jax.Array], settings: IALSSettings, *, items: int) -> Factors:
    """The model whose `state()` that was."""
    del items
    return Factors(state["items"], settings)


FAMILY = Family(
    IALSSettings,
    {
        "latent_dim": Range(32, 512, log=True),
        "alpha0": Range(0.001, 1.0, log=True),
        "l2": Range(1e-4, 1.0, log=True),
        "nu": Range(0.0, 1.0),
    },
    fit,
    restore,
    is_network=True,
)
