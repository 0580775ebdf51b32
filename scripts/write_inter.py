"""Write splits as RecBole files, so that another library runs on the very same data.

    python scripts/write_inter.py data/prepared_data --out data/inter --split-seeds 3

writes data/inter/NAME-s0/NAME-s0.{train,valid,test}.inter and so on; `aejax compare data/inter/NAME-s0` reads them as a
predefined split. Rare products are set aside first, as `aejax fit` does.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.sparse as sp
import tyro

from aejax import datasets, experiment
from aejax.config import DataConfig, SplitConfig
from aejax.interactions import Interactions
from aejax.matrix import user_item_matrix


def main(
    data: tyro.conf.Positional[Path],
    out: Path = Path("data/inter"),
    min_customers: int | None = None,
    split_seeds: int = 3,
) -> None:
    """Write the `items` splits of a folder.

    Args:
      data: three CSV files of a shop, or a public data set.
      out: the folder to write to.
      min_customers: set rarer products aside; default: 10 for shop tables, 1 for public formats.
      split_seeds: how many splits.
    """
    dataset = datasets.read(data)
    for seed in range(split_seeds):
        name = f"{data.resolve().name}-s{seed}"
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        prepared = experiment.prepare_dataset(
            dataset, DataConfig(str(data), min_customers), SplitConfig("items", seed=seed)
        )
        lines, parts = prepared.interactions, prepared.split
        every_user = np.arange(len(lines.users))
        write(folder / f"{name}.train.inter", lines, every_user, user_item_matrix(parts.train))
        write(folder / f"{name}.valid.inter", lines, parts.validation.users, parts.validation.targets)
        write(folder / f"{name}.test.inter", lines, parts.test.users, parts.test.targets)
        print(f"{folder}: {len(lines.users)} users x {len(lines.items)} items")


def write(path: Path, lines: Interactions, users: np.ndarray, matrix: sp.csr_array) -> None:
    """The cells of a matrix as `user_id, item_id` rows."""
    cells = matrix.tocoo()
    rows = zip(lines.users.ids[users[cells.coords[0]]], lines.items.ids[cells.coords[1]], strict=True)
    text = "".join(f"{user}\t{item}\n" for user, item in rows)
    path.write_text("user_id:token\titem_id:token\n" + text, encoding="utf-8")


if __name__ == "__main__":
    tyro.cli(main)
