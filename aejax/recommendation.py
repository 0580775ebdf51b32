"""Top-N products for customers, with real ids and titles.

Legend: n customers, I products, K the length of a list.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import scipy.sparse as sp

from aejax import batching
from aejax.errors import InputError
from aejax.explanation import Causes, explain
from aejax.interactions import (
    Features,
    Histories,
    Interactions,
    Vocabulary,
    customers_of_products,
    histories_of,
    net_returns,
)
from aejax.lists import Lists, taken_from_short
from aejax.matrix import user_item_matrix
from aejax.models import Model, unknown_customers
from aejax.models.popularity import CategoryPopularitySettings, fit_category
from aejax.moments import end_of
from aejax.rules import ListRules
from aejax.selection import best_items, start_best_items, with_new_items

Item = TypeVar("Item")
# What lists of customers are based on whom the model does not know.
BASES = ("popular", "customer-attributes", "mean-customer")
NO_RULES = ListRules()


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
        end = np.datetime64(end_of(on), "s")
    except ValueError:
        raise InputError(f'--on is "{on}"; expected a date such as {last.astype("datetime64[D]")}') from None
    if end < first or end.astype("datetime64[D]") > last.astype("datetime64[D]"):
        place = "before the first" if end < first else "after the last"
        raise InputError(f"--on {on} is {place} order of this run, whose orders are of {first} to {last}")
    return end, min(end, last)


def recommend(
    model: Model, known: Known, customers: Sequence[str], titles: pd.Series, **options: Any
) -> Iterator[pd.DataFrame]:
    """`recommended_lists` as frames.

    Args:
      model: a fitted model.
      known: what may be looked at.
      customers: ids.
      titles: sku -> title.
      **options: see `recommended_lists`.

    Yields:
      Frames with the columns `COLUMNS`, K rows per customer, fewer only where fewer products remain.
    """
    skus = known.lines.items.ids
    title_of = titles.reindex(skus).to_numpy(dtype=object)
    for lists in recommended_lists(model, known, customers, **options):
        yield pd.DataFrame(lists.columns(skus, title_of))


def recommended_lists(
    model: Model,
    known: Known,
    customers: Sequence[str],
    *,
    top: int = 10,
    repeat: str = "exclude",
    new_places: int = 0,
    least_new: int = 0,
    segments: Features | None = None,
    for_unknown: Callable[[Interactions], Model | None] | None = None,
    rules: ListRules = NO_RULES,
    why: bool = False,
) -> Iterator[Lists]:
    """The best products for each customer, from what is known of them, a chunk of customers at a time.

    What nobody has bought (`Known.sold`) is recommended in `new_places` and `least_new` alone.

    Args:
      model: a fitted model.
      known: what may be looked at.
      customers: ids, in the order in which they shall come out. One without usable history gets the best by
        `for_unknown` (`basis` is `customer-attributes`), or the most popular products where that knows none of their
        attributes (`popular`; the score is the share of customers who bought the product); one whose history the model
        scores without knowing them, as the mean of the customers that it was trained on, has the `basis`
        `mean-customer`.
      top: K, products per customer.
      repeat: `exclude` leaves out what the customer has bought.
      new_places: of the K places of a customer with usable history so many are for new products (`Known.new`), the best
        of them by the model; they stand in the list by their score, and their `basis` is `attributes`.
      least_new: so many are for new products where there is no usable history; the best are those whose attributes the
        most bought products have (`models.popularity.fit_category`), and their score is the share of customers who
        bought such products on average.
      segments: attributes of these customers, `[n, F]`, features as those of `known`; None: none are known.
      for_unknown: fits a model that scores customers by their attributes to what is bought, or None where it cannot;
        called only where one of the customers has no usable history.
      rules: what else the lists must keep to.
      why: ask which of the bought products speak for each place (`explanation.explain`), of customers with usable
        history.

    Yields:
      The lists of the next customers.

    Raises:
      InputError: `top` is not between 1 and the number of products that were sold, the rules leave none of these or
        need dates that are not there, or the model scored NaN.
    """
    sold = known.sold
    if not 1 <= top <= sold.sum():
        by_then = f"sold by {known.as_of}" if known.later else "sold in this run"
        raise InputError(f"--top is {top}; expected 1 to {sold.sum()}, the number of products {by_then}")
    if rules.not_bought_days and known.as_of is None:
        raise InputError("not_bought_days needs order dates (created_at), and the data of this run have none")
    rules.account(sold)
    lister = _Lister(model, known, customers, top, repeat, new_places, least_new, segments, rules, why)
    if for_unknown is not None and segments is not None and known.lines.user_features is not None:
        lister.score_without_history(for_unknown)
    for finish in _one_ahead(map(lister.start, range(0, len(customers), lister.size))):
        yield finish()


class _Lister:
    """Makes the lists of a chunk of customers: what the device has been asked for a chunk goes on meanwhile."""

    def __init__(
        self,
        model: Model,
        known: Known,
        customers: Sequence[str],
        top: int,
        repeat: str,
        new_places: int,
        least_new: int,
        segments: Features | None,
        rules: ListRules,
        why: bool,
    ):
        self.model, self.known, self.customers, self.top, self.why = model, known, customers, top, why
        self.segments, self.rules, self.new_places, self.least_new = segments, rules, new_places, least_new
        lines = known.lines
        self.count = len(lines.items)
        self.bought = net_returns(lines)
        self.all_bought = self.bought if known.everything is lines else net_returns(known.everything)
        self.recent, self.bought_name = self.all_bought, "bought before"
        if repeat == "include":
            self.bought_name = "not_bought_days"
            since = np.zeros(len(self.all_bought), dtype=bool)
            if rules.not_bought_days:
                assert self.all_bought.at is not None and known.as_of is not None
                since = self.all_bought.at > known.as_of - np.timedelta64(rules.not_bought_days, "D")
            self.recent = self.all_bought.take(since)
        place = lines.users.index(customers)
        has_history = np.bincount(self.bought.user, minlength=len(lines.users)) > 0
        self.place = np.where((place >= 0) & has_history[place], place, -1)
        self.by_customer = _of_customers(self.bought, self.place[self.place >= 0])
        self.seen = user_item_matrix(self.recent)
        allowed = rules.allowed(self.count)
        self.offered, self.new = known.sold & allowed, known.new & allowed
        self.size = batching.scoring_chunk(self.count)
        self.filled = min(self.size, len(customers))
        self.length = 0  # of the padded rows of what is masked
        self.by_segment: Model | None = None
        self.of_segment = np.zeros(len(customers), dtype=bool)

    def score_without_history(self, fit: Callable[[Interactions], Model | None]) -> None:
        """Have a model of their attributes score the customers without usable history whose attributes it knows."""
        if (self.place >= 0).all():
            return
        assert self.segments is not None
        self.by_segment = fit(self.bought)
        if self.by_segment is not None and self.least_new:
            self.by_segment = _WithNew(self.by_segment, self.new, self.popularity)
        if self.by_segment is not None:
            nobody = _who_bought_nothing(self.known.lines, self.segments)
            self.of_segment = self.place < 0
            self.of_segment[unknown_customers(self.by_segment, nobody)] = False

    def start(self, start: int) -> Callable[[], Lists]:
        """Have the lists of a chunk of customers made, and return what waits for them."""
        chunk = self.place[start : start + self.size]
        ids = np.asarray(self.customers[start : start + self.size], dtype=object)
        # Rows of the chunk, what waits for their lists, and what these are based on.
        waiting: list[tuple[np.ndarray, Callable[[], tuple[np.ndarray, np.ndarray]], Any]] = []
        hidden = sp.csr_array((len(chunk), self.count), dtype=np.float32)  # what each may not get
        earlier = None if self.rules.earlier is None else self.rules.earlier.of(ids)
        if earlier is not None:
            hidden = earlier
        of_model = np.flatnonzero(chunk >= 0)
        users, first, row = np.unique(chunk[of_model], return_index=True, return_inverse=True)
        histories, seen = None, hidden[:0]
        if len(users):
            as_of = None if self.known.as_of is None else np.full(len(users), self.known.as_of)
            histories = histories_of(self.by_customer, users, as_of)
            seen = sp.csr_array(self.seen[users])
            masked = seen if earlier is None else sp.csr_array(seen + earlier[of_model[first]])
            self.length = batching.bucket(batching.longest_row(masked))
            wait = start_best_items(
                self.model,
                histories,
                masked,
                top=self.top,
                rows=self.filled,
                offered=self.offered,
                new=self.new if self.new_places else None,
                new_places=self.new_places,
                caps=self.rules.caps,
            )
            waiting.append((of_model, _rows_of(wait, row), basis_of(self.model, histories)[row][:, None]))
        without = np.flatnonzero(self.of_segment[start : start + self.size])
        if self.by_segment is not None and len(without):
            assert self.segments is not None
            nobody = _who_bought_nothing(self.known.lines, self.segments.take(start + without))
            wait = start_best_items(
                self.by_segment,
                nobody,
                hidden[without],
                top=self.top,
                rows=self.filled,
                offered=self.offered,
                new=self.new if self.least_new else None,
                new_places=self.least_new,
                caps=self.rules.caps,
            )
            waiting.append((without, wait, "customer-attributes"))
        others = np.flatnonzero((chunk < 0) & ~self.of_segment[start : start + self.size])
        if len(others) and earlier is not None and earlier[others].nnz:
            waiting.append((others, self._start_popular(hidden[others]), "popular"))
        elif len(others):
            waiting.append((others, lambda: self.popular, "popular"))

        def finish() -> Lists:
            items = np.full((len(chunk), self.top), self.count)
            scores = np.full((len(chunk), self.top), -np.inf)
            basis = np.full((len(chunk), self.top), "", dtype=object)
            for rows, wait, name in waiting:
                scores[rows], items[rows] = wait()
                basis[rows] = name
            sold = np.append(self.known.sold, True)
            basis[~sold[items]] = "attributes"
            causes = None
            if self.why:
                causes = Causes.nothing(items.shape, self.count)
                if histories is not None:
                    found = explain(self.model, histories, items[of_model[first]])
                    causes = causes.put(of_model, found.take(row))
            taken = {}
            if (items == self.count).any():
                bought = _spread(seen, of_model, row, len(chunk))
                taken = taken_from_short(items, self.known.sold, self.rules, bought, earlier, self.bought_name)
            return Lists(ids, items, scores, basis, taken, causes)

        return finish

    @cached_property
    def popularity(self) -> np.ndarray:
        """Of all products, `[I]`; of new ones, where they are asked for, that of their kind."""
        shares = popularity(self.bought)
        if not (self.least_new and self.new.any()):
            return shares
        buyers = max(np.count_nonzero(np.bincount(self.bought.user)), 1)
        of_kind = np.asarray(fit_category(self.bought, CategoryPopularitySettings()).popularity) / buyers
        return np.where(self.new, of_kind, shares).astype(np.float32)

    @cached_property
    def popular(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores and items `[1, K]` of the most popular products that are offered."""
        return self._start_popular(sp.csr_array((1, self.count), dtype=np.float32))()

    def _start_popular(self, hidden: sp.csr_array) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
        """Have the most popular products found that the rows of `hidden` `[n, I]` do not hold, in the shape of the
        model's lists: what is compiled for these does for them.
        """
        scores = np.broadcast_to(self.popularity, (self.filled, self.count))
        length = max(self.length, batching.bucket(batching.longest_row(hidden)))
        seen = jnp.asarray(batching.pad_rows(hidden, rows=self.filled, length=length).items)
        new = self.new if self.least_new else None
        found = best_items(
            jnp.asarray(scores), seen, self.offered, new, self.rules.caps, top=self.top, new_places=self.least_new
        )

        def wait() -> tuple[np.ndarray, np.ndarray]:
            best, items, of_new, new_items, _ = jax.device_get(found)
            if self.least_new:
                best, items = with_new_items(best, items, of_new, new_items, self.count)
            return best[: hidden.shape[0]], items[: hidden.shape[0]]

        return wait


