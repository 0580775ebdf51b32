"""Several models on the same splits and users."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aejax import registry, runs
from aejax.config import DataConfig, RunConfig, SplitConfig, TrainingConfig
from aejax.errors import InputError
from aejax.evaluation import Evaluation, mean_with_interval
from aejax.experiment.fitting import (
    Fitted,
    Tested,
    begin_run,
    evaluate_test,
    finish_run,
    fit_model,
    resolved,
)
from aejax.experiment.pages import comparison_page, write_report
from aejax.experiment.preparing import Prepared, on_device, prepare_dataset
from aejax.experiment.selecting import Hooks
from aejax.interactions import Dataset
from aejax.metrics import REVENUE_KEYS
from aejax.split import resolve_protocol
from aejax.tasks import TaskEvaluation

FIXED_PROTOCOLS = ("last-order", "time", "reconstruction")


@dataclasses.dataclass(frozen=True)
class Trial:
    """One model, fitted and evaluated with one seed on one split seed."""

    model: str
    seed: int
    split_seed: int
    fitted: Fitted
    tested: Tested

    @property
    def evaluation(self) -> Evaluation:
        """In the comparison's own task."""
        return self.tested.evaluation


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
      result: the content of comparison.json.
      per_user: a row per model, seed, split seed and user, a column per metric, in the comparison's own task.
      prepared: the data and the split of the first split seed.
      best: the trial with the best validation score on the first split seed.
      settings: model -> its settings.
      logs: model -> its epoch records of the first seed and split seed.
      training: where it was computed, as it was asked for, with the first seed.
    """

    result: dict[str, Any]
    per_user: pd.DataFrame
    prepared: Prepared
    best: Trial
    settings: Mapping[str, Any]
    logs: dict[str, tuple[Mapping[str, Any], ...]]
    training: TrainingConfig


def compare(
    dataset: Dataset,
    data: DataConfig,
    split_config: SplitConfig,
    settings: Mapping[str, Any],
    *,
    seeds: Sequence[int] = (0,),
    split_seeds: int = 1,
    device: str | None = None,
    deterministic: bool = False,
    listen: Callable[[str, int, int, str, Mapping[str, float]], None] | None = None,
) -> Comparison:
    """Fit and evaluate several models on the same splits and users.

    Args:
      dataset: what was read.
      data: what of it counts.
      split_config: the first split; further split seeds count up from its seed.
      settings: model name -> its settings; the first is what the others are compared with.
      seeds: training seeds; a model without randomness is fitted once per split.
      split_seeds: number of splits.
      device: `cpu`, `gpu` or `tpu`; None: the best that JAX finds.
      deterministic: as `TrainingConfig` has it.
      listen: told `(model, seed, split_seed, stage, record)` after every epoch.
    """
    protocol = resolve_protocol(dataset.interactions, split_config.protocol)
    if split_seeds > 1 and protocol in FIXED_PROTOCOLS:
        raise InputError(f"--split-seeds is {split_seeds}, but --split {protocol} draws nothing; leave it out")
    rows: list[pd.DataFrame] = []
    task_rows: list[pd.DataFrame] = []
    summaries: dict[str, list[dict[str, Any]]] = {name: [] for name in settings}
    notes: dict[str, str] = {}
    logs: dict[str, tuple[Mapping[str, Any], ...]] = {}
    first: Prepared | None = None
    best: Trial | None = None
    best_score = -1.0
    for split_seed in range(split_config.seed, split_config.seed + split_seeds):
        prepared = prepare_dataset(dataset, data, dataclasses.replace(split_config, seed=split_seed))
        first = first or prepared
        for name, own in settings.items():
            for seed in seeds if registry.family(name).is_network else seeds[:1]:

                def heard(stage: str, record: Mapping[str, float], name: str = name, seed: int = seed) -> None:
                    if listen is not None:
                        listen(name, seed, split_seed, stage, record)  # noqa: B023 (called within this iteration)

                with on_device(device, deterministic=deterministic):
                    fitted = fit_model(name, own, prepared.split, seed=seed, hooks=Hooks(heard))
                    trial = Trial(name, seed, split_seed, fitted, evaluate_test(fitted.model, prepared))
                rows.append(_per_user(trial, prepared))
                task_rows += _per_user_of_tasks(trial, prepared)
                summaries[name].append(_trial_summary(trial))
                if trial.evaluation.note:
                    notes.setdefault(name, f"{name}: {trial.evaluation.note}")
                logs.setdefault(name, fitted.log)
                score = fitted.validation
                assert score is not None
                if prepared is first and score > best_score:
                    best, best_score = trial, score
    assert first is not None and best is not None
    per_user = pd.concat(rows, ignore_index=True)
    models = _model_rows(per_user, summaries, settings)
    if task_rows:
        of_tasks = pd.concat(task_rows, ignore_index=True)
        for name, tasks in _task_results(of_tasks, summaries, first).items():
            models[name]["tasks"] = tasks
    result = {
        "data": dataset.format,
        "protocol": first.split.protocol,
        "repeat": first.split_config.repeat,
        "note": "; ".join(filter(None, [first.split.note, *notes.values()])),
        "customers": len(first.interactions.users),
        "products": len(first.interactions.items),
        "users": len(set(per_user["customer_id"])),
        "users_left_out": first.split.test.left_out,
        "best_on_validation": best.model,
        "models": models,
    }
    return Comparison(result, per_user, first, best, settings, logs, TrainingConfig(seeds[0], device, deterministic))


def _per_user(trial: Trial, prepared: Prepared) -> pd.DataFrame:
    ids = prepared.interactions.users.ids[trial.evaluation.users]
    frame = pd.DataFrame({"customer_id": ids, **trial.evaluation.values})
    return frame.assign(model=trial.model, seed=trial.seed, split_seed=trial.split_seed)


def _per_user_of_tasks(trial: Trial, prepared: Prepared) -> list[pd.DataFrame]:
    """For each task and its kinds of targets a row per user, a column per metric."""
    ids = prepared.interactions.users.ids
    return [
        pd.DataFrame({"customer_id": ids[found.users], **found.values}).assign(
            model=trial.model, task=name, kind=kind, split_seed=trial.split_seed
        )
        for name, task in trial.tested.tasks.items()
        for kind, found in (("all", task.whole), ("repeat", task.repeat_targets), ("new", task.new_targets))
    ]


def _trial_summary(trial: Trial) -> dict[str, Any]:
    tasks = trial.tested.tasks
    return {
        "seed": trial.seed,
        "split_seed": trial.split_seed,
        "epochs": trial.fitted.epochs,
        "validation": {"ndcg@100": trial.fitted.validation},
        "coverage@10": trial.evaluation.coverage,
        **({"tasks": {name: _task_summary(task) for name, task in tasks.items()}} if tasks else {}),
        "test": {key: float(values.mean(dtype="float64")) for key, values in trial.evaluation.values.items()},
    }


def _task_summary(task: TaskEvaluation) -> dict[str, Any]:
    kinds = {"repeat_targets": task.repeat_targets, "new_targets": task.new_targets}
    counts = {name: {"targets": kind.targets, "share": kind.share} for name, kind in kinds.items()}
    calibration = {} if task.calibration is None else {"calibration": task.calibration.report()}
    return {"coverage@10": task.whole.coverage, **counts, **calibration}


def _task_results(
    of_tasks: pd.DataFrame, summaries: Mapping[str, list[dict[str, Any]]], prepared: Prepared
) -> dict[str, dict[str, Any]]:
    """Model -> its `tasks`, as in metrics.json and with the `difference` to the first model, over seeds and splits as
    in `_model_rows`.
    """
    grouped = of_tasks.groupby(["model", "task", "kind"])

    def means(model: str, task: str, kind: str) -> pd.DataFrame:
        if (model, task, kind) not in grouped.groups:
            return pd.DataFrame()
        return _means(pd.DataFrame(grouped.get_group((model, task, kind))))

    def intervals(frame: pd.DataFrame) -> dict[str, Any]:
        return mean_with_interval(_columns(frame)) if len(frame) else {}

    reference = next(iter(summaries))
    results: dict[str, dict[str, Any]] = {}
    for name, trials in summaries.items():
        results[name] = {}
        for task, part in prepared.split.tasks.items():
            whole = means(name, task, "all")
            coverage = [trial["tasks"][task]["coverage@10"] for trial in trials]
            result: dict[str, Any] = {
                "users": len(whole),
                "users_left_out": part.left_out,
                "metrics": intervals(whole),
            }
            if len(whole):
                result["metrics"]["coverage@10"] = {"mean": sum(coverage) / len(coverage), "ci95": None}
            for kind in ("repeat", "new"):
                found = means(name, task, kind)
                counts = trials[0]["tasks"][task][f"{kind}_targets"]
                result[f"{kind}_targets"] = {**counts, "users": len(found), "metrics": intervals(found)}
            if "calibration" in trials[0]["tasks"][task]:
                result["calibration"] = trials[0]["tasks"][task]["calibration"]
            if name != reference:
                difference = whole - means(reference, task, "all")
                result["difference"] = {"to": reference, "metrics": intervals(difference)}
            results[name][task] = result
    return results


def _model_rows(
    per_user: pd.DataFrame, summaries: Mapping[str, list[dict[str, Any]]], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Per model: means with intervals over users, each user's value being the mean over seeds and splits."""
    means = {name: _means(pd.DataFrame(per_user[per_user["model"] == name])) for name in settings}
    reference = next(iter(settings))
    rows = {}
    for name, own in settings.items():
        metrics = mean_with_interval(_columns(means[name]))
        coverage = [trial["coverage@10"] for trial in summaries[name]]
        metrics["coverage@10"] = {"mean": sum(coverage) / len(coverage), "ci95": None}
        rows[name] = {
            "settings": dataclasses.asdict(own),
            "validation": sum(t["validation"]["ndcg@100"] for t in summaries[name]) / len(summaries[name]),
            "metrics": metrics,
            "trials": summaries[name],
        }
        if name != reference:
            difference = means[name] - means[reference]
            rows[name]["difference"] = {
                "to": reference,
                "metrics": mean_with_interval(_columns(difference)),
            }
    return rows


