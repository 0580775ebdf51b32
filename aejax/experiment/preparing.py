"""From a folder to data that a model can be fitted on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import jax
import numpy as np
import pandas as pd

from aejax import attributes, datasets, determinism
from aejax.attributes import Attribute
from aejax.config import DataConfig, SplitConfig
from aejax.errors import InputError
from aejax.interactions import Dataset, Interactions, Vocabulary, onto, set_aside_rare
from aejax.split import Split, resolve_protocol, split


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Data that a model can be fitted on.

    Attributes:
      dataset: what was read.
      interactions: its lines without rare products.
      split_config: with the protocol resolved.
      data_config: with `min_customers` and `attributes` resolved.
      attributes: how each column of products and customers is used.
    """

    dataset: Dataset
    interactions: Interactions
    split_config: SplitConfig
    data_config: DataConfig
    attributes: Mapping[str, Sequence[Attribute]]

    @cached_property
    def split(self) -> Split:
        """The parts; recommendations, which are made of all lines, do without them.

        Raises:
          InputError: the data cannot carry what is asked.
        """
        config = self.split_config
        parts = split(
            self.interactions,
            protocol=str(config.protocol),
            seed=config.seed,
            test_share=config.test_share,
            cut=config.cut,
            repeat=config.repeat,
        )
        if self.dataset.format != "shop" and config.protocol not in ("predefined", "cold-items"):
            # Each pair stands once, so nothing can be bought again: the first purchases are the one task there is.
            parts = dataclasses.replace(parts, tasks={})
        return parts


def prepare(data: DataConfig, split_config: SplitConfig) -> Prepared:
    """Read a folder to split it. Raises `InputError` where the data are not what they should be."""
    return prepare_dataset(datasets.read_as(data), data, split_config)


def prepare_dataset(dataset: Dataset, data: DataConfig, split_config: SplitConfig) -> Prepared:
    """Set rare products aside: a pure function of a data set and its configs. Who asks for the parts has it split."""
    found = recognise(dataset, data.attributes)
    data = dataclasses.replace(
        data,
        min_customers=dataset.min_customers if data.min_customers is None else data.min_customers,
        attributes={f"{table}.{one.column}": one.kind for table, columns in found.items() for one in columns},
    )
    as_plain = {table: [dataclasses.asdict(one) for one in columns] for table, columns in found.items()}
    dataset = dataclasses.replace(dataset, attributes=as_plain)
    lines = set_aside_rare(dataset.interactions, data.min_customers or 1, dataset.pinned)
    if min(len(lines.users), len(lines.items)) < 2:
        raise InputError(
            f"after --min-customers {data.min_customers} there are {len(lines.users)} customers and "
            f"{len(lines.items)} products; at least 2 of each are needed, so try a lower --min-customers"
        )
    if data.new_products:
        lines = onto(lines, lines.users, _with_new_products(lines.items, dataset.products, found["products"]))
    lines = with_attributes(lines, dataset, found)
    # The resolved config is validated like a given one: --repeat include needs a protocol that can carry it.
    split_config = dataclasses.replace(split_config, protocol=resolve_protocol(lines, split_config.protocol))
    if split_config.repeat == "include" and dataset.format != "shop" and split_config.protocol != "predefined":
        raise InputError(
            f"--repeat include needs orders, and the {dataset.format} format holds each pair once; use --split "
            "predefined, or leave it out"
        )
    return Prepared(dataset, lines, split_config, data, found)


def recognise(dataset: Dataset, given: Mapping[str, str]) -> dict[str, tuple[Attribute, ...]]:
    """How each column of the data set's products and customers is used; see `attributes.recognise`. What was recognised
    before stands, unless other kinds are asked for, so that a run's columns mean what its model has learned of them.

    Raises:
      InputError: see `attributes.recognise`, or what a run stored of its columns is damaged.
    """
    if dataset.attributes is not None:
        try:
            plain = dataset.attributes
            stored = {table: tuple(map(attributes.from_plain, plain[table])) for table in ("products", "customers")}
        except (AttributeError, KeyError, TypeError):
            raise InputError(
                "data/attributes.json of the run is damaged: it does not say how columns are used; fit it again"
            ) from None
        kinds = {f"{table}.{one.column}": one.kind for table, own in stored.items() for one in own}
        if given.items() <= kinds.items():
            return stored
    return attributes.recognise({"products": dataset.products, "customers": dataset.customers}, given)


def _with_new_products(items: Vocabulary, products: pd.DataFrame, found: Sequence[Attribute]) -> Vocabulary:
    """The products and all others that share an attribute with one of them: of others nothing can be learnt.

    Raises:
      InputError: none of the products has an attribute that several have.
    """
    matrix = attributes.encode(found, products, products["sku"]).matrix
    is_sold = items.index(products["sku"]) >= 0
    of_sold = np.bincount(matrix[is_sold].indices, minlength=matrix.shape[1]) > 0
    if not of_sold.any():
        raise InputError(
            "--new-products needs attributes of products (columns of products.csv beside the SKU that several products "
            "share, one that was bought among them; see aejax check), and these data have none; leave it out"
        )
    return Vocabulary.of([*items.ids, *products["sku"][matrix @ of_sold.astype(np.float32) > 0]])


def with_attributes(lines: Interactions, dataset: Dataset, found: Mapping[str, Sequence[Attribute]]) -> Interactions:
    """The lines with the features of their products and customers, where there are any."""
    products = attributes.encode(found["products"], dataset.products, lines.items.ids)
    customers = attributes.encode(found["customers"], dataset.customers, lines.users.ids)
    return dataclasses.replace(
        lines,
        item_features=products if products.names else None,
        user_features=customers if customers.names else None,
    )


def default_run(data: Path, kind: str, lines: Interactions, protocol: str | None, *last: str) -> Path:
    """Where a run goes that is given no place: `checkpoints/DATA-KIND-SPLIT-LAST`."""
    return Path("checkpoints") / "-".join((data.resolve().name, kind, resolve_protocol(lines, protocol), *last))


def titles(dataset: Dataset) -> pd.Series:
    """Sku -> title."""
    return pd.Series(dataset.products["title"].to_numpy(), index=dataset.products["sku"])


@contextmanager
def on_device(name: str | None, *, deterministic: bool = False) -> Iterator[None]:
    """Everything inside runs on the first device of this kind; None: on what JAX prefers.

    Args:
      name: `cpu`, `gpu` or `tpu`.
      deterministic: whether `determinism.ask` must have been called.

    Raises:
      InputError: there is none, or XLA was not told to be deterministic.
    """
    if deterministic and not determinism.asked():
        raise InputError(f"a deterministic run needs XLA_FLAGS={determinism.FLAG} from the start of its process")
    if name is None:
        yield
        return
    try:
        device = jax.devices(name)[0]
    except RuntimeError:
        there = sorted({device.platform for device in jax.devices()})
        raise InputError(f"--device {name} is not there; JAX finds: {', '.join(there)}") from None
    with jax.default_device(device):
        yield
