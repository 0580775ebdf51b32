"""Two tasks of one fitted model: what is bought next, again or for the first time, and what for the first time alone;
or products that nobody had bought, alone and among all others.

Legend: n users of the part, m of them, I items.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp

from aejax.evaluation import Asked, Evaluation, answer, mean_with_interval, report_metrics
from aejax.matrix import history_matrix
from aejax.models import Model, unknown_customers
from aejax.split import HeldOut

GROUPS = 5  # of customers, by the share of repeats that is predicted for them
# Of the targets of one kind, repeat or new, which share a list with those of the other.
KIND_KEYS = ("recall@10", "recall_all@10", "ndcg@10", "ndcg@100", "hit@10")


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
class Calibration:
    """The share of repeats that a model predicts for customers, and what they bought.

    Attributes:
      predicted: `[n]`, the share of repeats that the model predicts (`PredictsRepeats`), or else that in the first 10
        products of its list.
      observed: `[n]`, the share of repeats in the customer's targets.
    """

    predicted: np.ndarray
    observed: np.ndarray

    def report(self) -> dict[str, Any]:
        """The means, and those of `GROUPS` groups of equal size of the customers, by what is predicted for them."""
        order = np.argsort(self.predicted, kind="stable")
        groups = [group for group in np.array_split(order, GROUPS) if len(group)]
        return {**self._means(order), "groups": [{"users": len(group), **self._means(group)} for group in groups]}

    def _means(self, users: np.ndarray) -> dict[str, float]:
        predicted, observed = (column[users].mean(dtype=np.float64) for column in (self.predicted, self.observed))
        return {"predicted": float(predicted), "observed": float(observed)}


@dataclasses.dataclass(frozen=True)
class TaskEvaluation:
    """What a model reached in one of the two tasks.

    Attributes:
      whole: with all targets.
      repeat_targets: with those that the user had bought before; there are none but under `include`.
      new_targets: with the others.
      calibration: of the share of repeats; None but under `include`.
    """

    whole: Evaluation
    repeat_targets: TargetKind
    new_targets: TargetKind
    calibration: Calibration | None = None


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
    revenue = None if narrow.revenue is None else _spread(narrow.revenue, rows, len(wide))
    repeats = sp.csr_array(wide.targets - new)
    repeats.eliminate_zeros()
    bought = history_matrix(wide.inputs)
    nothing = sp.csr_array(new.shape, dtype=np.float32)
    asked = {
        "include": Asked(
            wide.seen, {"all": wide.targets, "repeat": repeats, "new": new}, wide.offered, bought, wide.revenue
        ),
        "exclude": Asked(seen, {"all": new}, wide.offered, revenue=revenue),
    }
    answers = answer(model, wide, asked, chunk)

    predicted = answers["include"].share
    assert predicted is not None

    def whole(task: str, own: np.ndarray | slice) -> Evaluation:
        found, part = answers[task], tasks[task]
        values = {key: column[own] for key, column in {**found.values["all"], **found.revenue}.items()}
        coverage = found.coverage(own, part)
        return Evaluation(part.users, values, coverage, len(unknown_customers(model, part.inputs)))

    def kind(task: str, name: str, targets: sp.csr_array) -> TargetKind:
        every = asked[task].targets["all"].nnz
        own = np.flatnonzero(np.diff(targets.indptr))
        values = {key: answers[task].values[name][key][own] for key in KIND_KEYS}
        return TargetKind(targets.nnz, targets.nnz / max(every, 1), wide.users[own], values)

    return {
        "include": TaskEvaluation(
            whole("include", slice(None)),
            kind("include", "repeat", repeats),
            kind("include", "new", new),
            Calibration(predicted, np.diff(repeats.indptr) / np.diff(wide.targets.indptr)),
        ),
        "exclude": TaskEvaluation(whole("exclude", rows), kind("exclude", "all", nothing), kind("exclude", "all", new)),
    }


def _evaluate_cold(model: Model, tasks: Mapping[str, HeldOut], chunk: int | None) -> dict[str, TaskEvaluation]:
    """`evaluate_tasks` of tasks that differ in what is offered: no target is of a product bought before."""
    first = next(iter(tasks.values()))
    asked = {
        name: Asked(part.seen, {"all": part.targets}, part.offered, revenue=part.revenue)
        for name, part in tasks.items()
    }
    unknown = len(unknown_customers(model, first.inputs))
    results = {}
    for name, found in answer(model, first, asked, chunk).items():
        part, values = tasks[name], {**found.values["all"], **found.revenue}
        of_kind = {key: values[key] for key in KIND_KEYS}
        results[name] = TaskEvaluation(
            Evaluation(part.users, values, found.coverage(slice(None), part), unknown),
            TargetKind(0, 0.0, part.users[:0], {key: column[:0] for key, column in of_kind.items()}),
            TargetKind(part.targets.nnz, 1.0, part.users, of_kind),
        )
    return results


def _spread(matrix: sp.csr_array, rows: np.ndarray, count: int) -> sp.csr_array:
    """CSR `[m, I]` -> `[count, I]` with its rows at `rows`, which increase, and all others empty."""
    lengths = np.zeros(count, dtype=matrix.indptr.dtype)
    lengths[rows] = np.diff(matrix.indptr)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    return sp.csr_array((matrix.data, matrix.indices, indptr), shape=(count, matrix.shape[1]))


def report_tasks(tasks: Mapping[str, TaskEvaluation], left_out: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """The `tasks` of metrics.json.

    Args:
      tasks: as `evaluate_tasks` gives them.
      left_out: users left out of each.

    Returns:
      task -> `{"users", "users_left_out", "metrics", "repeat_targets", "new_targets"}`; the last two hold how many
      `targets` of the kind there are, their `share` of the task's, how many `users` have any, and the `metrics` of
      `KIND_KEYS` with these alone as targets, over these users, in the task's own lists. Without users there are no
      metrics. `include` has the `calibration` of the share of repeats: means `predicted` and `observed`, and the same
      of `groups` of customers by what is predicted for them.
    """
    return {
        name: {
            "users": len(task.whole.users),
            "users_left_out": left_out[name],
            "metrics": report_metrics(task.whole) if len(task.whole.users) else {},
            "repeat_targets": _report_kind(task.repeat_targets),
            "new_targets": _report_kind(task.new_targets),
            **({} if task.calibration is None else {"calibration": task.calibration.report()}),
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
