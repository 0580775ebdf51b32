"""What a large shop takes: seconds and peak memory of the check, of the matrix, and of lists for many customers.

`make` writes a large shop from a small one: copies of it, each with customers and orders of its own, streamed. `check`
runs `aejax check` and the aggregation to the user-item matrix on it, `recommend` runs `aejax recommend` for ever more
customers of a run; each in a process of its own, on two cores.
"""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import tyro

CORES = 2
# The commands' own steps from a folder to the matrix: read, net the returns, set rare products aside, aggregate.
AGGREGATE = """
import sys
from pathlib import Path
from aejax import datasets
from aejax.interactions import net_returns, set_aside_rare
from aejax.matrix import user_item_matrix
lines = datasets.read(Path(sys.argv[1])).interactions
matrix = user_item_matrix(net_returns(set_aside_rare(lines, 10)), "log1p-orders")
print(f"{matrix.shape[0]:,} customers x {matrix.shape[1]:,} products, {matrix.nnz:,} cells")
"""


class Measured(NamedTuple):
    """What a process took.

    Attributes:
      seconds: from its start to its end.
      gigabytes: the most memory that it held at once, in units of 10^9 bytes.
      output: what it printed.
    """

    seconds: float
    gigabytes: float
    output: str


def measured(*words: object) -> Measured:
    """Run a command of this Python; ends with it where it fails."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])  # the process inherits it
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *map(str, words)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, words[-4:]))} ended with {process.returncode}")
    scale = 1 if sys.platform == "darwin" else 1024
    return Measured(time.perf_counter() - start, usage.ru_maxrss * scale / 1e9, output)


def copied(path: Path, own: Sequence[str], copies: int, share: float = 1.0) -> Iterator[list[str]]:
    """The header of a CSV file, and its rows once for each copy.

    Args:
      path: the file.
      own: columns of ids that each copy has of its own; the first copy keeps those of the file.
      copies: how many.
      share: of the rows that each copy has, each row with this chance.
    """
    chance = random.Random(0)
    for copy in range(copies):
        with path.open(encoding="utf-8", newline="") as content:
            rows = csv.reader(content)
            header = next(rows)
            if copy == 0:
                yield header
            places = [place for place, name in enumerate(header) if name in own]
            for row in rows:
                if share < 1.0 and chance.random() >= share:
                    continue
                if copy:
                    for place in places:
                        row[place] = f"{row[place]}-{copy}" if row[place] else ""
                yield row


def write(path: Path, rows: Iterator[list[str]], most: int | None = None) -> int:
    """Stream a header and at most so many rows to a CSV file, and count them."""
    count = -1
    with path.open("w", encoding="utf-8", newline="") as content:
        writer = csv.writer(content, lineterminator="\n")
        for count, row in enumerate(rows):
            writer.writerow(row)
            if count == most:
                break
    return count


def make(
    source: tyro.conf.Positional[Path], out: tyro.conf.Positional[Path], lines: int = 20_000_000, customers: int = 0
) -> None:
    """Write a shop of so many order lines.

    Args:
      source: a folder with customers.csv, orders.csv and products.csv.
      out: the new folder.
      lines: order lines.
      customers: how many at least; more than the copies have which the lines need means that of each customer's lines
        a part is drawn by chance.
    """
    out.mkdir(parents=True)
    with (source / "orders.csv").open("rb") as content:
        of_source = sum(1 for _ in content) - 1
    with (source / "customers.csv").open(encoding="utf-8", newline="") as content:
        people = sum(1 for _ in csv.reader(content)) - 1
    whole = -(-lines // of_source)
    copies = max(whole, -(-customers // people))
    # Of whole copies the end is cut off; of parts a little more is drawn, so that chance does not leave them short.
    share = 1.0 if copies == whole else 1.01 * lines / (of_source * copies)
    shutil.copyfile(source / "products.csv", out / "products.csv")
    bought_by = write(out / "customers.csv", copied(source / "customers.csv", ["customer_id"], copies))
    written = write(
        out / "orders.csv", copied(source / "orders.csv", ["customer_id", "order_id"], copies, share), lines
    )
    megabytes = (out / "orders.csv").stat().st_size / 1e6
    print(f"{written:,} order lines of {bought_by:,} customers, {copies} copies of {source}: {megabytes:,.0f} MB")


def check(folder: tyro.conf.Positional[Path], most_gigabytes: float = 6.0) -> None:
    """Check and aggregate a shop; exits with 1 where a process takes too much memory.

    Args:
      folder: the shop.
      most_gigabytes: what each process may hold.
    """
    report = folder.parent / f"{folder.name}-check.json"
    of_check = measured("-m", "aejax", "check", folder, "--json", report)
    read = json.loads(report.read_text(encoding="utf-8"))["files"]["orders.csv"]["read"]
    report.unlink()
    print(f"check: {read:,} order lines, {of_check.seconds:.0f} s, {of_check.gigabytes:.2f} GB at most", flush=True)
    of_matrix = measured("-c", AGGREGATE, folder)
    print(f"matrix: {of_matrix.output.strip()}, {of_matrix.seconds:.0f} s, {of_matrix.gigabytes:.2f} GB at most")
    if max(of_check.gigabytes, of_matrix.gigabytes) > most_gigabytes:
        raise SystemExit(f"more than {most_gigabytes:g} GB")


def recommend(
    run: tyro.conf.Positional[Path],
    customers: tyro.conf.Positional[Path],
    sizes: tuple[int, ...] = (100_000, 300_000, 1_000_000),
    growth_megabytes_per_million: float = 500.0,
) -> None:
    """Write lists for ever more customers of a run; exits with 1 where memory grows faster than it may.

    Args:
      run: a run directory.
      customers: the customers.csv of its shop, whose first ones get lists.
      sizes: how many customers, fewest first.
      growth_megabytes_per_million: from the first of the sizes to the last; the ids of a million customers take part
        of it.
    """
    points = []
    for size in sizes:
        ids, out = (run.parent / f"{run.name}-{name}-{size}.csv" for name in ("customers", "lists"))
        write(ids, (row[:1] for row in copied(customers, (), 1)), size)
        point = measured("-m", "aejax", "recommend", run, "--customers", ids, "--out", out)
        points.append(point.gigabytes)
        megabytes = out.stat().st_size / 1e6
        print(
            f"{size:,} customers: {point.seconds:.0f} s, {point.gigabytes:.2f} GB at most, {megabytes:,.0f} MB written",
            flush=True,
        )
        ids.unlink()
        out.unlink()
        out.with_name(f"{out.name}.manifest.json").unlink(missing_ok=True)
    growth = 1e9 * (points[-1] - points[0]) / max(sizes[-1] - sizes[0], 1)
    print(f"memory grows by {growth:,.0f} MB per million customers")
    if growth > growth_megabytes_per_million:
        raise SystemExit(f"more than {growth_megabytes_per_million:g} MB")


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"make": make, "check": check, "recommend": recommend}, description=__doc__)
