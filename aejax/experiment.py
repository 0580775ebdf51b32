"""Fit, evaluate, compare and recommend: what the command line, the scripts and the README's ten lines all call."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import pandas as pd

from aejax import datasets, recommendation, registry, runs
from aejax.config import DataConfig, RunConfig, SplitConfig, TrainingConfig
from aejax.errors import InputError
from aejax.evaluation import Evaluation, evaluate, mean_with_interval, report_metrics, validator
from aejax.interactions import Dataset, Interactions, set_aside_rare
from aejax.models import Model
from aejax.split import Split, resolve_protocol, split
from aejax.training import Progress

SAVE_EVERY_S = 30.0
# (stage, epoch record) after every epoch; the stages are "select" and "refit"
EpochListener = Callable[[str, Mapping[str, float]], None]


def _silent(stage: str, record: Mapping[str, float]) -> None:
    """Listen to no epoch."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Data that a model can be fitted on.

    Attributes:
      dataset: what was read.
      interactions: its lines without rare products.
      split: the parts.
      split_config: with the protocol resolved.
      data_config: with `min_customers` resolved.
    """

    dataset: Dataset
    interactions: Interactions
    split: Split
    split_config: SplitConfig
    data_config: DataConfig


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A model after its last fit.

    Attributes:
      model: the fitted model.
      validation: its validation NDCG@100, from before a refit.
      epochs: epochs of the last fit; 0 for a closed form or a rule.
      log: a record per epoch with its stage.
    """

    model: Model
    validation: float
    epochs: int
    log: tuple[Mapping[str, Any], ...]


def prepare(data: DataConfig, split_config: SplitConfig) -> Prepared:
    """Read a folder and split it. Raises `InputError` where the data cannot carry what is asked."""
    return prepare_dataset(datasets.read(Path(data.path), min_rating=data.min_rating), data, split_config)


def prepare_dataset(dataset: Dataset, data: DataConfig, split_config: SplitConfig) -> Prepared:
    """Set rare products aside and split: a pure function of a data set and its configs."""
    default = 10 if dataset.format == "shop" else 1
    data = dataclasses.replace(data, min_customers=default if data.min_customers is None else data.min_customers)
    lines = set_aside_rare(dataset.interactions, data.min_customers or 1)
    if min(len(lines.users), len(lines.items)) < 2:
        raise InputError(
            f"after --min-customers {data.min_customers} there are {len(lines.users)} customers and "
            f"{len(lines.items)} products; at least 2 of each are needed, so try a lower --min-customers"
        )
    # The resolved config is validated like a given one: --repeat include needs a protocol that can carry it.
    split_config = dataclasses.replace(split_config, protocol=resolve_protocol(lines, split_config.protocol))
    parts = split(
        lines,
        protocol=str(split_config.protocol),
        seed=split_config.seed,
        test_share=split_config.test_share,
        cut=split_config.cut,
        repeat=split_config.repeat,
    )
    return Prepared(dataset, lines, parts, split_config, data)


@contextmanager
def on_device(name: str | None) -> Iterator[None]:
    """Everything inside runs on the first device of this kind; None: on what JAX prefers.

    Raises:
      InputError: there is none.
    """
    if name is None:
        yield
        return
    try:
        device = jax.devices(name)[0]
    except RuntimeError:
        there = sorted({device.platform for device in jax.devices()})
        raise InputError(f"--device {name} is not there; JAX finds: {', '.join(there)}") from None
    with jax.default_device(device):
        yield


def fit_model(
    name: str,
    settings: Any,
    parts: Split,
    *,
    seed: int,
    listen: EpochListener = _silent,
    on_progress: Callable[[str, Progress], None] | None = None,
    resume: Callable[[str, Progress], Progress] | None = None,
) -> Fitted:
    """Fit a model on a split: choose the number of epochs on validation, and fit once more where there is a refit.

    Args:
      name: registry name.
      settings: the model's settings.
      parts: the split; its test part is not looked at.
      seed: of everything random.
      listen: told `(stage, record)` after every epoch.
      on_progress: told `(stage, progress)` after every epoch, to save it.
      resume: given `(stage, progress before the first epoch)`, returns where to start.
    """
    family = registry.family(name)
    validate = validator(parts.validation)
    if not family.is_network:
        score = validate(family.fit(parts.train, settings))
        return Fitted(family.fit(parts.refit if parts.refit is not None else parts.train, settings), score, 0, ())

    log: list[Mapping[str, Any]] = []
    select_key, refit_key = jax.random.split(jax.random.key(seed))
    best = {"epoch": 0, "score": 0.0}

    def stage(label: str, train: Interactions, settings: Any, key: jax.Array, validate: Any) -> Model:
        def on_epoch(progress: Progress, record: dict[str, float]) -> None:
            log.append({"stage": label, **record})
            listen(label, record)
            note(progress)
            if on_progress is not None:
                on_progress(label, progress)

        def start(progress: Progress) -> Progress:
            if resume is not None:
                progress = resume(label, progress)
            note(progress)
            return progress

        def note(progress: Progress) -> None:
            if validate is not None:
                best.update(epoch=progress.best_epoch, score=progress.best_score)

        return family.fit(train, settings, key=key, validate=validate, on_epoch=on_epoch, resume=start)

    model = stage("select", parts.train, settings, select_key, validate)
    if parts.refit is not None:
        chosen = dataclasses.replace(settings, epochs=best["epoch"])
        model = stage("refit", parts.refit, chosen, refit_key, None)
    return Fitted(model, best["score"], best["epoch"], tuple(log))


