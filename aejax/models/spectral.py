r"""Spectral filters: `gfcf` and `bspm`, which pass a customer's row through the graph of purchases, without training.

With `R = D_u^-1/2 X D_i^-1/2`, the user-item matrix normalised by the degrees of both sides, the similarity of products
`P = R' R`, and V the `factors` right singular vectors of R with the largest singular values, both are

    x f(P)  +  x D_i^-1/2 V V' D_i^1/2 g(P)                                             (f and g polynomials)

for a customer's row x: a filter of the whole spectrum, and an ideal low-pass filter. The row itself is not normalised,
which would scale all of a customer's scores alike.

* `gfcf`: `f(P) = P`, `g(P) = alpha`. Shen et al. (2021), How Powerful is Graph Convolution for Recommendation?,
  https://arxiv.org/abs/2108.07567, section 5, eq. 11 to 13.
* `bspm`: Choi et al. (2023), Blurring-Sharpening Process Models for Collaborative Filtering,
  https://arxiv.org/abs/2211.09324. The row is blurred by the heat equation `dx/dt = x (P - 1)`, then sharpened by
  `dx/dt = -x P`, both solved in equal steps of `euler` or `rk4`. As the equations are linear, a step of either is a
  polynomial in P: with z the step times the rate, `1 + z` or `1 + z + z^2/2 + z^3/6 + z^4/24`, the latter for every
  Runge-Kutta method of order 4 in 4 stages. The low-pass filter, weighted by `beta`, joins before the sharpening
  (`merge=early`: g is beta times the sharpening's polynomial) or behind it (`merge=late`: g = beta).

The defaults of `bspm` are the authors' for a catalogue of tens of thousands of products; small data want far fewer
`factors`, so tune it.

P is never formed: it is applied as two products with the sparse R. `V' D_i^1/2 g(P)` does not depend on the customer
and is made once, so `merge=early` costs no more than `late`.

The singular vectors are ARPACK's, exact in float64, from a fixed start: the models have no randomness to seed. Those
of a randomised range finder are not near enough: on a spectrum that falls as slowly as that of purchases the last of
them are mixtures, which moves the published figures in the third digit.

Where we differ, and why: the low-pass filter of `bspm` is an equation of its own in the paper,
`dx/dt = x (D_i^-1/2 V V' D_i^1/2 - 1)`. Here it is the Euler step of length 1 that every published setting takes.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg
from numpy.polynomial import Polynomial

from aejax import memory
from aejax.errors import InputError, nearest
from aejax.interactions import Histories, Interactions
from aejax.matrix import ValueSettings, check_counts, check_not_negative, check_positive, from_state, to_state
from aejax.models import Choice, Family, Range, Shareable

START_SEED = 0
MOST_FACTORS = 512  # that a search tries
MOST_STEPS = 100  # the highest power of a polynomial that NumPy takes
MOST_TIME = 100  # beyond it the powers leave float32
BAND = 16  # rows that R is applied to at once: few enough that they stay in the cache

SOLVERS = ("euler", "rk4")
MERGES = ("early", "late")
POINTS = ("last", "mean")


class Polynomials(NamedTuple):
    """The two polynomials in P of a filter, as coefficients with the constant one first.

    Attributes:
      whole: f, of the whole spectrum; of degree 1 or more.
      low: g, behind the low-pass filter.
    """

    whole: list[float]
    low: list[float]


@dataclasses.dataclass(frozen=True)
class FilterSettings(ValueSettings):
    """Settings of every spectral filter.

    Attributes:
      factors: singular vectors of the low-pass filter; there are no more than customers or products.
    """

    factors: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "factors")


@dataclasses.dataclass(frozen=True)
class GFCFSettings(FilterSettings):
    """Settings of `gfcf`.

    Attributes:
      alpha: weight of the low-pass filter.
    """

    alpha: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(self, "alpha")

    def polynomials(self) -> Polynomials:
        """The filter that the settings ask for."""
        return Polynomials([0.0, 1.0], [self.alpha])


@dataclasses.dataclass(frozen=True)
class BSPMSettings(FilterSettings):
    """Settings of `bspm`.

    Attributes:
      beta: weight of the low-pass filter.
      blur_time: how long the row is blurred.
      blur_steps: in how many steps.
      blur_solver: one of `SOLVERS`.
      sharpen_time: how long it is sharpened; 0: not at all.
      sharpen_steps: in how many steps.
      sharpen_solver: one of `SOLVERS`.
      merge: whether the low-pass filter is added before (`early`) or behind (`late`) the sharpening.
      points: whether the scores are the last point of the two processes, or the mean of all points behind the first.
    """

    factors: int = 448
    beta: float = 0.2
    blur_time: float = 1.0
    blur_steps: int = 1
    blur_solver: str = "euler"
    sharpen_time: float = 2.5
    sharpen_steps: int = 1
    sharpen_solver: str = "rk4"
    merge: str = "early"
    points: str = "last"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(self, "beta", "sharpen_time")
        check_positive(self, "blur_time")
        if max(self.blur_time, self.sharpen_time) > MOST_TIME:
            raise InputError(
                f"blur_time is {self.blur_time:g} and sharpen_time {self.sharpen_time:g}; expected {MOST_TIME} or less"
            )
        if not 1 <= min(self.blur_steps, self.sharpen_steps) <= max(self.blur_steps, self.sharpen_steps) <= MOST_STEPS:
            raise InputError(
                f"blur_steps is {self.blur_steps} and sharpen_steps {self.sharpen_steps}; expected 1 or more, and "
                f"{MOST_STEPS} or less"
            )
        for name, options in {
            "blur_solver": SOLVERS,
            "sharpen_solver": SOLVERS,
            "merge": MERGES,
            "points": POINTS,
        }.items():
            if getattr(self, name) not in options:
                raise InputError(f'{name} is "{getattr(self, name)}"; {nearest(getattr(self, name), options)}')

    def polynomials(self) -> Polynomials:
        """The filter that the settings ask for."""
        similarity = Polynomial([0.0, 1.0])
        blurred = _points(similarity - 1, self.blur_time, self.blur_steps, self.blur_solver)
        sharpened = _points(-similarity, self.sharpen_time, self.sharpen_steps, self.sharpen_solver)
        whole = [*blurred, *(blurred[-1] * point for point in sharpened)]
        # The low-pass filter is in those points only that come after it.
        low = [*(0 * point for point in blurred), *sharpened]
        read = _mean if self.points == "mean" else _last
        late = self.merge == "late"
        return Polynomials(read(whole).coef.tolist(), [self.beta] if late else (self.beta * read(low)).coef.tolist())


SpectralSettings = GFCFSettings | BSPMSettings


def _points(rate: Polynomial, time: float, steps: int, solver: str) -> list[Polynomial]:
    """What `dx/dt = x rate(P)` has made of x after each of `steps` equal steps up to `time`, as polynomials in P."""
    z = rate * (time / steps)
    step = 1 + z if solver == "euler" else 1 + z + z**2 / 2 + z**3 / 6 + z**4 / 24
    return [step**count for count in range(1, steps + 1)]


def _last(points: list[Polynomial]) -> Polynomial:
    return points[-1]


def _mean(points: list[Polynomial]) -> Polynomial:
    return sum(points, Polynomial([0.0])) / len(points)


class FilterBatch(NamedTuple):
    """Rows of customers after both filters.

    Attributes:
      whole: `x f(P)`, `[B, I]`.
      codes: `x D_i^-1/2 V`, `[B, factors]`.
    """

    whole: np.ndarray
    codes: np.ndarray


@jax.jit
def _scores(decoder: jax.Array, batch: FilterBatch) -> jax.Array:
    return jnp.asarray(batch.whole) + jnp.asarray(batch.codes) @ decoder


def _evaluate(coefficients: list[float], normal: sp.csr_array, columns: np.ndarray) -> np.ndarray:
    """A polynomial in P, times columns `[I, n]`."""
    total = coefficients[-1] * columns
    for coefficient in reversed(coefficients[:-1]):
        total = normal.T @ (normal @ total) + coefficient * columns
    return total


@dataclasses.dataclass(frozen=True)
class SpectralFilter:
    """The fitted filter.

    Attributes:
      normal: R, `[U, I]`.
      low_pass: V, `[I, factors]`.
      root: `[I]`, square root of each product's degree.
      decoder: `V' D_i^1/2 g(P)`, `[factors, I]`.
      whole: the coefficients of f.
      settings: of the value transform.
    """

    normal: sp.csr_array
    low_pass: np.ndarray
    root: np.ndarray
    decoder: jax.Array
    whole: list[float]
    settings: SpectralSettings

    def encode(self, histories: Histories) -> FilterBatch:
        """Histories of n customers -> a batch on the host."""
        rows = self.settings.history_matrix(histories)
        whole = np.empty((len(histories), self.normal.shape[1]), dtype=np.float32)
        for start in range(0, len(histories), BAND):
            columns = sp.csr_array(rows[start : start + BAND].T)
            # A row is short, so the first of the products is sparse.
            similar = self.normal.T @ sp.csr_array(self.normal @ columns).toarray()
            band = _evaluate(self.whole[1:], self.normal, similar) + self.whole[0] * columns.toarray()
            whole[start : start + BAND] = band.T
        rows.data /= self.root[rows.indices]
        return FilterBatch(whole, rows @ self.low_pass)

    def scores(self, batch: FilterBatch) -> jax.Array:
        """A batch of B users -> scores `[B, I]`, higher is better."""
        return _scores(self.decoder, batch)

    def state(self) -> dict[str, Any]:
        """What a run stores of it."""
        return {"normal": to_state(self.normal), "low_pass": np.ascontiguousarray(self.low_pass.T), "root": self.root}


def right_singular_vectors(matrix: sp.csr_array, count: int) -> np.ndarray:
    """The right singular vectors `[count, I]` of the largest singular values, largest first, up to their sign.

    Raises:
      ResourceError: they do not fit in memory.
    """
    # Lanczos vectors of the smaller side, twice the factors, and vectors of both sides, in float64.
    needed = 8 * 3 * count * (matrix.shape[0] + matrix.shape[1])
    memory.require(f"{count:,} factors", needed, "give fewer with --set factors=N")
    exact = sp.csr_array(matrix, dtype=np.float64)
    least = min(exact.shape[0], exact.shape[1])
    if count < least:
        start = np.random.default_rng(START_SEED).standard_normal(least)
        _, values, vectors = scipy.sparse.linalg.svds(exact, count, v0=start)
    else:
        _, values, vectors = np.linalg.svd(exact.toarray(), full_matrices=False)
    return vectors[np.argsort(-values)].astype(np.float32)


def _assemble(
    normal: sp.csr_array, vectors: np.ndarray, root: np.ndarray, settings: SpectralSettings
) -> SpectralFilter:
    """What is stored of a filter, vectors `V'` `[factors, I]` among it -> the filter."""
    whole, low = settings.polynomials()
    low_pass = np.ascontiguousarray(vectors.T)
    decoder = np.empty(vectors.shape, dtype=np.float32)
    for start in range(0, len(vectors), BAND):
        columns = root[:, None] * low_pass[:, start : start + BAND]
        decoder[start : start + BAND] = _evaluate(low, normal, columns).T
    return SpectralFilter(normal, low_pass, root, jnp.asarray(decoder), whole, settings)


def _normalised(train: Interactions, settings: FilterSettings) -> tuple[sp.csr_array, np.ndarray]:
    """R and the square root of each product's degree."""
    matrix = settings.train_matrix(train)
    matrix = sp.csr_array(matrix[np.diff(matrix.indptr) > 0])
    degree = np.asarray(matrix.sum(axis=0), dtype=np.float64).ravel()
    root = np.sqrt(np.where(degree > 0, degree, 1.0))
    normal = sp.csr_array(matrix, copy=True)
    lengths = np.sqrt(np.asarray(matrix.sum(axis=1), dtype=np.float64).ravel())
    normal.data /= (np.repeat(lengths, np.diff(matrix.indptr)) * root[matrix.indices]).astype(np.float32)
    return normal, root.astype(np.float32)


