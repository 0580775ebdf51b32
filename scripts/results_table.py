"""The README's results table: precision@10 and recall_all@10 under the original pipeline's protocol and held out.

    python scripts/results_table.py data/prepared_data --settings scripts/settings/completejourney-time.json

runs every protocol with the same settings and prints Markdown: means over three training seeds, 95% intervals over
customers, and how far the seeds' means lie apart.
"""

from __future__ import annotations

from pathlib import Path

import tyro

from aejax import datasets, experiment, runs
from aejax.config import DataConfig, SplitConfig

PROTOCOLS = ("reconstruction", "users", "items", "time", "last-order")
MODELS = ("popularity", "ae", "vae", "multvae")
KEYS = ("precision@10", "recall_all@10", "ndcg@100")


def main(
    data: tyro.conf.Positional[Path],
    protocols: tuple[str, ...] = PROTOCOLS,
    models: tuple[str, ...] = MODELS,
    seeds: int = 3,
    settings: Path | None = None,
) -> None:
    """Print the table.

    Args:
      data: three CSV files of a shop.
      protocols: what is held out, a block of rows each.
      models: a row each.
      seeds: training seeds.
      settings: JSON file {model: {setting: value}}; default: each model's defaults.
    """
    dataset = datasets.read(data)
    own = experiment.compare_settings(models, {}, {} if settings is None else runs.read_json(settings))
    print(f"| protocol | model | {' | '.join(KEYS)} | spread of {KEYS[-1]} |\n|---|---|{'---|' * (len(KEYS) + 1)}")
    for protocol in protocols:
        found = experiment.compare(
            dataset, DataConfig(str(data)), SplitConfig(protocol), own, seeds=range(seeds)
        ).result
        for name, row in found["models"].items():
            cells = []
            for key in KEYS:
                low, high = row["metrics"][key]["ci95"]
                cells.append(f"{row['metrics'][key]['mean']:.4f} [{low:.4f}, {high:.4f}]")
            by_seed = [trial["test"][KEYS[-1]] for trial in row["trials"]]
            cells.append(f"{max(by_seed) - min(by_seed):.4f}" if len(by_seed) > 1 else "-")
            print(f"| {protocol} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
