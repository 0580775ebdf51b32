"""aejax's side of each task of the benchmark, a function each, run by `sides.own` in a process of its own.

A function takes JSON and prints JSON: its seconds, and `work`, what they were spent on. What is measured from its start
imports nothing before its clock runs.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def environment(files: list[str]) -> dict[str, Any]:
    """Machine, versions, git commit, and SHA-256 of the data."""
    import machine

    from aejax import runs

    return {**machine.description(), **runs.environment([Path(file) for file in files])}


def limits(product: list[int], resident: int, device: str | None = None) -> dict[str, Any]:
    """The machine's rates at this product of matrices and this size of array, and its name."""
    import dataclasses

    import machine

    from aejax import experiment, runs

    with experiment.on_device(device):
        return {**dataclasses.asdict(machine.measure(product, resident)), "device": runs.environment(())["device"]}


def epoch(data: str, model: str, settings: Mapping[str, Any], device: str | None = None) -> dict[str, Any]:
    """Epochs without validation: the median without the first, which compiles; and the validation of the last."""
    from aejax import experiment
    from aejax.evaluation import validator

    with experiment.on_device(device):
        parts = _parts(data)
        fitted, seconds = _train(parts.train, model, settings)
        return {
            "epoch_seconds": statistics.median(seconds[1:]),
            "first_seconds": seconds[0],
            "validation": validator(parts.validation, once=True)(fitted),
            "work": {**_size(parts.train, fitted, settings), "epochs": len(seconds)},
            **_memory(),
        }


def fit_and_score(data: str, model: str, settings: Mapping[str, Any], device: str | None = None) -> dict[str, Any]:
    """A closed form from train lines to the scores of all customers, warm."""
    import jax

    from aejax import batching, experiment
    from aejax.evaluation import validator
    from aejax.interactions import Histories

    with experiment.on_device(device):
        parts = _parts(data)
        train, size = parts.train, batching.scoring_chunk(len(parts.train.items))

        def score_all() -> None:
            batch = fitted.encode(Histories(train, None))
            for first in range(0, len(train.users), size):
                piece = jax.tree.map(lambda leaf, first=first: leaf[first : first + size], batch)
                jax.block_until_ready(fitted.scores(piece))

        fit, fitted = _warm(lambda: _fit_closed(train, model, settings))
        score, _ = _warm(score_all)
        return {
            "fit_and_score_seconds": fit + score,
            "fit_seconds": fit,
            "validation": validator(parts.validation, once=True)(fitted),
            "work": _size(train, None, {}),
            **_memory(),
        }


def top_lists(
    data: str, model: str, settings: Mapping[str, Any], top: int, device: str | None = None
) -> dict[str, Any]:
    """The best products of every customer as frames with titles, warm."""
    from aejax import experiment
    from aejax.recommendation import known_at, recommend

    with experiment.on_device(device):
        prepared = _prepared(data)
        fitted, _ = _train(prepared.split.train, model, settings)
        lines, titles = prepared.interactions, experiment.titles(prepared.dataset)

        def rows() -> int:
            return sum(
                len(frame) for frame in recommend(fitted, known_at(lines), list(lines.users.ids), titles, top=top)
            )

        seconds, count = _warm(rows)
        return {"seconds": seconds, "rows": count, "work": _size(lines, fitted, settings), **_memory()}


def evaluation(data: str, model: str, settings: Mapping[str, Any], device: str | None = None) -> dict[str, Any]:
    """Every metric of every user of test, warm; the intervals of the means apart."""
    from aejax import experiment
    from aejax.evaluation import evaluate, mean_with_interval

    with experiment.on_device(device):
        parts = _parts(data)
        fitted, _ = _train(parts.train, model, settings)
        seconds, found = _warm(lambda: evaluate(fitted, parts.test))
        intervals, _ = _warm(lambda: mean_with_interval(found.values))
        size = _size(parts.train, fitted, settings)
        return {"evaluation_seconds": seconds, "interval_seconds": intervals, "work": size, **_memory()}


