"""`cdae`: Wu, DuBois, Zheng and Ester (2016), Collaborative Denoising Auto-Encoders for Top-N Recommender Systems,
WSDM; and the authors' program, https://github.com/jasonyaw/CDAE, which settles what the paper leaves open.

A denoising autoencoder with a vector for each customer. With x customer u's row `[I]` (section 3),

* corruption: a share `dropout` of the row is hidden and the rest scaled by 1 / (1 - dropout), in training alone;
* hidden layer: z = s(W x + V_u + b), s the sigmoid, V `[U, D]` the customers' vectors;
* output: y = W' z + b', of which s(y) is how likely each product is;
* loss: logistic, of the whole row, and the penalty l2 / 2 * ( |W|^2 + |W'|^2 + |b|^2 + |b'|^2 + |V_u|^2 ).

With `values` other than binary each row is divided by its largest, so that it fits a sigmoid.

Where we differ, and why:

* a customer's loss holds the penalty of that customer's own vector, as the program's updates do; the paper's objective
  has the whole |V|^2 beside the mean loss, U times as much.
* everything that a customer has not bought is a negative example; the paper draws five for each purchase. A dense batch
  costs a matrix product in any case, and there is no noise of sampling.
* the output's biases start at each product's log-odds of being bought, not at 0. Against all negatives the first
  updates would push every output down, and be spent on what the counts say.
* a customer whom train does not hold has no vector and gets the mean of all; the figures' note and the lists' basis say
  so. The paper has no new customers.
* of the paper's two losses the logistic one alone, of its activations the sigmoid, and separate W and W', which the
  program can tie.
* 200 hidden units where the paper has 50.
* Adam in batches in place of AdaGrad user by user, and early stopping.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from aejax import losses
from aejax.batching import Batch, drop_inputs, target_rows
from aejax.errors import InputError
from aejax.interactions import Histories, Interactions, Vocabulary, customers_of_products
from aejax.matrix import check_counts, check_not_negative, check_shares
from aejax.models import Choice, Family, Range
from aejax.network import Linear, Network, NetworkSettings, fit_network, linear_of_rows, restore_network
from aejax.training import Progress


@dataclasses.dataclass(frozen=True)
class CDAESettings(NetworkSettings):
    """Settings of `cdae`.

    Attributes:
      latent_dim: D, the number of hidden units.
      dropout: share of a customer's products hidden from the input.
      l2: weight of the regularisation.
    """

    batch_size: int = 100
    latent_dim: int = 200
    dropout: float = 0.5
    l2: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "latent_dim")
        check_shares(self, "dropout")
        check_not_negative(self, "l2")


class CDAE(nnx.Module):
    """Layers I - D - I with a sigmoid between, whose hidden layer takes the customer's vector too."""

    def __init__(
        self,
        items: int,
        rngs: nnx.Rngs,
        *,
        users: int,
        latent_dim: int,
        output_bias: Callable[..., jax.Array] = nnx.initializers.zeros,
    ):
        self.items = items
        xavier = nnx.initializers.xavier_uniform()
        self.encoder = Linear(items, latent_dim, kernel_init=xavier, rngs=rngs)
        self.decoder = Linear(latent_dim, items, kernel_init=xavier, bias_init=output_bias, rngs=rngs)
        self.users = nnx.Param(xavier(rngs.params(), (users, latent_dim)))

    def vectors(self, batch: Batch) -> jax.Array:
        """A batch of known customers, and of padding, which has no weight -> their vectors `[B, D]`."""
        return self.users[...].at[batch.users].get(mode="clip")

    def logits(self, batch: Batch, vectors: jax.Array) -> jax.Array:
        """A batch and vectors `[B, D]` -> logits `[B, I]`."""
        return self.decoder(jax.nn.sigmoid(linear_of_rows(self.encoder, batch) + vectors))

    def __call__(self, batch: Batch) -> jax.Array:
        """A batch of B customers -> logits `[B, I]`, without corruption; an unknown customer has the mean vector."""
        assert batch.users is not None
        known = (batch.users >= 0)[:, None]
        return self.logits(batch, jnp.where(known, self.vectors(batch), self.users[...].mean(0, keepdims=True)))


