"""Per-user metrics of a fitted model on a held-out part, with bootstrap intervals over users.

Legend: n users of the part, B users of a chunk, I items, K cut-off.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

from aejax import batching, devices, metrics, ranking
from aejax.errors import InputError
from aejax.models import Model, PredictsRepeats, unknown_customers
from aejax.split import HeldOut

VALIDATION_METRIC = "ndcg@100"
COVERAGE_AT = 10
RESAMPLES = 1000


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a model reached on a held-out part.

    Attributes:
      users: `[n]` indices into the vocabulary.
      values: metric key -> `[n]` float32, one value per user; with those of `metrics.REVENUE_KEYS` where targets have
        prices.
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


@jax.jit
def lists_of(scores: jax.Array, seen: jax.Array, offered: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """Scores `[B, I]`, padded seen items `[B, L]` -> the top items of those offered `[I]` (None: all), `[B, DEPTH]`,
    and whether any score is NaN.
    """
    best = ranking.mask_items(ranking.offer_items(scores, offered), seen)
    return ranking.top_k_items(best, metrics.DEPTH)[1], jnp.isnan(scores).any()


@partial(jax.jit, static_argnames="items")
def _share_of_list(top: jax.Array, own: jax.Array, items: int) -> jax.Array:
    """Top items `[B, DEPTH]`, padded own items `[B, L]` -> the share of the own in the first `COVERAGE_AT`, `[B]`."""
    first = top[:, :COVERAGE_AT]
    return ranking.membership(first, own, items).sum(axis=1) / jnp.maximum((first < items).sum(axis=1), 1)


@partial(jax.jit, static_argnames="items")
def _user_metrics(top: jax.Array, targets: jax.Array, counts: jax.Array, items: int) -> dict[str, jax.Array]:
    """Top items `[B, DEPTH]`, padded targets `[B, L]` and their counts `[B]` -> every metric, each `[B]`."""
    return dict(metrics.per_user_metrics(ranking.membership(top, targets, items), jnp.maximum(counts, 1)))


@partial(jax.jit, static_argnames="items")
def _user_revenue(top: jax.Array, paid: batching.Batch, items: int) -> dict[str, jax.Array]:
    """Top items `[B, DEPTH]` and what was paid for targets -> revenue at every cut-off, each `[B]`."""
    return dict(metrics.per_user_revenue(ranking.values_of(top, paid.items, paid.values, items)))


@partial(jax.jit, static_argnames="items")
def total_ndcg(top: jax.Array, targets: jax.Array, counts: jax.Array, items: int) -> jax.Array:
    """The same -> the sum of NDCG@100; padding has no target, so no hit, and adds 0."""
    return metrics.ndcg_at_k(ranking.membership(top, targets, items), jnp.maximum(counts, 1), 100).sum()


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


@dataclasses.dataclass(frozen=True)
class Rows:
    """Where a chunk lies in its part.

    Attributes:
      start: its first user.
      stop: behind its last.
      count: its rows, padding included.
    """

    start: int
    stop: int
    count: int

    def padded(self, matrix: sp.csr_array) -> jax.Array:
        """CSR `[n, I]` of the part -> the chunk's items `[B, L]`, padded with I."""
        return jnp.asarray(self.batch(matrix).items)

    def batch(self, matrix: sp.csr_array) -> batching.Batch:
        """The same with the values of the cells."""
        return batching.pad_rows(sp.csr_array(matrix[self.start : self.stop]), rows=self.count)

    def counts(self, matrix: sp.csr_array) -> jax.Array:
        """CSR `[n, I]` of the part -> the chunk's number of items per user `[B]`, 0 for padding."""
        counts = np.zeros(self.count, dtype=np.int32)
        counts[: self.stop - self.start] = np.diff(matrix.indptr[self.start : self.stop + 1])
        return jnp.asarray(counts)


