"""Settings from validation alone: a seeded, resumable search."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aejax import registry, rhythm, runs
from aejax.config import RunConfig
from aejax.errors import InputError, ResourceError
from aejax.experiment.fitting import fit_model, open_run
from aejax.experiment.preparing import Prepared, on_device
from aejax.experiment.selecting import Hooks, Shared
from aejax.interactions import Dataset, Interactions, distinct
from aejax.models import Choice, Family, Range

if TYPE_CHECKING:
    import optuna

LOG = "trials.jsonl"
STARTUP = 8
# A network is stopped early where it is worse than half of the earlier trials at the same epoch.
PRUNE_AFTER_TRIALS, PRUNE_AFTER_EPOCHS = 4, 5


def tune(
    config: RunConfig,
    run: Path,
    *,
    trials: int,
    dataset: Dataset | None = None,
    overwrite: bool = False,
    resume: bool = False,
    on_trial: Callable[[Mapping[str, Any]], None] = lambda record: None,
    on_epoch: Callable[[int, Mapping[str, float]], None] = lambda number, record: None,
) -> dict[str, Any]:
    """Search a model's settings by validation NDCG@100; the test part is never scored.

    The first trial has the settings as they are given; the tree-structured Parzen estimator (Bergstra et al. 2011, as
    Optuna has it) proposes the others from those before. Each has a seed of its own, so that a search that was
    interrupted ends like one that was not.

    Args:
      config: data, split, seed, device, model, and the settings that are fixed.
      run: the directory: `trials.jsonl` (a line per trial), `settings.json` (`{model: {setting: value}}`, as
        `--settings` takes it), config, environment and data.
      trials: how many, those before a resumption included.
      dataset: the data of `config.data`; None with `resume`.
      overwrite: replace an existing directory.
      resume: go on with what an interrupted search left.
      on_trial: told each trial's record.
      on_epoch: told `(trial number, epoch record)`.

    Returns:
      The best trial's record.

    Raises:
      InputError: the data or the arguments are at fault, or no trial could be fitted.
    """
    optuna = _optuna()
    family = registry.family(config.model)
    space = {name: where for name, where in family.search.items() if name not in config.settings}
    if trials < 1:
        raise InputError(f"--trials is {trials}; expected 1 or more")
    _require_something_to_tune(space, config.model)
    settings = registry.make_settings(config.model, config.settings)
    if config.split.protocol == "reconstruction":
        raise InputError("--split reconstruction has no validation part to tune on; use another --split")
    done = runs.read_log(runs.require_unfinished(run) / LOG) if resume else []
    conditional = {*family.of_attributes, *family.of_repeats}
    if done and done[0]["settings"].keys() | conditional != space.keys() | conditional:
        raise InputError(
            f"--resume: {run} was started with another --set: it searches {', '.join(done[0]['settings'])}; this "
            f"would search {', '.join(space)}"
        )
    with (
        on_device(config.training.device, deterministic=config.training.deterministic),
        open_run(config, run, settings, dataset=dataset, overwrite=overwrite, resume=resume) as (unfinished, prepared),
    ):
        silent = _saying_nothing(prepared.split.train, family)
        space = {name: where for name, where in space.items() if name not in silent}
        _require_something_to_tune(space, config.model)
        log = unfinished / LOG
        runs.write_log(log, done)
        shared = Shared()
        for number in range(len(done), trials):
            record = _trial(optuna, done, config, space, prepared, shared, partial(on_epoch, number))
            runs.append_log(log, record)
            on_trial(record)
            done.append(record)
        fitted = [record for record in done if record["state"] == "complete"]
        if not fitted:
            raise InputError(f"no trial could be fitted; the last said: {done[-1].get('message', 'pruned')}")
        best = max(fitted, key=lambda record: (record["validation"], -record["trial"]))
        chosen = {**dataclasses.asdict(settings), **best["settings"]}
        runs.write_json(unfinished / "settings.json", {config.model: chosen})
    return best


def _saying_nothing(train: Interactions, family: Family) -> set[str]:
    """Settings of the family's search that make no difference with these data."""
    has_repeats = rhythm.is_timed(train) and len(distinct(train.pair)) < len(train)
    has_attributes = train.item_features is not None or (family.is_network and train.user_features is not None)
    return {
        *(() if has_attributes else family.of_attributes),
        *(() if has_repeats else family.of_repeats),
    }


