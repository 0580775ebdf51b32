"""Commands killed at random moments: what they write is whole or absent, and what was there before is untouched.

Each kill is a SIGKILL, either after a random time or just before a random one of the command's operations on files, of
which the dangerous ones are too short for a random time to find them. After each, the output must be the earlier one or
the whole new one, and nothing else may have changed; then the command is given again, an unfinished fit with --resume,
and killed again or left to end: in the same bytes as if it had never been interrupted, with nothing left over.

A run names the commit of the checkout that made it, so nothing may be committed there meanwhile.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
import tyro

from aejax import runs

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["aejax.cli", "aejax.experiment", "aejax.experiment.fitting", "orbax.checkpoint"])
AGAIN = 0.5  # chance that the command which goes on is killed, too
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
NETWORK = ("--model", "multvae", "--epochs", "4", "--set", "hidden=16", "latent_dim=8", "batch_size=16")
FIT = (*NETWORK, "--split", "time", "--min-customers", "1")


class Command(NamedTuple):
    """A command to kill.

    Attributes:
      name: of the command.
      words: its arguments, `--overwrite` among them where it replaces a run.
      output: what it writes.
      earlier: what stands there before.
      resumes: whether it can go on with what was interrupted.
    """

    name: str
    words: tuple[str, ...]
    output: Path
    earlier: Path
    resumes: bool = False


def commands(data: Path, work: Path) -> list[Command]:
    """The commands that write: on a shop's earlier orders, on a run of these, on the whole shop as newer exports."""
    source, older, note = work / "source", work / "older", work / "older.txt"
    out = {
        name: work / "out" / name for name in ("check.json", "lists.csv", "fitted", "refitted", "updated", "forgotten")
    }

    def replacing(name: str) -> tuple[str, ...]:
        return ("--overwrite", "--run", str(out[name]))

    return [
        Command("check", (str(data), "--json", str(out["check.json"])), out["check.json"], note),
        Command("fit", (str(work / "earlier"), *FIT, *replacing("fitted")), out["fitted"], older, resumes=True),
        Command("recommend", (str(source), "--out", str(out["lists.csv"])), out["lists.csv"], note),
        Command("refit", (str(source), *replacing("refitted")), out["refitted"], older),
        Command("update", (str(source), str(data), "--force", *replacing("updated")), out["updated"], older),
        Command(
            "forget", (str(out["forgotten"]), "--customers", str(work / "customers.csv")), out["forgotten"], source
        ),
    ]


def _child(words: Sequence[str], folder: str, last: int, count: Any) -> None:
    """Run a command; killed before its operation number `last` on files in the folder, counted from 1."""
    from aejax import cli
    from aejax.experiment import fitting

    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    fitting.SAVE_EVERY_S = 0.0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, flags = arguments[0], arguments[2]
            if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event in CHANGES:
            path = arguments[0]
        else:
            return
        if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(folder):
            count.value += 1
            if count.value == last:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    cli.main(list(words))


class Outcome(NamedTuple):
    """How a process ended.

    Attributes:
      killed: whether by SIGKILL; else it ended well.
      seconds: from its start.
      operations: on files in the folder.
    """

    killed: bool
    seconds: float
    operations: int


def run(words: Sequence[str], folder: Path, *, after: float | None = None, before: int = 0) -> Outcome:
    """A command in a process of its own, killed after so many seconds, or before that operation on files; or not."""
    count = PROCESSES.Value("q", 0, lock=False)  # who is killed would keep a lock
    process = PROCESSES.Process(target=_child, args=(list(words), str(folder), before, count))
    start = time.monotonic()
    process.start()
    process.join(after)
    process.kill()
    process.join()
    if process.exitcode not in (0, -signal.SIGKILL):
        raise SystemExit(f"aejax {' '.join(words)} ended with {process.exitcode}")
    return Outcome(process.exitcode != 0, time.monotonic() - start, count.value)


def contents(path: Path) -> dict[str, str]:
    """What a file or folder holds, by path: a hash of each file, and of an Orbax state that of its arrays.

    What Orbax notes beside the arrays has times in it.
    """
    if not path.exists():
        return {}
    if path.is_file():
        return {"": hashlib.sha256(path.read_bytes()).hexdigest()}
    found, state = {}, path / "state" / "model"
    for file in sorted(path.rglob("*")):
        if file.is_file() and state not in file.parents:
            found[str(file.relative_to(path))] = hashlib.sha256(file.read_bytes()).hexdigest()
    if state.is_dir():
        for name, leaf in jax.tree_util.tree_leaves_with_path(runs.load_state(state)):
            array = np.asarray(leaf)
            told = f"{array.dtype} {array.shape}".encode() + array.tobytes()
            found[f"state{jax.tree_util.keystr(name)}"] = hashlib.sha256(told).hexdigest()
    return found


def differing(held: dict[str, str], whole: dict[str, str]) -> str:
    """The names under which the contents of two files or folders differ."""
    return ", ".join(sorted(name or "its bytes" for name in held | whole if held.get(name) != whole.get(name)))


