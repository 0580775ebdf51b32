"""The page of a check: its plain data -> one self-contained HTML page, as `aejax.report` makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.style
from markupsafe import Markup
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from aejax.report import PALETTE, PLOT_STYLE, as_svg, new_axes, template

LONGEST_NAME = 30
COUNTS = FuncFormatter(lambda value, _: f"{value:,.0f}")  # no powers of ten, no offset


def render_check(title: str, summary: Sequence[str], checked: Mapping[str, Any]) -> str:
    """The HTML page of a check.

    Args:
      title: of the page.
      summary: what the data hold, in sentences.
      checked: what `checking.check` gave.

    Returns:
      One file that needs no other; the same data give the same bytes.
    """
    spread = checked["distributions"]
    with matplotlib.style.context(["default", PLOT_STYLE]):
        plots = [
            _months(spread["orders_per_month"]),
            _bands("Pieces of an order line", "order lines", spread["quantity"]["histogram"]),
            _bands("Products per customer", "customers", spread["products_per_customer"]["histogram"]),
        ]
        categories = [_categories(column, found) for column, found in spread["categories"].items() if len(found) > 1]
    return template("check.html.jinja").render(
        title=title,
        summary=summary,
        checked=checked,
        plots=[plot for plot in plots if plot is not None],
        categories=categories,
    )


def _months(orders: Mapping[str, int] | None) -> Markup | None:
    if not orders:
        return None
    axes = new_axes(3.8, 2.6, "Orders per month")
    axes.bar(range(len(orders)), list(orders.values()), color=PALETTE[0], width=0.8)
    step = max(1, -(-len(orders) // 4))
    axes.set_xticks(range(0, len(orders), step), list(orders)[::step])
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_formatter(COUNTS)
    axes.grid(axis="x", visible=False)
    low, high = min(orders.values()), max(orders.values())
    return as_svg(axes, "Orders per month", f"{len(orders)} months, from {low:,} to {high:,} orders.")


def _bands(title: str, unit: str, histogram: Mapping[str, int]) -> Markup:
    """Bars of bands 1, 2-3, 4-7, ..., on a logarithmic scale where they are far apart."""
    axes = new_axes(3.8, 2.6, title)
    counts = list(histogram.values())
    axes.bar(range(len(counts)), counts, color=PALETTE[0], width=0.86)
    step = max(1, -(-len(counts) // 5))
    axes.set_xticks(range(0, len(counts), step), [f"{int(start):,}" for start in histogram][::step])
    if max(counts) > 1000 * min(count for count in counts if count):
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(COUNTS)
    axes.set_xlabel("from ... up to the next (twice as many)")
    axes.set_ylabel(unit)
    axes.grid(axis="x", visible=False)
    return as_svg(axes, title, "; ".join(f"from {start}: {count:,}" for start, count in histogram.items()) + ".")


def _categories(column: str, found: Mapping[str, Mapping[str, int]]) -> Markup:
    """The most bought values of a column: purchases as bars, products beside them."""
    axes = new_axes(4.6, 0.8 + 0.26 * len(found), column)
    names = [name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…" for name in found]
    axes.barh(range(len(found)), [one["purchases"] for one in found.values()], color=PALETTE[0], height=0.7)
    axes.set_yticks(range(len(found)), names)
    axes.invert_yaxis()
    for place, one in enumerate(found.values()):
        axes.annotate(
            f" {one['products']:,} products", (one["purchases"], place), va="center", color="#55606c", fontsize=8
        )
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.xaxis.set_major_formatter(COUNTS)
    axes.margins(x=0.3)
    axes.set_xlim(left=0)
    axes.set_xlabel("purchases")
    axes.grid(axis="y", visible=False)
    return as_svg(axes, f"Purchases by {column}", "The most bought values.")
