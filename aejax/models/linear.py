r"""Linear autoencoders in closed form: `ease`, `edlae`, `rdlae` and `dan`, one solver with two sides.

A user's scores are `x B` for the user's row x. With the user-item matrix X `[U, I]`, user weights W, targets Y, and a
positive diagonal L, the weights minimise

    || W^1/2 (Y - X B) ||^2 + || L^1/2 B ||^2     with  diag(B) <= xi.

With `P = (X' W X + L)^-1` the solution is, column by column (Lagrange multipliers g),

    B = P X' W Y - P diag(g),    g_j = max(0, diag(P X' W Y)_j - xi) / P_jj.

For Y = X this is `B = I - P diag(L + g)`, and with xi = 0 the familiar `B_ij = -P_ij / P_jj` off the diagonal.

What each name sets:

* `ease`: L = l2, xi = 0. Steck (2019), Embarrassingly Shallow Autoencoders for Sparse Data, eq. 8,
  https://arxiv.org/abs/1905.03375.
* `edlae`: L = l2 + p / (1 - p) * diag(X' W X), the expectation of training with dropout p on the input whose loss is
  emphasised on what was dropped. Steck (2020), Autoencoders that don't overfit towards the Identity, eq. 10 and 12.
* `rdlae`: `edlae` with the diagonal relaxed to at most xi. Moon, Kim and Lee (2023), It's Enough: Relaxing Diagonal
  Constraints in Linear Autoencoders for Recommendation, eq. 12, https://arxiv.org/abs/2305.12922.
* `dan`: data-adaptive normalisation, Park et al. (2025), Why is Normalization Necessary for Linear Recommenders?,
  https://arxiv.org/abs/2504.05805. With n_j the customers of product j it solves on `X diag(n)^-1/2`, which in the
  coordinates of X is L = l2 * n (`l2_power` 1), and scores `x diag(n)^a B diag(n)^-a` (`item_power` a). Users weigh
  `|x|^-b` (`user_power` b).

All of them have all of these settings; the names differ in their defaults. User weights enter the solve and not the
scoring: a new user's scores do not depend on a weight.

**Two sides.** The items' side inverts `X' W X + L` `[I, I]`. The users' side inverts `[U, U]` and needs no `[I, I]`
matrix: with `Xw = W^1/2 X` and `M = (Xw L^-1 Xw' + 1)^-1`, the Woodbury identity gives

    P = L^-1 - L^-1 Xw' M Xw L^-1        P Xw' = L^-1 Xw' M        P_jj = (1 - Xw_j' M Xw_j / L_j) / L_j

so `x P X' W Y = c Nt` and `x P = (x - c N) L^-1` with `c = x L^-1 Xw'`, `N = M Xw`, `Nt = M Yw`: the model is a
matrix `[U, I]`, N with g folded in. Where customers are many and their histories short, `B = L^-1 Xw' N - diag(g / L)`
is multiplied out once instead, because a customer's scores then are a few of its rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.sparse as sp

from aejax import solve
from aejax.batching import Batch, densify, pad_rows, product
from aejax.errors import InputError, ResourceError, nearest
from aejax.interactions import Histories, Interactions
from aejax.matrix import check_values, from_state, history_matrix, to_state, user_item_matrix
from aejax.models import Family, Range

SIDES = ("auto", "items", "users")
# A row that is read costs a CPU's memory as much time as this many multiplications of a row cost its cores.
CELLS_PER_ROW_READ = 50
GB = 1e9
# Up to this many customers the users' side is solved in float64: its diagonal is a small difference from 1.
EXACT = 4096


@dataclasses.dataclass(frozen=True)
class EASESettings:
    """Settings of a linear autoencoder.

    Attributes:
      values: value transform of the inputs, one of `aejax.matrix.VALUES`.
      half_life: days, for `values=recency`.
      targets: value transform of what is predicted; None: that of the inputs.
      l2: ridge.
      l2_power: the ridge of a product with n customers is `l2 * n ** l2_power`.
      dropout: p of the emphasised dropout.
      xi: the most that a product's own weight may be.
      item_power: a product's column is scaled by `n ** item_power` on its way in, and by the inverse on its way out.
      user_power: a customer with m products weighs `m ** -user_power`.
      side: `items`, `users`, or `auto` for the smaller one.
    """

    values: str = "binary"
    half_life: float = 180.0
    targets: str | None = None
    l2: float = 500.0
    l2_power: float = 0.0
    dropout: float = 0.0
    xi: float = 0.0
    item_power: float = 0.0
    user_power: float = 0.0
    side: str = "auto"

    def __post_init__(self) -> None:
        for values in (self.values, self.targets or self.values):
            check_values(values)
        if not self.l2 >= 1e-6 or not self.half_life > 0:
            raise InputError(
                f"l2 is {self.l2:g} and half_life {self.half_life:g}; expected 1e-6 or more, and more than 0"
            )
        if not 0.0 <= self.dropout < 1.0 or not 0.0 <= self.xi < 1.0:
            raise InputError(f"dropout is {self.dropout:g} and xi {self.xi:g}; expected 0 or more and less than 1")
        if self.side not in SIDES:
            raise InputError(f'side is "{self.side}"; {nearest(self.side, SIDES)}')


@dataclasses.dataclass(frozen=True)
class EDLAESettings(EASESettings):
    """Settings of `edlae`: see `EASESettings`."""

    dropout: float = 0.3


@dataclasses.dataclass(frozen=True)
class RDLAESettings(EDLAESettings):
    """Settings of `rdlae`: see `EASESettings`."""

    xi: float = 0.3


@dataclasses.dataclass(frozen=True)
class DANSettings(EASESettings):
    """Settings of `dan`: see `EASESettings`. Here the ridge is relative to a product's customers."""

    l2: float = 10.0
    l2_power: float = 1.0
    item_power: float = 0.3
    user_power: float = 0.5


