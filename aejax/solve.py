"""The inverse of a large symmetric positive definite matrix, by matrix products alone: in half its memory, which may be
an accelerator's, or in its place on a CPU.

LAPACK is called for blocks of `BLOCK` rows at most, whatever the size of the matrix, but by `exact_inverse`, which is
for a few thousand rows: its own factorisations of matrices of tens of thousands of rows are not equally sound in every
build of BLAS.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.sparse as sp

from aejax import devices
from aejax.errors import InputError

BLOCK = 2048
TILE = 256
# Rows that `invert` leaves to LAPACK, and rows of a product that it adds at once.
LEAST = 512
PIECE = 1024
# Columns or rows of a dense matrix that go through a product with a sparse one at once: so few that they stay in the
# cache of the core that has them.
THROUGH_SPARSE = 128


@partial(jax.jit, donate_argnums=0, static_argnames="block")
def _swept(
    panel: jax.Array, column: jax.Array, scaled: jax.Array, row: jax.Array, pivot: jax.Array, block: int
) -> jax.Array:
    """The block row from `row` on, less `scaled column'`; below the pivot its own column block becomes `scaled`.

    A column block at a time, in the memory of the block row: a product as large as the row would be new memory in every
    round.
    """
    left = jax.lax.dynamic_slice_in_dim(scaled, row, panel.shape[0])

    def sweep(start: jax.Array | int, width: int, panel: jax.Array) -> jax.Array:
        right = jax.lax.dynamic_slice_in_dim(column, start, width)
        tile = jax.lax.dynamic_slice_in_dim(panel, start, width, axis=1)
        tile = tile - jax.lax.dot_general(left, right, (((1,), (1,)), ((), ())), precision="highest")
        if width == left.shape[1]:
            tile = jnp.where((start == pivot) & (row > pivot), left, tile)
        return jax.lax.dynamic_update_slice_in_dim(panel, tile, start, axis=1)

    whole_blocks, rest = divmod(panel.shape[1], block)
    panel = jax.lax.fori_loop(0, whole_blocks, lambda number, panel: sweep(number * block, block, panel), panel)
    return sweep(whole_blocks * block, rest, panel) if rest else panel


@partial(jax.jit, donate_argnums=0)
def _negated(panel: jax.Array) -> jax.Array:
    return -panel


def inverse_panels(panel: Callable[[int, int], np.ndarray], size: int, *, block: int | None = None) -> list[jax.Array]:
    """The lower half of the inverse of a symmetric positive definite matrix A, block row by block row.

    The sweep operator, a block of rows at a time: with `D` the inverse of the pivot block `A_kk`, every other block
    becomes `A_ij - A_ik D A_kj`, then `A_ik` becomes `A_ik D` and `A_kk` becomes `-D`; after the last block A is minus
    its inverse. It keeps symmetry, so that only blocks on and below the diagonal are kept and updated: `size^3`
    multiplications and additions together, as Cholesky's factorisation and inversion take, all of them in products of
    large blocks.

    Args:
      panel: `panel(start, stop)` -> rows `start` to `stop` of A up to column `stop`, `[stop - start, stop]` float32.
      size: n, rows of A.
      block: rows in a block; None: `BLOCK`.

    Returns:
      Block rows of the inverse, each `[rows, stop]` float32.

    Raises:
      numpy.linalg.LinAlgError: A is not positive definite in float32.
    """
    block = BLOCK if block is None else block
    starts = range(0, size, block)
    panels = [jnp.asarray(panel(start, min(start + block, size))) for start in starts]
    for k, start in enumerate(starts):
        stop = start + panels[k].shape[0]
        inverse = jnp.asarray(_exact_inverse(np.asarray(panels[k][:, start:stop])))
        # Column block k of the symmetric matrix, 0 at the pivot, which is set below. One array and not one for each
        # block: what lies between freed arrays of their size is not given back to the system.
        above = panels[k][:, :start].T
        below = [panels[i][:, start:stop] for i in range(k + 1, len(panels))]
        column = jnp.concatenate([above, jnp.zeros_like(inverse), *below])
        scaled = jnp.matmul(column, inverse, precision="highest")
        panels[k] = jnp.concatenate([scaled[:start].T, -inverse], axis=1)
        for i in range(len(panels)):
            if i != k:
                panels[i] = _swept(panels[i], column, scaled, jnp.asarray(i * block), jnp.asarray(start), block)
        jax.block_until_ready(panels)  # arrays of later rounds are not to be made yet
    for k, rows in enumerate(panels):
        panels[k] = _negated(rows)
    return panels


def _exact_inverse(pivot: np.ndarray) -> np.ndarray:
    exact = pivot.astype(np.float64, order="C")
    invert_exactly(exact)
    return exact.astype(np.float32)


def exact_inverse(panel: Callable[[int, int], np.ndarray], size: int) -> np.ndarray:
    """The inverse `[n, n]` of a symmetric positive definite matrix that is given as to `inverse_panels`, but in
    float64: of one so small that LAPACK is sound.
    """
    square = np.zeros((size, size))

    def fill(start: int, stop: int) -> None:
        square[start:stop, :stop] = panel(start, stop)

    in_blocks(size, LEAST, fill)
    invert_exactly(square)
    return square


def invert_exactly(square: np.ndarray) -> None:
    """A symmetric positive definite matrix `[n, n]` float64 becomes its inverse; what lies above its diagonal is not
    used, but must be finite.

    Raises:
      numpy.linalg.LinAlgError: it is not positive definite, or not finite.
    """
    if not np.isfinite(square).all():
        raise np.linalg.LinAlgError
    if square.size:
        # The lower half of NumPy's rows is the upper one of LAPACK's columns, in the same memory.
        factorise, invert_factor = scipy.linalg.get_lapack_funcs(("potrf", "potri"), (square,))
        factor, failed = factorise(square.T, lower=False, clean=False, overwrite_a=True)
        if failed:
            raise np.linalg.LinAlgError
        inverse, failed = invert_factor(factor, lower=False, overwrite_c=True)
        square[:] = inverse.T
        mirror(square)


def inverse(panel: Callable[[int, int], np.ndarray], size: int) -> np.ndarray:
    """The inverse `[n, n]` float32 of a symmetric positive definite matrix that is given as to `inverse_panels`, in the
    way that is quick where JAX computes.
    """
    if not devices.on_cpu():
        return whole(inverse_panels(panel, size))
    full = empty(size, size)
    fill_and_invert(full, panel)
    return full


def fill_and_invert(square: np.ndarray, panel: Callable[[int, int], np.ndarray]) -> None:
    """An array `[n, n]` float32 becomes the inverse of the matrix that `panel` gives, as to `inverse_panels`."""
    for start in range(0, len(square), PIECE):
        stop = min(start + PIECE, len(square))
        square[start:stop, :stop] = panel(start, stop)
        square[start:stop, stop:] = 0  # says nothing, but is added to
    invert(square)


def invert(matrix: np.ndarray) -> None:
    """A symmetric positive definite matrix `[n, n]` float32 becomes its inverse. What lies above its diagonal is not
    used, but must be finite.

    By halves, in its own memory and a quarter more: with the inverse `A^-1` of the first half, `W = -B A^-1`, and the
    inverse S of `D + W B'`,

        [ A  B' ]^-1   [ A^-1 + W' S W   W' S ]
        [ B  D  ]    = [ S W             S    ]

    which is `n^3` multiplications and additions together, as in `inverse_panels`, and all by the BLAS of NumPy, which
    on a CPU is quicker than the products of XLA.

    Raises:
      numpy.linalg.LinAlgError: the matrix is not positive definite in float32.
    """
    size, half = len(matrix), len(matrix) // 2
    if size <= LEAST:
        matrix[:] = _exact_inverse(matrix) if size else matrix
        return
    first, below, second = matrix[:half, :half], matrix[half:, :half], matrix[half:, half:]
    invert(first)
    carried = below @ first
    np.negative(carried, out=carried)
    add_lower(second, carried, below.T)
    invert(second)
    np.matmul(second, carried, out=below)
    add_lower(first, carried.T, below)
    mirror(matrix)


def add_lower(square: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
    """Adds `left right`, `[n, m]` and `[m, n]`, to what lies on and below the diagonal of a matrix of which no more is
    used; some of what lies above it changes too.
    """
    for start in range(0, len(square), PIECE):
        stop = min(start + PIECE, len(square))
        square[start:stop, :stop] += left[start:stop] @ right[:, :stop]


def whole(panels: list[Any]) -> np.ndarray:
    """Block rows of the lower half -> the symmetric matrix `[n, n]`. The list is emptied, to need less memory."""
    block, size = panels[0].shape[1], panels[-1].shape[1]
    full = empty(size, size)

    def fill(start: int, stop: int) -> None:
        full[start:stop, :stop] = panels[start // block]
        panels[start // block] = None

    in_blocks(size, block, fill)
    panels.clear()
    mirror(full)
    return full


def mirror(square: np.ndarray) -> None:
    """Writes what lies below the diagonal of a matrix `[n, n]` above it."""

    def fill(start: int, stop: int) -> None:
        for column in range(0, start, TILE):  # a transpose in tiles that fit in a cache
            square[column : column + TILE, start:stop] = square[start:stop, column : column + TILE].T
        tile = square[start:stop, start:stop]
        upper = np.triu_indices(stop - start, 1)
        tile[upper] = tile.T[upper]

    in_blocks(len(square), TILE, fill)


def in_blocks(count: int, block: int, fill: Callable[[int, int], None]) -> None:
    """`fill(start, stop)` for all blocks of `count`, on all cores: of work that keeps one core busy and holds no lock,
    as sparse products do, and writing to new memory.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in [pool.submit(fill, start, min(start + block, count)) for start in range(0, count, block)]:
            done.result()


def lower_panels(full: np.ndarray) -> list[np.ndarray]:
    """A symmetric matrix `[n, n]` -> its block rows on and below the diagonal, which `whole` takes: copies, which leave
    nothing to hold the matrix.
    """
    panels = [np.empty(0, np.float32)] * -(-len(full) // BLOCK)

    def fill(start: int, stop: int) -> None:
        panels[start // BLOCK] = full[start:stop, :stop].copy()

    in_blocks(len(full), BLOCK, fill)
    return panels


def empty(rows: int, columns: int) -> np.ndarray:
    """An array `[rows, columns]` float32 that `jax.device_put` takes over on a CPU without a copy."""
    align = 64
    raw = np.empty(rows * columns * 4 + align, dtype=np.uint8)
    start = -raw.ctypes.data % align
    return raw[start : start + rows * columns * 4].view(np.float32).reshape(rows, columns)


def gram_panels(rows: sp.csr_array, columns: sp.csr_array, diagonal: np.ndarray) -> Callable[[int, int], np.ndarray]:
    """Sparse `[n, m]`, `[m, n]` and a diagonal `[n]` -> `rows columns + diagonal` as `inverse_panels` takes it."""

    def panel(start: int, stop: int) -> np.ndarray:
        block = (rows[start:stop] @ columns[:, :stop]).toarray()
        block[np.arange(stop - start), np.arange(start, stop)] += diagonal[start:stop]
        return block

    return panel


def over_ridge(rows: sp.csr_array, ridge: np.ndarray) -> sp.csr_array:
    """Sparse X `[n, m]` and a positive diagonal L `[m]` -> `X L^-1`, in the floats of X."""
    scaled = rows.copy()
    scaled.data /= ridge[rows.indices].astype(rows.dtype)
    return scaled


def check_digits(left: np.ndarray, kind: np.typing.DTypeLike) -> None:
    """Raises `numpy.linalg.LinAlgError` where a small difference has fewer than three digits left.

    Args:
      left: what elimination leaves of each diagonal element, as a share of it: `1 / (A_jj P_jj)` for a matrix A with
        the inverse P, which is one less the share of row j that the other rows explain.
      kind: the floats in which it is solved.
    """
    if not left.min() >= 1e3 * np.finfo(kind).eps:  # NaN too
        raise np.linalg.LinAlgError


def singular(l2: float) -> InputError:
    """The error of a ridge with which a matrix has no inverse in floats."""
    return InputError(f"l2 {l2:g} leaves the system singular in float32; try a larger l2")
