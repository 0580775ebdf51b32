"""What is solved; the names are those of the package's docstring."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from aejax.interactions import Interactions
from aejax.matrix import scale_rows, weighted_rows
from aejax.models.linear.pseudo_users import attribute_rows
from aejax.models.linear.settings import EASESettings


class System(NamedTuple):
    """The two weighted matrices and what weighs their columns.

    Attributes:
      inputs: Xw, `[U, I]`, customers without a purchase left out; below it the pseudo-users, if there are any.
      targets: Yw; the same object where Y = X.
      energy: the diagonal of `X' W X`, `[I]`.
      direction: D of `L = l2 D` without dropout, `[I]`.
      ridge: the diagonal of L, `[I]`.
      scale: `n ** item_power`, `[I]`.
    """

    inputs: sp.csr_array
    targets: sp.csr_array
    energy: np.ndarray
    direction: np.ndarray
    ridge: np.ndarray
    scale: np.ndarray


def make_system(train: Interactions, settings: EASESettings) -> System:
    """The weighted matrix with its ridge."""
    inputs, kept, root_weight, customers, energy = weighted_rows(settings.train_matrix(train), settings.user_power)
    targets = inputs
    if not settings.predicts_inputs:
        targets = scale_rows(settings.target_matrix(train)[kept], root_weight)
    if settings.attribute_weight:
        rows = attribute_rows(train, settings.attribute_weight)
        is_other = targets is not inputs
        inputs = sp.csr_array(sp.vstack([inputs, rows], format="csr"))
        targets = sp.csr_array(sp.vstack([targets, rows], format="csr")) if is_other else inputs
        energy = energy + np.asarray(rows.multiply(rows).sum(axis=0), dtype=np.float64).ravel()
    direction = customers**settings.l2_power
    ridge = settings.l2 * direction + settings.dropout / (1 - settings.dropout) * energy
    return System(inputs, targets, energy, direction, ridge, customers**settings.item_power)
