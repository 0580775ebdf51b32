"""The closed-form linear autoencoders against a slow dense twin, both sides, every option."""

import dataclasses
import functools
import tracemalloc

import jax
import numpy as np
import pytest
import scipy.sparse as sp

from aejax import runs, solve
from aejax.errors import InputError, ResourceError
from aejax.interactions import Features, Histories, Interactions, Vocabulary
from aejax.matrix import user_item_matrix
from aejax.models import linear
from aejax.models.linear import DANSettings, EASESettings, EDLAESettings, RDLAESettings, scoring, solving
from aejax.models.linear.system import make_system


def slow_twin(lines, settings):
    """Scores `[U, I]` of all users of `lines`, in float64, by quadratic programs solved column by column."""
    x = user_item_matrix(lines, settings.values).toarray().astype(np.float64)
    y = user_item_matrix(lines, settings.targets or settings.values).toarray().astype(np.float64)
    count = x.shape[1]
    customers = np.maximum((x > 0).sum(0), 1)
    cells = (x > 0).sum(1)
    weight = np.diag(cells ** -float(settings.user_power))
    weight *= (x**2).sum() / (np.diag(weight)[:, None] * x**2).sum()
    history = x
    if settings.attribute_weight:
        features = lines.item_features.matrix.toarray().astype(np.float64).T
        shared = settings.attribute_weight * features[(features > 0).sum(1) > 1]
        x, y = np.concatenate([x, shared]), np.concatenate([y, shared])
        weight = np.diag(np.concatenate([np.diag(weight), np.ones(len(shared))]))
    gram = x.T @ weight @ x
    ridge = settings.l2 * customers**settings.l2_power
    ridge = ridge + settings.dropout / (1 - settings.dropout) * np.diag(gram)
    system, right = gram + np.diag(ridge), x.T @ weight @ y
    b = np.linalg.solve(system, right)
    for j in range(count):
        if b[j, j] > settings.xi or not settings.xi:
            # minimise with the equality b_j = xi: bordered normal equations
            bordered = np.zeros((count + 1, count + 1))
            bordered[:count, :count] = system
            bordered[count, j] = bordered[j, count] = 1.0
            b[:, j] = np.linalg.solve(bordered, [*right[:, j], settings.xi])[:count]
    scale = customers**settings.item_power
    return (history * scale) @ b / scale


OPTIONS = [
    EASESettings(l2=5.0),
    EASESettings(l2=5.0, values="log1p-orders"),
    EASESettings(l2=5.0, values="orders", targets="binary"),
    EASESettings(l2=5.0, user_power=0.5),
    EASESettings(l2=0.5, l2_power=1.0),
    EASESettings(l2=5.0, item_power=-0.4),
    EDLAESettings(l2=5.0, dropout=0.5),
    RDLAESettings(l2=1.0, dropout=0.1, xi=0.1),
    RDLAESettings(l2=1.0, dropout=0.1, xi=0.1, values="orders", targets="binary", user_power=0.7),
    DANSettings(l2=0.5, dropout=0.2),
    EASESettings(l2=5.0, attribute_weight=2.0),
    RDLAESettings(l2=1.0, dropout=0.1, xi=0.1, values="orders", targets="binary", user_power=0.7, attribute_weight=3.0),
    DANSettings(l2=0.5, dropout=0.2, attribute_weight=2.0),
]


@pytest.fixture(scope="module")
def tiny_lines(tiny_lines):
    """The tiny shop with six features of its products, the first of one product alone."""
    rng = np.random.default_rng(5)
    matrix = (rng.random((30, 6)) < 0.3) * rng.random((30, 6))
    matrix[:, 0] = np.arange(30) == 7
    features = Features(sp.csr_array(matrix.astype(np.float32)), tuple(("kind", str(name)) for name in range(6)))
    return dataclasses.replace(tiny_lines, item_features=features)


