"""Every fast path at the edges of what data may be: each beside the plain way, on the same few matrices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from aejax import batching, devices, dissection, memory, network, ranking, recommendation, registry
from aejax.errors import InputError, ResourceError
from aejax.evaluation import evaluate
from aejax.interactions import Histories, Interactions, Vocabulary
from aejax.models import linear
from aejax.models.linear import solving
from aejax.split import HeldOut
from tests import shops, silent

EDGES = {
    "one user": [[1, 0, 2, 0, 0, 1, 0]],
    "one user with one product": [[0, 0, 1, 0]],
    "one product": [[1], [0], [2], [1]],
    "one user and one product": [[1]],
    "a user with all products": [[1, 0, 1, 0], [1, 1, 2, 1], [0, 1, 0, 0], [0, 0, 1, 1]],
    "every user with all products": [[1, 2, 1], [1, 1, 1]],
    "empty users": [[0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]],
    "products of nobody": [[0, 1, 1, 0, 0], [0, 1, 0, 0, 1]],
}


@pytest.fixture(params=EDGES.values(), ids=EDGES.keys())
def matrix(request):
    return sp.csr_array(np.array(request.param, dtype=np.float32))


def lines_of(matrix) -> Interactions:
    """Each cell as so many pieces, in an order of its own."""
    user, item = matrix.nonzero()
    names = [
        Vocabulary(np.array([f"{of}{number:02d}" for number in range(count)], dtype=object))
        for of, count in zip("up", matrix.shape, strict=True)
    ]
    return Interactions(user.astype(np.int32), item.astype(np.int32), matrix.data.astype(np.int32), *names)


@pytest.fixture(params=[1, 512], ids=["chunks-of-one", "one-chunk"])
def chunk(request, monkeypatch):
    """Users scored at once: each alone, several at a time, or all, more than there are."""
    monkeypatch.setattr(batching, "scoring_chunk", lambda count: request.param)


def test_rows_read_one_by_one(matrix):
    batch, dense = batching.pad_rows(matrix), matrix.toarray()
    weights = np.random.default_rng(0).normal(size=(matrix.shape[1], 3)).astype(np.float32)

    def total(values, weights):
        return jnp.square(batching.product(batch._replace(values=values), weights, by_rows=True)).sum()

    of_values, of_weights = jax.grad(total, (0, 1))(jnp.asarray(batch.values), jnp.asarray(weights))
    product = dense @ weights
    np.testing.assert_allclose(batching.product(batch, jnp.asarray(weights), by_rows=True), product, rtol=1e-5)
    np.testing.assert_allclose(of_weights, dense.T @ (2 * product), rtol=1e-4, atol=1e-5)
    cells = np.asarray(batch.items) < matrix.shape[1]
    expected = (2 * product @ weights.T)[matrix.nonzero()]
    np.testing.assert_allclose(np.asarray(of_values)[cells], expected, rtol=1e-4, atol=1e-5)
    rows, _ = batching.sparse_rows(matrix)
    np.testing.assert_allclose(batching.sparse_product(rows, jnp.asarray(weights)), product, rtol=1e-5)


@pytest.mark.parametrize("rate", [0.0, 0.5, 0.99])
def test_dropout_that_leaves_out(matrix, rate, monkeypatch):
    """What is hidden is left out of a row, and the rest stands as it does where hidden cells are 0."""
    batch, count = batching.pad_rows(matrix), matrix.shape[1]
    rows = []
    for share in (0.0, 100.0):
        monkeypatch.setattr(batching, "LONGEST_SHARE", share)
        assert batching.reads_rows(batch, count) == (share > 0)
        rows.append(batching.drop_inputs(batch, rate, count, dropout_key=jax.random.key(1)))
    masked, left_out = (np.asarray(batching.densify(dropped, count)) for dropped in rows)
    np.testing.assert_allclose(left_out, masked)
    assert ((masked != 0) <= (matrix.toarray() != 0)).all()
    assert (np.diff((np.asarray(rows[1].items) == count).astype(int), axis=1) >= 0).all()  # padding comes last


@pytest.mark.parametrize("side", ["items", "users", "users-to-items"])
@pytest.mark.parametrize("exact", [0, 4096], ids=["in-parts", "exact"])
def test_ease_between_products_and_between_customers(matrix, side, exact, monkeypatch):
    monkeypatch.setattr(solving, "choose_side", lambda *sizes: side)
    monkeypatch.setattr(solving, "EXACT", exact)
    dense = (matrix.toarray() > 0).astype(np.float64)
    lines = lines_of(matrix)
    inverse = np.linalg.inv(dense.T @ dense + 2.0 * np.eye(dense.shape[1]))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    model = linear.fit(lines, linear.EASESettings(l2=2.0))
    scores = np.asarray(model.scores(model.encode(Histories(lines, None))))
    np.testing.assert_allclose(scores, dense @ weights, atol=1e-5)


@pytest.mark.parametrize("parts", [2, 8])
def test_the_inverse_in_parts(matrix, parts):
    """Of more leaves than there are customers, too."""
    rows = sp.csr_array(matrix[np.diff(matrix.indptr) > 0])
    dense = rows.toarray().astype(np.float64)
    for found in (dissection.dissect(rows, parts), dissection.choose(rows)):
        ordered = dense[found.order]
        expected = np.linalg.inv(ordered @ ordered.T / 2.0 + np.eye(len(ordered)))
        np.testing.assert_allclose(dissection.inverse(rows, np.full(dense.shape[1], 2.0), found), expected, atol=1e-5)


@pytest.mark.parametrize("per_place", [1, 10**6], ids=["best-blocks", "all"])
def test_lists_of_what_is_not_bought_are_the_sorted_ones(matrix, per_place, monkeypatch):
    """Of one place, of one for each product, and of more places than products."""
    monkeypatch.setattr(ranking, "ITEMS_PER_PLACE", per_place)
    users, count = matrix.shape
    scores = np.random.default_rng(2).integers(0, 3, matrix.shape).astype(np.float32)
    masked = ranking.mask_items(jnp.asarray(scores), jnp.asarray(batching.pad_rows(matrix).items))
    for k in (1, count, count + 5):
        best, items = ranking.top_k_items(masked, k)
        for user in range(users):
            left = sorted(np.flatnonzero(matrix.toarray()[user] == 0), key=lambda item: (-scores[user, item], item))
            assert items[user].tolist() == (left + [count] * k)[:k]
            assert best[user].tolist() == ([*scores[user, left]] + [-np.inf] * k)[:k]


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_calls_that_overlap_may_be_fewer_than_the_workers(count):
    for compiled in (False, True):
        assert list(devices.overlapped(lambda number: number + 1, range(count), compiled=compiled)) == [
            number + 1 for number in range(count)
        ]


def test_evaluation_in_chunks(matrix, chunk):
    """Of whom nothing is known, and all that they bought is held out: a list of more places than products has it all,
    and every customer has figures of their own.
    """
    lines = lines_of(matrix)
    model = linear.fit(lines, linear.EASESettings(l2=2.0))
    nothing = Histories(lines.take(np.zeros(len(lines.user), dtype=bool)), None)
    targets = sp.csr_array(matrix > 0, dtype=np.float32)
    held_out = HeldOut(np.arange(len(lines.users)), nothing, targets, sp.csr_array(targets.shape, dtype=np.float32), 0)
    found = evaluate(model, held_out, chunk=batching.scoring_chunk(1))
    empty = np.diff(targets.indptr) == 0
    np.testing.assert_array_equal(found.values["recall_all@50"][~empty], 1.0)
    assert len(found.users) == len(lines.users)


def test_lists_are_written_in_chunks(matrix, chunk):
    lines = lines_of(matrix)
    model = linear.fit(lines, linear.EASESettings(l2=2.0))
    titles = pd.Series({sku: f"Product {sku}" for sku in lines.items.ids})
    sold = np.flatnonzero(matrix.toarray().any(axis=0))
    known, names = recommendation.known_at(lines), list(lines.users.ids)
    frame = pd.concat(recommendation.recommend(model, known, names, titles, top=len(sold)))
    with pytest.raises(InputError, match=f"--top is {len(sold) + 1}; expected 1 to {len(sold)}"):
        next(recommendation.recommend(model, known, names, titles, top=len(sold) + 1))
    for user, name in enumerate(lines.users.ids):
        own = frame[frame["customer_id"] == name]
        assert set(own["sku"]) == set(lines.items.ids[[i for i in sold if matrix[user, i] == 0]])
        assert own["rank"].tolist() == list(range(1, len(own) + 1))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_file_of_lists_of_whom_nothing_is_left(tmp_path, suffix):
    """A customer with all products has no row, one without orders has all; of the first alone a file has no row."""
    shop = shops.write_shop(tmp_path / "shop")
    rest = [f"all,000,2024-01-01,{item:03d},1\n" for item in range(16)]
    with (shop / "orders.csv").open("a") as orders:
        orders.writelines(rest)
    folder = shops.fitted(shop, tmp_path / "run", "ease", "--set", "l2=5", "--min-customers", 1)
    out, asked = tmp_path / f"lists.{suffix}", tmp_path / "asked.csv"
    for customers, rows in ((["000", "040"], 16), (["000"], 0)):
        asked.write_text("customer_id\n" + "\n".join(customers) + "\n")
        assert shops.run("recommend", folder, "--top", 16, "--customers", asked, "--out", out) == 0
        lists = pd.read_parquet(out) if suffix == "parquet" else pd.read_csv(out, dtype={"customer_id": str})
        assert lists["customer_id"].tolist() == ["040"] * rows


class Reached(Exception):
    """A training began."""


@pytest.mark.parametrize("model", ["multvae", "recvae", "elsa", "cdae", "nextorder"])
def test_a_batch_larger_than_memory_is_answered_with_one_that_fits(tiny_lines, model, monkeypatch):
    def fit(batch_size):
        settings = registry.make_settings(model, {"batch_size": batch_size, "epochs": 1})
        registry.family(model).fit(tiny_lines, settings, **silent.training())

    def begin(*told, **named):
        raise Reached

    monkeypatch.setattr(network, "run_epochs", begin)
    asked = []
    with monkeypatch.context() as free, pytest.raises(Reached):
        free.setattr(memory, "require", lambda what, needed, remedy: asked.append(needed))
        fit(8)
    monkeypatch.setattr(memory, "available", lambda: asked[0] - 2 * 12 * len(tiny_lines.items))
    with pytest.raises(ResourceError, match=r"batches of 8 customers x 30 products need .*; --set batch_size=6 fits"):
        fit(8)
    with pytest.raises(Reached):
        fit(6)
