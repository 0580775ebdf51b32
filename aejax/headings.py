"""What the tables of tasks show, in the terminal and in the report. It imports nothing, so that a table in the terminal
waits for no plots.
"""

from __future__ import annotations

from collections.abc import Iterable

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
