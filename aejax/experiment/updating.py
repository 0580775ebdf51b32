"""A run brought up to date: newer orders of the same shop, a warm start, and a comparison on the latest of them.

The time after the run's last order is halved. The new run is fitted as any other under `time`: it learns from what is
before the first half, chooses its number of epochs on that half, learns once more from all before the second half, and
is compared there with the run that it replaces and with popularity. All three have the same histories, up to the second
half, and none has seen it. Then it is fitted on everything. A network starts each time at the parameters of the old
run; what is closed is simply solved again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aejax import datasets, registry, runs
from aejax.config import Production, SplitConfig
from aejax.errors import InputError
from aejax.evaluation import VALIDATION_METRIC, evaluate, mean_with_interval
from aejax.experiment.fitting import evaluate_test, fit_model, metrics_json, resolved
from aejax.experiment.loading import Run, load_run
from aejax.experiment.merging import Changes, merge
from aejax.experiment.preparing import Prepared, on_device, prepare_dataset, with_attributes
from aejax.experiment.production import FIGURES_OF, chosen_epochs, epochs_of_run, fit_on_all, write_production
from aejax.experiment.selecting import EpochListener, Hooks
from aejax.interactions import Histories, Vocabulary, onto
from aejax.models import Model
from aejax.models.blend import Blend
from aejax.training import Progress


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """Where trainings start: at the parameters of a fitted model, those of a product at the product's.

    Attributes:
      models: part of a blend, or "" for a model alone -> the fitted one.
      before: the products that it knows.
      items: the products of the training, all of `before` among them.
    """

    models: Mapping[str, Model]
    before: Vocabulary
    items: Vocabulary

    @classmethod
    def of(cls, run: Run, items: Vocabulary) -> WarmStart:
        """That of a run."""
        models: dict[str, Model] = {"": run.model}
        if isinstance(run.model, Blend):
            names = [run.config.settings["parts"][position] for position in run.model.positions]
            models = dict(zip(names, run.model.models, strict=True))
        return cls(models, run.prepared.interactions.items, items)

    def resume(self, stage: str, progress: Progress) -> tuple[Progress, list[dict[str, Any]]]:
        """What `Hooks.resume` takes: the progress before the first epoch, with what is known of its parameters."""
        model = self.models.get(stage.rpartition(" ")[0])
        if model is None:
            return progress, []
        state = model.state()
        params = self.carried(progress.state.params, state.get("network", state))
        started = dataclasses.replace(progress.state, params=params)
        return dataclasses.replace(progress, state=started, best_params=jax.tree.map(jnp.copy, params)), []

    def carried(self, fresh: Any, old: Any) -> Any:
        """Fresh parameters, with the old ones of the same name in their place where all their axes are of products or
        of the same length.
        """
        if isinstance(fresh, Mapping):
            return {
                name: self.carried(one, old[name]) if isinstance(old, Mapping) and name in old else one
                for name, one in fresh.items()
            }
        if isinstance(old, Mapping) or np.ndim(old) != np.ndim(fresh):
            return fresh
        place = self.items.index(self.before.ids)
        sizes = len(self.before), len(self.items)
        of_old, of_new = [], []
        for was, now in zip(np.shape(old), np.shape(fresh), strict=True):
            if (was, now) != sizes and was != now:
                return fresh
            of_old.append(np.arange(was))
            of_new.append(place if (was, now) == sizes else np.arange(now))
        result = np.array(fresh)
        result[np.ix_(*of_new)] = np.asarray(old)[np.ix_(*of_old)]
        return jnp.asarray(result)


@dataclasses.dataclass(frozen=True)
class Predecessor:
    """The model of an older run, as a model of the products of a newer one: what it does not know scores `-inf`.

    Attributes:
      run: the older run.
      prepared: the newer data.
    """

    run: Run
    prepared: Prepared

    def encode(self, histories: Histories) -> Any:
        """Histories of n customers -> the older model's batch."""
        lines = onto(histories.lines, histories.lines.users, self.run.prepared.interactions.items)
        lines = with_attributes(lines, self.prepared.dataset, self.run.prepared.attributes)
        return self.run.model.encode(Histories(lines, histories.as_of))

    def scores(self, batch: Any) -> jax.Array:
        """A batch of n customers -> scores `[n, I]`."""
        old, items = self.run.prepared.interactions.items, self.prepared.interactions.items
        scores = self.run.model.scores(batch)
        everything = jnp.full((scores.shape[0], len(items)), -jnp.inf, scores.dtype)
        return everything.at[:, items.index(old.ids)].set(scores)

    def state(self) -> Any:
        """That of the older model."""
        return self.run.model.state()


