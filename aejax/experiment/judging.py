"""An earlier file of recommendations, and what its customers bought afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aejax import datasets, runs
from aejax.config import DataConfig
from aejax.errors import InputError, nearest
from aejax.experiment.reading import read_lists, unescaped
from aejax.hindsight import CUTS, activity_of, amounts_of, group_figures, hit_figures, popular_lists, purchases_of
from aejax.interactions import Vocabulary
from aejax.moments import end_of
from aejax.quality import counted

LEAST_OF_SEGMENT = 2


def hindsight(file: Path, data: DataConfig, *, after: str | None = None, segment: str | None = None) -> dict[str, Any]:
    """How many of a file's recommendations were bought afterwards, against popularity and against a control group.

    Args:
      file: what `recommend` wrote, a row for each recommendation or for each customer.
      data: the orders up to now; those before the moment say what was popular then.
      after: the moment of the recommendations, a date (its end) or a time; None: as the manifest says.
      segment: a column of the customers, for whose values the figures stand alone too.

    Returns:
      `after`, `until`; `cuts`: cut -> `hit_figures` of the first places; `control`: `group_figures`, where the manifest
      names customers who were left out by chance; `segments`: value -> `hit_figures` of all places; `notes`.

    Raises:
      InputError: a file cannot be read as such, there is no moment, or nothing was bought after it.
    """
    lists = read_lists(file)
    path = file.with_name(f"{file.name}.manifest.json")
    manifest: Mapping[str, Any] = runs.read_json(path) if path.exists() else {}
    # A recommend that was killed between its files leaves the account of an earlier one.
    is_of_another = bool(manifest) and manifest["file"]["sha256"] != runs.sha256(file)
    if is_of_another and after is None:
        raise InputError(
            f"{path} is the account of another {file.name}, which was changed or written anew since; give --after "
            "DATE, the day of the recommendations"
        )
    manifest = {} if is_of_another else manifest
    asked = manifest.get("request", {})
    moment = _moment(after, asked.get("as_of"), path)
    dataset = datasets.read_as(data)
    lines = dataset.interactions
    if lines.at is None:
        raise InputError(f"hindsight needs order dates (created_at), and {data.path} has none")
    later, before = lines.take(lines.at > moment), lines.take(lines.at <= moment)
    if not len(later):
        raise InputError(
            f"{data.path} holds no order after {moment}; its last one is of {lines.at.max()}: export later orders"
        )
    lists = _as_known(lists, {"sku": dataset.products["sku"], "customer_id": dataset.customers["customer_id"]})
    purchases, customers, notes = purchases_of(later), list(dict.fromkeys(lists["customer_id"])), []
    if is_of_another:
        notes.append(f"{path.name} is the account of another {file.name}: not used, nor the control group it names")
    strangers = len(set(customers) - set(dataset.customers["customer_id"]))
    if strangers == len(customers):
        raise InputError(f"no customer of {file} is one of {data.path}; are they of the same shop?")
    if strangers:
        notes.append(
            f"{counted(strangers, 'customer')} of {file.name} not in {data.path}: they count as having bought nothing"
        )
    popular = None
    if len(before):
        had = purchases_of(before)
        repeats = asked.get("repeat") or ("include" if len(lists.merge(had, on=["customer_id", "sku"])) else "exclude")
        popular = popular_lists(lists, before, exclude=had if repeats == "exclude" else None)
    else:
        notes.append(f"{data.path} holds no order up to {moment}, so that nothing says what was popular then")
    if lines.price is None:
        notes.append("orders have no prices (lineitem_price), so that nothing is said in revenue")

    def figures(of: list[str], cut: int) -> dict[str, Any]:
        ours = amounts_of(lists, purchases, of, cut)
        return hit_figures(ours, None if popular is None else amounts_of(popular, purchases, of, cut))

    top = max(lists["rank"].tolist())
    result: dict[str, Any] = {
        "file": str(file),
        "after": str(moment),
        "until": str(lines.at.max()),
        "customers": len(customers),
        "rows": len(lists),
        "cuts": {str(cut): figures(customers, cut) for cut in (*(cut for cut in CUTS if cut < top), top)},
    }
    if manifest.get("holdout"):
        control = _control(file, manifest["holdout"])
        treated = [name for name in customers if name not in set(control)]
        groups = activity_of(later, treated), activity_of(later, control)
        result["control"] = {"customers": len(control), **group_figures(*groups)}
    if segment is not None:
        result["segment"] = segment
        result["segments"] = {
            value: figures(own, top) for value, own in _segments(dataset.customers, segment, customers).items()
        }
    return {**result, "notes": notes}


def _as_known(frame: Any, known: Mapping[str, Any]) -> pd.DataFrame:
    """Ids as they are in the data: without the apostrophe that keeps a spreadsheet from taking one for a formula. What
    stands twice in a list counts once.
    """
    plain = frame.assign(**{name: unescaped(frame[name], Vocabulary.of(ids)) for name, ids in known.items()})
    return plain.drop_duplicates(["customer_id", "sku"], ignore_index=True)


def _moment(after: str | None, stored: str | None, manifest: Path) -> np.datetime64:
    if after is None and stored is None:
        raise InputError(
            f"give --after DATE, the day of the recommendations: {manifest} does not say when they were made"
        )
    if after is None:
        return np.datetime64(str(stored), "s")
    try:
        return np.datetime64(end_of(after), "s")
    except ValueError:
        raise InputError(f'--after is "{after}"; expected a date such as 2024-05-01') from None


def _control(file: Path, holdout: Mapping[str, Any]) -> list[str]:
    """The customers who were left out by chance, from the file of the lists that they would have got."""
    return list(dict.fromkeys(read_lists(file.with_name(holdout["file"]))["customer_id"]))


def _segments(table: pd.DataFrame, column: str, customers: list[str]) -> dict[str, list[str]]:
    """Value -> those of the customers who have it, the most frequent first; of a value with too few of them nothing can
    be said, and it is left out.
    """
    if column not in table.columns[1:]:
        raise InputError(
            f'--segment is "{column}", no column of the customers; {nearest(column, list(table.columns[1:]))}'
        )
    value = table.set_index("customer_id")[column].reindex(customers).fillna("")
    groups = {str(name): list(own.index) for name, own in value.groupby(value) if len(own) >= LEAST_OF_SEGMENT}
    return dict(sorted(groups.items(), key=lambda one: -len(one[1])))
