"""Sparse linear weights against coordinate descent, column by column."""

import functools
import tracemalloc

import numpy as np
import pytest

from aejax import registry, runs
from aejax.errors import InputError, ResourceError
from aejax.interactions import Histories, Interactions, Vocabulary
from aejax.matrix import user_item_matrix
from aejax.models import slim
from aejax.models.slim import SlimSettings


def slow_twin(lines, settings):
    """The weights `[I, I]`, and the means of inputs and targets, in float64, by coordinate descent."""
    x = user_item_matrix(lines, settings.values).toarray().astype(np.float64)
    x = x[(x > 0).any(1)]
    customers = np.maximum((x > 0).sum(0), 1)
    cells = (x > 0).sum(1)
    weight = cells ** -float(settings.user_power)
    weight *= (x**2).sum() / (weight[:, None] * x**2).sum()
    y = user_item_matrix(lines, settings.targets or settings.values).toarray().astype(np.float64)
    y = y[(y > 0).any(1)]
    means, target_means = (
        weight @ rows / weight.sum() if settings.center else np.zeros(rows.shape[1]) for rows in (x, y)
    )
    deviation = np.sqrt(weight)[:, None] * (x - means)
    ridge = settings.l2 * customers**settings.l2_power
    gram = deviation.T @ deviation
    wanted = deviation.T @ (np.sqrt(weight)[:, None] * (y - target_means))
    weights = np.zeros_like(gram)
    for j in range(len(gram)):
        for _ in range(20_000):
            before = weights[:, j].copy()
            for i in range(len(gram)):
                if i != j:
                    rest = wanted[i, j] - gram[i] @ weights[:, j] + gram[i, i] * weights[i, j]
                    moved = np.sign(rest) * max(abs(rest) - settings.l1, 0.0) / (gram[i, i] + ridge[i])
                    weights[i, j] = max(moved, 0.0) if settings.nonnegative else moved
            if np.abs(weights[:, j] - before).max() < 1e-9:
                break
        else:
            raise AssertionError("the twin has not converged")
    return weights, means, target_means


OPTIONS = [
    SlimSettings(l1=1.0, l2=5.0),
    SlimSettings(l1=1.0, l2=5.0, nonnegative=False),
    SlimSettings(l1=0.3, l2=2.0, user_power=0.5),
    SlimSettings(l1=0.5, l2=0.5, l2_power=1.0),
    SlimSettings(l1=0.5, l2=5.0, center=True, nonnegative=False),
    SlimSettings(l1=0.1, l2=2.0, center=True, user_power=0.7),
    SlimSettings(l1=2.0, l2=20.0, values="quantity"),
    SlimSettings(l1=1.0, l2=5.0, values="orders", targets="quantity"),
    SlimSettings(l1=0.2, l2=2.0, targets="log1p-quantity", center=True, user_power=0.5, nonnegative=False),
    SlimSettings(l1=0.0, l2=5.0, nonnegative=False),
]


@pytest.fixture(scope="module")
def twin(tiny_lines):
    """`twin(settings)`: solved once."""
    return functools.cache(lambda settings: slow_twin(tiny_lines, settings))


@pytest.mark.parametrize("settings", OPTIONS)
@pytest.mark.parametrize("block", [8, 512])
def test_equals_coordinate_descent(tiny_lines, settings, block, twin, monkeypatch):
    monkeypatch.setattr(slim, "BLOCK", block)  # 30 products: the last of four blocks overlaps the one before
    monkeypatch.setattr(slim.solve, "BLOCK", block)
    model = slim.fit(tiny_lines, settings)
    expected, means, target_means = twin(settings)
    found = model.weights.toarray()
    assert np.abs(expected).max() > 0.05
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert not found.diagonal().any()
    # What is exactly 0 in one of them is next to nothing in the other.
    assert np.abs(found[expected == 0]).max(initial=0.0) < 5e-4
    x = user_item_matrix(tiny_lines, settings.values).toarray()
    scores = np.asarray(model.scores(model.encode(Histories(tiny_lines, None))))
    np.testing.assert_allclose(scores, (x - means) @ found + target_means, atol=1e-4)


def test_every_option_changes_the_weights(tiny_lines):
    weights = [slim.fit(tiny_lines, settings).weights.toarray() for settings in OPTIONS]
    for i, one in enumerate(weights):
        for other in weights[:i]:
            assert np.abs(one - other).max() > 5e-3


def test_weights_are_nonnegative_only_where_that_is_asked_for(tiny_lines):
    free, bounded = (slim.fit(tiny_lines, SlimSettings(l1=0.5, l2=5.0, nonnegative=n)).weights for n in (False, True))
    assert free.data.min() < -0.01
    assert bounded.data.min() > 0


def test_more_l1_is_sparser_and_very_much_leaves_nothing(tiny_lines):
    cells = [slim.fit(tiny_lines, SlimSettings(l1=l1, l2=5.0)).weights.nnz for l1 in (0.01, 1.0, 3.0, 1e3)]
    assert cells[0] > cells[1] > cells[2] > cells[3] == 0


@pytest.mark.parametrize("rho", [1.0, 25.0])
def test_rho_does_not_change_the_solution(tiny_lines, rho):
    settings = {"l1": 0.5, "l2": 5.0, "nonnegative": False, "tolerance": 1e-4, "iterations": 5_000}
    other = slim.fit(tiny_lines, SlimSettings(**settings, rho=rho)).weights.toarray()
    np.testing.assert_allclose(slim.fit(tiny_lines, SlimSettings(**settings)).weights.toarray(), other, atol=1e-4)


