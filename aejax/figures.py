"""Figures of pages: their style, and the plots of how a shop's orders are spread. It knows no page and no file."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

# Okabe and Ito (2008), without the yellow that vanishes on white: told apart with any colour vision.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#333333")
PLOT_STYLE = {
    "svg.fonttype": "none",  # text stays text: searchable, small, in the page's own font
    "svg.hashsalt": "aejax",
    "text.parse_math": False,
    "font.size": 9.0,
    "axes.edgecolor": "#9aa3ad",
    "axes.labelcolor": "#4a5561",
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlecolor": "#1c2733",
    "axes.formatter.useoffset": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e9ed",
    "xtick.color": "#9aa3ad",
    "ytick.color": "#9aa3ad",
    "xtick.labelcolor": "#4a5561",
    "ytick.labelcolor": "#4a5561",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
LONGEST_NAME = 30
COUNTS = FuncFormatter(lambda value, _: f"{value:,.0f}")  # no powers of ten, no offset


def new_axes(width: float, height: float, title: str) -> Axes:
    """Empty axes of a figure of their own; no pyplot, so no global state and no backend chosen."""
    axes = Figure(figsize=(width, height), layout="constrained").add_subplot()
    axes.set_title(title, pad=10)
    axes.tick_params(length=0)
    return axes


def as_svg(axes: Axes, title: str, description: str) -> Markup:
    """The figure as an `<svg>` element with a text alternative and without ids that would repeat in the page."""
    written = io.StringIO()
    assert isinstance(axes.figure, Figure)
    axes.figure.savefig(written, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = written.getvalue()
    svg = re.sub(r'<g id="[^"]*"', "<g", svg[svg.index("<svg") :])
    head, rest = svg.split(">", 1)
    # matplotlib has escaped its text; what is added here is escaped here.
    return Markup(f'{head} role="img" aria-label="{escape(title)}. {escape(description)}">{rest}')


def of_distributions(spread: Mapping[str, Any]) -> dict[str, list[Markup]]:
    """What `aejax.distributions` gave -> its `plots`, and those of `categories`; in the style of `PLOT_STYLE`."""
    plots = [
        _months(spread["orders_per_month"]),
        _bands("Pieces of an order line", "order lines", spread["quantity"]["histogram"]),
        _bands("Products per customer", "customers", spread["products_per_customer"]["histogram"]),
    ]
    categories = [_categories(column, found) for column, found in spread["categories"].items() if len(found) > 1]
    return {"plots": [plot for plot in plots if plot is not None], "categories": categories}


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