def batches(model: Model, part: HeldOut, size: int) -> Iterator[tuple[Any, Rows]]:
    """The part, encoded, in the fewest chunks of at most `size` users, all of one shape: the last one is filled up."""
    count = -(-len(part) // -(-len(part) // size))
    for start in range(0, len(part), count):
        rows = Rows(start, min(start + count, len(part)), count)
        yield batching.fill_rows(model.encode(part.inputs.take(rows.start, rows.stop)), count), rows


def chunks(model: Model, part: HeldOut, size: int) -> Iterator[Chunk]:
    """`batches` with what is asked of them: seen and targets, masked where the last chunk is filled up."""
    for batch, rows in batches(model, part, size):
        counts = rows.counts(part.targets)
        yield Chunk(batch, rows.padded(part.seen), rows.padded(part.targets), counts, rows.stop - rows.start)


@dataclasses.dataclass(frozen=True)
class Asked:
    """One list for each user of a part, and the targets that are looked for in it.

    Attributes:
      seen: `[n, I]` binary CSR, what must not be in the list.
      targets: name -> `[n, I]` binary CSR; a user may have none.
      offered: `[I]` bool, what may be in the list; None: everything.
      share_of: `[n, I]` binary CSR, what was bought before, whose predicted share is asked for; None: it is not.
      revenue: `[n, I]` CSR, what was paid for targets, whose sum over the list is asked for; None: it is not.
    """

    seen: sp.csr_array
    targets: Mapping[str, sp.csr_array]
    offered: np.ndarray | None = None
    share_of: sp.csr_array | None = None
    revenue: sp.csr_array | None = None


@dataclasses.dataclass(frozen=True)
class Answer:
    """What was found in the lists of an `Asked`.

    Attributes:
      first: `[n, COVERAGE_AT]`, the items at the top; I where there is none.
      values: name of targets -> metric key -> `[n]`; of no meaning for a user without such targets.
      share: `[n]`, of repeats, as the model predicts it, or else of `share_of` in the first `COVERAGE_AT` products;
        None where it was not asked for.
      revenue: key of `metrics.REVENUE_KEYS` -> `[n]`; empty where it was not asked for.
    """

    first: np.ndarray
    values: dict[str, dict[str, np.ndarray]]
    share: np.ndarray | None
    revenue: dict[str, np.ndarray]

    def coverage(self, users: np.ndarray | slice, part: HeldOut) -> float:
        """The share of the products offered that stand in the lists of these users."""
        items = part.targets.shape[1]
        recommended = np.zeros(items + 1, dtype=bool)
        recommended[self.first[users]] = True
        return float(recommended[:items][slice(None) if part.offered is None else part.offered].mean())


def answer(model: Model, part: HeldOut, asked: Mapping[str, Asked], chunk: int | None) -> dict[str, Answer]:
    """Encode and score each user of the part once, and look for all that is asked.

    Raises:
      InputError: the model scored NaN.
    """
    items = part.targets.shape[1]

    def of_chunk(piece: tuple[Any, Rows]) -> dict[str, dict[str, Any]]:
        batch, rows = piece
        scores = model.scores(batch)
        found, nans = {}, []
        for name, one in asked.items():
            offered = None if one.offered is None else jnp.asarray(one.offered)
            top, any_nan = lists_of(scores, rows.padded(one.seen), offered)
            share = None
            if one.share_of is not None:
                if isinstance(model, PredictsRepeats) and model.predicts_repeats:
                    share = model.share_of_repeats(batch, scores)
                else:
                    share = _share_of_list(top, rows.padded(one.share_of), items)
            found[name] = {
                "first": top[:, :COVERAGE_AT],
                "values": {
                    kind: _user_metrics(top, rows.padded(targets), rows.counts(targets), items)
                    for kind, targets in one.targets.items()
                },
                "share": share,
                "revenue": {} if one.revenue is None else _user_revenue(top, rows.batch(one.revenue), items),
            }
            nans.append(any_nan)
        found, nans = jax.device_get((found, nans))
        if any(nans):
            raise InputError("the model scored NaN (not a number): its training went wrong; fit it again")
        return jax.tree.map(lambda column: column[: rows.stop - rows.start], found)

    pieces = batches(model, part, chunk or batching.scoring_chunk(items))
    found = list(devices.overlapped(of_chunk, pieces, compiled=False))
    whole = jax.tree.map(lambda *columns: np.concatenate(columns), *found)
    return {name: Answer(**columns) for name, columns in whole.items()}


def evaluate(model: Model, part: HeldOut, *, chunk: int | None = None) -> Evaluation:
    """Every metric of `metrics.KEYS` for every user of the part, and of `metrics.REVENUE_KEYS` where it has revenue.

    Args:
      model: a fitted model.
      part: users with inputs, targets and seen items.
      chunk: the most users scored at once; None: by memory. The result does not depend on it.

    Raises:
      InputError: the model scored NaN.
    """
    asked = Asked(part.seen, {"": part.targets}, part.offered, revenue=part.revenue)
    found = answer(model, part, {"": asked}, chunk)[""]
    values, coverage = {**found.values[""], **found.revenue}, found.coverage(slice(None), part)
    return Evaluation(part.users, values, coverage, len(unknown_customers(model, part.inputs)))


def validator(part: HeldOut, *, once: bool = False) -> Callable[[Model], float]:
    """The validation score as a function of a model: mean NDCG@100 over the part's users, NaN where a score is NaN.

    The part is encoded once, at the first call, and kept: all models that one validator scores must encode alike.
    With `once` nothing is kept, for a model that is scored once.
    """
    size = batching.scoring_chunk(part.targets.shape[1])
    kept: list[Chunk] = []
    offered = None if part.offered is None else jnp.asarray(part.offered)

    def validate(model: Model) -> float:
        def total(piece: Chunk) -> jax.Array:
            top, any_nan = lists_of(model.scores(piece.batch), piece.seen, offered)
            found = total_ndcg(top, piece.targets, piece.counts, part.targets.shape[1])
            return jnp.where(any_nan, jnp.nan, found)

        compiled = bool(kept)
        if not once and not kept:
            kept.extend(chunks(model, part, size))
        totals = devices.overlapped(total, kept or chunks(model, part, size), compiled=compiled)
        return float(jax.device_get(jnp.stack(list(totals)).sum())) / len(part)

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
