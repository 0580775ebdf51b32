"""How a process starts: what JAX and the C library read from the environment has to be there before them."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from pathlib import Path

import platformdirs

# Commands that are done before JAX would have been loaded.
READING = ("data", "check")
HUGE_PAGES = "glibc.malloc.hugetlb=1"
HUGE_PAGES_FILE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
# What compiles quicker than this is compiled again rather than kept.
LEAST_SECONDS = 0.1
# The compiled functions used longest ago make room for new ones.
MOST_BYTES = 2**28

# Python looks for garbage after so many new objects, and through all older ones after so many such looks: 700 and 10 by
# default, and what a command imports and compiles is a million objects of which none is garbage.
NEW_OBJECTS, LOOKS = 50_000, 100

# A CPU runs a loop over more bytes than this (XLA: 1 KiB) as a list of kernels that a host thread starts in every turn;
# ours over rows of matrices are short in each turn and have many.
BACKEND_OPTIONS = "--xla_backend_extra_options"
WHOLE_LOOPS = f"{BACKEND_OPTIONS}=xla_cpu_small_while_loop_byte_threshold=2000000000"


def compile_loops_whole() -> None:
    """Have XLA compile a loop without products of matrices to one kernel, with the same bits as otherwise; who has set
    `--xla_backend_extra_options` has decided.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if BACKEND_OPTIONS not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {WHOLE_LOOPS}".strip()


def collect_seldom() -> None:
    """Have Python look for garbage more seldom: a tenth of what a short command takes goes into it otherwise."""
    gc.set_threshold(NEW_OBJECTS, LOOKS)


def keep_compiled() -> None:
    """Keep what JAX compiles in the user's cache folder, for this process and those that it starts.

    Who has set `JAX_COMPILATION_CACHE_DIR` has decided; where the folder cannot be written, nothing is kept.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = Path(platformdirs.user_cache_dir("aejax", appauthor=False)) / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", str(LEAST_SECONDS))
        os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(MOST_BYTES))


def start_with_huge_pages() -> None:
    """Start this process again, from its beginning and with its own words, where Linux gives huge pages to who asks.

    The GNU C library asks for memory in pages of 2 MiB if its tunable says so when a process starts. Arrays of many MiB
    are made and walked through in less time: each 4 KiB page of a new one costs a fault, and a full table of pages is
    searched for each of an old one.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if "glibc.malloc.hugetlb" in tunables or not _given_to_who_asks():
        return
    os.environ["GLIBC_TUNABLES"] = f"{tunables}:{HUGE_PAGES}" if tunables else HUGE_PAGES
    with contextlib.suppress(OSError):  # then it goes on as it is
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _given_to_who_asks() -> bool:
    try:
        return "[madvise]" in HUGE_PAGES_FILE.read_text()
    except OSError:
        return False
