from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

from aejax import batching, evaluation, metrics
from aejax.errors import InputError
from aejax.interactions import Histories, Interactions
from aejax.models import popularity
from aejax.split import HeldOut, split
from aejax.tasks import KIND_KEYS, evaluate_tasks, report_tasks


@dataclasses.dataclass(frozen=True)
class TableModel:
    """Scores written down beforehand, a row per customer."""

    table: np.ndarray
    lines: Interactions
    sign: int = 1

    def encode(self, histories: Histories) -> np.ndarray:
        return self.table[self.lines.users.index(histories.lines.users.ids)]

    def scores(self, batch: np.ndarray) -> jax.Array:
        return self.sign * jnp.asarray(batch)

    def state(self) -> np.ndarray:
        return self.table


@pytest.fixture(scope="module")
def part(tiny_lines) -> HeldOut:
    return split(tiny_lines, protocol="items", seed=3).test


@pytest.fixture(scope="module")
def model(tiny_lines) -> TableModel:
    shape = (len(tiny_lines.users), len(tiny_lines.items))
    return TableModel(np.random.default_rng(5).normal(size=shape).astype(np.float32), tiny_lines)


def take(part: HeldOut, count: int) -> HeldOut:
    """The first `count` users of a part."""
    return HeldOut(
        part.users[:count],
        part.inputs.take(0, count),
        sp.csr_array(part.targets[:count]),
        sp.csr_array(part.seen[:count]),
        part.left_out,
    )


def assert_same(one: evaluation.Evaluation, other: evaluation.Evaluation) -> None:
    assert one.values.keys() == other.values.keys() == set(metrics.KEYS)
    np.testing.assert_array_equal(one.users, other.users)
    for key, values in one.values.items():
        np.testing.assert_array_equal(values, other.values[key], err_msg=key)
    assert one.coverage == other.coverage


@pytest.mark.parametrize("chunk", [1, 7, 60, 500])
def test_the_result_does_not_depend_on_the_chunk(model, part, chunk):
    assert_same(evaluation.evaluate(model, part, chunk=chunk), evaluation.evaluate(model, part))


def test_renumbering_the_items_changes_nothing(model, part):
    # The table has no equal scores; with ties the lower index wins, and numbering matters.
    order = np.random.default_rng(2).permutation(part.targets.shape[1])
    renumbered = dataclasses.replace(
        part, targets=sp.csr_array(part.targets[:, order]), seen=sp.csr_array(part.seen[:, order])
    )
    of_renumbered = TableModel(model.table[:, order], model.lines)
    assert_same(evaluation.evaluate(of_renumbered, renumbered), evaluation.evaluate(model, part))


def test_each_user_is_scored_by_a_plain_count(model, part):
    result = evaluation.evaluate(model, part, chunk=16)
    targets, seen = part.targets.toarray() > 0, part.seen.toarray() > 0
    lists = []
    for row, user in enumerate(part.users):
        order = [i for i in np.argsort(-model.table[user]) if not seen[row, i]]
        lists.append(order[:10])
        hits = targets[row, order[:10]].sum()
        assert result.values["precision@10"][row] == pytest.approx(hits / 10)
        assert result.values["recall_all@10"][row] == pytest.approx(hits / targets[row].sum())
        assert result.values["recall@100"][row] == 1.0  # no target is seen, and 100 positions hold every item
    assert result.coverage == len(set(np.concatenate(lists))) / targets.shape[1]


@dataclasses.dataclass(frozen=True)
class Acquainted(TableModel):
    """One that was trained on the first customers of the alphabet."""

    trained_on: int = 0

    def unknown(self, histories):
        return np.flatnonzero(~np.isin(histories.lines.users.ids, self.lines.users.ids[: self.trained_on]))


def test_customers_whom_the_model_does_not_know_are_counted_and_noted(model, part):
    assert evaluation.evaluate(model, part).unknown == 0
    assert evaluation.evaluate(model, part).note == ""
    acquainted = Acquainted(model.table, model.lines, trained_on=int(part.users[-3]))
    result = evaluation.evaluate(acquainted, part, chunk=16)
    assert result.unknown == 3
    assert result.note.startswith(f"the model, or a part of it, does not know 3 of the {len(part)} customers")


def test_coverage_of_one_list_for_all(tiny_lines, part):
    same_for_all = popularity.fit(tiny_lines, popularity.PopularitySettings())
    unseen = dataclasses.replace(part, seen=sp.csr_array(part.seen.shape, dtype=np.float32))
    assert evaluation.evaluate(same_for_all, unseen).coverage == pytest.approx(10 / len(tiny_lines.items))


def test_padding_rows_do_not_count(model, part):
    # 3 users in chunks of 2 leave one padding row, a copy of the last user with nothing masked: its list would hold
    # what that user has seen, which nobody else is recommended.
    few = take(part, 3)
    seen_by_last = few.seen.toarray()[2] > 0
    table = model.table.copy()
    table[few.users[:2]] -= 50 * seen_by_last
    table[few.users[2]] += 50 * seen_by_last
    planted = TableModel(table, model.lines)
    in_chunks = evaluation.evaluate(planted, few, chunk=2)
    assert_same(in_chunks, evaluation.evaluate(planted, few, chunk=3))
    assert all(len(values) == 3 for values in in_chunks.values.values())
    unmasked = dataclasses.replace(few, seen=sp.csr_array(few.seen.shape, dtype=np.float32))
    assert in_chunks.coverage < evaluation.evaluate(planted, unmasked, chunk=3).coverage


