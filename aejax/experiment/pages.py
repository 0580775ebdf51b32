"""The plain data that a report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aejax import attributes, quality, recommendation, runs, selection
from aejax.experiment.preparing import Prepared, titles
from aejax.models import Model

EXAMPLES = 5
BOUGHT_SHOWN = 10


def run_page(
    name: str,
    prepared: Prepared,
    model: Model,
    row: Mapping[str, Any],
    log: Sequence[Mapping[str, Any]],
    environment: Mapping[str, Any],
) -> dict[str, Any]:
    """The page of a run: one model, whose `row` holds metrics, validation, settings, epochs, users, note
    and tasks.
    """
    return {
        "title": f"{name} on {prepared.data_config.path}",
        "best": name,
        "models": {name: row},
        "tasks": row["tasks"],
        "logs": {name: _curves(log)},
        "facts": {name: _facts(log)},
        **_shared(prepared, model, row, environment),
    }


def comparison_page(
    result: Mapping[str, Any],
    prepared: Prepared,
    best: Model,
    logs: Mapping[str, Sequence[Mapping[str, Any]]],
    environment: Mapping[str, Any],
) -> dict[str, Any]:
    """The page of a comparison; its examples are by the model that was best on validation."""
    models = {
        name: {"tasks": {}, **row, "epochs": row["trials"][0]["epochs"] or None}
        for name, row in result["models"].items()
    }
    return {
        "title": f"{', '.join(models)} on {prepared.data_config.path}",
        "best": result["best_on_validation"],
        "models": models,
        "tasks": next(iter(models.values()))["tasks"],
        "logs": {name: _curves(log) for name, log in logs.items()},
        "facts": {name: _facts(log) for name, log in logs.items()},
        **_shared(prepared, best, result, environment),
    }


def _curves(log: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The epochs of the model itself; those of a blend's parts are in log.jsonl."""
    return [line for line in log if line["stage"] in ("select", "refit") and "epoch" in line]


def _facts(log: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Stage -> what a closed form or a blend decided in it."""
    return {
        line["stage"]: {name: value for name, value in line.items() if name != "stage"}
        for line in log
        if "epoch" not in line
    }


def _shared(
    prepared: Prepared, model: Model, result: Mapping[str, Any], environment: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "summary": quality.summary_lines(prepared.dataset.quality)
        + attributes.summary_lines(attributes.report(prepared.attributes)),
        "quality": prepared.dataset.quality,
        "protocol": prepared.split.protocol,
        "repeat": prepared.split_config.repeat,
        "users": result["users"],
        "users_left_out": prepared.split.test.left_out,
        "note": result["note"],
        "customers": len(prepared.interactions.users),
        "products": len(prepared.interactions.items),
        "examples": examples(model, prepared),
        "environment": environment,
    }


def examples(model: Model, prepared: Prepared) -> list[dict[str, Any]]:
    """Five tested customers, spread evenly over the vocabulary: what they had bought before the cut, what the model
    recommended from that, and which of it they bought later.
    """
    part = prepared.split.test
    chosen = np.unique(np.linspace(0, len(part) - 1, EXAMPLES).round().astype(int))
    lines, seen = prepared.interactions, part.seen
    title_of = titles(prepared.dataset)
    pages = []
    for position in chosen:
        histories = part.inputs.take(int(position), int(position) + 1)
        top = min(10, len(lines.items))
        wait = selection.start_best_items(model, histories, seen[[position]], top=top, rows=1, offered=part.offered)
        scores, items = wait()
        basis = str(recommendation.basis_of(model, histories)[0])
        later = set(part.targets[[position]].indices.tolist())
        bought, orders = np.unique(histories.lines.item, return_counts=True)
        most = np.argsort(-orders, kind="stable")[:BOUGHT_SHOWN]
        pages.append(
            {
                "customer_id": str(lines.users.ids[part.users[position]]),
                "bought": [{**_product(lines.items.ids[bought[i]], title_of), "orders": int(orders[i])} for i in most],
                "bought_total": len(bought),
                "recommended": [
                    {
                        "rank": rank + 1,
                        **_product(lines.items.ids[item], title_of),
                        "score": float(score),
                        "basis": basis,
                        "bought_later": int(item) in later,
                    }
                    for rank, (item, score) in enumerate(zip(items[0], scores[0], strict=True))
                    if item < len(lines.items)
                ],
            }
        )
    return pages


def _product(sku: Any, title_of: pd.Series) -> dict[str, str]:
    return {"sku": str(sku), "title": str(title_of.get(sku, sku))}


def write_report(folder: Path, page: Mapping[str, Any]) -> None:
    """The page as `report.html` of the folder."""
    from aejax import report  # a run can be read and recommend without matplotlib, which takes long to import

    runs.write_text(folder / "report.html", report.render(page))