def seeds(data: str, model: str, settings: Mapping[str, Any], count: int, device: str | None = None) -> dict[str, Any]:
    """Trainings of several seeds, one after another, compilation included."""
    from aejax import experiment

    with experiment.on_device(device):
        train = _parts(data).train
        start = time.perf_counter()
        fitted = [_train(train, model, settings, seed)[0] for seed in range(count)]
        return {"seconds": time.perf_counter() - start, "work": _size(train, fitted[-1], settings), **_memory()}


def to_quality(
    data: str, model: str, settings: Mapping[str, Any], target: float, seed: int, device: str | None = None
) -> dict[str, Any]:
    """Epochs with validation until it reaches the target: the curve of (training s, s with validation, validation)."""
    from aejax import experiment, registry
    from aejax.evaluation import validator

    registry.family(model)  # imported before the clock runs, as the peer is
    curve: list[tuple[float, float, float]] = []
    with experiment.on_device(device):
        parts = _parts(data)
        score, validating = validator(parts.validation), 0.0
        start = time.perf_counter()

        def validate(fitted: Any) -> float:
            nonlocal validating
            begin = time.perf_counter()
            reached = score(fitted)
            validating += time.perf_counter() - begin
            return reached

        def note(progress: Any, record: Mapping[str, float]) -> None:
            spent = time.perf_counter() - start
            curve.append((spent - validating, spent, record["validation"]))
            if record["validation"] >= target:
                raise _Reached

        with contextlib.suppress(_Reached):
            _fit(parts.train, model, settings, seed, validate, note)
    return {"curve": curve, **_memory()}


class _Reached(Exception):
    """The target is reached."""


def read_to_matrix(data: str) -> dict[str, Any]:
    """Seconds, after imports, from files to the user-item matrix; MB above the bare interpreter, with imports."""
    before = peak_megabytes()
    from aejax import datasets
    from aejax.interactions import net_returns
    from aejax.matrix import user_item_matrix

    start = time.perf_counter()
    matrix = user_item_matrix(net_returns(datasets.read(Path(data)).interactions), "quantity")
    seconds = time.perf_counter() - start
    size = sum(file.stat().st_size for file in Path(data).glob("*.csv"))
    work = {"users": matrix.shape[0], "items": matrix.shape[1], "cells": matrix.nnz, "bytes": size}
    return {"seconds": seconds, "megabytes": peak_megabytes() - before, "work": work}


def notebook_pivot(data: str) -> dict[str, Any]:
    """The same with pandas alone, as the original notebook had it: read, group, pivot, fill with zeros."""
    before = peak_megabytes()
    import pandas as pd

    start = time.perf_counter()
    orders = pd.read_csv(Path(data) / "orders.csv", dtype={"customer_id": str, "lineitem_sku": str})
    cells: Any = orders.groupby(["customer_id", "lineitem_sku"])["lineitem_quantity"].sum()
    matrix: Any = pd.DataFrame(cells).unstack(fill_value=0)
    seconds = time.perf_counter() - start
    work = {"users": matrix.shape[0], "items": matrix.shape[1], "cells": len(cells)}
    return {"seconds": seconds, "megabytes": peak_megabytes() - before, "work": work}


def files_to_recommendations(data: str, arguments: list[str], rounds: int) -> dict[str, Any]:
    """`aejax fit` and `aejax recommend`, a process each, from files to recommendations.csv: the last of several rounds,
    of which the first has nothing compiled and the others what it compiled.
    """
    ends = [time.perf_counter()]
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(rounds):
            run = f"{scratch}/run{number}"
            command(["fit", data, "--run", run, *arguments], f"{scratch}/compiled")
            command(["recommend", run, "--out", f"{run}/recommendations.csv"], f"{scratch}/compiled")
            ends.append(time.perf_counter())
    return {"seconds": ends[-1] - ends[-2], "megabytes": _most_of_commands()}