def metrics_json(prepared: Prepared, evaluation: Evaluation) -> dict[str, Any]:
    """The content of metrics.json: no times in it, so two runs of one seed are byte-identical."""
    return {
        "protocol": prepared.split.protocol,
        "users": len(evaluation.users),
        "users_left_out": prepared.split.test.left_out,
        "repeat": prepared.split_config.repeat,
        "note": prepared.split.note,
        "metrics": report_metrics(evaluation),
    }


class _SavedProgress:
    """The epochs of an unfinished run on disk: `log.jsonl` grows, and the progress is saved every `SAVE_EVERY_S`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.state = folder / "state"
        self.log = folder / "log.jsonl"
        self.last_saved = time.monotonic()

    def listen(self, stage: str, record: Mapping[str, float]) -> None:
        with runs.writing(self.log), self.log.open("a", encoding="utf-8") as opened:
            opened.write(json.dumps({"stage": stage, **record}) + "\n")

    def save(self, stage: str, progress: Progress) -> None:
        if time.monotonic() - self.last_saved < SAVE_EVERY_S:
            return
        older = self._saved(stage)
        runs.save_state(self.state / f"{stage}-{progress.epoch:06d}", progress)
        for path in older:
            runs.remove(path)
        self.last_saved = time.monotonic()

    def resume(self, stage: str, fresh: Progress) -> Progress:
        saved = self._saved(stage)
        if not saved:
            self._keep_log(stage, 0)
            return fresh
        progress = runs.load_state(saved[-1], fresh)
        self._keep_log(stage, progress.epoch)
        return progress

    def _saved(self, stage: str) -> list[Path]:
        """Whole saves of a stage, oldest first; a save that was interrupted has another name."""
        return sorted(path for path in self.state.glob(f"{stage}-*") if path.name[len(stage) + 1 :].isdigit())

    def _keep_log(self, stage: str, epochs: int) -> None:
        """Forget logged epochs of this stage after `epochs`, and a last line that a crash cut short."""
        kept = [line for line in read_log(self.folder) if line["stage"] != stage or line["epoch"] <= epochs]
        with runs.whole_file(self.log) as partial:
            partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The records of log.jsonl, without a last line that was cut short."""
    path = folder / "log.jsonl"
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def fit(
    config: RunConfig,
    run: Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    listen: EpochListener = _silent,
) -> dict[str, Any]:
    """Fit a model and write its run directory, whole or not at all.

    Args:
      config: all of the run; its protocol may still be None.
      run: the directory.
      overwrite: replace an existing run.
      resume: go on with what an interrupted fit of the same config left; the end is the same in every bit.
      listen: told `(stage, record)` after every epoch.

    Returns:
      The content of metrics.json.

    Raises:
      InputError: the data, the arguments, or the place to write are at fault.
    """
    settings = registry.make_settings(config.model, config.settings)
    with on_device(config.training.device):
        if resume:
            # The unfinished run holds its data: resuming neither reads the shop's files again nor can they differ.
            unfinished = runs.stage(run, overwrite=overwrite, resume=True)
            stored = runs.read_config(unfinished)
            prepared = prepare_dataset(runs.read_data(unfinished), config.data, config.split)
            config = _resolved(config, prepared, settings)
            if stored != config:
                raise InputError(f"--resume: {run} was started with other settings: {_first_difference(stored, config)}")
        else:
            prepared = prepare(config.data, config.split)
            config = _resolved(config, prepared, settings)
            unfinished = runs.stage(run, overwrite=overwrite)
            runs.write_json(unfinished / "environment.json", runs.environment(prepared.dataset.files))
            runs.write_data(unfinished, prepared.dataset)
            # Last, so that what can be resumed has its data.
            runs.write_config(unfinished, config)
        saved = _SavedProgress(unfinished)

        def both(stage: str, record: Mapping[str, float]) -> None:
            saved.listen(stage, record)
            listen(stage, record)

        fitted = fit_model(
            config.model,
            settings,
            prepared.split,
            seed=config.training.seed,
            listen=both,
            on_progress=saved.save,
            resume=saved.resume,
        )
        result = metrics_json(prepared, evaluate(fitted.model, prepared.split.test))
        write_run(unfinished, fitted.model, result)
    runs.publish(run)
    return result


