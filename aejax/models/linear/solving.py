"""The two sides of the solve; the names are those of the package's docstring."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

from aejax import devices, dissection, memory, solve
from aejax.batching import pad_rows, sparse_rows
from aejax.matrix import from_state, scale_rows, to_state
from aejax.models.linear.accuracy import check_scores
from aejax.models.linear.scoring import ItemWeights, Refinement, UserWeights, lower_half, whole_of
from aejax.models.linear.settings import EASESettings
from aejax.models.linear.system import System

# A row of a matrix between products that is read costs a CPU's memory as much time as so many multiplications of a row
# cost its cores.
CELLS_PER_ROW_READ = 50
# A cell of a sparse matrix costs as much time in a product as so many cells of a dense one.
CELLS_PER_SPARSE_CELL = 12
# Up to this many rows a side is solved in float64: its diagonal is a small difference from 1.
EXACT = 4096


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
    # What a customer's scores take: a row of `[U, U]` and the sparse cells, or the rows of `[I, I]` of a history.
    scored_by_users = users * users + CELLS_PER_SPARSE_CELL * cells
    scored_by_items = CELLS_PER_ROW_READ * cells * items / max(users, 1)
    by_users = "users-to-items" if scored_by_users > scored_by_items else "users"
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
    between_users, between_items = users * users, items * items
    at_once = (os.cpu_count() or 1) * solve.THROUGH_SPARSE
    inverse = 2.1  # block rows of half the matrix before, during and after a round; then the half and the whole
    if side == "items":
        floats = inverse * between_items  # no less than the inverse and, for other targets, the weights
    elif side == "users":
        wide = 2 if users <= EXACT else 1  # in float64
        # the inverse; beside it, of which the half that is stored is made, what the diagonal is made of
        floats = wide * (max(inverse * between_users, between_users + at_once * (4 * users + 2 * items)))
    else:
        blocks = 4 * at_once * (users + items)
        # the inverse and the weights; beside them what is being multiplied out, then the half that is stored and, once
        # the inverse is gone, the copies of that half: 0.66 as measured with 29,858 customers and 40,981 products
        floats = between_users + between_items + max(blocks, 0.75 * between_users)
    return 4.0 * floats


def side_of(system: System, settings: EASESettings) -> str:
    """`choose_side` for a system."""
    inputs = system.inputs
    return choose_side(inputs.shape[0], inputs.shape[1], inputs.nnz, settings.side)


@dataclasses.dataclass(frozen=True)
class Gram:
    """A side in coordinates in which its ridge is l2 times the identity: `Xw D^-1 Xw'`, `[U, U]`, or
    `D^-1/2 Xw' Xw D^-1/2`, `[I, I]`.

    Attributes:
      side: as `choose_side` names it.
      cells: `[n, n]` float64.
    """

    side: str
    cells: np.ndarray

    def inverse(self, l2: float) -> np.ndarray:
        """The inverse of the side over l2, plus 1."""
        square = self.cells / l2
        square[np.diag_indices(len(square))] += 1.0
        solve.invert_exactly(square)
        return square


def gram(system: System, settings: EASESettings) -> Gram | None:
    """Of the side that is solved; None beyond `EXACT` rows."""
    inputs, side = system.inputs, side_of(system, settings)
    if inputs.shape[1 if side == "items" else 0] > EXACT:
        return None
    scaled = sp.csr_array(inputs, dtype=np.float64, copy=True)
    scaled.data /= np.sqrt(system.direction)[scaled.indices]
    return Gram(side, (scaled.T @ scaled if side == "items" else scaled @ scaled.T).toarray())


def _multiplier(own: np.ndarray, diagonal: np.ndarray, xi: float) -> np.ndarray:
    """G of the package's docstring; with xi = 0 the diagonal is exactly 0, from either side of it."""
    excess = own - xi
    return (np.maximum(excess, 0.0) if xi else excess) / diagonal


def _items_inverse(system: System, settings: EASESettings, shared: Gram | None) -> np.ndarray:
    """P of the package's docstring, `[I, I]` float32."""
    inputs, ridge = system.inputs, system.ridge
    if shared is not None:
        root = np.sqrt(system.ridge)
        return (shared.inverse(settings.l2) / root[:, None] / root).astype(np.float32)
    panel = solve.gram_panels(sp.csr_array(inputs.T), inputs, ridge)
    return solve.inverse(panel, inputs.shape[1])


