"""The two sides of the solve; the names are those of the package's docstring."""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.sparse as sp

from aejax import dissection, memory, solve
from aejax.interactions import Interactions
from aejax.matrix import scale_rows, to_state, user_item_matrix, weighted_rows
from aejax.models.linear.pseudo_users import attribute_rows
from aejax.models.linear.scoring import ItemWeights, UserWeights
from aejax.models.linear.settings import EASESettings

# A row that is read costs a CPU's memory as much time as this many multiplications of a row cost its cores.
CELLS_PER_ROW_READ = 50
# Up to this many rows a side is solved in float64: its diagonal is a small difference from 1.
EXACT = 4096
# Products that are multiplied out at once: so few that what their columns hold stays in a cache.
OUT_BLOCK = 128


def choose_side(users: int, items: int, cells: int, wanted: str) -> str:
    """`items`, `users`, or `users-to-items` (solved by users, multiplied out to `[I, I]`): the least work that fits.

    Args:
      users: U.
      items: I.
      cells: of the user-item matrix that are not 0.
      wanted: the setting `side`.

    Raises:
      ResourceError: none of them fits in memory.
    """
    by_users = "users-to-items" if users * users > CELLS_PER_ROW_READ * cells else "users"
    sides = [by_users, "users", "items"] if users < items else ["items", by_users, "users"]
    order = [side for side in sides if wanted in ("auto", side.removesuffix("-to-items"))]
    free = memory.available()
    needed = {side: memory_needed(side, users, items) for side in order}
    for side in order:
        if needed[side] <= free:
            return side
    forced = "" if wanted == "auto" else f" on the side of the {wanted}, which --set side={wanted} asks for,"
    raise memory.too_little(f"{users:,} customers x {items:,} products{forced}", min(needed.values()), free)


def memory_needed(side: str, users: int, items: int) -> float:
    """Bytes that a side takes at its worst moment, beside the purchases; for the arguments see `choose_side`."""
    between_users, between_items, answers = users * users, items * items, users * items
    inverse = 2.1  # block rows of half the matrix before, during and after a round; then the half and the whole
    if side == "items":
        floats = inverse * between_items  # no less than the inverse and, for other targets, the weights
    elif side == "users":
        wide = 2 if users <= EXACT else 1  # in float64
        # the inverse; beside it the answers and their transpose
        floats = max(inverse * wide * between_users, wide * between_users + 2 * answers)
    else:
        blocks = 4 * (os.cpu_count() or 1) * OUT_BLOCK * (users + items)
        # the inverse and the weights; beside them what is being multiplied out, then the half that is stored and, once
        # the inverse is gone, the copies of that half: 0.66 as measured with 29,858 customers and 40,981 products
        floats = between_users + between_items + max(blocks, 0.75 * between_users)
    return 4.0 * floats


class System(NamedTuple):
    """What is solved.

    Attributes:
      inputs: Xw, `[U, I]`, customers without a purchase left out; below it the pseudo-users, if there are any.
      targets: Yw; the same object where Y = X.
      energy: the diagonal of `X' W X`, `[I]`.
      direction: D of `L = l2 D` without dropout, `[I]`.
      ridge: the diagonal of L, `[I]`.
      scale: `n ** item_power`, `[I]`.
    """

    inputs: sp.csr_array
    targets: sp.csr_array
    energy: np.ndarray
    direction: np.ndarray
    ridge: np.ndarray
    scale: np.ndarray


def make_system(train: Interactions, settings: EASESettings) -> System:
    """The weighted matrix with its ridge."""
    inputs, kept, root_weight, customers, energy = weighted_rows(settings.train_matrix(train), settings.user_power)
    targets = inputs
    if settings.targets not in (None, settings.values):
        other = user_item_matrix(train, str(settings.targets), half_life=settings.half_life)
        targets = scale_rows(other[kept], root_weight)
    if settings.attribute_weight:
        rows = attribute_rows(train, settings.attribute_weight)
        is_other = targets is not inputs
        inputs = sp.csr_array(sp.vstack([inputs, rows], format="csr"))
        targets = sp.csr_array(sp.vstack([targets, rows], format="csr")) if is_other else inputs
        energy = energy + np.asarray(rows.multiply(rows).sum(axis=0), dtype=np.float64).ravel()
    direction = customers**settings.l2_power
    ridge = settings.l2 * direction + settings.dropout / (1 - settings.dropout) * energy
    return System(inputs, targets, energy, direction, ridge, customers**settings.item_power)


