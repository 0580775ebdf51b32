"""Cornac's VAECF, a Mult-VAE without dropout, on a predefined split: seconds an epoch and validation, as JSON.

pip install -r scripts/peers/cornac.txt     # in an environment of its own
python scripts/peers/cornac_run.py FOLDER --epochs 6
"""

import itertools
import time

import held_out
import numpy as np
import torch
from cornac.data import Dataset
from cornac.models import VAECF


def main() -> None:
    """Fit once and print one JSON line."""
    given = held_out.options(hidden=600, latent_dim=200, batch=100, epochs=6)
    split = held_out.read(given.folder)
    users, items = split.train.shape
    cells = split.train.tocoo()
    train = Dataset(
        users,
        items,
        {user: user for user in range(users)},
        {item: item for item in range(items)},
        (cells.row, cells.col, cells.data),
        seed=0,
    )
    times: list[float] = []
    batches = train.user_iter

    def timed(*args, **options):
        times.append(time.perf_counter())  # an epoch begins with its batches
        return batches(*args, **options)

    train.user_iter = timed
    model = VAECF(
        k=given.latent_dim,
        autoencoder_structure=[given.hidden],
        n_epochs=given.epochs,
        batch_size=given.batch,
        learning_rate=1e-3,
        beta=0.2,
        seed=0,
    ).fit(train)
    times.append(time.perf_counter())

    def scores(rows) -> np.ndarray:
        with torch.no_grad():
            return model.vae.decode(model.vae.encode(torch.tensor(rows.toarray()))[0]).numpy()

    held_out.report(
        split,
        [later - earlier for earlier, later in itertools.pairwise(times)],
        batch_size=given.batch,
        dropout=0.0,
        parameters=sum(leaf.numel() for leaf in model.vae.parameters()),
        validation=held_out.ndcg_at_100(split, scores),
    )


if __name__ == "__main__":
    main()
