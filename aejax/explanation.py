"""Why a product is recommended, and what goes with one: both asked of the model, by what its scores do.

A product that the customer bought speaks for another as far as its score falls when the first is left out of the
history: for a model whose score is a sum over what was bought, that is the product's own term of the sum. Such models
say their terms themselves (`aejax.models.Additive`); of all others each bought product is left out once, through the
same `encode` and `scores` as ever, which takes as many scorings as products were bought.

Which bought product is most similar to the recommended one, or most often bought with it, is another question: what
all buy goes with everything and causes nothing.

Legend: n customers, I products, K the length of a list, L the most products that one has bought, C causes told.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from aejax import batching
from aejax.errors import InputError, nearest
from aejax.interactions import Histories, Interactions, Vocabulary, histories_of
from aejax.models import Additive, Model

MOST_CAUSES = 3


@dataclasses.dataclass(frozen=True)
class Causes:
    """The bought products that speak most for each place of a list.

    Attributes:
      items: `[n, K, C]`, the largest share first, of equals the lower index; I where there is none.
      shares: `[n, K, C]`, of all that speaks for it: they add up to 1 where no more than C do. What speaks against it
        is not counted.
    """

    items: np.ndarray
    shares: np.ndarray

    @classmethod
    def nothing(cls, shape: tuple[int, ...], count: int) -> Causes:
        """No causes for lists `[n, K]` of I = `count` products."""
        return cls(np.full((*shape, MOST_CAUSES), count), np.zeros((*shape, MOST_CAUSES), dtype=np.float32))

    def take(self, rows: np.ndarray) -> Causes:
        """Those of these customers."""
        return Causes(self.items[rows], self.shares[rows])

    def put(self, rows: np.ndarray, other: Causes) -> Causes:
        """These with others in their place at some rows."""
        items, shares = self.items.copy(), self.shares.copy()
        items[rows], shares[rows] = other.items, other.shares
        return Causes(items, shares)


def explain(model: Model, histories: Histories, items: np.ndarray) -> Causes:
    """Histories of n customers and their lists `[n, K]`, padded with I -> what of their purchases speaks for each."""
    bought, terms = contributions(model, histories, items)
    count = len(histories.lines.items)
    terms = np.where((items < count)[:, None, :] & (bought < count)[:, :, None], np.maximum(terms, 0.0), 0.0)
    total = terms.sum(axis=1, keepdims=True)
    shares = terms / np.where(total > 0, total, 1.0)
    missing = max(MOST_CAUSES - bought.shape[1], 0)
    shares = np.pad(shares, ((0, 0), (0, missing), (0, 0)))
    bought = np.pad(bought, ((0, 0), (0, missing)), constant_values=count)
    best = np.argsort(-shares, axis=1, kind="stable")[:, :MOST_CAUSES]  # bought products increase
    shares = np.take_along_axis(shares, best, axis=1).transpose(0, 2, 1)
    causes = bought[np.arange(len(bought))[:, None, None], best].transpose(0, 2, 1)
    return Causes(np.where(shares > 0, causes, count), shares.astype(np.float32))


def contributions(model: Model, histories: Histories, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What each bought product adds to the scores of the products `[n, K]` of its customer.

    Returns:
      The bought products `[n, L]`, increasing, padded with I, and what they add `[n, L, K]`.
    """
    if isinstance(model, Additive):
        return model.contributions(histories, items)
    return left_out(model, histories, items)


@jax.jit
def _scores_at(scores: jax.Array, items: jax.Array) -> jax.Array:
    """Scores `[B, I]` of the products `[B, K]`; 0 at padding."""
    rows = jnp.arange(scores.shape[0])[:, None]
    return scores.at[rows, items].get(mode="fill", fill_value=0.0)


def left_out(model: Model, histories: Histories, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`contributions` of any model: how far each score falls when one product is left out of the history.

    In a round each customer lacks one product, and is in it once: a model may know customers by their ids.
    """
    lines, count = histories.lines, len(histories.lines.items)
    pairs = np.unique(lines.pair)
    owner, product = pairs // count, pairs % count
    lengths = np.bincount(owner, minlength=len(histories))
    place = np.arange(len(pairs)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    bought = np.full((len(histories), max(1, lengths.max(initial=0))), count)
    bought[owner, place] = product

    def scored(some: Histories, asked: np.ndarray) -> np.ndarray:
        rows = batching.bucket(len(some))
        batch = batching.fill_rows(model.encode(some), rows)
        filled = np.pad(asked, ((0, rows - len(asked)), (0, 0)), constant_values=count)
        return jax.device_get(_scores_at(model.scores(batch), jnp.asarray(filled)))[: len(some)]

    terms = np.zeros((*bought.shape, items.shape[1]), dtype=np.float32)
    whole = scored(histories, items)
    for number in range(int(lengths.max(initial=0))):
        users = np.flatnonzero(lengths > number)
        kept = lines.take(lines.item != bought[lines.user, number])
        as_of = None if histories.as_of is None else histories.as_of[users]
        terms[users, number] = whole[users] - scored(histories_of(kept, users, as_of), items[users])
    return bought, terms


def similar(model: Model, lines: Interactions, sku: str, titles: pd.Series, *, top: int = 10) -> pd.DataFrame:
    """Products whose score rises most for a customer who bought only this one, against a customer who bought nothing.

    For a multinomial model that is the log of the lift `p(i | sku) / p(i)`; no model needs an embedding for it.

    Returns:
      A frame with the columns `rank, sku, title, score`.

    Raises:
      InputError: the product is unknown, `top` is out of range, or the model scores the other products of every
        customer alike.
    """
    index = int(lines.items.index([sku])[0])
    if index < 0:
        known = nearest(sku, lines.items.ids).split("Known:")[0] or "see products.csv for the SKUs"
        raise InputError(f'--sku is "{sku}", which this run does not know (or set aside as rare); {known}')
    others = np.bincount(lines.item, minlength=len(lines.items)) > 0  # no new products
    others[index] = False
    if not 1 <= top <= others.sum():
        raise InputError(f"--top is {top}; expected 1 to {others.sum()}, the number of other products")
    one = dataclasses.replace(
        lines.take(np.arange(1)),
        item=np.full(1, index, dtype=np.int32),
        user=np.zeros(1, dtype=np.int32),
        quantity=np.ones(1, dtype=np.int32),
        users=Vocabulary.of(("bought it", "bought nothing")),
        user_features=None,
    )
    as_of = None if one.at is None else np.repeat(one.at, len(one.users))
    scores = np.array(model.scores(model.encode(Histories(one, as_of))), dtype=np.float64)
    lift = scores[0] - scores[1]
    lift[index] = 0.0
    if not np.any(lift):
        raise InputError(
            "this model scores every customer alike but for what the customer has bought, so it knows no similar "
            "products; use another model"
        )
    lift[~others] = -np.inf
    order = np.argsort(-lift, kind="stable")[:top]
    return pd.DataFrame(
        {
            "rank": np.arange(1, top + 1),
            "sku": lines.items.ids[order],
            "title": titles.reindex(lines.items.ids[order]).to_numpy(dtype=object),
            "score": lift[order].astype(np.float32),
        }
    )
