"""A finding, and how it comes by its samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from aejax.interactions import Interactions, Origin
from aejax.quality import shown

SAMPLES = 5


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is odd.

    Attributes:
      kind: what it is, one word.
      sentence: what was found, with its count and share.
      rows: how many rows (or customers, or months: what the sentence counts) it is of.
      samples: up to `SAMPLES` of them, such as `orders.csv:143 ...`.
      remedy: what to do about it; empty where there is nothing to do.
    """

    kind: str
    sentence: str
    rows: int
    samples: tuple[str, ...] = ()
    remedy: str = ""


def to_json(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """The form of `aejax check --json`."""
    return [dataclasses.asdict(finding) | {"samples": list(finding.samples)} for finding in findings]


def sentences(findings: Iterable[Mapping[str, Any]]) -> list[str]:
    """What `to_json` gave, for the terminal."""
    told = []
    for finding in findings:
        told.append(f"Found: {finding['sentence']}.")
        told += [f"  {sample}" for sample in finding["samples"]]
        if finding["remedy"]:
            told.append(f"  Remedy: {finding['remedy']}.")
    return told


@dataclasses.dataclass(frozen=True)
class Draft:
    """A finding whose samples still stand as rows `[s]` of the files, and what is said of each."""

    finding: Finding
    rows: np.ndarray
    labels: list[str]


def placed(drafts: list[Draft], origin: Origin) -> list[Finding]:
    """The findings with their samples, whose places are found in one pass over the files."""
    rows = np.concatenate([np.empty(0, dtype=np.int64), *(draft.rows for draft in drafts)])
    places = iter(origin.places(rows))
    return [
        dataclasses.replace(
            draft.finding,
            samples=tuple(f"{next(places)} {label}".rstrip() for label in draft.labels)
            if len(draft.rows)
            else tuple(draft.labels),
        )
        for draft in drafts
    ]


def of_lines(finding: Finding, lines: Interactions, positions: np.ndarray, origin: Origin) -> Draft:
    """A finding with the first of these order lines as samples: how many of what, by whom."""
    first = positions[:SAMPLES]
    labels = [
        f"{int(lines.quantity[one]):,} of {shown(str(lines.items.ids[lines.item[one]]))} "
        f"by customer {shown(str(lines.users.ids[lines.user[one]]))}"
        for one in first
    ]
    return Draft(finding, origin.row_of_line[first], labels)


def without_place(finding: Finding, labels: Iterable[str]) -> Draft:
    """A finding with the first of these samples, which stand in no one place."""
    return Draft(finding, np.empty(0, dtype=np.int64), list(labels)[:SAMPLES])


def share(part: int, of: int) -> str:
    """`0.35%`, `12%`: two digits that say something."""
    percent = 100 * part / of if of else 0.0
    return f"{percent:.0f}%" if percent >= 10 or part == 0 else f"{percent:.2g}%"