@dataclasses.dataclass(frozen=True)
class _WithNew:
    """A model of what was bought that scores new products, too.

    Attributes:
      model: of the others.
      new: `[I]` bool.
      scores_of_new: `[I]`.
    """

    model: Model
    new: np.ndarray
    scores_of_new: np.ndarray

    def encode(self, histories: Histories) -> Any:
        return self.model.encode(histories)

    def scores(self, batch: Any) -> jax.Array:
        return jnp.where(self.new[None, :], self.scores_of_new[None, :], self.model.scores(batch))

    def state(self) -> Any:
        return self.model.state()

    def unknown(self, histories: Histories) -> np.ndarray:
        return unknown_customers(self.model, histories)


def _spread(matrix: sp.csr_array, rows: np.ndarray, row: np.ndarray, count: int) -> sp.csr_array:
    """CSR `[m, I]` -> `[count, I]` with its rows `row` `[n]` at `rows` `[n]`, and all others empty."""
    place = np.full(count, matrix.shape[0])
    place[rows] = row
    return sp.csr_array(sp.vstack([matrix, sp.csr_array((1, matrix.shape[1]), dtype=matrix.dtype)], format="csr"))[
        place
    ]


def _of_customers(lines: Interactions, users: np.ndarray) -> Interactions:
    """The lines of these customers, each one's together, so that no chunk gathers its own from all over."""
    asked = np.zeros(len(lines.users), dtype=bool)
    asked[users] = True
    positions, _ = lines.by_user
    return lines.take(positions[asked[lines.user[positions]]])


def _rows_of(
    wait: Callable[[], tuple[np.ndarray, np.ndarray]], row: np.ndarray
) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """What waits for two arrays `[m, K]` and gives these rows `[n]` of them."""

    def rows() -> tuple[np.ndarray, np.ndarray]:
        one, other = wait()
        return one[row], other[row]

    return rows


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


def popularity(bought: Interactions) -> np.ndarray:
    """The share of the customers with a purchase who bought each product, `[I]` float32."""
    customers = customers_of_products(bought)
    return (customers / max(np.count_nonzero(np.bincount(bought.user)), 1)).astype(np.float32)
