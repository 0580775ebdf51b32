"""How a shop's orders are spread: the figures of the plots of a check, as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from aejax.findings import orders_by_month, products_of_customers
from aejax.interactions import Interactions

MOST_MONTHS = 120
TOP_CATEGORIES = 10


def distributions(table: pd.DataFrame, bought: Interactions, categories: Iterable[str] = ()) -> dict[str, Any]:
    """How orders, quantities, products per customer, categories and prices are spread.

    Args:
      table: the products, with a column `sku`.
      bought: purchases after returns; at least one.
      categories: the columns of the products that hold categories.

    Returns:
      Plain data: `orders_per_month` month -> orders (at most the last `MOST_MONTHS`; None without dates),
      `quantity` and `products_per_customer`: `quantiles` and a `histogram` of powers of two,
      `customers_with_one_product` (their share), `categories` column -> value -> products and purchases (the most
      bought ones), `prices` quantiles (None without prices).
    """
    products = products_of_customers(bought)
    products = products[products > 0]
    return {
        "orders_per_month": None if bought.at is None else _months(bought),
        "quantity": _spread(bought.quantity),
        "products_per_customer": _spread(products),
        "customers_with_one_product": float((products == 1).mean()),
        "categories": {column: _top(table, bought, column) for column in categories},
        "prices": _prices(bought.price),
    }


def sentences(found: Mapping[str, Any]) -> list[str]:
    """What `distributions` gave, in short, for the terminal."""
    quantity, products = found["quantity"]["quantiles"], found["products_per_customer"]["quantiles"]
    told = [
        f"A line is of {quantity['0.5']:,} pieces (median; 1 in 100 of more than {quantity['0.99']:,}, at most "
        f"{quantity['1']:,}); a customer has bought {products['0.5']:,} products (median; at most {products['1']:,}), "
        f"and {found['customers_with_one_product']:.1%} of them a single one."
    ]
    if found["prices"]:
        told.append(
            f"A piece costs {found['prices']['0.5']:,.2f} (median; 1 in 100 more than {found['prices']['0.99']:,.2f})."
        )
    return told


def _months(bought: Interactions) -> dict[str, int]:
    months, orders = orders_by_month(bought)
    shown = slice(-MOST_MONTHS, None)
    return {str(month): int(count) for month, count in zip(months[shown], orders[shown], strict=True)}


def _spread(values: np.ndarray) -> dict[str, Any]:
    """Quantiles, and how many values there are from 1, 2, 4, 8, ... up to the next."""
    bands = np.bincount(np.log2(values).astype(np.int64))
    levels = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
    quantiles = np.quantile(values, levels, method="lower")
    return {
        "quantiles": {f"{level:g}": int(value) for level, value in zip(levels, quantiles, strict=True)},
        "histogram": {str(2**power): int(count) for power, count in enumerate(bands)},
    }


def _top(products: pd.DataFrame, bought: Interactions, column: str) -> dict[str, dict[str, int]]:
    """The most bought values of a column: how many products have them, sold or not, and how many purchases."""
    code, values = pd.factorize(products[column].str.strip())
    sold = code[pd.Index(products["sku"]).get_indexer(pd.Index(bought.items.ids))]
    of_value, purchases = (np.bincount(one, minlength=len(values)) for one in (code, sold[bought.item]))
    most = sorted((-purchases[one], values[one], one) for one in np.unique(sold) if values[one])[:TOP_CATEGORIES]
    return {str(value): {"products": int(of_value[one]), "purchases": int(-number)} for number, value, one in most}


def _prices(price: np.ndarray | None) -> dict[str, float] | None:
    known = np.empty(0) if price is None else price[~np.isnan(price)]
    if len(known) == 0:
        return None
    levels = (0.0, 0.01, 0.5, 0.99, 1.0)
    return {f"{level:g}": float(one) for level, one in zip(levels, np.quantile(known, levels), strict=True)}
