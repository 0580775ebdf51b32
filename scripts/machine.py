"""What a task needs at least, and how fast this machine is: the floor under each task's seconds.

Work is counted, rates are measured, and nothing is typed in: floor = FLOPs / matrix-multiplication rate + bytes /
copy bandwidth. The two are summed, because no overlap of them is shown.

Legend: U users, I items, B batch, H hidden, D latent.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

# Bytes that Adam moves for a parameter and step: reads it, its gradient and two moments, writes it and both moments.
ADAM_BYTES = 28
RESIDENT = 16  # bytes of a parameter, its gradient and both moments
# Dense peak of the matrix units in bfloat16 with float32 sums, FLOP/s, from the makers' data sheets; for MFU.
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L4": 121e12, "TPU v4": 275e12, "TPU v5 lite": 197e12}


@dataclasses.dataclass(frozen=True)
class Work:
    """What a task needs at least.

    Attributes:
      flops: multiplications and additions.
      bytes: that go through memory.
      product: (m, k, n) of the matrix product at whose rate the FLOPs are counted: the task's largest.
      resident: bytes that are gone through again and again; what fits a cache is quicker than main memory.
    """

    flops: float
    bytes: float
    product: tuple[int, int, int]
    resident: int = 2**29


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a machine can do, measured.

    Attributes:
      float32: FLOP/s of a product of float32 matrices.
      bfloat16: the same in bfloat16.
      bandwidth: bytes read and written in a second where an array is written over itself.
    """

    float32: float
    bfloat16: float
    bandwidth: float

    def seconds(self, work: Work) -> dict[str, float]:
        """The floor of each resource."""
        return {"arithmetic": work.flops / self.float32, "memory": work.bytes / self.bandwidth}

    def floor(self, work: Work) -> float:
        """The least seconds."""
        return sum(self.seconds(work).values())

    def binds(self, work: Work) -> str:
        """Which resource takes most of the floor."""
        seconds = self.seconds(work)
        return max(seconds, key=seconds.__getitem__)


def dense(rows: int, layers: Sequence[tuple[int, int]], passes: int = 3) -> float:
    """FLOPs of rows through dense layers; passes: 1 forward, +1 for the weights' gradient, +1 for the inputs'."""
    return sum(2.0 * passes * rows * inputs * outputs for inputs, outputs in layers)


def parameters(layers: Sequence[tuple[int, int]]) -> int:
    """Weights and biases."""
    return sum((inputs + 1) * outputs for inputs, outputs in layers)