@pytest.mark.parametrize("settings", OPTIONS)
@pytest.mark.parametrize("side", ["items", "users", "users-to-items"])
@pytest.mark.parametrize("by_rows", [False, True])
def test_every_side_equals_the_dense_twin(tiny_lines, settings, side, by_rows, monkeypatch):
    monkeypatch.setattr(solving, "choose_side", lambda *sizes: side)
    monkeypatch.setattr(solving, "CELLS_PER_ROW_READ", 0 if by_rows else 1000)
    monkeypatch.setattr(solving.solve, "BLOCK", 8)
    monkeypatch.setattr(solving, "EXACT", 0 if by_rows else 4096)
    model = linear.fit(tiny_lines, settings)
    users = np.arange(len(tiny_lines.users))
    scores = np.asarray(model.scores(model.encode(Histories(tiny_lines, None))))
    assert model.facts == {"side": "items" if side == "items" else "users"}
    assert scores.shape == (len(users), len(tiny_lines.items))
    np.testing.assert_allclose(scores, slow_twin(tiny_lines, settings), atol=1e-4)


@pytest.mark.parametrize("settings", [option for option in OPTIONS if not option.dropout])
@pytest.mark.parametrize("side", ["items", "users", "users-to-items"])
def test_the_products_between_rows_of_one_ridge_serve_another(tiny_lines, settings, side, monkeypatch):
    monkeypatch.setattr(solving, "choose_side", lambda *sizes: side)
    shared = linear.shared_gram(tiny_lines, dataclasses.replace(settings, l2=1000.0))
    monkeypatch.setattr(solving, "choose_side", None)  # memory was freed since: what is shared knows its side
    monkeypatch.setattr(solving.solve, "gram_panels", None)
    model = linear.fit(tiny_lines, settings, shared)
    scores = np.asarray(model.scores(model.encode(Histories(tiny_lines, None))))
    np.testing.assert_allclose(scores, slow_twin(tiny_lines, settings), atol=1e-4)


def test_there_are_no_shared_products_with_dropout_or_beyond_what_is_exact(tiny_lines, monkeypatch):
    assert linear.shared_gram(tiny_lines, EDLAESettings()) is None
    monkeypatch.setattr(solving, "EXACT", 8)
    assert linear.shared_gram(tiny_lines, EASESettings()) is None


@pytest.fixture
def in_parts(tiny_lines, monkeypatch):
    """The shop's purchases within the two tastes and some of the others, with the limits low that keep them whole."""
    monkeypatch.setattr(solving, "EXACT", 0)
    monkeypatch.setattr(solve, "LEAST", 4)
    monkeypatch.setattr(solve, "PIECE", 8)
    monkeypatch.setattr(solve, "BLOCK", 16)
    within = (tiny_lines.user % 2 == tiny_lines.item % 2) | (tiny_lines.item < 4) | (tiny_lines.user > 54)
    return tiny_lines.take(within)


@pytest.mark.parametrize("settings", OPTIONS)
@pytest.mark.parametrize("side", ["users", "users-to-items"])
def test_what_is_solved_in_parts_scores_as_the_items_side(in_parts, settings, side, monkeypatch, tmp_path):
    plans = []
    choose = solving.dissection.choose
    monkeypatch.setattr(solving.dissection, "choose", lambda rows: plans.append(choose(rows)) or plans[-1])
    monkeypatch.setattr(solving, "choose_side", lambda *sizes: side)
    model = linear.fit(in_parts, settings)
    assert plans[0].leaves == 2 and plans[0].sizes.all() and (plans[0].products == 2).any()
    found = np.asarray(model.scores(model.encode(Histories(in_parts, None))))
    monkeypatch.setattr(solving, "choose_side", lambda *sizes: "items")
    expected = linear.fit(in_parts, settings)
    np.testing.assert_allclose(
        found, np.asarray(expected.scores(expected.encode(Histories(in_parts, None)))), atol=1e-4
    )
    runs.save_state(tmp_path / "state", model.state())
    again = linear.restore(runs.load_state(tmp_path / "state"), settings, items=len(in_parts.items))
    assert np.array_equal(found, np.asarray(again.scores(again.encode(Histories(in_parts, None)))))