def copy(source: Path, target: Path) -> None:
    """Put a copy of a file or folder in the place of another."""
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def left_over(output: Path) -> list[str]:
    """The hidden files and folders beside an output in which it was to grow."""
    return sorted(path.name for path in output.parent.glob(f".{output.name}.*"))


@contextmanager
def unchanged(*paths: Path) -> Iterator[None]:
    """Check that nothing in these folders changes."""
    before = [contents(path) for path in paths]
    yield
    for path, held in zip(paths, before, strict=True):
        require(contents(path) == held, f"{path} has changed")


def require(holds: bool, otherwise: str) -> None:
    """End with a message where something does not hold."""
    if not holds:
        raise SystemExit(f"broken: {otherwise}")


def kill_repeatedly(command: Command, folder: Path, kills: int, rng: np.random.Generator) -> dict[str, int]:
    """Kill a command so many times; ends with a message where something is broken.

    Returns:
      How many kills left the earlier output, and the new one; how many were between the two renames, so that a repair
      was needed; how often an interrupted fit was resumed, and how often a command was left to end.
    """
    words = (command.name, *command.words)
    copy(command.earlier, command.output)
    earlier = contents(command.output)
    run(words, folder)
    new = contents(command.output)
    require(new != earlier, f"{command.name} wrote nothing new")
    copy(command.earlier, command.output)
    whole = run(words, folder)
    require(contents(command.output) == new, f"{command.name} twice gives different bytes")
    unfinished = runs.unfinished_path(command.output)
    counts: dict[str, int] = dict.fromkeys(("earlier", "new", "repaired", "resumed", "ended"), 0)
    copy(command.earlier, command.output)
    done = 0
    while done < kills:
        again: tuple[str, ...] = ()
        if command.resumes and (unfinished / "config.json").exists():
            again = ("--resume",)
            counts["resumed"] += 1
        if rng.random() < 0.5:
            outcome = run((*words, *again), folder, after=rng.uniform(0.0, whole.seconds))
        else:
            outcome = run((*words, *again), folder, before=int(rng.integers(1, whole.operations + 1)))
        done += outcome.killed
        counts["repaired"] += not command.output.exists()
        runs.repair(command.output)  # what every command does first
        held = contents(command.output)
        require(
            held in (earlier, new),
            f"{command.name} left {command.output} neither as it was nor whole: {differing(held, new)}",
        )
        require(outcome.killed or held == new, f"{command.name} ended well and left {command.output} as it was")
        counts["new" if held == new else "earlier"] += outcome.killed
        if held == earlier and rng.random() < AGAIN:
            continue
        if held == earlier:
            again = ("--resume",) if command.resumes and (unfinished / "config.json").exists() else ()
            run((*words, *again), folder)
            counts["ended"] += 1
            held = contents(command.output)
            require(held == new, f"{command.name} ended in other bytes than without the kills: {differing(held, new)}")
            require(not left_over(command.output), f"{command.name} left {left_over(command.output)}")
        copy(command.earlier, command.output)
    return counts


def earlier_orders(data: Path, folder: Path, share: float = 0.8) -> None:
    """The shop with the first share of its order lines by date; the rest is what newer exports add."""
    folder.mkdir()
    orders = pd.read_csv(data / "orders.csv", dtype=str)
    moments = orders["created_at"]
    orders[moments < sorted(moments)[int(share * len(moments))]].to_csv(folder / "orders.csv", index=False)
    for name in ("customers.csv", "products.csv"):
        shutil.copyfile(data / name, folder / name)


def main(data: tyro.conf.Positional[Path], kills: int = 100, seed: int = 0, only: tuple[str, ...] = ()) -> None:
    """Kill the commands that write; exits with 1 where something is broken.

    Args:
      data: a folder with customers.csv, orders.csv (with dates as 2024-05-01) and products.csv; small is enough.
      kills: of all commands together, each of which gets its part.
      seed: of the moments.
      only: names of commands; default: all.
    """
    with tempfile.TemporaryDirectory(prefix="aejax-crash-") as name:
        work = Path(name).resolve()
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(work / "compiled")  # killed as well
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
        (work / "out").mkdir()
        (work / "older.txt").write_text("what stood here before\n", encoding="utf-8")
        earlier_orders(data, work / "earlier")
        run(("fit", str(data), "--model", "popularity", "--min-customers", "1", "--run", str(work / "older")), work)
        run(("fit", str(work / "earlier"), *FIT, "--run", str(work / "source")), work)
        ids = pd.read_csv(data / "orders.csv", dtype=str)["customer_id"].dropna().unique()[:3]
        pd.DataFrame({"customer_id": ids}).to_csv(work / "customers.csv", index=False)
        rng = np.random.default_rng(seed)
        chosen = [command for command in commands(data, work) if not only or command.name in only]
        for number, command in enumerate(chosen):
            own = kills // len(chosen) + (number < kills % len(chosen))
            start = time.monotonic()
            with unchanged(*(work / name for name in ("earlier", "older", "source", "customers.csv")), data):
                counts = kill_repeatedly(command, work, own, rng)
            told = ", ".join(f"{count} {what}" for what, count in counts.items())
            print(f"{command.name}: {own} kills in {time.monotonic() - start:.0f} s: {told}", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
