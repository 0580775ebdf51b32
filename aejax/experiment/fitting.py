"""Fitting a model, and its run directory."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from aejax import attributes, checking, registry, runs
from aejax.config import RunConfig
from aejax.errors import InputError
from aejax.evaluation import Evaluation, evaluate, report_metrics
from aejax.experiment.pages import run_page, write_report
from aejax.experiment.preparing import Prepared, on_device, prepare_dataset
from aejax.experiment.selecting import EpochListener, Fitted, Hooks, Shared, fit_alone
from aejax.interactions import Dataset
from aejax.models import Model
from aejax.split import Split
from aejax.tasks import TaskEvaluation, evaluate_tasks, report_tasks
from aejax.training import Progress

SAVE_EVERY_S = 30.0


def fit_model(
    name: str,
    settings: Any,
    parts: Split,
    *,
    seed: int,
    hooks: Hooks | None = None,
    validated: bool = True,
    shared: Shared | None = None,
) -> Fitted:
    """Fit a model on a split: choose the number of epochs on validation, and fit once more where there is a refit.

    Args:
      name: registry name.
      settings: the model's settings.
      parts: the split; its test part is not looked at.
      seed: of everything random.
      hooks: told of every epoch.
      validated: score on validation what has nothing to choose, a closed form or a rule. Where there is a refit that
        takes a fit of its own; without, it is fitted once, on all of it.
      shared: what fits of other settings to the same train part have left; None: nothing, and nothing is kept.
    """
    hooks = Hooks() if hooks is None else hooks
    family = registry.family(name)
    if family.fits_split:
        return family.fit(settings, parts, seed=seed, hooks=hooks, validated=validated)
    return fit_alone(name, settings, parts, seed=seed, hooks=hooks, validated=validated, shared=shared)


@dataclasses.dataclass(frozen=True)
class Tested:
    """What a model reached on test.

    Attributes:
      evaluation: in the run's own task.
      tasks: both tasks of the protocol, the same model in both; empty where it has one.
    """

    evaluation: Evaluation
    tasks: Mapping[str, TaskEvaluation]


def evaluate_test(model: Model, prepared: Prepared) -> Tested:
    """The test part, and both tasks of it where there are two, each customer scored once."""
    if not prepared.split.tasks:
        return Tested(evaluate(model, prepared.split.test), {})
    tasks = evaluate_tasks(model, prepared.split.tasks)
    return Tested(tasks[prepared.split.task].whole, tasks)


def metrics_json(prepared: Prepared, tested: Tested) -> dict[str, Any]:
    """The content of metrics.json: no times in it, so two runs of one seed are byte-identical.

    It has `tasks` where the protocol has two; `metrics` are those of the run's own, on whose validation part every
    choice was made.
    """
    evaluation = tested.evaluation
    result = {
        "protocol": prepared.split.protocol,
        "users": len(evaluation.users),
        "users_left_out": prepared.split.test.left_out,
        "repeat": prepared.split_config.repeat,
        "note": "; ".join(filter(None, (prepared.split.note, evaluation.note))),
    }
    if not tested.tasks:
        return {**result, "metrics": report_metrics(evaluation)}
    left_out = {name: part.left_out for name, part in prepared.split.tasks.items()}
    tasks = report_tasks(tested.tasks, left_out)
    return {**result, "metrics": tasks[prepared.split.task]["metrics"], "tasks": tasks}


class _SavedProgress:
    """The epochs of an unfinished run on disk: `log.jsonl` grows, and the progress is saved every `SAVE_EVERY_S`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.state = folder / "state"
        self.log = folder / "log.jsonl"
        self.last_saved = time.monotonic()

    def listen(self, stage: str, record: Mapping[str, Any]) -> None:
        runs.append_log(self.log, {"stage": stage, **record})

    def save(self, stage: str, progress: Progress) -> None:
        if time.monotonic() - self.last_saved < SAVE_EVERY_S:
            return
        older = self._saved(stage)
        runs.save_state(self.state / f"{stage}-{progress.epoch:06d}", progress)
        for path in older:
            runs.remove(path)
        self.last_saved = time.monotonic()

    def resume(self, stage: str, fresh: Progress) -> tuple[Progress, list[dict[str, Any]]]:
        saved = self._saved(stage)
        progress = runs.load_state(saved[-1], fresh) if saved else fresh
        records = runs.read_log(self.log)
        earlier = [line for line in records if line["stage"] == stage and line["epoch"] <= progress.epoch]
        runs.write_log(self.log, [line for line in records if line["stage"] != stage] + earlier)
        return progress, earlier

    def _saved(self, stage: str) -> list[Path]:
        """Whole saves of a stage, oldest first; a save that was interrupted has another name."""
        return sorted(path for path in self.state.glob(f"{stage}-*") if path.name[len(stage) + 1 :].isdigit())