def _loss(module: CDAE, batch: Batch, step: jax.Array, key: jax.Array, *, dropout: float, l2: float) -> jax.Array:
    """Logistic loss of each customer's whole row from the corrupted one, and the penalty, `[B]`."""
    del step
    vectors = module.vectors(batch)
    logits = module.logits(drop_inputs(batch, dropout, module.items, dropout_key=key), vectors)
    shared = (module.encoder.kernel, module.encoder.bias, module.decoder.kernel, module.decoder.bias)
    squares = jnp.square(vectors).sum(1) + sum(jnp.square(weights[...]).sum() for weights in shared)
    return losses.bernoulli_nll(logits, *target_rows(batch, module.items)) + l2 / 2 * squares


@dataclasses.dataclass(frozen=True)
class CustomerNetwork:
    """A fitted network that knows the customers of train.

    Attributes:
      network: the network, with a vector for each of them.
      users: these customers, in the order of the vectors.
    """

    network: Network
    users: Vocabulary

    def _numbers(self, histories: Histories) -> np.ndarray:
        return self.users.index(histories.lines.users.ids)

    def encode(self, histories: Histories) -> Batch:
        """Histories of n customers -> a padded batch on the host, each row with its customer's number."""
        users = self._numbers(histories).astype(np.int32)
        return self.network.encode(histories)._replace(users=users)  # pyright: ignore[reportArgumentType] (host)

    def unknown(self, histories: Histories) -> np.ndarray:
        """Histories of n customers -> the positions of those without a vector."""
        return np.flatnonzero(self._numbers(histories) < 0)

    def without(self, customers: Collection[str]) -> CustomerNetwork:
        """The network without the vectors of these customers."""
        kept = np.flatnonzero([name not in customers for name in self.users.ids])
        if not len(kept):
            raise InputError("no customer whom the network was trained on would remain; delete the run instead")
        params = {**self.network.params, "users": self.network.params["users"][kept]}
        build = partial(CDAE, self.network.items, users=len(kept), latent_dim=params["users"].shape[1])
        network = restore_network(build, params, items=self.network.items, settings=self.network.settings, unit=True)
        return CustomerNetwork(network, self.users.take(kept))

    def scores(self, batch: Batch) -> jax.Array:
        """A batch of B customers -> scores `[B, I]`, higher is better."""
        return self.network.scores(batch)

    def state(self) -> dict[str, Any]:
        """What a run stores of it."""
        return {"network": self.network.state(), "users": self.users.to_state()}


def _log_odds(train: Interactions, users: int) -> Callable[..., jax.Array]:
    """Biases at log(p / (1 - p)) of each product, p being its share of the customers, half a customer added to each
    side.
    """
    bought = customers_of_products(train)
    log_odds = np.log(bought + 0.5) - np.log(users - bought + 0.5)
    return nnx.initializers.constant(log_odds)


def fit(
    train: Interactions, settings: CDAESettings, *, validate: Callable[[CustomerNetwork], float] | None, **training: Any
) -> tuple[CustomerNetwork, Progress]:
    """Train on every customer of `train` with a purchase; for the arguments see `aejax.network.fit_network`."""
    users = train.users.take(np.unique(train.user))
    network, progress = fit_network(
        partial(CDAE, users=len(users), latent_dim=settings.latent_dim, output_bias=_log_odds(train, len(users))),
        partial(_loss, dropout=settings.dropout, l2=settings.l2),
        train,
        settings,
        unit=True,
        validate=None if validate is None else lambda network: validate(CustomerNetwork(network, users)),
        **training,
    )
    return CustomerNetwork(network, users), progress


def restore(state: dict[str, Any], settings: CDAESettings, *, items: int) -> CustomerNetwork:
    """The model whose `state()` that was."""
    users = Vocabulary.from_state(state["users"])
    build = partial(CDAE, items, users=len(users), latent_dim=settings.latent_dim)
    network = restore_network(build, state["network"], items=items, settings=settings, unit=True)
    return CustomerNetwork(network, users)


FAMILY = Family(
    CDAESettings,
    {
        "latent_dim": Range(50, 400, log=True),
        "dropout": Range(0.0, 0.8),
        "l2": Range(1e-3, 0.1, log=True),
        "batch_size": Choice(("50", "100", "250", "500")),
        "learning_rate": Range(3e-4, 5e-3, log=True),
    },
    fit,
    restore,
    is_network=True,
)
