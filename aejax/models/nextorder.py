r"""`nextorder`: an order-aware autoencoder, which predicts a customer's next order from all orders before it.

It answers both tasks in one list: what is bought again, and what is bought for the first time. A training example is
an order; its inputs are what the customer had bought before, and its moment is what ages count to. Every order with
one before it is an example (`aejax.orders`).

With the ages a of a customer's purchases of product i, n of them, the decayed counts are

    d_ic = sum over the purchases of 2^(-a / h_c)

with learned half-lives h_c. The logits are the sum of

* popularity: `p b_i` with the bias b, which begins as log(1 + the customers who bought i);
* a collaborative part: `s log softplus(c_i / w)` with the low-rank linear autoencoder `c = x E D'` of the history
  `x_i = log(1 + u_0 n + sum_c u_c d_ic)`. A linear autoencoder's scores are about shares, of which a logit is the
  logarithm. It begins as the closed form that linear regression with a ridge has on the leading eigenvectors V of
  `X' X` (eigenvalues e), `E = V diag(e / (e + l2))`, `D = V`, of the rows `log(1 + orders)`;
* for the customer's own products, what a layer of `own_hidden` tanh units and a linear one make of: the logarithms of
  n, of the decayed counts, of the time since the last purchase, of that time over the product's usual interval and over
  one that leans to the customer's own, the product's odds of a repeat, the share of the customer's orders that hold it,
  the numbers of orders and products, the time since the last order, and the collaborative part.

The loss is the multinomial likelihood (Liang et al. 2018, eq. 2) of the order's products, divided by the root of
their number: an order of 100 products says more than one of one product, and not 100 times as much. All of it is
trained together by Adam, intervals and odds of a repeat too, which begin as those of the purchases to learn from
(`aejax.rhythm`). A return has been taken from the purchases that a model learns from before examples are cut from them:
what was sent back later was never there.

The idea that a product has a rhythm of repurchase of its own is that of Bhagat et al. (2018), Buy It Again: Modeling
Repeat Purchase Recommendations, KDD; training on every order of a history with what lay before it is how next-basket
models are trained, Rendle et al. (2010), Factorizing Personalized Markov Chains for Next-Basket Recommendation, WWW.
The combination is ours.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from flax import nnx

from aejax import orders, rhythm
from aejax.interactions import Histories, Interactions, customers_of_products
from aejax.matrix import check_counts, check_not_negative, check_positive, check_shares, user_item_matrix
from aejax.models import Choice, Family, Range
from aejax.network import TrainingSettings, add_bias, module_scores, restore_module, train_network
from aejax.orders import Example, Purchases
from aejax.precision import matmul
from aejax.training import Progress

NAME = "nextorder"
EIGENVECTOR_ROUNDS = 5
LEAST = 1e-3  # of a decayed count, before its logarithm


@dataclasses.dataclass(frozen=True)
class NextOrderSettings(TrainingSettings):
    """Settings of `nextorder`.

    Attributes:
      latent_dim: D, the rank of the collaborative part.
      l2: ridge of the closed form in which that part begins.
      dropout: share of a customer's products hidden from it in training.
      half_lives: days; where the learned decays begin. Empty: orders count alike whatever their age.
      rhythm: whether the own part knows the time since a product was last bought, its usual interval and the odds of
        its being bought again.
      own_hidden: units of the own part.
      latest_orders: learn only from so many of each customer's latest orders; None: from every order.
      orders_per_epoch: the most orders of one customer in an epoch, drawn anew in each; None: all.
    """

    batch_size: int = 128
    learning_rate: float = 3e-3
    epochs: int = 40
    patience: int = 6
    latent_dim: int = 128
    l2: float = 3_000.0
    dropout: float = 0.6
    half_lives: tuple[float, ...] = (10.0, 60.0, 240.0)
    rhythm: bool = True
    own_hidden: int = 16
    latest_orders: int | None = None
    orders_per_epoch: int | None = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "latent_dim", "own_hidden", "latest_orders", "orders_per_epoch")
        check_positive(self, "half_lives")
        check_not_negative(self, "l2")
        check_shares(self, "dropout")


class Start(NamedTuple):
    """Where the parameters of products begin, each `[I]` or `[I, D]`."""

    bias: Any
    interval: Any
    again: Any
    encoder: Any
    decoder: Any


def _leading_eigenvectors(matrix: sp.csr_array, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest eigenvalues `[count]` and their eigenvectors `[I, count]` of `X' X`, by subspace iteration."""
    basis = np.random.default_rng(0).normal(size=(matrix.shape[1], count)).astype(np.float32)
    for _ in range(EIGENVECTOR_ROUNDS):
        basis, _ = np.linalg.qr(matrix.T @ (matrix @ basis))
    image = (matrix @ basis).astype(np.float64)
    values, rotation = np.linalg.eigh(image.T @ image)
    return np.maximum(values, 0.0), basis @ rotation.astype(np.float32)