@partial(jax.jit, static_argnames="by_rows")
def _item_scores(weights: jax.Array, batch: Batch, by_rows: bool) -> jax.Array:
    return product(batch, weights, by_rows=by_rows)


@dataclasses.dataclass(frozen=True)
class ItemWeights:
    """The model as a matrix between products.

    Attributes:
      weights: `[I, I]`, the scores of a customer with row x are `x weights`.
      settings: of the value transform.
      by_rows: histories are so short that a CPU is quicker to read the rows that they name than to multiply.
      smaller: what a run stores in place of the weights, where it takes less and they follow from it.
    """

    weights: jax.Array
    settings: EASESettings
    by_rows: bool
    smaller: Mapping[str, Any] | None = None

    def encode(self, histories: Histories) -> Batch:
        """Histories of n customers -> a padded batch on the host."""
        return pad_rows(history_matrix(histories, self.settings.values, half_life=self.settings.half_life))

    def scores(self, batch: Batch) -> jax.Array:
        """A batch of B users -> scores `[B, I]`, higher is better."""
        return _item_scores(self.weights, batch, self.by_rows)

    def state(self) -> dict[str, Any]:
        """What a run stores of it."""
        return {"weights": self.weights, "by_rows": self.by_rows} if self.smaller is None else dict(self.smaller)


class UserBatch(NamedTuple):
    """Rows of customers, and their overlap with the customers of train.

    Attributes:
      row: the customers' rows, scaled by `n ** item_power`.
      overlap: `[B, U]`, c of the module's docstring.
    """

    row: Batch
    overlap: jax.Array


@jax.jit
def _user_scores(answers: jax.Array, own: jax.Array, batch: UserBatch) -> jax.Array:
    return batch.overlap @ answers - densify(batch.row, own.shape[0]) * own[None, :]


