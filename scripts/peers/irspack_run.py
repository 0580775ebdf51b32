"""irspack's Mult-VAE on a predefined split: seconds an epoch and the reached validation, as JSON.

pip install -r scripts/peers/irspack.txt     # in an environment of its own
python scripts/peers/irspack_run.py FOLDER --epochs 6
"""

import time

import held_out
import jax
from irspack.recommenders.multvae import MultVAETrainer


def main() -> None:
    """Fit once and print one JSON line."""
    given = held_out.options(hidden=600, latent_dim=200, batch=100, dropout=0.5, epochs=6)
    split = held_out.read(given.folder)
    trainer = MultVAETrainer(
        split.train,
        dim_z=given.latent_dim,
        enc_hidden_dim=given.hidden,
        dec_hidden_dim=None,
        dropout_p=given.dropout,
        l2_regularizer=0.0,
        kl_anneal_goal=0.2,
        anneal_end_epoch=1000,
        minibatch_size=given.batch,
        learning_rate=1e-3,
    )
    seconds = []
    for _ in range(given.epochs):
        start = time.perf_counter()
        trainer.run_epoch()
        jax.block_until_ready(trainer.params)
        seconds.append(time.perf_counter() - start)
    held_out.report(
        split,
        seconds,
        batch_size=given.batch,
        dropout=given.dropout,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(trainer.params)),
        validation=held_out.ndcg_at_100(split, trainer.get_score_cold_user),
    )


if __name__ == "__main__":
    main()