def _means(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per customer: the means of the metrics that the rows have, those in revenue where every row has it (in
    none, or in some splits alone, a target may have a price).
    """
    gaps = np.asarray(rows.isna())
    left_out = gaps.all(axis=0) | gaps.any(axis=0) & np.isin(rows.columns, REVENUE_KEYS)
    keys = [key for key, is_left_out in zip(rows.columns, left_out, strict=True) if "@" in key and not is_left_out]
    return pd.DataFrame(rows.groupby("customer_id", sort=True)[keys].mean())


def _columns(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    return {str(key): np.asarray(frame[key]) for key in frame.columns}


def compare_settings(models: Sequence[str], given: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """Settings per model: stored ones by model, then those given for all, which go to the models that have them. A
    blend's parts have the settings that they have beside it.

    Raises:
      InputError: a setting that no model of the list has.
    """
    known = {name: registry.field_types(registry.family(name).settings) for name in models}
    for key in given:
        if not any(key in names for names in known.values()):
            every = sorted({field for names in known.values() for field in names})
            raise InputError(f'none of {", ".join(models)} has a setting "{key}". Known: {", ".join(every)}')
    own = {name: {key: value for key, value in given.items() if key in known[name]} for name in models}
    beside = {**stored, **{name: {**stored.get(name, {}), **own[name]} for name in models}}
    return {name: registry.make_settings(name, own_settings(name, own[name], beside)) for name in models}


def own_settings(name: str, given: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """What is given of a model's settings over what is stored; a blend takes what is stored of its parts too."""
    own = {**stored.get(name, {}), **given}
    parts = {part: settings for part, settings in stored.items() if part != name}
    if "parts" in registry.field_types(registry.family(name).settings):
        own["settings"] = {**parts, **own.get("settings", {})}
    return own


def write_comparison(comparison: Comparison, unfinished: Path) -> None:
    """comparison.json, per_user.parquet, report.html, and `best/`, a run of the model that was best on validation."""
    with on_device(comparison.training.device):
        _write_comparison(comparison, unfinished)


def _write_comparison(comparison: Comparison, unfinished: Path) -> None:
    runs.write_json(unfinished / "comparison.json", comparison.result)
    with runs.writing(unfinished):
        comparison.per_user.to_parquet(unfinished / "per_user.parquet", index=False)
        (unfinished / "best").mkdir()
    prepared, trial = comparison.prepared, comparison.best
    training = dataclasses.replace(comparison.training, seed=trial.seed)
    config = resolved(
        RunConfig(prepared.data_config, prepared.split_config, training, trial.model, {}),
        prepared,
        comparison.settings[trial.model],
    )
    begin_run(unfinished / "best", config, prepared)
    finish_run(unfinished / "best", config, prepared, trial.fitted, trial.tested)
    environment = runs.read_json(unfinished / "best" / "environment.json")
    page = comparison_page(comparison.result, prepared, trial.fitted.model, comparison.logs, environment)
    write_report(unfinished, {**page, "looked": runs.read_check(unfinished / "best")})
