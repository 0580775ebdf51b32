"""Where JAX computes."""

from __future__ import annotations

import jax


def on_cpu() -> bool:
    """Whether JAX computes on a CPU now: on the device that `jax.default_device` has chosen, or that JAX prefers."""
    chosen = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue] (defined at run time)
    return getattr(chosen, "platform", chosen or jax.default_backend()) == "cpu"