def test_an_accelerator_inverts_the_users_side_as_a_whole(in_parts, monkeypatch):
    monkeypatch.setattr(solving, "choose_side", lambda *sizes: "users-to-items")
    settings = EASESettings(l2=5.0)
    weights = np.asarray(linear.fit(in_parts, settings).weights)
    with monkeypatch.context() as patched:
        patched.setattr(solving.devices, "on_cpu", lambda: False)
        patched.setattr(solving.dissection, "choose", None)
        found = np.asarray(linear.fit(in_parts, settings).weights)
    np.testing.assert_allclose(found, weights, atol=1e-5)


def test_what_a_run_stores_does_not_hold_the_whole_inverse(in_parts, monkeypatch):
    """Beside the weights, half of it and no more."""
    monkeypatch.setattr(solving, "choose_side", lambda *sizes: "users-to-items")
    panels = linear.fit(in_parts, EASESettings(l2=5.0)).state()["panels"]
    assert [panel.shape for panel in panels.values()] == [(16, 16), (16, 32), (16, 48), (12, 60)]
    assert all(panel.base is None for panel in panels.values())


def test_every_option_changes_the_scores(tiny_lines):
    scores = [slow_twin(tiny_lines, settings) for settings in OPTIONS]
    for i, one in enumerate(scores):
        for other in scores[:i]:
            assert np.abs(one - other).max() > 1e-3


def test_attributes_that_the_data_lack_are_refused(tiny_lines):
    alone = Features(tiny_lines.item_features.matrix[:, :1], (("kind", "0"),))
    for features in (None, alone):
        lines = dataclasses.replace(tiny_lines, item_features=features)
        with pytest.raises(InputError, match="attribute_weight is 2, and these data have no attributes that two"):
            linear.fit(lines, EASESettings(attribute_weight=2.0))


def test_a_product_that_nobody_bought_is_scored_by_its_attributes(tiny_lines):
    """Product 0 is of the taste of even customers, and its one feature is all even products'."""
    even = Features(sp.csr_array((np.arange(30) % 2 == 0)[:, None].astype(np.float32)), (("taste", "even"),))
    lines = dataclasses.replace(tiny_lines.take(tiny_lines.item != 0), item_features=even)
    settings = EASESettings(l2=5.0, attribute_weight=3.0)
    model = linear.fit(lines, settings)
    scores = np.asarray(model.scores(model.encode(Histories(lines, None))))[:, 0]
    assert scores[::2].mean() > 5 * abs(scores[1::2].mean())
    blind = linear.fit(lines, dataclasses.replace(settings, attribute_weight=0.0))
    assert not np.asarray(blind.scores(blind.encode(Histories(lines, None))))[:, 0].any()


@pytest.mark.parametrize("side", ["items", "users", "users-to-items"])
@pytest.mark.parametrize("settings", [DANSettings(), EASESettings(values="orders", targets="binary")])
def test_a_stored_model_scores_alike_and_users_without_purchases_do_no_harm(
    tiny_lines, side, settings, tmp_path, monkeypatch
):
    monkeypatch.setattr(solving, "choose_side", lambda *sizes: side)
    monkeypatch.setattr(solving.solve, "BLOCK", 8)
    monkeypatch.setattr(solving, "EXACT", 0)
    lines = tiny_lines.take(tiny_lines.user != 3)
    model = linear.fit(lines, settings)
    runs.save_state(tmp_path / "state", model.state())
    again = linear.restore(runs.load_state(tmp_path / "state"), settings, items=len(lines.items))
    batch = model.encode(Histories(tiny_lines, None))
    scores = np.asarray(model.scores(batch))
    assert np.isfinite(scores).all()
    assert np.array_equal(scores, np.asarray(again.scores(again.encode(Histories(tiny_lines, None)))))


