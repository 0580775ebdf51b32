from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from aejax import batching, recommendation
from aejax.errors import InputError
from aejax.interactions import Histories, Interactions, Vocabulary
from aejax.matrix import history_matrix, user_item_matrix
from aejax.models import popularity


@dataclasses.dataclass(frozen=True)
class BoughtTogether:
    """A score is the number of customers who bought the product together with one of the history's products."""

    together: np.ndarray

    @classmethod
    def of(cls, lines: Interactions) -> BoughtTogether:
        matrix = user_item_matrix(lines).toarray()
        together = matrix.T @ matrix
        np.fill_diagonal(together, 0)
        return cls(together)

    def encode(self, histories: Histories) -> np.ndarray:
        return history_matrix(histories).toarray()

    def scores(self, batch: np.ndarray) -> jax.Array:
        return jnp.asarray(batch) @ self.together

    def state(self) -> np.ndarray:
        return self.together


@pytest.fixture(scope="module")
def model(tiny_lines) -> BoughtTogether:
    return BoughtTogether.of(tiny_lines)


@pytest.fixture(scope="module")
def titles(tiny_lines) -> pd.Series:
    return pd.Series({sku: f"Product {sku}" for sku in tiny_lines.items.ids})


def recommended(model, lines, customers, titles, **options) -> pd.DataFrame:
    frames = list(recommendation.recommend(model, lines, list(customers), titles, **options))
    assert all(tuple(frame.columns) == recommendation.COLUMNS for frame in frames)
    return pd.concat(frames, ignore_index=True)


def bought_by(lines: Interactions, customer: str) -> set[str]:
    return set(lines.items.ids[lines.item[lines.users.ids[lines.user] == customer]])


def lines_of(purchases: list[tuple[str, str, int]], *, items: int = 4) -> Interactions:
    """Undated lines of `(customer, sku, quantity)`; the products are a, b, c and so on."""
    users, skus = Vocabulary.of(row[0] for row in purchases), Vocabulary.of("abcdefgh"[:items])
    return Interactions(
        user=users.index(row[0] for row in purchases).astype(np.int32),
        item=skus.index(row[1] for row in purchases).astype(np.int32),
        quantity=np.array([row[2] for row in purchases], dtype=np.int32),
        users=users,
        items=skus,
    )


@pytest.mark.parametrize("chunk", [8, 512])
def test_every_customer_gets_the_best_unseen_products_in_order(tiny_lines, model, titles, chunk, monkeypatch):
    monkeypatch.setattr(batching, "scoring_chunk", lambda count: chunk)
    customers = list(np.random.default_rng(0).permutation(tiny_lines.users.ids))
    frame = recommended(model, tiny_lines, customers, titles, top=5)
    assert len(frame) == 5 * len(customers)
    assert frame["customer_id"].tolist() == list(np.repeat(customers, 5))
    assert frame["rank"].tolist() == [1, 2, 3, 4, 5] * len(customers)
    assert set(frame["basis"]) == {"model"}
    assert (frame["title"] == "Product " + frame["sku"]).all()
    for customer, own in frame.groupby("customer_id"):
        history = bought_by(tiny_lines, customer)
        indices = tiny_lines.items.index(history)
        scores = model.together[indices].sum(axis=0)
        expected = [i for i in np.argsort(-scores, kind="stable") if tiny_lines.items.ids[i] not in history][:5]
        assert own["sku"].tolist() == list(tiny_lines.items.ids[expected])
        assert own["score"].tolist() == scores[expected].tolist()


def test_what_was_bought_may_come_again_only_under_include(tiny_lines, model, titles):
    customers = tiny_lines.users.ids
    histories = {customer: bought_by(tiny_lines, customer) for customer in customers}

    def seen_rows(repeat: str) -> pd.Series:
        frame = recommended(model, tiny_lines, customers, titles, repeat=repeat)
        assert len(frame) == 10 * len(customers)
        return pd.Series([row.sku in histories[row.customer_id] for row in frame.itertuples()])

    assert not seen_rows("exclude").any()
    assert seen_rows("include").any()


def test_tastes_are_kept(tiny_lines, model, titles):
    frame = recommended(model, tiny_lines, tiny_lines.users.ids, titles, top=3)
    same_taste = frame["customer_id"].str[1:].astype(int) % 2 == frame["sku"].str[1:].astype(int) % 2
    assert same_taste.mean() > 0.95


def test_fewer_rows_only_where_fewer_products_remain(titles):
    lines = lines_of(
        [("ann", "a", 1), ("ann", "b", 1), ("ann", "c", 1), ("bob", "d", 1), *(("eve", s, 1) for s in "abcd")]
    )
    frame = recommended(BoughtTogether.of(lines), lines, ["eve", "ann", "bob", "new"], titles, top=3)
    assert frame.groupby("customer_id")["rank"].apply(list).to_dict() == {
        "ann": [1],
        "bob": [1, 2, 3],
        "new": [1, 2, 3],
    }


def test_unknown_customers_get_the_most_popular_products(tiny_lines, model, titles):
    frame = recommended(model, tiny_lines, ["nobody", "c07", "nobody else"], titles, top=4)
    counts = user_item_matrix(tiny_lines).toarray().sum(axis=0)
    best = np.argsort(-counts, kind="stable")[:4]
    for customer in ("nobody", "nobody else"):
        own = frame[frame["customer_id"] == customer]
        assert own["sku"].tolist() == list(tiny_lines.items.ids[best])
        assert own["score"].tolist() == counts[best].tolist()
        assert set(own["basis"]) == {"popular"}
    assert set(frame.loc[frame["customer_id"] == "c07", "basis"]) == {"model"}
    assert not bought_by(tiny_lines, "c07") & set(frame.loc[frame["customer_id"] == "c07", "sku"])


