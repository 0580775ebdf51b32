"""RecBole on a predefined split written by scripts/write_inter.py: validation, test and seconds an epoch, as JSON.

    pip install -r scripts/peers/recbole.txt     # in an environment of its own
    python scripts/peers/recbole_run.py FOLDER MultiVAE --epochs 200 --set latent_dimension=128 mlp_hidden_size=[600]

Evaluation and early stopping are RecBole's own, by validation NDCG@100. Test is computed only with --test, so that
settings can be chosen on validation. `curve` holds seconds of training, seconds with validation, and the score of each
validated epoch; `work` what was trained, without the item and the user that RecBole adds as padding.
"""

import argparse
import contextlib
import json
import math
import statistics
import sys
import time
import types
import warnings
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore")
import numpy as np

# RecBole 1.2.1 uses names that newer NumPy, ray and torch no longer have.
for _name, _kind in {"bool": bool, "int": int, "float": float, "object": object, "long": int, "str": str}.items():
    if _name not in np.__dict__:
        setattr(np, _name, _kind)
for _name, _kind in {"unicode_": np.str_, "float_": np.float64, "complex_": np.complex128, "bool8": np.bool_}.items():
    if _name not in np.__dict__:
        setattr(np, _name, _kind)
if "ray" not in sys.modules:
    _ray: Any = types.ModuleType("ray")
    _ray.tune = types.ModuleType("tune")
    sys.modules["ray"], sys.modules["ray.tune"] = _ray, _ray.tune

import held_out
import torch

_load = torch.load
torch.load = lambda *args, **options: _load(*args, **{**options, "weights_only": False})

from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction
from recbole.utils import get_model, get_trainer, init_seed


class OutOfTime(Exception):
    """Training took longer than `--limits`."""


def main() -> None:
    """Fit once and print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("model")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--patience", type=int, default=20)
    parser.add_argument(
        "--limits", type=float, nargs=2, help="stop once training and all took longer than these seconds"
    )
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[])
    parser.add_argument("--test", action="store_true")
    parser.add_argument("--score", action="store_true", help="time the scores of all users, after the model is built")
    parser.add_argument("--gpu", action="store_true")
    given = parser.parse_args()
    own = {key: json.loads(value) for key, value in (pair.split("=", 1) for pair in given.set)}
    settings = {
        "data_path": str(given.folder.resolve().parent),
        "benchmark_filename": ["train", "valid", "test"],
        "load_col": {"inter": ["user_id", "item_id"]},
        "USER_ID_FIELD": "user_id",
        "ITEM_ID_FIELD": "item_id",
        "epochs": given.epochs,
        "stopping_step": given.patience,
        "eval_step": 1,
        "metrics": ["NDCG"],
        "topk": [100],
        "valid_metric": "NDCG@100",
        "metric_decimal_place": 6,
        "eval_args": {"group_by": "user", "order": "RO", "mode": "full", "split": {"RS": [0.8, 0.1, 0.1]}},
        "train_batch_size": given.batch,
        "eval_batch_size": 2_000_000,
        "learning_rate": 1e-3,
        "show_progress": False,
        "use_gpu": given.gpu,
        "gpu_id": "0" if given.gpu else "",
        "seed": given.seed,
        "reproducibility": True,
        "train_neg_sample_args": None,
        "save_dataset": False,
        "state": "ERROR",
        **own,
    }
    config = Config(model=given.model, dataset=given.folder.name, config_dict=settings)
    init_seed(given.seed, True)
    train, valid, test = data_preparation(config, create_dataset(config))
    start = time.perf_counter()
    model = get_model(given.model)(config, train.dataset).to(config["device"])
    built = time.perf_counter() - start
    scored = score_all(model, train.dataset) if given.score else None
    trainer = get_trainer(config["MODEL_TYPE"], given.model)(config, model)
    seconds: list[float] = []
    curve: list[tuple[float, float, float]] = []
    train_epoch, validate = trainer._train_epoch, trainer._valid_epoch

    def timed(*args: Any, **options: Any) -> Any:
        begin = time.perf_counter()
        result = train_epoch(*args, **options)
        seconds.append(time.perf_counter() - begin)
        return result

    def noted(*args: Any, **options: Any) -> Any:
        score, result = validate(*args, **options)
        curve.append((sum(seconds), time.perf_counter() - fitting, float(score)))
        if given.limits and curve[-1][0] > given.limits[0] and curve[-1][1] > given.limits[1]:
            raise OutOfTime
        return score, result

    trainer._train_epoch, trainer._valid_epoch = timed, noted
    fitting = time.perf_counter()
    with contextlib.suppress(OutOfTime):
        trainer.fit(train, valid, saved=True, show_progress=False, verbose=False)
    line = {
        "folder": given.folder.name,
        "model": given.model,
        "batch": given.batch,
        "settings": own,
        "validation": max(score for *_, score in curve),
        "epochs": len(seconds),
        "seconds": round(time.perf_counter() - start, 1),
        "epoch_seconds": round(statistics.median(seconds[1:] or seconds), 4),
        "megabytes": held_out.peak_megabytes(),
        "curve": curve,
        "work": work_of(model, config, train, len(seconds)),
    }
    if scored is not None:
        line["fit_and_score_seconds"] = built + scored
    if given.test:
        begin = time.perf_counter()
        figures = trainer.evaluate(test, load_best_model=True, show_progress=False)
        line["evaluation_seconds"] = time.perf_counter() - begin
        line["test"] = float(figures["ndcg@100"])
    print(json.dumps(line), flush=True)


def score_all(model: Any, dataset: Any, size: int = 500) -> float:
    """Seconds for the scores of all users, a chunk at a time."""
    begin = time.perf_counter()
    for first in range(1, dataset.user_num, size):
        users = torch.arange(first, min(first + size, dataset.user_num))
        model.full_sort_predict(Interaction({"user_id": users}).to(model.device))
    return time.perf_counter() - begin


def work_of(model: Any, config: Any, train: Any, epochs: int) -> dict[str, Any]:
    """What was trained, so that it can be compared with another library's."""
    count = train.dataset.item_num

    def without_padding(shape: tuple[int, ...]) -> int:
        return math.prod(size - 1 if size == count else size for size in shape)

    return {
        "batch_size": config["train_batch_size"],
        "dropout": config["dropout_prob"],
        "parameters": sum(without_padding(tuple(leaf.shape)) for leaf in model.parameters() if leaf.requires_grad),
        "users": train.dataset.user_num - 1,
        "items": count - 1,
        "cells": train.dataset.inter_num,
        "epochs": epochs,
    }


if __name__ == "__main__":
    main()
