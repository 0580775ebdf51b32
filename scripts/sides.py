"""The sides of a comparison, each run in a process of its own, one after the other, again and again."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parent


@dataclasses.dataclass(frozen=True)
class Side:
    """What one library does for a task.

    Attributes:
      name: in the table.
      script: in `scripts/`; the last line that it prints is JSON.
      arguments: of the script.
      environment: the folder in `--peers` whose interpreter runs it; None: this interpreter.
    """

    name: str
    script: str
    arguments: tuple[str, ...]
    environment: str | None = None


class LeftOut(Exception):
    """A side that cannot be run here; the text says why."""


def own(function: str, options: Mapping[str, Any], name: str = "aejax") -> Side:
    """A function of `own_run.py`."""
    return Side(name, "own_run.py", (function, json.dumps(options)))


def run(side: Side, peers: Path, device: str | None = None) -> dict[str, Any]:
    """What a side reports, and `process_seconds`, start and imports included.

    Args:
      side: the side.
      peers: the folder of the peers' environments.
      device: with `cpu`, no accelerator is shown to a peer; an own side has it among its options.

    Raises:
      LeftOut: the environment is not there, or the side failed.
    """
    python = Path(sys.executable) if side.environment is None else peers.resolve() / side.environment / "bin" / "python"
    if not python.exists():
        raise LeftOut(f"{side.name} is left out: there is no {python}; `make bench` makes it")
    hidden = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"} if device == "cpu" and side.environment else {}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:  # some peers write logs and checkpoints where they run
        done = subprocess.run(
            [python, SCRIPTS / side.script, *side.arguments],
            cwd=scratch,
            env={**os.environ, **hidden},
            capture_output=True,
            text=True,
        )
    seconds = time.perf_counter() - start
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise LeftOut(f"{side.name} is left out: {last}")
    return {**json.loads(done.stdout.splitlines()[-1]), "process_seconds": seconds}


def alternate(
    sides: Sequence[Side], repeats: int, *, peers: Path, device: str | None, once_above: float
) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """Every side in turn, `repeats` times.

    Args:
      sides: the first is ours: where it fails, so does the benchmark.
      repeats: rounds.
      peers: the folder of the peers' environments.
      device: see `run`.
      once_above: seconds after whose first run a peer is not run again.

    Returns:
      The reports of each side by its name, and why others were left out.

    Raises:
      LeftOut: our side failed.
    """
    reports: dict[str, list[dict[str, Any]]] = {}
    words: list[str] = []
    going = list(sides)
    for _ in range(repeats):
        for side in list(going):
            try:
                report = run(side, peers, device)
            except LeftOut as why:
                if side.environment is None:
                    raise
                words.append(str(why))
                going.remove(side)
                continue
            reports.setdefault(side.name, []).append(report)
            if side.environment is not None and report["process_seconds"] > once_above:
                words.append(f"{side.name} ran once: it takes {report['process_seconds']:.0f} s")
                going.remove(side)
    return reports, words
