"""`blend`: several models fitted apart, their scores standardised per customer and added with weights from validation.

    aejax fit DATA --model blend --set parts=ease,gfcf,multvae --settings FILE

The parts take their own settings from FILE. They are fitted on train alone, weighed on validation, and those with a
weight above 0 are fitted again on all that the protocol allows, with the weights fixed. A blend that is below its best
part on validation is that part alone; the log says so.

Where orders have dates and what was bought before may be recommended, a gate is learned as well: weights that depend on
how active the customer is, on whether the customer has bought the product before, and on that product's rhythm
(`aejax.models.blend`). It is kept, with all parts, where it is above the fixed weights on validation, each half of the
customers with what was learned on the other half. Where validation has more customers than are learned from
(`aejax.experiment.weighing`), what was learned must win on those and, scored once more, on all of validation; the
validation score is always that of all, and there holds the customers that the gate was learned on too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aejax import evaluation, registry, rhythm
from aejax.errors import InputError
from aejax.experiment.selecting import Fitted, Hooks, fit_alone, refit_alone, select, tell
from aejax.experiment.weighing import find_weights, learn_gate, may_repeat, score_part
from aejax.interactions import Interactions
from aejax.models import Family, Model
from aejax.models.blend import Blend, Gate
from aejax.split import Split


@dataclasses.dataclass(frozen=True)
class BlendSettings:
    """Settings of `blend`.

    Attributes:
      parts: names of the models.
      weights: of the parts, 0 for one left out; None: from validation.
      gate: weights that depend on the customer and the product; None: where they are better on validation.
      settings: part -> its own settings; defaults where it has none.
      values: value transform of every part that has one; None: each part's own.
    """

    parts: tuple[str, ...] = ("ease", "gfcf", "multvae")
    weights: tuple[float, ...] | None = None
    gate: bool | None = None
    settings: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    values: str | None = None

    def __post_init__(self) -> None:
        if len(self.parts) < 2 or len(set(self.parts)) < len(self.parts) or "blend" in self.parts:
            raise InputError(
                f"parts is {','.join(self.parts)}; expected two or more different models, such as ease,gfcf"
            )
        for name, own in self.settings.items():
            registry.family(name)  # raises where there is no such model
            if not isinstance(own, Mapping):
                raise InputError(f"settings of {name} in a blend is {own}; expected a table such as {{'l2': 300}}")
        # All of them, defaults included: a run must not change when a default does.
        own = {name: registry.make_settings(name, self._given(name)) for name in self.parts}
        object.__setattr__(self, "settings", {name: registry.as_json(settings) for name, settings in own.items()})
        if self.weights is None:
            return
        if len(self.weights) != len(self.parts) or min(self.weights) < 0 or not max(self.weights) > 0:
            raise InputError(
                f"weights is {','.join(map(str, self.weights))}; expected {len(self.parts)} numbers of 0 or more, not "
                "all 0, one for each of parts"
            )
        if self.gate:
            raise InputError("gate is true, and weights are given; a gate learns its own: leave one of them out")

    def _given(self, part: str) -> dict[str, Any]:
        """What is given of a part's settings."""
        has_values = "values" in registry.field_types(registry.family(part).settings)
        shared = {"values": self.values} if self.values is not None and has_values else {}
        return {**self.settings.get(part, {}), **shared}

    def of(self, part: str) -> Any:
        """The settings of a part."""
        return registry.make_settings(part, self.settings[part])


