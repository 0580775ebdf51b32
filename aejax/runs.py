"""Run directories: whole or absent. What is unfinished lives in a hidden sibling; replacing is two renames.

A run `checkpoints/NAME` is made in `checkpoints/.NAME.unfinished`. Replacing an older run renames it to
`.NAME.previous`, renames the new one to `NAME`, and only then deletes the old. `repair` finishes what a crash left
between those steps, and every command calls it first. While a folder grows it is locked, so that two commands never
write one run. Nothing here is a pickle: JSON, Parquet and Orbax arrays.
"""

# pyarrow.compute makes its functions when it is imported:
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import errno
import glob
import hashlib
import json
import logging
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import aejax
from aejax.config import RunConfig
from aejax.errors import InputError, ResourceError
from aejax.interactions import Dataset, Interactions, Vocabulary

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

FORMAT = 3
LOCK = ".lock"
_OPTIONAL = ("order", "at", "part", "price")  # columns of interactions that a source may lack


def unfinished_path(path: Path) -> Path:
    """Where `path` grows until it is whole."""
    return path.parent / f".{path.name}.unfinished"


def _previous_path(path: Path) -> Path:
    return path.parent / f".{path.name}.previous"


def repair(path: Path) -> None:
    """Finish or undo a replacement that a crash interrupted."""
    previous = _previous_path(path)
    if path.name and previous.exists():
        if path.exists():
            shutil.rmtree(previous)
        else:
            previous.rename(path)


def repair_run(run: Path) -> None:
    """`repair` of a run, and of the comparison whose best run it may be."""
    repair(run.parent)
    repair(run)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn failures of the file system into one message that names the place and the remedy."""
    try:
        yield
    except OSError as problem:
        remedies = {
            errno.ENOSPC: "the disk is full; free some space",
            errno.EDQUOT: "the disk quota is used up; free some space",
            errno.EFBIG: "a file may not grow that large here; raise the limit (ulimit -f)",
            errno.EROFS: "the file system is read-only; choose another folder",
            errno.EACCES: "the folder may not be written; choose another folder or change its permissions",
            errno.EPERM: "the folder may not be written; choose another folder or change its permissions",
            errno.ENOTDIR: "a part of this path is a file; choose another folder",
            errno.EISDIR: "it is a folder; choose another name",
        }
        if problem.errno not in remedies:
            raise
        raise ResourceError(f"cannot write {path}: {remedies[problem.errno]}") from None


def require_unfinished(path: Path) -> Path:
    """The folder that an interrupted command left of `path`.

    Raises:
      InputError: there is none.
    """
    if not (unfinished_path(path) / "config.json").exists():
        raise InputError(f"--resume finds no unfinished run of {path}; start it without --resume")
    return unfinished_path(path)


@contextmanager
def whole_folder(path: Path, *, overwrite: bool = False, resume: bool = False) -> Iterator[Path]:
    """A folder to fill, put in the place of `path` when the block ends well.

    When the block fails, a folder that can be resumed (it has a config.json) stays, unless the data or the arguments
    were at fault; any other is removed.

    Args:
      path: the run, or the comparison.
      overwrite: replace an older one, and forget an unfinished one.
      resume: go on with the unfinished folder.

    Raises:
      InputError: `path` exists and `overwrite` is not given, or it is nothing that aejax wrote; an unfinished folder is
        there and neither flag is given, or another command is filling it; or it cannot be written.
    """
    unfinished = unfinished_path(path)
    with writing(path):
        repair(path)
        _require_replaceable(path, overwrite)
        if resume:
            lock = _lock(require_unfinished(path))
        else:
            if unfinished.exists():
                os.close(_lock(unfinished))
                if (unfinished / "config.json").exists() and not overwrite:
                    raise InputError(
                        f"{path} was started and not finished; give --resume to go on, or --overwrite to start again"
                    )
            remove(unfinished)
            unfinished.mkdir(parents=True)
            lock = _lock(unfinished)
    try:
        yield unfinished
        with writing(path):
            (unfinished / LOCK).unlink()
            _publish(path)
    except BaseException as problem:
        at_fault = isinstance(problem, InputError) and not isinstance(problem, ResourceError)
        if at_fault or not (unfinished / "config.json").exists():
            remove(unfinished)
        raise
    finally:
        os.close(lock)


def _require_replaceable(path: Path, overwrite: bool) -> None:
    if not path.name:
        raise InputError(f"{path} cannot be a run; give --run or --out a new folder")
    if odd := sorted(set("[]*?") & set(str(path.absolute()))):
        raise InputError(f"{path}: Orbax cannot read what lies in a path with {odd[0]}; choose another --run or --out")
    if not path.exists():
        return
    if not overwrite:
        raise InputError(f"{path} exists; give --overwrite to replace it, or another --run or --out")
    ours = any((path / name).exists() for name in ("config.json", "comparison.json"))
    if not path.is_dir() or (not ours and any(path.iterdir())):
        raise InputError(f"{path} is nothing that aejax wrote, so --overwrite leaves it; choose another --run or --out")


def _lock(folder: Path) -> int:
    """The descriptor of a locked file in the folder; the lock ends with the process that holds it."""
    descriptor = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR)
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise InputError(
            f"another command is writing {folder}; wait for it, or choose another --run or --out"
        ) from None
    return descriptor


def _publish(path: Path) -> None:
    """Put the finished folder in its place, in place of an older one."""
    previous = _previous_path(path)
    if path.exists():
        path.rename(previous)
    unfinished_path(path).rename(path)
    if previous.exists():
        shutil.rmtree(previous)


def remove(path: Path) -> None:
    """Remove a folder, if it is there; under its name it is whole or gone, wherever a crash interrupts this."""
    going = path.parent / f".{path.name}.removed"
    if going.exists():
        shutil.rmtree(going)
    if path.exists():
        path.rename(going)
        shutil.rmtree(going)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary sibling to write, renamed to `path` when the block ends well and removed when it does not.

    Those of processes that were killed are removed.
    """
    own = f".{path.name}.{platform.node()}-"  # no other machine's processes can be asked after
    partial = path.parent / f"{own}{os.getpid()}.partial"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for other in path.parent.glob(f"{glob.escape(own)}*.partial"):
            writer = other.name.removeprefix(own).removesuffix(".partial")
            if writer.isdecimal() and not psutil.pid_exists(int(writer)):
                other.unlink(missing_ok=True)
        try:
            yield partial
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Text as UTF-8, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Content as JSON, whole or not at all; equal content gives equal bytes."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """JSON of a run's file.

    Raises:
      InputError: the file is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing; is {path.parent} a run directory?") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; expected a JSON file") from None
    except ValueError as problem:
        raise InputError(f"{path} is not JSON: {problem}") from None


