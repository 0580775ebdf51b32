"""A published table again: every model with its stored settings, a figure to compare with beside ours.

    python scripts/reproduce.py gowalla --data data/gowalla
    python scripts/reproduce.py ml-100k --data data/ml-100k --quick

Every row runs in a process of its own, whose time and peak memory are its own too, and is written to OUT as it ends,
with its settings and environment: a second start goes on with the rows that are missing, or whose settings or data are
others now. `--quick` runs the rows that take little, on the first split alone.

Settings come from `scripts/settings/NAME.json` (found on validation by `aejax tune`, whose logs lie beside it); rows
marked with * have the settings that their paper or the peer names instead. A model that is not in the file has its
defaults, and its row says so.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import tyro
from own_run import peak_megabytes

from aejax import datasets, experiment, registry, runs
from aejax.config import DataConfig, SplitConfig
from aejax.evaluation import evaluate

SETTINGS = Path(__file__).parent / "settings"


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
      model: registry name.
      reference: metric -> the figure to compare with.
      minutes: about how long it takes on 2 cores.
      given: settings that the paper or the peer names; None: those stored.
      quick: whether `--quick` has it.
      source: whose figure the reference is.
    """

    model: str
    reference: Mapping[str, float]
    minutes: float
    given: Mapping[str, Any] | None = None
    quick: bool = False
    source: str = ""

    @property
    def label(self) -> str:
        """The name under which the row stands."""
        return self.model + ("*" if self.given is not None else "")


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
      protocol: of the split.
      metrics: its columns.
      split_seeds: how many splits a figure is the mean of.
      rows: the models.
    """

    protocol: str
    metrics: tuple[str, ...]
    split_seeds: int
    rows: tuple[Row, ...]


def _gowalla(recall: float, ndcg: float) -> dict[str, float]:
    return {"recall_all@20": recall, "ndcg@20": ndcg}


TABLES = {
    "gowalla": Table(
        "predefined",
        ("recall_all@20", "ndcg@20"),
        1,
        (
            Row("popularity", {}, 0.5, quick=True),
            Row("itemknn", {}, 1.5, quick=True),
            Row("ease", _gowalla(0.1765, 0.1467), 2.5, {"l2": 80}, quick=True, source="BARS"),
            Row("ease", _gowalla(0.1765, 0.1467), 2.5, source="BARS"),
            Row("gfcf", _gowalla(0.1849, 0.1518), 1, {"factors": 256, "alpha": 0.3}, quick=True, source="Shen 2021"),
            Row("gfcf", _gowalla(0.1849, 0.1518), 2, source="Shen 2021"),
            Row("bspm", _gowalla(0.1920, 0.1597), 3, {}, source="Choi 2023"),
            Row("multvae", _gowalla(0.1641, 0.1335), 45, source="BARS"),
            Row("blend", _gowalla(0.1872, 0.1557), 7, quick=True, source="SimpleX"),
        ),
    ),
    "ml-100k": Table(
        "items",
        ("ndcg@100",),
        5,
        (
            Row("popularity", {}, 0.3, quick=True),
            Row("itemknn", {}, 0.5, quick=True),
            Row("userknn", {}, 0.5),
            Row("rp3beta", {}, 0.5),
            Row("ials", {}, 1),
            Row("gfcf", {}, 0.5, quick=True),
            Row("ease", {"ndcg@100": 0.4521}, 0.5, quick=True, source="RecBole, 5 splits"),
            Row("edlae", {}, 0.5),
            Row("rdlae", {}, 0.5),
            Row("dan", {}, 0.5),
            Row("slim", {"ndcg@100": 0.4527}, 2, source="RecBole, 5 splits"),
            Row("bspm", {}, 0.5),
            Row("multvae", {"ndcg@100": 0.4515}, 2, source="RecBole, 3 splits"),
            Row("recvae", {"ndcg@100": 0.4516}, 10, source="RecBole, 5 splits"),
            Row("cdae", {}, 6),
            Row("elsa", {}, 2),
            Row("macridvae", {}, 15),
            Row("autorec", {}, 4),
            Row("blend", {"ndcg@100": 0.4527}, 20, quick=True, source="RecBole ADMMSLIM, 5 splits"),
        ),
    ),
    "completejourney": Table(
        "items",
        ("ndcg@100",),
        5,
        (
            Row("popularity", {}, 0.5, quick=True),
            Row("itemknn", {}, 2, quick=True),
            Row("userknn", {}, 2),
            Row("rp3beta", {"ndcg@100": 0.1155}, 2, source="RecBole, one split"),
            Row("ials", {}, 10),
            Row("gfcf", {}, 3, quick=True),
            Row("ease", {"ndcg@100": 0.1296}, 1, {"l2": 500}, quick=True, source="RecBole, one split"),
            Row("ease", {"ndcg@100": 0.1296}, 1, quick=True, source="RecBole, one split"),
            Row("edlae", {}, 1),
            Row("rdlae", {}, 1),
            Row("dan", {}, 1),
            Row("slim", {}, 10),
            Row("bspm", {}, 3),
            Row("multvae", {"ndcg@100": 0.1209}, 10, source="RecBole, 3 splits"),
            Row("recvae", {"ndcg@100": 0.117}, 20, source="RecBole, one split"),
            Row("cdae", {}, 20),
            Row("elsa", {}, 8),
            Row("macridvae", {}, 20),
            Row("autorec", {}, 8),
            Row("blend", {}, 8, quick=True),
        ),
    ),
}


def row_settings(row: Row, stored: Mapping[str, Any]) -> Any:
    """The settings of a row, those of a blend's parts included."""
    given = row.given if row.given is not None else experiment.own_settings(row.model, {}, stored)
    return registry.make_settings(row.model, given)