def side_of(system: System, settings: EASESettings) -> str:
    """`choose_side` for a system."""
    inputs = system.inputs
    return choose_side(inputs.shape[0], inputs.shape[1], inputs.nnz, settings.side)


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """Eigenvectors of a side in coordinates in which its ridge is l2 times the identity: `Xw D^-1 Xw'`, `[U, U]`, or
    `D^-1/2 Xw' Xw D^-1/2`, `[I, I]`, in float64.

    Attributes:
      side: as `choose_side` names it.
      vectors: `[n, n]`, a column each.
      values: `[n]`.
    """

    side: str
    vectors: np.ndarray
    values: np.ndarray

    def inverse(self, l2: float) -> np.ndarray:
        """The inverse of the side plus l2."""
        return (self.vectors / (self.values + l2)) @ self.vectors.T


def spectrum(system: System, settings: EASESettings) -> Spectrum | None:
    """The eigenvectors of the side that is solved; None beyond `EXACT` rows."""
    inputs, side = system.inputs, side_of(system, settings)
    if inputs.shape[1 if side == "items" else 0] > EXACT:
        return None
    scaled = sp.csr_array(inputs, dtype=np.float64, copy=True)
    scaled.data /= np.sqrt(system.direction)[scaled.indices]
    gram = scaled.T @ scaled if side == "items" else scaled @ scaled.T
    values, vectors = scipy.linalg.eigh(gram.toarray(), overwrite_a=True, check_finite=False)
    return Spectrum(side, vectors, np.maximum(values, 0.0))


def _multiplier(own: np.ndarray, diagonal: np.ndarray, xi: float) -> np.ndarray:
    """G of the package's docstring; with xi = 0 the diagonal is exactly 0, from either side of it."""
    excess = own - xi
    return (np.maximum(excess, 0.0) if xi else excess) / diagonal


def _items_inverse(system: System, settings: EASESettings, factors: Spectrum | None) -> np.ndarray:
    """P of the package's docstring, `[I, I]` float32."""
    inputs, ridge = system.inputs, system.ridge
    if factors is not None:
        root = np.sqrt(system.direction)
        return (factors.inverse(settings.l2) / root[:, None] / root).astype(np.float32)
    panel = solve.gram_panels(sp.csr_array(inputs.T), inputs, ridge)
    return solve.inverse(panel, inputs.shape[1])


def _solve_items(system: System, settings: EASESettings, factors: Spectrum | None) -> ItemWeights:
    inputs, targets, energy, _, ridge, scale = system
    count = inputs.shape[1]
    inverse = _items_inverse(system, settings, factors)
    diagonal = inverse.diagonal().astype(np.float64)
    # The eigenvectors, which are in float64, are held to it too: settings that a search chooses must be fit's to take.
    solve.check_digits(1.0 / (diagonal * (energy + ridge)), np.float32)
    if targets is inputs:
        multiplier = _multiplier(1.0 - diagonal * ridge, diagonal, settings.xi)
        weights = np.negative(inverse, out=inverse)
        weights *= (ridge + multiplier).astype(np.float32)
        weights[np.diag_indices(count)] += 1.0
    else:
        weights, targets_by_item = solve.empty(count, count), sp.csr_array(targets.T)

        def fill(start: int, stop: int) -> None:
            answers = (targets_by_item[start:stop] @ inputs) @ inverse  # columns of P X' W Y, as rows
            own = answers[np.arange(stop - start), np.arange(start, stop)].astype(np.float64)
            multiplier = _multiplier(own, diagonal[start:stop], settings.xi)
            weights[:, start:stop] = (answers - inverse[start:stop] * multiplier.astype(np.float32)[:, None]).T

        solve.in_blocks(count, OUT_BLOCK, fill)
    by_rows = inputs.nnz * CELLS_PER_ROW_READ < inputs.shape[0] * inputs.shape[1]
    return _item_weights(weights, scale, settings, by_rows, "items")


