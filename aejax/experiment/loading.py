"""Finished runs, loaded and evaluated again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from aejax import recommendation, registry, runs
from aejax.config import RunConfig
from aejax.errors import InputError
from aejax.experiment.fitting import evaluate_test, metrics_json
from aejax.experiment.preparing import Prepared, prepare_dataset
from aejax.interactions import Interactions, onto
from aejax.metrics import REVENUE_KEYS
from aejax.models import Model


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run, loaded.

    Attributes:
      config: its config.
      prepared: its data, split again.
      model: its fitted model.
      folder: where it is.
    """

    config: RunConfig
    prepared: Prepared
    model: Model
    folder: Path

    @property
    def learned(self) -> Interactions:
        """What the model was fitted on at last; of one in production, all order lines."""
        if self.config.production is not None:
            return self.prepared.interactions
        parts = self.prepared.split
        return parts.train if parts.refit is None else parts.refit


def load_run(run: Path) -> Run:
    """Load a run from its directory alone.

    Raises:
      InputError: it is missing, unfinished, damaged or of another version.
    """
    runs.repair_run(run)
    if not run.exists() and runs.unfinished_path(run).exists():
        raise InputError(f"{run} is not finished; go on with: aejax fit ... --run {run} --resume")
    config = runs.read_config(run)
    with ThreadPoolExecutor(max_workers=1) as beside:  # files are unpacked outside the interpreter's lock
        waiting = beside.submit(lambda: prepare_dataset(runs.read_data(run), config.data, config.split))
        family = registry.family(config.model)
        settings = registry.make_settings(config.model, config.settings)
        state = runs.load_state(run / "state" / "model")  # JAX is told a thread's device
        prepared = waiting.result()
    model = family.restore(state, settings, items=len(prepared.interactions.items))
    return Run(config, prepared, model, run)


def evaluate_run(run: Run) -> dict[str, Any]:
    """The content of metrics.json, computed again.

    Raises:
      InputError: nothing is held out of the run's data.
    """
    if run.config.production is not None:
        raise InputError(
            "this run is in production: it was fitted on all its data, so that nothing is left to evaluate it on; the "
            f"figures expected of it are in its metrics.json, those of {run.config.production.evaluated}"
        )
    return metrics_json(run.prepared, evaluate_test(run.model, run.prepared))


def known_on(run: Run, on: str | None = None) -> tuple[recommendation.Known, str]:
    """What a run's data know on a day (None: all that there is), and a sentence on what of the run is later than that,
    empty where nothing is.

    Raises:
      InputError: see `recommendation.known_at`.
    """
    lines = run.prepared.interactions
    has_new = run.config.data.new_products  # whose few purchases the lines lack
    everything = onto(run.prepared.dataset.interactions, lines.users, lines.items) if has_new else None
    known = recommendation.known_at(lines, on, everything=everything)
    if not known.later:
        return known, ""
    learned = run.learned.at
    assert learned is not None
    noun = "order lines" if lines.order is None else "orders"
    note = f"{known.later:,} {noun} after --on {on} were not looked at"
    if learned.max() > known.as_of:
        note += f", but the model has learned from orders up to {learned.max()}"
    return known, note


def largest_difference(now: Mapping[str, Any], stored: Mapping[str, Any]) -> float:
    """The largest absolute difference between figures computed now and those of a metrics.json, those of both tasks
    among them.

    Raises:
      InputError: it has not all of these figures, or others; those in revenue it may lack together.
    """
    try:
        ours, theirs = ({"metrics": file["metrics"], "tasks": file.get("tasks", {})} for file in (now, stored))
        return max(_differences(ours, theirs), default=0.0)
    except (KeyError, TypeError):
        raise InputError("metrics.json of the run is damaged: it has not the figures of a run; fit it again") from None


def _differences(now: Any, stored: Any) -> Iterator[float]:
    """Absolute differences between the numbers of two trees of the same form; intervals are left out."""
    if isinstance(now, Mapping):
        # A run of an earlier version of this package has prices and no figures in revenue.
        if stored.keys() - now.keys() or now.keys() - stored.keys() not in (set(), set(REVENUE_KEYS)):
            raise KeyError
        for key in stored.keys() - {"ci95"}:
            yield from _differences(now[key], stored[key])
    elif isinstance(now, list):
        if len(now) != len(stored):
            raise KeyError
        for mine, theirs in zip(now, stored, strict=True):
            yield from _differences(mine, theirs)
    else:
        yield abs(now - stored)
