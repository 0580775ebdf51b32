from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aejax.config import PROTOCOLS, REPEAT_PROTOCOLS, DataConfig, SplitConfig
from aejax.errors import InputError
from aejax.experiment import prepare, prepare_dataset
from aejax.interactions import TEST, TRAIN, VALIDATION, Dataset, Features, Interactions, Vocabulary, net_returns
from aejax.split import HeldOut, held_out, resolve_protocol, split

START = np.datetime64("2024-01-01", "s")
DAYS = 60
CUT = START + np.timedelta64(48, "D")
RANDOM = ("users", "items", "predefined", "cold-items")


def day(number: int) -> np.datetime64:
    return START + np.timedelta64(number, "D")


def shop(seed: int, *, users: int = 12, items: int = 12, orders: int = 50, returns: float = 0.15) -> Interactions:
    """Random orders: several may fall on one day, a line may be a return, an order may be all returns."""
    rng = np.random.default_rng(seed)
    rows = []
    for order in rng.permutation(orders):
        user, on = rng.integers(users), rng.integers(DAYS)
        for item in rng.choice(items, size=rng.integers(1, 4), replace=False):
            quantity = rng.integers(1, 4) * (-1 if rng.random() < returns else 1)
            rows.append((user, item, quantity, order, on))
    rows += [(0, 0, 1, orders, 0), (1, 1, 1, orders + 1, DAYS)]  # the period is the same for every seed
    user, item, quantity, order, on = (np.array(column, dtype=np.int32) for column in zip(*rows, strict=True))
    return Interactions(
        user=user,
        item=item,
        quantity=quantity,
        users=Vocabulary.of(f"u{n:02d}" for n in range(users)),
        items=Vocabulary.of(f"i{n:02d}" for n in range(items)),
        order=order,
        at=START + on.astype("timedelta64[D]"),
    )


def with_parts(lines: Interactions, seed: int, parts: tuple[int, ...]) -> Interactions:
    """A public split: purchases only, each pair in one part."""
    pair = lines.user.astype(np.int64) * len(lines.items) + lines.item
    part_of_pair = np.random.default_rng(seed).choice(parts, size=pair.max() + 1).astype(np.int8)
    return dataclasses.replace(lines, part=part_of_pair[pair]).take(lines.quantity > 0)


def append(lines: Interactions, user: int, item: int, quantity: int, at: np.datetime64, order: int) -> Interactions:
    new = {"user": user, "item": item, "quantity": quantity, "order": order, "at": at}
    return dataclasses.replace(
        lines,
        **{
            name: np.append(getattr(lines, name), np.array([value], getattr(lines, name).dtype))
            for name, value in new.items()
        },
    )


shops = st.integers(0, 10_000).map(shop)


def cut_by(lines: Interactions, protocol: str, seed: int = 0, **options):
    """The split, or no example where these few random lines cannot carry it."""
    if protocol == "predefined" and lines.part is None:
        lines = with_parts(lines, 1, (TRAIN, TRAIN, TRAIN, TEST))
    if protocol == "cold-items":
        features = Features(sp.csr_array(np.ones((len(lines.items), 1), np.float32)), (("kind", "any"),))
        lines = dataclasses.replace(lines, item_features=features)
    try:
        return split(lines, protocol=protocol, seed=seed, **options)
    except InputError as problem:
        assert "leaves no" in str(problem) or "are too few for that" in str(problem)
        assume(False)


def pairs(lines: Interactions) -> set[tuple[int, int]]:
    return set(zip(lines.user.tolist(), lines.item.tolist(), strict=True))


def cells(part: HeldOut, name: str) -> set[tuple[int, int]]:
    rows, columns = getattr(part, name).nonzero()
    return set(zip(part.users[rows].tolist(), columns.tolist(), strict=True))


def input_pairs(part: HeldOut) -> set[tuple[int, int]]:
    return {(int(part.users[u]), i) for u, i in pairs(part.inputs.lines)}


def content(lines: Interactions, users: np.ndarray | None = None) -> list[tuple]:
    """Every line as plain data, in their order; for histories, `users` are their customers."""
    user = lines.user if users is None else users[lines.user]
    columns = [user, lines.item, lines.quantity, lines.order, lines.at.astype(np.int64)]
    return list(zip(*(column.tolist() for column in columns), strict=True))


