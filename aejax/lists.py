"""Lists of products for customers, as arrays, and what took products from those that are too short.

Legend: n customers, I products, K the length of a list.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import scipy.sparse as sp

from aejax.explanation import Causes
from aejax.rules import ListRules

COLUMNS = ("customer_id", "rank", "sku", "title", "score", "basis")


@dataclasses.dataclass(frozen=True)
class Lists:
    """The lists of some customers, as arrays.

    Attributes:
      customers: `[n]` ids.
      items: `[n, K]`, best first; I where fewer products remain.
      scores: `[n, K]`.
      basis: `[n, K]`, what each place is based on.
      taken: what took products from the lists with fewer than K: `bought before` and each rule -> products, all lists
        together, each product counted once.
      why: the bought products that speak most for each place; None: it was not asked.
    """

    customers: np.ndarray
    items: np.ndarray
    scores: np.ndarray
    basis: np.ndarray
    taken: Mapping[str, int]
    why: Causes | None = None

    def rows(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Customers and places of all that stands in the lists, of I = `count` products."""
        rows, places = np.nonzero(self.items < count)
        return rows, places

    def take(self, rows: np.ndarray) -> Lists:
        """These customers' lists; what was taken is not theirs alone and left out."""
        why = None if self.why is None else self.why.take(rows)
        return Lists(self.customers[rows], self.items[rows], self.scores[rows], self.basis[rows], {}, why)

    def columns(self, skus: np.ndarray, titles: np.ndarray) -> dict[str, np.ndarray]:
        """The columns `COLUMNS` of a table with a row for each place; `skus` and `titles` `[I]` are of the products."""
        rows, places = self.rows(len(skus))
        items = self.items[rows, places]
        return {
            "customer_id": self.customers[rows],
            "rank": places + 1,
            "sku": skus[items],
            "title": titles[items],
            "score": self.scores[rows, places].astype(np.float32),
            "basis": self.basis[rows, places],
        }


def taken_from_short(
    items: np.ndarray,
    sold: np.ndarray,
    rules: ListRules,
    bought: sp.csr_array,
    earlier: sp.csr_array | None,
    bought_name: str,
) -> dict[str, int]:
    """What took products from the lists with fewer than K; see `Lists.taken`.

    Args:
      items: `[n, K]`, the lists.
      sold: `[I]` bool, what was to be had.
      rules: of the lists.
      bought: `[n, I]`, what customers have bought, as far as it was not to come again.
      earlier: `[n, I]`, what else they were not to get again; None: nothing.
      bought_name: what the first of these is called.
    """
    short = np.flatnonzero((items < len(sold)).sum(axis=1) < items.shape[1])
    if not len(short):
        return {}
    count = len(rules.products)
    taker = np.where(sold, rules.first_taker(len(sold)), count + 1)  # behind all rules: nothing took it; not sold

    def by_taker(held: np.ndarray) -> np.ndarray:
        return np.bincount(taker[held], minlength=count + 2)

    of_bought = by_taker(bought[short].indices)
    left = len(short) * by_taker(np.arange(len(sold))) - of_bought
    taken = {bought_name: int(of_bought[:-1].sum())}
    taken |= {rule.name: int(number) for rule, number in zip(rules.products, left, strict=False)}
    remaining = int(left[count])
    if earlier is not None:
        again = sp.csr_array(earlier[short] > earlier[short].multiply(bought[short] > 0))
        taken["exclude"] = taken.get("exclude", 0) + int(by_taker(again.indices)[count])
        remaining -= int(by_taker(again.indices)[count])
    taken["at_most"] = remaining - int(np.append(sold, False)[items[short]].sum())
    return {name: number for name, number in taken.items() if number}
