"""Options that commands share, and what is made of them."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from aejax import determinism
from aejax.errors import InputError

if TYPE_CHECKING:
    from aejax.config import DataConfig, RunConfig, SplitConfig
    from aejax.experiment import Layout, Request, Run
    from aejax.interactions import Dataset
    from aejax.recommendation import Known

Protocol = Literal["users", "items", "last-order", "time", "predefined", "cold-items", "reconstruction"]


@dataclasses.dataclass(frozen=True)
class Common:
    """Options that fit and compare share."""

    split: Protocol | None = None
    """What is held out; default: predefined where the folder brings a split, else time, else users."""
    test_share: float = 0.1
    """time: share of the period that is held out."""
    cut: str | None = None
    """time: the date that starts the test part (UTC; 2024-05-01T18:00 is a time of it), in place of --test-share."""
    repeat: Literal["exclude", "include"] = "exclude"
    """Whether what a customer has bought before counts as a target and may be recommended."""
    values: str | None = None
    """Cells of the matrix: binary, quantity, log1p-quantity, orders, log1p-orders or recency."""
    min_customers: int | None = None
    """Set products aside that fewer customers bought; default: 10 for shop tables, 1 for public formats."""
    min_rating: float | None = None
    """MovieLens: drop ratings below; default: every rating counts."""
    attributes: str | None = None
    """column=kind,...: how columns of products and customers are used in place of what they look like: category,
    number, text or none."""
    new_products: tyro.conf.FlagCreatePairsOff[bool] = False
    """Keep products set aside or never bought, for a model to score by their attributes: recommend --include-new."""
    statuses: str | None = None
    """Shopify's exports: financial statuses of the orders that count, with commas between, such as
    paid,partially_refunded; default: all but refunded, voided, expired and cancelled."""
    by: Literal["product", "variant"] | None = None
    """Shopify's exports: what an item is; default: a product, whatever its size and colour."""
    columns: tuple[str, ...] = ()
    """Where a shop's files or columns have other names: table.name=column, such as orders.customer_id="Kunden-Nr"
    orders.file=sales.csv, or a TOML file as aejax check proposes it."""
    split_seed: int = 0
    """Seed of the split."""
    settings: Path | None = None
    """JSON file {model: {setting: value}}, such as scripts/settings/*.json."""
    set: tuple[str, ...] = ()
    """key=value of any setting of the model or its training, such as --set latent_dim=64 batch_size=100."""
    epochs: int | None = None
    """The most epochs; the same as --set epochs=N."""
    precision: Literal["float32", "bfloat16"] | None = None
    """Of a network's products of matrices in training; the same as --set precision=...: bfloat16 is for devices that
    multiply it natively."""
    device: Literal["cpu", "gpu", "tpu"] | None = None
    """Where to compute; default: the best that JAX finds."""
    deterministic: tyro.conf.FlagCreatePairsOff[bool] = False
    """Have a GPU compute the same bits each time, with slower kernels. On a CPU it changes nothing: there the bits are
    the same anyway."""

    def start(self) -> None:
        """What a command must do before it imports what imports JAX."""
        if self.deterministic:
            determinism.ask()

    def data_config(self, data: Path) -> DataConfig:
        """What is read."""
        from aejax.config import DataConfig

        statuses = names(self.statuses)
        if self.statuses is not None and not statuses:
            raise InputError(
                f'--statuses is "{self.statuses}", which names none; expected statuses with commas between, such as '
                "paid,partially_refunded, or leave it out"
            )
        return DataConfig(
            str(data),
            self.min_customers,
            self.min_rating,
            attribute_kinds(self.attributes),
            self.new_products,
            statuses,
            self.by,
            column_mapping(self.columns),
        )

    def dataset(self, data: Path) -> Dataset:
        """The data themselves."""
        from aejax import datasets

        return datasets.read_as(self.data_config(data))

    def split_config(self) -> SplitConfig:
        """What is held out."""
        from aejax.config import SplitConfig

        return SplitConfig(self.split, self.test_share, self.cut, self.repeat, self.split_seed)

    def given_settings(self) -> dict[str, str]:
        """--set, --values, --epochs and --precision as one mapping."""
        given = {}
        for pair in self.set:
            key, equals, value = pair.partition("=")
            if not equals or not key:
                raise InputError(f'--set got "{pair}"; expected key=value, such as --set latent_dim=64')
            given[key.strip()] = value.strip()
        if self.values is not None:
            given["values"] = self.values
        if self.epochs is not None:
            given["epochs"] = str(self.epochs)
        if self.precision is not None:
            given["precision"] = self.precision
        return given

    def stored_settings(self) -> dict[str, Any]:
        """--settings as model -> its settings."""
        if self.settings is None:
            return {}
        from aejax import registry, runs

        stored = runs.read_json(self.settings)
        if not isinstance(stored, dict) or not all(isinstance(own, dict) for own in stored.values()):
            raise InputError(f'{self.settings} must hold {{"model": {{"setting": value}}}}')
        for name in stored:
            registry.family(name)
        return stored

    def run_config(self, data: Path, model: str, seed: int) -> RunConfig:
        """All of a run of one model."""
        from aejax import experiment
        from aejax.config import RunConfig, TrainingConfig

        given = experiment.own_settings(model, self.given_settings(), self.stored_settings())
        training = TrainingConfig(seed, self.device, self.deterministic)
        return RunConfig(self.data_config(data), self.split_config(), training, model, given)

    def read(self, data: Path, run: Path | None, resume: bool, model: str, last: str) -> tuple[Dataset | None, Path]:
        """The data, None where a run that is resumed holds them, and the run: as given, or its default place."""
        from aejax import experiment

        if resume and run is not None:
            return None, run
        dataset = self.dataset(data)
        if run is None:
            run = experiment.default_run(data, model, dataset.interactions, self.split, last)
        return None if resume else dataset, run


