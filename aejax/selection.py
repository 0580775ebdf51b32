"""The best items of a batch of customers, chosen on the device without waiting for it.

Legend: n customers, I products, K the length of a list, M places of new products.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

from aejax import batching, ranking
from aejax.errors import InputError
from aejax.interactions import Histories
from aejax.models import Model
from aejax.ranking import Caps


@partial(jax.jit, static_argnames=("top", "new_places"))
def best_items(
    scores: jax.Array,
    seen: jax.Array,
    offered: jax.Array | None,
    new: jax.Array | None,
    caps: Caps | None,
    *,
    top: int,
    new_places: int = 0,
) -> tuple[jax.Array, ...]:
    """Scores `[B, I]` and what is masked -> scores and items `[B, K]`, the same of new products `[B, M]`, and whether a
    score is NaN. Caps hold for both together, the new products first.
    """
    unseen = ranking.mask_items(scores, seen)

    def best(of: jax.Array | None, k: int, before: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        masked = ranking.offer_items(unseen, of)
        if caps is None:
            return ranking.top_k_items(masked, k)
        return ranking.capped_top_k_items(masked, k, caps, before)

    first, first_items = best(new, new_places) if new_places else (scores[:, :0], seen[:, :0])
    return *best(offered, top, first_items), first, first_items, jnp.isnan(scores).any()


def start_best_items(
    model: Model,
    histories: Histories,
    seen: sp.csr_array,
    *,
    top: int,
    rows: int,
    offered: np.ndarray | None = None,
    new: np.ndarray | None = None,
    new_places: int = 0,
    caps: Caps | None = None,
) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """Have the device find the best items of n customers, without waiting for it.

    Args:
      model: a fitted model.
      histories: of n customers.
      seen: `[n, I]`, what must not be recommended.
      top: length of a list.
      rows: the batch is filled up to this many customers, so that every batch has one shape.
      offered: `[I]` bool, what may be recommended; None: every product.
      new: `[I]` bool, what may be recommended in the places for new products.
      new_places: how many of the list's places these are.
      caps: at most so many of a group in a list.

    Returns:
      What waits for scores and items `[n, top]`, best first, item I where fewer than `top` products remain. It raises
      `InputError` where the model scored NaN.
    """
    batch = batching.fill_rows(model.encode(histories), rows)
    masked = jnp.asarray(batching.pad_rows(seen, rows=rows).items)
    found = best_items(model.scores(batch), masked, offered, new, caps, top=top, new_places=new_places)
    size, count = len(histories), seen.shape[1]

    def wait() -> tuple[np.ndarray, np.ndarray]:
        best, items, of_new, new_items, any_nan = jax.device_get(found)
        if any_nan:
            raise InputError("the model scored NaN (not a number): its training went wrong; fit it again")
        if new_places:
            best, items = with_new_items(best, items, of_new, new_items, count)
        return best[:size], items[:size]

    return wait


def with_new_items(
    scores: np.ndarray, items: np.ndarray, new_scores: np.ndarray, new_items: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Lists `[n, K]`, best first, whose last places go to the new items `[n, M]`; all in the order of their scores,
    ties by index. A score of `-inf` is no item, and its index is `count`, the number of items.
    """
    top = scores.shape[1]
    taken = np.isfinite(new_scores).sum(axis=1, keepdims=True)
    stays = np.arange(top) < top - taken
    scores = np.concatenate([np.where(stays, scores, -np.inf), new_scores], axis=1)
    items = np.concatenate([items, new_items], axis=1)
    items = np.where(np.isneginf(scores), count, items)
    order = np.lexsort((items, -scores))[:, :top]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(items, order, 1)