@dataclasses.dataclass(frozen=True)
class UserWeights:
    """The model as a matrix between the customers of train and products: `scores(x) = c answers - x * own`.

    Attributes:
      answers: `[U, I]`, `(Nt + N diag(g / L)) diag(n)^-item_power`.
      own: `[I]`, `g / L * n^-item_power`.
      scale: `[I]`, `n^item_power`.
      rows: `Xw L^-1`, `[U, I]`.
      settings: of the value transform.
    """

    answers: jax.Array
    own: jax.Array
    scale: np.ndarray
    rows: sp.csr_array
    settings: EASESettings

    def encode(self, histories: Histories) -> UserBatch:
        """Histories of n customers -> a batch on the host."""
        matrix = history_matrix(histories, self.settings.values, half_life=self.settings.half_life)
        matrix.data *= self.scale[matrix.indices]
        overlap = np.asarray((matrix @ self.rows.T).toarray(), dtype=np.float32)
        return UserBatch(pad_rows(matrix), overlap)  # pyright: ignore[reportArgumentType] (host until jitted)

    def scores(self, batch: UserBatch) -> jax.Array:
        """A batch of B users -> scores `[B, I]`, higher is better."""
        return _user_scores(self.answers, self.own, batch)

    def state(self) -> dict[str, Any]:
        """What a run stores of it."""
        return {"answers": self.answers, "own": self.own, "scale": self.scale, "rows": to_state(self.rows)}


def fit(train: Interactions, settings: EASESettings) -> ItemWeights | UserWeights:
    """Solve for the weights; the smaller side is inverted.

    Raises:
      InputError: the system is singular in float32.
    """
    matrix = user_item_matrix(train, settings.values, half_life=settings.half_life)
    lengths = np.diff(matrix.indptr)
    kept = lengths > 0
    root_weight = lengths[kept].astype(np.float64) ** (-0.5 * settings.user_power)
    inputs = targets = _scale_rows(matrix[kept], root_weight)
    if settings.targets not in (None, settings.values):
        other = user_item_matrix(train, str(settings.targets), half_life=settings.half_life)
        targets = _scale_rows(other[kept], root_weight)
    customers = np.maximum(np.bincount(matrix.indices, minlength=matrix.shape[1]), 1).astype(np.float64)
    energy = np.asarray(inputs.multiply(inputs).sum(axis=0), dtype=np.float64).ravel()
    ridge = settings.l2 * customers**settings.l2_power + settings.dropout / (1 - settings.dropout) * energy
    scale = customers**settings.item_power
    side = _side(inputs.shape[0], inputs.shape[1], inputs.nnz, settings.side)
    try:
        return _SOLVERS[side](inputs, targets, ridge, scale, settings)
    except (np.linalg.LinAlgError, FloatingPointError):
        raise InputError(f"l2 {settings.l2:g} leaves the system singular in float32; try a larger l2") from None


def _side(users: int, items: int, cells: int, wanted: str) -> str:
    """`items`, `users`, or `users-to-items` (solved by users, multiplied out to `[I, I]`): the least work that fits.

    Raises:
      ResourceError: none of them fits in memory.
    """
    by_users = "users-to-items" if users * users > CELLS_PER_ROW_READ * cells else "users"
    needed = {  # bytes at the worst moment: the inverse in blocks and whole, and what is made of it
        "items": 4 * 2.6 * items * items,
        "users-to-items": 4 * (1.6 * users * users + items * items + 6.0 * solve.BLOCK * (users + items)),
        "users": 4 * (2.0 * users * users + 4.0 * users * items),
    }
    order = {"items": ["items"], "users": [by_users, "users"]}.get(wanted) or (
        [by_users, "users", "items"] if users < items else ["items", by_users, "users"]
    )
    free = solve.available_memory()
    for side in order:
        if needed[side] <= free:
            return side
    least = min(order, key=needed.__getitem__)
    raise ResourceError(
        f"{users:,} customers x {items:,} products need {needed[least] / GB:.1f} GB of memory at least, and "
        f"{free / GB:.1f} GB are free; raise --min-customers, or use --model gfcf, which has no such matrix"
    )


def _scale_rows(matrix: sp.csr_array, factor: np.ndarray) -> sp.csr_array:
    scaled = sp.csr_array(matrix, dtype=np.float32, copy=True)
    scaled.data *= np.repeat(factor, np.diff(matrix.indptr)).astype(np.float32)
    return scaled


def _multiplier(own: np.ndarray, diagonal: np.ndarray, xi: float) -> np.ndarray:
    """G of the module's docstring; with xi = 0 the diagonal is exactly 0, from either side of it."""
    excess = own - xi
    return (np.maximum(excess, 0.0) if xi else excess) / diagonal