def run_row(row: Row, table: Table, splits: int, data: Path, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Fit and test one row in this process on the first splits: figures, seconds, peak memory, what they depend on."""
    start = time.perf_counter()
    dataset = datasets.read(data)
    settings = row_settings(row, stored)
    figures: dict[str, list[float]] = {metric: [] for metric in table.metrics}
    for seed in range(splits):
        parts = experiment.prepare_dataset(dataset, DataConfig(str(data)), SplitConfig(table.protocol, seed=seed)).split
        fitted = experiment.fit_model(row.model, settings, parts, seed=0, validated=False)
        values = evaluate(fitted.model, parts.test).values
        for metric, means in figures.items():
            means.append(float(values[metric].mean(dtype="float64")))
    return {
        "row": row.label,
        "origin": "published" if row.given is not None else "tuned" if row.model in stored else "defaults",
        "figures": figures,
        "seconds": round(time.perf_counter() - start, 1),
        "gigabytes": round(peak_megabytes() / 1024, 2),
        "settings": registry.as_json(settings),
        "environment": runs.environment(dataset.files),
    }


def print_table(table: Table, found: Mapping[str, Mapping[str, Any]]) -> None:
    """The rows that are there, as Markdown."""
    heads = [head for metric in table.metrics for head in (metric, "reference", "difference")]
    print(f"| model | settings | {' | '.join(heads)} | seconds | GB | reference from |\n|{'---|' * (len(heads) + 5)}")
    for row in table.rows:
        if row.label not in found:
            continue
        record = found[row.label]
        cells = [record["origin"]]
        for metric in table.metrics:
            own = statistics.mean(record["figures"][metric])
            other = row.reference.get(metric)
            cells += [f"{own:.4f}", *(("", "") if other is None else (f"{other:.4f}", f"{own - other:+.4f}"))]
        print(f"| {row.label} | {' | '.join(cells)} | {record['seconds']} | {record['gigabytes']} | {row.source} |")


def main(
    name: tyro.conf.Positional[Literal["gowalla", "ml-100k", "completejourney"]],
    data: Path | None = None,
    quick: bool = False,
    out: Path | None = None,
    row: str | None = None,
) -> None:
    """Reproduce a table.

    Args:
      name: which.
      data: its folder; default data/NAME.
      quick: only the rows that take little, on the first split.
      out: a line per finished row; default checkpoints/reproduce-NAME.jsonl.
      row: only this one, in this process; prints its record.
    """
    table = TABLES[name]
    splits = 1 if quick else table.split_seeds
    data = Path("data") / name if data is None else data
    out = Path("checkpoints") / f"reproduce-{name}.jsonl" if out is None else out
    settings = SETTINGS / f"{name}.json"
    stored = json.loads(settings.read_text(encoding="utf-8")) if settings.exists() else {}
    if row is not None:
        named = {one.label: one for one in table.rows}
        if row not in named:
            raise SystemExit(f'--row is "{row}"; the rows of {name} are {", ".join(named)}')
        print(json.dumps(run_row(named[row], table, splits, data, stored)))
        return
    wanted = [one for one in table.rows if one.quick or not quick]
    records = runs.read_log(out)
    same_splits = [record for record in records if _splits(record, table) == splits]
    found = _still_true({record["row"]: record for record in same_splits}, wanted, data, stored)
    missing = [one for one in wanted if one.label not in found]
    minutes = sum(one.minutes for one in missing) * splits / table.split_seeds
    print(f"{len(missing)} of {len(wanted)} rows to run, about {minutes:.0f} minutes.")
    out.parent.mkdir(parents=True, exist_ok=True)
    runs.write_log(out, records)  # without a line that was cut short: what follows it could not be read
    failed = []
    for one in missing:
        call = [sys.executable, __file__, name, "--data", str(data), "--row", one.label]
        call += ["--quick"] if quick else []
        done = subprocess.run(call, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            failed.append(one.label)
            continue
        record = json.loads(done.stdout.splitlines()[-1])
        runs.append_log(out, record)
        found[one.label] = record
        print(f"{one.label}: {record['seconds']} s", flush=True)
    if splits < table.split_seeds:
        print(f"On the first of {table.split_seeds} splits; a reference that is a mean of several stands beside it.")
    print_table(table, found)
    if failed:
        raise SystemExit(f"no figure for {', '.join(failed)}; what they said stands above")


def _splits(record: Mapping[str, Any], table: Table) -> int:
    """Of how many splits a record holds the table's figures."""
    return min(len(record["figures"].get(metric, ())) for metric in table.metrics)


def _still_true(
    found: Mapping[str, dict[str, Any]], rows: Sequence[Row], data: Path, stored: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The records of these rows that were made with the settings and the data of today."""
    hashes = runs.environment(datasets.read(data).files)["data_sha256"] if found else {}
    return {
        row.label: record
        for row in rows
        if (record := found.get(row.label))
        and record.get("environment", {}).get("data_sha256") == hashes
        and record["settings"] == registry.as_json(row_settings(row, stored))
    }


if __name__ == "__main__":
    tyro.cli(main)
