"""Run-level settings as frozen dataclasses: validated when made, JSON both ways, each default in this one place."""

from __future__ import annotations

import codecs
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from aejax.errors import InputError, nearest
from aejax.moments import moment_of

PROTOCOLS = ("users", "items", "last-order", "time", "predefined", "cold-items", "reconstruction")
# Of orders in Shopify's exports; `cancelled` is what was cancelled, whatever was paid. The first ones count by default.
COUNTED_STATUSES = ("authorized", "paid", "partially_paid", "partially_refunded", "pending")
STATUSES = (*COUNTED_STATUSES, "refunded", "voided", "expired", "cancelled")
# What a mapping of a shop's columns may name. Of customers and products every column may have a name of its own.
ORDER_COLUMNS = ("customer_id", "lineitem_sku", "lineitem_quantity", "order_id", "created_at", "lineitem_price")
READING = ("file", "encoding", "decimal", "date_format")
REPEAT_PROTOCOLS = ("last-order", "time", "predefined")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What is read, and what of it counts.

    Attributes:
      path: the folder.
      min_customers: products bought by fewer customers are set aside; None: 10 for shop tables, 1 for public formats.
      min_rating: MovieLens only: ratings below are dropped; None keeps every rating.
      attributes: column of products or customers, with or without `products.` or `customers.` before it -> how it is
        used: `category`, `number`, `text` or `none`; a column that is not here is used as what it looks like.
      new_products: products that are set aside, or were never bought, stay among the products of a model, which scores
        them by their attributes; no protocol offers them, and `recommend --include-new` may.
      statuses: Shopify's exports: financial statuses of the orders that count; empty: those of `COUNTED_STATUSES`.
      by: Shopify's exports: whether an item is a `product` or a `variant`; None: a product where there are handles.
      columns: a shop whose files or columns have other names: `orders.customer_id`, `products.sku`, ... -> the column
        of the file; `orders.file`, `customers.file`, `products.file` -> the file; and of each table `encoding`,
        `decimal` (`,` or `.`) and `date_format` (as `strptime` has it), where they are not recognised.
    """

    path: str
    min_customers: int | None = None
    min_rating: float | None = None
    attributes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    new_products: bool = False
    statuses: Sequence[str] = ()
    by: str | None = None
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "statuses", tuple(self.statuses))  # JSON has lists
        for status in self.statuses:
            if status not in STATUSES:
                raise InputError(f'--statuses names "{status}"; {nearest(status, STATUSES)}')
        if self.by not in (None, "product", "variant"):
            raise InputError(f'--by is "{self.by}"; expected product or variant')
        if self.min_customers is not None and self.min_customers < 1:
            raise InputError(f"--min-customers is {self.min_customers}; expected 1 or more")
        for key, value in self.columns.items():
            _check_mapped(key, value)


def _check_mapped(key: str, value: str) -> None:
    """Check one entry of a mapping of columns."""
    table, _, name = key.partition(".")
    if table not in ("orders", "customers", "products") or not name:
        raise InputError(f'--columns has "{key}"; expected orders.NAME, customers.NAME or products.NAME')
    if table == "orders" and name not in (*ORDER_COLUMNS, *READING):
        raise InputError(f'--columns has "{key}"; {nearest(name, (*ORDER_COLUMNS, *READING))}')
    if not isinstance(value, str) or not value:
        raise InputError(f"--columns {key} is {value!r}; expected a text")
    if name == "decimal" and value not in (",", "."):
        raise InputError(f'--columns {key} is "{value}"; expected "," or "."')
    if name == "date_format" and "%" not in value:
        raise InputError(f'--columns {key} is "{value}"; expected such as "%d.%m.%Y"')
    if name == "encoding":
        try:
            if "\0" in value or not codecs.lookup(value)._is_text_encoding:
                raise LookupError
        except (LookupError, UnicodeError):
            raise InputError(f'--columns {key} is "{value}"; expected such as utf-8, cp1252 or utf-16') from None


@dataclasses.dataclass(frozen=True)
class SplitConfig:
    """What is held out.

    Attributes:
      protocol: one of `PROTOCOLS`; None: `predefined` where the data bring a split, else `time` where they have
        dates, else `users`.
      test_share: share of the period that `time` holds out.
      cut: an ISO date or time, UTC without a zone, that starts the test part of `time`, in place of `test_share`.
      repeat: `exclude` or `include` what a customer has bought before, as target and as recommendation.
      seed: seed of the protocols that draw at random.
    """

    protocol: str | None = None
    test_share: float = 0.1
    cut: str | None = None
    repeat: str = "exclude"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.protocol is not None and self.protocol not in PROTOCOLS:
            raise InputError(f'--split is "{self.protocol}"; {nearest(self.protocol, PROTOCOLS)}')
        if not 0.0 < self.test_share < 0.5:
            raise InputError(f"--test-share is {self.test_share}; expected more than 0 and less than 0.5")
        if self.seed < 0:
            raise InputError(f"--split-seed is {self.seed}; expected 0 or more")
        if self.repeat not in ("exclude", "include"):
            raise InputError(f'--repeat is "{self.repeat}"; expected "exclude" or "include"')
        if self.repeat == "include" and self.protocol is not None and self.protocol not in REPEAT_PROTOCOLS:
            raise InputError(
                f"--repeat include has no meaning under --split {self.protocol}, whose targets are never in the "
                f"inputs; use one of {', '.join(REPEAT_PROTOCOLS)}"
            )
        if self.test_share != SplitConfig.test_share and self.protocol not in (None, "time"):
            raise InputError(f"--test-share belongs to --split time, not to {self.protocol}")
        if self.cut is not None:
            if self.protocol not in (None, "time"):
                raise InputError(f"--cut {self.cut} belongs to --split time, not to --split {self.protocol}")
            try:
                moment_of(self.cut)
            except ValueError:
                raise InputError(f'--cut is "{self.cut}"; expected a date such as 2024-05-01') from None


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """What of training belongs to the run and not to the model.

    Attributes:
      seed: seed of initialisation, batches, dropout and sampling.
      device: `cpu`, `gpu` or `tpu`; None: the best that JAX finds.
      deterministic: a GPU computes the same bits each time, for which XLA has to be told before JAX starts; see
        `determinism`. A CPU does so anyway.
    """

    seed: int = 0
    device: str | None = None
    deterministic: bool = False

    def __post_init__(self) -> None:
        if self.device not in (None, "cpu", "gpu", "tpu"):
            raise InputError(f'--device is "{self.device}"; expected cpu, gpu or tpu')
        if not 0 <= self.seed < 2**31:
            raise InputError(f"--seed is {self.seed}; expected 0 to 2147483647")


@dataclasses.dataclass(frozen=True)
class Production:
    """What a run in production is: it has learned from all its data, so that nothing is left to evaluate it on.

    Attributes:
      evaluated: what the figures of its metrics.json are of, in words or as the path of a run.
      epochs: network -> how many, as validation chose, those of the runs that it was warm-started from added; for a
        network alone its name is empty.
    """

    evaluated: str
    epochs: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """All of a run: `config.json`.

    Attributes:
      data: what is read.
      split: what is held out, with the protocol resolved.
      training: seed and device.
      model: registry name.
      settings: every setting of the model, defaults included.
      production: None for a run that was evaluated.
    """

    data: DataConfig
    split: SplitConfig
    training: TrainingConfig
    model: str
    settings: dict[str, Any]
    production: Production | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data for `config.json`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> RunConfig:
        """The config that `to_json` wrote.

        Raises:
          InputError: a key is missing or unknown, as in a run of another version.
        """
        try:
            return cls(
                data=DataConfig(**plain["data"]),
                split=SplitConfig(**plain["split"]),
                training=TrainingConfig(**plain["training"]),
                model=plain["model"],
                settings=plain["settings"],
                production=Production(**plain["production"]) if plain.get("production") else None,
            )
        except (KeyError, TypeError) as problem:
            raise InputError(f"this config is not of this version of aejax: {problem}") from None
