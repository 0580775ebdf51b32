"""`ae`: the plain autoencoder of the original pipeline. Dense 128-64-32-64-128, ReLU, sigmoid output, MSE, Adam 1e-3.

Input and target are the same row of the user-item matrix, or with `targets` two transforms of it. The row is binary by
default; with other values each user's largest value becomes 1, because a sigmoid cannot reach counts above 1.

Scores are the logits: a sigmoid is increasing, so the ranking is that of the outputs, and logits do not run into equal
values at the ends of the sigmoid.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from itertools import pairwise

import jax
from flax import nnx

from aejax import losses
from aejax.batching import Batch, target_rows
from aejax.errors import InputError
from aejax.models import Choice, Family, Range
from aejax.network import Linear, NetworkSettings, fit_and_restore, linear_of_rows


@dataclasses.dataclass(frozen=True)
class AESettings(NetworkSettings):
    """Settings of `ae`.

    Attributes:
      hidden: sizes from the input inwards; the decoder mirrors them.
    """

    batch_size: int = 64
    hidden: tuple[int, ...] = (128, 64, 32)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.hidden or min(self.hidden) < 1:
            raise InputError(f"hidden is {self.hidden}; expected at least one size, each 1 or more, such as 128,64,32")


class AE(nnx.Module):
    """Layers I - hidden - I."""

    def __init__(self, items: int, rngs: nnx.Rngs, *, hidden: tuple[int, ...]):
        self.items = items
        sizes = (items, *hidden, *hidden[-2::-1], items)
        self.layers = nnx.List([Linear(i, o, rngs=rngs) for i, o in pairwise(sizes)])

    def __call__(self, batch: Batch) -> jax.Array:
        """A batch of B users -> logits `[B, I]`."""
        first, *rest = self.layers
        x = linear_of_rows(first, batch)
        for layer in rest:
            x = layer(jax.nn.relu(x))
        return x


def _loss(module: AE, batch: Batch, step: jax.Array, key: jax.Array) -> jax.Array:
    """Mean squared error over items of each user, `[B]`."""
    del step, key
    return losses.squared_error(jax.nn.sigmoid(module(batch)), *target_rows(batch, module.items)) / module.items


def _build(settings: AESettings) -> partial[AE]:
    return partial(AE, hidden=settings.hidden)


SEARCH = {
    "hidden": Choice(("128,64,32", "128", "512,128", "600")),
    "batch_size": Choice(("50", "100", "250", "500")),
    "learning_rate": Range(1e-4, 1e-2, log=True),
}
FAMILY = Family(
    AESettings,
    SEARCH,
    *fit_and_restore(_build, lambda settings, users: _loss, unit=True, rows=lambda settings: ("layers", 0, "kernel")),
    is_network=True,
)
