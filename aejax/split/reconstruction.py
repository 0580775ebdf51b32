"""The protocol that holds nothing out."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from aejax.interactions import Interactions, histories_of, net_returns
from aejax.matrix import user_item_matrix
from aejax.split.parts import HeldOut, Split, latest, revenue_of, to_learn_from


def split_reconstruction(lines: Interactions) -> Split:
    """All purchases, to learn from, as inputs and as targets."""
    bought = net_returns(lines)
    users = np.unique(bought.user)
    matrix = user_item_matrix(bought)[users]
    as_of = latest(bought)
    note = "scores are on the training matrix itself: they leak, and say nothing about new purchases"
    nothing = sp.csr_array(matrix.shape, dtype=np.float32)
    inputs = histories_of(bought, users, None if as_of is None else as_of[users])
    left_out, revenue = len(bought.users) - len(users), revenue_of(bought, users, matrix)
    everything = HeldOut(users, inputs, matrix, nothing, left_out, revenue=revenue)
    return Split(
        "reconstruction",
        to_learn_from(bought, as_of),
        everything,
        everything,
        None,
        note,
    )
