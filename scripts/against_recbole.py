"""aejax against RecBole, paired: the same model on the very same files, each with its own chosen settings.

    python scripts/write_inter.py data/ml-100k --out data/inter --split-seeds 3
    python scripts/against_recbole.py data/inter/ml-100k-s* --peer-python PEERS/bin/python \
        --settings scripts/settings/ml-100k.json --peer-settings scripts/settings/recbole-ml-100k-items.json

PEERS is an environment of its own with `scripts/peers/recbole.txt` in it. Both sides stop early by validation NDCG@100,
read test once per seed; the table holds the means over seeds with the seeds' own figures, a row per split.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import tyro

from aejax import experiment, registry
from aejax.config import DataConfig, SplitConfig
from aejax.evaluation import evaluate

PEER_SCRIPT = Path(__file__).parent / "peers" / "recbole_run.py"


def main(
    folders: tyro.conf.Positional[tuple[Path, ...]],
    peer_python: Path,
    settings: Path,
    peer_settings: Path,
    model: str = "multvae",
    peer_model: str = "MultiVAE",
    seeds: int = 3,
) -> None:
    """Print a row per split, and the mean difference.

    Args:
      folders: predefined splits in RecBole's format.
      peer_python: the interpreter of the environment with RecBole.
      settings: JSON file with aejax's settings by model.
      peer_settings: JSON file with RecBole's settings by model; train_batch_size is one of them.
      model: aejax's model.
      peer_model: RecBole's name of it.
      seeds: training seeds.
    """
    own = registry.make_settings(model, json.loads(settings.read_text(encoding="utf-8"))[model])
    peer = json.loads(peer_settings.read_text(encoding="utf-8"))[peer_model]
    print(f"| split | aejax {model} | RecBole {peer_model} | difference |\n|---|---|---|---|")
    differences = []
    for folder in folders:
        parts = experiment.prepare(DataConfig(str(folder)), SplitConfig("predefined")).split
        ours, theirs = [], []
        for seed in range(seeds):
            fitted = experiment.fit_model(model, own, parts, seed=seed).model
            ours.append(float(evaluate(fitted, parts.test).values["ndcg@100"].mean()))
            theirs.append(run_peer(peer_python, folder, peer_model, peer, seed)["test"])
        differences.append(statistics.mean(ours) - statistics.mean(theirs))
        print(f"| {folder.name} | {shown(ours)} | {shown(theirs)} | {differences[-1]:+.4f} |", flush=True)
    spread = f", standard deviation {statistics.stdev(differences):.4f}" if len(differences) > 1 else ""
    print(f"\nndcg@100 over {len(folders)} splits{spread}, mean difference: {statistics.mean(differences):+.4f}")


def shown(values: list[float]) -> str:
    """The mean of a row's seeds, and each of them."""
    return f"{statistics.mean(values):.4f} ({', '.join(f'{value:.4f}' for value in values)})"


def run_peer(python: Path, folder: Path, model: str, settings: dict[str, Any], seed: int) -> dict[str, Any]:
    """One RecBole run in a process of its own."""
    pairs = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    options = ["--seed", str(seed), "--epochs", "500", "--test", "--set", *pairs]
    with tempfile.TemporaryDirectory() as scratch:  # RecBole writes logs and checkpoints where it runs
        done = subprocess.run(
            [python.absolute(), PEER_SCRIPT.resolve(), folder.resolve(), model, *options],
            cwd=scratch,
            check=True,
            capture_output=True,
            text=True,
        )
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    tyro.cli(main)
