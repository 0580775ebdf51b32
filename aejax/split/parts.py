"""The parts that every protocol returns, and how one is made of what lies before a cut and behind it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import scipy.sparse as sp

from aejax.interactions import Histories, Interactions, histories_of
from aejax.matrix import user_item_matrix


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """n users of whom something is held out.

    Attributes:
      users: `[n]` int, increasing indices into the vocabulary.
      inputs: what the model sees of them.
      targets: `[n, I]` binary CSR, what is held out.
      seen: `[n, I]` binary CSR, what must not be recommended.
      left_out: users left out of this part because they have no inputs or no targets.
      offered: `[I]` bool, the products that may be recommended, all targets among them; None: every product.
      revenue: `[n, I]` CSR, what the users paid for their targets, price times pieces, in the currency of the orders;
        a target without a price has no cell. None where none has one.
    """

    users: np.ndarray
    inputs: Histories
    targets: sp.csr_array
    seen: sp.csr_array
    left_out: int
    offered: np.ndarray | None = None
    revenue: sp.csr_array | None = None

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: np.ndarray) -> HeldOut:
        """Some of the users, by their increasing positions `[m]`."""
        as_of = self.inputs.as_of
        inputs = histories_of(self.inputs.lines, rows, None if as_of is None else as_of[rows])
        return dataclasses.replace(
            self,
            users=self.users[rows],
            inputs=inputs,
            targets=self.targets[rows],
            seen=self.seen[rows],
            revenue=None if self.revenue is None else self.revenue[rows],
        )


@dataclasses.dataclass(frozen=True)
class Split:
    """The parts of a protocol.

    Attributes:
      protocol: its name.
      train: what a model learns from while choices are made, with each customer's cut.
      validation: for every choice.
      test: read once.
      refit: train and validation as one part, for the last fit before test is read; None where there is no refit.
      note: what a reader of the figures must know; empty where there is nothing.
      tasks: the test part of each task, `test` among them; empty under a protocol that has one task. `include` (what
        is bought next) and `exclude` (what is bought for the first time): whoever is in `exclude` is in
        `include`, with the same inputs, and the targets of `exclude` are those of `include` that are not repeats.
        Under `cold-items` they are `cold` and `mixed`: the same users, inputs and targets, with the cold products alone
        offered, or all.
    """

    protocol: str
    train: Interactions
    validation: HeldOut
    test: HeldOut
    refit: Interactions | None
    note: str
    tasks: Mapping[str, HeldOut] = dataclasses.field(default_factory=dict)

    @property
    def task(self) -> str:
        """The name among `tasks` of the one that `test` is of."""
        return next(name for name, part in self.tasks.items() if part is self.test)


def held_out(
    inputs: Interactions,
    targets: Interactions,
    *,
    seen: Interactions | None,
    repeat: str = "exclude",
    as_of: np.ndarray | None = None,
    among: np.ndarray | None = None,
) -> HeldOut:
    """The held-out part of all users that have both inputs and targets.

    Args:
      inputs: purchases before the cut.
      targets: purchases after it.
      seen: what must not be recommended; None: the inputs under `exclude`, nothing under `include`.
      repeat: under `exclude`, what is seen is no target.
      as_of: `[U]` datetime64[s], each user's cut; None without dates.
      among: the users that could be in this part; None: all.

    Returns:
      The part; the rest of `among` is counted in `left_out`.
    """
    target_matrix = user_item_matrix(targets)
    seen_matrix = user_item_matrix(seen if seen is not None else inputs)
    if repeat == "include":
        seen_matrix = sp.csr_array(seen_matrix.shape, dtype=np.float32)
    target_matrix = sp.csr_array(target_matrix - target_matrix.multiply(seen_matrix))
    target_matrix.eliminate_zeros()
    target_matrix.sort_indices()
    has_inputs = np.bincount(inputs.user, minlength=len(inputs.users)) > 0
    has_targets = np.diff(target_matrix.indptr) > 0
    possible = np.ones(len(inputs.users), dtype=bool) if among is None else np.isin(np.arange(len(inputs.users)), among)
    users = np.flatnonzero(has_inputs & has_targets & possible)
    target_matrix = target_matrix[users]
    return HeldOut(
        users=users,
        inputs=histories_of(inputs, users, None if as_of is None else as_of[users]),
        targets=target_matrix,
        seen=seen_matrix[users],
        left_out=int(possible.sum()) - len(users),
        revenue=revenue_of(targets, users, target_matrix),
    )


def revenue_of(bought: Interactions, users: np.ndarray, targets: sp.csr_array) -> sp.csr_array | None:
    """What `users` (indices `[n]`) paid in these purchases for their `targets` `[n, I]`; see `HeldOut.revenue`."""
    if bought.price is None:
        return None
    priced = bought.take(~np.isnan(bought.price))
    assert priced.price is not None
    paid = priced.price.astype(np.float64) * priced.quantity
    matrix = sp.csr_array((paid, (priced.user, priced.item)), shape=(len(bought.users), len(bought.items)))
    revenue = sp.csr_array(matrix[users].multiply(targets))
    return revenue if revenue.nnz else None


def both_tasks(
    inputs: Interactions, targets: Interactions, *, seen: Interactions | None, as_of: np.ndarray | None
) -> dict[str, HeldOut]:
    """`held_out` for both tasks."""
    return {
        repeat: held_out(inputs, targets, seen=seen, repeat=repeat, as_of=as_of) for repeat in ("include", "exclude")
    }


def latest(lines: Interactions) -> np.ndarray | None:
    """`[U]` the latest moment in these lines, for every user alike; None without dates."""
    if lines.at is None:
        return None
    return np.full(len(lines.users), lines.at.max() if len(lines) else np.datetime64(0, "s"))


def to_learn_from(lines: Interactions, as_of: np.ndarray | None) -> Interactions:
    """Purchases to learn from, with each customer's cut `[U]`."""
    return dataclasses.replace(lines, as_of=as_of)
