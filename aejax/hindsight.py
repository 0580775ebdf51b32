"""What became of recommendations: how many of them were bought, and what their customers did, with intervals.

Legend: n customers, R rows of lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from aejax.interactions import Interactions, customers_of_products, net_returns

CUTS = (1, 3, 5, 10, 20, 50, 100)
RESAMPLES = 1000
AMOUNTS = ("bought", "pieces", "revenue")


def purchases_of(lines: Interactions) -> pd.DataFrame:
    """Order lines -> what each customer bought of each product and did not send back: the columns `customer_id, sku,
    bought, pieces`, and `revenue` where lines have prices; a line without a price adds nothing to it.
    """
    bought = net_returns(lines)
    frame = pd.DataFrame(
        {
            "customer_id": bought.users.ids[bought.user],
            "sku": bought.items.ids[bought.item],
            "pieces": bought.quantity.astype(np.float64),
        }
    )
    if bought.price is not None:
        frame["revenue"] = np.nan_to_num(bought.price.astype(np.float64)) * bought.quantity
    summed: Any = frame.groupby(["customer_id", "sku"], as_index=False).sum()
    return summed.assign(bought=1.0)


def activity_of(lines: Interactions, customers: Sequence[str]) -> pd.DataFrame:
    """What each customer did: `buyers` (1 for who bought anything), `orders` and, where lines have prices, `revenue`;
    a row for each of the customers.
    """
    bought = net_returns(lines)
    orders = bought.order if bought.order is not None else bought.at
    frame = pd.DataFrame({"customer_id": bought.users.ids[bought.user], "orders": orders})
    amounts: dict[str, Any] = {"orders": frame.groupby("customer_id")["orders"].nunique()}
    if bought.price is not None:
        frame["revenue"] = np.nan_to_num(bought.price.astype(np.float64)) * bought.quantity
        amounts["revenue"] = frame.groupby("customer_id")["revenue"].sum()
    activity = pd.DataFrame(amounts).reindex(list(customers)).fillna(0.0)
    activity.insert(0, "buyers", (activity["orders"] > 0).astype(np.float64))
    return activity


def popular_lists(lists: pd.DataFrame, before: Interactions, *, exclude: pd.DataFrame | None) -> pd.DataFrame:
    """For each customer of the lists, as many of the products that most customers had bought as the list has places.

    Args:
      lists: `customer_id, rank, sku`.
      before: order lines up to the moment of the lists.
      exclude: `customer_id, sku` that are left out of a customer's list; None: nothing.
    """
    counts = customers_of_products(net_returns(before))
    order = np.argsort(-counts, kind="stable")
    popular = before.items.ids[order[counts[order] > 0]]
    own: dict[Any, set[str]] = {}
    if exclude is not None:
        own = {name: set(skus) for name, skus in exclude.groupby("customer_id")["sku"]}
    rows = []
    for name, ranks in lists.groupby("customer_id", sort=False)["rank"]:
        seen = own.get(name, set())
        places = sorted(ranks)
        left = (sku for sku in popular if sku not in seen)
        rows += [(name, rank, sku) for rank, sku in zip(places, left, strict=False)]
    return pd.DataFrame(rows, columns=["customer_id", "rank", "sku"])


def amounts_of(lists: pd.DataFrame, purchases: pd.DataFrame, customers: Sequence[str], cut: int) -> pd.DataFrame:
    """The first `cut` places of each list: how many `rows` it has, and what was bought of them; a row for each of the
    customers.
    """
    first: Any = lists[lists["rank"] <= cut].merge(purchases, on=["customer_id", "sku"], how="left")
    amounts = [name for name in AMOUNTS if name in purchases]
    return first.assign(rows=1.0).groupby("customer_id")[["rows", *amounts]].sum().reindex(list(customers)).fillna(0.0)


def resampled(*columns: np.ndarray, seed: int = 0) -> np.ndarray:
    """Columns `[n]` of the same customers -> their sums over customers drawn with replacement, `[RESAMPLES, M]`."""
    table = np.stack(columns, axis=1).astype(np.float64)
    count, rng = len(table), np.random.default_rng(seed)
    return np.stack([np.bincount(rng.integers(0, count, count), minlength=count) @ table for _ in range(RESAMPLES)])


def with_interval(value: float, samples: np.ndarray) -> dict[str, Any]:
    """A figure and its 95% percentile interval."""
    low, high = np.nanpercentile(samples, [2.5, 97.5])
    return {"mean": float(value), "ci95": [float(low), float(high)]}


def hit_figures(ours: pd.DataFrame, popular: pd.DataFrame | None) -> dict[str, Any]:
    """What was bought of lists, and of as many popular products for the same customers.

    Args:
      ours: `amounts_of` the lists.
      popular: that of `popular_lists` for the same customers; None where there are none.
    """
    totals: Any = ours.sum()
    found: dict[str, Any] = {name: float(totals[name]) for name in totals.index}
    found["customers"] = int(np.count_nonzero(ours["rows"]))
    columns = [ours["bought"].to_numpy(), ours["rows"].to_numpy()]
    if popular is not None:
        columns += [popular["bought"].to_numpy(), popular["rows"].to_numpy()]
    sums = resampled(*columns)
    share = sums[:, 0] / np.maximum(sums[:, 1], 1)
    found["share"] = with_interval(totals["bought"] / max(totals["rows"], 1), share)
    if popular is not None:
        theirs: Any = popular.sum()
        other = sums[:, 2] / np.maximum(sums[:, 3], 1)
        mean = theirs["bought"] / max(theirs["rows"], 1)
        found["popularity"] = {name: float(theirs[name]) for name in theirs.index} | {
            "share": with_interval(mean, other)
        }
        found["difference"] = with_interval(found["share"]["mean"] - mean, share - other)
    return found


def group_figures(treated: pd.DataFrame, control: pd.DataFrame) -> dict[str, Any]:
    """Means per customer of those who got lists and of a control group, and their difference: figure -> `treated`,
    `control` and `difference`.
    """
    found = {}
    for name in treated.columns:
        means, samples = [], []
        for seed, group in enumerate((treated, control)):
            column = group[name].to_numpy()
            means.append(float(column.mean()))
            samples.append(resampled(column, seed=seed)[:, 0] / len(column))
        found[name] = {
            "treated": with_interval(means[0], samples[0]),
            "control": with_interval(means[1], samples[1]),
            "difference": with_interval(means[0] - means[1], samples[0] - samples[1]),
        }
    return found
