"""What the account of rows, and the few orders there are, say of a shop."""

from __future__ import annotations

import numpy as np

from aejax.findings.finding import SAMPLES, Draft, Finding, of_lines, share, without_place
from aejax.interactions import Interactions, Origin, customers_of_products, distinct
from aejax.quality import Netting, counted

SPARSE = 0.5  # of the customers


def duplicates(origin: Origin) -> Draft | None:
    """Rows that were added to another of their order and product (of a public format: of their pair)."""
    count = len(origin.merged)
    if count == 0:
        return None
    rows = len(origin.row_of_line) + count
    sentence = f"{counted(count, 'row')} ({share(count, rows)}) repeat the product of their order; they are summed"
    remedy = "if they are copies rather than further pieces, export the orders again without them"
    first = np.sort(origin.merged)[:SAMPLES]
    return Draft(Finding("duplicates", sentence, count, remedy=remedy), first, [""] * len(first))


def undescribed(lines: Interactions, origin: Origin, table: str) -> Draft | None:
    """Customers or products of orders without a row in a table that is there."""
    ids = origin.undescribed.get(table, ())
    if len(ids) == 0:
        return None
    vocabulary, codes = (lines.users, lines.user) if table == "customers" else (lines.items, lines.item)
    theirs = np.flatnonzero(np.isin(codes, vocabulary.index(ids)))
    sentence = (
        f"{counted(len(ids), table[:-1])} of {counted(len(theirs), 'order line')} "
        f"({share(len(theirs), len(lines))}) without a row in the table of {table}; nothing but their ids is known"
    )
    return of_lines(
        Finding("orphans", sentence, len(theirs), remedy=f"export the {table} again, archived ones included"),
        lines,
        theirs,
        origin,
    )


def returns(lines: Interactions, netting: Netting, origin: Origin) -> Draft | None:
    """Returns of more than the customer had bought before, of that product."""
    if netting.excess == 0:
        return None
    unmatched = np.flatnonzero(netting.unmatched)
    returns = int((lines.quantity < 0).sum())
    sentence = (
        f"{counted(netting.excess, 'unit')} returned beyond what was bought before; "
        f"{len(unmatched):,} of {counted(returns, 'return')} ({share(len(unmatched), returns)}) cancel nothing"
    )
    remedy = "begin the export earlier, so that the purchases are in it; until then these returns do not count"
    return of_lines(Finding("returns", sentence, len(unmatched), remedy=remedy), lines, unmatched, origin)


def sparse(bought: Interactions) -> Draft | None:
    """More than half of the customers bought one product only."""
    products = products_of_customers(bought)
    products = products[products > 0]
    single = int((products == 1).sum())
    if single <= SPARSE * len(products):
        return None
    sentence = (
        f"{single:,} of {counted(len(products), 'customer')} ({share(single, len(products))}) have bought one product "
        "only; they say nothing of what goes together, and cannot be tested"
    )
    remedy = "begin the export earlier, or expect little more than popularity for them"
    return without_place(Finding("sparse", sentence, single, remedy=remedy), ())


def products_of_customers(bought: Interactions) -> np.ndarray:
    """`[U]` how many different products each customer has bought; returns are netted already."""
    return np.bincount(distinct(bought.pair) // len(bought.items), minlength=len(bought.users))


def rare(bought: Interactions, min_customers: int) -> Draft | None:
    """Fewer than 2 products, or none of most purchases, remain once rare products are set aside."""
    customers = customers_of_products(bought)
    stay = customers >= min_customers
    left = int(stay.sum())
    if left >= 2:
        return None
    second = int(np.sort(customers)[-2])
    sentence = (
        f"of {counted(int((customers > 0).sum()), 'product')} bought, {left} remain once those with fewer than "
        f"{min_customers} customers are set aside, as fit does"
    )
    remedy = f"gather more orders, or fit with --min-customers {max(second, 1)}"
    return without_place(Finding("too-small", sentence, int((~stay).sum()), remedy=remedy), ())