@pytest.mark.parametrize("targets", [None, "binary"])
@pytest.mark.parametrize("l2", [1e-2, 50.0])
@pytest.mark.parametrize("shared", [False, True])
def test_an_exact_solution_is_stored_as_it_scores(tiny_lines, targets, l2, shared, tmp_path, monkeypatch):
    """Of what is inverted in float64, with digits enough in float32 and without, alone and from shared products."""
    monkeypatch.setattr(solving, "choose_side", lambda *sizes: "users")
    settings = EASESettings(l2=l2, values="quantity", targets=targets)
    model = linear.fit(tiny_lines, settings, linear.shared_gram(tiny_lines, settings) if shared else None)
    assert isinstance(model, scoring.UserWeights) and (model.refinement is None) == (l2 == 50.0)
    runs.save_state(tmp_path / "state", model.state())
    again = linear.restore(runs.load_state(tmp_path / "state"), settings, items=len(tiny_lines.items))
    histories = Histories(tiny_lines, None)
    found, expected = (np.asarray(one.scores(one.encode(histories))) for one in (again, model))
    assert np.array_equal(found, expected)
    truth = slow_twin(tiny_lines, settings)
    np.testing.assert_allclose(found, truth, atol=5e-3 * np.abs(truth).max())


@pytest.mark.parametrize("targets", [None, "binary"])
def test_a_cpu_scores_from_customers_as_an_accelerator_does(tiny_lines, targets, monkeypatch):
    monkeypatch.setattr(solving, "choose_side", lambda *sizes: "users")
    monkeypatch.setattr(scoring, "PRODUCTS_AT_ONCE", 8)  # of 30 products
    model = linear.fit(tiny_lines, EASESettings(values="quantity", targets=targets))
    batch = model.encode(Histories(tiny_lines, None))
    found = np.asarray(model.scores(batch))
    monkeypatch.setattr(scoring.devices, "on_cpu", lambda: False)
    np.testing.assert_allclose(found, model.scores(batch), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("targets", [None, "binary"])
@pytest.mark.parametrize("name", ["values", "user_power", "item_power"])
def test_whose_row_is_one_of_train_is_scored_without_a_product(tiny_lines, targets, name, monkeypatch):
    """Only a row with train's very values is: what is weighted there is not what the customer's history holds."""
    monkeypatch.setattr(solving, "choose_side", lambda *sizes: "users")
    settings = EASESettings(targets=targets, **{"values": "quantity", name: {"values": "quantity"}.get(name, 0.5)})
    model = linear.fit(tiny_lines, settings)
    assert isinstance(model, scoring.UserWeights)
    half = dataclasses.replace(tiny_lines, quantity=np.where(tiny_lines.user % 2, tiny_lines.quantity, 99))
    of_train, mixed = model.encode(Histories(tiny_lines, None)), model.encode(Histories(half, None))
    users, is_odd = np.arange(60), np.arange(60) % 2 == 1
    exact = name == "values"
    assert np.asarray(of_train.known).tolist() == (users if exact else np.full(60, -1)).tolist()
    assert np.asarray(mixed.known).tolist() == np.where(is_odd & exact, users, -1).tolist()
    assert np.asarray(of_train.overlap).any() != exact
    found, of_mixed = np.asarray(model.scores(of_train)), np.asarray(model.scores(mixed))
    np.testing.assert_array_equal(of_mixed[is_odd], found[is_odd])
    if exact:
        monkeypatch.setattr(scoring, "_solved", None)
        np.testing.assert_array_equal(model.scores(of_train), found)


@pytest.mark.parametrize("exact", [0, 4096])
@pytest.mark.parametrize("targets", [None, "binary"])
@pytest.mark.parametrize("l2", [20.0, 5e3, 1e7])
def test_scores_of_train_customers_are_exact_at_any_ridge_their_own_products_among_them(
    tiny_lines, l2, targets, exact, monkeypatch
):
    """A strong ridge leaves 1 - M next to nothing on its diagonal, which float32 would not tell from rounding."""
    monkeypatch.setattr(solving, "choose_side", lambda *sizes: "users")
    monkeypatch.setattr(solving, "EXACT", exact)
    settings = EASESettings(l2=l2, values="quantity", targets=targets)
    model = linear.fit(tiny_lines, settings)
    batch = model.encode(Histories(tiny_lines, None))
    assert isinstance(batch, scoring.UserBatch) and (np.asarray(batch.known) >= 0).all()
    expected = slow_twin(tiny_lines, settings)
    np.testing.assert_allclose(model.scores(batch), expected, atol=1e-5 * np.abs(expected).max())


def test_the_smaller_side_is_solved_and_the_users_side_holds_no_item_by_item_array(tiny_lines):
    model = linear.fit(tiny_lines, EASESettings())
    assert isinstance(model, scoring.ItemWeights)  # 30 products, 60 customers
    few = tiny_lines.take(tiny_lines.user < 10)
    model = linear.fit(few, EASESettings())
    assert isinstance(model, scoring.UserWeights)
    assert max(leaf.size for leaf in jax.tree.leaves(model.state())) < 30 * 10
    assert model.inverse.shape == (10, 10) and model.back.shape == (30, 10)


@pytest.mark.parametrize("l2", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("side", ["users", "users-to-items", "items"])
def test_a_weak_ridge_is_solved_exactly(tiny_lines, l2, side, monkeypatch):
    monkeypatch.setattr(solving, "choose_side", lambda *sizes: side)
    settings = EASESettings(l2=l2, values="quantity")
    scores = np.asarray(linear.fit(tiny_lines, settings).scores(_encoded(tiny_lines, settings)))
    expected = slow_twin(tiny_lines, settings)
    np.testing.assert_allclose(scores, expected, atol=2e-3 * np.abs(expected).max())


def _encoded(lines, settings):
    return linear.fit(lines, settings).encode(Histories(lines, None))


def test_what_float32_cannot_tell_apart_is_refused(tiny_lines, monkeypatch):
    monkeypatch.setattr(solving, "EXACT", 0)
    monkeypatch.setattr(solving, "choose_side", lambda *sizes: "users")
    with pytest.raises(InputError, match="leaves the system singular in float32; try a larger l2"):
        linear.fit(tiny_lines, EASESettings(l2=1e-5, values="quantity"))


def scores_or_refusal(lines, settings, shared=None):
    """The scores of a fit; None where it is refused as singular."""
    try:
        model = linear.fit(lines, settings, shared)
    except InputError as problem:
        assert "leaves the system singular in float32; try a larger l2" in str(problem)
        return None
    return np.asarray(model.scores(model.encode(Histories(lines, None))))


def test_the_items_side_refuses_what_loses_its_digits_and_nothing_else(tiny_lines):
    """More products than customers: without a ridge the products' side has no inverse."""
    lines = tiny_lines.take(tiny_lines.user < 10)
    refused = []
    for l2 in np.geomspace(1e-5, 10.0, 13):
        settings = EASESettings(l2=l2, values="quantity", side="items")
        found = scores_or_refusal(lines, settings)
        refused.append(found is None)
        if found is not None:
            expected = slow_twin(lines, settings)
            np.testing.assert_allclose(found, expected, atol=5e-3 * np.abs(expected).max())
    assert refused == sorted(refused, reverse=True)
    assert refused[0] and not refused[-1]


@pytest.mark.parametrize("side", ["users", "users-to-items"])
@pytest.mark.parametrize("values", ["quantity", "binary"])
def test_the_users_side_refuses_what_float32_cannot_score(tiny_lines, values, side, monkeypatch):
    """What is inverted in float64 is scored in float32: more customers than products, K is not of full rank."""
    monkeypatch.setattr(solving, "choose_side", lambda *sizes: side)
    refused = []
    for l2 in np.geomspace(1e-6, 0.1, 11):
        settings = EASESettings(l2=l2, values=values)
        found = scores_or_refusal(tiny_lines, settings)
        refused.append(found is None)
        if found is not None:
            expected = slow_twin(tiny_lines, settings)
            np.testing.assert_allclose(found, expected, atol=1e-2 * np.abs(expected).max())
    assert refused == sorted(refused, reverse=True)
    assert refused[0] and not refused[-1]


@pytest.mark.parametrize("side", ["items", "users", "users-to-items"])
@pytest.mark.parametrize("l2", [1e-6, 1e-5, 1e-4, 0.1, 10.0])
def test_a_ridge_that_fit_refuses_is_refused_with_shared_products_too(tiny_lines, side, l2, monkeypatch):
    monkeypatch.setattr(solving, "choose_side", lambda *sizes: side)
    lines = tiny_lines.take(tiny_lines.user < 10)
    settings = EASESettings(l2=l2, values="quantity")
    alone = scores_or_refusal(lines, settings)
    shared = scores_or_refusal(lines, settings, linear.shared_gram(lines, EASESettings(values="quantity")))
    assert (alone is None) == (shared is None) == (side == "items" and l2 < 0.1)
    if alone is not None and shared is not None:
        np.testing.assert_allclose(shared, alone, atol=2e-3 * np.abs(alone).max())


def test_the_side_is_the_least_work_that_fits(monkeypatch):
    monkeypatch.setattr(solving.memory, "available", lambda: 17e9)
    assert solving.choose_side(2_500, 17_000, 600_000, "auto") == "users"
    assert solving.choose_side(30_000, 41_000, 810_000, "auto") == "users-to-items"  # short histories: few rows to read
    assert solving.choose_side(100_000, 10_000, 5_000_000, "auto") == "items"
    assert solving.choose_side(2_500, 17_000, 600_000, "items") == "items"
    # Long rows between products: reading a history's takes longer than a product with the customers' inverse.
    monkeypatch.setattr(solving.memory, "available", lambda: 40e9)
    assert solving.choose_side(9_000, 60_000, 810_000, "auto") == "users"
    assert solving.choose_side(9_000, 10_000, 810_000, "auto") == "users-to-items"
    monkeypatch.setattr(solving.memory, "available", lambda: 10e9)
    # Products are too many for a matrix between them.
    assert solving.choose_side(9_000, 60_000, 810_000, "auto") == "users"
    monkeypatch.setattr(solving.memory, "available", lambda: 1e9)
    with pytest.raises(
        ResourceError,
        match=r"30,000 customers x 41,000 products need \d\.\d GB of memory, and 1\.0 GB are free; .*--model elsa",
    ):
        solving.choose_side(30_000, 41_000, 810_000, "auto")
    with pytest.raises(ResourceError, match="products on the side of the items, which --set side=items asks for, need"):
        solving.choose_side(2_500, 17_000, 600_000, "items")
    assert solving.choose_side(2_500, 17_000, 600_000, "auto") == "users"


def test_the_memory_that_a_side_takes(monkeypatch):
    """In floats of 4 bytes; U = 5,000 and I = 10,000, so that U U = 25, U I = 50 and I I = 100 million."""
    monkeypatch.setattr(solving.os, "cpu_count", lambda: 2)
    needed = functools.partial(solving.memory_needed, users=5_000, items=10_000)
    assert needed("items") == pytest.approx(4e6 * 210)  # the inverse
    assert needed("users") == pytest.approx(4e6 * 2.1 * 25)
    assert needed("users-to-items") == pytest.approx(4e6 * (25 + 100 + 0.75 * 25))
    # Few customers: in float64.
    assert solving.memory_needed("users", 4_000, 10_000) == pytest.approx(8e6 * 2.1 * 16)
    monkeypatch.setattr(solving.os, "cpu_count", lambda: 64)  # 64 blocks of 128 products at once
    assert needed("users-to-items") == pytest.approx(4e6 * 125 + 16 * 64 * 128 * 15_000)
    assert needed("users") == pytest.approx(4e6 * 25 + 64 * 128 * (16 * 5_000 + 8 * 10_000))


def test_other_targets_take_no_more_than_was_asked_for(monkeypatch):
    """All products are bought with all others: the overlaps in sparse form alone are 2 matrices between products."""
    monkeypatch.setattr(solve, "THROUGH_SPARSE", 16)
    monkeypatch.setattr(solving.os, "cpu_count", lambda: 1)
    users, items = 10, 1_500
    user, item = (np.ravel(index).astype(np.int32) for index in np.indices((users, items)))
    lines = Interactions(
        user=user,
        item=item,
        quantity=(1 + (user + item) % 7).astype(np.int32),
        users=Vocabulary(np.array([f"u{number:02}" for number in range(users)], dtype=object)),
        items=Vocabulary(np.array([f"i{number:04}" for number in range(items)], dtype=object)),
    )
    system = make_system(lines, EASESettings(values="quantity", targets="binary", side="items"))
    inverse = solving._items_inverse(system, EASESettings(side="items"), None)
    monkeypatch.setattr(solving, "_items_inverse", lambda *of: inverse.copy())
    tracemalloc.start()
    solving._solve_items(system, EASESettings(values="quantity", targets="binary", side="items"), None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < solving.memory_needed("items", users, items)


@pytest.mark.parametrize(("l2", "exact"), [(1e5, 4096), (5e3, 0)])
def test_the_users_side_takes_no_more_than_was_asked_for(l2, exact, monkeypatch):
    """In float64, and in float32 with refinement; few customers and many products."""
    monkeypatch.setattr(solving.os, "cpu_count", lambda: 1)
    monkeypatch.setattr(solving, "EXACT", exact)
    rng = np.random.default_rng(0)
    users, items = 60, 20_000
    user, item = (rng.random((users, items)) < 0.004).nonzero()
    lines = Interactions(
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        quantity=rng.integers(1, 500, len(user)).astype(np.int32),
        users=Vocabulary(np.array([f"u{number:02}" for number in range(users)], dtype=object)),
        items=Vocabulary(np.array([f"i{number:05}" for number in range(items)], dtype=object)),
    )
    settings = EASESettings(l2=l2, values="quantity", side="users")
    system = make_system(lines, settings)
    assert solving._by_users(system, settings, None)._is_refined == (not exact)
    solving._solve_users(system, settings, None)  # what JAX keeps of a compilation is no part of it
    tracemalloc.start()
    solving._solve_users(system, settings, None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < solving.memory_needed("users", users, items)


def test_memory_is_asked_for_before_anything_is_allocated(tiny_lines, monkeypatch):
    monkeypatch.setattr(solving.memory, "available", lambda: 10)
    monkeypatch.setattr(solving.solve, "inverse_panels", None)
    with pytest.raises(InputError, match="60 customers x 30 products need"):
        linear.fit(tiny_lines, EASESettings())


def test_a_solved_matrix_is_handed_over_without_a_copy():
    array = solve.empty(30, 30)
    array[:] = 1.0
    assert jax.device_put(array, jax.devices("cpu")[0]).unsafe_buffer_pointer() == array.ctypes.data


def positive_definite(size):
    half = np.random.default_rng(size).normal(size=(size, size + 3))
    return (half @ half.T + np.eye(size)).astype(np.float32)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 29])
def test_the_inverse_by_halves_is_the_inverse(size, monkeypatch):
    for name, rows in {"LEAST": 3, "PIECE": 5, "TILE": 4}.items():
        monkeypatch.setattr(solve, name, rows)
    matrix = positive_definite(size)
    found = np.zeros((size + 2, size + 2), np.float32)  # part of a larger array
    found[1:-1, 1:-1] = np.tril(matrix)
    solve.invert(found[1:-1, 1:-1])
    np.testing.assert_allclose(found[1:-1, 1:-1], np.linalg.inv(matrix.astype(np.float64)), atol=1e-5)
    assert np.array_equal(found, found.T)
    assert not found[[0, -1]].any()


@pytest.mark.parametrize("size", [1, 7, 8, 29])
def test_the_blocked_inverse_is_the_inverse(size):
    matrix = positive_definite(size)
    panels = solve.inverse_panels(lambda start, stop: matrix[start:stop, :stop], size, block=8)
    assert [panel.shape for panel in panels] == [
        (min(8, size - start), min(start + 8, size)) for start in range(0, size, 8)
    ]
    np.testing.assert_allclose(solve.whole(panels), np.linalg.inv(matrix.astype(np.float64)), atol=1e-5)


@pytest.mark.parametrize("size", [0, 1, 8, 29])
def test_the_exact_inverse_is_the_inverse_in_float64(size, monkeypatch):
    monkeypatch.setattr(solve, "LEAST", 8)
    matrix = positive_definite(size).astype(np.float64)
    found = solve.exact_inverse(lambda start, stop: matrix[start:stop, :stop], size)
    np.testing.assert_allclose(found, np.linalg.inv(matrix), rtol=1e-9, atol=1e-10)
    assert np.array_equal(found, found.T)


def test_a_matrix_that_is_not_positive_definite_is_refused():
    matrix = -np.eye(5, dtype=np.float32)
    for wrong in (matrix, np.full((5, 5), np.nan), np.diag([1.0, 1.0, 0.0])):
        with pytest.raises(np.linalg.LinAlgError):
            solve.exact_inverse(lambda start, stop, wrong=wrong: wrong[start:stop, :stop], len(wrong))
    with pytest.raises(np.linalg.LinAlgError):
        solve.inverse_panels(lambda start, stop: matrix[start:stop, :stop], 5)
    with pytest.raises(np.linalg.LinAlgError):
        solve.invert(matrix)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"l2": 0.0}, "l2 is 0; expected 1e-6 or more"),
        ({"l2": -1.0}, "l2 is -1"),
        ({"dropout": 1.0}, "dropout is 1"),
        ({"xi": -0.1}, "xi is -0.1; expected 0 or more and less than 1"),
        ({"l2_power": 400.0}, "l2_power is 400.0; expected -4 to 4"),
        ({"user_power": -900.0}, "user_power is -900"),
        ({"item_power": float("nan")}, "item_power is nan"),
        ({"attribute_weight": -1.0}, "attribute_weight is -1.0; expected 0 or more"),
        ({"side": "item"}, 'did you mean "items"'),
        ({"targets": "order"}, 'did you mean "orders"'),
    ],
)
def test_settings_out_of_range_are_refused(changes, says):
    with pytest.raises(InputError, match=says):
        EASESettings(**changes)


