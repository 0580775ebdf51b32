"""Runs on a GPU that are the same in every bit: what XLA has to be told before JAX starts.

A GPU sums what meets in one place (scatters, some products of matrices) in the order in which its threads arrive, and
JAX picks the kernels of products by timing them. With `FLAG` both are fixed, at the price of slower kernels:
https://openxla.org/xla/determinism. A CPU computes the same bits anyway.
"""

from __future__ import annotations

import os
import sys

from aejax.errors import InputError

FLAG = "--xla_gpu_deterministic_ops=true"


def ask() -> None:
    """Add `FLAG` to `XLA_FLAGS`, behind the user's own, for this process and those that it starts.

    Raises:
      InputError: JAX, which reads `XLA_FLAGS` once, was imported before.
    """
    if asked():
        return
    if "jax" in sys.modules:
        raise InputError(
            "for a deterministic run XLA has to be told before JAX is imported, and this process has imported it; "
            f"start it with XLA_FLAGS={FLAG}"
        )
    os.environ["XLA_FLAGS"] = " ".join((*_flags(), FLAG))


def asked() -> bool:
    """Whether XLA is told to be deterministic; of a flag that is given twice the last one counts."""
    name, _, _ = FLAG.partition("=")
    return [flag for flag in _flags() if flag.partition("=")[0] == name][-1:] == [FLAG]


def _flags() -> list[str]:
    return os.environ.get("XLA_FLAGS", "").split()