def stored_to_recommendations(data: str, arguments: list[str]) -> dict[str, Any]:
    """`aejax recommend`, from a stored run to recommendations.csv, the second time: what it needs is compiled."""
    with tempfile.TemporaryDirectory() as scratch:
        command(["fit", data, "--run", f"{scratch}/run", *arguments], f"{scratch}/compiled")
        options = [f"{scratch}/run", "--out", f"{scratch}/recommendations.csv"]
        command(["recommend", *options], f"{scratch}/compiled")
        return command(["recommend", *options], f"{scratch}/compiled")


def lists_to_file(data: str, arguments: list[str], customers: int) -> dict[str, Any]:
    """Top 10 with titles of so many customers, those of a shop again and again, to a CSV file, warm."""
    from aejax import experiment

    with tempfile.TemporaryDirectory() as scratch:
        _command("fit", data, "--run", f"{scratch}/run", *arguments)
        run = experiment.load_run(Path(scratch) / "run")
        ids = list(itertools.islice(itertools.cycle(run.prepared.interactions.users.ids), customers))
        experiment.write_recommendations(run, Path(scratch) / "warm.csv", experiment.Request(customers=ids[:1024]))
        before, start = peak_megabytes(), time.perf_counter()
        experiment.write_recommendations(run, Path(scratch) / "lists.csv", experiment.Request(customers=ids))
        seconds = time.perf_counter() - start
        return {
            "seconds": seconds,
            "customers_per_second": customers / seconds,
            "megabytes_more": peak_megabytes() - before,
            **_memory(),
        }


def command(arguments: list[str], compiled: str | None = None) -> dict[str, Any]:
    """Any command of aejax in a process of its own, from its start to its end; what is compiled is kept in `compiled`,
    by default where the user has it.
    """
    kept = {} if compiled is None else {"XDG_CACHE_HOME": compiled}  # the user's, in which all else is as for users
    start = time.perf_counter()
    words = [sys.executable, "-m", "aejax", *arguments]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **kept})
    return {"seconds": time.perf_counter() - start, "megabytes": _most_of_commands()}


def _most_of_commands() -> float:
    """The most memory that one of the processes started from here has had."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def whole_fit(data: str, arguments: list[str]) -> dict[str, Any]:
    """`aejax fit` from files to run directory, imports included."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        _command("fit", data, "--run", f"{scratch}/run", *arguments)
    return {"seconds": time.perf_counter() - start, **_memory()}


def synthetic_epoch(
    users: int,
    items: int,
    purchases: int,
    model: str,
    settings: Mapping[str, Any],
    device: str | None = None,
) -> dict[str, Any]:
    """An epoch, or the fit of a closed form, warm, on a synthetic shop; for the growth curves."""
    from aejax import experiment, registry

    with experiment.on_device(device):
        train = power_law_shop(users, items, purchases)
        if registry.family(model).is_network:
            fitted, seconds = _train(train, model, settings)
            figure = statistics.median(seconds[1:])
        else:
            figure, fitted = _warm(lambda: _fit_closed(train, model, settings))
        return {"seconds": figure, "work": _size(train, fitted, settings), **_memory()}


