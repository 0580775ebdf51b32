from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from aejax import batching, explanation, recommendation, selection
from aejax.errors import InputError
from aejax.interactions import Features, Histories, Interactions, Vocabulary
from aejax.lists import COLUMNS
from aejax.matrix import history_matrix, user_item_matrix
from aejax.models import popularity, popularity_segment


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
    return listed(model, recommendation.known_at(lines), customers, titles, **options)


def listed(model, known, customers, titles, **options) -> pd.DataFrame:
    frames = list(recommendation.recommend(model, known, list(customers), titles, **options))
    assert all(tuple(frame.columns) == COLUMNS for frame in frames)
    return pd.concat(frames, ignore_index=True)


def by_segment(lines: Interactions) -> popularity_segment.SegmentPopularity:
    return popularity_segment.fit(lines, popularity_segment.SegmentSettings())


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


def test_popular_products_are_found_by_what_is_compiled_for_the_models_lists(tiny_lines, titles):
    model = popularity.fit(tiny_lines, popularity.PopularitySettings())  # float32 scores, as models have
    before = selection.best_items._cache_size()
    recommended(model, tiny_lines, [*tiny_lines.users.ids, "nobody"], titles, top=7)
    assert selection.best_items._cache_size() - before == 1


def test_unknown_customers_get_the_most_popular_products(tiny_lines, model, titles):
    frame = recommended(model, tiny_lines, ["nobody", "c07", "nobody else"], titles, top=4)
    counts = user_item_matrix(tiny_lines).toarray().sum(axis=0)
    best = np.argsort(-counts, kind="stable")[:4]
    for customer in ("nobody", "nobody else"):
        own = frame[frame["customer_id"] == customer]
        assert own["sku"].tolist() == list(tiny_lines.items.ids[best])
        # Every customer of the shop has bought something.
        np.testing.assert_allclose(own["score"], counts[best] / len(tiny_lines.users), rtol=1e-6)
        assert set(own["basis"]) == {"popular"}
    assert set(frame.loc[frame["customer_id"] == "c07", "basis"]) == {"model"}
    assert not bought_by(tiny_lines, "c07") & set(frame.loc[frame["customer_id"] == "c07", "sku"])


def test_a_customer_without_orders_gets_what_customers_of_the_same_attributes_buy(tiny_lines, model, titles):
    """Two ages, and what they buy: the first half of the customers the first products, the others the last."""
    count, customers = len(tiny_lines.items), len(tiny_lines.users)
    names = (("age", "20"), ("age", "50"))
    is_old = np.arange(customers) >= customers // 2
    first = tiny_lines.item % 4
    lines = dataclasses.replace(
        tiny_lines,
        item=np.where(is_old[tiny_lines.user], count - 1 - first, first).astype(np.int32),
        user_features=Features(sp.csr_array(np.eye(2, dtype=np.float32)[is_old.astype(int)]), names),
    )
    new = ["old", "c07", "nobody", "young"]
    features = Features(sp.csr_array(np.array([[0, 1], [1, 0], [0, 0], [1, 0]], dtype=np.float32)), names)
    frame = recommended(model, lines, new, titles, top=3, segments=features, for_unknown=by_segment)
    basis = frame.groupby("customer_id")["basis"].agg(set).to_dict()
    of_segment = {"customer-attributes"}
    assert basis == {"old": of_segment, "young": of_segment, "nobody": {"popular"}, "c07": {"model"}}
    place = lines.items.index(frame["sku"])
    assert (place[frame["customer_id"] == "young"] < 4).all()
    assert (place[frame["customer_id"] == "old"] >= count - 4).all()
    # Without attributes of who has orders there is nothing to go by.
    bare = dataclasses.replace(lines, user_features=None)
    frame = recommended(model, bare, new, titles, top=3, segments=features, for_unknown=by_segment)
    assert set(frame.loc[frame["customer_id"] == "old", "basis"]) == {"popular"}


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
    # All of cid's purchases went back: no usable history. Of the two who kept something one has a and one b.
    of_cid = frame[frame["customer_id"] == "cid"]
    assert of_cid["basis"].tolist() == ["popular"] * 3
    assert of_cid["sku"].tolist() == ["a", "b", "c"]
    assert of_cid["score"].tolist() == [0.5, 0.5, 0]


