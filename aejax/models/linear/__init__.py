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
scoring: a new user's scores do not depend on a weight. They are scaled so that the squares of W^1/2 X sum to
what they do without them, which the papers do not do: l2 then means about the same at every `user_power`.

**Attributes.** With `attribute_weight` w, the features of products, `A` `[F, I]`, are further rows `w A` of X and of Y,
as if each feature were a customer who bought the products that have it. They enter X' W X and so the ridge of a
dropout; the customers of a product, n_j, are customers alone.

**Two sides.** The items' side inverts `X' W X + L` `[I, I]`. The users' side inverts `[U, U]` and needs no `[I, I]`
matrix: with `Xw = W^1/2 X` and `M = (Xw L^-1 Xw' + 1)^-1`, the Woodbury identity gives

    P = L^-1 - L^-1 Xw' M Xw L^-1        P Xw' = L^-1 Xw' M        P_jj = (1 - Xw_j' M Xw_j / L_j) / L_j

so `x P X' W Y = c Nt` and `x P = (x - c N) L^-1` with `c = x L^-1 Xw'`, `N = M Xw`, `Nt = M Yw`. N and Nt, `[U, I]`,
are never made: with `own = g / L`

    scores(x) = (c M) (Yw + Xw diag(own)) - x diag(own)

are a row times M and then as many multiplications as the sparse matrix has cells, and own, for which
`diag(P X' W Y)_j = Yw_j' M Xw_j / L_j`, is made of N block of products by block of products. Where M in float32 has too
few digits, `c M` is refined by what K = M^-1 leaves of c. Where customers are many and their histories short,
`B = L^-1 Xw' (Nt + N diag(own)) - diag(own)` is multiplied out once instead, because a customer's scores then are a few
of its rows.

M is what takes the time: `U^3` multiplications and additions. Where customers fall into groups that few of them and few
products tie together, a CPU makes it of the groups' own inverses and their ties, which is exact and takes a fraction of
that (`aejax.dissection`). A run stores the lower half of M, and not the weights that are multiplied out of it where
these are larger.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from aejax import solve
from aejax.interactions import Interactions
from aejax.models import Choice, Family, Range, Shareable
from aejax.models.linear.scoring import ItemWeights, UserWeights
from aejax.models.linear.settings import DANSettings, EASESettings, EDLAESettings, RDLAESettings
from aejax.models.linear.solving import (
    SOLVERS,
    Gram,
    UserSolution,
    gram,
    multiplied_out,
    side_of,
    user_weights,
)
from aejax.models.linear.system import make_system


def fit(train: Interactions, settings: EASESettings, shared: Gram | None = None) -> ItemWeights | UserWeights:
    """Solve for the weights.

    Args:
      train: purchases.
      settings: of the model.
      shared: `shared_gram` of the same purchases and of settings that differ in no name of `SHAREABLE.depends`; None:
        what these settings take is made for them alone.

    Raises:
      InputError: the system is singular in float32.
      ResourceError: no side fits in memory; said before anything is allocated.
    """
    system = make_system(train, settings)
    side = side_of(system, settings) if shared is None else shared.side
    try:
        return SOLVERS[side](system, settings, shared)
    except np.linalg.LinAlgError:
        raise solve.singular(settings.l2) from None


def restore(state: Mapping[str, Any], settings: EASESettings, *, items: int) -> ItemWeights | UserWeights:
    """The model whose `state()` that was."""
    if "weights" in state:
        return ItemWeights(state["weights"], settings, bool(state["by_rows"]), settings.side)
    solution, scale = UserSolution.restore(state, settings.xi), np.asarray(state["scale"])
    if "own" in state:
        return user_weights(solution, np.asarray(state["own"]), np.asarray(state["leverage"]), scale, settings)
    return multiplied_out(solution, scale, settings)[0]


def shared_gram(train: Interactions, settings: EASESettings) -> Gram | None:
    """What fits of any ridge `l2` without dropout share: the products between the rows of the smaller side.

    With `L = l2 D` the side is `K / l2 + 1` in coordinates in which K does not depend on l2. None beyond `EXACT` rows,
    where the inverse is made of parts of K instead, or where no l2 is free (dropout).
    """
    return None if settings.dropout else gram(make_system(train, settings), settings)


SHAREABLE = Shareable(
    ("values", "half_life", "l2_power", "user_power", "dropout", "attribute_weight", "side"), shared_gram
)
_RIDGE = {
    "l2": Range(10.0, 5_000.0, log=True),
    "user_power": Range(0.0, 1.0, step=0.125),
    "values": Choice(("binary", "log1p-orders", "recency")),
    # So that trials meet at the same value: what is made for one serves all of them.
    "attribute_weight": Choice(("0.0", "1.0", "2.0", "4.0", "8.0", "16.0", "32.0")),
}
_DROPOUT = {**_RIDGE, "dropout": Range(0.0, 0.8)}
_KNOWN: dict[str, Any] = {
    "is_network": False,
    "of_attributes": ("attribute_weight",),
    "of_repeats": ("values",),
}
EASE = Family(EASESettings, _RIDGE, fit, restore, shareable=SHAREABLE, **_KNOWN)
EDLAE = Family(EDLAESettings, _DROPOUT, fit, restore, **_KNOWN)
RDLAE = Family(RDLAESettings, {**_DROPOUT, "xi": Range(0.0, 0.8)}, fit, restore, **_KNOWN)
DAN = Family(
    DANSettings, {**_DROPOUT, "l2": Range(0.3, 100.0, log=True), "item_power": Range(0.0, 0.6)}, fit, restore, **_KNOWN
)