def _require_something_to_tune(space: Mapping[str, Range | Choice], model: str) -> None:
    if not space:
        raise InputError(f"model {model} has no setting left to tune; give fewer with --set, or fit it")


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise InputError("tune needs Optuna, which is not installed; pip install 'aejax[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _study(optuna: Any, done: Sequence[Mapping[str, Any]], space: Mapping[str, Range | Choice]) -> optuna.Study:
    """The study of the trials so far. It is made anew for each trial, so that a resumed search proposes the same."""
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=len(done), multivariate=True, n_startup_trials=STARTUP),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=PRUNE_AFTER_TRIALS, n_warmup_steps=PRUNE_AFTER_EPOCHS),
    )
    states = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}
    for record in done:
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState[states[record["state"]]],
                params={name: _as_searched(record["settings"][name], where) for name, where in space.items()},
                distributions={name: _distribution(optuna, where) for name, where in space.items()},
                value=record.get("validation"),
                intermediate_values=dict(enumerate(record["curve"], start=1)),
            )
        )
    return study


def _trial(
    optuna: Any,
    done: Sequence[Mapping[str, Any]],
    config: RunConfig,
    space: Mapping[str, Range | Choice],
    prepared: Prepared,
    shared: Shared,
    on_epoch: Callable[[Mapping[str, float]], None],
) -> dict[str, Any]:
    """One trial's record: `trial, state, settings, curve` (validation by epoch), and `validation` or a `message`."""
    study = _study(optuna, done, space)
    trial = study.ask({name: _distribution(optuna, where) for name, where in space.items()})
    settings = registry.make_settings(config.model, {**config.settings, **(trial.params if done else {})})
    plain = registry.as_json(settings)
    record: dict[str, Any] = {
        "trial": len(done),
        "settings": {name: plain[name] for name in space},
        "curve": [],
    }

    def listen(stage: str, epoch: Mapping[str, Any]) -> None:
        if "epoch" not in epoch:
            return
        on_epoch(epoch)
        record["curve"].append(epoch["validation"])
        trial.report(epoch["validation"], int(epoch["epoch"]))
        if trial.should_prune():
            raise optuna.TrialPruned

    try:
        select = dataclasses.replace(prepared.split, refit=None)
        seed = config.training.seed
        fitted = fit_model(config.model, settings, select, seed=seed, hooks=Hooks(listen), shared=shared)
    except optuna.TrialPruned:
        return {**record, "state": "pruned"}
    except ResourceError:
        raise
    except InputError as problem:
        return {**record, "state": "failed", "message": str(problem)}
    return {**record, "state": "complete", "validation": fitted.validation}


def _distribution(optuna: Any, where: Range | Choice) -> Any:
    if isinstance(where, Choice):
        return optuna.distributions.CategoricalDistribution(where.options)
    whole = isinstance(where.low, int) and isinstance(where.high, int)
    kind = optuna.distributions.IntDistribution if whole else optuna.distributions.FloatDistribution
    return kind(where.low, where.high, log=where.log, **({} if where.step is None else {"step": where.step}))


def _as_searched(value: Any, where: Range | Choice) -> Any:
    """A setting's value as the search would propose it, the nearest where it lies outside."""
    if isinstance(where, Choice):
        text = ",".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
        return text if text in where.options else where.options[0]
    value = where.high if value is None else min(max(value, where.low), where.high)
    return value if where.step is None else where.low + round((value - where.low) / where.step) * where.step
