from __future__ import annotations

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aejax import ranking

B, I, L = 3, 7, 5
# Few distinct values: ties in nearly every row.
tied_scores = hnp.arrays(np.float32, (B, I), elements=st.sampled_from([-2.0, -1.0, 0.0, 1.0, 2.0]))
item_lists = hnp.arrays(np.int32, (B, L), elements=st.integers(0, I))  # repeated items and padding (I) anywhere


def ranked(scores: np.ndarray, masked: set[int]) -> list[int]:
    """The obvious ranking of one user: best first, of equals the lower index, masked items never."""
    return sorted(set(range(len(scores))) - masked, key=lambda i: (-scores[i], i))


@given(tied_scores, item_lists, st.sampled_from([1, 3, I, I + 4]))
def test_masked_top_k_is_the_sorted_list_of_unmasked_items(scores, lists, k):
    best, items = ranking.top_k_items(ranking.mask_items(jnp.asarray(scores), jnp.asarray(lists)), k)
    assert best.shape == items.shape == (B, k)
    for row in range(B):
        expected = ranked(scores[row], set(lists[row]) - {I})[:k]
        missing = k - len(expected)
        assert items[row].tolist() == expected + [I] * missing
        assert best[row].tolist() == scores[row, expected].tolist() + [-np.inf] * missing


def test_equal_scores_come_in_the_order_of_their_indices():
    _, items = ranking.top_k_items(jnp.zeros((2, 200)), 150)
    np.testing.assert_array_equal(items, np.tile(np.arange(150), (2, 1)))


def test_negative_zero_ties_with_zero():
    _, items = ranking.top_k_items(jnp.array([[-0.0, 0.0, -0.0, 0.0]]), 4)
    assert items.tolist() == [[0, 1, 2, 3]]


# Among so many items a list of 1 or 2 is looked for in the best blocks, whose size divides but the first number.
many_items = st.sampled_from([512, 331])
special = st.sampled_from([-np.inf, -1.0, -0.0, 0.0, 0.0, 0.5, 0.5, np.inf])


@given(many_items, st.sampled_from([1, 2]), st.data())
def test_the_best_blocks_hold_the_best_items(count, k, data):
    assert count >= ranking.ITEMS_PER_PLACE * k
    scores = np.full(count, data.draw(st.sampled_from([-np.inf, -1.0, -0.0, 0.0])), dtype=np.float32)
    cells = data.draw(st.lists(st.tuples(st.integers(0, count - 1), special), max_size=12))
    for item, score in cells:
        scores[item] = score
    both = np.stack([scores, scores[::-1]])
    best, items = jax.jit(ranking.top_k_items, static_argnums=1)(jnp.asarray(both), k)
    for row in range(2):
        expected = [item for item in ranked(both[row], set()) if both[row, item] > -np.inf][:k]
        missing = k - len(expected)
        assert items[row].tolist() == expected + [count] * missing
        assert best[row].tolist() == both[row, expected].tolist() + [-np.inf] * missing


@pytest.mark.parametrize(("count", "k"), [(3000, 10), (1609, 10), (6401, 40)])
@pytest.mark.parametrize("digits", [0, 1, 7])
def test_a_list_from_the_best_blocks_is_the_head_of_the_sorted_items(count, k, digits):
    scores = np.asarray(jax.random.normal(jax.random.key(count), (5, count))).round(digits)
    scores[1, ::2], scores[2, 5:], scores[3] = -np.inf, -np.inf, 0.0
    best, items = ranking.top_k_items(jnp.asarray(scores), k)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    expected = np.take_along_axis(scores, order, axis=1)
    np.testing.assert_array_equal(best, expected)
    np.testing.assert_array_equal(items, np.where(np.isneginf(expected), count, order))


def test_all_items_masked_leaves_nothing():
    masked = ranking.mask_items(jnp.ones((1, 4)), jnp.arange(4)[None, :])
    best, items = ranking.top_k_items(masked, 6)
    assert items.tolist() == [[4] * 6]
    assert np.isneginf(best).all()
    assert ranking.top_k_items(masked, 0)[1].shape == (1, 0)


def test_the_top_k_is_the_head_of_the_longer_list():
    scores = jax.random.normal(jax.random.key(0), (4, 50)).round(1)
    best, items = ranking.top_k_items(scores, 30)
    short_best, short_items = ranking.top_k_items(scores, 10)
    np.testing.assert_array_equal(items[:, :10], short_items)
    np.testing.assert_array_equal(best[:, :10], short_best)


def test_masking_leaves_other_rows_and_items_alone():
    scores = np.arange(6, dtype=np.float32).reshape(2, 3)
    masked = ranking.mask_items(jnp.asarray(scores), jnp.array([[1, 3], [3, 3]]))
    np.testing.assert_array_equal(masked, [[0, -np.inf, 2], [3, 4, 5]])


@given(item_lists, hnp.arrays(np.int32, (B, L), elements=st.integers(0, I)))
def test_membership_is_set_membership_and_padding_is_a_member_of_nothing(items, lists):
    found = ranking.membership(jnp.asarray(items), jnp.asarray(lists), I)
    expected = [[i != I and i in set(lists[row]) for i in items[row]] for row in range(B)]
    assert found.tolist() == expected


@pytest.mark.parametrize("shape", [(5,), (1, 2, 5)])
def test_scores_of_another_rank_are_refused(shape):
    with pytest.raises(AssertionError, match="rank"):
        ranking.top_k_items(jnp.zeros(shape), 2)


grouped = hnp.arrays(np.int32, (2, I), elements=st.integers(-1, 2))


@given(
    tied_scores, item_lists, grouped, st.tuples(st.integers(1, 2), st.integers(1, 2)), st.sampled_from([1, 3, I + 2])
)
def test_capped_top_k_takes_the_best_item_that_no_full_group_holds(scores, lists, groups, most, k):
    masked = ranking.mask_items(jnp.asarray(scores), jnp.asarray(lists))
    before = jnp.asarray([[0], [I], [3]])
    caps = ranking.Caps(groups, np.array(most, dtype=np.int32))
    best, items = ranking.capped_top_k_items(masked, k, caps, before)
    for row in range(B):
        chosen = [int(item) for item in before[row] if item < I]
        taken: list[int] = []
        for item in ranked(scores[row], set(lists[row]) - {I}):
            full = any(
                own[item] >= 0 and sum(own[other] == own[item] for other in chosen) >= limit
                for own, limit in zip(groups, most, strict=True)
            )
            if not full and len(taken) < k:
                taken.append(item)
                chosen.append(item)
        missing = k - len(taken)
        assert items[row].tolist() == taken + [I] * missing
        assert best[row].tolist() == scores[row, taken].tolist() + [-np.inf] * missing