def test_a_part_of_the_pieces_sent_back_is_still_a_purchase(titles):
    lines = lines_of([("ann", "a", 2), ("ann", "a", -1), ("bob", "b", 1), ("bob", "c", 1), ("bob", "d", 1)])
    frame = recommended(BoughtTogether.of(lines), lines, ["ann"], titles, top=4)
    assert set(frame["sku"]) == {"b", "c", "d"}


@pytest.mark.parametrize("top", [-1, 0, 31])
def test_top_out_of_range_is_refused(tiny_lines, model, titles, top):
    with pytest.raises(InputError, match=f"--top is {top}; expected 1 to 30"):
        recommended(model, tiny_lines, ["c00"], titles, top=top)


def test_a_nan_is_refused(tiny_lines, model, titles):
    together = model.together.copy()
    together[3, 4] = np.nan
    with pytest.raises(InputError, match="NaN"):
        recommended(BoughtTogether(together), tiny_lines, tiny_lines.users.ids, titles)


@pytest.mark.parametrize("sku", ["p04", "p17"])
def test_similar_products_are_those_of_the_same_taste(tiny_lines, model, titles, sku):
    frame = explanation.similar(model, tiny_lines, sku, titles, top=8)
    index = int(sku[1:])
    expected = np.argsort(-model.together[index], kind="stable")[:8]
    assert frame["sku"].tolist() == list(tiny_lines.items.ids[expected])
    assert frame["rank"].tolist() == list(range(1, 9))
    assert frame["title"].tolist() == [f"Product {other}" for other in frame["sku"]]
    assert frame["score"].is_monotonic_decreasing
    assert (frame["sku"].str[1:].astype(int) % 2 == index % 2).all()


def test_a_product_is_not_similar_to_itself(tiny_lines, titles):
    itself_first = BoughtTogether(np.eye(30, dtype=np.float32) * 9 + 1)
    frame = explanation.similar(itself_first, tiny_lines, "p11", titles, top=29)
    assert sorted(frame["sku"]) == [sku for sku in tiny_lines.items.ids if sku != "p11"]


def test_similar_refuses_what_it_cannot_answer(tiny_lines, model, titles):
    with pytest.raises(InputError, match=r'--sku is "p4".*did you mean "p'):
        explanation.similar(model, tiny_lines, "p4", titles)
    with pytest.raises(InputError, match="--top is 30; expected 1 to 29"):
        explanation.similar(model, tiny_lines, "p04", titles, top=30)
    same_for_all = popularity.fit(tiny_lines, popularity.PopularitySettings())
    with pytest.raises(InputError, match="scores every customer alike"):
        explanation.similar(same_for_all, tiny_lines, "p04", titles)


def test_similar_in_a_shop_of_one_customer(titles):
    lines = lines_of([("ann", sku, 1) for sku in "abcd"])
    frame = explanation.similar(BoughtTogether.of(lines), lines, "b", titles, top=3)
    assert frame["sku"].tolist() == ["a", "c", "d"]


# As of a day


@dataclasses.dataclass(frozen=True)
class Recent(BoughtTogether):
    """The same, each order of the history counting the less the older it is."""

    def encode(self, histories: Histories) -> np.ndarray:
        return history_matrix(histories, "recency", half_life=30.0).toarray()


DAY = "2024-06-30"
END = np.datetime64("2024-06-30T23:59:59", "s")


def recommended_on(model, lines, on, customers, titles, **options) -> pd.DataFrame:
    return listed(model, recommendation.known_at(lines, on), customers, titles, **options)


def with_more(lines: Interactions, rows: list[tuple[str, str, int, str]]) -> Interactions:
    """Lines and more `(customer, sku, quantity, moment)` behind them, each an order of its own."""
    added = {
        "user": lines.users.index(row[0] for row in rows),
        "item": lines.items.index(row[1] for row in rows),
        "quantity": [row[2] for row in rows],
        "order": lines.order.max() + 1 + np.arange(len(rows)),
        "at": np.array([row[3] for row in rows], dtype="datetime64[s]"),
    }
    columns = {
        name: np.append(getattr(lines, name), new).astype(getattr(lines, name).dtype) for name, new in added.items()
    }
    return dataclasses.replace(lines, **columns)


