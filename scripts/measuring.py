"""A task of the benchmark beside its peers and the machine's limits: measured, shown, and as a row of a table."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import machine
import sides

# Reported by both sides of a training, and compared.
SAME_WORK = ("users", "items", "cells", "batch_size", "dropout", "parameters", "epochs")
# Own functions that run on the device they are given.
ON_DEVICE = ("epoch", "fit_and_score", "top_lists", "evaluation", "seeds")


LIMITS = "limits"  # the side that measures the machine
# What else of a side's first report stands in the record.
KEPT = ("validation", "first_seconds", "megabytes", "megabytes_more", "customers_per_second", "work")


@dataclasses.dataclass(frozen=True)
class Peer:
    """Another library's side: its environment's name, its script in `scripts/peers`, and arguments after the folder;
    `{epochs}` in them is ours.
    """

    name: str
    environment: str
    arguments: str


@dataclasses.dataclass(frozen=True)
class Task:
    """A row of the benchmark.

    Attributes:
      name: for `--only`.
      what: for the reader.
      data: `split`, `shop`, or empty: the folder that it needs.
      function: of `own_run.py`.
      options: its options beside the folder and the device.
      figure: which of the reported seconds are compared.
      peers: what stands beside it.
      work: what the task needs at least, from the reported size and the settings; None: it has no floor.
    """

    name: str
    what: str
    data: str
    function: str
    options: Mapping[str, Any]
    figure: str
    peers: tuple[Peer, ...] = ()
    work: Callable[[Mapping[str, Any], Mapping[str, Any]], machine.Work] | None = None


def measure(
    task: Task,
    folder: Path | None,
    *,
    peers: Path,
    repeats: int,
    epochs: int,
    once_above: float,
    device: str | None,
) -> dict[str, Any]:
    """One task: figures of every side, ratios pair by pair, and the floor; for the arguments see `benchmark.tasks`."""
    options = dict(task.options)
    if task.function == "epoch":
        options["settings"] = {**options["settings"], "epochs": epochs}
    if folder is not None:
        options["data"] = str(folder.resolve())
    if task.function in ON_DEVICE:
        options["device"] = device
    own = sides.own(task.function, options)
    beside = [side_of(peer, folder, epochs, device) for peer in task.peers]
    need = None
    if task.work is not None:
        size = sides.run(own, peers)["work"]  # a round that is not counted: it tells the size, and warms the disk
        need = task.work(size, options.get("settings", {}))
        beside.append(
            sides.own("limits", {"product": need.product, "resident": need.resident, "device": device}, LIMITS)
        )
    reports, words = sides.alternate([own, *beside], repeats, peers=peers, device=device, once_above=once_above)
    limits = reports.pop(LIMITS, [])
    mine = [report[task.figure] for report in reports[own.name]]
    record: dict[str, Any] = {"kind": "task", "task": task.name, "what": task.what, "data": folder and folder.name}
    record["sides"] = {name: side_figures(task, name, lines, reports[own.name]) for name, lines in reports.items()}
    if need is not None:
        record["floor"] = floor(need, [limit_of(line) for line in limits], mine, limits[0]["device"])
    return {**record, "words": words}


def side_figures(
    task: Task, name: str, reports: Sequence[Mapping[str, Any]], own: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What the repeats of a side come to, and beside ours."""
    values, mine = ([report[task.figure] for report in lines] for lines in (reports, own))
    kept = {
        key: reports[0][key]
        for key in ("validation", "first_seconds", "megabytes", "customers_per_second", "megabytes_more", "work")
        if key in reports[0]
    }
    figures = {**machine.median_range(values), "values": values, **kept}
    if reports is own:
        return figures
    ratio = machine.median_range(machine.paired(mine, values))
    return {**figures, "ratio": ratio, "differs": differences(own[0].get("work", {}), reports[0].get("work", {}))}


def side_of(peer: Peer, folder: Path | None, epochs: int, device: str | None) -> sides.Side:
    """The peer's process; one without an environment of its own is a function of `own_run.py`."""
    if not peer.environment:
        return sides.own(peer.arguments, {"data": str(folder and folder.resolve())}, name=peer.name)
    words = peer.arguments.replace("{epochs}", str(epochs)).split()
    gpu = ["--gpu"] if peer.environment == "recbole" and device == "gpu" else []
    script = f"peers/{peer.environment}_run.py"
    return sides.Side(peer.name, script, (str(folder and folder.resolve()), *words, *gpu), peer.environment)


