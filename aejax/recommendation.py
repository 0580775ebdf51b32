"""Top-N products for customers, with real ids and titles.

Legend: n customers, I products, K the length of a list.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import scipy.sparse as sp

from aejax import batching, ranking
from aejax.errors import InputError, nearest
from aejax.interactions import (
    Features,
    Histories,
    Interactions,
    Vocabulary,
    customers_of_products,
    histories_of,
    net_returns,
)
from aejax.matrix import history_matrix
from aejax.models import Model, unknown_customers
from aejax.moments import moment_of

Item = TypeVar("Item")
COLUMNS = ("customer_id", "rank", "sku", "title", "score", "basis")
# What lists of customers are based on whom the model does not know.
BASES = ("popular", "customer-attributes", "mean-customer")


@partial(jax.jit, static_argnames="k")
def _best(
    scores: jax.Array, seen: jax.Array, offered: jax.Array | None, k: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    best, items = ranking.top_k_items(ranking.mask_items(ranking.offer_items(scores, offered), seen), k)
    return best, items, jnp.isnan(scores).any()


@dataclasses.dataclass(frozen=True)
class Known:
    """What is known at a moment: all that recommendations may look at.

    Attributes:
      lines: the order lines up to it, returns included; their products are the model's.
      everything: the same with those of products that the model knows by their attributes alone.
      as_of: the moment, UTC, to which ages count; None without dates.
      sold: `[I]` bool, the products that somebody bought by then, sent back or not: also what came back was on sale.
      later: how many orders come after it; without order ids, how many order lines.
    """

    lines: Interactions
    everything: Interactions
    as_of: np.datetime64 | None
    sold: np.ndarray
    later: int

    @property
    def new(self) -> np.ndarray:
        """`[I]` bool, the products that nobody bought by then, but of which attributes are known."""
        features = self.lines.item_features
        return np.zeros_like(self.sold) if features is None else ~self.sold & (np.diff(features.matrix.indptr) > 0)


def known_at(lines: Interactions, on: str | None = None, *, everything: Interactions | None = None) -> Known:
    """Order lines of a run -> what is known on a day, so that nothing after it can be read.

    Args:
      lines: all order lines with their returns.
      on: an ISO date, which means the end of that day, or an ISO time. Without a zone it is UTC. Ages count to it, on
        the day of the last order to that order. None: all lines are known, and ages count to the last of them.
      everything: lines with the same vocabularies that hold those of set-aside products too; None: there are none.

    Raises:
      InputError: it is neither a date nor a time, or before the first order or after the day of the last, or the orders
        have no dates.
    """
    everything = lines if everything is None else everything
    as_of, later = None if lines.at is None else lines.at.max(), 0
    if on is not None:
        end, as_of = _moment_on(lines, on)
        assert lines.at is not None and everything.at is not None
        late = lines.at > end
        later = int(late.sum()) if lines.order is None else len(np.unique(lines.order[late]))
        lines, everything = lines.take(~late), everything.take(everything.at <= end)
    sold = np.bincount(lines.item[lines.quantity > 0], minlength=len(lines.items)) > 0
    return Known(lines, everything, as_of, sold, later)


def _moment_on(lines: Interactions, on: str) -> tuple[np.datetime64, np.datetime64]:
    """The end of what is known, and the moment to which ages count; see `known_at`."""
    if lines.at is None:
        raise InputError(
            f"--on {on} needs order dates (created_at), and the data of this run have none; leave --on out"
        )
    first, last = lines.at.min(), lines.at.max()
    try:
        moment = np.datetime64(moment_of(on), "s")
    except ValueError:
        raise InputError(f'--on is "{on}"; expected a date such as {last.astype("datetime64[D]")}') from None
    day = moment.astype("datetime64[D]")
    end = moment if _has_time(on) else (day + np.timedelta64(1, "D")).astype("datetime64[s]") - np.timedelta64(1, "s")
    if end < first or day > last.astype("datetime64[D]"):
        place = "before the first" if end < first else "after the last"
        raise InputError(f"--on {on} is {place} order of this run, whose orders are of {first} to {last}")
    return end, min(end, last)


def _has_time(text: str) -> bool:
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        return True
    return False


def recommend(
    model: Model,
    known: Known,
    customers: Sequence[str],
    titles: pd.Series,
    *,
    top: int = 10,
    repeat: str = "exclude",
    new_places: int = 0,
    segments: Features | None = None,
    for_unknown: Callable[[Interactions], Model | None] | None = None,
) -> Iterator[pd.DataFrame]:
    """The best products for each customer, from what is known of them, a chunk of customers at a time.

    What nobody has bought (`Known.sold`) is recommended in `new_places` alone.

    Args:
      model: a fitted model.
      known: what may be looked at.
      customers: ids, in the order in which they shall come out. One without usable history gets the best by
        `for_unknown` (`basis` is `customer-attributes`), or the most popular products where that knows none of their
        attributes (`popular`; the score is the share of customers who bought the product); one whose history the model
        scores without knowing them, as the mean of the customers that it was trained on, has the `basis`
        `mean-customer`.
      titles: sku -> title.
      top: K, products per customer.
      repeat: `exclude` leaves out what the customer has bought.
      new_places: of the K places of a customer with usable history so many are for new products (`Known.new`), the best
        of them by the model; they stand in the list by their score, and their `basis` is `attributes`.
      segments: attributes of these customers, `[n, F]`, features as those of `known`; None: none are known.
      for_unknown: fits a model that scores customers by their attributes to what is bought, or None where it cannot;
        called only where one of the customers has no usable history.

    Yields:
      Frames with the columns `COLUMNS`, K rows per customer, fewer only where fewer products remain.

    Raises:
      InputError: `top` is not between 1 and the number of products that were sold, or the model scored NaN.
    """
    lines, sold = known.lines, known.sold
    count = len(lines.items)
    if not 1 <= top <= sold.sum():
        by_then = f"sold by {known.as_of}" if known.later else "sold in this run"
        raise InputError(f"--top is {top}; expected 1 to {sold.sum()}, the number of products {by_then}")
    bought, all_bought = net_returns(lines), net_returns(known.everything)
    popular = popularity_ranking(bought)
    popular = popular[sold[popular["item"]]][:top]
    place = lines.users.index(customers)
    has_history = np.bincount(bought.user, minlength=len(lines.users)) > 0
    place = np.where((place >= 0) & has_history[place], place, -1)
    of_segment, by_segment = np.zeros(len(customers), dtype=bool), None
    if for_unknown is not None and segments is not None and lines.user_features is not None and (place < 0).any():
        by_segment = for_unknown(bought)
    if segments is not None and by_segment is not None:
        of_segment = place < 0
        of_segment[unknown_customers(by_segment, _who_bought_nothing(lines, segments))] = False
    title_of = titles.reindex(lines.items.ids).to_numpy(dtype=object)
    size = batching.scoring_chunk(count)
    filled = min(size, len(customers))

    def start_chunk(start: int) -> Callable[[], pd.DataFrame]:
        """Have the lists of a chunk of customers made, and return what waits for them."""
        chunk = place[start : start + size]
        users = np.unique(chunk[chunk >= 0])
        started: dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]] = {}
        of_users = np.empty(0, dtype=object)
        if len(users):
            histories = histories_of(bought, users, None if known.as_of is None else np.full(len(users), known.as_of))
            of_users = basis_of(model, histories)
            if repeat == "include":
                seen = sp.csr_array((len(users), count), dtype=np.float32)
            else:
                seen = history_matrix(histories_of(all_bought, users))
            begin = partial(start_best_items, model, histories, seen, rows=filled)
            started["known"] = begin(top=top, offered=sold)
            if new_places:
                started["new"] = begin(top=new_places, offered=known.new)
        without = np.flatnonzero(of_segment[start : start + size])
        if segments is not None and by_segment is not None and len(without):
            nobody = _who_bought_nothing(lines, segments.take(start + without))
            nothing = sp.csr_array((len(without), count), dtype=np.float32)
            started["without"] = start_best_items(by_segment, nobody, nothing, top=top, rows=filled, offered=sold)

        def finish() -> pd.DataFrame:
            items, scores = np.full((len(chunk), top), count), np.full((len(chunk), top), -np.inf)
            basis = np.full(len(chunk), "popular", dtype=object)
            if "known" in started:
                best, best_of = started["known"]()
                if "new" in started:
                    new = started["new"]()
                    best, best_of = with_new_items(best, best_of, *new, count)
                row = np.searchsorted(users, chunk)
                of_model = chunk >= 0
                items[of_model], scores[of_model] = best_of[row[of_model]], best[row[of_model]]
                basis[of_model] = of_users[row[of_model]]
            items[chunk < 0], scores[chunk < 0] = popular["item"], popular["share"]
            if "without" in started:
                scores[without], items[without] = started["without"]()
                basis[without] = "customer-attributes"
            rows, ranks = np.nonzero(items < count)
            ids = np.asarray(customers[start : start + size], dtype=object)
            return pd.DataFrame(
                {
                    "customer_id": ids[rows],
                    "rank": ranks + 1,
                    "sku": lines.items.ids[items[rows, ranks]],
                    "title": title_of[items[rows, ranks]],
                    "score": scores[rows, ranks].astype(np.float32),
                    "basis": np.where(sold[items[rows, ranks]], basis[rows], "attributes"),
                },
                columns=list(COLUMNS),
            )

        return finish

    for finish in _one_ahead(map(start_chunk, range(0, len(customers), size))):
        yield finish()


def _one_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The items, each when the one behind it has been made: what that has started goes on meanwhile."""
    waiting: list[Item] = []
    for item in items:
        waiting.append(item)
        if len(waiting) > 1:
            yield waiting.pop(0)
    yield from waiting


