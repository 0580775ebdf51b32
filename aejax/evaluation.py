"""Per-user metrics of a fitted model on a held-out part, with bootstrap intervals over users.

Legend: n users of the part, B users of a chunk, I items, K cut-off.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

from aejax import batching, metrics, ranking
from aejax.errors import InputError
from aejax.models import Model, unknown_customers
from aejax.split import HeldOut

VALIDATION_METRIC = "ndcg@100"
COVERAGE_AT = 10
RESAMPLES = 1000


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a model reached on a held-out part.

    Attributes:
      users: `[n]` indices into the vocabulary.
      values: metric key -> `[n]` float32, one value per user.
      coverage: share of the products that stand in any user's first `COVERAGE_AT`.
      unknown: how many of the users the model, or a part of it, does not know and took for the mean of those it knows.
    """

    users: np.ndarray
    values: dict[str, np.ndarray]
    coverage: float
    unknown: int

    @property
    def note(self) -> str:
        """What a reader of the figures must know of them; empty where there is nothing."""
        if not self.unknown:
            return ""
        return (
            f"the model, or a part of it, does not know {self.unknown:,} of the {len(self.users):,} customers and took "
            "each for the mean of those it knows"
        )


@partial(jax.jit, static_argnames="depth")
def hits_of(
    scores: jax.Array, seen: jax.Array, targets: jax.Array, depth: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Scores `[B, I]`, padded seen and target items `[B, L]` -> the top items, which of them hit, and any NaN."""
    _, top = ranking.top_k_items(ranking.mask_items(scores, seen), depth)
    return top, ranking.membership(top, targets, scores.shape[1]), jnp.isnan(scores).any()


@jax.jit
def _user_metrics(hits: jax.Array, counts: jax.Array) -> dict[str, jax.Array]:
    return dict(metrics.per_user_metrics(hits, counts))


@jax.jit
def total_ndcg(hits: jax.Array, counts: jax.Array) -> jax.Array:
    """Sum of NDCG@100 over the users; padding has no target, so no hit, and adds 0."""
    return metrics.ndcg_at_k(hits, jnp.maximum(counts, 1), 100).sum()


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Users of a held-out part, and rows of padding after them.

    Attributes:
      batch: what the model encoded of them.
      seen: `[B, L]` items, padded with I.
      targets: `[B, L]` items, padded with I.
      counts: `[B]`, number of targets, 0 for padding.
      users: how many of the rows are users.
    """

    batch: Any
    seen: jax.Array
    targets: jax.Array
    counts: jax.Array
    users: int


def chunks(model: Model, part: HeldOut, size: int) -> Iterator[Chunk]:
    """The part in the fewest chunks of at most `size` users, all of one shape: the last one is filled up and masked."""
    rows = -(-len(part) // -(-len(part) // size))
    for start in range(0, len(part), rows):
        stop = min(start + rows, len(part))

        def padded(matrix: sp.csr_array, start: int = start, stop: int = stop) -> jax.Array:
            return jnp.asarray(batching.pad_rows(sp.csr_array(matrix[start:stop]), rows=rows).items)

        batch = batching.fill_rows(model.encode(part.inputs.take(start, stop)), rows)
        counts = np.zeros(rows, dtype=np.int32)
        counts[: stop - start] = np.diff(part.targets.indptr[start : stop + 1])
        yield Chunk(batch, padded(part.seen), padded(part.targets), jnp.asarray(counts), stop - start)


def evaluate(model: Model, part: HeldOut, *, chunk: int | None = None) -> Evaluation:
    """Every metric of `metrics.KEYS` for every user of the part.

    Args:
      model: a fitted model.
      part: users with inputs, targets and seen items.
      chunk: the most users scored at once; None: by memory. The result does not depend on it.

    Raises:
      InputError: the model scored NaN.
    """
    items = part.targets.shape[1]
    pieces: list[dict[str, np.ndarray]] = []
    recommended = np.zeros(items + 1, dtype=bool)
    for piece in chunks(model, part, chunk or batching.scoring_chunk(items)):
        top, hits, any_nan = hits_of(model.scores(piece.batch), piece.seen, piece.targets, metrics.DEPTH)
        values = _user_metrics(hits, jnp.maximum(piece.counts, 1))
        top, any_nan, values = jax.device_get((top, any_nan, values))
        if any_nan:
            raise InputError("the model scored NaN (not a number): its training went wrong; fit it again")
        recommended[top[: piece.users, :COVERAGE_AT]] = True
        pieces.append({key: value[: piece.users] for key, value in values.items()})
    return Evaluation(
        part.users,
        {key: np.concatenate([piece[key] for piece in pieces]) for key in metrics.KEYS},
        float(recommended[:items].mean()),
        len(unknown_customers(model, part.inputs)),
    )


def validator(part: HeldOut, *, once: bool = False) -> Callable[[Model], float]:
    """The validation score as a function of a model: mean NDCG@100 over the part's users, NaN where a score is NaN.

    The part is encoded once, at the first call, and kept: all models that one validator scores must encode alike.
    With `once` nothing is kept, for a model that is scored once.
    """
    size = batching.scoring_chunk(part.targets.shape[1])
    kept: list[Chunk] = []

    def validate(model: Model) -> float:
        if not once and not kept:
            kept.extend(chunks(model, part, size))
        totals = []
        for piece in chunks(model, part, size) if once else kept:
            _, hits, any_nan = hits_of(model.scores(piece.batch), piece.seen, piece.targets, metrics.DEPTH)
            totals.append(jnp.where(any_nan, jnp.nan, total_ndcg(hits, piece.counts)))
        return float(jax.device_get(jnp.stack(totals).sum())) / len(part)

    return validate


@jax.jit
def _bootstrap_means(values: jax.Array, key: jax.Array) -> jax.Array:
    """Values `[n, M]` -> means `[RESAMPLES, M]` over users drawn with replacement."""
    users = values.shape[0]

    def resample(index: jax.Array) -> jax.Array:
        drawn = jax.random.randint(jax.random.fold_in(key, index), (users,), 0, users)
        counts = jnp.zeros(users).at[drawn].add(1.0)
        return counts @ values / users

    return jax.lax.map(resample, jnp.arange(RESAMPLES))


def mean_with_interval(values: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Per-user values -> mean and 95% percentile bootstrap interval over users, with a fixed key.

    Args:
      values: key -> `[n]`; all of the same users.

    Returns:
      key -> `{"mean": float, "ci95": [low, high]}`.
    """
    table = np.stack([np.asarray(column, dtype=np.float64) for column in values.values()], axis=1)
    means = np.asarray(_bootstrap_means(jnp.asarray(table, dtype=jnp.float32), jax.random.key(0)))
    low, high = np.percentile(means.astype(np.float64), [2.5, 97.5], axis=0)
    return {
        key: {"mean": float(table[:, i].mean()), "ci95": [float(low[i]), float(high[i])]}
        for i, key in enumerate(values)
    }


def report_metrics(evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    """The `metrics` of metrics.json: every key with its interval, and coverage, which has none."""
    summary = mean_with_interval(evaluation.values)
    summary[f"coverage@{COVERAGE_AT}"] = {"mean": evaluation.coverage, "ci95": None}
    return summary