def write_config(folder: Path, config: RunConfig) -> None:
    """`config.json`, with the format's number."""
    write_json(folder / "config.json", {"format": FORMAT, **config.to_json()})


def read_config(folder: Path) -> RunConfig:
    """The config of a run.

    Raises:
      InputError: there is no run, or it is of another version.
    """
    if not folder.is_dir():
        there = sorted(other.name for other in folder.parent.glob("*/")) if folder.parent.is_dir() else []
        raise InputError(f"{folder} is not a run directory; in {folder.parent} there are: {', '.join(there) or 'none'}")
    plain = read_json(folder / "config.json")
    number = plain.pop("format", None) if isinstance(plain, dict) else None
    if number != FORMAT:
        raise InputError(
            f"{folder} was written by another version of aejax (run format {number}, this version reads {FORMAT}); "
            f"fit it again"
        )
    return RunConfig.from_json(plain)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a log.jsonl, without a last line that was cut short."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def append_log(path: Path, record: Mapping[str, Any]) -> None:
    """One more record at the end of a log.jsonl."""
    with writing(path), path.open("a", encoding="utf-8") as opened:
        opened.write(json.dumps(record) + "\n")


def write_log(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """The records as a log.jsonl, whole or not at all."""
    write_text(path, "".join(json.dumps(record) + "\n" for record in records))


def environment(files: Sequence[Path]) -> dict[str, Any]:
    """Versions, device, git commit and SHA-256 of the data: what one must know to repeat a run."""
    import jax  # checking data writes files too, and does without it

    packages = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "pandas", "pyarrow", "pymetis", "orbax-checkpoint")
    (device,) = jax.numpy.zeros(()).devices()
    return {
        "aejax": aejax.__version__,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in packages},
        "platform": platform.platform(),
        "device": f"{device.platform}: {device.device_kind}",
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "cpus": os.cpu_count(),
        "data_sha256": {file.name: sha256(file) for file in files},
    }


