"""What the peers' scripts share: a predefined split as matrices, and the validation figure, counted alike for all."""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp


class Split(NamedTuple):
    """A split in RecBole's format: binary matrices `[U, I]` over the users of train and the products of all parts."""

    train: Any
    validation: Any


def options(**defaults: Any) -> argparse.Namespace:
    """What a peer's script is given: the folder of a split, and for each name an option of its default's type; where
    that is a list, one or more of its elements.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    for name, default in defaults.items():
        several = isinstance(default, list)
        kind = type(default[0] if several else default)
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=default, nargs="+" if several else None)
    return parser.parse_args()


def read(folder: Path) -> Split:
    """The train and the validation part of `NAME.{train,valid,test}.inter`."""
    parts = {
        part: pd.read_csv(folder / f"{folder.name}.{part}.inter", sep="\t", dtype=str)
        for part in ("train", "valid", "test")
    }
    columns = ("user_id:token", "item_id:token")
    users, items = (pd.Index(sorted(set(pd.concat([part[column] for part in parts.values()])))) for column in columns)

    def matrix(part: pd.DataFrame) -> Any:
        where = [
            vocabulary.get_indexer(part[column]) for vocabulary, column in zip((users, items), columns, strict=True)
        ]
        return sp.csr_matrix((np.ones(len(part), np.float32), where), shape=(len(users), len(items)))

    return Split(matrix(parts["train"]), matrix(parts["valid"]))


def ndcg_at_100(split: Split, scores: Callable[[Any], np.ndarray], size: int = 500) -> float:
    """Mean NDCG@100 on validation; train items are masked, the ideal is truncated at min(100, |targets|).

    Args:
      split: the split.
      scores: the rows `[B, I]` of a chunk of users -> their scores `[B, I]`.
      size: B, the most users scored at once.
    """
    gains = 1 / np.log2(np.arange(2, 102))
    asked = np.flatnonzero(np.diff(split.validation.indptr))
    found = []
    for start in range(0, len(asked), size):
        users = asked[start : start + size]
        rows = split.train[users]
        of_users = np.array(scores(rows), dtype=np.float64)
        of_users[rows.nonzero()] = -np.inf
        targets = split.validation[users].toarray() > 0
        top = np.argsort(-of_users, axis=1, kind="stable")[:, :100]
        hits = np.take_along_axis(targets, top, axis=1)
        ideal = np.cumsum(gains)[np.minimum(targets.sum(axis=1), 100) - 1]
        found.append(hits @ gains[: top.shape[1]] / ideal)
    return float(np.concatenate(found).mean())


def peak_megabytes() -> float:
    """The most memory this process has had."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def report(split: Split, seconds: list[float], **line: Any) -> None:
    """Print the line of a training: the median epoch without the first, which compiles, and what was trained on.

    Args:
      split: the split.
      seconds: of every epoch.
      **line: batch_size, dropout, parameters, and the reached validation.
    """
    work = {name: line.pop(name) for name in ("batch_size", "dropout", "parameters")}
    users, items = split.train.shape
    work |= {"users": users, "items": items, "cells": int(split.train.nnz), "epochs": len(seconds)}
    times = {"epoch_seconds": statistics.median(seconds[1:]), "first_seconds": seconds[0]}
    sys.stdout.write(json.dumps({**times, **line, "megabytes": peak_megabytes(), "work": work}) + "\n")