def write_run(unfinished: Path, model: Model, result: Mapping[str, Any]) -> None:
    """What an unfinished run still needs: the model's state and the figures."""
    runs.remove(unfinished / "state")
    runs.save_state(unfinished / "state" / "model", model.state())
    runs.write_json(unfinished / "metrics.json", result)


def _resolved(config: RunConfig, prepared: Prepared, settings: Any) -> RunConfig:
    """The config with every default written out, in the form that JSON gives back."""
    plain = json.loads(json.dumps(dataclasses.asdict(settings)))
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


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run, loaded.

    Attributes:
      config: its config.
      prepared: its data, split again.
      model: its fitted model.
    """

    config: RunConfig
    prepared: Prepared
    model: Model


def load_run(run: Path) -> Run:
    """Load a run from its directory alone.

    Raises:
      InputError: it is missing, unfinished, damaged or of another version.
    """
    runs.repair(run)
    if not run.exists() and runs.unfinished_path(run).exists():
        raise InputError(f"{run} is not finished; go on with: aejax fit ... --run {run} --resume")
    config = runs.read_config(run)
    prepared = prepare_dataset(runs.read_data(run), config.data, config.split)
    family = registry.family(config.model)
    settings = registry.make_settings(config.model, config.settings)
    model = family.restore(runs.load_state(run / "state" / "model"), settings, items=len(prepared.interactions.items))
    return Run(config, prepared, model)


def evaluate_run(run: Run) -> dict[str, Any]:
    """The content of metrics.json, computed again."""
    return metrics_json(run.prepared, evaluate(run.model, run.prepared.split.test))


def titles(dataset: Dataset) -> pd.Series:
    """sku -> title."""
    return dataset.products.set_index("sku")["title"]


def recommend(
    run: Run, *, top: int = 10, repeat: str | None = None, customers: Sequence[str] | None = None
) -> Iterator[pd.DataFrame]:
    """Recommendations for the customers given, by default for every customer of any file; see `recommendation`."""
    return recommendation.recommend(
        run.model,
        run.prepared.interactions,
        list(run.prepared.dataset.customers["customer_id"]) if customers is None else customers,
        titles(run.prepared.dataset),
        top=top,
        repeat=repeat or run.prepared.split_config.repeat,
    )


@dataclasses.dataclass(frozen=True)
class Trial:
    """One model, fitted and evaluated with one seed on one split seed."""

    model: str
    seed: int
    split_seed: int
    fitted: Fitted
    evaluation: Evaluation


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
      result: the content of comparison.json.
      per_user: a row per model, seed, split seed and user, a column per metric.
      prepared: the data and the split of the first split seed.
      best: the trial with the best validation score on the first split seed.
      logs: model -> its epoch records of the first seed and split seed.
    """

    result: dict[str, Any]
    per_user: pd.DataFrame
    prepared: Prepared
    best: Trial
    logs: dict[str, tuple[Mapping[str, Any], ...]]


