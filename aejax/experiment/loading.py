"""Finished runs, loaded: evaluated again, and put to use."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from aejax import attributes, recommendation, registry, runs
from aejax.config import RunConfig
from aejax.errors import InputError, ResourceError
from aejax.experiment.fitting import evaluate_test, metrics_json
from aejax.experiment.preparing import Prepared, prepare_dataset, titles
from aejax.interactions import Interactions, onto
from aejax.models import Model
from aejax.tables import text


def _silent(sentence: str) -> None:
    """Tell no one."""


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

    @property
    def learned(self) -> Interactions:
        """What the model was fitted on at last; of one in production, all order lines."""
        parts = self.prepared.split
        if self.config.production is not None:
            return self.prepared.interactions
        return parts.train if parts.refit is None else parts.refit


def load_run(run: Path) -> Run:
    """Load a run from its directory alone.

    Raises:
      InputError: it is missing, unfinished, damaged or of another version.
    """
    runs.repair(run.parent)  # of a comparison's best run
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


def recommend(
    run: Run,
    *,
    top: int = 10,
    repeat: str | None = None,
    customers: Sequence[str] | None = None,
    known: recommendation.Known | None = None,
    include_new: float = 0.0,
    say: Callable[[str], None] = _silent,
) -> Iterator[pd.DataFrame]:
    """Recommendations for the customers given, by default for every customer of any file, from what is known on a day
    (`known_on`), by default from all orders; see `recommendation`. `say` is told why customers without orders get no
    lists by their attributes, where they have too many.

    Raises:
      InputError: `include_new` is no share, or the run knows no new products or its model cannot score them.
    """
    if not 0.0 <= include_new <= 1.0:
        raise InputError(f"--include-new is {include_new:g}; expected a share of the places, 0 to 1, such as 0.2")
    settings = registry.make_settings(run.config.model, run.config.settings)
    uses_attributes = registry.family(run.config.model).uses_attributes(settings)
    if include_new and not (run.config.data.new_products and uses_attributes):
        raise InputError(
            f"--include-new {include_new:g} needs a run that was fitted with --new-products and whose model uses "
            f"attributes; fit it again with one of these models: {registry.attribute_models()}"
        )
    new_places = int(include_new * top + 1e-9)  # floating point: 0.3 of 10 places are 3
    if include_new and not new_places:
        raise InputError(
            f"--include-new {include_new:g} of --top {top} is less than one place; give a larger share, or --top "
            f"{math.ceil(1 / include_new)} or more"
        )
    dataset = run.prepared.dataset
    ids = list(dataset.customers["customer_id"]) if customers is None else customers
    segments = registry.family("popularity-segment")

    def fit_segments(bought: Interactions) -> Model | None:
        try:
            return segments.fit(bought, segments.settings())
        except ResourceError as problem:
            say(f"Note: customers without orders get the most popular products: {problem}.")
            return None

    return recommendation.recommend(
        run.model,
        known_on(run)[0] if known is None else known,
        ids,
        titles(dataset),
        top=top,
        repeat=repeat or run.prepared.split_config.repeat,
        new_places=new_places,
        segments=attributes.encode(run.prepared.attributes["customers"], dataset.customers, ids),
        for_unknown=fit_segments,
    )


def write_recommendations(
    run: Run,
    out: Path,
    *,
    top: int = 10,
    repeat: str | None = None,
    customers: Sequence[str] | None = None,
    known: recommendation.Known | None = None,
    include_new: float = 0.0,
    say: Callable[[str], None] = _silent,
) -> dict[str, int]:
    """Stream recommendations to a .csv or .parquet file, whole or not at all.

    Returns:
      Counts of `rows`, of those of new products by their `attributes`, of `customers`, and of those among them who got
      `popular` products, or lists by `customer-attributes` or of the `mean-customer`; see `recommendation.recommend`.
    """
    counts = {"rows": 0, "attributes": 0, "customers": 0, **dict.fromkeys(recommendation.BASES, 0)}
    types = dict.fromkeys(recommendation.COLUMNS, pa.string()) | {"rank": pa.int32(), "score": pa.float32()}
    schema = pa.schema(types)
    frames = recommend(run, top=top, repeat=repeat, customers=customers, known=known, include_new=include_new, say=say)
    with runs.whole_file(out) as partial:
        make = pq.ParquetWriter if out.suffix == ".parquet" else pc.CSVWriter
        with make(partial, schema) as writer:
            for frame in frames:
                writer.write_table(pa.Table.from_pandas(frame, schema, preserve_index=False))
                first = frame[frame["rank"] == 1]
                counts["rows"] += len(frame)
                counts["customers"] += len(first)
                counts["attributes"] += list(frame["basis"]).count("attributes")
                for basis in recommendation.BASES:
                    counts[basis] += frame.loc[frame["basis"] == basis, "customer_id"].nunique()
    return counts


def read_customers(path: Path) -> list[str]:
    """Ids from the column `customer_id` of a CSV file, or from a .txt file with one id a line; repeated ids count once.

    Raises:
      InputError: the file is missing, cannot be read as such, or holds no id.
    """
    if not path.is_file():
        raise InputError(f"--customers {path} is no file; expected a CSV file with a column customer_id")
    if path.suffix == ".txt":
        file = text.without_header(path, ["customer_id"], separator="\t")
    else:
        file = text.open_text(path)
        text.require_columns(file, {"customer_id": ("id", "customer", "customers", "user_id")})
    column = text.coded(text.read_columns(file, ["customer_id"])["customer_id"])
    ids = [column.text(row) for row in range(len(column.codes))]
    found = list(dict.fromkeys(name for name in ids if name))
    if not found:
        raise InputError(f"--customers {path} holds no customer id")
    return found


def largest_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """The largest absolute difference between the figures of two metrics.json, those of both tasks among them.

    Raises:
      InputError: one has no such figures.
    """
    try:
        ours, theirs = ({"metrics": file["metrics"], "tasks": file.get("tasks", {})} for file in (one, other))
        return max(_differences(ours, theirs), default=0.0)
    except (KeyError, TypeError):
        raise InputError("metrics.json of the run is damaged: it has not the figures of a run; fit it again") from None


def _differences(one: Any, other: Any) -> Iterator[float]:
    """Absolute differences between the numbers of two trees of the same form; intervals are left out."""
    if isinstance(one, Mapping):
        if one.keys() != other.keys():
            raise KeyError
        for key in one.keys() - {"ci95"}:
            yield from _differences(one[key], other[key])
    elif isinstance(one, list):
        if len(one) != len(other):
            raise KeyError
        for mine, theirs in zip(one, other, strict=True):
            yield from _differences(mine, theirs)
    else:
        yield abs(one - other)