def start_as(run: Path) -> None:
    """What a command on a run must do before it imports what imports JAX: what is computed from a deterministic run is
    deterministic too.
    """
    from aejax import runs

    runs.repair_run(run)
    if run.is_dir() and runs.read_config(run).training.deterministic:  # where there is none, who loads it says why
        determinism.ask()


def names(given: str | None) -> tuple[str, ...]:
    """Names with commas between."""
    return tuple(name.strip() for name in (given or "").split(",") if name.strip())


def column_mapping(given: tuple[str, ...]) -> dict[str, str]:
    """--columns as one mapping; of what is given twice the last counts.

    Raises:
      InputError: a word is neither table.name=column nor a TOML file of that.
    """
    mapping: dict[str, str] = {}
    for word in given:
        key, equals, column = word.partition("=")
        if equals:
            mapping[key.strip()] = column
            continue
        try:
            tables = tomllib.loads(Path(word).read_text(encoding="utf-8"))
        except OSError:
            raise InputError(
                f'--columns got "{word}", which is no file; expected a TOML file, or such as '
                'orders.customer_id="Kunden-Nr"'
            ) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
            raise InputError(f"--columns {word} is no TOML: {problem}") from None
        for table, entries in tables.items():
            if not isinstance(entries, dict):
                raise InputError(f'--columns {word}: "{table}" stands outside of [orders], [customers] and [products]')
            mapping.update({f"{table}.{name}": column for name, column in entries.items()})
    return mapping


@dataclasses.dataclass(frozen=True)
class Wishes:
    """What recommend is asked for, and how it is written."""

    top: int = 10
    """Products per customer."""
    repeat: Literal["exclude", "include"] | None = None
    """include recommends what a customer has bought before as well; default: as the run was fitted."""
    include_new: float = 0.0
    """Share of the places that products without a purchase by then get in the list of a customer with orders, the best
    by their attributes; for a run fitted with --new-products."""
    rules: Path | None = None
    """A TOML file of rules: only, never, at_most, published, new, not_bought_days, consent, segments."""
    in_stock: Path | None = None
    """Only these products: a CSV or Parquet file with a column sku, of products or of their variants, and quantity
    where it has it, or one a line."""
    exclude: Path | None = None
    """Not these again: an earlier file of recommendations, or one with a column sku alone for all customers."""
    why: bool = False
    """Add the bought products that speak most for each recommendation, with their shares. Of models that are no sum
    over what was bought this takes as many more scorings as products were bought."""
    wide: bool = False
    """A row for each customer: customer_id, sku_1, title_1, sku_2, ..."""
    raw: bool = False
    """Write texts that begin with = + - @, a tab or a carriage return as they are, for machines; a spreadsheet would
    take them for formulas."""
    holdout: str | None = None
    """Leave this share of the customers out by chance, such as 10%, and write their lists to a file beside the other:
    the control group of hindsight."""
    seed: int = 0
    """Of that chance: the same draws the same customers again."""

    def share_held_out(self) -> float:
        """--holdout as a number."""
        if self.holdout is None:
            return 0.0
        try:
            share = float(self.holdout.removesuffix("%")) / (100.0 if self.holdout.endswith("%") else 1.0)
        except ValueError:
            share = -1.0
        if not 0.0 < share < 1.0:
            raise InputError(f'--holdout is "{self.holdout}"; expected a share of the customers such as 10% or 0.1')
        return share

    def layout(self, addresses: dict[str, str] | None) -> Layout:
        """How the file is written."""
        from aejax.experiment import Layout

        return Layout(self.wide, self.raw, addresses)

    def request(self, run: Run, known: Known, customers: list[str] | None) -> Request:
        """What is asked of a run."""
        from aejax import experiment
        from aejax.rules import Rules, read_rules

        skus = experiment.every_sku(run)
        items = run.prepared.interactions.items
        return experiment.Request(
            top=self.top,
            repeat=self.repeat,
            customers=customers,
            known=known,
            include_new=self.include_new,
            rules=Rules() if self.rules is None else read_rules(self.rules),
            stock=None
            if self.in_stock is None
            else experiment.read_stock(self.in_stock, run.prepared.dataset.products),
            excluded=None if self.exclude is None else experiment.read_excluded(self.exclude, skus, items),
            why=self.why,
        )


def attribute_kinds(given: str | None) -> dict[str, str]:
    """--attributes as column -> kind."""
    pairs = [pair.rpartition("=") for pair in (given or "").split(",") if pair]
    for column, equals, kind in pairs:
        if not equals or not column.strip():
            raise InputError(f'--attributes got "{kind}"; expected column=kind, such as title=text,brand=category')
    return {column.strip(): kind.strip() for column, _, kind in pairs}
