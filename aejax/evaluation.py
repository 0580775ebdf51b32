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

from aejax import batching, metrics, ranking
from aejax.errors import InputError
from aejax.models import Model, unknown_customers
from aejax.split import HeldOut

VALIDATION_METRIC = "ndcg@100"
COVERAGE_AT = 10
RESAMPLES = 1000
# Of the targets of one kind, repeat or new, which share a list with those of the other.
KIND_KEYS = ("recall@10", "recall_all@10", "ndcg@10", "ndcg@100", "hit@10")


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
    scores: jax.Array, seen: jax.Array, targets: jax.Array, offered: jax.Array | None, depth: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Scores `[B, I]`, padded seen and target items `[B, L]` -> the top items of those offered `[I]`, which of them
    hit, and any NaN.
    """
    _, top = ranking.top_k_items(ranking.mask_items(ranking.offer_items(scores, offered), seen), depth)
    return top, ranking.membership(top, targets, scores.shape[1]), jnp.isnan(scores).any()


@partial(jax.jit, static_argnames="depth")
def _lists(scores: jax.Array, seen: jax.Array, offered: jax.Array | None, depth: int) -> tuple[jax.Array, jax.Array]:
    """Scores `[B, I]`, padded seen items `[B, L]` -> the top items of those offered, `[B, depth]`, and any NaN."""
    best = ranking.mask_items(ranking.offer_items(scores, offered), seen)
    return ranking.top_k_items(best, depth)[1], jnp.isnan(scores).any()


@partial(jax.jit, static_argnames="items")
def _user_metrics(top: jax.Array, targets: jax.Array, counts: jax.Array, items: int) -> dict[str, jax.Array]:
    """Top items `[B, DEPTH]`, padded targets `[B, L]` and their counts `[B]` -> every metric, each `[B]`."""
    return dict(metrics.per_user_metrics(ranking.membership(top, targets, items), jnp.maximum(counts, 1)))


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
        return jnp.asarray(batching.pad_rows(sp.csr_array(matrix[self.start : self.stop]), rows=self.count).items)

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
class _Asked:
    """One list for each user of a part, and the targets that are looked for in it.

    Attributes:
      seen: `[n, I]` binary CSR, what must not be in the list.
      targets: name -> `[n, I]` binary CSR; a user may have none.
      offered: `[I]` bool, what may be in the list; None: everything.
    """

    seen: sp.csr_array
    targets: Mapping[str, sp.csr_array]
    offered: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class _Answer:
    """What was found in the lists of an `_Asked`.

    Attributes:
      first: `[n, COVERAGE_AT]`, the items at the top; I where there is none.
      values: name of targets -> metric key -> `[n]`; of no meaning for a user without such targets.
    """

    first: np.ndarray
    values: dict[str, dict[str, np.ndarray]]

    def coverage(self, users: np.ndarray | slice, part: HeldOut) -> float:
        """The share of the products offered that stand in the lists of these users."""
        items = part.targets.shape[1]
        recommended = np.zeros(items + 1, dtype=bool)
        recommended[self.first[users]] = True
        return float(recommended[:items][slice(None) if part.offered is None else part.offered].mean())


def _answer(model: Model, part: HeldOut, asked: Mapping[str, _Asked], chunk: int | None) -> dict[str, _Answer]:
    """Encode and score each user of the part once, and look for all that is asked.

    Raises:
      InputError: the model scored NaN.
    """
    items = part.targets.shape[1]
    first: dict[str, list[np.ndarray]] = {name: [] for name in asked}
    values: dict[str, list[dict[str, dict[str, np.ndarray]]]] = {name: [] for name in asked}
    for batch, rows in batches(model, part, chunk or batching.scoring_chunk(items)):
        scores = model.scores(batch)
        users = rows.stop - rows.start
        for name, one in asked.items():
            top, any_nan = _lists(scores, rows.padded(one.seen), one.offered, metrics.DEPTH)
            found = {
                kind: _user_metrics(top, rows.padded(targets), rows.counts(targets), items)
                for kind, targets in one.targets.items()
            }
            top, any_nan, found = jax.device_get((top, any_nan, found))
            if any_nan:
                raise InputError("the model scored NaN (not a number): its training went wrong; fit it again")
            first[name].append(top[:users, :COVERAGE_AT])
            values[name].append(
                {kind: {key: value[:users] for key, value in of_kind.items()} for kind, of_kind in found.items()}
            )
    return {
        name: _Answer(
            np.concatenate(first[name]),
            {
                kind: {key: np.concatenate([piece[kind][key] for piece in values[name]]) for key in metrics.KEYS}
                for kind in one.targets
            },
        )
        for name, one in asked.items()
    }


def evaluate(model: Model, part: HeldOut, *, chunk: int | None = None) -> Evaluation:
    """Every metric of `metrics.KEYS` for every user of the part.

    Args:
      model: a fitted model.
      part: users with inputs, targets and seen items.
      chunk: the most users scored at once; None: by memory. The result does not depend on it.

    Raises:
      InputError: the model scored NaN.
    """
    answer = _answer(model, part, {"": _Asked(part.seen, {"": part.targets}, part.offered)}, chunk)[""]
    coverage = answer.coverage(slice(None), part)
    return Evaluation(part.users, answer.values[""], coverage, len(unknown_customers(model, part.inputs)))


@dataclasses.dataclass(frozen=True)
class TargetKind:
    """What was found of the targets of one kind in lists that are made for all of them.

    Attributes:
      targets: how many there are.
      share: of all targets of the task.
      users: `[m]`, who has such targets.
      values: key of `KIND_KEYS` -> `[m]`.
    """

    targets: int
    share: float
    users: np.ndarray
    values: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class TaskEvaluation:
    """What a model reached in one of the two tasks.

    Attributes:
      whole: with all targets.
      repeat_targets: with those that the user had bought before; there are none but under `include`.
      new_targets: with the others.
    """

    whole: Evaluation
    repeat_targets: TargetKind
    new_targets: TargetKind


def evaluate_tasks(
    model: Model, tasks: Mapping[str, HeldOut], *, chunk: int | None = None
) -> dict[str, TaskEvaluation]:
    """Both tasks of a split (`Split.tasks`), each user encoded and scored once.

    Args:
      model: a fitted model.
      tasks: `include` and `exclude`, or `cold` and `mixed`.
      chunk: the most users scored at once; None: by memory.

    Raises:
      InputError: the model scored NaN.
    """
    if "cold" in tasks:
        return _evaluate_cold(model, tasks, chunk)
    wide, narrow = tasks["include"], tasks["exclude"]
    rows = np.searchsorted(wide.users, narrow.users)  # whoever buys a new product buys one
    new, seen = (_spread(matrix, rows, len(wide)) for matrix in (narrow.targets, narrow.seen))
    repeats = sp.csr_array(wide.targets - new)
    repeats.eliminate_zeros()
    nothing = sp.csr_array(new.shape, dtype=np.float32)
    asked = {
        "include": _Asked(wide.seen, {"all": wide.targets, "repeat": repeats, "new": new}, wide.offered),
        "exclude": _Asked(seen, {"all": new}, wide.offered),
    }
    answers = _answer(model, wide, asked, chunk)

    def whole(task: str, own: np.ndarray | slice) -> Evaluation:
        answer, part = answers[task], tasks[task]
        values = {key: column[own] for key, column in answer.values["all"].items()}
        coverage = answer.coverage(own, part)
        return Evaluation(part.users, values, coverage, len(unknown_customers(model, part.inputs)))

    def kind(task: str, name: str, targets: sp.csr_array) -> TargetKind:
        every = asked[task].targets["all"].nnz
        own = np.flatnonzero(np.diff(targets.indptr))
        values = {key: answers[task].values[name][key][own] for key in KIND_KEYS}
        return TargetKind(targets.nnz, targets.nnz / max(every, 1), wide.users[own], values)

    return {
        "include": TaskEvaluation(
            whole("include", slice(None)), kind("include", "repeat", repeats), kind("include", "new", new)
        ),
        "exclude": TaskEvaluation(whole("exclude", rows), kind("exclude", "all", nothing), kind("exclude", "all", new)),
    }


def _evaluate_cold(model: Model, tasks: Mapping[str, HeldOut], chunk: int | None) -> dict[str, TaskEvaluation]:
    """`evaluate_tasks` of tasks that differ in what is offered: no target is of a product bought before."""
    first = next(iter(tasks.values()))
    asked = {name: _Asked(part.seen, {"all": part.targets}, part.offered) for name, part in tasks.items()}
    unknown = len(unknown_customers(model, first.inputs))
    results = {}
    for name, answer in _answer(model, first, asked, chunk).items():
        part, values = tasks[name], answer.values["all"]
        found = {key: values[key] for key in KIND_KEYS}
        results[name] = TaskEvaluation(
            Evaluation(part.users, values, answer.coverage(slice(None), part), unknown),
            TargetKind(0, 0.0, part.users[:0], {key: column[:0] for key, column in found.items()}),
            TargetKind(part.targets.nnz, 1.0, part.users, found),
        )
    return results


def _spread(matrix: sp.csr_array, rows: np.ndarray, count: int) -> sp.csr_array:
    """CSR `[m, I]` -> `[count, I]` with its rows at `rows`, which increase, and all others empty."""
    lengths = np.zeros(count, dtype=matrix.indptr.dtype)
    lengths[rows] = np.diff(matrix.indptr)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    return sp.csr_array((matrix.data, matrix.indices, indptr), shape=(count, matrix.shape[1]))


def validator(part: HeldOut, *, once: bool = False) -> Callable[[Model], float]:
    """The validation score as a function of a model: mean NDCG@100 over the part's users, NaN where a score is NaN.

    The part is encoded once, at the first call, and kept: all models that one validator scores must encode alike.
    With `once` nothing is kept, for a model that is scored once.
    """
    size = batching.scoring_chunk(part.targets.shape[1])
    kept: list[Chunk] = []
    offered = None if part.offered is None else jnp.asarray(part.offered)

    def validate(model: Model) -> float:
        if not once and not kept:
            kept.extend(chunks(model, part, size))
        totals = []
        for piece in chunks(model, part, size) if once else kept:
            _, hits, any_nan = hits_of(model.scores(piece.batch), piece.seen, piece.targets, offered, metrics.DEPTH)
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


def report_tasks(tasks: Mapping[str, TaskEvaluation], left_out: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """The `tasks` of metrics.json.

    Args:
      tasks: as `evaluate_tasks` gives them.
      left_out: users left out of each.

    Returns:
      task -> `{"users", "users_left_out", "metrics", "repeat_targets", "new_targets"}`; the last two hold how many
      `targets` of the kind there are, their `share` of the task's, how many `users` have any, and the `metrics` of
      `KIND_KEYS` with these alone as targets, over these users, in the task's own lists. Without users there are no
      metrics.
    """
    return {
        name: {
            "users": len(task.whole.users),
            "users_left_out": left_out[name],
            "metrics": report_metrics(task.whole) if len(task.whole.users) else {},
            "repeat_targets": _report_kind(task.repeat_targets),
            "new_targets": _report_kind(task.new_targets),
        }
        for name, task in tasks.items()
    }


def _report_kind(kind: TargetKind) -> dict[str, Any]:
    return {
        "targets": kind.targets,
        "share": kind.share,
        "users": len(kind.users),
        "metrics": mean_with_interval(kind.values) if len(kind.users) else {},
    }
