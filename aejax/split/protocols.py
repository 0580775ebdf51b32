"""Protocols by their names, and what holds for the parts of every one of them."""

from __future__ import annotations

import dataclasses

import numpy as np

from aejax.errors import InputError
from aejax.interactions import Interactions
from aejax.split.dated import split_last_order, split_time
from aejax.split.drawn import split_cold_items, split_items, split_predefined, split_users
from aejax.split.parts import HeldOut, Split
from aejax.split.reconstruction import split_reconstruction


def resolve_protocol(lines: Interactions, protocol: str | None) -> str:
    """The protocol given, or else the strongest that the data carry."""
    if protocol is not None:
        return protocol
    if lines.part is not None:
        return "predefined"
    return "time" if lines.at is not None else "users"


def split(
    lines: Interactions,
    *,
    protocol: str,
    seed: int = 0,
    test_share: float = 0.1,
    cut: str | None = None,
    repeat: str = "exclude",
) -> Split:
    """Cut the interactions by a protocol. A pure function of its arguments.

    Args:
      lines: order lines with their returns.
      protocol: `users`, `items`, `last-order`, `time`, `predefined`, `cold-items` or `reconstruction`.
      seed: for the protocols that draw at random.
      test_share: `time`: share of the period that is held out.
      cut: `time`: an ISO date in place of `test_share`.
      repeat: `exclude`: what the inputs hold is no target and must not be recommended; `include`: it may be both.

    Returns:
      The split. Its parts share vocabularies.

    Raises:
      InputError: the data cannot carry the protocol, or a part is empty.
    """
    if protocol == "users":
        result = split_users(lines, seed)
    elif protocol == "items":
        result = split_items(lines, seed)
    elif protocol == "last-order":
        result = split_last_order(lines, repeat)
    elif protocol == "time":
        result = split_time(lines, test_share, cut, repeat)
    elif protocol == "predefined":
        result = split_predefined(lines, seed, repeat)
    elif protocol == "cold-items":
        result = split_cold_items(lines, seed)
    elif protocol == "reconstruction":
        result = split_reconstruction(lines)
    else:
        raise ValueError(f"unknown protocol {protocol}")
    for name, part in (("validation", result.validation), ("test", result.test)):
        if len(part) == 0:
            raise InputError(
                f"--split {protocol} leaves no customer with both inputs and targets in its {name} part "
                f"({part.left_out} were left out); more data, another --split, or a lower --min-customers is needed"
            )
    if len(result.train) == 0:
        raise InputError(f"--split {protocol} leaves nothing to train on; try a later --cut or another --split")
    return _offer_what_was_sold(result, lines)


def _offer_what_was_sold(result: Split, lines: Interactions) -> Split:
    """Products that nobody ever bought can be no target, so that no part offers them."""
    sold = np.bincount(lines.item, minlength=len(lines.items)) > 0
    if sold.all():
        return result

    def of(part: HeldOut) -> HeldOut:
        return dataclasses.replace(part, offered=sold if part.offered is None else part.offered & sold)

    tasks = {name: of(part) for name, part in result.tasks.items()}
    test = tasks[result.task] if tasks else of(result.test)
    return dataclasses.replace(result, validation=of(result.validation), test=test, tasks=tasks)
