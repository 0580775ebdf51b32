"""What is odd in a shop's order lines, each in one sentence with a count, samples and a remedy.

Every rule is one that data of any shop can be held to without tuning, and is stated where it is applied. What is far
is measured in robust statistics, medians and median absolute deviations (MAD) of logarithms, which a few odd lines do
not move (Rousseeuw and Croux 1993); beside them stands a plain factor, so that where nearly all lines are alike an
ordinary difference is none. Samples name files, lines, SKUs, titles and the shop's customer ids, never a person.

Legend: U customers, I products, N order lines.
"""

from __future__ import annotations

import numpy as np

from aejax import quality
from aejax.findings.accounts import duplicates, products_of_customers, rare, returns, sparse, undescribed
from aejax.findings.dates import impossible_dates, orders_by_month, out_of_order, volume
from aejax.findings.finding import Finding, placed, sentences, to_json
from aejax.findings.products import is_no_product, odd_products
from aejax.findings.quantities import far_quantities, free, resellers, usual_quantity
from aejax.interactions import Dataset

__all__ = [
    "Finding",
    "find",
    "is_no_product",
    "orders_by_month",
    "products_of_customers",
    "sentences",
    "to_json",
    "usual_quantity",
]


def find(dataset: Dataset, netting: quality.Netting, *, today: np.datetime64) -> list[Finding]:
    """What is odd in a data set, in a fixed order; nothing where nothing is.

    Args:
      dataset: as `datasets.read` gives it, with its origin.
      netting: of its lines.
      today: later dates are impossible.
    """
    lines, origin = dataset.interactions, dataset.origin
    assert origin is not None
    usual = usual_quantity(lines)
    with_orders = dataset.quality["facts"]["orders"] is not None
    found = [
        duplicates(origin),
        undescribed(lines, origin, "customers"),
        undescribed(lines, origin, "products"),
        returns(lines, netting, origin),
        odd_products(lines, dataset.products),
        far_quantities(lines, usual, origin),
        resellers(netting.bought, usual) if with_orders else None,
        out_of_order(lines, origin),
        impossible_dates(lines, today, origin),
        volume(lines),
        free(lines, origin),
        sparse(netting.bought),
        rare(netting.bought, dataset.min_customers),
    ]
    return placed([draft for draft in found if draft is not None], origin)
