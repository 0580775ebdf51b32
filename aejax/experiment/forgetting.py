"""Customers taken out of a run: their order lines, attributes and ids, and the rows that models hold of them."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aejax import registry, runs
from aejax.errors import InputError
from aejax.experiment.loading import Run, load_run
from aejax.experiment.preparing import on_device, prepare_dataset
from aejax.interactions import Dataset, Interactions, reindex
from aejax.models import Model, RemovesCustomers
from aejax.models.blend import Blend
from aejax.quality import counted, shown


def forget(run: Path, customers: Sequence[str], say: Callable[[str], None] = lambda sentence: None) -> int:
    """Remove customers from a run, whole or not at all; its products, features and metrics.json stay what they are.

    Closed forms are solved again on what remains, and a network's vectors of these customers are removed; its other
    parameters remember them until it is trained again. Files in the run that name customers (the report and lists of
    recommendations) are removed. Where the run is the best of a comparison, the comparison's report goes too, and these
    customers' rows of its per_user.parquet; its figures stay what they are.

    Args:
      run: the directory.
      customers: their ids; those that the run does not know are counted.
      say: told in sentences what was done.

    Returns:
      How many customers were removed.

    Raises:
      InputError: the run knows none of them, or what remains is too little for its protocol.
    """
    loaded = load_run(run)
    old = loaded.prepared.dataset
    gone = set(customers) & {*old.customers["customer_id"], *old.interactions.users.ids}
    if not gone:
        raise InputError(f"none of the {counted(len(set(customers)), 'customer')} is in the data of {run}")
    dataset = without(loaded, gone)
    prepared = prepare_dataset(dataset, loaded.config.data, loaded.config.split)
    rest = dataclasses.replace(loaded, prepared=prepared)
    training = loaded.config.training
    with on_device(training.device, deterministic=training.deterministic):
        model = _without(loaded.config.model, loaded.model, loaded.config.settings, rest.learned, gone)
    with runs.whole_folder(run, overwrite=True) as unfinished:
        for name in ("environment.json", "metrics.json", "log.jsonl"):
            with runs.writing(unfinished):
                shutil.copyfile(run / name, unfinished / name)
        runs.write_data(unfinished, dataset)
        runs.save_state(unfinished / "state" / "model", model.state())
        runs.write_config(unfinished, loaded.config)
        # Before the run is: when this is cut off, the run still knows them, and the command can be given again.
        is_compared = _forget_in_comparison(run.parent, gone)
    lines = counted(len(old.interactions) - len(dataset.interactions), "order line")
    say(f"{counted(len(gone), 'customer')} and {lines} removed from {run}, and its report and lists of customers.")
    if is_compared:
        say(f"Their rows of {run.parent / 'per_user.parquet'} and the comparison's report are removed too.")
    if missing := len(set(customers) - gone):
        say(f"{counted(missing, 'customer')} of the file are not in the run.")
    if registry.family(loaded.config.model).is_network:
        say("The parameters of its network remember them until it is trained again: aejax refit, or aejax update.")
    say(
        "Exports that still hold these customers bring them back at the next update; lists written elsewhere are yours."
    )
    return len(gone)


def without(run: Run, gone: set[str]) -> Dataset:
    """The data of a run without these customers; its products are pinned, and what a note on a column shows of its
    cells is gone.
    """
    old, lines = run.prepared.dataset, run.prepared.dataset.interactions
    kept = np.array([name not in gone for name in lines.users.ids])
    left = lines.take(kept[lines.user])
    if not len(left):
        raise InputError("no order line would remain; delete the run instead")
    is_kept = ~old.customers["customer_id"].isin(list(gone)).to_numpy()
    return dataclasses.replace(
        old,
        interactions=reindex(left, np.unique(left.user), np.unique(left.item)),
        customers=old.customers[is_kept].reset_index(drop=True),
        quality={**old.quality, "warnings": [_masked(warning, gone) for warning in old.quality["warnings"]]},
        pinned=run.prepared.interactions.items,
        attributes={table: [{**one, "note": ""} for one in own] for table, own in (old.attributes or {}).items()},
    )


def _forget_in_comparison(folder: Path, gone: set[str]) -> bool:
    """Remove these customers' rows of a comparison, and its report, which names customers; whether there is one."""
    if not (folder / "comparison.json").exists():
        return False
    path = folder / "per_user.parquet"
    rows = pd.read_parquet(path)
    is_kept = ~rows["customer_id"].isin(list(gone)).to_numpy()
    with runs.whole_file(path) as partial:
        rows.loc[is_kept].to_parquet(partial, index=False)
    with runs.writing(folder):
        (folder / "report.html").unlink(missing_ok=True)
    return True


def _masked(sentence: str, gone: set[str]) -> str:
    """A warning without the ids of these customers, which stand in it as `shown` shows them, long ones shortened."""
    for name in map(shown, gone):
        sentence = sentence.replace(name, '"..."')
    return sentence


def _without(name: str, model: Model, settings: Any, learned: Interactions, gone: set[str]) -> Model:
    """A fitted model that holds nothing of its own for these customers; `learned` is what it learned from, without
    them.
    """
    if isinstance(model, Blend):
        names = [settings["parts"][position] for position in model.positions]
        models = [
            _without(part, one, settings["settings"][part], learned, gone)
            for part, one in zip(names, model.models, strict=True)
        ]
        return dataclasses.replace(model, models=models)
    if isinstance(model, RemovesCustomers):
        return model.without(gone)
    family = registry.family(name)
    return model if family.is_network else family.fit(learned, registry.make_settings(name, settings))