def fit_blend(settings: BlendSettings, parts: Split, *, seed: int, hooks: Hooks, validated: bool) -> Fitted:
    """Fit the parts, weigh them, and fit those that count again; for the arguments see `aejax.experiment.fit_model`.

    Where the weights are given and their score is not asked for, each part is fitted as it would be alone.
    """
    if settings.gate and not (rhythm.is_timed(parts.train) and may_repeat(parts.validation)):
        raise InputError(
            "gate is true, which needs order ids and dates (order_id, created_at) and a --split and --repeat under "
            "which what was bought before may be recommended; leave gate out"
        )
    hooks_of = {name: dataclasses.replace(hooks, prefix=f"{name} ") for name in settings.parts}
    given = settings.weights
    names = [name for number, name in enumerate(settings.parts) if given is None or given[number] > 0]
    if given is not None and not validated and parts.refit is not None:
        fitted = [
            fit_alone(name, settings.of(name), parts, seed=seed, hooks=hooks_of[name], validated=False)
            for name in names
        ]
        blend = _blend(settings, names, [one.model for one in fitted], [weight for weight in given if weight > 0])
        return Fitted(blend, None, max(one.epochs for one in fitted), tuple(hooks.log))
    selected = {name: select(name, settings.of(name), parts, seed=seed, hooks=hooks_of[name]) for name in names}
    models = [selected[name].model for name in names]
    alone: dict[str, Any] = {name: one.validation for name, one in selected.items()}
    epochs = {name: one.epochs for name, one in selected.items()}
    validate = evaluation.validator(parts.validation, once=True)
    gate, worth = None, {}
    if given is None:
        gated = settings.gate is not False and rhythm.is_timed(parts.train) and may_repeat(parts.validation)
        scored = score_part(models, parts.validation, parts.train if gated else None)
        weights = find_weights(scored)
        whole = len(scored.part) == len(parts.validation)
        score = scored.ndcg(weights) if whole else validate(Blend(models, weights, range(len(names))))
        if score < max(alone.values()):
            # Weights from some of the customers may lose on all of them.
            best = max(alone, key=alone.__getitem__)
            weights, score = tuple(float(name == best) for name in names), alone[best]
        if gated:
            learned = learn_gate(scored, weights)
            worth = {"with_gate": learned.with_gate, "without_gate": learned.without_gate}
            if settings.gate or learned.with_gate > learned.without_gate:
                found = (
                    learned.with_gate if whole else validate(Blend(models, weights, range(len(names)), learned.gate))
                )
                if settings.gate or found > score:  # a gate from some of the customers may lose on all as well
                    gate, score = learned.gate, found
        del scored  # the refits may need the memory
    else:
        weights = [weight for weight in given if weight > 0]
        score = validate(Blend(models, weights, range(len(names))))
    kept = [(name, weight) for name, weight in zip(names, weights, strict=True) if weight > 0 or gate is not None]
    weighed = dict(zip(names, map(float, weights), strict=True))
    tell("blend", {"weights": weighed, "validation": score, **worth, "parts": alone}, hooks)
    models = [selected[name].model for name, _ in kept]
    blend = _blend(settings, [name for name, _ in kept], models, [weight for _, weight in kept], gate)
    if parts.refit is not None:
        chosen = {name: epochs[name] for name, _ in kept}
        blend = dataclasses.replace(blend, models=())  # the refits may need the memory
        selected.clear()
        models.clear()
        blend = refit_blend(blend, settings, parts.refit, chosen, seed=seed, hooks=hooks)
    return Fitted(blend, score, max(epochs.values()), tuple(hooks.log))


def refit_blend(
    blend: Blend, settings: BlendSettings, lines: Interactions, epochs: Mapping[str, int], *, seed: int, hooks: Hooks
) -> Blend:
    """Fit the parts that count once more, with the weights and the gate as they are.

    Args:
      blend: the fitted one.
      settings: of the blend.
      lines: purchases, those of train and validation or all there are.
      epochs: part -> the number of its epochs; a part that is not trained in epochs may be missing.
      seed: of everything random.
      hooks: told of every epoch.
    """
    names = [settings.parts[position] for position in blend.positions]
    models = [
        refit_alone(
            name,
            settings.of(name),
            lines,
            epochs.get(name, 0),
            seed=seed,
            hooks=dataclasses.replace(hooks, prefix=f"{name} "),
        )
        for name in names
    ]
    gate = blend.gate and dataclasses.replace(blend.gate, rhythm=rhythm.rhythm_of(lines))
    return dataclasses.replace(blend, models=models, gate=gate)


def _blend(
    settings: BlendSettings,
    names: Sequence[str],
    models: Sequence[Model],
    weights: Sequence[float],
    gate: Gate | None = None,
) -> Blend:
    return Blend(models, weights, [settings.parts.index(name) for name in names], gate)


def _restore(state: Mapping[str, Any], settings: BlendSettings, *, items: int) -> Model:
    """The blend whose `state()` that was."""
    positions = [int(position) for position in np.asarray(state["positions"])]
    models = []
    for number, position in enumerate(positions):
        name = settings.parts[position]
        models.append(registry.family(name).restore(state[str(number)], settings.of(name), items=items))
    gate = Gate.restore(state["gate"]) if "gate" in state else None
    return Blend(models, [float(weight) for weight in np.asarray(state["weights"])], positions, gate)


FAMILY = Family(BlendSettings, {}, fit_blend, _restore, is_network=True, refit=refit_blend)