def power_law_shop(users: int, items: int, purchases: int, seed: int = 0) -> Any:
    """Users who each draw `purchases` products, with the popularity of the r-th product falling as 1 / r: a product
    drawn twice counts once.
    """
    import numpy as np

    from aejax.interactions import Interactions, Vocabulary

    rng = np.random.default_rng(seed)
    share = np.cumsum(1.0 / np.arange(1, items + 1))
    drawn = np.searchsorted(share, rng.random((users, purchases)) * share[-1])
    pairs = np.unique(np.repeat(np.arange(users), purchases) * items + drawn.ravel())
    return Interactions(
        user=(pairs // items).astype(np.int32),
        item=(pairs % items).astype(np.int32),
        quantity=np.ones(len(pairs), np.int32),
        users=Vocabulary(np.array([f"{user:08d}" for user in range(users)], dtype=object)),
        items=Vocabulary(np.array([f"{item:08d}" for item in range(items)], dtype=object)),
    )


def peak_megabytes() -> float:
    """The most memory this process has had. (`ru_maxrss` would start at the parent's.)"""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _memory() -> dict[str, float]:
    """The most memory of this process, and of the device where it tells."""
    import jax

    (device,) = jax.numpy.zeros(()).devices()
    stats = device.memory_stats() or {}
    of_device = {"device_megabytes": stats["peak_bytes_in_use"] / 2**20} if "peak_bytes_in_use" in stats else {}
    return {"megabytes": peak_megabytes(), **of_device}


def _prepared(data: str) -> Any:
    from aejax import experiment
    from aejax.config import DataConfig, SplitConfig

    return experiment.prepare(DataConfig(data), SplitConfig())


def _parts(data: str) -> Any:
    return _prepared(data).split


def _fit(train: Any, model: str, settings: Mapping[str, Any], seed: int, validate: Any, note: Any) -> Any:
    import jax

    from aejax import registry

    return registry.family(model).fit(
        train,
        registry.make_settings(model, settings),
        key=jax.random.key(seed),
        validate=validate,
        on_epoch=note,
        resume=lambda progress: progress,
    )[0]


def _fit_closed(train: Any, model: str, settings: Mapping[str, Any]) -> Any:
    """A closed form or a rule, when it is there."""
    import jax

    from aejax import registry

    fitted = registry.family(model).fit(train, registry.make_settings(model, settings))
    jax.block_until_ready(fitted.state())
    return fitted


def _train(train: Any, model: str, settings: Mapping[str, Any], seed: int = 0) -> tuple[Any, list[float]]:
    """The model of `settings["epochs"]` epochs, and the seconds of each; the first has all that is before it."""
    ends = [time.perf_counter()]
    fitted = _fit(train, model, settings, seed, None, lambda progress, record: ends.append(time.perf_counter()))
    return fitted, [later - earlier for earlier, later in itertools.pairwise(ends)]


def _size(train: Any, fitted: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the seconds were spent on."""
    import jax
    import numpy as np

    from aejax.matrix import user_item_matrix

    matrix = user_item_matrix(train)
    of_users = np.diff(matrix.indptr).astype(np.int64)
    of_items = np.bincount(matrix.indices, minlength=matrix.shape[1]).astype(np.int64)
    size = {
        "users": int((of_users > 0).sum()),
        "items": matrix.shape[1],
        "cells": int(matrix.nnz),
        "user_squares": int(np.square(of_users).sum()),
        "item_squares": int(np.square(of_items).sum()),
    }
    if fitted is not None:
        size["parameters"] = sum(np.size(leaf) for leaf in jax.tree.leaves(fitted.state()))
        batch_size, dropout = settings.get("batch_size"), settings.get("dropout", 0.0)
        size |= {"batch_size": batch_size, "dropout": dropout}
        if batch_size is not None:
            # Products that an input keeps from a batch, as many as are expected of customers drawn one by one.
            drawn = (1.0 - dropout) * min(1.0, batch_size / size["users"])
            size["batch_items"] = float((1.0 - (1.0 - drawn) ** of_items).sum())
    return size


def _warm(call: Callable[[], Any]) -> tuple[float, Any]:
    """The seconds and the result of a call that was made once before, uncounted."""
    call()
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def _command(*arguments: str) -> None:
    """A command of aejax in this process, silent."""
    from aejax import cli

    with contextlib.redirect_stdout(io.StringIO()):
        try:
            cli.main(list(arguments))
        except SystemExit as ended:
            if ended.code:
                raise


if __name__ == "__main__":
    from aejax import process

    process.collect_seldom()  # as the commands do
    process.keep_compiled()
    process.compile_loops_whole()
    process.start_with_huge_pages()
    result = globals()[sys.argv[1]](**json.loads(sys.argv[2]))
    sys.stdout.write(json.dumps(result) + "\n")
