"""What tables of figures show, in the terminal and in the report. It imports nothing, so that a table in the terminal
waits for no plots.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

REVENUE = "revenue@10"  # a mean per customer, in the currency of the orders

# Heading -> the task, and in it the kind of targets; empty: all of them.
TWO_TASKS = {
    "next": ("include", ""),
    "next, repeat targets": ("include", "repeat_targets"),
    "next, new targets": ("include", "new_targets"),
    "first time": ("exclude", ""),
}
COLD = {"cold products alone": ("cold", ""), "among all products": ("mixed", "")}


def task_columns(tasks: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Names of the tasks of a split (`aejax.split.Split.tasks`) -> heading -> the task and the kind of targets."""
    return COLD if "cold" in tasks else TWO_TASKS


def with_revenue(columns: Iterable[str], models: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """These columns of metrics, and one in revenue where a model's `metrics` have it: where orders have prices."""
    has_prices = any(REVENUE in row["metrics"] for row in models.values())
    return (*columns, *([REVENUE] if has_prices else []))


def digits(key: str) -> str:
    """The format of a metric: money in hundredths, all others in ten-thousandths."""
    return ",.2f" if key.startswith("revenue@") else ".4f"
