"""A run in production: the evaluated settings, fitted on all that is known.

What is evaluated holds orders out; what is used should have learned from them too. `refit` fits a run once more on all
its data, by the choices that were made on validation, and says whose figures are expected of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aejax import registry, runs
from aejax.config import Production, RunConfig
from aejax.experiment.loading import Run, load_run
from aejax.experiment.preparing import on_device
from aejax.experiment.selecting import EpochListener, Hooks, refit_alone
from aejax.interactions import Dataset, Interactions, net_returns
from aejax.models import Model

FIGURES_OF = "figures_of"


def all_purchases(lines: Interactions) -> Interactions:
    """Every purchase that was not sent back, to learn from; ages count to the last moment of the lines."""
    as_of = None if lines.at is None else np.full(len(lines.users), lines.at.max())
    return dataclasses.replace(net_returns(lines), as_of=as_of)


def chosen_epochs(log: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """The log of a fit -> the number of epochs that validation chose for each network: part of a blend -> epochs, or ""
    -> epochs of a network alone; empty where nothing was trained in epochs.
    """
    best: dict[str, tuple[float, int]] = {}
    for record in log:
        part, _, stage = record["stage"].rpartition(" ")
        if stage == "select" and "epoch" in record and (part not in best or record["validation"] > best[part][0]):
            best[part] = (record["validation"], record["epoch"])
    return {part: epoch for part, (_, epoch) in best.items()}


def fit_on_all(config: RunConfig, model: Model, lines: Interactions, epochs: Mapping[str, int], hooks: Hooks) -> Model:
    """Fit once more, on all purchases.

    Args:
      config: of the run: model, settings and seed.
      model: the fitted one, for what validation decided beside epochs: the weights of a blend.
      lines: order lines with their returns.
      epochs: of each network; see `chosen_epochs`.
      hooks: told of every epoch.
    """
    settings = registry.make_settings(config.model, config.settings)
    family, purchases, seed = registry.family(config.model), all_purchases(lines), config.training.seed
    if family.refit is not None:
        return family.refit(model, settings, purchases, epochs, seed=seed, hooks=hooks)
    return refit_alone(config.model, settings, purchases, epochs.get("", 0), seed=seed, hooks=hooks)


def refit(
    source: Path,
    run: Path,
    *,
    overwrite: bool = False,
    listen: EpochListener = lambda stage, record: None,
    say: Callable[[str], None] = lambda sentence: None,
) -> dict[str, Any]:
    """Fit the model of a run on all its data, and write that as a run in production, whole or not at all.

    Args:
      source: the evaluated run, which stays as it is; or one in production, some of whose data are gone.
      run: the new directory.
      overwrite: replace an existing run.
      listen: told `(stage, record)` after every epoch.
      say: told in sentences what was fitted.

    Returns:
      The content of metrics.json: the figures of the evaluated run, and whose they are.

    Raises:
      InputError: the run cannot be read, or the new one not be written.
    """
    loaded = load_run(source)
    config, lines = loaded.config, loaded.prepared.interactions
    epochs = epochs_of_run(loaded, source)
    with (
        on_device(config.training.device, deterministic=config.training.deterministic),
        runs.whole_folder(run, overwrite=overwrite) as unfinished,
    ):
        hooks = Hooks(listen)
        model = fit_on_all(config, loaded.model, lines, epochs, hooks)
        evaluated = runs.read_json(source / "metrics.json")
        if config.production is None:
            config = dataclasses.replace(config, production=Production(evaluated=str(source), epochs=epochs))
            note = "; ".join(filter(None, (evaluated["note"], f"these are the figures of {source}")))
            evaluated = {FIGURES_OF: str(source), **evaluated, "note": note}
        environment = runs.environment(())
        environment["data_sha256"] = runs.read_json(source / "environment.json")["data_sha256"]
        write_production(unfinished, config, loaded.prepared.dataset, model, hooks, evaluated, environment)
    count = f"{len(all_purchases(lines)):,} purchases of {len(lines.users):,} customers"
    trained = ", ".join(f"{part or config.model} for {number} epochs" for part, number in epochs.items())
    say(f"Fitted {config.model} on all data, {count}" + (f": {trained}, as validation chose." if trained else "."))
    return evaluated


def epochs_of_run(loaded: Run, source: Path) -> dict[str, int]:
    """See `chosen_epochs`."""
    if loaded.config.production is not None:
        return dict(loaded.config.production.epochs)
    return chosen_epochs(runs.read_log(source / "log.jsonl"))


def write_production(
    unfinished: Path,
    config: RunConfig,
    dataset: Dataset,
    model: Model,
    hooks: Hooks,
    figures: Mapping[str, Any],
    environment: Mapping[str, Any],
) -> None:
    """All files of a run in production. The config comes last: what has one could be resumed, and this cannot."""
    runs.write_json(unfinished / "environment.json", environment)
    runs.write_data(unfinished, dataset)
    runs.save_state(unfinished / "state" / "model", model.state())
    runs.write_log(unfinished / "log.jsonl", hooks.log)
    runs.write_json(unfinished / "metrics.json", figures)
    runs.write_config(unfinished, config)
