"""Models: a file per family, each with its frozen settings, its module or closed form, `fit` and `restore`.

A model knows purchases and keys. It knows no file, protocol or metric, and no other model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from aejax.errors import InputError
from aejax.interactions import Histories, Interactions


class Model(Protocol):
    """A fitted model: all that evaluation and recommendation know of one. A new customer is only a new history."""

    def encode(self, histories: Histories) -> Any:
        """Histories of n customers -> a batch, on the host and without side effects."""
        ...

    def scores(self, batch: Any) -> jax.Array:
        """A batch of n customers -> scores `[n, I]`, higher is better."""
        ...

    def state(self) -> Any:
        """A pytree of arrays: what a run stores, and what the family's `restore` takes."""
        ...


@runtime_checkable
class KnowsCustomers(Protocol):
    """A fitted model that holds something of its own for each customer whom it was trained on, and scores another's
    history as that of the mean of those.
    """

    def unknown(self, histories: Histories) -> np.ndarray:
        """Histories of n customers -> the increasing positions among them of those whom it was not trained on."""
        ...


@runtime_checkable
class RemovesCustomers(Protocol):
    """A trained model with something of its own for each customer, which can be taken out of it."""

    def without(self, customers: Collection[str]) -> Model:
        """The model without what it holds of these customers, whom it then does not know."""
        ...


def unknown_customers(model: Model, histories: Histories) -> np.ndarray:
    """Histories of n customers -> the positions of those whom the model would have to know and does not."""
    return model.unknown(histories) if isinstance(model, KnowsCustomers) else np.empty(0, dtype=np.intp)


_COLUMNS = {"order": "order ids (order_id)", "at": "order dates (created_at)"}


def require_column(lines: Interactions, column: str, *, model: str, instead: str) -> None:
    """Raises `InputError` where the lines have no `order` or no `at`, which the model needs and `instead` does not."""
    if getattr(lines, column) is None:
        raise InputError(f"model {model} needs {_COLUMNS[column]}, and these data have none; try --model {instead}")


@runtime_checkable
class PredictsRepeats(Protocol):
    """A model that may say what share of a customer's next purchases are of products bought before."""

    @property
    def predicts_repeats(self) -> bool:
        """Whether it does."""
        ...

    def share_of_repeats(self, batch: Any, scores: jax.Array) -> jax.Array:
        """A batch of n customers and their scores `[n, I]` -> the predicted shares, `[n]`."""
        ...


@runtime_checkable
class Additive(Protocol):
    """A model whose score of a product is a sum over what the customer bought, and perhaps a term that all have."""

    def contributions(self, histories: Histories, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Histories of n customers and products of each `[n, K]`, padded with I -> what they have bought `[n, L]`,
        increasing and padded with I, and what each of it adds to the scores of these products `[n, L, K]`.
        """
        ...


@runtime_checkable
class Telling(Protocol):
    """A model whose fit decided something that its user should know."""

    @property
    def facts(self) -> Mapping[str, str]:
        """What it decided, such as `{"side": "users"}`: shown, and a line of the run's log."""
        ...


@dataclasses.dataclass(frozen=True)
class Range:
    """A number to search for, from `low` to `high`; whole where both are; evenly in its logarithm with `log`; in steps
    of `step`, so that trials meet at the same values, where what is made for a value serves all of them.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of several texts to search for, each as `--set` takes it."""

    options: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Shareable:
    """The costly part of a closed form, which a search makes once for all settings that it does not depend on.

    Attributes:
      depends: names of the settings that it depends on.
      make: `make(train, settings)` -> what the family's `fit` takes as `shared`, which may be None.
    """

    depends: tuple[str, ...]
    make: Callable[[Interactions, Any], Any]


@dataclasses.dataclass(frozen=True)
class Family:
    """What the registry knows of a model.

    Attributes:
      settings: its frozen dataclass of settings, defaults included.
      search: setting -> where `tune` looks for it; empty where there is nothing to tune.
      fit: `fit(train, settings)` -> a `Model` for a closed form or a rule; `fit(train, settings, key=, validate=,
        on_epoch=, resume=)` -> a `Model` and its training's progress for a network (see `aejax.network.fit_network`);
        with `fits_split`, `fit(settings, split, seed=, hooks=, validated=)` -> what `experiment.fit_model` returns.
      restore: `restore(state, settings, items=I)` -> the `Model` whose `state()` that was.
      is_network: trained in epochs, or made of what may be: fits with other seeds differ.
      shareable: what `fit(train, settings, shared=)` of a closed form can share with other settings.
      of_attributes: settings that say something only where the data have attributes, of products or for a network of
        customers; where one of them is not 0, the model uses them.
      of_repeats: settings that say something only where products are bought again, on known dates.
      needs_attributes: the model uses them whatever its settings.
      refit: of a model that is made of others and makes its own choices on validation: `refit(model, settings, lines,
        epochs, seed=, hooks=)` -> the fitted model, fitted once more by the same choices.
    """

    settings: type
    search: Mapping[str, Range | Choice]
    fit: Callable[..., Any]
    restore: Callable[..., Model]
    is_network: bool
    shareable: Shareable | None = None
    of_attributes: tuple[str, ...] = ()
    of_repeats: tuple[str, ...] = ()
    needs_attributes: bool = False
    refit: Callable[..., Any] | None = None

    @property
    def fits_split(self) -> bool:
        """Whether it is made of other models, and makes its own choices on validation."""
        return self.refit is not None

    def uses_attributes(self, settings: Any) -> bool:
        """Whether a model of these settings scores a product that nobody bought by its attributes."""
        return self.needs_attributes or any(getattr(settings, name) for name in self.of_attributes)