@pytest.mark.parametrize("repeat", ["exclude", "include"])
def test_on_a_day_scores_are_those_of_the_orders_up_to_it(tiny_lines, titles, repeat):
    model = Recent(BoughtTogether.of(tiny_lines).together)
    frame = recommended_on(model, tiny_lines, DAY, tiny_lines.users.ids, titles, top=4, repeat=repeat)
    items = list(tiny_lines.items.ids)
    rows = [
        (tiny_lines.users.ids[user], item, at)
        for user, item, at in zip(tiny_lines.user, tiny_lines.item, tiny_lines.at, strict=True)
        if at <= END
    ]
    assert 0 < len(rows) < len(tiny_lines)
    for customer, own in frame.groupby("customer_id"):
        history = [(item, (END - at) / np.timedelta64(1, "D")) for name, item, at in rows if name == customer]
        if not history:
            assert own["basis"].tolist() == ["popular"] * 4
            continue
        scores = sum(0.5 ** (age / 30.0) * model.together[item] for item, age in history)
        seen = {item for item, _ in history} if repeat == "exclude" else set()
        best = sorted(set(range(len(items))) - seen, key=lambda item: -scores[item])[:4]
        assert own["basis"].tolist() == ["model"] * 4
        np.testing.assert_allclose(own["score"], scores[best], rtol=1e-4)
        np.testing.assert_allclose(scores[[items.index(sku) for sku in own["sku"]]], scores[best], rtol=1e-4)


def test_nothing_after_the_day_is_read(tiny_lines, titles):
    """Planted behind it: purchases, returns, a customer's first order, and much of what was not popular."""
    late = "2024-07-01T00:00:00"
    newcomer = tiny_lines.users.ids[7]
    lines = tiny_lines.take((tiny_lines.user != 7) | (tiny_lines.at > END))
    first = lines.take(np.flatnonzero((lines.user == 0) & (lines.at <= END))[:1])
    sku = lines.items.ids[first.item[0]]
    planted = [
        ("c00", sku, -50, late),
        (newcomer, "p03", 9, late),
        *((customer, "p29", 5, late) for customer in lines.users.ids),
    ]
    more = with_more(lines, planted)
    model = Recent(BoughtTogether.of(tiny_lines).together)
    customers = [*lines.users.ids, "nobody"]
    for repeat in ("exclude", "include"):
        before, after = (
            recommended_on(model, each, DAY, customers, titles, top=6, repeat=repeat) for each in (lines, more)
        )
        pd.testing.assert_frame_equal(before, after)
    assert set(before.loc[before["customer_id"] == newcomer, "basis"]) == {"popular"}
    later = recommended_on(model, more, "2024-07-01", customers, titles, top=6)
    assert set(later.loc[later["customer_id"] == newcomer, "basis"]) == {"model"}
    assert sku in set(recommended_on(model, more, "2024-07-01", ["c00"], titles, top=30)["sku"])
    assert sku not in set(recommended_on(model, more, DAY, ["c00"], titles, top=30)["sku"])


@pytest.mark.parametrize("everything", [False, True], ids=["as the lines", "more than the lines"])
def test_what_was_first_sold_after_the_day_is_in_new_places_alone(tiny_lines, titles, everything):
    """Two products that the model scores highest; all buy them after the day, and of one no attribute is known."""
    late, without = [28, 29], 29
    features = tiny_lines.item_features
    matrix = features.matrix.copy()
    matrix.data[matrix.indptr[without] : matrix.indptr[without + 1]] = 0
    matrix.eliminate_zeros()
    before = tiny_lines.take(~np.isin(tiny_lines.item, late))
    before = dataclasses.replace(before, item_features=dataclasses.replace(features, matrix=matrix))
    buyers = before.users.ids
    more = with_more(before, [(who, sku, 1, "2024-07-01T00:00:00") for who in buyers for sku in ("p28", "p29")])
    # The lines of set-aside products: one customer has bought the first of them before the day.
    every = with_more(more, [("c00", "p28", 1, "2024-06-01T00:00:00")]) if everything else None
    together = BoughtTogether.of(tiny_lines).together
    together[:, late] = 1000.0
    known = recommendation.known_at(more, DAY, everything=every)
    customers = [*buyers, "nobody"]

    def lists(top, **options):
        return listed(BoughtTogether(together), known, customers, titles, top=top, **options)

    for repeat in ("exclude", "include"):
        frame = lists(28, repeat=repeat)
        assert not set(frame["sku"]) & {"p28", "p29"}
        assert len(frame[frame["customer_id"] == "nobody"]) == 28  # all that were sold, and no more
        frame = lists(4, repeat=repeat, new_places=2)
        new = frame[frame["basis"] == "attributes"]
        has_history = set(frame.loc[frame["basis"] != "popular", "customer_id"])
        expected = has_history - ({"c00"} if everything and repeat == "exclude" else set())
        assert set(new["sku"]) == {"p28"} and set(new["customer_id"]) == expected
        assert "p29" not in set(frame["sku"]) and set(frame.groupby("customer_id").size()) == {4}
    with pytest.raises(InputError, match="--top is 29; expected 1 to 28, the number of products sold by 2024-06-30"):
        lists(29)
    later = recommended_on(BoughtTogether(together), more, "2024-07-01", ["nobody"], titles, top=2)
    assert later["sku"].tolist() == ["p28", "p29"]


