"""A small shop as files, for tests of commands and scripts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aejax.cli import main
from aejax.experiment import fitting

ORDER_COLUMNS = ["order_id", "customer_id", "created_at", "lineitem_sku", "lineitem_quantity"]


def write_shop(folder: Path) -> Path:
    """40 customers with 6 orders each, and one without; every customer keeps to one half of the 16 products."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    lines = []
    for customer in range(40):
        half = np.arange(8) + 8 * (customer % 2)
        for order in range(6):
            day = np.datetime64("2024-01-01") + int(order * 20 + rng.integers(0, 20))
            for item in rng.choice(half, 2, replace=False):
                lines.append((f"o{customer}-{order}", f"{customer:03d}", str(day), f"{item:03d}", 1))
    pd.DataFrame(lines, columns=ORDER_COLUMNS).to_csv(folder / "orders.csv", index=False)
    customers = [f"{customer:03d}" for customer in range(41)]  # 040 has no order
    pd.DataFrame({"customer_id": customers}).to_csv(folder / "customers.csv", index=False)
    products = [f"{item:03d}" for item in range(16)]
    pd.DataFrame({"sku": products, "title": [f"Product {sku}" for sku in products]}).to_csv(
        folder / "products.csv", index=False
    )
    return folder


def run(*arguments: object) -> object:
    """The exit code of a command."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return stop.code
    return 0


def fit_slowly(words: Sequence[str]) -> None:
    """A command in a process that is killed: every epoch is saved, and takes long enough for a kill to fall between."""
    listen = fitting._SavedProgress.listen

    def slow(*told: Any) -> None:
        listen(*told)
        time.sleep(0.1)

    fitting.SAVE_EVERY_S, fitting._SavedProgress.listen = 0.0, slow
    run(*words)


def fitted(shop: Path, folder: Path, model: str, *options: object) -> Path:
    """The run of a model on a shop."""
    assert run("fit", shop, "--model", model, "--run", folder, *options) == 0
    return folder