class Acquainted(BoughtTogether):
    """One that knows every second customer."""

    def unknown(self, histories):
        return np.flatnonzero([int(name[1:]) % 2 for name in histories.lines.users.ids])


@pytest.mark.parametrize("chunk", [8, 512])
def test_the_basis_tells_whom_the_model_does_not_know(tiny_lines, model, titles, chunk, monkeypatch):
    monkeypatch.setattr(batching, "scoring_chunk", lambda count: chunk)
    customers = [*np.random.default_rng(0).permutation(tiny_lines.users.ids), "nobody"]
    frame = recommended(Acquainted(model.together), tiny_lines, customers, titles, top=3)
    expected = {name: "model" if int(name[1:]) % 2 == 0 else "mean-customer" for name in customers[:-1]}
    found = frame.groupby("customer_id")["basis"].apply(set).to_dict()
    assert found == {name: {basis} for name, basis in (expected | {"nobody": "popular"}).items()}


def test_a_customer_asked_for_twice_comes_out_twice(tiny_lines, model, titles):
    frame = recommended(model, tiny_lines, ["c03", "c01", "c03"], titles, top=2)
    assert frame["customer_id"].tolist() == ["c03"] * 2 + ["c01"] * 2 + ["c03"] * 2
    assert frame["sku"].tolist()[:2] == frame["sku"].tolist()[4:]


def test_what_was_sent_back_may_be_recommended_again_and_does_not_count():
    titles = pd.Series({sku: sku.upper() for sku in "abcd"})
    rows = [("ann", "a", 2), ("ann", "b", 1), ("bob", "a", 1), ("bob", "c", 1), ("cid", "d", 1)]
    lines = lines_of([*rows, ("ann", "a", -2), ("cid", "d", -1), ("bob", "c", -5)])
    model = popularity.fit(lines_of(rows), popularity.PopularitySettings())  # a 2, b 1, c 1, d 1
    frame = recommended(model, lines, ["ann", "bob", "cid"], titles, top=3)
    assert frame.loc[frame["customer_id"] == "ann", "sku"].tolist() == ["a", "c", "d"]
    assert frame.loc[frame["customer_id"] == "bob", "sku"].tolist() == ["b", "c", "d"]
    # All of cid's purchases went back: no usable history. After returns a and b have one customer, c and d none.
    of_cid = frame[frame["customer_id"] == "cid"]
    assert of_cid["basis"].tolist() == ["popular"] * 3
    assert of_cid["sku"].tolist() == ["a", "b", "c"]
    assert of_cid["score"].tolist() == [1, 1, 0]


def test_a_part_of_the_pieces_sent_back_is_still_a_purchase(titles):
    lines = lines_of([("ann", "a", 2), ("ann", "a", -1), ("bob", "b", 1), ("bob", "c", 1), ("bob", "d", 1)])
    frame = recommended(BoughtTogether.of(lines), lines, ["ann"], titles, top=4)
    assert set(frame["sku"]) == {"b", "c", "d"}


@pytest.mark.parametrize("top", [-1, 0, 31])
def test_top_out_of_range_is_refused(tiny_lines, model, titles, top):
    with pytest.raises(InputError, match=f"--top is {top}; expected 1 to 30"):
        next(recommendation.recommend(model, tiny_lines, ["c00"], titles, top=top))


def test_a_nan_is_refused(tiny_lines, model, titles):
    together = model.together.copy()
    together[3, 4] = np.nan
    with pytest.raises(InputError, match="NaN"):
        recommended(BoughtTogether(together), tiny_lines, tiny_lines.users.ids, titles)


@pytest.mark.parametrize("sku", ["p04", "p17"])
def test_similar_products_are_those_of_the_same_taste(tiny_lines, model, titles, sku):
    frame = recommendation.similar(model, tiny_lines, sku, titles, top=8)
    index = int(sku[1:])
    expected = np.argsort(-model.together[index], kind="stable")[:8]
    assert frame["sku"].tolist() == list(tiny_lines.items.ids[expected])
    assert frame["rank"].tolist() == list(range(1, 9))
    assert frame["title"].tolist() == [f"Product {other}" for other in frame["sku"]]
    assert frame["score"].is_monotonic_decreasing
    assert (frame["sku"].str[1:].astype(int) % 2 == index % 2).all()


def test_a_product_is_not_similar_to_itself(tiny_lines, titles):
    itself_first = BoughtTogether(np.eye(30, dtype=np.float32) * 9 + 1)
    frame = recommendation.similar(itself_first, tiny_lines, "p11", titles, top=29)
    assert sorted(frame["sku"]) == [sku for sku in tiny_lines.items.ids if sku != "p11"]


def test_similar_refuses_what_it_cannot_answer(tiny_lines, model, titles):
    with pytest.raises(InputError, match=r'--sku is "p4".*did you mean "p'):
        recommendation.similar(model, tiny_lines, "p4", titles)
    with pytest.raises(InputError, match="--top is 30; expected 1 to 29"):
        recommendation.similar(model, tiny_lines, "p04", titles, top=30)
    same_for_all = popularity.fit(tiny_lines, popularity.PopularitySettings())
    with pytest.raises(InputError, match="scores every customer alike"):
        recommendation.similar(same_for_all, tiny_lines, "p04", titles)


def test_similar_in_a_shop_of_one_customer(titles):
    lines = lines_of([("ann", sku, 1) for sku in "abcd"])
    frame = recommendation.similar(BoughtTogether.of(lines), lines, "b", titles, top=3)
    assert frame["sku"].tolist() == ["a", "c", "d"]