def fit(
    config: RunConfig,
    run: Path,
    *,
    dataset: Dataset | None = None,
    overwrite: bool = False,
    resume: bool = False,
    listen: EpochListener = lambda stage, record: None,
    say: Callable[[str], None] = lambda sentence: None,
) -> dict[str, Any]:
    """Fit a model and write its run directory, whole or not at all.

    Args:
      config: all of the run; its protocol may still be None.
      run: the directory.
      dataset: the data of `config.data`; None with `resume`, where the unfinished run holds them.
      overwrite: replace an existing run.
      resume: go on with what an interrupted fit of the same config left; the end is the same in every bit.
      listen: told `(stage, record)` after every epoch.
      say: told in sentences what was made of the data's attributes.

    Returns:
      The content of metrics.json.

    Raises:
      InputError: the data, the arguments, or the place to write are at fault.
    """
    settings = registry.make_settings(config.model, config.settings)
    with (
        on_device(config.training.device, deterministic=config.training.deterministic),
        open_run(config, run, settings, dataset=dataset, overwrite=overwrite, resume=resume) as (unfinished, prepared),
    ):
        config = resolved(config, prepared, settings)
        for sentence in attributes.summary_lines(attributes.report(prepared.attributes)):
            say(sentence)
        family = registry.family(config.model)
        if prepared.interactions.item_features is not None and not family.fits_split:  # whose parts differ in it
            use = "those of products" if family.uses_attributes(settings) else "none of them"
            say(f"Model {config.model} uses {use}.")
        saved = _SavedProgress(unfinished)

        def both(stage: str, record: Mapping[str, Any]) -> None:
            saved.listen(stage, record)
            listen(stage, record)

        fitted = fit_model(
            config.model,
            settings,
            prepared.split,
            seed=config.training.seed,
            hooks=Hooks(both, saved.save, saved.resume),
            validated=False,
        )
        finish_run(unfinished, config, prepared, fitted, evaluate_test(fitted.model, prepared))
    return runs.read_json(run / "metrics.json")


@contextmanager
def open_run(
    config: RunConfig, run: Path, settings: Any, *, dataset: Dataset | None, overwrite: bool, resume: bool
) -> Iterator[tuple[Path, Prepared]]:
    """The folder in which a run grows, with its data and config, and these data prepared.

    Args:
      config: all of the run; its protocol may still be None.
      run: the directory, which appears when the block ends well.
      settings: the model's.
      dataset: the data of `config.data`; with `resume`, None: the unfinished run holds them.
      overwrite: replace an existing run.
      resume: go on with what an interrupted command of the same config left.

    Raises:
      InputError: the data, the arguments, or the place to write are at fault.
    """
    if resume:
        unfinished = runs.require_unfinished(run)
        prepared = prepare_dataset(runs.read_data(unfinished), config.data, config.split)
        stored, config = runs.read_config(unfinished), resolved(config, prepared, settings)
        if stored != config:
            raise InputError(f"--resume: {run} was started with other settings: {_first_difference(stored, config)}")
    else:
        assert dataset is not None
        prepared = prepare_dataset(dataset, config.data, config.split)
        config = resolved(config, prepared, settings)
    _ = prepared.split  # what cannot be split replaces nothing
    with runs.whole_folder(run, overwrite=overwrite, resume=resume) as unfinished:
        if not resume:
            begin_run(unfinished, config, prepared)
        yield unfinished, prepared


def begin_run(unfinished: Path, config: RunConfig, prepared: Prepared) -> None:
    """What a run holds from its start: environment, data, what a check says of them, and last its config, so that what
    can be resumed has both.
    """
    runs.write_json(unfinished / "environment.json", runs.environment(prepared.dataset.files))
    runs.write_data(unfinished, prepared.dataset)
    if prepared.dataset.origin is not None:  # of files that were read just now
        categories = [one.column for one in prepared.attributes["products"] if one.kind == "category"]
        looked = checking.look(prepared.dataset, categories, today=np.datetime64("now", "s"))
        runs.write_check(unfinished, looked)
    runs.write_config(unfinished, config)


def finish_run(unfinished: Path, config: RunConfig, prepared: Prepared, fitted: Fitted, tested: Tested) -> None:
    """What a run still needs: the model's state, the log in order, the figures and the report."""
    result = metrics_json(prepared, tested)
    runs.remove(unfinished / "state")
    runs.save_state(unfinished / "state" / "model", fitted.model.state())
    runs.write_log(unfinished / "log.jsonl", fitted.log)
    runs.write_json(unfinished / "metrics.json", result)
    row = {
        "metrics": result["metrics"],
        "validation": fitted.validation,
        "settings": config.settings,
        "epochs": fitted.epochs or None,
        "users": result["users"],
        "note": result["note"],
        "tasks": result.get("tasks", {}),
    }
    environment = runs.read_json(unfinished / "environment.json")
    page = run_page(config.model, prepared, fitted.model, row, fitted.log, environment)
    write_report(unfinished, {**page, "looked": runs.read_check(unfinished)})


def resolved(config: RunConfig, prepared: Prepared, settings: Any) -> RunConfig:
    """The config with every default written out, in the form that JSON gives back."""
    plain = registry.as_json(settings)
    return dataclasses.replace(config, data=prepared.data_config, split=prepared.split_config, settings=plain)


def _first_difference(old: RunConfig, new: RunConfig) -> str:
    def flat(plain: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
        for key, value in plain.items():
            if isinstance(value, Mapping):
                yield from flat(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    before, after = dict(flat(old.to_json())), dict(flat(new.to_json()))
    key = next(key for key in before | after if before.get(key) != after.get(key))
    return f"{key} was {before.get(key)}, now {after.get(key)}; repeat the command as it was, or drop --resume"