@dataclasses.dataclass(frozen=True)
class Updated:
    """What an update did.

    Attributes:
      changes: what the newer data added.
      figures: the content of metrics.json.
      worse: than what the new run is, by the comparison; empty where it is not.
    """

    changes: Changes
    figures: dict[str, Any]
    worse: tuple[str, ...]


def update(
    source: Path,
    data: Path,
    run: Path,
    *,
    overwrite: bool = False,
    force: bool = False,
    listen: EpochListener = lambda stage, record: None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Updated:
    """Fit the model of a run on its data and newer ones, and write that as a run in production, whole or not at all.

    Args:
      source: the run, which stays as it is.
      data: a folder with newer exports of the same shop, with older orders in them or without.
      run: the new directory.
      overwrite: replace an existing run.
      force: write a run that is worse than popularity or than the old one.
      listen: told `(stage, record)` after every epoch.
      say: told in sentences what has changed.

    Raises:
      InputError: the data have nothing in common with the run's, or nothing new, or too little to compare runs; the new
        run is worse, by more than chance would have it, and there is no `force`; or it cannot be written.
    """
    old = load_run(source)
    config = old.config
    given = dataclasses.replace(config.data, path=str(data))
    merged, changes = merge(old.prepared.dataset, datasets.read_as(given), old.prepared.interactions.items)
    say(changes.sentence())
    last = merged.interactions.at
    assert last is not None
    cut = changes.before + (last.max() - changes.before) // 2 + np.timedelta64(1, "s")
    repeat = old.prepared.split_config.repeat
    try:
        prepared = prepare_dataset(merged, given, SplitConfig("time", cut=str(cut), repeat=repeat))
        _ = prepared.split
    except InputError as problem:
        raise InputError(
            f"after {changes.before} there are too few orders to compare the new run with the old one: {problem}"
        ) from None
    settings = registry.make_settings(config.model, config.settings)
    with (
        on_device(config.training.device, deterministic=config.training.deterministic),
        runs.whole_folder(run, overwrite=overwrite) as unfinished,
    ):
        warm = WarmStart.of(old, prepared.interactions.items)
        hooks = Hooks(listen, resume=warm.resume)
        fitted = fit_model(
            config.model, settings, prepared.split, seed=config.training.seed, hooks=hooks, validated=False
        )
        tested = evaluate_test(fitted.model, prepared)
        popularity = registry.family("popularity")
        assert prepared.split.refit is not None
        popular = popularity.fit(prepared.split.refit, popularity.settings())
        ours = tested.evaluation.values[VALIDATION_METRIC]
        theirs = {
            str(source): evaluate(Predecessor(old, prepared), prepared.split.test).values[VALIDATION_METRIC],
            "popularity": evaluate(popular, prepared.split.test).values[VALIDATION_METRIC],
        }
        means = mean_with_interval({"new": ours, **theirs})
        difference = mean_with_interval({name: ours - other for name, other in theirs.items()})
        worse = tuple(name for name, one in difference.items() if one["ci95"][1] < 0)
        for name in theirs:
            low, high = difference[name]["ci95"]
            say(
                f"{VALIDATION_METRIC} of {len(ours):,} customers on orders from {cut} on: {means['new']['mean']:.4f}, "
                f"{name} {means[name]['mean']:.4f}, difference {difference[name]['mean']:+.4f} "
                f"[{low:+.4f}, {high:+.4f}]."
            )
        if worse and not force:
            raise InputError(
                f"on the latest orders the new run is worse than {' and '.join(worse)}; nothing was written, and "
                f"{source} is as it was; see aejax check {data} for what has changed, or give --force"
            )
        epochs = chosen_epochs(hooks.log)
        model = fit_on_all(config, fitted.model, prepared.interactions, epochs, hooks)
        of = f"the same settings on orders from {cut} on, before they were fitted on all data"
        figures = metrics_json(prepared, tested)
        figures |= {
            FIGURES_OF: of,
            "note": "; ".join(filter(None, (figures["note"], f"these are the figures of {of}"))),
            "update": {
                "of": str(source),
                "changes": changes.to_json(),
                VALIDATION_METRIC: means,
                "difference": difference,
                "worse": list(worse),
            },
        }
        # A refit starts afresh, and has to go all the way that these parameters went.
        before = epochs_of_run(old, source)
        trained = {part: number + before.get(part, 0) for part, number in epochs.items()}
        new = dataclasses.replace(resolved(config, prepared, settings), production=Production(of, trained))
        environment = runs.environment(merged.files)
        write_production(unfinished, new, prepared.dataset, model, hooks, figures, environment)
    return Updated(changes, figures, worse)
