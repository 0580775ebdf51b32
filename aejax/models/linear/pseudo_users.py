"""Attributes of products as weighted pseudo-users: each feature is a customer who "bought" the products that have it.

They are rows of the solve and nobody's history: a customer's row stays one over products. A product without an order
gets its scores from them, and one with few orders has more to go by. The rows are not scaled by how many products share
a feature: of powers from -1/2 to 1/2 of that number 0 was best on the validation part of a shop.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from aejax.errors import InputError
from aejax.interactions import Interactions


def attribute_rows(train: Interactions, weight: float) -> sp.csr_array:
    """The features that two products share at least, each times the weight: `[F, I]` float32.

    Raises:
      InputError: the data have none.
    """
    by_feature = sp.csr_array((0, len(train.items)), dtype=np.float32)
    if train.item_features is not None:
        by_feature = sp.csr_array(train.item_features.matrix.T)
    shared = by_feature[np.diff(by_feature.indptr) > 1]
    if not shared.nnz:
        raise InputError(
            f"attribute_weight is {weight:g}, and these data have no attributes that two products share (columns of "
            "products.csv beside the SKU; see aejax check); use --set attribute_weight=0"
        )
    return sp.csr_array(shared * np.float32(weight))