def content_of_part(part: HeldOut) -> tuple:
    inputs = content(part.inputs.lines, part.users)
    return part.users.tolist(), sorted(inputs), cells(part, "targets"), cells(part, "seen"), part.left_out


def content_of(result) -> tuple:
    return content(result.train), content_of_part(result.validation), content_of_part(result.test)


def lines_after(part: HeldOut, cut_of_user: np.ndarray) -> list[tuple]:
    """The leak detector: lines that a part's inputs hold although they are not earlier than the user's cut."""
    late = part.inputs.lines.at >= cut_of_user[part.users][part.inputs.lines.user]
    return content(part.inputs.lines.take(late), part.users)


def last_orders(lines: Interactions) -> dict[int, list[int]]:
    """User -> their orders with a purchase, in time; a loop over lines."""
    orders: dict[int, set] = {}
    for user, _, quantity, order, at in content(lines):
        if quantity > 0:
            orders.setdefault(user, set()).add((at, order))
    return {user: [order for _, order in sorted(own)] for user, own in orders.items()}


# What holds under every protocol


@pytest.mark.parametrize("protocol", PROTOCOLS)
@settings(max_examples=25, deadline=None)
@given(shops, st.integers(0, 3))
def test_parts_are_well_formed(protocol, lines, seed):
    result = cut_by(lines, protocol, seed)
    assert result.protocol == protocol
    for part in (result.validation, result.test):
        assert np.all(np.diff(part.users) > 0)
        assert part.inputs.lines.users.ids.tolist() == lines.users.ids[part.users].tolist()
        assert np.all(part.inputs.lines.quantity > 0)
        # Whoever stays has both inputs and targets, and each cell is a plain 1.
        assert {u for u, _ in input_pairs(part)} == set(part.users.tolist()) == {u for u, _ in cells(part, "targets")}
        assert set(part.targets.data) == {1.0}
        assert set(part.seen.data) <= {1.0}


@pytest.mark.parametrize("protocol", ["items", "last-order", "time", "predefined", "reconstruction"])
@settings(max_examples=15, deadline=None)
@given(shops)
def test_users_and_left_out_add_up(protocol, lines):
    result = cut_by(lines, protocol)
    for part in (result.validation, result.test):
        assert len(part) + part.left_out == len(lines.users)


@pytest.mark.parametrize("protocol", [p for p in PROTOCOLS if p != "reconstruction"])
@settings(max_examples=25, deadline=None)
@given(shops, st.integers(0, 3))
def test_targets_are_never_seen_and_inputs_always_are(protocol, lines, seed):
    result = cut_by(lines, protocol, seed)
    for part in (result.validation, result.test):
        assert not cells(part, "targets") & cells(part, "seen")
        assert input_pairs(part) <= cells(part, "seen")


@pytest.mark.parametrize("protocol", REPEAT_PROTOCOLS)
@settings(max_examples=15, deadline=None)
@given(shops)
def test_include_masks_nothing_and_keeps_repeats_as_targets(protocol, lines):
    include, exclude = (cut_by(lines, protocol, repeat=repeat) for repeat in ("include", "exclude"))
    wide_and_narrow = [(include.test, exclude.test)]
    if protocol != "predefined":  # whose validation is carved out of train, so that it holds no repeats
        wide_and_narrow.append((include.validation, exclude.validation))
    for wide, narrow in wide_and_narrow:
        assert not cells(wide, "seen")
        assert cells(wide, "targets") - input_pairs(wide) == cells(narrow, "targets")


@pytest.mark.parametrize("protocol", ["time", "last-order"])
def test_include_finds_the_repeats_that_exclude_leaves_out(protocol):
    rows = [(u, i, on) for u in range(4) for i, on in ((u, 1), (u, 52), (u + 1, 52), (u, 59), (u + 2, 59))]
    user, item, on = (np.array(column, dtype=np.int32) for column in zip(*rows, strict=True))
    _, order = np.unique(user * 100 + on, return_inverse=True)
    lines = dataclasses.replace(
        shop(0), user=user, item=item, quantity=np.ones_like(user), order=order, at=START + on.astype("timedelta64[D]")
    )
    exclude, include = (split(lines, protocol=protocol, repeat=repeat) for repeat in ("exclude", "include"))
    assert cells(exclude.test, "targets") == {(u, u + 2) for u in range(4)}
    assert cells(include.test, "targets") == {(u, i) for u in range(4) for i in (u, u + 2)}
    assert cells(include.validation, "targets") == {(u, i) for u in range(4) for i in (u, u + 1)}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@settings(max_examples=8, deadline=None)
