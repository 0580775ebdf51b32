"""Speed and memory, measured side by side in one run and repeated.

    python scripts/benchmark.py tables data/prepared_data
    python scripts/benchmark.py epochs data/inter/ml-100k-s0 --peer-python PEERS/bin/python
    python scripts/benchmark.py run data/gowalla --model ease --set l2=80
    python scripts/benchmark.py closed data/prepared_data --model ease
    python scripts/benchmark.py command

Each prints medians, and the least and the most of the repetitions. Machines are noisy: compare figures of one run only.
"""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import tyro

PEER_SCRIPT = Path(__file__).parent / "peers" / "recbole_run.py"


def show(label: str, values: list[float], unit: str = "s") -> float:
    """Print the median with its range; returns the median."""
    median = statistics.median(values)
    print(f"{label:40s} {median:9.4g} {unit}  [{min(values):.4g}, {max(values):.4g}]  n={len(values)}", flush=True)
    return median


def in_fresh_process(function: str, *arguments: str) -> Any:
    """The JSON that a function of this file returns, called in an interpreter of its own."""
    code = f"import json, benchmark; print(json.dumps(benchmark.{function}(*{arguments!r})))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def peak_megabytes() -> float:
    """The most memory this process has had. (`ru_maxrss` would start at the parent's.)"""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def read_to_matrix(folder: str) -> tuple[float, float]:
    """Seconds (after imports) and MB above the bare interpreter (with imports) from CSV files to the matrix."""
    before = peak_megabytes()
    from aejax import datasets
    from aejax.interactions import net_returns
    from aejax.matrix import user_item_matrix

    start = time.perf_counter()
    user_item_matrix(net_returns(datasets.read(Path(folder)).interactions), "quantity")
    return time.perf_counter() - start, peak_megabytes() - before


def notebook_pivot(folder: str) -> tuple[float, float]:
    """The same with pandas alone, as the original notebook had it: read, group, pivot, fill with zeros."""
    before = peak_megabytes()
    import pandas as pd

    start = time.perf_counter()
    orders = pd.read_csv(Path(folder) / "orders.csv", dtype={"customer_id": str, "lineitem_sku": str})
    cells = orders.groupby(["customer_id", "lineitem_sku"])["lineitem_quantity"].sum()
    pd.DataFrame(cells).unstack(fill_value=0)
    return time.perf_counter() - start, peak_megabytes() - before


def tables(data: tyro.conf.Positional[Path], repeats: int = 7) -> None:
    """From three CSV files to the user-item matrix, beside the dense pivot of pandas.

    Args:
      data: three CSV files of a shop.
      repeats: fresh processes of each, alternating.
    """
    figures: dict[str, list[tuple[float, float]]] = {"read_to_matrix": [], "notebook_pivot": []}
    for _ in range(repeats):
        for name, values in figures.items():
            values.append(tuple(in_fresh_process(name, str(data.resolve()))))
    for name, values in figures.items():
        show(f"{name}, seconds", [seconds for seconds, _ in values])
        show(f"{name}, memory", [megabytes for _, megabytes in values], "MB")


def command(repeats: int = 9) -> None:
    """`aejax --help`.

    Args:
      repeats: fresh processes.
    """
    call = [str(Path(sys.executable).with_name("aejax")), "--help"]
    show(
        "aejax --help", [_timed(partial(subprocess.run, call, check=True, capture_output=True)) for _ in range(repeats)]
    )


def _timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def epochs(
    data: tyro.conf.Positional[Path],
    peer_python: Path | None = None,
    batch_size: int = 100,
    hidden: int = 600,
    latent_dim: int = 64,
    count: int = 10,
    repeats: int = 3,
) -> None:
    """Seconds per training epoch of Mult-VAE, beside RecBole's: same files, layers and batch size, no validation.

    Args:
      data: a predefined split in RecBole's format.
      peer_python: the interpreter of an environment with RecBole.
      batch_size: users in an update.
      hidden: size of the hidden layer.
      latent_dim: size of the code.
      count: epochs in a repetition; its first is left out (compilation).
      repeats: alternating repetitions; a figure is the median epoch of one.
    """
    ours: list[float] = []
    peers: list[float] = []
    for _ in range(repeats):
        ours.append(in_fresh_process("own_epoch", *map(str, (data.resolve(), batch_size, hidden, latent_dim, count))))
        if peer_python is not None:
            peers.append(_peer_epoch(peer_python, data, batch_size, hidden, latent_dim, count))
    own = show("aejax multvae, epoch", ours)
    if peers:
        print(f"RecBole / aejax: {show('RecBole MultiVAE, epoch', peers) / own:.2f}")


