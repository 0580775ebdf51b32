"""The spectral filters against dense twins; that of `bspm` integrates its equations step by step."""

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp

from aejax.errors import InputError, ResourceError
from aejax.interactions import Histories
from aejax.matrix import user_item_matrix
from aejax.models import spectral
from aejax.models.spectral import BSPMSettings, GFCFSettings


def dense(lines, settings):
    """Rows `[U, I]`, the similarity `[I, I]` and the low-pass filter `[I, I]`, in float64."""
    x = user_item_matrix(lines, settings.values).toarray().astype(np.float64)
    root = np.sqrt(x.sum(0))
    normal = x / np.sqrt(x.sum(1, keepdims=True)) / root
    v = np.linalg.svd(normal)[2][: settings.factors].T
    return x, normal.T @ normal, np.diag(1 / root) @ v @ v.T @ np.diag(root)


def integrate(start, slope, time, steps, solver):
    """Every point behind the first of the solution of `dx/dt = slope(x)`."""
    h, points = time / steps, [start]
    for _ in range(steps):
        x = points[-1]
        if solver == "euler":
            x = x + h * slope(x)
        else:
            k1 = slope(x)
            k2 = slope(x + h / 2 * k1)
            k3 = slope(x + h / 2 * k2)
            k4 = slope(x + h * k3)
            x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        points.append(x)
    return points[1:]


def slow_gfcf(lines, settings):
    x, similarity, ideal = dense(lines, settings)
    return x @ similarity + settings.alpha * x @ ideal


def slow_bspm(lines, settings):
    x, similarity, ideal = dense(lines, settings)
    low = settings.beta * x @ ideal
    blurred = integrate(x, lambda r: r @ similarity - r, settings.blur_time, settings.blur_steps, settings.blur_solver)
    begin = blurred[-1] + low if settings.merge == "early" else blurred[-1]
    sharpened = integrate(
        begin, lambda r: -(r @ similarity), settings.sharpen_time, settings.sharpen_steps, settings.sharpen_solver
    )
    scores = np.mean(blurred + sharpened, axis=0) if settings.points == "mean" else sharpened[-1]
    return scores if settings.merge == "early" else scores + low


def scores_of(model, lines):
    return np.asarray(model.scores(model.encode(Histories(lines, None))))


@pytest.mark.parametrize("settings", [GFCFSettings(factors=4), GFCFSettings(factors=9, alpha=2.0, values="orders")])
def test_gfcf_equals_the_dense_twin(tiny_lines, settings):
    model = spectral.fit(tiny_lines, settings)
    np.testing.assert_allclose(scores_of(model, tiny_lines), slow_gfcf(tiny_lines, settings), atol=2e-4)


PROCESSES = [
    BSPMSettings(factors=4),
    BSPMSettings(factors=4, merge="late"),
    BSPMSettings(factors=4, sharpen_solver="euler", sharpen_time=1.2, points="mean"),
    BSPMSettings(factors=4, beta=0.0, sharpen_time=2.2, sharpen_steps=2),
    BSPMSettings(factors=9, beta=2.0, blur_time=0.6, blur_steps=2, sharpen_steps=3, sharpen_solver="euler"),
    BSPMSettings(factors=9, blur_time=1.7, blur_steps=2, blur_solver="rk4", sharpen_steps=2, points="mean"),
    BSPMSettings(factors=9, blur_solver="rk4", sharpen_steps=3, merge="late", points="mean", values="orders"),
    BSPMSettings(factors=9, blur_steps=2, sharpen_time=0.0),
    BSPMSettings(factors=9, sharpen_time=0.0, points="mean"),
]


@pytest.mark.parametrize("settings", PROCESSES)
def test_bspm_equals_the_equations_solved_step_by_step(tiny_lines, settings):
    model = spectral.fit(tiny_lines, settings)
    np.testing.assert_allclose(scores_of(model, tiny_lines), slow_bspm(tiny_lines, settings), atol=2e-4)


def test_every_setting_changes_the_scores(tiny_lines):
    scores = [slow_bspm(tiny_lines, settings) for settings in PROCESSES]
    for i, one in enumerate(scores):
        for other in scores[:i]:
            assert np.abs(one - other).max() > 1e-2


def test_many_small_steps_reach_the_exact_solution(tiny_lines):
    """Eigenvalue by eigenvalue, blurring multiplies by `exp(T (e - 1))` and sharpening by `exp(-T e)`."""
    settings = BSPMSettings(beta=0.0, blur_steps=4, blur_solver="rk4", sharpen_steps=8)
    x, similarity, _ = dense(tiny_lines, settings)
    values, vectors = np.linalg.eigh(similarity)
    gain = np.exp(settings.blur_time * (values - 1) - settings.sharpen_time * values)
    expected = x @ vectors @ np.diag(gain) @ vectors.T
    found = scores_of(spectral.fit(tiny_lines, settings), tiny_lines)
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("settings", [GFCFSettings(factors=4), BSPMSettings(factors=4)])
def test_the_scores_do_not_depend_on_how_many_rows_are_filtered_at_once(tiny_lines, settings, monkeypatch):
    expected = scores_of(spectral.fit(tiny_lines, settings), tiny_lines)
    monkeypatch.setattr(spectral, "BAND", 3)
    np.testing.assert_allclose(scores_of(spectral.fit(tiny_lines, settings), tiny_lines), expected, atol=1e-5)