@given(shops, st.integers(0, 3))
def test_a_split_is_a_pure_function(protocol, lines, seed):
    before = content(lines)
    assert content_of(cut_by(lines, protocol, seed)) == content_of(cut_by(lines, protocol, seed))
    assert content(lines) == before


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_only_random_protocols_heed_the_seed(protocol):
    lines = shop(7, users=60, orders=500)
    results = [content_of(cut_by(lines, protocol, seed)) for seed in range(3)]
    assert all((first == second) == (protocol not in RANDOM) for first, second in pairwise(results))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@settings(max_examples=15, deadline=None)
@given(shops, st.sampled_from(["include", "exclude"]))
def test_both_tasks_are_there_where_there_are_two(protocol, lines, repeat):
    if protocol not in REPEAT_PROTOCOLS:
        assert [*cut_by(lines, protocol).tasks] == (["cold", "mixed"] if protocol == "cold-items" else [])
        return
    result = cut_by(lines, protocol, repeat=repeat)
    assert result.tasks[repeat] is result.test
    alone = {name: cut_by(lines, protocol, repeat=name).test for name in ("include", "exclude")}
    for name, part in result.tasks.items():
        assert content_of_part(part) == content_of_part(alone[name])
    wide, narrow = result.tasks["include"], result.tasks["exclude"]
    # What `evaluate_tasks` rests on: the same inputs, and new targets are targets.
    assert cells(narrow, "targets") == cells(wide, "targets") - input_pairs(wide)
    rows = np.searchsorted(wide.users, narrow.users)
    assert content_of_part(wide.take(rows))[1] == content_of_part(narrow)[1]


# cold-items


@settings(max_examples=20, deadline=None)
@given(shops, st.integers(0, 3))
def test_cold_products_are_in_nothing_that_is_learnt_from(lines, seed):
    result = cut_by(lines, "cold-items", seed)
    bought = pairs(net_returns(lines))
    cold = {part: set(np.flatnonzero(getattr(result, part).offered).tolist()) for part in ("validation", "test")}
    assert len(cold["validation"]) == len(cold["test"]) == 1 and not cold["validation"] & cold["test"]
    for known, names in ((result.train, ("validation", "test")), (result.refit, ("test",))):
        taken = set.union(*(cold[name] for name in names))
        assert pairs(known) == {(user, item) for user, item in bought if item not in taken}
    for name, known in (("validation", result.train), ("test", result.refit)):
        part = getattr(result, name)
        with_history = {user for user, _ in pairs(known)}
        assert cells(part, "targets") == {(u, i) for u, i in bought if i in cold[name] and u in with_history}
        assert input_pairs(part) == {(u, i) for u, i in pairs(known) if u in set(part.users.tolist())}
    assert result.task == "cold" and result.test is result.tasks["cold"]
    assert content_of_part(result.tasks["mixed"]) == content_of_part(result.test)
    assert result.tasks["mixed"].offered is None


def test_cold_items_need_attributes_and_ten_products(tiny_lines):
    with pytest.raises(InputError, match=r"cold-items needs attributes of products .* try --split items"):
        split(dataclasses.replace(tiny_lines, item_features=None), protocol="cold-items")
    with pytest.raises(InputError, match="takes a tenth of the products out of train, and 9 are too few"):
        split(tiny_lines.take(tiny_lines.item < 9), protocol="cold-items")


@pytest.mark.parametrize("protocol", ["users", "items", "time", "last-order", "cold-items"])
def test_products_that_nobody_bought_are_offered_by_no_part(tiny_lines, protocol):
    some = tiny_lines.take(tiny_lines.item >= 5)
    result = split(some, protocol=protocol)
    parts = [result.validation, result.test, *result.tasks.values()]
    assert all(not part.offered[:5].any() and part.offered[5:].any() for part in parts)
    assert all(part.offered[part.targets.indices].all() for part in parts)
    assert not result.tasks or result.tasks[result.task] is result.test


