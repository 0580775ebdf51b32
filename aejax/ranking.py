"""Mask and top-k, with the one tie rule: of equal scores the lower item index comes first.

Legend: B batch, I items, K cut-off, L padded length of a list of items (padding holds the index I, out of range).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from aejax import devices

# Items for each of a list, from which on a CPU is quicker to look for the list in the best blocks of items: as measured
# for lists of 10 and of 100, among 1,682 items (no gain at 17 for each, a little at 168) and more.
ITEMS_PER_PLACE = 160


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
    index first among equals, which is the rule. Where a score is NaN the list has no meaning: a CPU's largest of many
    does not keep it, so whoever asks looks at the scores themselves.
    """
    chex.assert_rank(scores, 2)
    count = scores.shape[1]
    is_long = 0 < ITEMS_PER_PLACE * k <= count and devices.on_cpu()
    best, items = _of_best_blocks(scores, k) if is_long else _of_all(scores, min(k, count))
    items = jnp.where(jnp.isneginf(best), count, items)
    missing = ((0, 0), (0, k - best.shape[1]))
    return (
        jnp.pad(best, missing, constant_values=-jnp.inf),
        jnp.pad(items, missing, constant_values=count),
    )


def _of_all(scores: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    # top_k orders -0.0 below 0.0; they are equal scores, so the lower index must come first.
    return jax.lax.top_k(jnp.where(scores == 0.0, 0.0, scores), k)


def _of_best_blocks(scores: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The same, from the `k` blocks of neighbouring items whose largest scores are the best: an item of another block
    has a larger score, or an equal one of a lower index, in each of these before it.

    Blocks of about `(I / k)^1/2` items make the least of blocks and of items in `k` of them together.
    """
    rows, count = scores.shape
    size = 1 << ((count // k).bit_length() // 2)
    to_whole = ((0, 0), (0, -count % size))
    largest = jax.lax.reduce_window(scores, -jnp.inf, jax.lax.max, (1, size), (1, size), to_whole)
    blocks = jnp.sort(_of_all(largest, k)[1], axis=1)  # so that the lower index stays the first
    items = (blocks[:, :, None] * size + jnp.arange(size)[None, None, :]).reshape(rows, k * size)
    best, places = _of_all(jnp.take_along_axis(scores, items, axis=1, mode="fill", fill_value=-jnp.inf), k)
    return best, jnp.take_along_axis(items, places, axis=1)


class Caps(NamedTuple):
    """The most items of a group in one list.

    Attributes:
      groups: `[A, I]` int32, the group of each item in each of A groupings; -1: it is in none.
      most: `[A]` int32, at least 1.
    """

    groups: Any
    most: Any


def capped_top_k_items(
    scores: jax.Array, k: int, caps: Caps, before: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """`top_k_items` of which each is the best that no full group holds, given those that stand before it.

    With one grouping no list that keeps to the caps is longer or has a larger sum of scores: the sets that keep to them
    are a matroid, of which the greedy choice is the best. With several it may be neither.

    Args:
      scores: `[B, I]`.
      k: how many.
      caps: of the groups.
      before: `[B, M]` items that are in the list already and fill their groups, padded with I; they are not masked.
    """
    chex.assert_rank(scores, 2)
    rows, count = jnp.arange(scores.shape[0]), scores.shape[1]
    before = jnp.zeros((len(rows), 0), dtype=jnp.int32) if before is None else before
    first = before.shape[1]
    groups, most = jnp.asarray(caps.groups), jnp.asarray(caps.most)

    def close(scores: jax.Array, chosen: jax.Array, item: jax.Array) -> jax.Array:
        """Mask what is in a group with the item `[B]` that those chosen `[B, M + k]` have filled."""
        for of_item, limit in zip(groups, most, strict=True):
            own = of_item.at[item].get(mode="fill", fill_value=-1)
            members = (of_item.at[chosen].get(mode="fill", fill_value=-1) == own[:, None]).sum(axis=1)
            full = (own >= 0) & (members >= limit)
            scores = jnp.where(full[:, None] & (of_item[None, :] == own[:, None]), -jnp.inf, scores)
        return scores

    def step(number: jax.Array, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        scores, chosen, best = state
        item = jnp.argmax(scores, axis=1).astype(jnp.int32)  # of equals the first
        score = scores[rows, item]
        item = jnp.where(jnp.isneginf(score), count, item)
        chosen, best = chosen.at[:, first + number].set(item), best.at[:, number].set(score)
        return close(scores.at[rows, item].set(-jnp.inf, mode="drop"), chosen, item), chosen, best

    chosen = jnp.concatenate([before.astype(jnp.int32), jnp.full((len(rows), k), count, dtype=jnp.int32)], axis=1)
    for number in range(first):
        scores = close(scores, chosen, chosen[:, number])
    best = jnp.full((len(rows), k), -jnp.inf, dtype=scores.dtype)
    _, chosen, best = jax.lax.fori_loop(0, k, step, (scores, chosen, best))
    return best, chosen[:, first:]


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


def values_of(items: jax.Array, lists: jax.Array, values: jax.Array, count: int) -> jax.Array:
    """The values `[B, L]` that `items` `[B, K]` have in the padded `lists` `[B, L]` of their row, 0 for those that do
    not stand there: `[B, K]`. Arguments as those of `membership`.
    """
    chex.assert_rank([items, lists, values], 2)
    rows = jnp.arange(items.shape[0])[:, None]
    table = jnp.zeros((items.shape[0], count), dtype=values.dtype).at[rows, lists].set(values, mode="drop")
    return table.at[rows, items].get(mode="fill", fill_value=0)
