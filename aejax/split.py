"""Protocols: every one cuts the interactions and returns the one `Split`.

Returns are netted within a part, after the cut: what is sent back later changes nothing that was known before.
Ages end at the cut as well, in what a model learns from and in what it is given: each customer's own cut, and for a
customer who has none (nothing is held out) the latest purchase of the part.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import scipy.sparse as sp

from aejax.errors import InputError
from aejax.interactions import TEST, TRAIN, VALIDATION, Histories, Interactions, histories_of, net_returns
from aejax.matrix import user_item_matrix
from aejax.moments import moment_of

_NOTES = {
    "last-order": "other customers' orders after a customer's last order are visible to the model",
    "reconstruction": "scores are on the training matrix itself: they leak, and say nothing about new purchases",
}


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
    """

    users: np.ndarray
    inputs: Histories
    targets: sp.csr_array
    seen: sp.csr_array
    left_out: int
    offered: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: np.ndarray) -> HeldOut:
        """Some of the users, by their increasing positions `[m]`."""
        as_of = self.inputs.as_of
        inputs = histories_of(self.inputs.lines, rows, None if as_of is None else as_of[rows])
        return HeldOut(self.users[rows], inputs, self.targets[rows], self.seen[rows], self.left_out, self.offered)


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


def resolve_protocol(lines: Interactions, protocol: str | None) -> str:
    """The protocol given, or else the strongest that the data carry."""
    if protocol is not None:
        return protocol
    if lines.part is not None:
        return "predefined"
    return "time" if lines.at is not None else "users"


def split(
    lines: Interactions,
    *,
    protocol: str,
    seed: int = 0,
    test_share: float = 0.1,
    cut: str | None = None,
    repeat: str = "exclude",
) -> Split:
    """Cut the interactions by a protocol. A pure function of its arguments.

    Args:
      lines: order lines with their returns.
      protocol: `users`, `items`, `last-order`, `time`, `predefined`, `cold-items` or `reconstruction`.
      seed: for the protocols that draw at random.
      test_share: `time`: share of the period that is held out.
      cut: `time`: an ISO date in place of `test_share`.
      repeat: `exclude`: what the inputs hold is no target and must not be recommended; `include`: it may be both.

    Returns:
      The split. Its parts share vocabularies.

    Raises:
      InputError: the data cannot carry the protocol, or a part is empty.
    """
    if protocol == "users":
        result = _split_users(lines, seed)
    elif protocol == "items":
        result = _split_items(lines, seed)
    elif protocol == "last-order":
        result = _split_last_order(lines, repeat)
    elif protocol == "time":
        result = _split_time(lines, test_share, cut, repeat)
    elif protocol == "predefined":
        result = _split_predefined(lines, seed, repeat)
    elif protocol == "cold-items":
        result = _split_cold_items(lines, seed)
    elif protocol == "reconstruction":
        result = _split_reconstruction(lines)
    else:
        raise ValueError(f"unknown protocol {protocol}")
    for name, part in (("validation", result.validation), ("test", result.test)):
        if len(part) == 0:
            raise InputError(
                f"--split {protocol} leaves no customer with both inputs and targets in its {name} part "
                f"({part.left_out} were left out); more data, another --split, or a lower --min-customers is needed"
            )
    if len(result.train) == 0:
        raise InputError(f"--split {protocol} leaves nothing to train on; try a later --cut or another --split")
    return _offer_what_was_sold(result, lines)


def _offer_what_was_sold(result: Split, lines: Interactions) -> Split:
    """Products that nobody ever bought can be no target, so that no part offers them."""
    sold = np.bincount(lines.item, minlength=len(lines.items)) > 0
    if sold.all():
        return result

    def of(part: HeldOut) -> HeldOut:
        return dataclasses.replace(part, offered=sold if part.offered is None else part.offered & sold)

    tasks = {name: of(part) for name, part in result.tasks.items()}
    test = tasks[result.task] if tasks else of(result.test)
    return dataclasses.replace(result, validation=of(result.validation), test=test, tasks=tasks)


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
    return HeldOut(
        users=users,
        inputs=histories_of(inputs, users, None if as_of is None else as_of[users]),
        targets=target_matrix[users],
        seen=seen_matrix[users],
        left_out=int(possible.sum()) - len(users),
    )


