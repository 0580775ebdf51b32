"""Protocols that draw customers, pairs or products, and the split of the data's own files."""

from __future__ import annotations

import dataclasses

import numpy as np

from aejax.errors import InputError
from aejax.interactions import TEST, TRAIN, VALIDATION, Interactions, net_returns
from aejax.split.parts import Split, both_tasks, held_out, latest, to_learn_from


def split_users(lines: Interactions, seed: int) -> Split:
    """Whole users; 80% of the items of one who is held out are the inputs (Liang et al. 2018, section 4.1).

    Raises:
      InputError: there are fewer than three.
    """
    bought = net_returns(lines)
    rng = np.random.default_rng(seed)
    users = rng.permutation(np.unique(bought.user))
    size = min(10_000, max(1, len(users) // 10))
    if len(users) < 3:
        raise InputError(f"--split users needs at least 3 customers with purchases, and there are {len(users)}")
    groups = {VALIDATION: np.sort(users[:size]), TEST: np.sort(users[size : 2 * size])}
    pairs, pair_of_line = _pairs(bought)
    rank, count = _shuffled_rank(pairs // len(bought.items), rng)
    is_target = (rank < np.maximum(1, count // 5))[pair_of_line]
    as_of = latest(bought)
    parts = {}
    for name, group in groups.items():
        own = np.isin(bought.user, group)
        parts[name] = held_out(
            bought.take(own & ~is_target), bought.take(own & is_target), seen=None, as_of=as_of, among=group
        )
    rest = ~np.isin(bought.user, np.concatenate(list(groups.values())))
    return Split("users", to_learn_from(bought.take(rest), as_of), parts[VALIDATION], parts[TEST], None, "")


def split_items(lines: Interactions, seed: int) -> Split:
    """A tenth and another tenth of each user's items."""
    bought = net_returns(lines)
    pairs, pair_of_line = _pairs(bought)
    rank, count = _shuffled_rank(pairs // len(bought.items), np.random.default_rng(seed))
    # A tenth each, at least one each where two or three items allow it: the rule of RecBole's ratio split.
    tests = np.where(count > 1, np.maximum(1, count // 10), 0)
    validations = np.where(count > 2, np.maximum(1, count // 10), 0)
    part_of_pair = np.where(rank < tests, TEST, np.where(rank < tests + validations, VALIDATION, TRAIN))
    part = part_of_pair[pair_of_line]
    return _from_parts("items", bought, part, "exclude")


def _from_parts(protocol: str, lines: Interactions, part: np.ndarray, repeat: str) -> Split:
    """A split of lines by their part: test sees train, and masks train and validation."""
    train, validation, test = (net_returns(lines.take(part == name)) for name in (TRAIN, VALIDATION, TEST))
    as_of = latest(train)
    tasks = both_tasks(train, test, seen=net_returns(lines.take(part != TEST)), as_of=as_of)
    return Split(
        protocol,
        to_learn_from(train, as_of),
        held_out(train, validation, seen=None, repeat=repeat, as_of=as_of),
        tasks[repeat],
        None,
        "",
        tasks if protocol == "predefined" else {},
    )


def split_predefined(lines: Interactions, seed: int, repeat: str) -> Split:
    """What the files say; where they have no validation part, a tenth of each user's items of train.

    Raises:
      InputError: they say nothing.
    """
    if lines.part is None:
        raise InputError(
            "--split predefined needs a split in the data's own files (train.txt and test.txt, or NAME.train.inter "
            "and so on), and this folder has none; try --split time, users or items"
        )
    if np.any(lines.part == VALIDATION):
        return _from_parts("predefined", lines, lines.part, repeat)
    known = net_returns(lines.take(lines.part == TRAIN))
    test = net_returns(lines.take(lines.part == TEST))
    pairs, pair_of_line = _pairs(known)
    rank, count = _shuffled_rank(pairs // len(known.items), np.random.default_rng(seed))
    carved = (rank < np.where(count > 1, np.maximum(1, count // 10), 0))[pair_of_line]
    train = known.take(~carved)
    as_of = latest(known)
    tasks = both_tasks(known, test, seen=None, as_of=as_of)
    return Split(
        "predefined",
        to_learn_from(train, as_of),
        held_out(train, known.take(carved), seen=None, repeat=repeat, as_of=as_of),
        tasks[repeat],
        to_learn_from(known, as_of),
        "",
        tasks,
    )


def split_cold_items(lines: Interactions, seed: int) -> Split:
    """A tenth of the products each, out of all that is learnt from; they stay in the vocabulary, with their attributes.

    Raises:
      InputError: products have no attributes, or there are too few.
    """
    if lines.item_features is None:
        raise InputError(
            "--split cold-items needs attributes of products (columns of products.csv beside the SKU that several "
            "products share; see aejax check), and these data have none; try --split items"
        )
    bought = net_returns(lines)
    sold = np.random.default_rng(seed).permutation(np.unique(bought.item))
    size = len(sold) // 10
    if size == 0:
        raise InputError(
            f"--split cold-items takes a tenth of the products out of train, and {len(sold)} are too few for that; 10 "
            "are needed, so try a lower --min-customers or --split items"
        )
    part_of_item = np.full(len(lines.items), TRAIN)
    part_of_item[sold[:size]], part_of_item[sold[size : 2 * size]] = TEST, VALIDATION
    part = part_of_item[bought.item]
    as_of = latest(bought)
    train, refit = bought.take(part == TRAIN), bought.take(part != TEST)
    validation = held_out(train, bought.take(part == VALIDATION), seen=None, as_of=as_of)
    mixed = held_out(refit, bought.take(part == TEST), seen=None, as_of=as_of)
    cold = dataclasses.replace(mixed, offered=part_of_item == TEST)
    return Split(
        "cold-items",
        to_learn_from(train, as_of),
        dataclasses.replace(validation, offered=part_of_item == VALIDATION),
        cold,
        to_learn_from(refit, as_of),
        f"test holds all purchases of {size:,} products that were taken out of train, validation those of another "
        f"{size:,}",
        {"cold": cold, "mixed": mixed},
    )


def _pairs(lines: Interactions) -> tuple[np.ndarray, np.ndarray]:
    """Distinct user-item pairs, sorted, as `user * I + item`, and each line's position among them."""
    return np.unique(lines.pair, return_inverse=True)


def _shuffled_rank(groups: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Sorted group numbers `[m]` -> each element's rank in a random order of its group, and its group's size."""
    order = np.lexsort((rng.random(len(groups)), groups))
    sizes = np.bincount(groups) if len(groups) else np.zeros(0, dtype=int)
    starts = np.concatenate([[0], np.cumsum(sizes)])[groups]
    rank = np.empty(len(groups), dtype=np.int64)
    rank[order] = np.arange(len(groups)) - starts
    return rank, sizes[groups]
