"""What a blend learns on validation: a weight for each part, or a gate, whose weights depend on the customer and on
what the customer has bought.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.special

from aejax import batching, evaluation, ranking, rhythm
from aejax.interactions import Interactions
from aejax.matrix import history_matrix
from aejax.models import Model
from aejax.models.blend import Blend, Gate, GateWeights, OwnBatch, gated, log_odds_of_repeats
from aejax.split import HeldOut

# Scores of one part that are held: 2^26 cells, 256 MiB.
CELLS = 2**26
FACTORS = (0.0, 0.25, 0.5, 0.8, 1.25, 2.0, 4.0)
ROUNDS = 8
# Ridge on a gate's weights, beside the mean negative log-likelihood of a customer.
RIDGE = 1e-3
STEPS = 100
# Products of a customer that a gate learns from: the first so many by the fixed weights. What stands behind them is out
# of a list's reach, and a likelihood of it would outweigh the order of the first.
CANDIDATES = 256


class Example(NamedTuple):
    """Customers of the validation part, scored.

    Attributes:
      scores: `[P, B, I]`, standardised, of the parts.
      own: what the customers have bought, for a gate; None where there is none.
      seen: `[B, L]` items padded with I, what must not be recommended.
      targets: `[B, L]` items padded with I.
      counts: `[B]`, number of targets, 0 for padding.
      offered: `[I]` bool, what may be recommended; None: everything.
    """

    scores: jax.Array
    own: OwnBatch | None
    seen: jax.Array
    targets: jax.Array
    counts: jax.Array
    offered: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Scored:
    """The validation part, scored once by every part of a blend.

    Attributes:
      part: its customers, or of many as many, spread evenly, as `CELLS` holds the scores of.
      examples: the same, scored, a chunk of customers each.
      start: a gate that gives every part the same weight, with the features' scales; None where none is to be learned.
    """

    part: HeldOut
    examples: Sequence[Example]
    start: Gate | None

    @property
    def parts(self) -> int:
        """P."""
        return len(self.examples[0].scores)

    def ndcg(self, weights: Sequence[float] | np.ndarray | GateWeights) -> float:
        """Mean NDCG@100 with a weight for each part, or with those of a gate."""
        at = weights if isinstance(weights, GateWeights) else jnp.asarray(weights, dtype=jnp.float32)
        totals = [_ndcg(at, example) for example in self.examples]
        return float(jax.device_get(jnp.stack(totals).sum())) / len(self.part)


def score_part(models: Sequence[Model], part: HeldOut, train: Interactions | None = None) -> Scored:
    """Score a held-out part by the parts of a blend.

    Args:
      models: the parts.
      part: whose customers are scored; of many as many, spread evenly, as `CELLS` holds the scores of.
      train: what the models were fitted on, with orders and dates, where a gate is to be learned; None: it is not.
    """
    count = min(len(part), max(1, CELLS // part.targets.shape[1]))
    some = part.take(np.unique(np.linspace(0, len(part) - 1, count).round().astype(int)))
    start = None if train is None else _start(train, some, len(models))
    blend = Blend(models, [1.0] * len(models), range(len(models)), start)
    offered = None if part.offered is None else jnp.asarray(part.offered)
    examples = [
        Example(
            jnp.stack(blend.scores_of_parts(piece.batch)),
            piece.batch.own,
            piece.seen,
            piece.targets,
            piece.counts,
            offered,
        )
        for piece in evaluation.chunks(blend, some, batching.scoring_chunk(part.targets.shape[1]))
    ]
    return Scored(some, examples, start)


def _logits(weights: jax.Array | GateWeights, example: Example) -> jax.Array:
    """Scores `[B, I]` with a weight for each part `[P]`, or with those of a gate."""
    if not isinstance(weights, GateWeights):
        return jnp.einsum("pni,p->ni", example.scores, weights, precision="highest")
    assert example.own is not None
    return gated(example.scores, example.own, weights)


@jax.jit
def _ndcg(weights: jax.Array | GateWeights, example: Example) -> jax.Array:
    """Summed NDCG@100."""
    logits = _logits(weights, example)
    top, _ = evaluation.lists_of(logits, example.seen, example.offered)
    return evaluation.total_ndcg(top, example.targets, example.counts, logits.shape[1])


def find_weights(scored: Scored) -> tuple[float, ...]:
    """Weights that add up to 1, by coordinate ascent of NDCG@100."""
    starts = [*np.eye(scored.parts), np.full(scored.parts, 1.0 / scored.parts)]
    best, weights = max(((scored.ndcg(start), start) for start in starts), key=lambda found: found[0])
    for _ in range(ROUNDS):
        before = best
        for part_number in range(scored.parts):
            for changed in _changes(weights, part_number):
                found = scored.ndcg(changed)
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


class Candidates(NamedTuple):
    """The C products of n customers that a gate learns from.

    Attributes:
      scores: `[P, n, C]`, standardised, of the parts.
      own: which of them the customers have bought, by their place among the C.
      is_open: `[n, C]`, may be recommended.
      is_target: `[n, C]`.
    """

    scores: jax.Array
    own: OwnBatch
    is_open: jax.Array
    is_target: jax.Array


class LearnedGate(NamedTuple):
    """A gate and what it is worth, each as mean NDCG@100 of the customers that it was learned from.

    Attributes:
      gate: learned on all of them.
      with_gate: of each half of them with a gate learned on the other half.
      without_gate: with the fixed weights.
    """

    gate: Gate
    with_gate: float
    without_gate: float


def may_repeat(part: HeldOut) -> bool:
    """Whether anything that its customers bought before may be recommended to them."""
    bought = history_matrix(part.inputs)
    return bought.nnz > bought.multiply(part.seen).nnz


def learn_gate(scored: Scored, weights: Sequence[float]) -> LearnedGate:
    """Maximum likelihood of a gate: each customer's targets are drawn from the softmax of the candidates' logits.

    Args:
      scored: the part whose targets are learned from, scored for a gate.
      weights: fixed ones of the parts, which choose the candidates.
    """
    start, examples = scored.start, scored.examples
    assert start is not None
    fixed = jnp.asarray(weights, dtype=jnp.float32)
    pieces = [_candidates(example, fixed) for example in examples]
    candidates = Candidates(
        jnp.concatenate([piece.scores for piece in pieces], axis=1),
        jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *(piece.own for piece in pieces)),
        jnp.concatenate([piece.is_open for piece in pieces]),
        jnp.concatenate([piece.is_target for piece in pieces]),
    )
    which = np.concatenate([np.arange(len(example.counts)) % 2 for example in examples])[:, None]
    with_gate = 0.0
    for half in (0, 1):
        learned = _learn(candidates._replace(is_target=candidates.is_target & (which == half)), start.weights)
        others = dataclasses.replace(scored, examples=[_half(example, 1 - half) for example in examples])
        with_gate += others.ndcg(learned)
    weights_of_all = _learn(candidates, start.weights)
    gate = dataclasses.replace(start, weights=weights_of_all, line=_line(weights_of_all, scored))
    return LearnedGate(gate, with_gate, scored.ndcg(weights))


def _line(weights: GateWeights, scored: Scored) -> np.ndarray:
    """`Gate.line`: maximum likelihood of the share of repeats in each customer's targets."""
    part = scored.part
    odds = np.concatenate([np.asarray(_log_odds(weights, example)) for example in scored.examples])[: len(part)]
    odds = odds.astype(np.float64)
    repeats = part.targets.multiply(history_matrix(part.inputs))
    share = np.asarray(repeats.sum(axis=1)).ravel() / np.maximum(np.diff(part.targets.indptr), 1)

    def objective(line: np.ndarray) -> tuple[float, np.ndarray]:
        likely = line[0] * odds + line[1]
        wrong = scipy.special.expit(likely) - share
        loss = (np.logaddexp(0.0, likely) - share * likely).mean()
        return loss + RIDGE * np.square(line).sum(), np.array([(wrong * odds).mean(), wrong.mean()]) + 2 * RIDGE * line

    found = scipy.optimize.minimize(objective, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B")
    return found.x.astype(np.float32)


@jax.jit
def _log_odds(weights: GateWeights, example: Example) -> jax.Array:
    assert example.own is not None
    return log_odds_of_repeats(_logits(weights, example), example.own.items)


def _start(train: Interactions, part: HeldOut, parts: int) -> Gate:
    """A gate that gives every part the same weight, with the features' scales."""
    read = rhythm.rhythm_of(train)
    own = rhythm.own_products(part.inputs, read)
    weights = GateWeights(
        jnp.zeros((2, parts)).at[0].set(1.0 / parts),
        jnp.zeros((2, parts)),
        jnp.zeros((2, 1 + len(rhythm.FEATURES))),
    )
    scales = [_scale(column) for column in (*own.features.T, own.activity)]
    return Gate(weights, read, np.array(scales, dtype=np.float32).T, np.array([1.0, 0.0], dtype=np.float32))


def _scale(column: np.ndarray) -> tuple[float, float, float, float]:
    """Mean, deviation, and the least and the largest standardised value."""
    if not len(column):
        return 0.0, 1.0, 0.0, 0.0
    mean, deviation = float(column.mean()), float(column.std()) or 1.0
    return mean, deviation, (float(column.min()) - mean) / deviation, (float(column.max()) - mean) / deviation


def _half(example: Example, which: int) -> Example:
    """The same with every other customer's targets taken away."""
    is_in = jnp.arange(len(example.counts)) % 2 == which
    return example._replace(
        targets=jnp.where(is_in[:, None], example.targets, example.scores.shape[2]),
        counts=jnp.where(is_in, example.counts, 0),
    )


@jax.jit
def _candidates(example: Example, weights: jax.Array) -> Candidates:
    """The first `CANDIDATES` products of each customer by fixed weights `[P]` of the parts."""
    count = example.scores.shape[2]
    rows = jnp.arange(example.scores.shape[1])[:, None]
    free = ranking.mask_items(ranking.offer_items(_logits(weights, example), example.offered), example.seen)
    _, items = ranking.top_k_items(free, min(CANDIDATES, count))
    assert example.own is not None
    own, places = example.own, jnp.arange(items.shape[1])[None, :]
    length = own.items.shape[1]
    numbers = jnp.full((len(rows), count), length).at[rows, own.items].set(jnp.arange(length)[None, :], mode="drop")
    of_own = numbers.at[rows, items].get(mode="fill", fill_value=length)
    return Candidates(
        example.scores.at[:, rows, items].get(mode="fill", fill_value=0.0),
        own._replace(
            items=jnp.where(of_own < length, places, items.shape[1]),
            features=own.features.at[rows, of_own].get(mode="fill", fill_value=0.0),
        ),
        items < count,
        ranking.membership(items, example.targets, count),
    )


def _unravelled(point: jax.Array, parts: int) -> GateWeights:
    """`[2 (2 P + 1 + F)]` -> the weights of a gate of P parts."""
    of_parts, own, features = jnp.split(point.reshape(2, -1), (parts, 2 * parts), axis=1)
    return GateWeights(of_parts, own, features)


@jax.jit
@partial(jax.value_and_grad, argnums=0)
def _loss(point: jax.Array, candidates: Candidates) -> jax.Array:
    """Negative log-likelihood of a target, mean over a customer's and then over the customers that have any, and the
    ridge on the weights.
    """
    weights = _unravelled(point, len(candidates.scores))
    logits = jnp.where(candidates.is_open, gated(candidates.scores, candidates.own, weights), -jnp.inf)
    share = jnp.where(candidates.is_target, jax.nn.log_softmax(logits, axis=1), 0.0)
    targets = candidates.is_target.sum(axis=1)
    mean = (share.sum(axis=1) / jnp.maximum(targets, 1)).sum() / jnp.maximum((targets > 0).sum(), 1)
    return RIDGE * jnp.square(point).sum() - mean


def _learn(candidates: Candidates, start: GateWeights) -> GateWeights:
    """The weights of the least loss, from `start`, by L-BFGS."""

    def objective(point: np.ndarray) -> tuple[float, np.ndarray]:
        loss, gradient = jax.device_get(_loss(point.astype(np.float32), candidates))
        return float(loss), gradient.astype(np.float64)

    options: dict[str, Any] = {"maxiter": STEPS}
    origin = np.concatenate([np.asarray(leaf, dtype=np.float64) for leaf in start], axis=1).ravel()
    found = scipy.optimize.minimize(objective, origin, jac=True, method="L-BFGS-B", options=options)
    return _unravelled(jnp.asarray(found.x, dtype=jnp.float32), len(candidates.scores))