@pytest.mark.parametrize("chunk", [8, 512])
def test_the_validator_is_the_mean_of_evaluate(model, part, chunk, monkeypatch):
    monkeypatch.setattr(batching, "scoring_chunk", lambda count: chunk)
    assert len(part) % 8  # 8: the last chunk has padding rows
    validate = evaluation.validator(part)
    for other in (model, dataclasses.replace(model, sign=-1)):  # two models, encoded once
        expected = evaluation.evaluate(other, part).values[evaluation.VALIDATION_METRIC].mean()
        assert validate(other) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("seen", [True, False])
def test_one_nan_stops_evaluation_and_makes_the_validation_score_nan(model, part, seen):
    table = model.table.copy()
    row = len(part) - 1
    item = np.flatnonzero((part.seen.toarray()[row] > 0) == seen)[0]  # a mask must not hide it
    table[part.users[row], item] = np.nan
    with pytest.raises(InputError, match="NaN"):
        evaluation.evaluate(TableModel(table, model.lines), part, chunk=16)
    assert np.isnan(evaluation.validator(part)(TableModel(table, model.lines)))


@pytest.mark.parametrize("shape", [(3, 7), (100, 1_682), (512, 17_107)])
def test_one_nan_among_many_scores_is_found(shape):
    """At these sizes the largest of a row, as XLA finds it on a CPU, is no NaN."""
    scores, seen = jax.random.normal(jax.random.key(0), shape), jnp.full((shape[0], 1), shape[1])
    assert not evaluation.lists_of(scores, seen)[1]
    for row, item in ((0, 0), (shape[0] // 2, shape[1] // 3), (shape[0] - 1, shape[1] - 1)):
        assert evaluation.lists_of(scores.at[row, item].set(jnp.nan), seen)[1]
    assert evaluation.lists_of(jnp.full(shape, jnp.nan), seen)[1]


# Both tasks


def repeating(lines: Interactions) -> Interactions:
    """The tiny shop with a third as many products, so that much is bought again."""
    return dataclasses.replace(lines, item=lines.item % 10)


@pytest.fixture(scope="module", params=["last-order", "time"])
def tasks(request, tiny_lines):
    found = split(repeating(tiny_lines), protocol=request.param).tasks
    assert len(found["include"]) > len(found["exclude"]) > 3
    return found


@pytest.mark.parametrize("chunk", [1, 7, 500])
def test_both_tasks_at_once_are_each_alone(model, tasks, chunk):
    result = evaluate_tasks(model, tasks, chunk=chunk)
    assert result.keys() == {"include", "exclude"}
    for name, part in tasks.items():
        alone = evaluation.evaluate(model, part)
        assert result[name].whole.coverage == alone.coverage
        np.testing.assert_array_equal(result[name].whole.users, alone.users)
        for key, values in alone.values.items():  # chunks of other sizes sum in another order
            np.testing.assert_allclose(result[name].whole.values[key], values, rtol=1e-6, err_msg=key)


def test_each_customer_is_encoded_and_scored_once(model, tasks, monkeypatch):
    scored = []
    original = TableModel.scores
    monkeypatch.setattr(TableModel, "scores", lambda self, batch: scored.append(len(batch)) or original(self, batch))
    evaluate_tasks(model, tasks)
    assert scored == [len(tasks["include"])]


def test_repeat_and_new_targets_are_counted_apart_in_the_same_lists(model, tasks):
    result = evaluate_tasks(model, tasks)["include"]
    wide = tasks["include"]
    bought = {(int(u), int(i)) for u, i in zip(wide.users[wide.inputs.lines.user], wide.inputs.lines.item, strict=True)}
    found = {"repeat_targets": {}, "new_targets": {}}
    totals = dict.fromkeys(found, 0)
    for row, user in enumerate(wide.users.tolist()):
        top = np.argsort(-model.table[user, :10], kind="stable").tolist()  # of the ten that are sold nothing is masked
        targets = wide.targets[[row]].indices.tolist()
        for kind in found:
            own = [item for item in targets if ((user, item) in bought) == (kind == "repeat_targets")]
            totals[kind] += len(own)
            if own:
                found[kind][user] = len(set(top) & set(own)) / len(own)
    for name, expected in found.items():
        kind = getattr(result, name)
        assert kind.values.keys() == set(KIND_KEYS)
        assert kind.users.tolist() == list(expected)
        np.testing.assert_allclose(kind.values["recall_all@10"], list(expected.values()), rtol=1e-6)
        assert kind.targets == totals[name]
        assert kind.share == totals[name] / wide.targets.nnz
    assert min(totals.values()) > 0


@pytest.mark.parametrize("predicts", [False, True])
def test_the_share_of_repeats_is_what_a_model_says_where_it_does_and_else_that_of_its_list(
    model, tasks, predicts, monkeypatch
):
    monkeypatch.setattr(TableModel, "predicts_repeats", predicts, raising=False)
    said = lambda self, batch, scores: jax.nn.sigmoid(scores[:, 0] - jnp.asarray(batch)[:, 1])  # noqa: E731
    monkeypatch.setattr(TableModel, "share_of_repeats", said, raising=False)
    calibration = evaluate_tasks(model, tasks, chunk=7)["include"].calibration
    wide = tasks["include"]
    bought = {(int(u), int(i)) for u, i in zip(wide.users[wide.inputs.lines.user], wide.inputs.lines.item, strict=True)}
    count = wide.targets.shape[1]
    for row, user in enumerate(wide.users.tolist()):
        own = [item for item in range(count) if (user, item) in bought]
        offered = np.ones(count, dtype=bool) if wide.offered is None else wide.offered
        top = np.argsort(np.where(offered, -model.table[user], np.inf), kind="stable")[
            : min(10, offered.sum())
        ].tolist()
        odds = np.exp(float(model.table[user, 0] - model.table[user, 1]))
        expected = odds / (1 + odds) if predicts else len(set(top) & set(own)) / len(top)
        assert calibration.predicted[row] == pytest.approx(expected, rel=1e-5)
        targets = wide.targets[[row]].indices.tolist()
        assert calibration.observed[row] == len(set(targets) & set(own)) / len(targets)
    report = calibration.report()
    assert sum(group["users"] for group in report["groups"]) == len(wide)
    means = [group["predicted"] for group in report["groups"]]
    assert means == sorted(means) and means[0] < report["predicted"] < means[-1]
    order = np.argsort(calibration.predicted, kind="stable")
    first = order[: report["groups"][0]["users"]]
    assert report["groups"][0]["observed"] == pytest.approx(calibration.observed[first].mean())


def test_the_first_time_has_no_repeats(model, tasks):
    result = evaluate_tasks(model, tasks)["exclude"]
    assert result.calibration is None
    assert (result.repeat_targets.targets, result.repeat_targets.share, len(result.repeat_targets.users)) == (0, 0.0, 0)
    assert (result.new_targets.targets, result.new_targets.share) == (tasks["exclude"].targets.nnz, 1.0)
    for key in KIND_KEYS:
        np.testing.assert_array_equal(result.new_targets.values[key], result.whole.values[key])


def test_a_task_without_anyone_has_no_figures(model, tiny_lines, tasks):
    """Nobody bought anything new."""
    wide = tasks["include"]
    nobody = dataclasses.replace(wide.take(np.arange(0)), left_out=60)
    result = evaluate_tasks(model, {"include": wide, "exclude": nobody})
    report = report_tasks(result, {"include": 0, "exclude": 60})
    assert (report["exclude"]["users"], report["exclude"]["users_left_out"], report["exclude"]["metrics"]) == (
        0,
        60,
        {},
    )
    assert report["exclude"]["new_targets"] == {"targets": 0, "share": 0.0, "users": 0, "metrics": {}}
    assert report["include"]["repeat_targets"]["share"] == 1.0
    assert report["include"]["new_targets"]["metrics"] == {}


def test_a_nan_stops_both_tasks(model, tasks):
    table = model.table.copy()
    table[tasks["include"].users[-1], 0] = np.nan
    with pytest.raises(InputError, match="NaN"):
        evaluate_tasks(TableModel(table, model.lines), tasks)


def test_the_interval_contains_the_mean_and_shrinks_with_the_root_of_n():
    values = np.random.default_rng(0).beta(0.5, 2.0, 6400).astype(np.float32)
    widths = {}
    for n in (100, 6400):
        entry = evaluation.mean_with_interval({"ndcg@10": values[:n]})["ndcg@10"]
        low, high = entry["ci95"]
        assert low < entry["mean"] < high
        assert entry["mean"] == pytest.approx(values[:n].mean(), abs=1e-6)
        widths[n] = high - low
        # The normal interval of a mean, within what 1,000 resamples can tell.
        assert widths[n] == pytest.approx(2 * 1.96 * values[:n].std() / np.sqrt(n), rel=0.15)
    assert widths[100] / widths[6400] == pytest.approx(8, rel=0.3)


def test_the_interval_is_the_same_every_time_and_all_metrics_share_the_draws():
    values = np.random.default_rng(1).random(50)
    once = evaluation.mean_with_interval({"a": values, "b": 2 * values})
    assert evaluation.mean_with_interval({"a": values, "b": 2 * values}) == once
    np.testing.assert_allclose(once["b"]["ci95"], 2 * np.array(once["a"]["ci95"]), rtol=1e-6)


def test_users_who_are_all_alike_leave_no_interval():
    entry = evaluation.mean_with_interval({"a": np.full(30, 0.1)})["a"]
    np.testing.assert_allclose([entry["mean"], *entry["ci95"]], 0.1, rtol=1e-6)
