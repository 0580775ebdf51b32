"""Where JAX computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import jax

Item = TypeVar("Item")
Result = TypeVar("Result")
WORKERS = 2


def on_cpu() -> bool:
    """Whether JAX computes on a CPU now: on the device that `jax.default_device` has chosen, or that JAX prefers."""
    chosen = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue] (defined at run time)
    return getattr(chosen, "platform", chosen or jax.default_backend()) == "cpu"


def overlapped(function: Callable[[Item], Result], items: Iterable[Item], *, compiled: bool) -> Iterator[Result]:
    """`map`, on a CPU with `WORKERS` calls at a time: much of what XLA does there (top-k, scatters) takes one core.

    Args:
      function: of an item, to arrays; pure.
      items: as many as `WORKERS` are taken before the first result is.
      compiled: the function was called before; else the first call is waited for, so that nothing compiles twice.
    """
    if not on_cpu():
        yield from map(function, items)
        return
    chosen = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue] (a thread has its own)

    def finished(item: Item) -> Result:
        with jax.default_device(chosen):
            return jax.block_until_ready(function(item))

    rest = iter(items)
    if not compiled:
        yield from map(finished, islice(rest, 1))
    with ThreadPoolExecutor(WORKERS) as pool:
        waiting: deque[Future[Result]] = deque()
        for item in rest:
            waiting.append(pool.submit(finished, item))
            if len(waiting) == WORKERS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
