"""A linear training script: read it top to bottom, and change it.

    python scripts/train.py data/prepared_data --split time --epochs 30

It trains a Mult-VAE with the library's pieces (data, split, batches, loss, step, metrics), for a given number of epochs
and with the weight of the KL term growing over the first half of them. `aejax fit` adds what this leaves out:
validation, early stopping, the refit, and a run directory.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import tyro
from flax import nnx

from aejax import batching, datasets, losses
from aejax.evaluation import evaluate, mean_with_interval
from aejax.interactions import set_aside_rare
from aejax.matrix import user_item_matrix
from aejax.models.multvae import MultAE, unit_norm
from aejax.network import Network, NetworkSettings
from aejax.split import resolve_protocol
from aejax.split import split as cut
from aejax.training import TrainState, init_state, train_step


def main(
    data: tyro.conf.Positional[Path],
    split: str | None = None,
    min_customers: int = 10,
    hidden: int = 600,
    latent_dim: int = 200,
    dropout: float = 0.5,
    beta: float = 0.2,
    batch_size: int = 500,
    learning_rate: float = 1e-3,
    epochs: int = 30,
    seed: int = 0,
) -> dict[str, float]:
    """Train and test a Mult-VAE on a folder of data.

    Args:
      data: three CSV files of a shop, or a public data set.
      split: a protocol; default: the strongest that the data carry.
      min_customers: set rarer products aside.
      hidden: size of the layers around the code.
      latent_dim: size of the code.
      dropout: share of a customer's products hidden from the input.
      beta: weight of the KL term, reached after half of the updates.
      batch_size: customers in an update.
      learning_rate: of Adam.
      epochs: passes over all customers.
      seed: of everything random.
    """
    # Data: order lines -> a split -> the user-item matrix of its train part, on the device.
    lines = set_aside_rare(datasets.read(data).interactions, min_customers)
    parts = cut(lines, protocol=resolve_protocol(lines, split), seed=seed)
    train = user_item_matrix(parts.refit if parts.refit is not None else parts.train)
    train = train[train.sum(axis=1) > 0]
    users, items = train.shape
    rows, length = batching.sparse_rows(train)
    steps = -(-users // batch_size)
    print(f"{users} customers x {items} products, {train.nnz} cells, {steps} updates an epoch")

    # Model: an NNX module split into structure and parameters once.
    init_key, train_key = jax.random.split(jax.random.key(seed))
    module = MultAE(items, nnx.Rngs(params=init_key), hidden=(hidden,), latent_dim=latent_dim, variational=True)
    graphdef, variables = nnx.split(module)
    optimizer = optax.adam(learning_rate)
    state = init_state(nnx.to_pure_dict(variables), optimizer)

    def loss(params: Any, batch: batching.Batch, step: jax.Array, key: jax.Array) -> jax.Array:
        """Negative evidence lower bound with the weight of the KL term still growing, `[B]`."""
        model = nnx.merge(graphdef, params)
        dropout_key, latent_key = jax.random.split(key)
        mean, log_var = model.encode(batching.drop_inputs(unit_norm(batch), dropout, items, dropout_key=dropout_key))
        z = mean + jnp.exp(0.5 * log_var) * jax.random.normal(latent_key, mean.shape)
        kl_weight = beta * jnp.minimum(1.0, step / (0.5 * epochs * steps))
        likelihood = losses.multinomial_nll(model.decode(z), batching.densify(batch, items))
        return likelihood + kl_weight * losses.kl_to_standard_normal(mean, log_var)

    @partial(jax.jit, donate_argnums=0)
    def run_epoch(state: TrainState, epoch_key: jax.Array) -> tuple[TrainState, jax.Array]:
        order_key, steps_key = jax.random.split(epoch_key)

        def body(state: TrainState, xs: tuple[jax.Array, jax.Array]) -> tuple[TrainState, jax.Array]:
            index, chosen = xs
            batch = batching.gather_rows(rows, chosen, length, items)
            weight = (chosen < users).astype(jnp.float32)
            key = jax.random.fold_in(steps_key, index)
            return train_step(state, batch, weight, key, loss=loss, optimizer=optimizer)

        order = batching.epoch_order(order_key, users, batch_size)
        state, totals = jax.lax.scan(body, state, (jnp.arange(steps), order))
        return state, totals.sum() / users

    for epoch in range(1, epochs + 1):
        state, mean_loss = run_epoch(state, jax.random.fold_in(train_key, epoch))
        print(f"epoch {epoch:3d}  loss {float(jax.device_get(mean_loss)):.3f}")

    # Evidence: the fitted network on the held-out part.
    network = Network(graphdef, state.params, items, NetworkSettings(), unit=False)
    summary = mean_with_interval(evaluate(network, parts.test).values)
    for key in ("precision@10", "recall_all@10", "ndcg@100"):
        low, high = summary[key]["ci95"]
        print(f"{key:14s} {summary[key]['mean']:.4f} [{low:.4f}, {high:.4f}]")
    return {key: value["mean"] for key, value in summary.items()}


if __name__ == "__main__":
    tyro.cli(main)
