"""Products of matrices in the precision that a training asks for.

`bfloat16`: both factors of a dense product of layers are rounded to bfloat16 (8 bits of mantissa) and their products
summed in float32, forwards and in both gradients, on every device; parameters, moments, losses, and the rows of a
layer that a CPU adds up one by one (`batching.product`) stay float32. It is meant for devices that multiply bfloat16
natively: GPUs, TPUs, CPUs with AVX-512 BF16 or AMX; others take longer with it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import jax
import jax.numpy as jnp

PRECISIONS = ("float32", "bfloat16")


def products_in(precision: str) -> AbstractContextManager:
    """What is traced inside has its `matmul` in this precision; it is JAX's own setting, which `jax.jit` heeds."""
    return jax.default_matmul_precision("bfloat16") if precision == "bfloat16" else nullcontext()


def matmul(left: jax.Array, right: jax.Array) -> jax.Array:
    """`[B, K], [K, N] -> [B, N]`, float32."""
    if jax.config.jax_default_matmul_precision == "bfloat16":  # pyright: ignore[reportAttributeAccessIssue]
        return _rounded(left, right)
    return left @ right


@jax.custom_vjp
def _rounded(left: jax.Array, right: jax.Array) -> jax.Array:
    return _product(left, right)


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.matmul(left.astype(jnp.bfloat16), right.astype(jnp.bfloat16), preferred_element_type=jnp.float32)


def _forward(left: jax.Array, right: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _product(left, right), (left, right)


def _backward(kept: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    left, right = kept
    return _product(gradient, right.T), _product(left.T, gradient)


_rounded.defvjp(_forward, _backward)