def limit_of(line: Mapping[str, Any]) -> machine.Limits:
    """What a round measured."""
    return machine.Limits(line["float32"], line["bfloat16"], line["bandwidth"])


def floor(
    need: machine.Work, limits: Sequence[machine.Limits], seconds: Sequence[float], device: str
) -> dict[str, Any]:
    """The least seconds by the limits of every round, the share of that speed which is reached, and what binds."""
    floors = [limit.floor(need) for limit in limits]
    peak = machine.peak(device)
    return {
        "gflop": need.flops / 1e9,
        "gigabytes": need.bytes / 1e9,
        "product": need.product,
        "gflops_float32": statistics.median(limit.float32 for limit in limits) / 1e9,
        "gflops_bfloat16": statistics.median(limit.bfloat16 for limit in limits) / 1e9,
        "gigabytes_a_second": statistics.median(limit.bandwidth for limit in limits) / 1e9,
        "seconds": machine.median_range(floors),
        "share": machine.median_range(machine.paired(seconds, floors)),
        "binds": statistics.mode(limit.binds(need) for limit in limits),
        "mfu": None if peak is None else need.flops / statistics.median(seconds) / peak,
    }


def differences(own: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """In what the work of two sides differs, of all that both tell."""
    both = [name for name in SAME_WORK if own.get(name) is not None and other.get(name) is not None]
    return [f"{name} {other[name]} instead of {own[name]}" for name in both if own[name] != other[name]]


def spread(values: Mapping[str, float], unit: str = " s") -> str:
    """A median with its range."""
    return f"{values['median']:.4g}{unit} [{values['min']:.4g}, {values['max']:.4g}]"


def show(record: Mapping[str, Any]) -> None:
    """Print a task."""
    work = record["sides"]["aejax"].get("work", {})
    size = f"{work['users']:,} users x {work['items']:,} products, {work['cells']:,} cells" if "users" in work else ""
    print(f"\n{record['task']}: {record['what']}  ({', '.join(filter(None, (record['data'], size)))})")
    for name, side in record["sides"].items():
        parts = [f"  {name:18s} {spread(side)} n={side['repeats']}"]
        if "ratio" in side:
            parts.append(f"{spread(side['ratio'], '')} times aejax")
        if "validation" in side:
            parts.append(f"validation ndcg@100 {side['validation']:.4f} after {side['work'].get('epochs', 1)} epochs")
        if "first_seconds" in side:
            parts.append(f"first epoch {side['first_seconds']:.3g} s")
        if "megabytes" in side:
            parts.append(f"{side['megabytes']:,.0f} MB")
        print("   ".join(parts))
        if "ratio" in side:
            print(f"  {'':18s} {'; '.join(side['differs']) or 'the same work, of what both tell'}")
    if "floor" in record:
        least = record["floor"]
        print(
            f"  {'floor':18s} {spread(least['seconds'])}: {least['gflop']:.3g} GFLOP at "
            f"{least['gflops_float32']:.3g} GFLOP/s (bfloat16 {least['gflops_bfloat16']:.3g}) and "
            f"{least['gigabytes']:.3g} GB at {least['gigabytes_a_second']:.3g} GB/s; {least['binds']} binds; aejax "
            f"reaches {100 * least['share']['median']:.2g}% of its speed"
            + (f", MFU {100 * least['mfu']:.1f}%" if least["mfu"] is not None else "")
        )
    for word in record["words"]:
        print(f"  {word}", flush=True)


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """All tasks as one table in Markdown."""
    rows = ["| task | aejax | beside it, ratio | share of the floor's speed | binds |", "|---|---|---|---|---|"]
    for record in records:
        others = [
            f"{name} {side['median']:.4g} s, {side['ratio']['median']:.3g}x"
            for name, side in record["sides"].items()
            if "ratio" in side
        ]
        least = record.get("floor")
        share = f"{100 * least['share']['median']:.2g}%" if least else ""
        what = " ".join(filter(None, (record["what"], record["data"] and f"({record['data']})")))
        binds = least["binds"] if least else ""
        rows.append(f"| {what} | {spread(record['sides']['aejax'])} | {'; '.join(others)} | {share} | {binds} |")
    return "\n".join(rows)


def write(out: Path | None, record: Mapping[str, Any]) -> None:
    """A record as a line of benchmark.jsonl, where there is a folder for it."""
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        with (out / "benchmark.jsonl").open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(record) + "\n")