@pytest.mark.parametrize(
    ("on", "known", "as_of"),
    [
        ("2024-03-01", 2, "2024-03-01T23:59:59"),
        ("2024-03-01T09:00", 1, "2024-03-01T09:00:00"),
        ("2024-03-01T10:00+01:00", 1, "2024-03-01T09:00:00"),
        ("2024-03-01 10:00+01:00", 1, "2024-03-01T09:00:00"),
        ("2024-03-04", 2, "2024-03-04T23:59:59"),
        ("2024-03-05T23:00", 3, "2024-03-05T12:00:00"),
        ("2024-03-05", 3, "2024-03-05T12:00:00"),  # the last order's day ends with that order
    ],
)
def test_a_date_is_the_end_of_that_day_and_a_time_is_that_time(tiny_lines, on, known, as_of):
    moments = ["2024-03-01T09:00:00", "2024-03-01T18:30:00", "2024-03-05T12:00:00"]
    lines = dataclasses.replace(tiny_lines.take(slice(0, 3)), at=np.array(moments, "datetime64[s]"))
    found = recommendation.known_at(dataclasses.replace(lines, order=np.arange(3, dtype=np.int32)), on)
    assert (len(found.lines), found.later) == (known, 3 - known)
    assert found.as_of == np.datetime64(as_of, "s")


def test_orders_after_the_day_are_counted_and_not_their_lines(tiny_lines):
    late = tiny_lines.at > END
    orders, lines = len(np.unique(tiny_lines.order[late])), int(late.sum())
    assert orders < lines
    assert recommendation.known_at(tiny_lines, DAY).later == orders
    assert recommendation.known_at(dataclasses.replace(tiny_lines, order=None), DAY).later == lines


@pytest.mark.parametrize(
    ("on", "says"),
    [
        ("2023-12-31", "--on 2023-12-31 is before the first order of this run, whose orders are of 2024-01-0"),
        ("2025-01-01", "--on 2025-01-01 is after the last order of this run, whose orders are of 2024-01-0"),
        ("9999-12-31", "is after the last order"),
        ("0001-01-01", "is before the first order"),
        ("1.5.2024", '--on is "1.5.2024"; expected a date such as 2024-12-'),
        ("2024-02-30", '--on is "2024-02-30"; expected a date'),
        ("", '--on is ""; expected a date'),
        ("0001-01-01T00:00+14:00", r'--on is "0001-01-01T00:00\+14:00"; expected a date'),
        ("2024-03-01+02:00", r'--on is "2024-03-01\+02:00"; expected a date'),
    ],
)
def test_a_day_that_the_orders_do_not_reach_is_refused(tiny_lines, on, says):
    with pytest.raises(InputError, match=says):
        recommendation.known_at(tiny_lines, on)


def test_on_a_day_needs_dates(tiny_lines):
    with pytest.raises(InputError, match=r"--on 2024-05-01 needs order dates \(created_at\).*leave --on out"):
        recommendation.known_at(dataclasses.replace(tiny_lines, at=None), "2024-05-01")


def test_a_chunk_of_customers_is_begun_before_the_one_before_it_is_waited_for(tiny_lines, titles, monkeypatch):
    events = []

    class Told(BoughtTogether):
        def encode(self, histories):
            events.append("begin")
            return super().encode(histories)

    monkeypatch.setattr(recommendation.batching, "scoring_chunk", lambda count: 20)
    model = Told.of(tiny_lines)
    known = recommendation.known_at(tiny_lines)
    for _ in recommendation.recommend(model, known, list(tiny_lines.users.ids), titles, top=3):
        events.append("frame")
    assert events == ["begin", "begin", "frame", "begin", "frame", "frame"]
