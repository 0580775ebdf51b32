"""Networks that know attributes: what a product and a customer have in common with others, beside what is their own.

The mechanism is ours; that a network's item vector is the sum of its features' vectors is from Kula (2015), Metadata
Embeddings for User and Item Cold-start Recommendations, https://arxiv.org/abs/1507.08439.

**Products.** In training a product's row of the first kernel, its column of the last one and its last bias are its own
plus the sums of its features' vectors: with the features A `[I, F]` and vectors V the kernels are
`own_in + A V_in` `[I, H]` and `own_out + (A V_out)'` `[H', I]`, and the bias `own + A b` `[I]`. They are added up once
in an update and once for a fitted network, which is a plain one and knows nothing of it: it is stored, restored and
served as any other.

* a product's features are scaled to length 1: the sum of k vectors of like size and any direction is then as long as
  one of them, whether a product has one word or thirty.
* vectors begin at 0: training starts at the network without attributes, and a feature that no example has adds nothing.
* a feature must be one of two products, and one of them must have been bought: of others nothing can be learnt for
  another product.
* products that nobody bought stand in no example and not in the likelihood either, whose zeros for them would say that
  they and products like them are not liked. A fitted network takes what is their own for the mean over the products
  that were bought, and adds the sums of their features' vectors.

**Customers.** The first layer's sum gets `f V` for a customer's features f, scaled to length 1. A customer of whom
nothing is known adds nothing, and a feature that no customer of the training has is left out before f is scaled: what
is known beside it counts for as much as without it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from flax import nnx

from aejax import batching, network
from aejax.batching import Batch
from aejax.errors import InputError
from aejax.interactions import Histories, Interactions
from aejax.matrix import scale_rows
from aejax.network import Network, NetworkSettings
from aejax.training import Progress

# What the last bias of a product that nobody bought is in training: its share of any likelihood is 0 in float32, and
# so are all gradients through it.
NEVER = -1e9


@dataclasses.dataclass(frozen=True)
class AttributedSettings(NetworkSettings):
    """Settings of a network that may know attributes.

    Attributes:
      attributes: learn from those of products and customers; ours, see `aejax.attributed`.
    """

    attributes: bool = False


class HasEnds(nnx.Module):
    """A module that begins and ends with a layer over the products; one built with `customers=Fu` has the parameter
    `customers` `[Fu, H]`, by which it multiplies a batch's `customers`, and adds that to the first layer's sum.
    """

    def ends(self) -> tuple[nnx.Linear, nnx.Linear]:
        """The layers `[I, H]` and `[H', I]`."""
        raise NotImplementedError


class Attributed(nnx.Module):
    """A module and the vectors of its products' features: a row of H for the first kernel, H' for the last, 1 for the
    last bias.
    """

    def __init__(self, items: int, rngs: nnx.Rngs, *, build: Callable[..., HasEnds], features: int):
        self.module = build(items, rngs=rngs)
        first, last = self.module.ends()
        self.vectors = nnx.Param(jnp.zeros((features, first.kernel.shape[1] + last.kernel.shape[0] + 1)))

    def summed(self, products: Batch) -> HasEnds:
        """The features of all products -> the module whose kernels and bias are their own plus their features'."""
        first, last = self.module.ends()
        cuts = np.cumsum([first.kernel.shape[1], last.kernel.shape[0]])
        inputs, outputs, bias = jnp.split(batching.product(products, self.vectors[...]), cuts, axis=1)
        first.kernel[...] = first.kernel[...] + inputs
        last.kernel[...] = last.kernel[...] + outputs.T
        last.bias[...] = last.bias[...] + bias[:, 0]
        return self.module

    def of_training(self, products: Batch, bought: jax.Array) -> HasEnds:
        """The same, without the products that nobody bought, of `bought` `[I]`."""
        module = self.summed(products)
        _, last = module.ends()
        last.bias[...] = jnp.where(bought, last.bias[...], NEVER)
        return module

    def fitted(self, products: Batch, bought: jax.Array) -> HasEnds:
        """The same, where what is the own of a product that nobody bought is the mean over the others."""
        first, last = self.module.ends()
        for variable, axis in ((first.kernel, 0), (last.kernel, 1), (last.bias, 0)):
            own = variable[...]
            known = bought if own.ndim == 1 else jnp.expand_dims(bought, 1 - axis)
            mean = (own * known).sum(axis=axis, keepdims=True) / bought.sum()
            variable[...] = jnp.where(known, own, mean)
        return self.summed(products)


@dataclasses.dataclass(frozen=True)
class AttributedNetwork(Network):
    """A fitted network that knows customers' features: it has the parameter `customers` `[Fu, H]`."""

    @cached_property
    def met(self) -> np.ndarray:
        """`[Fu]` bool, the features that a customer of the training has: a vector that began at 0 moved with its first
        update, and no other did.
        """
        return np.count_nonzero(np.asarray(self.params["customers"]), axis=1) > 0

    def encode(self, histories: Histories) -> Batch:
        """Histories of n customers -> a padded batch on the host, those of their features in it that were met."""
        known = histories.lines.user_features
        features = sp.csr_array((len(histories), len(self.met)), dtype=np.float32)
        if known is not None:
            own = known.matrix
            met = own.data * self.met[own.indices]
            features = unit_length(sp.csr_array((met, own.indices, own.indptr), shape=own.shape))
        return super().encode(histories)._replace(customers=batching.pad_rows(features))


