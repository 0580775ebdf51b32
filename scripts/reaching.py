"""Seconds until a validation figure is reached, here and at RecBole: a round of both, and the ratio over the rounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import machine
import sides

PATIENCE = 10  # of RecBole, whose best is the target


class Reached(NamedTuple):
    """When a curve first reached the target: seconds with validation, seconds of training alone, and the epoch."""

    whole: float
    training: float
    epoch: int


def first_reaching(curve: Sequence[Sequence[float]], target: float) -> Reached | None:
    """Where a curve of (training s, s with validation, validation) first reaches the target; None: nowhere."""
    for epoch, (training, whole, score) in enumerate(curve, start=1):
        if score >= target:
            return Reached(whole, training, epoch)
    return None


def a_round(
    split: Path,
    own_settings: Mapping[str, Any],
    recbole: Mapping[str, str],
    *,
    peers: Path,
    target: float | None,
    seed: int,
    most_epochs: int,
    device: str | None,
) -> dict[str, Any]:
    """Each side with this seed until its best, or ours until the target.

    Args:
      split: a predefined split in RecBole's format.
      own_settings: of `multvae`.
      recbole: name of a configuration -> arguments of `recbole_run.py`; the best of the first is the target, and the
        others end when they have taken as long as it did to get there.
      peers: the folder of the peers' environments.
      target: the validation ndcg@100, in place of that.
      seed: of all sides.
      most_epochs: after which a side has not reached it.
      device: see `sides.run`.

    Raises:
      LeftOut: there is neither RecBole nor a target.
    """
    found: dict[str, Any] = {}
    words, aim = [], math.inf if target is None else target
    gpu = ["--gpu"] if device == "gpu" else []
    limits = ["--epochs", str(most_epochs), "--patience", str(PATIENCE), "--seed", str(seed), *gpu]
    for name, arguments in recbole.items():
        arrived = [at for curve in found.values() if (at := first_reaching(curve, aim)) is not None]
        enough = []  # once both are longer, it is the faster one by neither
        if arrived:
            enough = ["--limits", str(min(at.training for at in arrived)), str(min(at.whole for at in arrived))]
        options = (str(split.resolve()), *limits, *enough, *arguments.split())
        side = sides.Side(name, "peers/recbole_run.py", options, "recbole")
        try:
            found[name] = sides.run(side, peers, device)["curve"]
        except sides.LeftOut as why:
            if target is None and not found:
                raise
            words.append(str(why))
            continue
        if aim == math.inf:
            aim = max(score for _, _, score in found[name])
    options = {
        "data": str(split.resolve()),
        "model": "multvae",
        "settings": {**own_settings, "epochs": most_epochs, "patience": most_epochs},
        "target": aim,
        "seed": seed,
        "device": device,
    }
    found["aejax"] = sides.run(sides.own("to_quality", options), peers, device)["curve"]
    return {
        "kind": "quality",
        "data": split.name,
        "seed": seed,
        "target": aim,
        "reached": {name: first_reaching(curve, aim) for name, curve in found.items()},
        "best": {name: max(score for _, _, score in curve) for name, curve in found.items()},
        "seconds": {name: curve[-1][1] for name, curve in found.items()},
        "words": words,
    }


def line(record: Mapping[str, Any]) -> str:
    """A round as a line of text."""
    cells = []
    for name, at in record["reached"].items():
        if at is None:
            cells.append(f"{name} not in {record['seconds'][name]:.3g} s, best {record['best'][name]:.4f}")
        else:
            cells.append(f"{name} {at.whole:.3g} s, training alone {at.training:.3g} s, epoch {at.epoch}")
    head = f"seed {record['seed']}, to validation ndcg@100 {record['target']:.4f}: "
    return head + "; ".join([*cells, *record["words"]])


def summary(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Ours and the faster of RecBole's configurations, over the rounds in which both reached the target."""
    lines = []
    for field, what in (("whole", "with validation"), ("training", "training alone")):
        ours, theirs = [], []
        for record in records:
            own = record["reached"]["aejax"]
            others = [at for name, at in record["reached"].items() if at is not None and name != "aejax"]
            if own is not None and others:
                ours.append(getattr(own, field))
                theirs.append(min(getattr(at, field) for at in others))
        if ours:
            shown = [machine.median_range(values) for values in (ours, theirs, machine.paired(ours, theirs))]
            own, other, ratio = (f"{one['median']:.3g} [{one['min']:.3g}, {one['max']:.3g}]" for one in shown)
            rounds = f"{len(ours)} of {len(records)} rounds"
            lines.append(f"{what}: aejax {own} s, RecBole {other} s, ratio {ratio} in {rounds}")
    return lines
