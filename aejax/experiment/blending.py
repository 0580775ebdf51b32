"""`blend`: several models fitted apart, their scores standardised per customer and added with weights from validation.

    aejax fit DATA --model blend --set parts=ease,gfcf,multvae --settings FILE

The parts take their own settings from FILE. They are fitted on train alone, weighed on validation, and those with a
weight above 0 are fitted again on all that the protocol allows, with the weights fixed. A blend that is below its best
part on validation is that part alone; the log says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aejax import batching, evaluation, metrics, registry
from aejax.errors import InputError
from aejax.experiment.selecting import Fitted, Hooks, fit_alone, refit, select, tell
from aejax.models import Family, Model
from aejax.models.blend import Blend, standardise
from aejax.split import HeldOut, Split

# Scores of one part that the search holds: 2^26 cells, 256 MiB.
CELLS = 2**26
FACTORS = (0.0, 0.25, 0.5, 0.8, 1.25, 2.0, 4.0)
ROUNDS = 8


@dataclasses.dataclass(frozen=True)
class BlendSettings:
    """Settings of `blend`.

    Attributes:
      parts: names of the models.
      weights: of the parts, 0 for one left out; None: from validation.
      settings: part -> its own settings; defaults where it has none.
    """

    parts: tuple[str, ...] = ("ease", "gfcf", "multvae")
    weights: tuple[float, ...] | None = None
    settings: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

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
        own = {name: registry.make_settings(name, self.settings.get(name, {})) for name in self.parts}
        object.__setattr__(self, "settings", {name: registry.as_json(settings) for name, settings in own.items()})
        if self.weights is None:
            return
        if len(self.weights) != len(self.parts) or min(self.weights) < 0 or not max(self.weights) > 0:
            raise InputError(
                f"weights is {','.join(map(str, self.weights))}; expected {len(self.parts)} numbers of 0 or more, not "
                "all 0, one for each of parts"
            )

    def of(self, part: str) -> Any:
        """The settings of a part."""
        return registry.make_settings(part, self.settings[part])


def fit_blend(settings: BlendSettings, parts: Split, *, seed: int, hooks: Hooks, validated: bool) -> Fitted:
    """Fit the parts, weigh them, and fit those that count again; for the arguments see `aejax.experiment.fit_model`.

    Where the weights are given and their score is not asked for, each part is fitted as it would be alone.
    """
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
    weights = find_weights(models, parts.validation) if given is None else [weight for weight in given if weight > 0]
    validate = evaluation.validator(parts.validation, once=True)
    score = validate(Blend(models, weights, range(len(names))))
    if given is None and score < max(alone.values()):
        # Weights from some of the customers may lose on all of them.
        best = max(alone, key=alone.__getitem__)
        weights, score = [float(name == best) for name in names], alone[best]
    kept = [(name, weight) for name, weight in zip(names, weights, strict=True) if weight > 0]
    weighed = dict(zip(names, map(float, weights), strict=True))
    tell("blend", {"weights": weighed, "validation": score, "parts": alone}, hooks)
    models = [selected[name].model for name, _ in kept]
    if parts.refit is not None:
        selected.clear()
        models.clear()  # the refits may need the memory
        for name, _ in kept:
            own = settings.of(name)
            models.append(refit(name, own, parts.refit, epochs[name], seed=seed, hooks=hooks_of[name]))
    blend = _blend(settings, [name for name, _ in kept], models, [weight for _, weight in kept])
    return Fitted(blend, score, max(epochs.values()), tuple(hooks.log))


def _blend(settings: BlendSettings, names: Sequence[str], models: Sequence[Model], weights: Sequence[float]) -> Blend:
    return Blend(models, weights, [settings.parts.index(name) for name in names])


@jax.jit
def _ndcg(
    scores: jax.Array,
    weights: jax.Array,
    seen: jax.Array,
    targets: jax.Array,
    counts: jax.Array,
    offered: jax.Array | None,
) -> jax.Array:
    """Part scores `[P, n, I]`, weights `[P]`, padded seen and targets `[n, L]`, items offered `[I]` -> summed
    NDCG@100.
    """
    blended = jnp.einsum("pni,p->ni", scores, weights, precision="highest")
    _, hits, _ = evaluation.hits_of(blended, seen, targets, offered, metrics.DEPTH)
    return evaluation.total_ndcg(hits, counts)


def find_weights(models: Sequence[Model], part: HeldOut) -> tuple[float, ...]:
    """Weights that add up to 1, by coordinate ascent of NDCG@100 on the part's customers, or on as many of them, spread
    evenly, as memory holds.
    """
    items = part.targets.shape[1]
    count = min(len(part), max(1, CELLS // items))
    some = part.take(np.unique(np.linspace(0, len(part) - 1, count).round().astype(int)))
    together = Blend(models, [1.0] * len(models), range(len(models)))
    scored = [
        (jnp.stack([standardise(model.scores(own)) for model, own in zip(models, piece.batch, strict=True)]), piece)
        for piece in evaluation.chunks(together, some, batching.scoring_chunk(items))
    ]

    offered = None if part.offered is None else jnp.asarray(part.offered)

    def score(weights: np.ndarray) -> float:
        at = jnp.asarray(weights, dtype=jnp.float32)
        totals = [_ndcg(stack, at, piece.seen, piece.targets, piece.counts, offered) for stack, piece in scored]
        return float(jax.device_get(jnp.stack(totals).sum())) / len(some)

    starts = [*np.eye(len(models)), np.full(len(models), 1.0 / len(models))]
    best, weights = max(((score(start), start) for start in starts), key=lambda found: found[0])
    for _ in range(ROUNDS):
        before = best
        for part_number in range(len(models)):
            for changed in _changes(weights, part_number):
                found = score(changed)
                # Of equals the one with a part fewer.
                if found > best or (found == best and np.count_nonzero(changed) < np.count_nonzero(weights)):
                    best, weights = found, changed
        if best == before:
            break
    return tuple(float(weight) for weight in weights)


def _changes(weights: np.ndarray, part: int) -> list[np.ndarray]:
    """The weights with one of them changed, adding up to 1; a part with none is given some."""
    values = weights[part] * np.array(FACTORS) if weights[part] else weights.max() * np.array([0.1, 0.3, 1.0])
    changes = []
    for value in values:
        changed = weights.copy()
        changed[part] = value
        if changed.sum() > 0:
            changes.append(changed / changed.sum())
    return changes


def _restore(state: Mapping[str, Any], settings: BlendSettings, *, items: int) -> Model:
    """The blend whose `state()` that was."""
    positions = [int(position) for position in np.asarray(state["positions"])]
    models = []
    for number, position in enumerate(positions):
        name = settings.parts[position]
        models.append(registry.family(name).restore(state[str(number)], settings.of(name), items=items))
    return Blend(models, [float(weight) for weight in np.asarray(state["weights"])], positions)


FAMILY = Family(BlendSettings, {}, fit_blend, _restore, is_network=True, fits_split=True)