def start_of(train: Interactions, settings: NextOrderSettings) -> Start:
    """Where the parameters of products begin for these purchases."""
    read = rhythm.rhythm_of(train)
    values, vectors = _leading_eigenvectors(
        user_item_matrix(train, "log1p-orders"), min(settings.latent_dim, len(train.items))
    )
    return Start(
        np.log1p(customers_of_products(train)),
        read.interval,
        read.again,
        vectors * (values / np.maximum(values + settings.l2, np.finfo(np.float32).tiny)),
        vectors,
    )


def _add(slots: jax.Array, values: jax.Array, products: int) -> jax.Array:
    """Values `[B, L, ...]` summed over the lines of each product -> `[B, M, ...]`."""
    rows = jnp.arange(slots.shape[0])[:, None]
    return jnp.zeros((slots.shape[0], products, *values.shape[2:])).at[rows, slots].add(values, mode="drop")


class NextOrder(nnx.Module):
    """The model of the module's docstring. Factors are stored `sqrt(I)` times as long as they are used, so that an
    Adam step turns them as little as it does other parameters.
    """

    def __init__(self, items: int, rngs: nnx.Rngs, *, settings: NextOrderSettings, start: Start | None = None):
        latent = min(settings.latent_dim, items)
        shapes = Start((items,), (items,), (items,), (items, latent), (items, latent))
        if start is None:
            start = Start(*map(jnp.zeros, shapes))
        self.items = items
        self.rhythm = settings.rhythm
        decays = len(settings.half_lives)
        self.bias = nnx.Param(jnp.asarray(start.bias, jnp.float32))
        self.log_interval = nnx.Param(jnp.asarray(start.interval, jnp.float32))
        self.again = nnx.Param(jnp.asarray(start.again, jnp.float32))
        self.encoder = nnx.Param(jnp.asarray(start.encoder, jnp.float32) * items**0.5)
        self.decoder = nnx.Param(jnp.asarray(start.decoder, jnp.float32) * items**0.5)
        # A checkpoint holds no empty array.
        self.log2_half_lives = nnx.Param(jnp.log2(jnp.asarray(settings.half_lives, jnp.float32))) if decays else None
        # softplus of them: the count weighs 1 and the decayed counts a tenth.
        self.input_weights = nnx.Param(jnp.array([0.54, *[-2.25] * decays], jnp.float32))
        self.popularity = nnx.Param(jnp.float32(0.5))
        self.share_power = nnx.Param(jnp.float32(1.0))
        self.log_share = nnx.Param(jnp.float32(-3.5))
        features = 5 + decays + 5 * settings.rhythm
        self.own_first = nnx.Linear(features, settings.own_hidden, rngs=rngs)
        self.own_last = nnx.Linear(settings.own_hidden, 1, rngs=rngs)
        self.own_linear = nnx.Linear(features, 1, kernel_init=nnx.initializers.zeros, use_bias=False, rngs=rngs)

    def decayed(self, inputs: Purchases) -> tuple[jax.Array, jax.Array]:
        """Purchases -> the number of orders with each product `[B, M]`, and decayed counts `[B, M, C]`."""
        products = inputs.items.shape[1]
        count = _add(inputs.slots, jnp.ones_like(inputs.ages), products)
        if self.log2_half_lives is None:
            return count, jnp.zeros((*count.shape, 0))
        rates = jnp.exp2(-self.log2_half_lives[...])
        decay = jnp.exp2(-inputs.ages[:, :, None] * rates[None, None, :])
        return count, _add(inputs.slots, decay, products)

    def collaborative(self, inputs: Purchases, values: jax.Array) -> jax.Array:
        """Purchases and the values `[B, M]` of their products -> popularity and collaborative part `[B, I]`."""
        rows = jnp.arange(values.shape[0])[:, None]
        history = jnp.zeros((values.shape[0], self.items)).at[rows, inputs.items].set(values, mode="drop")
        scores = matmul(matmul(history, self.encoder[...]), self.decoder[...].T) / self.items
        shares = jnp.log(jax.nn.softplus(scores * jnp.exp(-self.log_share[...])) + 1e-9)
        return add_bias(self.share_power[...] * shares, self.popularity[...] * self.bias[...])

    def own(self, inputs: Purchases, count: jax.Array, decayed: jax.Array, elsewhere: jax.Array) -> jax.Array:
        """The own part `[B, M]`, given what the other parts `[B, M]` say of these products."""
        number = jnp.maximum(count, 1.0)
        is_own = inputs.items < self.items

        def of_customer(values: jax.Array) -> jax.Array:
            return jnp.broadcast_to(values[:, None], count.shape)

        features = [
            jnp.log(number),
            count / jnp.maximum(inputs.orders, 1.0)[:, None],
            of_customer(jnp.log1p(inputs.orders)),
            of_customer(jnp.log1p(is_own.sum(axis=1).astype(jnp.float32))),
            elsewhere / 4.0,
            *jnp.moveaxis(jnp.log(decayed + LEAST), 2, 0),
        ]
        if self.rhythm:
            rows = jnp.arange(count.shape[0])[:, None]
            last = jnp.full(count.shape, jnp.inf).at[rows, inputs.slots].min(inputs.ages, mode="drop")
            last = jnp.where(is_own, last, 0.0)
            since_order = jnp.where(is_own, last, jnp.inf).min(axis=1)
            first = jnp.zeros(count.shape).at[rows, inputs.slots].max(inputs.ages, mode="drop")
            interval = self.log_interval[...].at[inputs.items].get(mode="clip")
            # One interval as the product's usual one, and as many as the customer has shown.
            own_interval = (jnp.exp(interval) + first - last) / number
            features += [
                jnp.log1p(last),
                jnp.log1p(last) - interval,
                jnp.log1p(last) - jnp.log1p(own_interval),
                self.again[...].at[inputs.items].get(mode="clip"),
                of_customer(jnp.log1p(jnp.where(jnp.isfinite(since_order), since_order, 0.0))),
            ]
        stacked = jnp.stack(features, axis=2) / 2.0
        logits = self.own_last(jnp.tanh(self.own_first(stacked))) + self.own_linear(stacked)
        return jnp.where(is_own, logits[:, :, 0], 0.0)

    def __call__(self, inputs: Purchases, keep: jax.Array | None = None) -> jax.Array:
        """Purchases of B customers -> logits `[B, I]`; `keep` `[B, M]` scales what the collaborative part sees."""
        count, decayed = self.decayed(inputs)
        weights = jax.nn.softplus(self.input_weights[...])
        values = jnp.log1p(weights[0] * count + decayed @ weights[1:])
        logits = self.collaborative(inputs, values if keep is None else values * keep)
        elsewhere = jnp.take_along_axis(logits, jnp.minimum(inputs.items, self.items - 1), axis=1)
        rows = jnp.arange(count.shape[0])[:, None]
        own = self.own(inputs, count, decayed, elsewhere)
        return logits.at[rows, inputs.items].add(own, mode="drop")


