r"""`tifuknn` and `upcf`: the strong simple models of next-basket recommendation, which read a history order by order.

* `tifuknn`: Hu, He, Gao, Zhang (2020), Modeling personalized item frequency information for next-basket recommendation,
  section 4. A customer's n orders, as binary vectors in the order of time, are cut into m groups of x = n / m. An order
  that is a places from the end of its group counts `r_b^a`, a group's vector is the sum of its orders' over x; a group
  that is b places from the last counts `r_g^b`, and the customer's vector v is the sum of the groups' over m. Scores
  are `alpha v + (1 - alpha) w`, w the mean vector of the k customers at the least Euclidean distance from v.
* `upcf`: Faggioli, Polato, Aiolli (2020), Recency aware collaborative filtering for next basket recommendation, there
  UP-CF@r. UP@r, the user popularity of a product, is the share of the customer's last r orders (of all of them, if
  fewer) that hold it. With X_u for all that u ever bought, two customers are as similar as the asymmetric cosine
  `w_uv = |X_u & X_v| / (|X_u|^alpha |X_v|^(1 - alpha))` says, and u's scores are the sum over v of
  `w_uv^q UP@r(v)`, in which u stands too, with `w_uu = 1`. A large q leaves UP@r alone (beyond 20
  float32 may lose what customers unlike this one bought).

What the papers leave open, and where this differs:

* A customer may be unknown to train: a new history takes part in its own scores as any other does, and all customers of
  train are its possible neighbours. Whoever is in train is no neighbour of their own, with a row that may be older.
* m need not divide n: then the later groups hold one order more, as in the authors' program. With n < m there are n
  groups, the last of weight 1. The authors' program takes these for the first n of m groups, and counts `r_b` from the
  end of the history and not of the group, where this keeps to the paper.
* Of customers whose squared distances are equal in float32 the one with the lower index is nearer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

from aejax.batching import Batch, pad_rows
from aejax.interactions import Histories, Interactions, Vocabulary, orders_since
from aejax.matrix import check_counts, check_fractions, check_positive, from_state, scale_rows, to_state
from aejax.models import Family, Range, require_column
from aejax.sparse_weights import scores_of

CELLS = 2**23  # of customers scored x customers of train, that are compared at once


@dataclasses.dataclass(frozen=True)
class TIFUKNNSettings:
    """Settings of `tifuknn`; the defaults are those published for Ta-Feng.

    Attributes:
      neighbours: k, how many customers are averaged.
      groups: m, into how many groups a customer's orders are cut.
      within_decay: r_b, what an order counts of the next one in its group, 0 to 1.
      group_decay: r_g, what a group counts of the next one, 0 to 1.
      alpha: share of the customer's own vector, 0 to 1; the rest is the neighbours'.
    """

    neighbours: int = 300
    groups: int = 7
    within_decay: float = 0.9
    group_decay: float = 0.7
    alpha: float = 0.7

    def __post_init__(self) -> None:
        check_counts(self, "neighbours", "groups")
        check_fractions(self, "within_decay", "group_decay", "alpha")

    def rows(self, lines: Interactions) -> sp.csr_array:
        """Purchases -> their customers' vectors `[U, I]`, float32 CSR."""
        since = orders_since(lines)
        orders = _orders(lines, since)
        groups = np.minimum(orders, self.groups)
        size, larger = np.divmod(orders, groups)
        # The `larger` last groups hold size + 1 orders, all others size; both are counted from the end.
        place = since - larger * (size + 1)
        late = place < 0
        size = np.where(late, size + 1, size)
        group, within = np.divmod(np.where(late, since, place), size)
        group = np.where(late, group, group + larger)
        return _matrix(lines, self.within_decay**within * self.group_decay**group / (size * groups))


