"""Unreduced top-k metrics: hits in rank order -> one value per user. Whoever reports reduces, and says over what.

Legend: B users, K cut-off. `hits` `[B, >=K]` is true where the item at that rank is a target; `targets` `[B]` is the
number of a user's targets, at least 1. Ranks start at 1 in the formulas.
"""

from __future__ import annotations

from collections.abc import Mapping

import chex
import jax
import jax.numpy as jnp

CUTOFFS = (1, 5, 10, 20, 50, 100)
KEYS: tuple[str, ...] = (
    *(f"{name}@{k}" for name in ("precision", "recall", "recall_all", "ndcg", "hit") for k in CUTOFFS),
    "map@10",
    "mrr@10",
)
REVENUE_KEYS = tuple(f"revenue@{k}" for k in CUTOFFS)  # where targets have prices
DEPTH = max(CUTOFFS)


def precision_at_k(hits: jax.Array, targets: jax.Array, k: int) -> jax.Array:
    """Hits / K, also where fewer than K items could be recommended. `[B]`."""
    del targets
    return hits[:, :k].sum(1) / k


def recall_at_k(hits: jax.Array, targets: jax.Array, k: int) -> jax.Array:
    """Hits / min(K, |targets|), Liang et al. (2018), section 4.2. `[B]`."""
    return hits[:, :k].sum(1) / jnp.minimum(k, targets)


def recall_all_at_k(hits: jax.Array, targets: jax.Array, k: int) -> jax.Array:
    """Hits / |targets|, as LightGCN's tables and RecBole have it. `[B]`."""
    return hits[:, :k].sum(1) / targets


def ndcg_at_k(hits: jax.Array, targets: jax.Array, k: int) -> jax.Array:
    """Discounted gain `sum_r hit_r / log2(r + 1)` over that of min(K, |targets|) hits at the top. `[B]`."""
    discounts = 1.0 / jnp.log2(jnp.arange(2, k + 2))
    ideal = jnp.cumsum(discounts)[jnp.minimum(k, targets) - 1]
    return hits[:, :k].astype(jnp.float32) @ discounts / ideal


def hit_at_k(hits: jax.Array, targets: jax.Array, k: int) -> jax.Array:
    """1 where at least one of the K is a target. `[B]`."""
    del targets
    return hits[:, :k].any(1).astype(jnp.float32)


def map_at_k(hits: jax.Array, targets: jax.Array, k: int) -> jax.Array:
    """Average precision: `sum_r hit_r * precision@r / min(K, |targets|)`. `[B]`."""
    top = hits[:, :k].astype(jnp.float32)
    precision = jnp.cumsum(top, axis=1) / jnp.arange(1, k + 1)[None, :]
    return (top * precision).sum(1) / jnp.minimum(k, targets)


def mrr_at_k(hits: jax.Array, targets: jax.Array, k: int) -> jax.Array:
    """1 / rank of the first hit, 0 where it lies beyond K. `[B]`."""
    del targets
    top = hits[:, :k]
    return jnp.where(top.any(1), 1.0 / (jnp.argmax(top, axis=1) + 1), 0.0)


_FUNCTIONS = {
    "precision": precision_at_k,
    "recall": recall_at_k,
    "recall_all": recall_all_at_k,
    "ndcg": ndcg_at_k,
    "hit": hit_at_k,
    "map": map_at_k,
    "mrr": mrr_at_k,
}


def per_user_metrics(hits: jax.Array, targets: jax.Array) -> Mapping[str, jax.Array]:
    """Hits `[B, DEPTH]` and target counts `[B]` -> every metric of `KEYS`, each `[B]`."""
    chex.assert_shape(hits, (targets.shape[0], DEPTH))
    result = {}
    for key in KEYS:
        name, k = key.split("@")
        result[key] = _FUNCTIONS[name](hits, targets, int(k))
    return result


def revenue_at_k(paid: jax.Array, k: int) -> jax.Array:
    """What the user paid for the hits among the first K, in the currency of the orders; `paid` `[B, >=K]` is 0 where
    the item at that rank is no target. `[B]`.

    It is the revenue@K of value-aware recommenders (De Biasio, Navarin and Jannach 2023, arXiv:2308.11998, review how
    they are evaluated) with the price that was really paid, times the pieces, where others take a list price and one
    piece; and it is a mean per user, where others sum over users.
    """
    return paid[:, :k].sum(1)


def per_user_revenue(paid: jax.Array) -> Mapping[str, jax.Array]:
    """What was paid for the item at each rank, `[B, DEPTH]` -> every metric of `REVENUE_KEYS`, each `[B]`."""
    chex.assert_axis_dimension(paid, 1, DEPTH)
    return {f"revenue@{k}": revenue_at_k(paid, k) for k in CUTOFFS}
