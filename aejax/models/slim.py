r"""`slim`: sparse linear weights. Ning and Karypis (2011), SLIM: Sparse Linear Methods for Top-N Recommender Systems,
solved as in Steck, Dimakopoulou, Riabov and Jebara (2020), ADMM SLIM: Sparse Recommendations for Many Users, WSDM,
https://doi.org/10.1145/3336191.3371774.

A user's scores are `x B` for the user's row x. With the user-item matrix X `[U, I]`, targets Y (X, unless `targets` is
another transform), user weights W and a ridge L, the weights `[I, I]` minimise

    1/2 || W^1/2 (Y - X B) ||^2 + 1/2 || L^1/2 B ||^2 + l1 || B ||_1   with  diag(B) = 0  and, by default,  B >= 0.

Alternating directions split B into B, which has the zero diagonal, and C, which has the signs and the sparsity, tied by
B = C with scaled multipliers G. With `P = (X' W X + L + R)^-1`, which is computed once,

    T = P R (C - G)
    B = T + 1 - P diag(s),  s_j = (1 + T_jj) / P_jj      the ridge solution, and Lagrange multipliers of its diagonal
    C = shrink(B + G)       by l1 / R, towards 0; without what is negative
    G = G + B - C

It is the paper's update, because `P X' W X = 1 - P (L + R)` and s holds what both diagonals make together. For other
targets T has `P X' W Y` more, and the update is `B = T - P diag(s), s_j = T_jj / P_jj`. C is the model. From the paper
are also its two extensions: a ridge that depends on the product, `L = l2 * n^l2_power` for n customers (its alpha, on
the share of customers there, which only scales l2), and, with `center`, columns of X less their means m, and of Y less
theirs, so that scores are `(x - m) C + m_Y`.

Where we differ, and why:

* the paper runs a fixed, small number of iterations; here they go on to `tolerance`, and it is an error if `iterations`
  are too few: what an unfinished solution scores depends on rho. The error of the weights is judged by the primal
  residual `|B - C|`, and by the dual residual `R |C - C_before|` over L, the least curvature of the objective, both
  relative to `|C|`. It errs on the safe side: the error against solutions run to the end is below it.
* the paper's rho is a number; here `R = rho * sqrt(L (L + diag(X' W X)))` is one per product, the geometric mean of the
  least and of the steepest curvature that its weights meet. The number that suits popular products is too large for
  the others, where the ridge follows popularity by a factor of 10 in iterations. R changes how long the solution takes
  and not the solution.
* over-relaxation by 1.6 (Boyd et al. 2011, Distributed Optimization and Statistical Learning via the Alternating
  Direction Method of Multipliers, section 3.4.3).
* columns of B are problems of their own, so they are solved `BLOCK` at a time: one matrix `[I, I]` is held, not four.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

from aejax import memory, solve
from aejax.batching import Batch
from aejax.errors import InputError
from aejax.interactions import Interactions
from aejax.matrix import (
    TargetSettings,
    check_counts,
    check_not_negative,
    check_positive,
    check_powers,
    from_state,
    scale_rows,
    weighted_rows,
)
from aejax.models import Choice, Family, Range
from aejax.sparse_weights import SparseItemWeights

BLOCK = 512
OVER_RELAXATION = 1.6
# The length of a column of weights of which a share of `tolerance` is no matter, however short the column.
NEGLIGIBLE = 1e-3


@dataclasses.dataclass(frozen=True)
class SlimSettings(TargetSettings):
    """Settings of `slim`.

    Attributes:
      l1: the sparser the larger.
      l2: ridge.
      l2_power: the ridge of a product with n customers is `l2 * n ** l2_power`.
      nonnegative: weights are 0 or more.
      center: products are predicted as deviations from their means.
      user_power: a customer with m products weighs `m ** -user_power`, times what keeps the energy of all.
      rho: how closely the two halves of the solver are tied: see the module's docstring.
      iterations: the most of them.
      tolerance: the relative error of the weights at which they end.
    """

    l1: float = 1.0
    l2: float = 100.0
    l2_power: float = 0.0
    nonnegative: bool = True
    center: bool = False
    user_power: float = 0.0
    rho: float = 5.0
    iterations: int = 500
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(self, "l1")
        if not self.l2 >= 1e-6:
            raise InputError(f"l2 is {self.l2:g}; expected 1e-6 or more")
        check_positive(self, "tolerance", "rho")
        check_powers(self, "l2_power", "user_power")
        check_counts(self, "iterations")


@dataclasses.dataclass(frozen=True)
class SlimWeights(SparseItemWeights):
    """The weights C, and what is added to every customer's scores.

    Attributes:
      offset: `[I]`, `m_Y - m C`; 0 without `center`.
    """

    offset: jax.Array

    def scores(self, batch: Batch) -> jax.Array:
        """A batch of B users -> scores `[B, I]`, higher is better."""
        return super().scores(batch) + self.offset[None, :]

    def state(self) -> dict[str, Any]:
        """What a run stores of it."""
        return {**super().state(), "offset": self.offset}


class Problem(NamedTuple):
    """What all columns share.

    Attributes:
      inverse: P, `[I, I]`.
      tie: R, `[I]`.
      threshold: l1 / R, `[I]`.
      slowness: R / L, `[I]`.
      tolerance: where to stop.
      iterations: the most of them.
    """

    inverse: jax.Array
    tie: jax.Array
    threshold: jax.Array
    slowness: jax.Array
    tolerance: jax.Array
    iterations: jax.Array


@partial(jax.jit, static_argnames=("width", "nonnegative"))
def _solve_columns(
    problem: Problem, start: jax.Array, correlation: jax.Array | None, *, width: int, nonnegative: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Columns `start` to `start + width` of C, `[I, width]`, their relative error, and the iterations it took.

    `correlation`: these columns of `X' W Y`; None where Y = X.
    The state is `Z = B + G`, of which C and G are the two parts: `C = shrink(Z)`, `G = Z - C`.
    """
    count = problem.inverse.shape[0]
    own = jnp.arange(count)[:, None] == start + jnp.arange(width)[None, :]
    columns = jax.lax.dynamic_slice(problem.inverse, (0, start), (count, width))
    columns = columns / jnp.where(own, columns, 0.0).sum(axis=0, keepdims=True)
    fixed, own_fixed = jnp.zeros((1, 1)), 1.0  # of T, without what a multiple of P's column takes out again
    if correlation is not None:
        fixed, own_fixed = jnp.matmul(problem.inverse, correlation, precision="highest"), 0.0
    tie, threshold, slowness = problem.tie[:, None], problem.threshold[:, None], problem.slowness[:, None]

    def shrink(z: jax.Array) -> jax.Array:
        if nonnegative:
            return jnp.maximum(z - threshold, 0.0)
        return jnp.sign(z) * jnp.maximum(jnp.abs(z) - threshold, 0.0)

    def iterate(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        z, _, done = carry
        before = shrink(z)
        t = fixed + jnp.matmul(problem.inverse, tie * (2.0 * before - z), precision="highest")
        excess = own_fixed + jnp.where(own, t, 0.0).sum(axis=0, keepdims=True)
        b = jnp.where(own, 0.0, t - columns * excess)
        z = OVER_RELAXATION * b + (1.0 - OVER_RELAXATION) * before + (z - before)
        after = shrink(z)
        primal = jnp.linalg.norm(b - after)
        dual = jnp.linalg.norm(slowness * (after - before))
        size = jnp.maximum(jnp.linalg.norm(after), NEGLIGIBLE * width**0.5)
        return z, jnp.maximum(primal, dual) / size, done + 1

    def unfinished(carry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        _, error, done = carry
        return (error > problem.tolerance) & (done < problem.iterations)

    z, error, done = jax.lax.while_loop(
        unfinished, iterate, (jnp.zeros((count, width)), jnp.asarray(jnp.inf), jnp.asarray(0))
    )
    return jnp.where(own, 0.0, shrink(z)), error, done


def _weights(
    problem: Problem, settings: SlimSettings, correlation: Callable[[int, int], np.ndarray] | None
) -> sp.csr_array:
    """C, block of columns by block of columns; `correlation` makes those of `X' W Y`, and is None where Y = X.

    Raises:
      InputError: the iterations are too few.
    """
    count = problem.inverse.shape[0]
    width = min(BLOCK, count)

    def rows() -> Iterable[sp.csr_array]:
        for start in range(0, count, width):
            # The last block begins earlier, so that all of them are compiled once.
            first = min(start, count - width)
            block, error, done = jax.device_get(
                _solve_columns(
                    problem,
                    jnp.asarray(first),
                    None if correlation is None else jnp.asarray(correlation(first, first + width)),
                    width=width,
                    nonnegative=settings.nonnegative,
                )
            )
            if not error <= settings.tolerance:
                raise InputError(
                    f"after {done} iterations the weights are off by {error:.1e} of their size, and tolerance is "
                    f"{settings.tolerance:g}; raise iterations, tolerance or l2 ({settings.l2:g})"
                )
            yield sp.csr_array(block[:, start - first :].T)

    return sp.csr_array(sp.vstack(list(rows()), format="csr").T)


def _correlation(
    inputs: sp.csr_array, targets: sp.csc_array, means: np.ndarray, target_means: np.ndarray, start: int, stop: int
) -> np.ndarray:
    """Columns `start` to `stop` of `Xw' Yw - means target_means'`, `[I, stop - start]` float32."""
    block = (inputs.T @ targets[:, start:stop]).toarray()
    return (block - np.outer(means, target_means[start:stop])).astype(np.float32)


def fit(train: Interactions, settings: SlimSettings) -> SlimWeights:
    """Invert once, and solve for the weights.

    Raises:
      InputError: the system is singular in float32, or the iterations are too few.
      ResourceError: it needs more memory than is free.
    """
    matrix = settings.train_matrix(train)
    count = matrix.shape[1]
    memory.require(f"{count:,} products", memory_needed(count))
    weighted, kept, root_weight, customers, energy = weighted_rows(matrix, settings.user_power)
    ridge = settings.l2 * customers**settings.l2_power
    total, means = np.square(root_weight).sum(), np.zeros(count)
    if settings.center:
        means = np.asarray(weighted.T @ root_weight) / total
        energy = np.maximum(energy - total * means**2, 0.0)
    tie = settings.rho * np.sqrt(ridge * (ridge + energy))
    gram = solve.gram_panels(sp.csr_array(weighted.T), weighted, ridge + tie)

    def panel(start: int, stop: int) -> np.ndarray:
        block = gram(start, stop)
        if settings.center:
            block -= np.outer(total * means[start:stop], means[:stop]).astype(np.float32)
        return block

    try:
        inverse = solve.inverse(panel, count)
        solve.check_digits(1.0 / (inverse.diagonal() * (energy + ridge + tie)), np.float32)
    except np.linalg.LinAlgError:
        raise solve.singular(settings.l2) from None
    problem = Problem(
        inverse=jax.device_put(inverse),
        tie=jnp.asarray(tie, jnp.float32),
        threshold=jnp.asarray(settings.l1 / tie, jnp.float32),
        slowness=jnp.asarray(tie / ridge, jnp.float32),
        tolerance=jnp.asarray(settings.tolerance),
        iterations=jnp.asarray(settings.iterations),
    )
    correlation, target_means = None, means
    if not settings.predicts_inputs:
        targets = sp.csc_array(scale_rows(settings.target_matrix(train)[kept], root_weight))
        target_means = np.asarray(targets.T @ root_weight) / total if settings.center else means
        correlation = partial(_correlation, weighted, targets, total * means, target_means)
    weights = _weights(problem, settings, correlation)
    offset = target_means - np.asarray(weights.T @ means)
    return SlimWeights(weights, settings, jnp.asarray(offset, dtype=jnp.float32))


def memory_needed(items: int) -> int:
    """Bytes at the worst moment, where no weight is 0: P, and the weights twice, in blocks and whole or both ways.

    To them come twelve float32 arrays of a block of columns, and four of a block of the inversion before, which the
    allocator need not have returned.
    """
    number, block_index = np.dtype(np.float32).itemsize, np.dtype(np.int32).itemsize
    index = np.dtype(sp.get_index_dtype(maxval=items**2)).itemsize
    weights = max((number + block_index) + (number + index), 2 * (number + index))
    columns = 12 * min(BLOCK, items) + 4 * min(solve.BLOCK, items)
    return (number + weights) * items**2 + number * columns * items


def restore(state: Mapping[str, Any], settings: SlimSettings, *, items: int) -> SlimWeights:
    """The model whose `state()` that was."""
    return SlimWeights(from_state(state, items), settings, state["offset"])


FAMILY = Family(
    SlimSettings,
    {
        "l1": Range(0.01, 30.0, log=True),
        "l2": Range(3.0, 3_000.0, log=True),
        "l2_power": Range(0.0, 1.0),
        "nonnegative": Choice(("True", "False")),
        "user_power": Range(0.0, 1.0),
    },
    fit,
    restore,
    is_network=False,
)