def _loss(module: NextOrder, example: Example, step: jax.Array, key: jax.Array, *, dropout: float) -> jax.Array:
    """Negative log-likelihood of each example's order over the root of its size, `[B]`."""
    del step
    keep = None
    if dropout:
        keep = jax.random.bernoulli(key, 1.0 - dropout, example.inputs.items.shape) / (1.0 - dropout)
    logits = module(example.inputs, keep)
    is_target = example.targets < module.items
    size = is_target.sum(axis=1)
    of_targets = jnp.take_along_axis(logits, jnp.minimum(example.targets, module.items - 1), axis=1)
    total = size * jax.nn.logsumexp(logits, axis=1) - jnp.where(is_target, of_targets, 0.0).sum(axis=1)
    return total / jnp.sqrt(jnp.maximum(size, 1))


@dataclasses.dataclass(frozen=True)
class NextOrderNetwork:
    """The fitted network.

    Attributes:
      graphdef: the module's structure.
      params: its parameters.
    """

    graphdef: nnx.GraphDef
    params: dict[str, Any]

    def encode(self, histories: Histories) -> Purchases:
        """Histories of n customers -> their purchases up to their cut, padded on the host."""
        return orders.encode(histories, NAME)

    def scores(self, batch: Purchases) -> jax.Array:
        """Purchases of B customers -> scores `[B, I]`, higher is better."""
        return module_scores(self.graphdef, self.params, batch)

    def state(self) -> dict[str, Any]:
        """What a run stores of it."""
        return self.params


def fit(train: Interactions, settings: NextOrderSettings, **training: Any) -> tuple[NextOrderNetwork, Progress]:
    """Train on every order that has one before it; for the arguments see `aejax.network.train_network`.

    Raises:
      InputError: no order ids, no dates, or no customer with two orders.
    """
    examples = orders.next_orders(train, NAME, latest=settings.latest_orders, per_pass=settings.orders_per_epoch)
    return train_network(
        partial(NextOrder, settings=settings, start=start_of(train, settings)),
        partial(_loss, dropout=settings.dropout),
        examples,
        NextOrderNetwork,
        settings,
        items=len(train.items),
        **training,
    )


def restore(state: dict[str, Any], settings: NextOrderSettings, *, items: int) -> NextOrderNetwork:
    """The model whose `state()` that was."""
    return NextOrderNetwork(*restore_module(partial(NextOrder, items, settings=settings), state))


FAMILY = Family(
    NextOrderSettings,
    {
        "learning_rate": Range(5e-4, 1e-2, log=True),
        "l2": Range(100.0, 10_000.0, log=True),
        "dropout": Range(0.0, 0.8),
        "orders_per_epoch": Choice(("4", "8", "16")),
    },
    fit,
    restore,
    is_network=True,
)