def _git_commit() -> str | None:
    """The commit of the source tree that runs, where it is a git checkout of its own."""

    def git(*arguments: str) -> str:
        here = str(Path(__file__).parent)
        return subprocess.run(
            ["git", "-C", here, *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        own = Path(git("rev-parse", "--show-toplevel")).resolve() == Path(__file__).resolve().parent.parent
        return git("rev-parse", "HEAD") if own else None
    except (OSError, subprocess.CalledProcessError):
        return None


def sha256(file: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal digits."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def write_data(folder: Path, dataset: Dataset) -> None:
    """`data/`: all that later commands need of the shop, so that none reads its files again."""
    with writing(folder):
        (folder / "data").mkdir(exist_ok=True)
        lines = dataset.interactions
        columns: dict[str, Any] = {
            "customer_id": pa.DictionaryArray.from_arrays(pa.array(lines.user), pa.array(lines.users.ids, pa.string())),
            "sku": pa.DictionaryArray.from_arrays(pa.array(lines.item), pa.array(lines.items.ids, pa.string())),
            "quantity": lines.quantity,
        }
        columns |= {name: column for name in _OPTIONAL if (column := getattr(lines, name)) is not None}
        pq.write_table(pa.table(columns), folder / "data" / "interactions.parquet")
        dataset.customers.to_parquet(folder / "data" / "customers.parquet", index=False)
        dataset.products.to_parquet(folder / "data" / "products.parquet", index=False)
        write_json(folder / "data" / "quality.json", {"format": dataset.format, "quality": dataset.quality})
        write_json(folder / "data" / "attributes.json", dataset.attributes)
        if dataset.pinned is not None:
            write_json(folder / "data" / "pinned.json", dataset.pinned.ids.tolist())


def read_data(folder: Path) -> Dataset:
    """The data that `write_data` wrote.

    Raises:
      InputError: a file is missing or damaged.
    """
    try:
        table = pq.read_table(folder / "data" / "interactions.parquet")
        customers = pd.read_parquet(folder / "data" / "customers.parquet")
        products = pd.read_parquet(folder / "data" / "products.parquet")
    except (OSError, pa.ArrowInvalid) as problem:
        raise InputError(f"the data of run {folder} cannot be read ({problem}); fit it again") from None
    user, users = _decode(table["customer_id"])
    item, items = _decode(table["sku"])
    optional = {name: table[name].to_numpy() if name in table.column_names else None for name in _OPTIONAL}
    if optional["at"] is not None:
        # Parquet knows no seconds: they come back as milliseconds.
        optional["at"] = optional["at"].astype("datetime64[s]")
    lines = Interactions(user, item, table["quantity"].to_numpy(), users, items, **optional)
    stored = read_json(folder / "data" / "quality.json")
    pinned = folder / "data" / "pinned.json"
    return Dataset(
        stored["format"],
        lines,
        customers,
        products,
        stored["quality"],
        files=(),
        pinned=Vocabulary.of(read_json(pinned)) if pinned.exists() else None,
        attributes=read_json(folder / "data" / "attributes.json"),
    )


def write_check(folder: Path, found: Mapping[str, Any]) -> None:
    """`data/check.json`: what a check said of the data when their files were read. It names customers, so that `forget`
    leaves it behind with the report.
    """
    write_json(folder / "data" / "check.json", found)


def read_check(folder: Path) -> dict[str, Any] | None:
    """What `write_check` wrote; None where a run's data were not read from files, or customers were forgotten."""
    path = folder / "data" / "check.json"
    return read_json(path) if path.exists() else None


def _decode(column: pa.ChunkedArray) -> tuple[np.ndarray, Vocabulary]:
    """A dictionary-coded text column -> indices `[N]` int32 into the sorted vocabulary of its values."""
    coded = (
        column.combine_chunks().dictionary_encode()
        if not pa.types.is_dictionary(column.type)
        else (column.unify_dictionaries().combine_chunks())
    )
    if isinstance(coded, pa.ChunkedArray):
        coded = coded.chunk(0)
    order = pc.array_sort_indices(coded.dictionary).to_numpy()  # UTF-8 sorts as Python's str does: by code point
    position = np.empty(len(order), dtype=np.int32)
    position[order] = np.arange(len(order), dtype=np.int32)
    ids = coded.dictionary.take(pa.array(order)).to_numpy(zero_copy_only=False)
    return position[coded.indices.to_numpy()], Vocabulary(ids)


def save_state(folder: Path, state: Any) -> None:
    """A pytree of arrays and numbers, as an Orbax checkpoint that appears whole."""
    import orbax.checkpoint as ocp

    # What fails is raised here; on its way Orbax logs it too, once a thread, with all of the stack.
    talk = logging.getLogger("absl")
    silent, talk.disabled = talk.disabled, True
    try:
        with writing(folder), _system_errors(), ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder.absolute(), state)
    finally:
        talk.disabled = silent


@contextmanager
def _system_errors() -> Iterator[None]:
    """Raise what the operating system refused to TensorStore, which says so in words, as the error that it was."""
    try:
        yield
    except ValueError as problem:
        if (code := re.search(r"os_error_code='(\d+)'", str(problem))) is None:
            raise
        raise OSError(int(code[1]), str(problem)) from None


def load_state(folder: Path, like: Any = None) -> Any:
    """The pytree that `save_state` saved; with `like`, in its structure, else as nested dicts.

    Raises:
      InputError: it is missing or damaged.
    """
    import orbax.checkpoint as ocp

    try:
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(folder.absolute(), like)
    except (FileNotFoundError, ValueError, KeyError) as problem:
        raise InputError(f"the state in {folder} cannot be read ({problem}); fit the run again") from None
