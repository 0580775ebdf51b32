"""Aggregation of order lines to the user-item matrix, with a value transform."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from aejax.errors import InputError, nearest
from aejax.interactions import Histories, Interactions

VALUES = ("binary", "quantity", "log1p-quantity", "orders", "log1p-orders", "recency")
MOST_POWER = 4


def check_values(values: str, setting: str = "--values") -> None:
    """Raises `InputError` where no value transform has this name; `setting` is what was to give it."""
    if values not in VALUES:
        raise InputError(f'{setting} is "{values}"; {nearest(values, VALUES)}')


def user_item_matrix(
    lines: Interactions,
    values: str = "binary",
    *,
    as_of: np.ndarray | None = None,
    half_life: float = 180.0,
    setting: str = "--values",
) -> sp.csr_array:
    """Order lines `[N]` -> the user-item matrix `[U, I]`, float32 CSR with sorted indices.

    Args:
      lines: purchases of one part, returns already netted.
      values: what a cell holds. `binary`: 1. `quantity`: pieces. `orders`: number of orders. `log1p-quantity`,
        `log1p-orders`: log(1 + that). `recency`: each order counts `2 ** (-age / half_life)`.
      as_of: `[U]` datetime64[s], the moment that ages count to, for each customer; None: the cut that the lines carry
        (`Interactions.as_of`), or where they carry none their latest line.
      half_life: days after which an order counts half; only `recency` uses it.
      setting: what gave `values`, for messages.

    Returns:
      Cells of customers and products without a line are absent.

    Raises:
      InputError: unknown `values`, or `recency` without dates.
    """
    check_values(values, setting)
    if values == "recency":
        if lines.at is None:
            raise InputError(f"{setting} recency needs order dates (created_at), and these data have none; try orders")
        as_of = lines.as_of if as_of is None else as_of
        until = as_of[lines.user] if as_of is not None else lines.at.max() if len(lines) else np.datetime64(0, "s")
        age_in_days = (until - lines.at).astype(np.float64) / 86_400.0
        # Never 0: a purchase long ago is still a cell of the matrix.
        weight = np.maximum(np.exp2(-age_in_days / half_life), np.finfo(np.float32).tiny)
    elif values in ("quantity", "log1p-quantity"):
        weight = lines.quantity
    else:
        weight = np.ones(len(lines), dtype=np.float32)
    # One line is one order's purchase of one product: its lines were summed when they were read.
    matrix = _cells(lines, weight.astype(np.float32))
    matrix.sum_duplicates()
    if values == "binary":
        matrix.data[:] = 1.0
    elif values.startswith("log1p"):
        np.log1p(matrix.data, out=matrix.data)
    return matrix


def _cells(lines: Interactions, weight: np.ndarray) -> sp.csr_array:
    """A cell for each line, `[U, I]`, sorted by product, those of one customer and product beside each other.

    Lines by product, then by customer: each is one pass over all of them, where sorting each customer's takes longer.
    """
    users, items = len(lines.users), len(lines.items)
    starts = np.arange(len(lines) + 1, dtype=np.int32)
    by_item = sp.csr_array((weight, lines.item, starts), shape=(len(lines), items)).tocsc()
    cells = sp.csc_array((by_item.data, lines.user[by_item.indices], by_item.indptr), shape=(users, items))
    return cells.tocsr()


def history_matrix(histories: Histories, values: str = "binary", *, half_life: float = 180.0) -> sp.csr_array:
    """Histories of n customers -> their user-item matrix `[n, I]`; ages count to each customer's own cut."""
    return user_item_matrix(histories.lines, values, as_of=histories.as_of, half_life=half_life)


@dataclasses.dataclass(frozen=True)
class AgeSettings:
    """Settings of a model in which orders count less the older they are.

    Attributes:
      half_life: days after which an order counts half.
    """

    half_life: float = 180.0

    def __post_init__(self) -> None:
        check_positive(self, "half_life")


@dataclasses.dataclass(frozen=True)
class ValueSettings(AgeSettings):
    """Settings of every model that reads a user-item matrix: the transform is the same for train and for histories.

    So are ages: a customer's row to learn from is as old as that customer's history would be, counted to the
    customer's own cut and not to what others bought later. Otherwise a row would shrink with the time since its cut,
    and a model would learn from values that no history has when it is scored.

    Attributes:
      values: value transform, one of `VALUES`; only `recency` uses the half-life.
    """

    values: str = "binary"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_values(self.values)

    def train_matrix(self, train: Interactions) -> sp.csr_array:
        """Purchases to learn from -> their user-item matrix `[U, I]`."""
        return user_item_matrix(train, self.values, half_life=self.half_life)

    def history_matrix(self, histories: Histories) -> sp.csr_array:
        """Histories of n customers -> their user-item matrix `[n, I]`."""
        return history_matrix(histories, self.values, half_life=self.half_life)


