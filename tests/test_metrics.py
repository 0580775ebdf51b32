from __future__ import annotations

import warnings

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aejax import metrics, ranking

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import ir_measures


def plain_metrics(scores: np.ndarray, masked: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """One user's metrics `[I] x 3 -> key: value`, slow and from the definitions alone."""
    order = sorted(np.flatnonzero(~masked), key=lambda i: (-scores[i], i))
    relevant = set(np.flatnonzero(targets))
    result = {}
    for k in metrics.CUTOFFS:
        top = order[:k]
        hits = len(relevant & set(top))
        possible = min(k, len(relevant))
        gain = sum(1 / np.log2(rank + 1) for rank, item in enumerate(top, start=1) if item in relevant)
        result[f"precision@{k}"] = hits / k
        result[f"recall@{k}"] = hits / possible
        result[f"recall_all@{k}"] = hits / len(relevant)
        result[f"ndcg@{k}"] = gain / sum(1 / np.log2(rank + 1) for rank in range(1, possible + 1))
        result[f"hit@{k}"] = float(hits > 0)
    ranks = [rank for rank, item in enumerate(order[:10], start=1) if item in relevant]
    result["map@10"] = sum(n / rank for n, rank in enumerate(ranks, start=1)) / min(10, len(relevant))
    result["mrr@10"] = 1 / ranks[0] if ranks else 0.0
    return result


def padded(chosen: np.ndarray) -> jax.Array:
    """Bool `[B, I]` -> item indices `[B, I]` padded with I, in an arbitrary order."""
    return jnp.asarray(np.where(chosen, np.arange(chosen.shape[1]), chosen.shape[1])[:, ::-1].astype(np.int32))


per_user_metrics = jax.jit(metrics.per_user_metrics)


@jax.jit
def top_hits(scores: jax.Array, masked: jax.Array, targets: jax.Array) -> jax.Array:
    _, top = ranking.top_k_items(ranking.mask_items(scores, masked), metrics.DEPTH)
    return ranking.membership(top, targets, scores.shape[1])


def library_metrics(scores: np.ndarray, masked: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
    hits = top_hits(jnp.asarray(scores), padded(masked), padded(targets))
    return {key: np.asarray(value) for key, value in per_user_metrics(hits, jnp.asarray(targets.sum(1))).items()}


def assert_equals_plain(scores: np.ndarray, masked: np.ndarray, targets: np.ndarray) -> None:
    values = library_metrics(scores, masked, targets)
    assert set(values) == set(metrics.KEYS)
    for row in range(len(scores)):
        expected = plain_metrics(scores[row], masked[row], targets[row])
        assert set(expected) == set(metrics.KEYS)
        for key, value in expected.items():
            assert values[key][row] == pytest.approx(value, abs=1e-6), (key, row)


def with_a_target(masked: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A user in a part has a target, and no target is masked."""
    targets = targets & ~masked
    empty = ~targets.any(1)
    masked[empty, 0], targets[empty, 0] = False, True
    return masked, targets


SMALL = (4, 9)  # fewer items than most cut-offs
bools = hnp.arrays(bool, SMALL)


@given(hnp.arrays(np.float32, SMALL, elements=st.sampled_from([-1.0, 0.0, 0.5])), bools, bools)
def test_fewer_items_than_the_cutoffs_with_ties_and_masks(scores, masked, targets):
    assert_equals_plain(scores, *with_a_target(masked, targets))


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.01, 0.1, 0.9]), st.sampled_from([0.0, 0.2, 0.95]))
def test_more_items_than_the_cutoffs_with_ties_and_masks(seed, target_share, mask_share):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 40, (4, 130)).astype(np.float32)
    masked, targets = rng.random(scores.shape) < mask_share, rng.random(scores.shape) < target_share
    assert_equals_plain(scores, *with_a_target(masked, targets))


def test_ir_measures_agrees():
    # recall_all, hit and mrr are its R, Success and RR; its nDCG, too, has the ideal of min(K, |targets|) items.
    rng = np.random.default_rng(1)
    scores = rng.permuted(np.tile(np.arange(60, dtype=np.float32), (40, 1)), axis=1)  # no ties: its rule differs
    masked = rng.random(scores.shape) < rng.choice([0.0, 0.3, 0.9], (40, 1))
    masked, targets = with_a_target(masked, rng.random(scores.shape) < rng.choice([0.03, 0.5], (40, 1)))
    values = library_metrics(scores, masked, targets)
    run = {f"u{u}": {f"i{i}": float(scores[u, i]) for i in np.flatnonzero(~masked[u])} for u in range(len(scores))}
    qrels = {f"u{u}": {f"i{i}": 1 for i in np.flatnonzero(targets[u])} for u in range(len(scores))}
    same = {
        "precision@10": ir_measures.P @ 10,
        "recall_all@10": ir_measures.R @ 10,
        "ndcg@10": ir_measures.nDCG @ 10,
        "hit@10": ir_measures.Success @ 10,
        "mrr@10": ir_measures.RR @ 10,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = list(ir_measures.iter_calc(list(same.values()), qrels, run))
    theirs = {(str(result.measure), result.query_id): result.value for result in results}
    assert len(theirs) == len(same) * len(scores)
    for key, measure in same.items():
        for user in range(len(scores)):
            assert values[key][user] == pytest.approx(theirs[str(measure), f"u{user}"], abs=1e-6), (key, user)


def test_golden_values():
    hits = jnp.array([[True, False, True, False], [False, False, False, True]])
    targets = jnp.array([3, 1])
    discount = 1 / np.log2(np.arange(2, 6))
    expected = {
        metrics.precision_at_k: [2 / 3, 0],
        metrics.recall_at_k: [2 / 3, 0],
        metrics.recall_all_at_k: [2 / 3, 0],
        metrics.ndcg_at_k: [(discount[0] + discount[2]) / discount[:3].sum(), 0],
        metrics.hit_at_k: [1, 0],
        metrics.map_at_k: [(1 + 2 / 3) / 3, 0],
        metrics.mrr_at_k: [1, 0],
    }
    for function, values in expected.items():
        np.testing.assert_allclose(function(hits, targets, 3), values, rtol=1e-6, err_msg=function.__name__)
    assert metrics.mrr_at_k(hits, targets, 4).tolist() == [1.0, 0.25]
    assert metrics.recall_at_k(hits, targets, 1).tolist() == [1.0, 0.0]  # min(K, |targets|) ...
    assert metrics.recall_all_at_k(hits, targets, 1)[0] == pytest.approx(1 / 3)  # ... against |targets|


@given(st.integers(1, 30))
def test_a_perfect_list_reaches_one(count):
    hits = jnp.arange(metrics.DEPTH)[None, :] < count
    values = per_user_metrics(hits, jnp.array([count]))
    for key, value in values.items():
        name, k = key.split("@")
        expected = {"precision": min(1, count / int(k)), "recall_all": min(1, int(k) / count)}.get(name, 1.0)
        assert float(value[0]) == pytest.approx(expected, abs=1e-6), key


def test_hits_of_another_depth_are_refused():
    with pytest.raises(AssertionError):
        metrics.per_user_metrics(jnp.zeros((2, metrics.DEPTH - 1), dtype=bool), jnp.ones(2, dtype=jnp.int32))
