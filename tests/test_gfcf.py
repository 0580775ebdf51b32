"""The graph filter against a dense twin."""

import numpy as np
import pytest
import scipy.sparse as sp

from aejax.errors import InputError
from aejax.interactions import Histories
from aejax.matrix import user_item_matrix
from aejax.models import gfcf
from aejax.models.gfcf import GFCFSettings


@pytest.mark.parametrize("settings", [GFCFSettings(factors=4), GFCFSettings(factors=9, alpha=2.0, values="orders")])
def test_equals_the_dense_twin(tiny_lines, settings):
    x = user_item_matrix(tiny_lines, settings.values).toarray().astype(np.float64)
    root = np.sqrt(x.sum(0))
    normal = x / np.sqrt(x.sum(1, keepdims=True)) / root
    v = np.linalg.svd(normal)[2][: settings.factors].T
    expected = x @ normal.T @ normal + settings.alpha * (x / root) @ v @ v.T * root
    model = gfcf.fit(tiny_lines, settings)
    scores = np.asarray(model.scores(model.encode(Histories(tiny_lines, None))))
    np.testing.assert_allclose(scores, expected, atol=2e-4)


def test_singular_vectors_of_a_slowly_falling_spectrum():
    rng = np.random.default_rng(0)
    left = np.linalg.qr(rng.normal(size=(300, 200)))[0]
    right = np.linalg.qr(rng.normal(size=(200, 200)))[0]
    matrix = (left * np.linspace(1.0, 0.2, 200)) @ right.T
    found = gfcf.right_singular_vectors(sp.csr_array(matrix.astype(np.float32)), 20)
    overlap = np.abs(found @ right[:, :20])
    np.testing.assert_allclose(np.diag(overlap), 1.0, atol=1e-2)


def test_more_factors_than_products_are_all_there_are(tiny_lines):
    assert gfcf.fit(tiny_lines, GFCFSettings(factors=31)).low_pass.shape == (30, 30)


@pytest.mark.parametrize(("changes", "says"), [({"factors": 0}, "factors is 0"), ({"alpha": -1.0}, "alpha is -1")])
def test_settings_out_of_range_are_refused(changes, says):
    with pytest.raises(InputError, match=says):
        GFCFSettings(**changes)