@dataclasses.dataclass(frozen=True)
class UPCFSettings:
    """Settings of `upcf`.

    Attributes:
      recency: r, how many of a customer's last orders are counted.
      alpha: asymmetry of the cosine, 0 (by what the other bought) to 1 (by what the customer bought).
      locality: q, the power of a similarity.
    """

    recency: int = 10
    alpha: float = 0.5
    locality: float = 5.0

    def __post_init__(self) -> None:
        check_counts(self, "recency")
        check_fractions(self, "alpha")
        check_positive(self, "locality")

    def rows(self, lines: Interactions) -> sp.csr_array:
        """Purchases -> UP@r of their customers `[U, I]`, float32 CSR: with a cell, which may hold 0, for each product
        that a customer ever bought.
        """
        since = orders_since(lines)
        return _matrix(lines, (since < self.recency) / np.minimum(_orders(lines, since), self.recency))


def _orders(lines: Interactions, since: np.ndarray) -> np.ndarray:
    """How many orders each line's customer made, `[N]`."""
    orders = np.zeros(len(lines.users), dtype=np.int64)
    np.maximum.at(orders, lines.user, since + 1)
    return orders[lines.user]


def _matrix(lines: Interactions, weight: np.ndarray) -> sp.csr_array:
    matrix = sp.csr_array((weight, (lines.user, lines.item)), shape=(len(lines.users), len(lines.items)))
    matrix.sum_duplicates()
    return sp.csr_array(matrix, dtype=np.float32)


