"""Lines, customers and products whose pieces or prices are far from the usual."""

from __future__ import annotations

import numpy as np

from aejax.findings.finding import Draft, Finding, of_lines, share, without_place
from aejax.interactions import Interactions, Origin
from aejax.quality import counted, shown

DEVIATIONS = 5  # robust standard deviations that are far
MAD_TO_SD = 1.4826  # of normal deviates
FAR_QUANTITY = 100  # times the product's median
FEW_LINES = 10  # of a product: too few for a spread of its own
BULK = 5  # times the product's median, in at least half of a reseller's lines
RESELLER_LINES = 20


def usual_quantity(lines: Interactions) -> np.ndarray:
    """`[I]` the (lower) median of the pieces of a product's lines, bought or returned."""
    count = np.bincount(lines.item, minlength=len(lines.items))
    # Grouped by product and sorted within it by one sort of whole numbers.
    key = np.sort((lines.item.astype(np.int64) << 32) | np.abs(lines.quantity.astype(np.int64)))
    middle = np.cumsum(count) - count + np.maximum(count - 1, 0) // 2
    return np.where(count > 0, key[np.minimum(middle, len(key) - 1)] & 0xFFFFFFFF, 1)


def far_quantities(lines: Interactions, usual: np.ndarray, origin: Origin) -> Draft | None:
    """Lines of 100 times the product's median and 5 robust deviations of the logarithms beyond it; where a product has
    fewer than 10 lines, of 10 times what 1 line in 10,000 of the shop exceeds.
    """
    pieces = np.abs(lines.quantity.astype(np.int64))
    count = np.bincount(lines.item, minlength=len(lines.items))
    is_few = count[lines.item] < FEW_LINES
    rare = np.quantile(pieces, 0.9999, method="higher")
    far = is_few & (pieces > 10 * rare)
    suspect = np.flatnonzero(~is_few & (pieces >= FAR_QUANTITY * usual[lines.item]))
    if len(suspect):
        products = np.unique(lines.item[suspect])
        theirs = np.flatnonzero(np.isin(lines.item, products))
        deviation = np.abs(np.log(pieces[theirs]) - np.log(usual[lines.item[theirs]]))
        by_product = np.lexsort((deviation, lines.item[theirs]))
        starts = np.searchsorted(lines.item[theirs][by_product], products)
        spread = np.ones(len(lines.items))
        spread[products] = MAD_TO_SD * deviation[by_product[starts + (count[products] - 1) // 2]]
        far[theirs] |= (deviation >= np.log(FAR_QUANTITY)) & (deviation > DEVIATIONS * spread[lines.item[theirs]])
    found = np.flatnonzero(far)
    if len(found) == 0:
        return None
    found = found[np.argsort(-pieces[found], kind="stable")]
    sentence = (
        f"{counted(len(found), 'order line')} ({share(len(found), len(lines))}) of a quantity far beyond the usual "
        f"of its product, the largest of {int(pieces[found[0]]):,} pieces"
    )
    remedy = "correct them in the export, or fit with --values binary, which counts no pieces"
    return of_lines(Finding("quantities", sentence, len(found), remedy=remedy), lines, found, origin)


def resellers(bought: Interactions, usual: np.ndarray) -> Draft | None:
    """Customers with 20 or more lines, at least half of them of 5 times the product's median quantity or more."""
    bulk = bought.quantity >= BULK * usual[bought.item]
    number_of_lines = np.bincount(bought.user, minlength=len(bought.users))
    in_bulk = np.bincount(bought.user[bulk], minlength=len(bought.users))
    pieces = np.bincount(bought.user, weights=bought.quantity, minlength=len(bought.users))
    found = np.flatnonzero((number_of_lines >= RESELLER_LINES) & (2 * in_bulk >= number_of_lines))
    if len(found) == 0:
        return None
    found = found[np.argsort(-pieces[found], kind="stable")]
    buyers = int((number_of_lines > 0).sum())
    sentence = (
        f"{counted(len(found), 'customer')} ({share(len(found), buyers)}) look like resellers: at least half of their "
        f"lines are of {BULK} times the usual quantity or more; {share(int(pieces[found].sum()), int(pieces.sum()))} "
        "of all pieces"
    )
    labels = (
        f"customer {shown(str(bought.users.ids[one]))}: {int(pieces[one]):,} pieces in "
        f"{counted(int(number_of_lines[one]), 'line')}"
        for one in found
    )
    remedy = "fit without them, or with --values binary, if the lists are for people who buy for themselves"
    return without_place(Finding("resellers", sentence, len(found), remedy=remedy), labels)


def free(lines: Interactions, origin: Origin) -> Draft | None:
    """Lines whose price is zero or less."""
    if lines.price is None:
        return None
    free = np.flatnonzero(lines.price <= 0)
    if len(free) == 0:
        return None
    sentence = f"{counted(len(free), 'order line')} ({share(len(free), len(lines))}) at a price of zero or less"
    remedy = "leave them out of the export if they are gifts, samples or corrections rather than purchases"
    return of_lines(Finding("free", sentence, len(free), remedy=remedy), lines, free, origin)
