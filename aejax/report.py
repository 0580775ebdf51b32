"""The report: plain data -> one self-contained HTML page. It knows no file, no model and no JAX.

Titles, ids and names come from a shop's files and are hostile text: the template escapes all of it, and matplotlib
escapes what it writes into a plot. The page loads nothing, runs no script, and says so in its security policy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import matplotlib.style
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator

from aejax.figures import PALETTE, PLOT_STYLE, as_svg, new_axes, of_distributions
from aejax.headings import REVENUE, digits, task_columns, with_revenue

COLUMNS = ("precision@10", "recall_all@10", "recall@20", "ndcg@10", "ndcg@100", "hit@10", "mrr@10", "coverage@10")
CUTOFFS = (1, 5, 10, 20, 50, 100)
BY_CUTOFF = ("recall_all", "precision", "ndcg", REVENUE.partition("@")[0])

# Further models repeat the colours with other dashes and hollow marks.
DASHES = ((), (4.0, 1.8), (1.2, 1.4))


class Style(NamedTuple):
    """How a model is drawn, the same in every plot and in the legend."""

    colour: str
    dash: tuple[float, ...]
    fill: str
    width: float

    def line(self) -> dict[str, Any]:
        """The same as matplotlib's arguments."""
        dash = (0, self.dash) if self.dash else "-"
        return {"color": self.colour, "linestyle": dash, "linewidth": self.width, **self.mark()}

    def mark(self) -> dict[str, Any]:
        """The mark alone as matplotlib's arguments."""
        return {"marker": "o", "markersize": 4.5, "markerfacecolor": self.fill, "markeredgecolor": self.colour}


def render(page: Mapping[str, Any]) -> str:
    """The HTML page of a fit or a comparison.

    Args:
      page: plain data: `title`, `summary`, `quality`, `looked` (what `checking.look` gave; None where it did not look),
        `protocol`, `repeat`, `users`, `users_left_out`, `note`,
        `customers`, `products`, `best`, `models`, `tasks` (those of one of the models; empty where the protocol has
        one task), `logs`, `facts`, `examples`, `environment`.

    Returns:
      One file that needs no other; the same page gives the same bytes.
    """
    models, logs = page["models"], page["logs"]
    columns = with_revenue(COLUMNS, models)
    styles = _styles(list(models), page["best"])
    with matplotlib.style.context(["default", PLOT_STYLE]):
        plots = {
            "forest": _forest(models, styles),
            "cutoffs": [plot for metric in BY_CUTOFF if (plot := _by_cutoff(metric, models, styles))],
            "validation": _validation(models, logs, styles),
            "spread": None if page["looked"] is None else of_distributions(page["looked"]["distributions"]),
            "losses": [plot for name in models if (plot := _loss(name, logs.get(name, ()), styles[name]))],
        }
    return template("report.html.jinja").render(
        page=page,
        columns=columns,
        task_columns=task_columns(page["tasks"]),
        best=_best_of_columns(columns, models),
        styles=styles,
        plots=plots,
        settings={name: dict(_flat(row.get("settings") or {})) for name, row in models.items()},
        facts={name: dict(_flat(found)) for name, found in page["facts"].items()},
        environment=dict(_flat(page["environment"])),
    )