@dataclasses.dataclass(frozen=True)
class BasketModel:
    """A model that mixes a customer's own row with those of the customers of train.

    Attributes:
      customers: the customers of train who bought something.
      matrix: `[U, I]`, their rows, by `settings.rows`.
      settings: of the rows and the mixture.
    """

    name: ClassVar[str]
    customers: Vocabulary
    matrix: sp.csr_array
    settings: Any

    @classmethod
    def fit(cls, train: Interactions, settings: Any) -> BasketModel:
        """The rows of the customers who bought something.

        Raises:
          InputError: the purchases have no order ids.
        """
        require_column(train, "order", model=cls.name, instead="userknn")
        matrix = settings.rows(train)
        bought = np.flatnonzero(np.diff(matrix.indptr))
        return cls(train.users.take(bought), matrix[bought], settings)

    @classmethod
    def restore(cls, state: Mapping[str, Any], settings: Any, *, items: int) -> BasketModel:
        """The model whose `state()` that was."""
        return cls(Vocabulary.from_state(state["customers"]), from_state(state["matrix"], items), settings)

    @cached_property
    def compared(self) -> sp.csr_array:
        """`[U, I]` float64, what a customer is compared with."""
        raise NotImplementedError

    def blocks(self, own: sp.csr_array) -> Iterator[tuple[int, sp.csr_array]]:
        """Rows `[n, I]` -> the products with `compared`, `[n, <= CELLS / n]`, block by block, each with its first
        customer's number: all of `[n, U]` is never there at once.
        """
        step = max(1, CELLS // max(own.shape[0], 1))
        for start in range(0, self.matrix.shape[0], step):
            yield start, sp.csr_array(own @ self.compared[start : start + step].T)

    def mixed(self, own: sp.csr_array, numbers: np.ndarray) -> sp.csr_array:
        """Rows of n customers and their numbers in train, -1 for none -> their scores `[n, I]`."""
        raise NotImplementedError

    def encode(self, histories: Histories) -> Batch:
        """Histories of n customers -> their scores that are not 0, padded, on the host."""
        require_column(histories.lines, "order", model=self.name, instead="userknn")
        mixed = self.mixed(self.settings.rows(histories.lines), self.customers.index(histories.lines.users.ids))
        mixed.eliminate_zeros()
        return pad_rows(mixed)

    def scores(self, batch: Batch) -> jax.Array:
        """A batch of B customers -> scores `[B, I]`, higher is better."""
        return scores_of(batch, self.matrix.shape[1])

    def state(self) -> dict[str, Any]:
        """What a run stores of it."""
        return {"customers": self.customers.to_state(), "matrix": to_state(self.matrix)}


@partial(jax.jit, static_argnames="k")
def _nearest(distances: jax.Array, numbers: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """Distances and customers' numbers `[n, m]` -> the k least distances and whose they are; of equals the first."""
    least, place = jax.lax.top_k(-distances, k)
    return -least, jnp.take_along_axis(numbers, place, axis=1)


class TIFUKNN(BasketModel):
    """Own vector and mean vector of the nearest customers."""

    name = "tifuknn"

    @cached_property
    def compared(self) -> sp.csr_array:
        """`[U, I]` float64, the vectors."""
        return sp.csr_array(self.matrix, dtype=np.float64)

    def neighbours(self, own: sp.csr_array, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vectors of n customers and their numbers in train -> squared distances, nearest first, and numbers in train
        `[n, k]` of the neighbours; infinitely far where there are fewer than k.
        """
        lengths = np.asarray(self.compared.multiply(self.compared).sum(axis=1)).ravel()
        squares = np.asarray(own.multiply(own).sum(axis=1)).ravel()[:, None]
        k, count = self.settings.neighbours, own.shape[0]
        found = np.full((count, 0), np.inf, dtype=np.float32), np.zeros((count, 0), dtype=np.int32)
        for start, products in self.blocks(own):
            others = np.arange(start, start + products.shape[1], dtype=np.int32)
            distances = np.maximum(squares + lengths[others] - 2.0 * products.toarray(), 0.0).astype(np.float32)
            distances[numbers[:, None] == others] = np.inf
            # Those found before have lower numbers and stand first.
            distances = np.concatenate([found[0], distances], axis=1)
            both = np.concatenate([found[1], np.tile(others, (count, 1))], axis=1)
            found = jax.device_get(_nearest(distances, both, min(k, distances.shape[1])))
        return found

    def mixed(self, own: sp.csr_array, numbers: np.ndarray) -> sp.csr_array:
        """Own vectors and the mean vectors of the neighbours, in their shares."""
        own = sp.csr_array(own, dtype=np.float64)
        distances, nearest = self.neighbours(own, numbers)
        row, place = np.nonzero(np.isfinite(distances))
        chosen = sp.csr_array(
            (np.ones(len(row)), (row, nearest[row, place])), shape=(own.shape[0], len(self.customers))
        )
        mean = scale_rows(chosen @ self.matrix, 1.0 / np.maximum(chosen.sum(axis=1), 1.0))
        return sp.csr_array(self.settings.alpha * own + (1.0 - self.settings.alpha) * mean, dtype=np.float32)


class UPCF(BasketModel):
    """Sum of the customers' user popularity, weighed by similarity."""

    name = "upcf"

    @cached_property
    def compared(self) -> sp.csr_array:
        """`[U, I]` float64, 1 for what a customer ever bought."""
        return _bought(self.matrix)

    def mixed(self, own: sp.csr_array, numbers: np.ndarray) -> sp.csr_array:
        """The user popularity of the customer and, each weighed, of all others."""
        alpha = self.settings.alpha
        mine, theirs = (np.maximum(np.diff(matrix.indptr), 1).astype(np.float64) for matrix in (own, self.matrix))
        total = own
        for start, shared in self.blocks(_bought(own)):
            block = sp.coo_array(shared)
            row, other = block.coords[0], block.coords[1] + start
            weight = (block.data / (mine[row] ** alpha * theirs[other] ** (1.0 - alpha))) ** self.settings.locality
            weight[numbers[row] == other] = 0.0
            weights = sp.csr_array((weight, block.coords), shape=block.shape)
            total = total + weights @ self.matrix[start : start + block.shape[1]]
        return sp.csr_array(total, dtype=np.float32)


def _bought(matrix: sp.csr_array) -> sp.csr_array:
    return sp.csr_array((np.ones(matrix.nnz), matrix.indices, matrix.indptr), shape=matrix.shape)


_DECAY = Range(0.1, 1.0)
TIFU_KNN = Family(
    TIFUKNNSettings,
    {
        "neighbours": Range(10, 1500, log=True),
        "groups": Range(1, 25),
        "within_decay": _DECAY,
        "group_decay": _DECAY,
        "alpha": Range(0.0, 1.0),
    },
    TIFUKNN.fit,
    TIFUKNN.restore,
    is_network=False,
)
UP_CF = Family(
    UPCFSettings,
    {"recency": Range(1, 100, log=True), "alpha": Range(0.0, 1.0), "locality": Range(1.0, 20.0, log=True)},
    UPCF.fit,
    UPCF.restore,
    is_network=False,
)
