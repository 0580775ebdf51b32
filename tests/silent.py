"""What a network's fit is given where nobody watches or interrupts it."""

from __future__ import annotations

from typing import Any

import jax


def training(seed: int = 0, **changes: Any) -> dict[str, Any]:
    """Arguments of a family's `fit` beside the data and the settings, with some of them changed."""
    return {
        "key": jax.random.key(seed),
        "validate": None,
        "on_epoch": lambda progress, record: None,
        "resume": lambda progress: progress,
    } | changes