def own_epoch(folder: str, batch_size: str, hidden: str, latent_dim: str, count: str) -> float:
    """The median epoch of a training in this process."""
    import jax

    from aejax import experiment, registry
    from aejax.config import DataConfig, SplitConfig

    sizes = {"batch_size": batch_size, "hidden": hidden, "latent_dim": latent_dim, "epochs": count}
    train = experiment.prepare(DataConfig(folder), SplitConfig("predefined")).split.train
    ends: list[float] = []
    registry.family("multvae").fit(
        train,
        registry.make_settings("multvae", sizes),
        key=jax.random.key(0),
        validate=None,
        on_epoch=lambda progress, record: ends.append(time.perf_counter()),
        resume=lambda progress: progress,
    )
    return statistics.median(later - earlier for earlier, later in itertools.pairwise(ends))


def run(data: tyro.conf.Positional[Path], model: str = "ease", set: tuple[str, ...] = (), repeats: int = 1) -> None:
    """`aejax fit` from files to run directory, test figures and report included: seconds, and the most memory.

    Args:
      data: the folder.
      model: registry name.
      set: its settings, key=value.
      repeats: fresh processes.
    """
    figures = [in_fresh_process("whole_run", str(data.resolve()), model, *set) for _ in range(repeats)]
    show(f"aejax fit --model {model}, seconds", [seconds for seconds, _ in figures])
    show(f"aejax fit --model {model}, memory", [gigabytes for _, gigabytes in figures], "GiB")


def whole_run(folder: str, model: str, *settings: str) -> tuple[float, float]:
    """Seconds, imports included, and the most GiB of a fit in this process."""
    start = time.perf_counter()
    from aejax import cli

    with tempfile.TemporaryDirectory() as scratch:
        try:
            cli.main(["fit", folder, "--model", model, "--run", f"{scratch}/run", "--set", *settings])
        except SystemExit as ended:
            if ended.code:
                raise
    return time.perf_counter() - start, peak_megabytes() / 1024


def closed(data: tyro.conf.Positional[Path], model: str = "ease", split: str = "items", repeats: int = 5) -> None:
    """A closed form with its defaults, from train lines to the scores of all customers, in one warm process.

    Args:
      data: the folder.
      model: registry name.
      split: protocol whose train part is fitted.
      repeats: after one that is not counted.
    """
    import jax

    from aejax import batching, experiment, registry
    from aejax.config import DataConfig, SplitConfig
    from aejax.interactions import Histories

    train = experiment.prepare(DataConfig(str(data)), SplitConfig(split)).split.train
    family, settings = registry.family(model), registry.make_settings(model, {})
    size = batching.scoring_chunk(len(train.items))
    fits, scorings = [], []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        fitted = family.fit(train, settings)
        jax.block_until_ready(fitted.state())
        fits.append(time.perf_counter() - start)
        batch = fitted.encode(Histories(train, None))
        for first in range(0, len(train.users), size):
            piece = jax.tree.map(lambda leaf, first=first: leaf[first : first + size], batch)
            jax.block_until_ready(fitted.scores(piece))
        scorings.append(time.perf_counter() - start - fits[-1])
    show(f"{model}, fit", fits[1:])
    show(f"{model}, encode and score all", scorings[1:])


def _peer_epoch(python: Path, folder: Path, batch_size: int, hidden: int, latent_dim: int, count: int) -> float:
    pairs = [f"mlp_hidden_size=[{hidden}]", f"latent_dimension={2 * latent_dim}", "eval_step=1000"]
    options = ["--batch", str(batch_size), "--epochs", str(count), "--patience", "1000", "--set", *pairs]
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(
            [python.absolute(), PEER_SCRIPT.resolve(), folder.resolve(), "MultiVAE", *options],
            cwd=scratch,
            check=True,
            capture_output=True,
            text=True,
        )
    return json.loads(done.stdout.splitlines()[-1])["epoch_seconds"]


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict(
        {"tables": tables, "epochs": epochs, "run": run, "closed": closed, "command": command}
    )