def _solve_items(
    inputs: sp.csr_array, targets: sp.csr_array, ridge: np.ndarray, scale: np.ndarray, settings: EASESettings
) -> ItemWeights:
    count = inputs.shape[1]
    transposed = sp.csr_array(inputs.T)

    def panel(start: int, stop: int) -> np.ndarray:
        rows = (transposed[start:stop] @ inputs[:, :stop]).toarray()
        rows[np.arange(stop - start), np.arange(start, stop)] += ridge[start:stop]
        return rows

    inverse = solve.whole(solve.inverse_panels(panel, count))
    diagonal = inverse.diagonal().astype(np.float64)
    if targets is inputs:
        multiplier = _multiplier(1.0 - diagonal * ridge, diagonal, settings.xi)
        weights = np.negative(inverse, out=inverse)
        weights *= (ridge + multiplier).astype(np.float32)
        weights[np.diag_indices(count)] += 1.0
    else:
        weights = np.ascontiguousarray((sp.csr_array(targets.T @ inputs) @ inverse).T)
        multiplier = _multiplier(weights.diagonal().astype(np.float64), diagonal, settings.xi)
        weights -= inverse * multiplier.astype(np.float32)
    by_rows = inputs.nnz * CELLS_PER_ROW_READ < inputs.shape[0] * inputs.shape[1]
    return _item_weights(weights, scale, settings, by_rows)