# users


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 3))
def test_users_holds_out_whole_users(shop_seed, seed):
    lines = shop(shop_seed, users=40, orders=150)
    result = cut_by(lines, "users", seed)
    netted = net_returns(lines)
    buyers = set(netted.user.tolist())
    held = [set(part.users.tolist()) for part in (result.validation, result.test)]
    assert not held[0] & held[1]
    train_users = set(result.train.user.tolist())
    assert not train_users & (held[0] | held[1])
    for part in (result.validation, result.test):
        assert len(part) + part.left_out == len(buyers) // 10
    assert len(train_users) == len(buyers) - 2 * (len(buyers) // 10)
    # A user's purchases are all on one side, and held-out users' are all there.
    assert content(result.train) == [line for line in content(netted) if line[0] in train_users]
    for part in (result.validation, result.test):
        own = {pair for pair in pairs(netted) if pair[0] in set(part.users.tolist())}
        assert input_pairs(part) | cells(part, "targets") == own
        assert not input_pairs(part) & cells(part, "targets")
        for user in part.users:
            items = sum(pair[0] == user for pair in own)
            assert sum(pair[0] == user for pair in cells(part, "targets")) == max(1, items // 5)


# items and predefined: every line is in exactly one part


@settings(max_examples=40, deadline=None)
@given(shops, st.integers(0, 3))
def test_items_parts_are_disjoint_and_complete(lines, seed):
    result = cut_by(lines, "items", seed)
    netted = net_returns(lines)
    train, validation, test = pairs(result.train), cells(result.validation, "targets"), cells(result.test, "targets")
    assert len(train) + len(validation) + len(test) == len(pairs(netted))
    assert train | validation | test == pairs(netted)
    assert sorted(content(result.train)) == sorted(line for line in content(netted) if line[:2] in train)
    for user in range(len(lines.users)):
        items, in_train, in_validation, in_test = (
            sum(pair[0] == user for pair in part) for part in (pairs(netted), train, validation, test)
        )
        assert in_test == (max(1, items // 10) if items > 1 else 0)
        assert in_validation == (max(1, items // 10) if items > 2 else 0)
        assert in_train == items - in_test - in_validation
    # As RecBole: test sees train, and masks train and validation.
    own = set(result.test.users.tolist())
    assert input_pairs(result.test) == {pair for pair in train if pair[0] in own}
    assert cells(result.test, "seen") == {pair for pair in train | validation if pair[0] in own}
    assert result.refit is None


@settings(max_examples=30, deadline=None)
@given(shops, st.integers(0, 3))
def test_predefined_with_a_validation_part_is_what_the_files_say(lines, seed):
    lines = with_parts(lines, seed, (TRAIN, TRAIN, VALIDATION, TEST))
    assume(len(set(lines.part.tolist())) == 3)
    result = cut_by(lines, "predefined")
    assert content(result.train) == content(lines.take(lines.part == TRAIN))
    for part, name in ((result.validation, VALIDATION), (result.test, TEST)):
        of_file = pairs(lines.take(lines.part == name))
        own = set(part.users.tolist())
        assert own == {u for u, _ in of_file} & set(result.train.user.tolist())
        assert cells(part, "targets") == {pair for pair in of_file if pair[0] in own}
        assert input_pairs(part) == {pair for pair in pairs(result.train) if pair[0] in own}
    before_test = pairs(lines.take(lines.part != TEST))
    assert cells(result.test, "seen") == {pair for pair in before_test if pair[0] in set(result.test.users.tolist())}
    assert result.refit is None


@settings(max_examples=30, deadline=None)
@given(shops, st.integers(0, 3))
def test_predefined_carves_validation_out_of_train_only(lines, seed):
    lines = with_parts(lines, seed, (TRAIN, TRAIN, TRAIN, TEST))
    result = cut_by(lines, "predefined", seed)
    known, test = (lines.take(lines.part == name) for name in (TRAIN, TEST))
    assert content(result.refit) == content(known)
    train, validation = pairs(result.train), cells(result.validation, "targets")
    assert not train & validation
    assert train | validation == pairs(known)
    for user in range(len(lines.users)):
        items = sum(pair[0] == user for pair in pairs(known))
        assert sum(pair[0] == user for pair in validation) == (max(1, items // 10) if items > 1 else 0)
    own = set(result.test.users.tolist())
    assert own == {u for u, _ in pairs(test)} & {u for u, _ in pairs(known)}
    assert cells(result.test, "targets") == {pair for pair in pairs(test) if pair[0] in own}
    assert input_pairs(result.test) == {pair for pair in pairs(known) if pair[0] in own}


# time


def moments(cut: str | None, share: float) -> tuple[np.datetime64, np.datetime64]:
    """Where validation and test begin in a period of DAYS days."""
    test_from = CUT if cut else day(DAYS) - np.timedelta64(round(DAYS * 86_400 * share), "s")
    return test_from - (day(DAYS) - test_from), test_from


@pytest.mark.parametrize(("cut", "share"), [(str(CUT), 0.1), (None, 0.1), (None, 0.25)])
@settings(max_examples=25, deadline=None)
@given(shops)
def test_time_cuts_everyone_at_the_same_two_moments(cut, share, lines):
    result = cut_by(lines, "time", cut=cut, test_share=share)
    validation_from, test_from = moments(cut, share)
    assert str(validation_from) in result.note
    assert str(test_from) in result.note
    for known, start in ((result.train, validation_from), (result.refit, test_from)):
        assert content(known) == content(net_returns(lines.take(lines.at < start)))
    for part, known, start, stop in (
        (result.validation, result.train, validation_from, test_from),
        (result.test, result.refit, test_from, day(DAYS + 1)),
    ):
        assert not lines_after(part, np.full(len(lines.users), start))
        assert set(part.inputs.as_of) == {start}
        later = pairs(net_returns(lines.take((lines.at >= start) & (lines.at < stop))))
        new = later - pairs(known)
        assert cells(part, "targets") == {pair for pair in new if pair[0] in set(known.user.tolist())}
        own = set(part.users.tolist())
        assert sorted(content(part.inputs.lines, part.users)) == sorted(
            line for line in content(known) if line[0] in own
        )


@settings(max_examples=30, deadline=None)
@given(shops, st.integers(0, 11), st.integers(0, 8), st.integers(48, DAYS), st.integers(1, 3))
def test_time_ignores_later_returns_before_the_cut(lines, user, item, on, quantity):
    result = cut_by(lines, "time", cut=str(CUT))
    returned = append(lines, user, item, -quantity, day(on), order=900)
    other = cut_by(returned, "time", cut=str(CUT))
    assert content(other.train) == content(result.train)
    assert content(other.refit) == content(result.refit)
    assert content_of_part(other.validation) == content_of_part(result.validation)
    assert cells(other.test, "targets") <= cells(result.test, "targets")


def test_a_return_before_the_cut_does_count():
    lines = append(shop(3, returns=0), 5, 8, 2, day(2), order=900)
    returned = append(lines, 5, 8, -2, day(3), order=901)
    bought, sent_back = (split(each, protocol="time", cut=str(CUT)) for each in (lines, returned))
    assert (5, 8, 2, 900, int(day(2).astype(np.int64))) in content(bought.train)
    assert (5, 8, 2, 900, int(day(2).astype(np.int64))) not in content(sent_back.train)


@settings(max_examples=30, deadline=None)
@given(shops, st.integers(0, 10_000))
def test_shifting_what_comes_after_the_cut_changes_no_time_input(lines, seed):
    result = cut_by(lines, "time", cut=str(CUT), repeat="include")
    rng, late = np.random.default_rng(seed), lines.at >= CUT
    late[-1] = False  # the line that ends the period
    item = np.where(late, rng.integers(len(lines.items), size=len(lines)), lines.item).astype(np.int32)
    quantity = np.where(late, lines.quantity + 5, lines.quantity).astype(np.int32)
    other = cut_by(dataclasses.replace(lines, item=item, quantity=quantity), "time", cut=str(CUT), repeat="include")
    assert content(other.train) == content(result.train)
    assert content(other.refit) == content(result.refit)
    both = set(other.test.users.tolist()) & set(result.test.users.tolist())
    seen_by = [
        sorted(line for line in content(each.test.inputs.lines, each.test.users) if line[0] in both)
        for each in (result, other)
    ]
    assert seen_by[0] == seen_by[1]
    assert content_of_part(other.validation) == content_of_part(result.validation)


# last-order


@settings(max_examples=60, deadline=None)
@given(shops)
def test_last_order_targets_are_the_last_orders(lines):
    result = cut_by(lines, "last-order", repeat="include")
    orders = last_orders(lines)
    items_of = {order: set() for own in orders.values() for order in own}
    for _, item, quantity, order, _ in content(lines):
        if quantity > 0:
            items_of[order].add(item)
    for part, place in ((result.validation, 2), (result.test, 1)):
        for user, row in zip(part.users.tolist(), part.targets, strict=True):
            own = orders[user]
            assert len(own) > place
            assert set(row.indices.tolist()) == items_of[own[-place]]
            # Inputs are earlier orders, and all of those that were not sent back.
            seen = {line[3] for line in content(part.inputs.lines, part.users) if line[0] == user}
            assert seen <= set(own[:-place])
        assert not lines_after_strictly(part)
    assert {u for u, own in orders.items() if len(own) == 1} <= set(result.refit.user.tolist()) | sent_back(lines)


def sent_back(lines: Interactions) -> set[int]:
    return set(lines.user.tolist()) - set(net_returns(lines).user.tolist())


def lines_after_strictly(part: HeldOut) -> list[tuple]:
    """Under `last-order` two orders may share a moment: then only what is later than the cut is a leak."""
    cut_of_user = np.full(part.users.max() + 1, np.datetime64("2000-01-01", "s"))
    cut_of_user[part.users] = part.inputs.as_of + np.timedelta64(1, "s")
    return lines_after(part, cut_of_user)


@settings(max_examples=30, deadline=None)
@given(shops)
def test_last_order_refit_is_all_before_each_customers_cut(lines):
    result = cut_by(lines, "last-order", repeat="include")
    orders = last_orders(lines)
    moment = {order: at for _, _, quantity, order, at in content(lines) if quantity > 0}
    for known, places in ((result.train, (2, 1)), (result.refit, (1,))):
        held = {user: [own[-p] for p in places if len(own) > p] for user, own in orders.items()}
        cut = {user: min((moment[order] for order in out), default=np.inf) for user, out in held.items()}
        rows = [
            line[3] not in held.get(line[0], []) if line[2] > 0 else line[4] < cut.get(line[0], np.inf)
            for line in content(lines)
        ]
        assert content(known) == content(net_returns(lines.take(np.array(rows))))


@settings(max_examples=40, deadline=None)
@given(shops, st.integers(0, 11), st.integers(0, 8), st.integers(1, 3), st.integers(0, 20))
def test_last_order_ignores_returns_from_the_last_order_on(lines, user, item, quantity, later):
    result = cut_by(lines, "last-order")
    assume(user in result.test.users)
    cut = result.test.inputs.as_of[result.test.users.tolist().index(user)]
    other = cut_by(append(lines, user, item, -quantity, cut + np.timedelta64(later, "D"), 900), "last-order")
    assert content_of(other) == content_of(result)
    assert content(other.refit) == content(result.refit)


@settings(max_examples=30, deadline=None)
@given(shops, st.integers(0, 10_000))
def test_shifting_the_last_orders_changes_no_input(lines, seed):
    result = cut_by(lines, "last-order", repeat="include")
    last = {own[-1] for own in last_orders(lines).values() if len(own) > 1}
    late = np.isin(lines.order, list(last)) & (lines.quantity > 0)
    items = np.random.default_rng(seed).integers(len(lines.items), size=len(lines))
    other = dataclasses.replace(
        lines,
        item=np.where(late, items, lines.item).astype(np.int32),
        quantity=np.where(late, lines.quantity + 5, lines.quantity).astype(np.int32),
    )
    other = cut_by(other, "last-order", repeat="include")
    assert content(other.train) == content(result.train)
    assert content(other.refit) == content(result.refit)
    assert content_of_part(other.validation) == content_of_part(result.validation)
    for name in ("users", "as_of"):
        parts = [part.users if name == "users" else part.inputs.as_of for part in (result.test, other.test)]
        assert parts[0].tolist() == parts[1].tolist()
    assert content(other.test.inputs.lines) == content(result.test.inputs.lines)


# reconstruction


@settings(max_examples=15, deadline=None)
@given(shops)
def test_reconstruction_scores_the_training_matrix_unmasked(lines):
    result = cut_by(lines, "reconstruction")
    assert pairs(result.train) == cells(result.test, "targets") == input_pairs(result.test)
    assert not cells(result.test, "seen")
    assert "leak" in result.note


# A planted leak is caught by the same detectors


def test_a_planted_leak_is_caught():
    lines = shop(11, returns=0)
    everyone = np.full(len(lines.users), CUT)
    leaking = held_out(lines, lines.take(lines.at >= CUT), seen=None, repeat="include", as_of=everyone)
    assert lines_after(leaking, everyone)
    assert lines_after_strictly(leaking)
    # Under exclude the same leak eats every target, and nobody is left to evaluate.
    assert len(held_out(lines, lines.take(lines.at >= CUT), seen=None, as_of=everyone)) == 0


# What the data cannot carry


@pytest.mark.parametrize(
    ("column", "protocol", "message"),
    [
        ("at", "time", r"--split time needs order dates \(created_at\).*try --split users"),
        ("at", "last-order", r"--split last-order needs order dates \(created_at\)"),
        ("order", "last-order", r"--split last-order needs order ids \(order_id\).*try --split time"),
        ("part", "predefined", "--split predefined needs a split in the data's own files"),
    ],
)
def test_a_protocol_names_what_it_lacks(column, protocol, message):
    with pytest.raises(InputError, match=message):
        split(dataclasses.replace(shop(0), **{column: None}), protocol=protocol)


@pytest.mark.parametrize("cut", ["2023-12-31", "2024-01-01", "2024-03-02", "2025-01-01"])
def test_a_cut_outside_the_period_is_refused_with_the_period(cut):
    with pytest.raises(InputError, match=f"--cut {cut} is not inside the period.*2024-01-01.*2024-03-01"):
        split(shop(0), protocol="time", cut=cut)


def test_a_cut_that_leaves_no_past_is_refused():
    with pytest.raises(InputError, match="leaves no customer with both inputs and targets in its validation part"):
        split(shop(0), protocol="time", cut="2024-01-02")


def test_users_needs_three_customers():
    lines = shop(0, users=2)
    with pytest.raises(InputError, match="at least 3 customers with purchases, and there are 2"):
        split(lines, protocol="users")


def test_an_empty_part_is_named_with_how_many_were_left_out():
    bought = net_returns(shop(0))
    again = bought.take(np.repeat(np.flatnonzero(bought.item == 0)[:3], 3))  # nothing is new to anyone
    lines = dataclasses.replace(again, at=START + np.arange(9).astype("timedelta64[D]"), order=np.arange(9))
    lines = dataclasses.replace(lines, user=np.repeat(np.arange(3), 3).astype(np.int32))
    with pytest.raises(InputError, match=r"leaves no customer .* in its validation part \(12 were left out\)"):
        split(lines, protocol="last-order")


@pytest.mark.parametrize(("orders", "two"), [(1, 0), (2, 11)])
def test_last_order_says_how_many_customers_have_two_orders(orders, two):
    lines = shop(0, returns=0)
    rows = [
        row
        for own in last_orders(lines).values()
        for order in own[:orders]
        for row in np.flatnonzero(lines.order == order)
    ]
    message = rf"of 11 customers {two} have two or more and none has three; try --split users or time"
    with pytest.raises(InputError, match=message):
        split(lines.take(np.sort(rows)), protocol="last-order")


@pytest.mark.parametrize("protocol", ["time", "last-order"])
def test_orders_of_one_moment_have_no_later_part(protocol):
    lines = dataclasses.replace(shop(0), at=np.full(len(shop(0)), day(3)))
    says = (
        rf"--split {protocol} needs orders of different dates, and all of these are of 2024-01-04T.*try --split users"
    )
    with pytest.raises(InputError, match=says):
        split(lines, protocol=protocol)


def test_an_unknown_protocol_is_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="unknown protocol tme"):
        split(shop(0), protocol="tme")


def test_the_default_protocol_is_the_strongest_that_the_data_carry():
    lines = shop(0)
    assert resolve_protocol(lines, None) == "time"
    assert resolve_protocol(lines, "items") == "items"
    assert resolve_protocol(dataclasses.replace(lines, at=None), None) == "users"
    assert resolve_protocol(with_parts(lines, 0, (TRAIN, TEST)), None) == "predefined"


@pytest.mark.parametrize("protocol", ["users", "items", "predefined", "reconstruction"])
def test_public_formats_without_dates_or_orders_can_be_split(protocol):
    dated = with_parts(shop(5), 0, (TRAIN, TRAIN, TRAIN, TEST))
    bare = dataclasses.replace(dated, at=None, order=None)
    with_dates, without = (split(each, protocol=protocol) for each in (dated, bare))
    assert pairs(without.train) == pairs(with_dates.train)
    assert cells(without.test, "targets") == cells(with_dates.test, "targets")
    assert without.test.inputs.as_of is None


@pytest.mark.parametrize("parts", [(0, 0, 2), (0, 0, 1, 2)])
def test_predefined_heeds_include_in_validation_as_in_test(parts):
    result = split(with_parts(shop(0), 0, parts), protocol="predefined", repeat="include")
    assert result.validation.seen.nnz == result.test.seen.nnz == 0
    assert len(cells(result.validation, "targets")) > 0


def test_predefined_nets_a_return_within_its_own_part():
    lines = with_parts(shop(0), 0, (0, 0, 1, 2))
    before = split(lines, protocol="predefined")
    row = int(np.flatnonzero(lines.part == TRAIN)[0])
    late = day(DAYS + 1)
    later = append(lines, lines.user[row], lines.item[row], -100, late, 999)
    later = dataclasses.replace(later, part=np.append(lines.part, np.int8(TEST)))
    after = split(later, protocol="predefined")
    assert content(after.train) == content(before.train)
    assert (after.test.inputs.as_of == before.train.at.max()).all()


@pytest.mark.parametrize("cut", ["20240218", "2024-W07-7", "2024-02-18T02:00:00+02:00", "2024-02-18 00:00:00"])
def test_every_iso_form_of_a_cut_is_the_same_moment(cut):
    assert content_of(split(shop(0), protocol="time", cut=cut)) == content_of(
        split(shop(0), protocol="time", cut=str(CUT))
    )


def test_what_is_sent_back_after_the_cut_takes_nothing_from_train(tiny_lines):
    """Through `prepare_dataset`, which sets rare products and customers without purchases aside first."""
    cut = np.datetime64("2024-07-01", "s")
    before = tiny_lines.take((tiny_lines.user == 0) & (tiny_lines.at < cut))
    later = dataclasses.replace(
        before, quantity=-before.quantity, at=np.full(len(before), np.datetime64("2024-12-31T23:00:00", "s"))
    )
    columns = ("user", "item", "quantity", "order", "at")
    own = (tiny_lines.user != 0) | (tiny_lines.at < cut)
    lines = dataclasses.replace(
        tiny_lines,
        **{name: np.concatenate([getattr(tiny_lines, name)[own], getattr(later, name)]) for name in columns},
    )
    dataset = Dataset("shop", lines, pd.DataFrame(), pd.DataFrame(), {}, ())
    prepared = prepare_dataset(dataset, DataConfig("d", 1), SplitConfig("time", cut="2024-12-01"))
    assert len(before) > 0
    name = tiny_lines.users.ids[0]
    train = prepared.split.refit
    assert (train.users.ids[train.user] == name).sum() == len(before)


def test_repeat_include_counts_what_train_and_test_both_hold(tmp_path):
    (tmp_path / "train.txt").write_text("a 1 2 3 4\nb 2 3 4 5\nc 1 3 4 5\n")
    (tmp_path / "test.txt").write_text("a 1 5\nb 2\nc 2\n")
    targets = {}
    for repeat in ("include", "exclude"):
        found = prepare(DataConfig(str(tmp_path)), SplitConfig("predefined", repeat=repeat)).split.test
        targets[repeat] = dict(zip(found.users.tolist(), np.diff(found.targets.indptr).tolist(), strict=True))
    assert targets == {"include": {0: 2, 1: 1, 2: 1}, "exclude": {0: 1, 2: 1}}


def test_repeat_include_is_refused_where_each_pair_stands_once(tmp_path):
    rows = "".join(f"{user}\t{item}\t{user + item}\n" for user in range(4) for item in range(5))
    (tmp_path / "toy.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n" + rows)
    with pytest.raises(InputError, match="the recbole format holds each pair once"):
        prepare(DataConfig(str(tmp_path)), SplitConfig("time", repeat="include"))
