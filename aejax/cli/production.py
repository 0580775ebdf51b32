"""Commands on a run in use: fitted on all data, brought up to date, judged by what was bought, made to forget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from aejax.cli.options import Common, start_as
from aejax.cli.terminal import EpochProgress, make_console

Source = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]


def refit(source: Source, run: Path, overwrite: bool = False) -> None:
    """Fit a run's model on all its data, by the settings and the number of epochs that were evaluated.

    Args:
      source: the evaluated run, which stays as it is.
      run: the new run, for recommendations; its metrics.json holds the figures of the evaluated one.
      overwrite: replace an existing run.
    """
    start_as(source)
    from aejax import experiment

    console = make_console()
    with EpochProgress(console) as progress:
        figures = experiment.refit(
            source, run, overwrite=overwrite, listen=progress.epoch, say=progress.bars.console.print
        )
    console.print(f"The run is in {run}; the figures expected of it are those of {figures[experiment.FIGURES_OF]}.")


def update(
    source: Source,
    data: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")],
    run: Path,
    force: bool = False,
    overwrite: bool = False,
) -> None:
    """Bring a run up to date with newer exports, and compare it with the old one on the latest orders.

    Half of the time after the run's last order is held out for the comparison; then the new run is fitted on all data.
    It ends with 1, and writes nothing, where the new run is worse than popularity or than the old run: lower in
    ndcg@100, with the whole interval of the difference below 0.

    Args:
      source: the run, which stays as it is.
      data: a folder with newer exports of the same shop; orders that the run has already count once.
      run: the new run.
      force: write it even if it is worse.
      overwrite: replace an existing run.
    """
    start_as(source)
    from aejax import experiment

    console = make_console()
    with EpochProgress(console) as progress:
        say = progress.bars.console.print
        updated = experiment.update(source, data, run, overwrite=overwrite, force=force, listen=progress.epoch, say=say)
    if updated.worse:
        console.print(f"Warning: it is worse than {' and '.join(updated.worse)}; written as --force says.")
    console.print(f"The run is in {run}.")


def hindsight(
    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")],
    data: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")],
    after: str | None = None,
    segment: str | None = None,
    json: Path | None = None,
    columns: tuple[str, ...] = (),
    statuses: str | None = None,
    by: Literal["product", "variant"] | None = None,
) -> None:
    """Say how many recommendations of an earlier file were bought afterwards.

    They are compared with as many of the products that were most popular then and, where recommend --holdout left
    customers out by chance, their customers with these.

    Args:
      file: a file of recommendations, with its FILE.manifest.json beside it.
      data: a folder with the shop's exports up to now.
      after: the day of the recommendations (UTC; 2024-05-01T18:00 is a time of it); default: as the manifest says.
      segment: a column of customers.csv, for whose values the figures stand alone too.
      json: write the figures to this file as well.
      columns: table.name=column, or a TOML file, as fit takes them.
      statuses: Shopify's exports: financial statuses of the orders that count, as fit takes them.
      by: Shopify's exports: whether an item is a product or a variant, as fit takes it.
    """
    from aejax import experiment, runs
    from aejax.cli.terminal import print_hindsight

    console = make_console()
    given = Common(columns=columns, statuses=statuses, by=by).data_config(data)
    result = experiment.hindsight(file, given, after=after, segment=segment)
    print_hindsight(console, result)
    if json is not None:
        runs.write_json(json, result)


def forget(source: Source, customers: Path) -> None:
    """Remove customers from a run's stored data: their order lines, attributes and ids.

    Args:
      source: the run, which is changed.
      customers: a CSV file with a column customer_id (or one id a line).
    """
    start_as(source)
    from aejax import experiment

    experiment.forget(source, experiment.read_customers(customers), make_console().print)