def _steps(size: Mapping[str, Any]) -> int:
    return -(-size["users"] // size["batch_size"])


def _autoencoder(size: Mapping[str, Any], first: int, inner: Sequence[tuple[int, int]], last: int) -> Work:
    """An epoch of layers I - first - inner - last - I: the input layer on a user's own items that dropout leaves."""
    items, own = size["items"], size["cells"] * (1 - size["dropout"])
    layers = [*inner, (last, items)]
    flops = 4.0 * own * first + dense(size["users"], layers)  # no gradient of the inputs
    count = parameters([(items, first), *layers])
    return Work(flops, float(ADAM_BYTES * count * _steps(size)), (size["batch_size"], last, items), RESIDENT * count)


def ae_epoch(size: Mapping[str, Any], settings: Mapping[str, Any]) -> Work:
    """An epoch of `ae`."""
    hidden = [*settings["hidden"], *settings["hidden"][-2::-1]]
    return _autoencoder(size, hidden[0], list(itertools.pairwise(hidden)), hidden[-1])


def multvae_epoch(size: Mapping[str, Any], settings: Mapping[str, Any]) -> Work:
    """An epoch of `multvae` with one hidden layer."""
    (hidden,), latent = settings["hidden"], settings["latent_dim"]
    return _autoencoder(size, hidden, [(hidden, 2 * latent), (latent, hidden)], hidden)


def lazy_multvae_epoch(size: Mapping[str, Any], settings: Mapping[str, Any]) -> Work:
    """The same by lazy Adam: of the input layer only the rows of a batch's products move."""
    work, (hidden,) = multvae_epoch(size, settings), settings["hidden"]
    still = ADAM_BYTES * (size["items"] - size["batch_items"]) * hidden * _steps(size)
    return dataclasses.replace(work, bytes=work.bytes - still)


def recvae_epoch(size: Mapping[str, Any], settings: Mapping[str, Any]) -> Work:
    """An epoch of `recvae`: three passes of its encoder, which need the old posteriors once, one of its decoder."""
    users, items, cells = size["users"], size["items"], size["cells"]
    hidden, latent = settings["hidden_dim"], settings["latent_dim"]
    inner = [*[(hidden, hidden)] * 4, (hidden, 2 * latent)]
    encoder = 4.0 * cells * (1 - size["dropout"]) * hidden + dense(users, inner)
    through_decoder = dense(users, [(latent, items)], passes=2)  # forward, and one of the two gradients
    encode = 2.0 * cells * hidden + dense(users, inner, passes=1)
    flops = 3 * (encoder + through_decoder) + encode + (encode + through_decoder)
    norms = 5 * 2 * hidden
    of_encoder, of_decoder = parameters([(items, hidden), *inner]) + norms, parameters([(latent, items)])
    moved = float(ADAM_BYTES * (3 * of_encoder + of_decoder) * _steps(size))
    return Work(flops, moved, (size["batch_size"], latent, items), RESIDENT * (of_encoder + of_decoder))


def ease_fit_and_score(size: Mapping[str, Any], settings: Mapping[str, Any]) -> Work:
    """A Cholesky inverse on the smaller side, its sparse Gram matrix, and the scores of all users, written once.

    Between users the scores are K^-1 X, and the diagonal of P takes a quadratic form of each item's own users.
    """
    users, items, cells = size["users"], size["items"], size["cells"]
    of_items = items**3 + size["user_squares"] + 2.0 * cells * items
    of_users = users**3 + 3.0 * size["item_squares"] + 2.0 * cells * users
    side = min(users, items, 4096)
    return Work(min(of_items, of_users), 4.0 * users * items, (side, side, side))


def multvae_scores(size: Mapping[str, Any], settings: Mapping[str, Any]) -> Work:
    """The scores of all users by `multvae`, read once for the best of them."""
    (hidden,), latent = settings["hidden"], settings["latent_dim"]
    users, items = size["users"], size["items"]
    layers = [(hidden, latent), (latent, hidden), (hidden, items)]
    flops = 2.0 * size["cells"] * hidden + dense(users, layers, passes=1)
    return Work(flops, 4.0 * users * items, (min(users, 512), hidden, items))


def files_read(size: Mapping[str, Any], settings: Mapping[str, Any]) -> Work:
    """Every byte of the files, read once."""
    return Work(0.0, float(size["bytes"]), (64, 64, 64))


def measure(product: Sequence[int], resident: int) -> Limits:
    """The rates of this machine now, on the device that JAX has: the best of several, for a limit is one.

    Args:
      product: (m, k, n); the rate is that of the product and of the two of its gradients together.
      resident: bytes of the array whose copy gives the bandwidth.
    """
    import jax
    import jax.numpy as jnp

    m, k, n = product
    shapes = [((m, k), (k, n)), ((m, n), (n, k)), ((k, m), (m, n))]

    def rate(dtype: Any) -> float:
        matmul = jax.jit(lambda one, other: jnp.matmul(one, other, preferred_element_type=jnp.float32))
        pairs = [(jnp.ones(left, dtype), jnp.ones(right, dtype)) for left, right in shapes]
        return 6.0 * m * k * n / sum(_best(lambda _, pair=pair: matmul(*pair)) for pair in pairs)

    # Over itself, as an optimizer does: a new array would have to be asked from the operating system first.
    over_itself = jax.jit(lambda array: array + 1.0, donate_argnums=0)
    count = max(1, resident // 4)
    seconds = _best(lambda array: over_itself(jnp.zeros(count, jnp.float32) if array is None else array))
    return Limits(rate(jnp.float32), rate(jnp.bfloat16), 8.0 * count / seconds)


def _best(call: Callable[[Any], Any], budget_s: float = 0.3, calls: int = 4) -> float:
    """The least seconds of a call, which is given what it returned before (first None); of blocks of calls in flight,
    so that a device's start-up does not count.
    """
    import jax

    result = jax.block_until_ready(call(call(None)))
    times: list[float] = []
    while len(times) < 3 or sum(times) * calls < budget_s:
        start = time.perf_counter()
        for _ in range(calls):
            result = call(result)
        jax.block_until_ready(result)
        times.append((time.perf_counter() - start) / calls)
    return min(times)


def peak(device: str) -> float | None:
    """FLOP/s that a device's data sheet promises in bfloat16; None where it is not known here."""
    return next((flops for name, flops in PEAKS.items() if name in device), None)


def description() -> dict[str, Any]:
    """The processor and the memory, beside what `aejax.runs.environment` tells."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":", 1)[1].strip() for line in lines.splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(memory, 1),
        "load": round(os.getloadavg()[0], 2),
    }


def median_range(values: Sequence[float]) -> dict[str, float]:
    """The median of repeats, and the least and the most."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "repeats": len(values)}


def paired(own: Sequence[float], others: Sequence[float]) -> list[float]:
    """Ratios other / own of runs that alternated, pair by pair, for as many as both have."""
    return [other / mine for mine, other in zip(own, others, strict=False)]


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The b of values = a * sizes ** b, by least squares in the logarithms."""
    import numpy as np

    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])
