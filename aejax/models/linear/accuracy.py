"""Whether scores, which are made in float32, are those of the system that was solved between customers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import scipy.sparse as sp

from aejax import solve

# Customers of either kind whose scores are looked at, and the most by which one may be wrong, as a share of the
# largest.
CUSTOMERS = 16
LARGEST_ERROR = 1e-2
# Most steps of refinement with sums in float64, for which any M that can be refined at all is enough; and what is left
# to solve, as a share of the largest that is solved, after which another step would say nothing.
STEPS = 6
SOLVED = 1e-10


def check_scores(
    scores: Sequence[Callable[[sp.csr_array], np.ndarray]],
    own: np.ndarray,
    scale: np.ndarray,
    *,
    inverse: np.ndarray,
    columns: sp.csr_array,
    targets: sp.csr_array,
    ridge: np.ndarray,
) -> None:
    """Refuses what float32 cannot score, though it may have been solved in float64: refinement runs away once
    `|K|` is about `1 / eps`, and a score is a small difference where a product's own share is large.

    Those customers of train are scored on whose rows the ridge is weakest, and as many others, by the model and with
    sums in float64.

    Args:
      scores: the ways of the model that is checked: rows of n customers, `[n, I]` float32 -> their scores `[n, I]`.
      own: `g / L`, `[I]`.
      scale: `n ** item_power`, `[I]`.
      inverse: M, `[U, U]`, in the floats in which it was solved.
      columns: `Xw'`, `[I, U]`.
      targets: `Yw'`, `[I, U]`.
      ridge: the diagonal of L, `[I]`.

    Raises:
      numpy.linalg.LinAlgError: the two differ by more than `LARGEST_ERROR`.
    """
    by_item = sp.csr_array(columns, dtype=np.float64)
    by_user = sp.csr_array(by_item.T)
    strength = by_user.multiply(by_user) @ (1 / ridge)
    spread = np.linspace(0, len(strength) - 1, CUSTOMERS).astype(int)
    chosen = np.unique(np.append(spread, np.argsort(-strength)[:CUSTOMERS]))
    rows = sp.csr_array(by_user[chosen])
    asked = sp.csr_array(rows, dtype=np.float32)
    rows.data *= scale[rows.indices]
    overlap = sp.csr_array(solve.over_ridge(rows, ridge) @ by_item).toarray()
    solved, left, through = np.zeros_like(overlap), overlap, np.zeros((len(ridge), len(chosen)))
    for _ in range(STEPS):
        solved += left.astype(inverse.dtype) @ inverse
        through = by_item @ solved.T
        left = overlap - solved - (by_user @ (through / ridge[:, None])).T
        if np.abs(left).max() <= SOLVED * np.abs(solved).max():
            break
    expected = through * own[:, None] + (through if targets is columns else targets @ solved.T)
    customer = np.repeat(np.arange(len(chosen)), np.diff(rows.indptr))
    expected[rows.indices, customer] -= rows.data * own[rows.indices]
    expected /= scale[:, None]
    # Of one that is not finite too.
    largest = LARGEST_ERROR * np.abs(expected).max()
    for score in scores:
        if not np.abs(score(asked.copy()).T - expected).max() <= largest:
            raise np.linalg.LinAlgError