def unit_length(features: sp.csr_array) -> sp.csr_array:
    """Features `[n, F]`, each row scaled to length 1; rows of zeros stay."""
    length = np.sqrt(np.asarray(features.multiply(features).sum(axis=1), dtype=np.float64).ravel())
    return scale_rows(features, 1.0 / np.where(length > 0, length, 1.0))


def product_features(train: Interactions) -> sp.csr_array | None:
    """The features that can say something of another product, `[I, F]`, rows of length 1; None where there is none."""
    if train.item_features is None:
        return None
    matrix = train.item_features.matrix
    is_shared = np.bincount(matrix.indices, minlength=matrix.shape[1]) > 1
    of_bought = matrix[np.unique(train.item)]
    is_shared &= np.bincount(of_bought.indices, minlength=matrix.shape[1]) > 0
    return unit_length(sp.csr_array(matrix[:, is_shared])) if is_shared.any() else None


def customer_features(train: Interactions) -> sp.csr_array | None:
    """The features of customers, `[U, Fu]`, rows of length 1; None where no customer with a purchase has one.

    Only the rows of customers with a purchase are trained on, and they have no feature that is not met.
    """
    known = train.user_features
    return unit_length(known.matrix) if known is not None and known.matrix[np.unique(train.user)].nnz else None


def _fit(
    build: Callable[..., HasEnds],
    loss: Callable[..., jax.Array],
    train: Interactions,
    settings: AttributedSettings,
    *,
    unit: bool,
    **training: Any,
) -> tuple[Network, Progress]:
    """`network.fit_network` with attributes. Raises `InputError` where the data have none."""
    products, customers = product_features(train), customer_features(train)
    if products is None and customers is None:
        raise InputError(
            "attributes is True, and these data have none that two products share, and none of customers (columns of "
            "products.csv beside the SKU and of customers.csv beside the id; see aejax check); use --set "
            "attributes=false"
        )
    made: Callable[..., Network] = Network
    if customers is not None:
        build = partial(build, customers=customers.shape[1])
        made = AttributedNetwork
    whole: Callable[..., nnx.Module] = build
    if products is not None:
        whole, loss, made, training["beside"] = _of_sums(build, loss, made, products, train)
    return network.fit_network(whole, loss, train, settings, unit=unit, customers=customers, made=made, **training)


def _of_sums(
    build: Callable[..., HasEnds],
    loss: Callable[..., jax.Array],
    made: Callable[..., Network],
    products: sp.csr_array,
    train: Interactions,
) -> tuple[Callable[..., Attributed], Callable[..., jax.Array], Callable[..., Network], int]:
    """What `network.fit_network` takes, of a module -> the same of one whose products have features `[I, F]`, and how
    many numbers an update makes of them and of their vectors.
    """
    length = batching.longest_row(products)
    known = jax.tree.map(jnp.asarray, batching.pad_rows(products, length=length))
    bought = jnp.asarray(np.bincount(train.item, minlength=len(train.items)) > 0)

    def loss_of_sums(module: Attributed, *example: Any) -> jax.Array:
        return loss(module.of_training(known, bought), *example)

    @partial(jax.jit, static_argnums=0)
    def params_of_sums(graphdef: nnx.GraphDef, params: dict[str, Any]) -> dict[str, Any]:
        module = nnx.merge(graphdef, params).fitted(known, bought)
        return nnx.to_pure_dict(nnx.state(module))

    attributed = partial(Attributed, build=build, features=products.shape[1])
    abstract = nnx.eval_shape(lambda: attributed(len(train.items), nnx.Rngs(params=0)))
    plain = nnx.graphdef(abstract.module)

    def made_of_sums(graphdef: nnx.GraphDef, params: dict[str, Any], *others: Any) -> Network:
        return made(plain, params_of_sums(graphdef, params), *others)

    # Of each product the sums, the kernels and bias with them, and their gradients; its features, maybe as a dense row.
    row = 0 if batching.is_short(length, products.shape[1]) else products.shape[1]
    beside = len(train.items) * (3 * abstract.vectors.shape[1] + row)
    return attributed, loss_of_sums, made_of_sums, beside


def fit_and_restore(
    build: Callable[[Any], Callable[..., HasEnds]],
    loss: Callable[[Any, int], Callable[..., jax.Array]],
    *,
    unit: bool,
    rows: Callable[[Any], network.Path | None],
) -> tuple[Callable[..., tuple[Network, Progress]], Callable[..., Network]]:
    """`network.fit_and_restore` for a family whose settings are `AttributedSettings` and whose module has ends."""
    plain_fit, plain_restore = network.fit_and_restore(build, loss, unit=unit, rows=rows)

    def fit(train: Interactions, settings: AttributedSettings, **training: Any) -> tuple[Network, Progress]:
        if not settings.attributes:
            return plain_fit(train, settings, **training)
        users = len(np.unique(train.user))
        return _fit(build(settings), loss(settings, users), train, settings, unit=unit, **training)

    def restore(state: dict[str, Any], settings: AttributedSettings, *, items: int) -> Network:
        if "customers" not in state:
            return plain_restore(state, settings, items=items)
        features = state["customers"].shape[0]
        built = partial(build(settings), items, customers=features)
        return AttributedNetwork(*network.restore_module(built, state), items, settings, unit)

    return fit, restore
