"""Commands on a run in use: fitted on all data, brought up to date, judged by what was bought, made to forget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from aejax.cli.terminal import EpochProgress, make_console

Source = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]


def refit(source: Source, run: Path, overwrite: bool = False) -> None:
    """Fit a run's model on all its data, by the settings and the number of epochs that were evaluated.

    Args:
      source: the evaluated run, which stays as it is.
      run: the new run, for recommendations; its metrics.json holds the figures of the evaluated one.
      overwrite: replace an existing run.
    """
    from aejax import experiment

    console = make_console()
    with EpochProgress(console) as progress:
        figures = experiment.refit(
            source, run, overwrite=overwrite, listen=progress.epoch, say=progress.bars.console.print
        )
    console.print(f"The run is in {run}; the figures expected of it are those of {figures[experiment.FIGURES_OF]}.")