def _tasks(
    inputs: Interactions, targets: Interactions, *, seen: Interactions | None, as_of: np.ndarray | None
) -> dict[str, HeldOut]:
    """`held_out` for both tasks."""
    return {
        repeat: held_out(inputs, targets, seen=seen, repeat=repeat, as_of=as_of) for repeat in ("include", "exclude")
    }


def _latest(lines: Interactions) -> np.ndarray | None:
    """`[U]` the latest moment in these lines, for every user alike; None without dates."""
    if lines.at is None:
        return None
    return np.full(len(lines.users), lines.at.max() if len(lines) else np.datetime64(0, "s"))


def _known(lines: Interactions, as_of: np.ndarray | None) -> Interactions:
    """Purchases to learn from, with each customer's cut `[U]`."""
    return dataclasses.replace(lines, as_of=as_of)


def _pairs(lines: Interactions) -> tuple[np.ndarray, np.ndarray]:
    """Distinct user-item pairs, sorted, as `user * I + item`, and each line's position among them."""
    return np.unique(lines.pair, return_inverse=True)


def _shuffled_rank(groups: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Sorted group numbers `[m]` -> each element's rank in a random order of its group, and its group's size."""
    order = np.lexsort((rng.random(len(groups)), groups))
    sizes = np.bincount(groups) if len(groups) else np.zeros(0, dtype=int)
    starts = np.concatenate([[0], np.cumsum(sizes)])[groups]
    rank = np.empty(len(groups), dtype=np.int64)
    rank[order] = np.arange(len(groups)) - starts
    return rank, sizes[groups]


def _split_users(lines: Interactions, seed: int) -> Split:
    # Liang et al. (2018), section 4.1: strong generalisation, 80% of a held-out user's items are the inputs.
    bought = net_returns(lines)
    rng = np.random.default_rng(seed)
    users = rng.permutation(np.unique(bought.user))
    size = min(10_000, max(1, len(users) // 10))
    if len(users) < 3:
        raise InputError(f"--split users needs at least 3 customers with purchases, and there are {len(users)}")
    groups = {VALIDATION: np.sort(users[:size]), TEST: np.sort(users[size : 2 * size])}
    pairs, pair_of_line = _pairs(bought)
    rank, count = _shuffled_rank(pairs // len(bought.items), rng)
    is_target = (rank < np.maximum(1, count // 5))[pair_of_line]
    as_of = _latest(bought)
    parts = {}
    for name, group in groups.items():
        own = np.isin(bought.user, group)
        parts[name] = held_out(
            bought.take(own & ~is_target), bought.take(own & is_target), seen=None, as_of=as_of, among=group
        )
    rest = ~np.isin(bought.user, np.concatenate(list(groups.values())))
    return Split("users", _known(bought.take(rest), as_of), parts[VALIDATION], parts[TEST], None, "")


def _split_items(lines: Interactions, seed: int) -> Split:
    bought = net_returns(lines)
    pairs, pair_of_line = _pairs(bought)
    rank, count = _shuffled_rank(pairs // len(bought.items), np.random.default_rng(seed))
    # A tenth each, at least one each where two or three items allow it: the rule of RecBole's ratio split.
    tests = np.where(count > 1, np.maximum(1, count // 10), 0)
    validations = np.where(count > 2, np.maximum(1, count // 10), 0)
    part_of_pair = np.where(rank < tests, TEST, np.where(rank < tests + validations, VALIDATION, TRAIN))
    part = part_of_pair[pair_of_line]
    return _from_parts("items", bought, part, "exclude")


def _from_parts(protocol: str, lines: Interactions, part: np.ndarray, repeat: str) -> Split:
    """A split of lines by their part: test sees train, and masks train and validation."""
    train, validation, test = (net_returns(lines.take(part == name)) for name in (TRAIN, VALIDATION, TEST))
    as_of = _latest(train)
    tasks = _tasks(train, test, seen=net_returns(lines.take(part != TEST)), as_of=as_of)
    return Split(
        protocol,
        _known(train, as_of),
        held_out(train, validation, seen=None, repeat=repeat, as_of=as_of),
        tasks[repeat],
        None,
        "",
        tasks if protocol == "predefined" else {},
    )


def _split_predefined(lines: Interactions, seed: int, repeat: str) -> Split:
    if lines.part is None:
        raise InputError(
            "--split predefined needs a split in the data's own files (train.txt and test.txt, or NAME.train.inter "
            "and so on), and this folder has none; try --split time, users or items"
        )
    if np.any(lines.part == VALIDATION):
        return _from_parts("predefined", lines, lines.part, repeat)
    known = net_returns(lines.take(lines.part == TRAIN))
    test = net_returns(lines.take(lines.part == TEST))
    pairs, pair_of_line = _pairs(known)
    rank, count = _shuffled_rank(pairs // len(known.items), np.random.default_rng(seed))
    carved = (rank < np.where(count > 1, np.maximum(1, count // 10), 0))[pair_of_line]
    train = known.take(~carved)
    as_of = _latest(known)
    tasks = _tasks(known, test, seen=None, as_of=as_of)
    return Split(
        "predefined",
        _known(train, as_of),
        held_out(train, known.take(carved), seen=None, repeat=repeat, as_of=as_of),
        tasks[repeat],
        _known(known, as_of),
        "",
        tasks,
    )


def _split_time(lines: Interactions, test_share: float, cut: str | None, repeat: str) -> Split:
    if lines.at is None:
        raise InputError("--split time needs order dates (created_at), and these data have none; try --split users")
    first, last = lines.at.min(), lines.at.max()
    if first == last:
        raise InputError(
            f"--split time needs orders of different dates, and all of these are of {first}; try --split users"
        )
    if cut is not None:
        test_from = np.datetime64(moment_of(cut), "s")
        if not first < test_from <= last:
            raise InputError(f"--cut {cut} is not inside the period of the orders, {first} to {last}")
        stretch = last - test_from
    else:
        stretch = np.timedelta64(round((last - first).astype(int) * test_share), "s")
        test_from = last - stretch
    validation_from = test_from - max(stretch, np.timedelta64(1, "s"))

    at = lines.at

    def everyone(moment: np.datetime64) -> np.ndarray:
        return np.full(len(lines.users), moment)

    def before(moment: np.datetime64) -> Interactions:
        return _known(net_returns(lines.take(at < moment)), everyone(moment))

    middle = net_returns(lines.take((lines.at >= validation_from) & (lines.at < test_from)))
    end = net_returns(lines.take(lines.at >= test_from))
    train, refit = before(validation_from), before(test_from)
    tasks = _tasks(refit, end, seen=None, as_of=everyone(test_from))
    return Split(
        "time",
        train,
        held_out(train, middle, seen=None, repeat=repeat, as_of=everyone(validation_from)),
        tasks[repeat],
        refit,
        f"test holds the purchases from {test_from} on, validation those from {validation_from}",
        tasks,
    )


def _split_last_order(lines: Interactions, repeat: str) -> Split:
    if lines.order is None:
        instead = "users" if lines.at is None else "time"
        raise InputError(
            f"--split last-order needs order ids (order_id), and these data have none; try --split {instead}"
        )
    if lines.at is None:
        raise InputError(
            "--split last-order needs order dates (created_at), and these data have none; try --split users"
        )
    if lines.at.min() == lines.at.max():
        raise InputError(
            f"--split last-order needs orders of different dates, and all of these are of {lines.at.max()}, so that "
            "none is the last; try --split users"
        )
    # An order is one with purchases; a pure return is a note on earlier orders.
    bought = lines.quantity > 0
    moment = np.full(int(lines.order.max(initial=-1)) + 1, np.iinfo(np.int64).min)
    owner = np.full(len(moment), -1)
    moment[lines.order[bought]] = lines.at[bought].astype(np.int64)
    owner[lines.order[bought]] = lines.user[bought]
    orders = np.flatnonzero(owner >= 0)
    orders = orders[np.lexsort((orders, moment[orders], owner[orders]))]
    sizes = np.bincount(owner[orders], minlength=len(lines.users))
    from_last = np.cumsum(sizes)[owner[orders]] - np.arange(len(orders)) - 1  # 0 for a user's last order
    place = np.full(len(moment), -1)
    place[orders] = from_last
    has_test, has_validation = sizes >= 2, sizes >= 3
    if not has_validation.any():
        raise InputError(
            f"--split last-order needs customers with two orders, the last for test, and some with three, the one "
            f"before for validation; of {np.count_nonzero(sizes):,} customers {np.count_nonzero(has_test):,} have two "
            "or more and none has three; try --split users or time"
        )

    place_of_line = place[lines.order]
    is_test = bought & (place_of_line == 0) & has_test[lines.user]
    is_validation = bought & (place_of_line == 1) & has_validation[lines.user]
    never = np.iinfo(np.int64).max
    test_from, validation_from = (np.full(len(lines.users), never) for _ in range(2))
    np.minimum.at(test_from, lines.user[is_test], lines.at[is_test].astype(np.int64))
    np.minimum.at(validation_from, lines.user[is_validation], lines.at[is_validation].astype(np.int64))
    validation_from = np.minimum(validation_from, test_from)
    at = lines.at.astype(np.int64)
    # Purchases are known by the place of their order (two orders may share a second), returns by their date.
    known_at_test = np.where(bought, ~is_test, at < test_from[lines.user])
    known_at_validation = np.where(bought, ~is_test & ~is_validation, at < validation_from[lines.user])
    train, refit = net_returns(lines.take(known_at_validation)), net_returns(lines.take(known_at_test))
    as_of_validation, as_of_test = _cuts(train, validation_from), _cuts(refit, test_from)
    tasks = _tasks(refit, lines.take(is_test), seen=None, as_of=as_of_test)
    return Split(
        "last-order",
        _known(train, as_of_validation),
        held_out(train, lines.take(is_validation), seen=None, repeat=repeat, as_of=as_of_validation),
        tasks[repeat],
        _known(refit, as_of_test),
        _NOTES["last-order"],
        tasks,
    )


def _cuts(known: Interactions, cut_of_user: np.ndarray) -> np.ndarray:
    """`[U]` datetime64[s]: each user's cut (seconds, the largest int64 for none), or the latest moment in `known`."""
    latest = known.at.max() if known.at is not None and len(known) else np.datetime64(0, "s")
    never = cut_of_user == np.iinfo(np.int64).max
    return np.where(never, latest.astype(np.int64), cut_of_user).astype("datetime64[s]")


def _split_cold_items(lines: Interactions, seed: int) -> Split:
    # A tenth of the products each, out of all that is learnt from; they stay in the vocabulary, with their attributes.
    if lines.item_features is None:
        raise InputError(
            "--split cold-items needs attributes of products (columns of products.csv beside the SKU that several "
            "products share; see aejax check), and these data have none; try --split items"
        )
    bought = net_returns(lines)
    sold = np.random.default_rng(seed).permutation(np.unique(bought.item))
    size = len(sold) // 10
    if size == 0:
        raise InputError(
            f"--split cold-items takes a tenth of the products out of train, and {len(sold)} are too few for that; 10 "
            "are needed, so try a lower --min-customers or --split items"
        )
    part_of_item = np.full(len(lines.items), TRAIN)
    part_of_item[sold[:size]], part_of_item[sold[size : 2 * size]] = TEST, VALIDATION
    part = part_of_item[bought.item]
    as_of = _latest(bought)
    train, refit = bought.take(part == TRAIN), bought.take(part != TEST)
    validation = held_out(train, bought.take(part == VALIDATION), seen=None, as_of=as_of)
    mixed = held_out(refit, bought.take(part == TEST), seen=None, as_of=as_of)
    cold = dataclasses.replace(mixed, offered=part_of_item == TEST)
    return Split(
        "cold-items",
        _known(train, as_of),
        dataclasses.replace(validation, offered=part_of_item == VALIDATION),
        cold,
        _known(refit, as_of),
        f"test holds all purchases of {size:,} products that were taken out of train, validation those of another "
        f"{size:,}",
        {"cold": cold, "mixed": mixed},
    )


def _split_reconstruction(lines: Interactions) -> Split:
    bought = net_returns(lines)
    users = np.unique(bought.user)
    matrix = user_item_matrix(bought)[users]
    as_of = _latest(bought)
    nothing = sp.csr_array(matrix.shape, dtype=np.float32)
    inputs = histories_of(bought, users, None if as_of is None else as_of[users])
    everything = HeldOut(users, inputs, matrix, nothing, len(bought.users) - len(users))
    return Split("reconstruction", _known(bought, as_of), everything, everything, None, _NOTES["reconstruction"])
