"""Dates that cannot be, or stand out of order, and months with far more or fewer orders."""

from __future__ import annotations

import numpy as np

from aejax.findings.finding import Draft, Finding, of_lines, share, without_place
from aejax.findings.quantities import DEVIATIONS, MAD_TO_SD
from aejax.interactions import Interactions, Origin
from aejax.quality import counted

IN_ORDER = 0.99  # of neighbouring orders: the file is sorted by date
VOLUME = 3  # times the median month, or a third of it
FEWEST_MONTHS = 4
EARLIEST = np.datetime64("1990-01-01", "s")


def out_of_order(lines: Interactions, origin: Origin) -> Draft | None:
    """Orders a day or more before the one above them, where 99% of neighbouring orders stand in the order of time (or
    of time reversed, newest first).
    """
    if lines.at is None or lines.order is None:
        return None
    begins = np.flatnonzero(np.append(True, lines.order[1:] != lines.order[:-1]))
    step = np.diff(lines.at[begins].view(np.int64)) if len(begins) > 1 else np.empty(0, dtype=np.int64)
    if len(step) == 0:
        return None
    if (step < 0).sum() > (step > 0).sum():
        step = -step
    falls = begins[1:][step <= -86_400]
    if len(falls) == 0 or (step >= 0).mean() < IN_ORDER:
        return None
    sentence = (
        f"{counted(len(falls), 'order')} ({share(len(falls), len(begins))}) dated a day or more out of the order in "
        "which the file stands otherwise"
    )
    remedy = "see whether these dates are right; protocols by time believe them"
    return of_lines(Finding("order-of-dates", sentence, len(falls), remedy=remedy), lines, falls, origin)


def impossible_dates(lines: Interactions, today: np.datetime64, origin: Origin) -> Draft | None:
    """Lines dated after tomorrow or before 1990."""
    if lines.at is None:
        return None
    wrong = np.flatnonzero((lines.at > today + np.timedelta64(1, "D")) | (lines.at < EARLIEST))
    if len(wrong) == 0:
        return None
    sentence = (
        f"{counted(len(wrong), 'order line')} ({share(len(wrong), len(lines))}) dated in the future or before 1990, "
        f"such as {lines.at[wrong[0]].astype('M8[D]')}"
    )
    remedy = "correct the dates in the export; a wrong last date moves the cut of --split time"
    return of_lines(Finding("dates", sentence, len(wrong), remedy=remedy), lines, wrong, origin)


def orders_by_month(lines: Interactions) -> tuple[np.ndarray, np.ndarray]:
    """Months `[m]` of the period, datetime64[M], none left out, and the orders (else lines) of each `[m]`.

    Args:
      lines: at least one; with dates.
    """
    assert lines.at is not None
    first = np.arange(len(lines))
    if lines.order is not None:
        count = int(lines.order.max()) + 1
        line_of_order = np.full(count, -1)
        line_of_order[lines.order] = first
        first = line_of_order[line_of_order >= 0]
    month = lines.at[first].astype("M8[M]").astype(np.int64)
    start = int(month.min())
    # A date of the year 9999 is told of elsewhere; the months up to it are not drawn.
    counts = np.bincount(np.minimum(month - start, 12 * 100))
    return (start + np.arange(len(counts))).astype("M8[M]"), counts


def volume(lines: Interactions) -> Draft | None:
    """Whole months with 3 times the orders of the median month or a third of them, and 5 robust deviations of the
    logarithms away; months without any. The first and the last month may be cut off, and do not count.
    """
    if lines.at is None:
        return None
    months, orders = orders_by_month(lines)
    months, orders = months[1:-1], orders[1:-1]
    some = orders[orders > 0]
    if len(some) < FEWEST_MONTHS:
        return None
    middle = np.median(some)
    away = np.abs(np.log(np.maximum(orders, 0.5)) - np.log(middle))
    spread = MAD_TO_SD * np.median(np.abs(np.log(some) - np.log(middle)))
    found = np.flatnonzero((orders == 0) | ((away > np.log(VOLUME)) & (away > DEVIATIONS * spread)))
    if len(found) == 0:
        return None
    sentence = (
        f"{counted(len(found), 'month')} of {len(orders)} whole ones have far more or fewer orders than the median of "
        f"{middle:,.0f}"
    )
    labels = (f"{months[one]}: {counted(int(orders[one]), 'order')}" for one in found)
    remedy = "see whether the export is complete; where the shop has changed, leave out what was before"
    return without_place(Finding("volume", sentence, len(found), remedy=remedy), labels)
