"""How much memory is free, and the error of what needs more."""

from __future__ import annotations

import math
from pathlib import Path

import psutil

from aejax.errors import ResourceError

MEMBERSHIP = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")


LOW_RANK = "raise --min-customers, or use --model elsa, whose weights are of low rank"


def too_little(what: str, needed: float, free: float, remedy: str = LOW_RANK) -> ResourceError:
    """The error of `what` that takes `needed` bytes where only `free` are, and what to use instead."""
    return ResourceError(f"{what} need {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free; {remedy}")


def require(what: str, needed: float, remedy: str = LOW_RANK) -> None:
    """Raises `ResourceError` where `what` takes more bytes than are free."""
    free = available()
    if needed > free:
        raise too_little(what, needed, free, remedy)


def available() -> int:
    """Bytes that new arrays can take, as the operating system and the limits of the process's groups have it."""
    return int(min(psutil.virtual_memory().available, _free_in_groups()))


def _free_in_groups() -> float:
    """The least that is left of a limit of Linux's control groups, of either version: what a container may take."""
    try:
        memberships = [line.split(":", 2) for line in MEMBERSHIP.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return math.inf
    least = math.inf
    for _, controllers, path in memberships:
        if controllers and "memory" not in controllers.split(","):
            continue
        top = GROUPS / "memory" if controllers else GROUPS
        # In a container the path may be the host's; then the limit is at the top.
        folders = [top / path.lstrip("/"), *(top / path.lstrip("/")).parents]
        for folder in folders[: folders.index(top) + 1]:
            least = min(least, _free_in(folder))
    return least


def _free_in(folder: Path) -> float:
    """What is left of the limit of one group, without what is only a cache of files."""
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            most, taken = (float((folder / name).read_text().replace("max", "inf")) for name in (limit, used))
            return max(most - taken + float(statistics.get(cache, 0)), 0.0)
        except (OSError, ValueError):
            continue
    return math.inf