def compare(
    data: DataConfig,
    split_config: SplitConfig,
    settings: Mapping[str, Any],
    *,
    seeds: Sequence[int] = (0,),
    split_seeds: int = 1,
    listen: Callable[[str, int, int, str, Mapping[str, float]], None] | None = None,
    dataset: Dataset | None = None,
) -> Comparison:
    """Fit and evaluate several models on the same splits and users.

    Args:
      data: what is read.
      split_config: the first split; further split seeds count up from its seed.
      settings: model name -> its settings; the first is what the others are compared with.
      seeds: training seeds; a model without randomness is fitted once per split.
      split_seeds: number of splits.
      listen: told `(model, seed, split_seed, stage, record)` after every epoch.
      dataset: the data, where they are read already.
    """
    dataset = datasets.read(Path(data.path), min_rating=data.min_rating) if dataset is None else dataset
    rows: list[pd.DataFrame] = []
    summaries: dict[str, list[dict[str, Any]]] = {name: [] for name in settings}
    logs: dict[str, tuple[Mapping[str, Any], ...]] = {}
    first: Prepared | None = None
    best: Trial | None = None
    for split_seed in range(split_config.seed, split_config.seed + split_seeds):
        prepared = prepare_dataset(dataset, data, dataclasses.replace(split_config, seed=split_seed))
        first = first or prepared
        for name, own in settings.items():
            for seed in seeds if registry.family(name).is_network else seeds[:1]:

                def heard(stage: str, record: Mapping[str, float], name: str = name, seed: int = seed) -> None:
                    if listen is not None:
                        listen(name, seed, split_seed, stage, record)  # noqa: B023 (called within this iteration)

                fitted = fit_model(name, own, prepared.split, seed=seed, listen=heard)
                trial = Trial(name, seed, split_seed, fitted, evaluate(fitted.model, prepared.split.test))
                rows.append(_per_user(trial, prepared))
                summaries[name].append(_trial_summary(trial))
                logs.setdefault(name, fitted.log)
                if prepared is first and (best is None or fitted.validation > best.fitted.validation):
                    best = trial
    assert first is not None and best is not None
    per_user = pd.concat(rows, ignore_index=True)
    result = {
        "data": dataset.format,
        "protocol": first.split.protocol,
        "repeat": first.split_config.repeat,
        "note": first.split.note,
        "customers": len(first.interactions.users),
        "products": len(first.interactions.items),
        "users": int(per_user["customer_id"].nunique()),
        "users_left_out": first.split.test.left_out,
        "best_on_validation": best.model,
        "models": _model_rows(per_user, summaries, settings),
    }
    return Comparison(result, per_user, first, best, logs)


def _per_user(trial: Trial, prepared: Prepared) -> pd.DataFrame:
    ids = prepared.interactions.users.ids[trial.evaluation.users]
    frame = pd.DataFrame({"customer_id": ids, **trial.evaluation.values})
    return frame.assign(model=trial.model, seed=trial.seed, split_seed=trial.split_seed)


def _trial_summary(trial: Trial) -> dict[str, Any]:
    return {
        "seed": trial.seed,
        "split_seed": trial.split_seed,
        "epochs": trial.fitted.epochs,
        "validation": {"ndcg@100": trial.fitted.validation},
        "coverage@10": trial.evaluation.coverage,
        "test": {key: float(values.mean(dtype="float64")) for key, values in trial.evaluation.values.items()},
    }


def _model_rows(
    per_user: pd.DataFrame, summaries: Mapping[str, list[dict[str, Any]]], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Per model: means with intervals over users, each user's value being the mean over seeds and splits."""
    keys = [key for key in per_user.columns if "@" in key]
    means = {
        name: per_user[per_user["model"] == name].groupby("customer_id", sort=True)[keys].mean() for name in settings
    }
    reference = next(iter(settings))
    rows = {}
    for name, own in settings.items():
        metrics = mean_with_interval({key: means[name][key].to_numpy() for key in keys})
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
                "metrics": mean_with_interval({key: difference[key].to_numpy() for key in keys}),
            }
    return rows


def compare_settings(models: Sequence[str], given: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """Settings per model: stored ones by model, then those given for all, which go to the models that have them.

    Raises:
      InputError: a setting that no model of the list has.
    """
    known = {name: registry.field_types(registry.family(name).settings) for name in models}
    for key in given:
        if not any(key in names for names in known.values()):
            every = sorted({field for names in known.values() for field in names})
            raise InputError(f'none of {", ".join(models)} has a setting "{key}". Known: {", ".join(every)}')
    return {
        name: registry.make_settings(
            name, {**stored.get(name, {}), **{key: value for key, value in given.items() if key in known[name]}}
        )
        for name in models
    }


def write_comparison(comparison: Comparison, unfinished: Path) -> None:
    """comparison.json, per_user.parquet, and `best/`, a run of the model that was best on validation."""
    runs.write_json(unfinished / "comparison.json", comparison.result)
    with runs.writing(unfinished):
        comparison.per_user.to_parquet(unfinished / "per_user.parquet", index=False)
    best = unfinished / "best"
    best.mkdir()
    prepared, trial = comparison.prepared, comparison.best
    settings = json.loads(json.dumps(comparison.result["models"][trial.model]["settings"]))
    config = RunConfig(
        prepared.data_config, prepared.split_config, TrainingConfig(seed=trial.seed), trial.model, settings
    )
    runs.write_json(best / "environment.json", runs.environment(prepared.dataset.files))
    runs.write_data(best, prepared.dataset)
    with (best / "log.jsonl").open("w", encoding="utf-8") as opened:
        opened.writelines(json.dumps(record) + "\n" for record in trial.fitted.log)
    write_run(best, trial.fitted.model, metrics_json(prepared, trial.evaluation))
    runs.write_config(best, config)