def shared_vectors(train: Interactions, settings: FilterSettings) -> np.ndarray:
    """The singular vectors `[n, I]` of which filters of fewer factors take the first."""
    normal, _ = _normalised(train, settings)
    return right_singular_vectors(normal, min(max(settings.factors, MOST_FACTORS), normal.shape[0], normal.shape[1]))


def fit(train: Interactions, settings: SpectralSettings, shared: np.ndarray | None = None) -> SpectralFilter:
    """Normalise the matrix and find its largest singular vectors.

    Args:
      train: purchases.
      settings: of the model.
      shared: `shared_vectors` of the same purchases; None: no more vectors are found than these settings need.
    """
    normal, root = _normalised(train, settings)
    wanted = min(settings.factors, normal.shape[0], normal.shape[1])
    if shared is None or len(shared) < wanted:
        shared = right_singular_vectors(normal, wanted)
    return _assemble(normal, shared[:wanted], root, settings)


def restore(state: dict[str, Any], settings: SpectralSettings, *, items: int) -> SpectralFilter:
    """The model whose `state()` that was."""
    normal = from_state(state["normal"], items)
    return _assemble(normal, np.asarray(state["low_pass"]), np.asarray(state["root"]), settings)


SHAREABLE = Shareable(("values", "half_life"), shared_vectors)
GFCF = Family(
    GFCFSettings,
    {"factors": Range(16, MOST_FACTORS, log=True), "alpha": Range(0.01, 3.0, log=True)},
    fit,
    restore,
    is_network=False,
    shareable=SHAREABLE,
)
BSPM = Family(
    BSPMSettings,
    {
        "factors": Range(16, MOST_FACTORS, log=True),
        "beta": Range(0.01, 3.0, log=True),
        "sharpen_time": Range(0.0, 4.0),
        "merge": Choice(MERGES),
        "points": Choice(POINTS),
    },
    fit,
    restore,
    is_network=False,
    shareable=SHAREABLE,
)