def test_singular_vectors_of_a_slowly_falling_spectrum():
    rng = np.random.default_rng(0)
    left = np.linalg.qr(rng.normal(size=(300, 200)))[0]
    right = np.linalg.qr(rng.normal(size=(200, 200)))[0]
    matrix = (left * np.linspace(1.0, 0.2, 200)) @ right.T
    found = spectral.right_singular_vectors(sp.csr_array(matrix.astype(np.float32)), 20)
    np.testing.assert_allclose(np.abs(found @ right[:, :20]), np.eye(20), atol=1e-5)
    np.testing.assert_array_equal(found, spectral.right_singular_vectors(sp.csr_array(matrix.astype(np.float32)), 20))


@pytest.mark.parametrize("count", [4, 11, 12])
def test_singular_vectors_of_equal_groups_of_customers(count):
    """Every singular value four times, and most of them 0."""
    matrix = np.kron(np.eye(4), np.outer(np.ones(5), [1.0, 2.0, 2.0]))
    found = spectral.right_singular_vectors(sp.csr_array(matrix.astype(np.float32)), count)
    np.testing.assert_allclose(found @ found.T, np.eye(count), atol=1e-6)
    groups = np.kron(np.eye(4), np.array([[1.0, 2.0, 2.0]]) / 3)
    np.testing.assert_allclose(found[:4].T @ found[:4], groups.T @ groups, atol=1e-6)


def test_more_factors_than_products_are_all_there_are(tiny_lines):
    assert spectral.fit(tiny_lines, GFCFSettings(factors=31)).low_pass.shape == (30, 30)


@pytest.mark.parametrize(
    ("settings", "changes", "says"),
    [
        (GFCFSettings, {"factors": 0}, "factors is 0"),
        (GFCFSettings, {"alpha": -1.0}, "alpha is -1"),
        (GFCFSettings, {"half_life": 0.0}, "half_life is 0"),
        (BSPMSettings, {"factors": 0}, "factors is 0"),
        (BSPMSettings, {"beta": -1.0}, "beta is -1"),
        (BSPMSettings, {"blur_time": 0.0}, "blur_time is 0.0; expected more than 0"),
        (BSPMSettings, {"sharpen_time": -0.5}, "sharpen_time is -0.5; expected 0 or more"),
        (BSPMSettings, {"blur_steps": 0}, "blur_steps is 0"),
        (BSPMSettings, {"sharpen_steps": 0}, "sharpen_steps 0"),
        (BSPMSettings, {"blur_solver": "rk5"}, 'blur_solver is "rk5"; did you mean "rk4"'),
        (BSPMSettings, {"sharpen_solver": "eulers"}, 'sharpen_solver is "eulers"; did you mean "euler"'),
        (BSPMSettings, {"merge": "lately"}, 'merge is "lately"; did you mean "late"'),
        (BSPMSettings, {"sharpen_steps": 101}, "sharpen_steps 101; expected 1 or more, and 100 or less"),
        (BSPMSettings, {"sharpen_time": 1e30}, "sharpen_time 1e\\+30; expected 100 or less"),
        (BSPMSettings, {"points": "means"}, 'points is "means"; did you mean "mean"'),
    ],
)
def test_settings_out_of_range_are_refused(settings, changes, says):
    with pytest.raises(InputError, match=says):
        settings(**changes)


def test_a_search_finds_the_singular_vectors_once(tiny_lines, monkeypatch):
    settings = GFCFSettings(factors=5)
    alone = spectral.fit(tiny_lines, settings)
    vectors = spectral.shared_vectors(tiny_lines, dataclasses.replace(settings, factors=1, alpha=2.0))
    monkeypatch.setattr(spectral, "right_singular_vectors", None)
    shared = spectral.fit(tiny_lines, settings, vectors)
    histories = Histories(tiny_lines, None)
    scores, expected = (np.asarray(model.scores(model.encode(histories))) for model in (shared, alone))
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_more_factors_than_memory_holds_are_refused_before_they_are_made(tiny_lines, monkeypatch):
    monkeypatch.setattr(spectral.memory, "available", lambda: 10)
    monkeypatch.setattr(spectral, "_assemble", None)
    with pytest.raises(ResourceError, match=r"^8 factors need 0\.0 GB of memory, .*; give fewer with --set factors=N$"):
        spectral.fit(tiny_lines, GFCFSettings(factors=8))
