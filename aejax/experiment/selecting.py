"""One model on one split: the choice on validation, and the fit after it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax

from aejax import registry
from aejax.errors import InputError
from aejax.evaluation import validator
from aejax.interactions import Interactions
from aejax.models import Model, Telling
from aejax.split import Split
from aejax.training import Progress

# (stage, record) after every epoch, and once for what a closed form decided; the stages are "select" and "refit"
EpochListener = Callable[[str, Mapping[str, Any]], None]


def _silent(stage: str, told: Any) -> None:
    """Listen to nothing."""


def _from_the_start(stage: str, progress: Progress) -> tuple[Progress, list[dict[str, Any]]]:
    """Resume nothing."""
    return progress, []


@dataclasses.dataclass(frozen=True)
class Hooks:
    """What is told of a training, and may resume it.

    Attributes:
      listen: told `(stage, record)` after every epoch.
      on_progress: told `(stage, progress)` after every epoch, to save it.
      resume: given `(stage, progress before the first epoch)`, returns where to start, and the records of the epochs
        before that.
      prefix: stands before the names of the stages.
      log: a record per epoch with its stage; grows.
    """

    listen: EpochListener = _silent
    on_progress: Callable[[str, Progress], None] = _silent
    resume: Callable[[str, Progress], tuple[Progress, list[dict[str, Any]]]] = _from_the_start
    prefix: str = ""
    log: list[Mapping[str, Any]] = dataclasses.field(default_factory=list)


class Shared:
    """What the last fit to one train part made that a model's other settings can share, as `Shareable` has it."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self._made: Any = None

    def fit(self, name: str, train: Interactions, settings: Any) -> Model:
        """Fit a closed form or a rule."""
        family = registry.family(name)
        shareable = family.shareable
        if shareable is None:
            return family.fit(train, settings)
        key = (name, *(getattr(settings, setting) for setting in shareable.depends))
        if self._key != key:
            self._made = None  # before the next one needs the memory
            self._key, self._made = key, shareable.make(train, settings)
        return family.fit(train, settings, shared=self._made)


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A model after its last fit.

    Attributes:
      model: the fitted model.
      validation: its validation NDCG@100, from before a refit; None where it was not asked for.
      epochs: of the fit, the best one's number where validation chose it; 0 for a closed form or a rule.
      log: a record per epoch with its stage, and one for what a closed form decided.
    """

    model: Model
    validation: float | None
    epochs: int
    log: tuple[Mapping[str, Any], ...]


def fit_alone(
    name: str,
    settings: Any,
    parts: Split,
    *,
    seed: int,
    hooks: Hooks,
    validated: bool,
    shared: Shared | None = None,
) -> Fitted:
    """Fit a model that is not made of others; for the arguments see `aejax.experiment.fit_model`."""
    if parts.refit is not None and not validated and not registry.family(name).is_network:
        return Fitted(refit_alone(name, settings, parts.refit, 0, seed=seed, hooks=hooks), None, 0, tuple(hooks.log))
    fitted = select(name, settings, parts, seed=seed, hooks=hooks, shared=shared)
    if parts.refit is None:
        return fitted
    score, epochs = fitted.validation, fitted.epochs
    del fitted  # the refit may need the memory
    return Fitted(
        refit_alone(name, settings, parts.refit, epochs, seed=seed, hooks=hooks), score, epochs, tuple(hooks.log)
    )


def select(name: str, settings: Any, parts: Split, *, seed: int, hooks: Hooks, shared: Shared | None = None) -> Fitted:
    """Fit on the train part, with the number of epochs chosen on validation.

    Args:
      name: registry name.
      settings: the model's settings.
      parts: the split.
      seed: of everything random.
      hooks: told of every epoch.
      shared: what earlier settings of the same train part have left; None: nothing, and nothing is kept.

    Raises:
      InputError: the model scores NaN.
    """
    family = registry.family(name)
    validate = validator(parts.validation, once=not family.is_network)
    if family.is_network:
        key, _ = jax.random.split(jax.random.key(seed))
        model, progress = _train("select", name, parts.train, settings, key, validate, hooks)
        return Fitted(model, progress.best_score, progress.best_epoch, tuple(hooks.log))
    fit = family.fit if shared is None else partial(shared.fit, name)
    model = fit(parts.train, settings)
    _tell_of("select", model, hooks)
    score = validate(model)
    if math.isnan(score):
        raise InputError(f"{name} scored NaN (not a number) on validation; see --set for its settings")
    return Fitted(model, score, 0, tuple(hooks.log))


def refit_alone(name: str, settings: Any, lines: Interactions, epochs: int, *, seed: int, hooks: Hooks) -> Model:
    """Fit without validation, on train and validation together or on all there is, for the number of epochs that was
    chosen.
    """
    family = registry.family(name)
    if not family.is_network:
        model = family.fit(lines, settings)
        _tell_of("refit", model, hooks)
        return model
    _, key = jax.random.split(jax.random.key(seed))
    model, _ = _train("refit", name, lines, dataclasses.replace(settings, epochs=epochs), key, None, hooks)
    return model


def tell(stage: str, facts: Mapping[str, Any], hooks: Hooks) -> None:
    """Log what a fit decided, and say it."""
    stage = hooks.prefix + stage
    hooks.log.append({"stage": stage, **facts})
    hooks.listen(stage, facts)


def _tell_of(stage: str, model: Model, hooks: Hooks) -> None:
    if isinstance(model, Telling):
        tell(stage, model.facts, hooks)


def _train(
    stage: str,
    name: str,
    lines: Interactions,
    settings: Any,
    key: jax.Array,
    validate: Callable[[Model], float] | None,
    hooks: Hooks,
) -> tuple[Model, Progress]:
    stage = hooks.prefix + stage

    def on_epoch(progress: Progress, record: dict[str, float]) -> None:
        hooks.log.append({"stage": stage, **record})
        hooks.listen(stage, record)
        hooks.on_progress(stage, progress)

    def start(progress: Progress) -> Progress:
        progress, earlier = hooks.resume(stage, progress)
        hooks.log.extend(earlier)
        return progress

    return registry.family(name).fit(lines, settings, key=key, validate=validate, on_epoch=on_epoch, resume=start)