@dataclasses.dataclass(frozen=True)
class TargetSettings(ValueSettings):
    """Settings of a model that learns to predict rows of the matrix from rows of it.

    What is held out and evaluated is binary in any case. No setting of models that predict nothing while they are
    fitted: neighbourhoods, spectral filters and rules, which sum or propagate the inputs' values, and `ials`, whose
    target is 1 by its definition and whose values are the weight of that.

    Attributes:
      targets: value transform of what is predicted; None: that of the inputs.
    """

    targets: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.targets is not None:
            check_values(self.targets, "targets")

    @property
    def predicts_inputs(self) -> bool:
        """Whether what is predicted are the inputs themselves."""
        return self.targets in (None, self.values)

    def target_matrix(self, train: Interactions) -> sp.csr_array:
        """Purchases to learn from -> the matrix `[U, I]` to predict, of the cells of `train_matrix`."""
        return user_item_matrix(train, self.targets or self.values, half_life=self.half_life, setting="targets")


def check_counts(settings: Any, *names: str) -> None:
    """Raises `InputError` where a number of things, or one of several, is below 1; None stands for a default."""
    _check(settings, names, lambda value: value >= 1, "1 or more")


def check_shares(settings: Any, *names: str) -> None:
    """Raises `InputError` where a share of what is left out is not one, or leaves nothing."""
    _check(settings, names, lambda value: 0.0 <= value < 1.0, "0 or more and less than 1")


def check_fractions(settings: Any, *names: str) -> None:
    """Raises `InputError` where a part of a whole is not one: below 0 or above it, or NaN."""
    _check(settings, names, lambda value: 0.0 <= value <= 1.0, "0 to 1")


def check_positive(settings: Any, *names: str) -> None:
    """Raises `InputError` where a number is 0 or less, or NaN."""
    _check(settings, names, lambda value: value > 0, "more than 0")


def check_not_negative(settings: Any, *names: str) -> None:
    """Raises `InputError` where a number is below 0, or NaN."""
    _check(settings, names, lambda value: value >= 0, "0 or more")


def check_powers(settings: Any, *names: str) -> None:
    """Raises `InputError` where a power of a number of customers or products could leave the range of float32."""
    expected = f"-{MOST_POWER} to {MOST_POWER}, as a power of counts"
    _check(settings, names, lambda value: -MOST_POWER <= value <= MOST_POWER, expected)


def _check(settings: Any, names: Sequence[str], holds: Callable[[float], bool], expected: str) -> None:
    for name in names:
        value = getattr(settings, name)
        several = value if isinstance(value, tuple) else () if value is None else (value,)
        if not all(map(holds, several)):
            raise InputError(f"{name} is {value}; expected {expected}")


def scale_rows(matrix: sp.csr_array, factor: np.ndarray) -> sp.csr_array:
    """A float32 copy of the matrix, each row times its factor `[U]`."""
    scaled = sp.csr_array(matrix, dtype=np.float32, copy=True)
    scaled.data *= np.repeat(factor, np.diff(matrix.indptr)).astype(np.float32)
    return scaled


class WeightedRows(NamedTuple):
    """A user-item matrix X with weights W of its customers, as the closed forms take it.

    Attributes:
      rows: `W^1/2 X`, `[n, I]` float32, of the n customers with a purchase.
      kept: `[U]`, who they are.
      root_weight: the diagonal of `W^1/2`, `[n]`.
      customers: `[I]`, how many bought a product, 1 at least.
      energy: the diagonal of `X' W X`, `[I]`.
    """

    rows: sp.csr_array
    kept: np.ndarray
    root_weight: np.ndarray
    customers: np.ndarray
    energy: np.ndarray


def weighted_rows(matrix: sp.csr_array, user_power: float) -> WeightedRows:
    """The matrix `[U, I]` with a customer of m products weighing `s * m ** -user_power`.

    The scale s keeps the energy of all cells what it is without weights, so that a ridge means about the same whatever
    `user_power` is.
    """
    lengths = np.diff(matrix.indptr)
    kept = lengths > 0
    own_energy = np.asarray(matrix.multiply(matrix).sum(axis=1), dtype=np.float64).ravel()[kept]
    weight = lengths[kept].astype(np.float64) ** -user_power
    root_weight = np.sqrt(weight * (own_energy.sum() / max((weight * own_energy).sum(), np.finfo(float).tiny)))
    rows = scale_rows(matrix[kept], root_weight)
    customers = np.maximum(np.bincount(matrix.indices, minlength=matrix.shape[1]), 1).astype(np.float64)
    energy = np.asarray(rows.multiply(rows).sum(axis=0), dtype=np.float64).ravel()
    return WeightedRows(rows, kept, root_weight, customers, energy)


def to_state(matrix: sp.csr_array) -> dict[str, np.ndarray]:
    """A sparse matrix as plain arrays, as a run stores it: with an unused cell at the end, so that none is empty."""
    return {
        "indptr": np.asarray(matrix.indptr),
        "indices": np.append(matrix.indices, 0).astype(matrix.indices.dtype),
        "data": np.append(matrix.data, 0).astype(matrix.data.dtype),
    }


def from_state(state: Mapping[str, Any], columns: int) -> sp.csr_array:
    """The sparse matrix with so many columns that `to_state` gave."""
    data, indices, indptr = (np.asarray(state[name]) for name in ("data", "indices", "indptr"))
    return sp.csr_array((data[:-1], indices[:-1], indptr), shape=(len(indptr) - 1, columns))