@dataclasses.dataclass(frozen=True)
class _UserSolution:
    """M of the module's docstring, and what is made of it block of products by block of products.

    Attributes:
      inverse: M, `[U, U]`.
      columns: `Xw'`, `[I, U]`.
      targets: `Yw'`, `[I, U]`.
      ridge: the diagonal of L.
      xi: the most that a product's own weight may be.
    """

    inverse: np.ndarray
    columns: sp.csr_array
    targets: sp.csr_array
    ridge: np.ndarray
    xi: float

    @property
    def least(self) -> float:
        """Where a difference from 1 has three digits left."""
        return 1e3 * float(np.finfo(self.inverse.dtype).eps)

    def answers(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """For products `start` to `stop`: `(Nt + N diag(g / L))'`, `[products, U]`, and `g / L`."""
        ridge, columns = self.ridge[start:stop], self.columns[start:stop]
        solved = np.asarray(columns @ self.inverse)
        answers = solved
        if self.targets is not self.columns:
            answers = np.asarray(self.targets[start:stop] @ self.inverse)
        rest = 1.0 - _row_products(columns, solved) / ridge  # L P, which is near 0 where the ridge is weak
        if rest.min() < self.least:
            raise FloatingPointError
        diagonal = rest / ridge
        own = _multiplier(_row_products(columns, answers) / ridge, diagonal, self.xi) / ridge
        return (answers + solved * own[:, None]).astype(np.float32), own


def _by_users(inputs: sp.csr_array, targets: sp.csr_array, ridge: np.ndarray, xi: float) -> _UserSolution:
    columns = sp.csr_array(inputs.T)
    rows = _over_ridge(inputs, ridge)

    def panel(start: int, stop: int) -> np.ndarray:
        block = (rows[start:stop] @ columns[:, :stop]).toarray()
        block[np.arange(stop - start), np.arange(start, stop)] += 1.0
        return block

    users = inputs.shape[0]
    if users <= EXACT:
        system = panel(0, users).astype(np.float64)
        inverse = scipy.linalg.cho_solve(scipy.linalg.cho_factor(system, lower=True), np.eye(users))
    else:
        inverse = solve.whole(solve.inverse_panels(panel, users))
    return _UserSolution(inverse, columns, columns if targets is inputs else sp.csr_array(targets.T), ridge, xi)


def _over_ridge(inputs: sp.csr_array, ridge: np.ndarray) -> sp.csr_array:
    rows = inputs.copy()
    rows.data /= ridge[rows.indices].astype(np.float32)
    return rows


def _solve_users(
    inputs: sp.csr_array, targets: sp.csr_array, ridge: np.ndarray, scale: np.ndarray, settings: EASESettings
) -> UserWeights:
    answers, own = _by_users(inputs, targets, ridge, settings.xi).answers(0, inputs.shape[1])
    answers /= scale[:, None].astype(np.float32)
    return UserWeights(
        jnp.asarray(answers.T),
        jnp.asarray(own / scale, dtype=jnp.float32),
        scale.astype(np.float32),
        _over_ridge(inputs, ridge),
        settings,
    )


def _solve_users_to_items(
    inputs: sp.csr_array, targets: sp.csr_array, ridge: np.ndarray, scale: np.ndarray, settings: EASESettings
) -> ItemWeights:
    return _multiplied_out(_by_users(inputs, targets, ridge, settings.xi), scale, settings)


def _multiplied_out(solution: _UserSolution, scale: np.ndarray, settings: EASESettings) -> ItemWeights:
    columns = solution.columns
    back = sp.csr_array(columns, copy=True)
    back.data /= np.repeat(solution.ridge, np.diff(columns.indptr)).astype(np.float32)
    count = columns.shape[0]
    weights = solve.empty(count, count)
    for start in range(0, count, solve.BLOCK):
        stop = min(start + solve.BLOCK, count)
        answers, own = solution.answers(start, stop)
        block = np.asarray(back @ np.ascontiguousarray(answers.T))
        block[np.arange(start, stop), np.arange(stop - start)] -= own.astype(np.float32)
        weights[:, start:stop] = block
    if len(solution.inverse) <= EXACT:
        return _item_weights(weights, scale, settings, True)
    smaller: dict[str, Any] = {"columns": to_state(columns), "ridge": solution.ridge, "scale": scale}
    if solution.targets is not columns:
        smaller["targets"] = to_state(solution.targets)
    panels = solve.lower_panels(solution.inverse)
    smaller["panels"] = {str(number): panel for number, panel in enumerate(panels)}
    return dataclasses.replace(_item_weights(weights, scale, settings, True), smaller=smaller)


def _item_weights(weights: np.ndarray, scale: np.ndarray, settings: EASESettings, by_rows: bool) -> ItemWeights:
    if not settings.xi:
        np.fill_diagonal(weights, 0.0)
    if settings.item_power:
        weights *= scale[:, None].astype(np.float32)
        weights /= scale.astype(np.float32)
    return ItemWeights(jax.device_put(weights), settings, by_rows)


_SOLVERS = {"items": _solve_items, "users": _solve_users, "users-to-items": _solve_users_to_items}


def _row_products(sparse: sp.csr_array, dense: np.ndarray) -> np.ndarray:
    """`[n, U], [n, U]` -> the product of each pair of rows, `[n]`, summed in float64."""
    row = np.repeat(np.arange(sparse.shape[0]), np.diff(sparse.indptr))
    products = sparse.data.astype(np.float64) * dense[row, sparse.indices]
    return np.bincount(row, weights=products, minlength=sparse.shape[0])


def restore(state: Mapping[str, Any], settings: EASESettings, *, items: int) -> ItemWeights | UserWeights:
    """The model whose `state()` that was."""
    if "weights" in state:
        return ItemWeights(state["weights"], settings, bool(state["by_rows"]))
    if "answers" in state:
        rows = from_state(state["rows"], items)
        return UserWeights(state["answers"], state["own"], np.asarray(state["scale"]), rows, settings)
    panels = [np.asarray(state["panels"][str(number)]) for number in range(len(state["panels"]))]
    inverse = solve.whole(panels)
    columns = from_state(state["columns"], len(inverse))
    targets = from_state(state["targets"], len(inverse)) if "targets" in state else columns
    solution = _UserSolution(inverse, columns, targets, np.asarray(state["ridge"]), settings.xi)
    return _multiplied_out(solution, np.asarray(state["scale"]), settings)


_RIDGE = {"l2": Range(1.0, 10_000.0, log=True), "user_power": Range(0.0, 1.0)}
_DROPOUT = {**_RIDGE, "dropout": Range(0.0, 0.8)}
EASE = Family(EASESettings, _RIDGE, fit, restore, is_network=False)
EDLAE = Family(EDLAESettings, _DROPOUT, fit, restore, is_network=False)
RDLAE = Family(RDLAESettings, {**_DROPOUT, "xi": Range(0.0, 0.8)}, fit, restore, is_network=False)
DAN = Family(
    DANSettings,
    {**_DROPOUT, "l2": Range(0.1, 1_000.0, log=True), "item_power": Range(0.0, 0.6)},
    fit,
    restore,
    is_network=False,
)