def _solve_items(system: System, settings: EASESettings, shared: Gram | None) -> ItemWeights:
    inputs, targets, energy, _, ridge, scale = system
    count = inputs.shape[1]
    inverse = _items_inverse(system, settings, shared)
    diagonal = inverse.diagonal().astype(np.float64)
    # What was shared, which is in float64, is held to it too: settings that a search chooses must be fit's to take.
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

        solve.in_blocks(count, solve.THROUGH_SPARSE, fill)
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
            through = np.asarray(self.columns @ solved.T)
            through /= self.ridge[:, None].astype(np.float32)
            left = rows.toarray() - solved - np.asarray(self.columns.T @ through).T
            solved += left @ self.inverse
        return solved

    def _with_own(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """For products `start` to `stop`: N', `[products, U]`, and `g / L`."""
        ridge, columns = self.ridge[start:stop], self.columns[start:stop]
        solved = self._solved(columns)
        explained = answered = _row_products(columns, solved) / ridge
        if self.targets is not self.columns:
            answered = _row_products(self.targets[start:stop], solved) / ridge
        rest = 1.0 - explained  # L P, which is near 0 where the ridge is weak
        solve.check_digits(rest, self.inverse.dtype)
        return solved, _multiplier(answered, rest / ridge, self.xi) / ridge

    def own(self) -> tuple[np.ndarray, np.ndarray]:
        """`g / L` of all products, `[I]`, and the leverage of the customers, `[U]`: the diagonal of `1 - M`, which is
        that of `Xw L^-1 N'`, float64.
        """
        own = np.empty(len(self.ridge))
        shares = [np.empty(0)] * -(-len(own) // solve.THROUGH_SPARSE)

        def fill(start: int, stop: int) -> None:
            solved, own[start:stop] = self._with_own(start, stop)
            cells = scale_rows(self.columns[start:stop], 1 / self.ridge[start:stop])
            product = np.repeat(np.arange(stop - start), np.diff(cells.indptr))
            weights = cells.data.astype(np.float64) * solved[product, cells.indices]
            shares[start // solve.THROUGH_SPARSE] = _sums(cells.indices, weights, len(self.inverse))

        solve.in_blocks(len(own), solve.THROUGH_SPARSE, fill)
        return own, np.sum(shares, axis=0)

    def answers(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """For products `start` to `stop`: `(Nt + N diag(g / L))'`, `[products, U]`, and `g / L`."""
        solved, own = self._with_own(start, stop)
        answers = solved if self.targets is self.columns else self._solved(self.targets[start:stop])
        return _plus_scaled(answers, solved, own), own

    def check(self, scores: Sequence[Callable[[sp.csr_array], np.ndarray]], own: np.ndarray, scale: np.ndarray) -> None:
        """`check_scores` of what is made of it, unless no one has two products: then every score is 0, of whatever l2,
        and the error of a score is all that there is of it.
        """
        if not self.xi and np.bincount(self.columns.indices).max() < 2:
            return
        parts = {"inverse": self.inverse, "columns": self.columns, "targets": self.targets, "ridge": self.ridge}
        check_scores(scores, own, scale, **parts)

    def state(self) -> dict[str, Any]:
        """What a run stores of it beside M."""
        state = {"columns": to_state(self.columns), "ridge": self.ridge}
        return state if self.targets is self.columns else {**state, "targets": to_state(self.targets)}

    @classmethod
    def restore(cls, state: Mapping[str, Any], xi: float) -> UserSolution:
        """The solution whose `state()` that was, with the `lower_half` of M."""
        inverse = whole_of(state)
        columns = from_state(state["columns"], len(inverse))
        targets = from_state(state["targets"], len(inverse)) if "targets" in state else columns
        return cls(inverse, columns, targets, np.asarray(state["ridge"]), xi)


def _plus_scaled(answers: np.ndarray, solved: np.ndarray, own: np.ndarray) -> np.ndarray:
    """`answers + solved * own[:, None]` in float32, in the memory of `solved`; both may be the same array."""
    factor = own.astype(solved.dtype)[:, None]
    if answers is solved:
        solved *= 1 + factor
    else:
        solved *= factor
        solved += answers
    return solved.astype(np.float32, copy=False)


def _by_users(system: System, settings: EASESettings, shared: Gram | None) -> UserSolution:
    inverse, order = _users_inverse(system, settings, shared)
    columns = targets = sp.csr_array(system.inputs[order].T)
    if system.targets is not system.inputs:
        targets = sp.csr_array(system.targets[order].T)
    if keeps_digits(columns, system.ridge):
        inverse = inverse.astype(np.float32, copy=False)
    return UserSolution(inverse, columns, targets, system.ridge, settings.xi)


def _users_inverse(
    system: System, settings: EASESettings, shared: Gram | None
) -> tuple[np.ndarray, np.ndarray | slice]:
    """M of the package's docstring, `[U, U]`, and the order in which its rows have the customers of train, on which no
    score depends.
    """
    inputs, ridge = system.inputs, system.ridge
    users, as_they_are = inputs.shape[0], slice(None)
    if shared is not None:
        return shared.inverse(settings.l2), as_they_are
    if users > EXACT and devices.on_cpu():  # an accelerator is quicker with the inverse as a whole than a CPU in parts
        plan = dissection.choose(inputs)
        return dissection.inverse(inputs, ridge, plan), plan.order
    if users > EXACT:
        return solve.inverse(_gram(inputs, ridge), users), as_they_are
    # In the floats that a `Gram` has.
    return solve.exact_inverse(_gram(sp.csr_array(inputs, dtype=np.float64), ridge), users), as_they_are


def _gram(inputs: sp.csr_array, ridge: np.ndarray) -> Callable[[int, int], np.ndarray]:
    """`Xw L^-1 Xw' + 1`, as `solve.inverse_panels` takes it."""
    return solve.gram_panels(solve.over_ridge(inputs, ridge), sp.csr_array(inputs.T), np.ones(inputs.shape[0]))


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
    if sparse.nnz * CELLS_PER_SPARSE_CELL > sparse.shape[0] * sparse.shape[1]:
        return sparse.toarray() @ dense
    return np.asarray(sparse @ dense)


def _solve_users(system: System, settings: EASESettings, shared: Gram | None) -> UserWeights:
    solution = _by_users(system, settings, shared)
    own, leverage = solution.own()
    weights = user_weights(solution, own, leverage, system.scale, settings)
    ways = [functools.partial(weights.scores_of_rows, as_others=one) for one in (False, True)]
    solution.check(ways, own, system.scale)
    return weights


def user_weights(
    solution: UserSolution, own: np.ndarray, leverage: np.ndarray, scale: np.ndarray, settings: EASESettings
) -> UserWeights:
    """The weights between the customers of train, with what `UserSolution.own` gave."""
    columns, targets, ridge = solution.columns, solution.targets, solution.ridge
    out = scale_rows(columns, 1 + own) if targets is columns else targets + scale_rows(columns, own)
    back = scale_rows(columns, 1 / ridge)
    refinement = None
    if not keeps_digits(columns, ridge):
        refinement = Refinement(sparse_rows(columns)[0], sparse_rows(sp.csr_array(back.T))[0])
    return UserWeights(
        jnp.asarray(solution.inverse, dtype=jnp.float32),
        scale_rows(sp.csr_array(out), 1 / scale),
        leverage.astype(np.float32),
        (own / scale).astype(np.float32),
        scale.astype(np.float32),
        back,
        refinement,
        settings,
        {**solution.state(), "own": own, "leverage": leverage, "scale": scale},
    )


def _solve_users_to_items(system: System, settings: EASESettings, shared: Gram | None) -> ItemWeights:
    solution = _by_users(system, settings, shared)
    model, own = multiplied_out(solution, system.scale, settings)
    solution.check([lambda rows: np.asarray(model.scores(pad_rows(rows)))], own, system.scale)
    return model


def multiplied_out(solution: UserSolution, scale: np.ndarray, settings: EASESettings) -> tuple[ItemWeights, np.ndarray]:
    """The weights between products, a block of their columns at a time, and `g / L`, `[I]`."""
    columns = solution.columns
    back = scale_rows(columns, 1 / solution.ridge)
    count = columns.shape[0]
    weights, every_own = solve.empty(count, count), np.empty(count)

    def fill(start: int, stop: int) -> None:
        answers, own = solution.answers(start, stop)
        every_own[start:stop] = own
        block = np.asarray(back @ np.ascontiguousarray(answers.T))
        block[np.arange(start, stop), np.arange(stop - start)] -= own.astype(np.float32)
        weights[:, start:stop] = block

    solve.in_blocks(count, solve.THROUGH_SPARSE, fill)
    if len(solution.inverse) <= EXACT:
        return _item_weights(weights, scale, settings, True, "users"), every_own
    smaller = {**solution.state(), **lower_half(solution.inverse), "scale": scale}
    return dataclasses.replace(_item_weights(weights, scale, settings, True, "users"), smaller=smaller), every_own


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
    return _sums(row, products, sparse.shape[0])


def _sums(places: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """The sum of the values at each of so many places, float64."""
    return np.asarray(np.bincount(places, weights=values, minlength=count), dtype=np.float64)