def template(name: str) -> jinja2.Template:
    """A template of this package, which escapes all that it is given."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": _count, "figure": _figure, "signed": _signed, "short": _short}
    return environment.get_template(name)


def _count(number: int) -> str:
    return f"{number:,}"


def _figure(value: float, key: str = "") -> str:
    return format(value, digits(key))


def _signed(value: float, key: str) -> str:
    return format(value, f"+{digits(key)}").replace("-", "\N{MINUS SIGN}")


def _short(value: float) -> str:
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")


def _best_of_columns(columns: Sequence[str], models: Mapping[str, Any]) -> dict[str, float | None]:
    """The highest mean of each column; None where there is nothing to compare."""
    best: dict[str, float | None] = {}
    for key in columns:
        means = [row["metrics"][key]["mean"] for row in models.values() if key in row["metrics"]]
        best[key] = max(means) if len(means) > 1 else None
    return best


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of a nested dict as `outer.inner` and text."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            empty = value is None or (isinstance(value, (Mapping, list, tuple)) and not value)
            several = isinstance(value, (list, tuple))
            yield f"{prefix}{key}", "none" if empty else ", ".join(map(str, value)) if several else str(value)


def _styles(names: Sequence[str], best: str) -> dict[str, Style]:
    styles = {}
    for position, name in enumerate(names):
        cycle, place = divmod(position, len(PALETTE))
        colour = PALETTE[place]
        dash = DASHES[cycle % len(DASHES)]
        styles[name] = Style(colour, dash, "#ffffff" if cycle else colour, 2.3 if name == best else 1.4)
    return styles


def _clipped(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:23]}…"


def _forest(models: Mapping[str, Any], styles: Mapping[str, Style], key: str = "ndcg@100") -> Markup | None:
    """A dot and its interval per model, the highest on top."""
    rows = sorted(
        ((row["metrics"][key], name) for name, row in models.items() if key in row["metrics"]),
        key=lambda row: -row[0]["mean"],
    )
    if len(rows) < 2:
        return None
    axes = new_axes(4.4, 0.7 + 0.28 * len(rows), f"{key} on test, with 95% intervals")
    for y, (metric, name) in enumerate(rows):
        style, mean = styles[name], metric["mean"]
        low, high = metric["ci95"] or (mean, mean)
        axes.plot([low, high], [y, y], color=style.colour, linewidth=style.width, solid_capstyle="butt")
        axes.plot([mean], [y], **{**style.mark(), "markersize": 7})
        axes.annotate(
            _figure(mean), (1.02, y), xycoords=("axes fraction", "data"), va="center", color="#1c2733", fontsize=9
        )
    axes.set_yticks(range(len(rows)), [_clipped(name) for _, name in rows])
    axes.tick_params(axis="y", labelcolor="#1c2733")
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    return as_svg(
        axes, f"{key} per model, with 95% intervals", "; ".join(f"{n} {_figure(m['mean'])}" for m, n in rows) + "."
    )


def _by_cutoff(metric: str, models: Mapping[str, Any], styles: Mapping[str, Style]) -> Markup | None:
    """A metric over the length of the list, a line and its interval band per model."""
    axes = new_axes(3.4, 2.5, f"{metric}@K")
    highest = 0.0
    for name, row in models.items():
        found = [(k, row["metrics"][f"{metric}@{k}"]) for k in CUTOFFS if f"{metric}@{k}" in row["metrics"]]
        if not found:
            continue
        cutoffs = [k for k, _ in found]
        bounds = [m["ci95"] or (m["mean"], m["mean"]) for _, m in found]
        axes.fill_between(
            cutoffs, [b[0] for b in bounds], [b[1] for b in bounds], color=styles[name].colour, alpha=0.15, linewidth=0
        )
        axes.plot(cutoffs, [m["mean"] for _, m in found], **styles[name].line())
        highest = max(highest, *(high for _, high in bounds))
    if not axes.lines:
        return None
    axes.set_xscale("log")
    axes.set_xticks(CUTOFFS, [str(k) for k in CUTOFFS])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("K, products recommended")
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_ylim(0, highest * 1.06 or 1.0)
    return as_svg(
        axes, f"{metric} by K", f"One line per model, from K = {CUTOFFS[0]} to {CUTOFFS[-1]}, with intervals."
    )


def _validation(
    models: Mapping[str, Any], logs: Mapping[str, Sequence[Mapping[str, Any]]], styles: Mapping[str, Style]
) -> Markup | None:
    """Validation ndcg@100 per epoch while the number of epochs was chosen, the chosen one ringed."""
    axes = new_axes(4.4, 2.6, "ndcg@100 on validation, per epoch")
    chosen_epochs = []
    for name in models:
        points = {
            line["epoch"]: line["validation"]
            for line in logs.get(name, ())
            if line["stage"] == "select" and line.get("validation") is not None
        }
        if not points:
            continue
        chosen = models[name].get("epochs")
        chosen = chosen if chosen in points else max(points, key=lambda epoch: points[epoch])
        axes.plot(list(points), list(points.values()), **{**styles[name].line(), "marker": ""})
        axes.plot([chosen], [points[chosen]], **{**styles[name].mark(), "markersize": 8, "markerfacecolor": "#ffffff"})
        chosen_epochs.append(f"{name} epoch {chosen}")
    if not chosen_epochs:
        return None
    _epoch_axis(axes)
    return as_svg(axes, "Validation ndcg@100 per epoch", f"Chosen: {', '.join(chosen_epochs)}.")


def _loss(name: str, log: Sequence[Mapping[str, Any]], style: Style) -> Markup | None:
    """Training loss per epoch. Each model has axes of its own: their losses have no common unit."""
    axes = new_axes(2.7, 2.0, _clipped(name))
    for stage, dash in (("select", "-"), ("refit", (0, (1.2, 1.2)))):
        points = [(line["epoch"], line["loss"]) for line in log if line["stage"] == stage and _finite(line.get("loss"))]
        if points:
            single = {"marker": "o", "markersize": 4} if len(points) == 1 else {}
            axes.plot(*zip(*points, strict=True), color=style.colour, linestyle=dash, linewidth=1.6, **single)
    if not axes.lines:
        return None
    _epoch_axis(axes)
    return as_svg(axes, f"Training loss of {name} per epoch", "Solid: choosing the epochs; dotted: the refit.")


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _epoch_axis(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("epoch")