def _who_bought_nothing(lines: Interactions, features: Features) -> Histories:
    """Histories of n customers of whom their features `[n, F]` are all that is known."""
    names = Vocabulary.of(f"{number:09d}" for number in range(features.matrix.shape[0]))
    return Histories(dataclasses.replace(lines.take(slice(0, 0)), users=names, user_features=features))


def basis_of(model: Model, histories: Histories) -> np.ndarray:
    """Histories of n customers -> `[n]`: `model`, or `mean-customer` for one whom the model does not know."""
    basis = np.full(len(histories), "model", dtype=object)
    basis[unknown_customers(model, histories)] = "mean-customer"
    return basis


def start_best_items(
    model: Model,
    histories: Histories,
    seen: sp.csr_array,
    *,
    top: int,
    rows: int,
    offered: np.ndarray | None = None,
) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """Have the device find the best items of n customers, without waiting for it.

    Args:
      model: a fitted model.
      histories: of n customers.
      seen: `[n, I]`, what must not be recommended.
      top: length of a list.
      rows: the batch is filled up to this many customers, so that every batch has one shape.
      offered: `[I]` bool, what may be recommended; None: every product.

    Returns:
      What waits for scores and items `[n, top]`, best first, item I where fewer than `top` products remain. It raises
      `InputError` where the model scored NaN.
    """
    batch = batching.fill_rows(model.encode(histories), rows)
    found = _best(model.scores(batch), jnp.asarray(batching.pad_rows(seen, rows=rows).items), offered, top)

    def wait() -> tuple[np.ndarray, np.ndarray]:
        best, items, any_nan = jax.device_get(found)
        if any_nan:
            raise InputError("the model scored NaN (not a number): its training went wrong; fit it again")
        return best[: len(histories)], items[: len(histories)]

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


def popularity_ranking(bought: Interactions) -> np.ndarray:
    """Products by number of customers, most first, ties by index: `[I]` records of `item` and the `share` of the
    customers with a purchase who bought it.
    """
    customers = customers_of_products(bought)
    order = np.argsort(-customers, kind="stable")
    result = np.empty(len(order), dtype=[("item", np.int64), ("share", np.float32)])
    result["item"], result["share"] = order, customers[order] / max(np.count_nonzero(np.bincount(bought.user)), 1)
    return result


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
