"""The report of record on a shop's data: the account of every row, what is odd, and how the orders are spread."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from aejax import attributes, distributions, findings, quality
from aejax.interactions import Dataset


def check(dataset: Dataset, kinds: Mapping[str, str], *, today: np.datetime64) -> dict[str, Any]:
    """The report on a data set as plain data, in the form of `aejax check --json`.

    Args:
      dataset: as `datasets.read` gives it.
      kinds: column, or table.column -> the kind that it shall have in place of what it looks like.
      today: later dates are impossible.

    Returns:
      What `quality.report` gives, and `findings`, `distributions` and `attributes`.

    Raises:
      InputError: a kind is asked of a column that cannot have it.
    """
    found = attributes.recognise({"products": dataset.products, "customers": dataset.customers}, kinds)
    categories = [one.column for one in found["products"] if one.kind == "category"]
    return {
        **dataset.quality,
        **look(dataset, categories, today=today),
        "attributes": attributes.report(found),
    }


def look(dataset: Dataset, categories: Iterable[str], *, today: np.datetime64) -> dict[str, Any]:
    """What is odd in a data set, and how its orders are spread: `findings` and `distributions`, as plain data.

    Args:
      dataset: as `datasets.read` gives it.
      categories: the columns of the products that hold categories.
      today: later dates are impossible.
    """
    netting = quality.account_for_returns(dataset.interactions)
    return {
        "findings": findings.to_json(findings.find(dataset, netting, today=today)),
        "distributions": distributions.distributions(dataset.products, netting.bought, categories),
    }


def summary_lines(report: Mapping[str, Any]) -> list[str]:
    """What `check` gave in plain sentences, for the terminal."""
    return [
        *quality.summary_lines(report),
        *attributes.summary_lines(report["attributes"]),
        *distributions.sentences(report["distributions"]),
        *findings.sentences(report["findings"]),
    ]


def why_not_to_fit(report: Mapping[str, Any]) -> str:
    """Why any model of these data would be wrong, and the remedy; empty where one can be right."""
    if report["protocols"]["possible"] != ["reconstruction"]:
        return ""
    return (
        "no protocol can hold anything out of these data, so that nothing would tell whether a model is right "
        "(reconstruction leaks); export orders with ids and dates, of 3 customers with 2 products or more at least"
    )