def test_a_smaller_tolerance_is_nearer_to_the_solution(tiny_lines):
    def error(tolerance):
        settings = SlimSettings(l1=0.5, l2=2.0, nonnegative=False, tolerance=tolerance)
        return np.linalg.norm(slim.fit(tiny_lines, settings).weights.toarray() - expected)

    expected, *_ = slow_twin(tiny_lines, SlimSettings(l1=0.5, l2=2.0, nonnegative=False))
    loose, tight = error(0.1), error(1e-4)
    assert tight < 1e-3 * np.linalg.norm(expected)
    assert loose > 10 * tight


def test_too_few_iterations_are_an_error_and_not_a_worse_model(tiny_lines):
    with pytest.raises(InputError, match=r"after 3 iterations the weights are off by .* tolerance is 0\.001"):
        slim.fit(tiny_lines, SlimSettings(iterations=3))


def test_a_product_that_nobody_bought_has_no_weight(tiny_lines):
    model = slim.fit(tiny_lines.take(tiny_lines.item != 4), SlimSettings(l1=0.5, l2=5.0, center=True))
    weights = model.weights.toarray()
    assert not weights[4].any() and not weights[:, 4].any()
    assert np.isfinite(model.weights.data).all()


@pytest.mark.parametrize("apart", [False, True])
def test_a_stored_model_scores_alike(tiny_lines, apart, tmp_path):
    lines = tiny_lines
    if apart:  # products that nobody bought together: no weight is left
        lines = lines.take(np.unique(lines.user, return_index=True)[1])
        lines = lines.take(np.unique(lines.item, return_index=True)[1])
    settings = SlimSettings(l1=0.5, l2=5.0, center=True)
    model = slim.fit(lines, settings)
    assert (model.weights.nnz == 0) == apart
    runs.save_state(tmp_path / "state", model.state())
    again = registry.family("slim").restore(runs.load_state(tmp_path / "state"), settings, items=len(lines.items))
    histories = Histories(tiny_lines, None)
    assert np.array_equal(again.scores(again.encode(histories)), model.scores(model.encode(histories)))


def test_what_does_not_fit_is_refused_before_it_is_tried(tiny_lines, monkeypatch):
    monkeypatch.setattr(slim.memory, "available", lambda: slim.memory_needed(30) - 1)
    with pytest.raises(ResourceError, match=r"30 products need .* GB of memory, .*--model elsa"):
        slim.fit(tiny_lines, SlimSettings())
    monkeypatch.setattr(slim.memory, "available", lambda: slim.memory_needed(30))
    slim.fit(tiny_lines, SlimSettings())


def test_the_memory_that_is_asked_for_is_what_dense_weights_take(monkeypatch):
    """The arrays of the host alone, P among them: those of a block stay with the device."""
    monkeypatch.setattr(slim, "BLOCK", 16)
    for name in ("BLOCK", "LEAST", "PIECE"):
        monkeypatch.setattr(slim.solve, name, 40)
    bought = np.random.default_rng(0).uniform(size=(50, 400)) < 0.3
    user, item = np.nonzero(bought)
    lines = Interactions(
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        quantity=np.ones(len(user), np.int32),
        users=Vocabulary.of(f"u{n}" for n in range(50)),
        items=Vocabulary.of(f"i{n}" for n in range(400)),
        order=np.arange(len(user), dtype=np.int32),
        at=None,
    )
    settings = SlimSettings(l1=0.0, l2=100.0, nonnegative=False, tolerance=0.1)
    slim.fit(lines, settings)  # compiled
    tracemalloc.start()
    model = slim.fit(lines, settings)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert model.weights.nnz > 0.99 * 400 * 399
    assert peak == pytest.approx(slim.memory_needed(400), rel=0.1)


def test_positions_beyond_32_bits_take_more_memory():
    below, beyond = slim.memory_needed(46_340), slim.memory_needed(46_341)
    assert below < 22 * 46_340**2
    assert beyond > 28 * 46_341**2


@pytest.mark.parametrize("center", [False, True])
def test_what_float32_cannot_tell_apart_is_refused(tiny_lines, center):
    with pytest.raises(InputError, match="l2 1e-06 leaves the system singular in float32; try a larger l2"):
        slim.fit(tiny_lines.take(tiny_lines.user < 10), SlimSettings(l2=1e-6, rho=1e-3, center=center))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"l1": -1.0}, "l1 is -1.0; expected 0 or more"),
        ({"l2": 0.0}, "l2 is 0; expected 1e-6"),
        ({"rho": 0.0}, "rho is 0.0; expected more than 0"),
        ({"tolerance": 0.0}, "tolerance is 0"),
        ({"half_life": -2.0}, "half_life is -2"),
        ({"l2_power": -30.0}, "l2_power is -30.0; expected -4 to 4"),
        ({"user_power": -400.0}, "user_power is -400"),
        ({"iterations": 0}, "iterations is 0"),
        ({"values": "order"}, 'did you mean "orders"'),
    ],
)
def test_settings_out_of_range_are_refused(changes, says):
    with pytest.raises(InputError, match=says):
        SlimSettings(**changes)