@pytest.mark.parametrize(("l2", "floats"), [(1.0, np.float32), (1e-3, np.float64)])
def test_the_floats_are_those_in_which_what_is_left_of_a_product_keeps_its_digits(tiny_lines, l2, floats):
    system = make_system(tiny_lines, EASESettings(l2=l2))
    assert solving._by_users(system, EASESettings(l2=l2), None).inverse.dtype == floats


def test_a_product_that_everyone_buys_needs_more_floats_than_rare_ones():
    everyone, rare = np.ones((1, 200), dtype=np.float32), np.eye(1, 200, dtype=np.float32)
    needs = 1e5 * np.finfo(np.float32).eps
    for row, energy in ((everyone, 200.0), (rare, 1.0)):
        limit = needs * energy / (1 - needs)
        assert solving.keeps_digits(sp.csr_array(row), np.array([1.01 * limit]))
        assert not solving.keeps_digits(sp.csr_array(row), np.array([0.99 * limit]))


def grouped_lines():
    """Four groups of customers with products of their own, two products for most and some customers of all groups."""
    rng = np.random.default_rng(0)
    cells = np.kron(np.eye(4), np.ones((60, 15))) * (rng.random((240, 60)) < 0.2)
    popular = (rng.random((240, 2)) < 0.7).astype(float)
    travellers = (rng.random((6, 62)) < 0.3).astype(float)
    user, item = np.concatenate([np.concatenate([cells, popular], axis=1), travellers]).nonzero()
    return Interactions(
        user=user,
        item=item,
        quantity=np.ones(len(user), dtype=np.int64),
        users=Vocabulary(np.array([f"{number:03}" for number in range(246)], dtype=object)),
        items=Vocabulary(np.array([f"{number:02}" for number in range(62)], dtype=object)),
    )


@pytest.mark.parametrize("targets", [None, "quantity"])
@pytest.mark.parametrize("side", ["users", "users-to-items"])
@pytest.mark.parametrize(("l2", "share"), [(0.1, 1e-3), (0.5, 1e-4), (10.0, 1e-4)])
def test_a_weak_ridge_keeps_its_digits_when_it_is_solved_in_parts(l2, share, side, targets, monkeypatch):
    monkeypatch.setattr(solving, "choose_side", lambda *sizes: side)
    monkeypatch.setattr(solving, "EXACT", 0)
    lines, settings = grouped_lines(), EASESettings(l2=l2, targets=targets)
    assert solving.dissection.choose(make_system(lines, settings).inputs).leaves > 1
    scores = np.asarray(linear.fit(lines, settings).scores(_encoded(lines, settings)))
    expected = slow_twin(lines, settings)
    np.testing.assert_allclose(scores, expected, atol=share * np.abs(expected).max())
