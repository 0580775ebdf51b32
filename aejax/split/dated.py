"""Protocols that cut at dates: at one for everyone, or at each customer's last orders."""

from __future__ import annotations

import numpy as np

from aejax.errors import InputError
from aejax.interactions import Interactions, net_returns
from aejax.moments import moment_of
from aejax.split.parts import Split, both_tasks, held_out, to_learn_from


def split_time(lines: Interactions, test_share: float, cut: str | None, repeat: str) -> Split:
    """The end of the period, and before it a stretch of the same length for validation.

    Raises:
      InputError: orders have no dates or one alone, or the cut is not between them.
    """
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
        return to_learn_from(net_returns(lines.take(at < moment)), everyone(moment))

    middle = net_returns(lines.take((at >= validation_from) & (at < test_from)))
    end = net_returns(lines.take(at >= test_from))
    train, refit = before(validation_from), before(test_from)
    tasks = both_tasks(refit, end, seen=None, as_of=everyone(test_from))
    return Split(
        "time",
        train,
        held_out(train, middle, seen=None, repeat=repeat, as_of=everyone(validation_from)),
        tasks[repeat],
        refit,
        f"test holds the purchases from {test_from} on, validation those from {validation_from}",
        tasks,
    )


def split_last_order(lines: Interactions, repeat: str) -> Split:
    """Each customer's last order, and the one before it for validation.

    Raises:
      InputError: orders have no ids or no dates, or too few customers have several.
    """
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
    tasks = both_tasks(refit, lines.take(is_test), seen=None, as_of=as_of_test)
    return Split(
        "last-order",
        to_learn_from(train, as_of_validation),
        held_out(train, lines.take(is_validation), seen=None, repeat=repeat, as_of=as_of_validation),
        tasks[repeat],
        to_learn_from(refit, as_of_test),
        "other customers' orders after a customer's last order are visible to the model",
        tasks,
    )


def _cuts(known: Interactions, cut_of_user: np.ndarray) -> np.ndarray:
    """`[U]` datetime64[s]: each user's cut (seconds, the largest int64 for none), or the latest moment in `known`."""
    latest = known.at.max() if known.at is not None and len(known) else np.datetime64(0, "s")
    never = cut_of_user == np.iinfo(np.int64).max
    return np.where(never, latest.astype(np.int64), cut_of_user).astype("datetime64[s]")
