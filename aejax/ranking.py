"""Mask and top-k, with the one tie rule: of equal scores the lower item index comes first.

Legend: B batch, I items, K cut-off, L padded length of a list of items (padding holds the index I, out of range).
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp


def mask_items(scores: jax.Array, items: jax.Array) -> jax.Array:
    """Scores `[B, I]`, padded items `[B, L]` -> scores with `-inf` at those items, which are then never recommended."""
    chex.assert_rank([scores, items], 2)
    rows = jnp.arange(scores.shape[0])[:, None]
    return scores.at[rows, items].set(-jnp.inf, mode="drop")


def offer_items(scores: jax.Array, offered: jax.Array | None) -> jax.Array:
    """Scores `[B, I]` with `-inf` at the items that are not `offered` `[I]` to anyone; None: all are."""
    return scores if offered is None else jnp.where(offered[None, :], scores, -jnp.inf)


def top_k_items(scores: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """Scores `[B, I]` -> the best `k` scores and items `[B, k]`, best first.

    Where fewer than `k` items are not masked, the rest has score `-inf` and item I. `jax.lax.top_k` puts the lower
    index first among equals, which is the rule.
    """
    chex.assert_rank(scores, 2)
    count = scores.shape[1]
    # top_k orders -0.0 below 0.0; they are equal scores, so the lower index must come first.
    best, items = jax.lax.top_k(jnp.where(scores == 0.0, 0.0, scores), min(k, count))
    items = jnp.where(jnp.isneginf(best), count, items)
    missing = ((0, 0), (0, k - best.shape[1]))
    return (
        jnp.pad(best, missing, constant_values=-jnp.inf),
        jnp.pad(items, missing, constant_values=count),
    )


def membership(items: jax.Array, lists: jax.Array, count: int) -> jax.Array:
    """Which of `items` `[B, K]` stand in the padded `lists` `[B, L]` of their row: bool `[B, K]`.

    Args:
      items: item indices; the index `count` is no item and a member of nothing.
      lists: item indices padded with `count`.
      count: I, the number of items.
    """
    chex.assert_rank([items, lists], 2)
    rows = jnp.arange(items.shape[0])[:, None]
    table = jnp.zeros((items.shape[0], count), dtype=bool).at[rows, lists].set(True, mode="drop")
    return table.at[rows, items].get(mode="fill", fill_value=False)