@dataclasses.dataclass(frozen=True)
class UserSolution:
    """M of the package's docstring, and what is made of it block of products by block of products.

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

    @functools.cached_property
    def _is_refined(self) -> bool:
        return self.inverse.dtype == np.float32 and not keeps_digits(self.columns, self.ridge)

    def _solved(self, rows: sp.csr_array) -> np.ndarray:
        """Rows `[n, U]` times M; where M has too few digits, with one step of iterative refinement: what
        `K = Xw L^-1 Xw' + 1` leaves of the rows is solved for as well.
        """
        solved = _times(rows, self.inverse)
        if self._is_refined:
            through = np.asarray(self.columns @ solved.T) / self.ridge[:, None].astype(np.float32)
            left = rows.toarray() - solved - np.asarray(self.columns.T @ through).T
            solved += left @ self.inverse
        return solved

    def answers(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """For products `start` to `stop`: `(Nt + N diag(g / L))'`, `[products, U]`, and `g / L`."""
        ridge, columns = self.ridge[start:stop], self.columns[start:stop]
        solved = answers = self._solved(columns)
        if self.targets is not self.columns:
            answers = self._solved(self.targets[start:stop])
        rest = 1.0 - _row_products(columns, solved) / ridge  # L P, which is near 0 where the ridge is weak
        solve.check_digits(rest, self.inverse.dtype)
        diagonal = rest / ridge
        own = _multiplier(_row_products(columns, answers) / ridge, diagonal, self.xi) / ridge
        return _plus_scaled(answers, solved, own), own


def _plus_scaled(answers: np.ndarray, solved: np.ndarray, own: np.ndarray) -> np.ndarray:
    """`answers + solved * own[:, None]` in float32, in the memory of `solved`; both may be the same array."""
    factor = own.astype(solved.dtype)[:, None]
    if answers is solved:
        solved *= 1 + factor
    else:
        solved *= factor
        solved += answers
    return solved.astype(np.float32, copy=False)


def _by_users(system: System, settings: EASESettings, factors: Spectrum | None) -> UserSolution:
    inputs, targets, ridge = system.inputs, system.targets, system.ridge
    users = inputs.shape[0]
    if factors is not None:
        inverse = settings.l2 * factors.inverse(settings.l2)
    elif users <= EXACT:
        exact = sp.csr_array(inputs, dtype=np.float64)  # as the eigenvectors of it are
        whole = solve.gram_panels(solve.over_ridge(exact, ridge), sp.csr_array(exact.T), np.ones(users))(0, users)
        inverse = scipy.linalg.cho_solve(scipy.linalg.cho_factor(whole, lower=True), np.eye(users))
    elif not solve.on_cpu():  # an accelerator is quicker with the inverse as a whole than a CPU in parts
        panel = solve.gram_panels(solve.over_ridge(inputs, ridge), sp.csr_array(inputs.T), np.ones(users))
        inverse = solve.inverse(panel, users)
    else:
        plan = dissection.choose(inputs)
        inverse = dissection.inverse(inputs, ridge, plan)
        # No score depends on the order of the customers of train.
        inputs, targets = inputs[plan.order], targets[plan.order]
    columns = sp.csr_array(inputs.T)
    targets_by_item = columns if system.targets is system.inputs else sp.csr_array(targets.T)
    if keeps_digits(columns, ridge):
        inverse = inverse.astype(np.float32, copy=False)
    return UserSolution(inverse, columns, targets_by_item, ridge, settings.xi)


def keeps_digits(columns: sp.csr_array, ridge: np.ndarray) -> bool:
    """Whether float32 keeps four digits of `L P`, which is what is left of 1 and at least `L / (L + energy)`.

    (Of a positive definite matrix A with the inverse P no `A_jj P_jj` is below 1.)

    Args:
      columns: `Xw'`, `[I, U]`, whose squares sum to the energy of a product.
      ridge: the diagonal of L, `[I]`.
    """
    energy = np.asarray(columns.multiply(columns).sum(axis=1), dtype=np.float64).ravel()
    return bool((ridge / (ridge + energy)).min() >= 1e5 * np.finfo(np.float32).eps)


def _times(sparse: sp.csr_array, dense: np.ndarray) -> np.ndarray:
    """The product of a sparse and a dense matrix; of so many cells that a dense product is quicker, as one."""
    if sparse.nnz * CELLS_PER_ROW_READ > sparse.shape[0] * sparse.shape[1]:
        return sparse.toarray() @ dense
    return np.asarray(sparse @ dense)


def _solve_users(system: System, settings: EASESettings, factors: Spectrum | None) -> UserWeights:
    ridge, scale = system.ridge, system.scale
    solution = _by_users(system, settings, factors)
    answers, own = np.empty((len(ridge), len(solution.inverse)), dtype=np.float32), np.empty(len(ridge))

    def fill(start: int, stop: int) -> None:
        block, own[start:stop] = solution.answers(start, stop)
        answers[start:stop] = block / scale[start:stop, None].astype(np.float32)

    solve.in_blocks(len(ridge), OUT_BLOCK, fill)
    return UserWeights(
        jnp.asarray(answers.T),
        jnp.asarray(own / scale, dtype=jnp.float32),
        scale.astype(np.float32),
        solve.over_ridge(sp.csr_array(solution.columns.T), ridge),
        settings,
    )


def _solve_users_to_items(system: System, settings: EASESettings, factors: Spectrum | None) -> ItemWeights:
    return multiplied_out(_by_users(system, settings, factors), system.scale, settings)


def multiplied_out(solution: UserSolution, scale: np.ndarray, settings: EASESettings) -> ItemWeights:
    """The weights between products, a block of their columns at a time."""
    columns = solution.columns
    back = sp.csr_array(columns, copy=True)
    back.data /= np.repeat(solution.ridge, np.diff(columns.indptr)).astype(np.float32)
    count = columns.shape[0]
    weights = solve.empty(count, count)

    def fill(start: int, stop: int) -> None:
        answers, own = solution.answers(start, stop)
        block = np.asarray(back @ np.ascontiguousarray(answers.T))
        block[np.arange(start, stop), np.arange(stop - start)] -= own.astype(np.float32)
        weights[:, start:stop] = block

    solve.in_blocks(count, OUT_BLOCK, fill)
    if len(solution.inverse) <= EXACT:
        return _item_weights(weights, scale, settings, True, "users")
    smaller: dict[str, Any] = {"columns": to_state(columns), "ridge": solution.ridge, "scale": scale}
    if solution.targets is not columns:
        smaller["targets"] = to_state(solution.targets)
    panels = solve.lower_panels(solution.inverse)
    smaller["panels"] = {str(number): panel for number, panel in enumerate(panels)}
    return dataclasses.replace(_item_weights(weights, scale, settings, True, "users"), smaller=smaller)


def _item_weights(
    weights: np.ndarray, scale: np.ndarray, settings: EASESettings, by_rows: bool, side: str
) -> ItemWeights:
    if not settings.xi:
        np.fill_diagonal(weights, 0.0)
    if settings.item_power:
        weights *= scale[:, None].astype(np.float32)
        weights /= scale.astype(np.float32)
    return ItemWeights(jax.device_put(weights), settings, by_rows, side)


SOLVERS = {"items": _solve_items, "users": _solve_users, "users-to-items": _solve_users_to_items}


def _row_products(sparse: sp.csr_array, dense: np.ndarray) -> np.ndarray:
    """`[n, U], [n, U]` -> the product of each pair of rows, `[n]`, summed in float64."""
    row = np.repeat(np.arange(sparse.shape[0]), np.diff(sparse.indptr))
    products = sparse.data.astype(np.float64) * dense[row, sparse.indices]
    return np.bincount(row, weights=products, minlength=sparse.shape[0])
