"""The README's results table: precision@10 and recall_all@10 under the original pipeline's protocol and held out.

    python scripts/results_table.py data/prepared_data

prints Markdown; three training seeds, intervals over customers.
"""

from __future__ import annotations

from pathlib import Path

import tyro

from aejax import datasets, experiment
from aejax.config import DataConfig, SplitConfig

PROTOCOLS = ("reconstruction", "users", "items", "time", "last-order")
MODELS = ("popularity", "ae", "vae", "multdae", "multvae")
KEYS = ("precision@10", "recall_all@10", "ndcg@100")


def main(
    data: tyro.conf.Positional[Path],
    protocols: tuple[str, ...] = PROTOCOLS,
    models: tuple[str, ...] = MODELS,
    seeds: int = 3,
) -> None:
    """Print the table.

    Args:
      data: three CSV files of a shop.
      protocols: what is held out, a block of rows each.
      models: a row each.
      seeds: training seeds.
    """
    dataset = datasets.read(data)
    settings = experiment.compare_settings(models, {}, {})
    print(f"| protocol | model | {' | '.join(KEYS)} |\n|---|---|{'---|' * len(KEYS)}")
    for protocol in protocols:
        found = experiment.compare(
            dataset, DataConfig(str(data)), SplitConfig(protocol), settings, seeds=range(seeds)
        ).result
        for name, row in found["models"].items():
            cells = []
            for key in KEYS:
                low, high = row["metrics"][key]["ci95"]
                cells.append(f"{row['metrics'][key]['mean']:.4f} [{low:.4f}, {high:.4f}]")
            print(f"| {protocol} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
