"""The command line: sub-commands, progress, exit codes. How anything works is elsewhere.

Exit codes: 0 done, 1 the data or the arguments are at fault, 2 usage.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from aejax.cli import production, reading
from aejax.cli.options import Common, Wishes, start_as
from aejax.cli.terminal import (
    EpochProgress,
    make_console,
    print_account,
    print_comparison,
    print_metrics,
    trial_line,
)
from aejax.errors import InputError

Data = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
RunPath = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]


def fit(
    data: Data,
    model: str,
    common: tyro.conf.OmitArgPrefixes[Common],
    run: Path | None = None,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
) -> None:
    """Fit a model, evaluate it once on what was held out, and keep all of it in a run directory.

    Args:
      data: the folder with the data.
      model: such as multvae; an unknown name lists all of them.
      common: shared options.
      run: the run directory; default checkpoints/DATA-MODEL-SPLIT-sSEED.
      seed: seed of the training.
      resume: go on with an interrupted fit, to the same bits.
      overwrite: replace an existing run.
    """
    common.start()
    from aejax import experiment, registry

    config = common.run_config(data, model, seed)
    registry.make_settings(model, config.settings)
    console = make_console()
    dataset, run = common.read(data, run, resume, model, f"s{seed}")
    with EpochProgress(console) as progress:
        result = experiment.fit(
            config,
            run,
            dataset=dataset,
            overwrite=overwrite,
            resume=resume,
            listen=lambda stage, record: progress.epoch(f"{model} {stage}", record),
            say=progress.bars.console.print,
        )
    print_metrics(console, {model: result}, result)
    console.print(f"The run is in {run}; its report is {run / 'report.html'}.")


def evaluate(run: RunPath, json: Path | None = None) -> None:
    """Compute the test figures of a run again, from the run alone.

    Args:
      run: a run directory.
      json: write the figures to this file as well.
    """
    start_as(run)
    from aejax import experiment, runs

    console = make_console()
    loaded = experiment.load_run(run)
    result = experiment.evaluate_run(loaded)
    print_metrics(console, {loaded.config.model: result}, result)
    difference = experiment.largest_difference(result, runs.read_json(run / "metrics.json"))
    if difference == 0.0:
        console.print("They equal those of metrics.json.")
    else:
        console.print(f"They differ from those of metrics.json by at most {difference:.2g}.")
    if loaded.prepared.dataset.pinned is not None:
        console.print("Customers were removed from the run since metrics.json was written, so that figures may differ.")
    if json is not None:
        runs.write_json(json, result)


def recommend(
    run: RunPath,
    wishes: tyro.conf.OmitArgPrefixes[Wishes],
    out: Path | None = None,
    customers: Path | None = None,
    on: str | None = None,
    baskets: Path | None = None,
    join: Path | None = None,
) -> None:
    """Write the best products for every customer, from their whole history.

    Beside them stands FILE.manifest.json: what run, what data, what rules, how many.

    Args:
      run: a run directory.
      wishes: what is asked for.
      out: a .csv or .parquet file; default RUN/recommendations.csv.
      customers: a CSV file with a column customer_id (or one id a line): only these customers.
      on: the date as of which customers are scored, such as 2024-05-01 (UTC; 2024-05-01T18:00 is a time of it): what
        happened after it is not looked at; default: the last order's.
      baskets: a CSV file with the columns customer_id and sku, and quantity, order_id and created_at where it has them:
        only its customers, whom the run need not know, as if these lines were among its orders.
      join: the shop's customers: their e-mail addresses become a last column email of --out, and stand nowhere else.
    """
    start_as(run)
    from aejax import experiment

    console = make_console()
    if join is not None and (out is None or out.resolve() == join.resolve()):
        raise InputError("--join writes e-mail addresses; name the file for them, a new one, with --out")
    out = run / "recommendations.csv" if out is None else out
    if out.suffix not in (".csv", ".parquet"):
        raise InputError(f"--out is {out}; expected a file that ends in .csv or .parquet")
    if baskets is not None and customers is not None:
        raise InputError("--baskets says which customers get lists, and so does --customers; leave one of them out")
    holdout = wishes.share_held_out()
    loaded = experiment.load_run(run)
    addresses = None if join is None else experiment.read_addresses(join, loaded.config.data.columns)
    ids = experiment.ids_by_address(addresses or {})
    chosen = None if customers is None else experiment.read_customers(customers, ids)
    known, note = experiment.known_on(loaded, on)
    notes = [note]
    if baskets is not None:
        read = experiment.read_baskets(baskets, loaded.prepared.interactions.items, ids)
        chosen, known = read.customers, experiment.with_baskets(loaded, known, read)
        notes += read.notes
    request = wishes.request(loaded, known, chosen)
    account = experiment.write_recommendations(
        loaded, out, request, wishes.layout(addresses), holdout=holdout, seed=wishes.seed, say=console.print
    )
    print_account(console, out, account)
    notes += account["notes"]
    for sentence in (*notes, *(asked.note for asked in (request.stock, request.excluded) if asked is not None)):
        if sentence:
            console.print(f"Note: {sentence}.")


def similar(run: RunPath, sku: str, top: int = 10) -> None:
    """Products that go with one product.

    Args:
      run: a run directory.
      sku: the product.
      top: how many.
    """
    from rich.table import Table

    start_as(run)
    from aejax import experiment, explanation

    console = make_console()
    loaded = experiment.load_run(run)
    title_of = experiment.titles(loaded.prepared.dataset)
    frame = explanation.similar(loaded.model, loaded.prepared.interactions, sku, title_of, top=top)
    table = Table("rank", "sku", "title", "score", title=f"Similar to {sku} {title_of.get(sku, '')}")
    for row in frame.to_dict("records"):
        table.add_row(str(row["rank"]), str(row["sku"]), str(row["title"]), f"{row['score']:.3f}")
    console.print(table)


def compare(
    data: Data,
    models: str,
    common: tyro.conf.OmitArgPrefixes[Common],
    seed: int = 0,
    seeds: int = 1,
    split_seeds: int = 1,
    out: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Fit and evaluate several models on the same splits and users, and report it.

    Args:
      data: the folder with the data.
      models: names with commas between, such as popularity,ae,multvae; the first is what others are compared with.
      common: shared options.
      seed: the first training seed.
      seeds: how many training seeds.
      split_seeds: how many splits.
      out: folder for comparison.json, per_user.parquet, report.html and best/, the run of the model that was best on
        validation; default checkpoints/DATA-compare-SPLIT.
      overwrite: replace an existing comparison.
    """
    common.start()
    from aejax import experiment, runs

    console = make_console()
    names = [name.strip() for name in models.split(",") if name.strip()]
    if not names or len(set(names)) < len(names):
        raise InputError(f'--models is "{models}"; expected different names with commas between')
    if seeds < 1 or split_seeds < 1:
        raise InputError(f"--seeds is {seeds} and --split-seeds {split_seeds}; expected 1 or more")
    settings = experiment.compare_settings(names, common.given_settings(), common.stored_settings())
    dataset = common.dataset(data)
    if out is None:
        out = experiment.default_run(data, "compare", dataset.interactions, common.split)
    with runs.whole_folder(out, overwrite=overwrite) as unfinished, EpochProgress(console) as progress:
        comparison = experiment.compare(
            dataset,
            common.data_config(data),
            common.split_config(),
            settings,
            seeds=range(seed, seed + seeds),
            split_seeds=split_seeds,
            device=common.device,
            deterministic=common.deterministic,
            listen=lambda name, seed, split_seed, stage, record: progress.epoch(
                f"{name} {stage}, seed {seed}, split {split_seed}", record
            ),
        )
        experiment.write_comparison(comparison, unfinished)
    print_comparison(console, comparison.result)
    console.print(
        f"On validation {comparison.result['best_on_validation']} was best; its run is {out / 'best'}.\n"
        f"The report is {out / 'report.html'}."
    )


def tune(
    data: Data,
    model: str,
    common: tyro.conf.OmitArgPrefixes[Common],
    trials: int = 20,
    run: Path | None = None,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
) -> None:
    """Search a model's settings on the validation part alone; fit --settings RUN/settings.json takes them.

    Args:
      data: the folder with the data.
      model: the model; what --set or --settings give is fixed, the rest of its search space is searched.
      common: shared options.
      trials: how many settings to try, the given ones first.
      run: the directory for trials.jsonl and settings.json; default checkpoints/DATA-MODEL-SPLIT-tune.
      seed: seed of the training.
      resume: go on with an interrupted search.
      overwrite: replace an existing directory.
    """
    common.start()
    from aejax import experiment

    config = common.run_config(data, model, seed)
    console = make_console()
    dataset, run = common.read(data, run, resume, model, "tune")
    with EpochProgress(console) as progress:
        best = experiment.tune(
            config,
            run,
            trials=trials,
            dataset=dataset,
            overwrite=overwrite,
            resume=resume,
            on_trial=lambda record: console.print(trial_line(record)),
            on_epoch=lambda number, record: progress.epoch(f"trial {number}", record),
        )
    console.print(
        f"Trial {best['trial']} was best on validation, ndcg@100 {best['validation']:.4f}.\n"
        f"Use it: aejax fit {data} --model {model} --settings {run / 'settings.json'}"
    )


COMMANDS = {
    "data": reading.data,
    "check": reading.check,
    "fit": fit,
    "evaluate": evaluate,
    "recommend": recommend,
    "similar": similar,
    "compare": compare,
    "tune": tune,
    "refit": production.refit,
    "update": production.update,
    "hindsight": production.hindsight,
    "forget": production.forget,
}


def _join_repeated(arguments: Sequence[str]) -> list[str]:
    """Every `--set a=1` as one `--set a=1 b=2`, and so every `--columns`, so that they may be repeated."""
    rest: list[str] = []
    pairs: dict[str, list[str]] = {"--set": [], "--columns": []}
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        position += 1
        option, equals, value = argument.partition("=")
        if option not in pairs:
            rest.append(argument)
        elif equals:
            pairs[option].append(value)
        else:
            # The first word is meant as a pair even without "=": its message can then say what is missing.
            first = position
            while position < len(arguments) and not arguments[position].startswith("-"):
                if position > first and "=" not in arguments[position]:
                    break
                pairs[option].append(arguments[position])
                position += 1
    return rest + [word for option, words in pairs.items() if words for word in (option, *words)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command, by default that of this process; exits with 0, 1 or 2."""
    try:
        try:
            tyro.extras.subcommand_cli_from_dict(
                COMMANDS,
                prog="aejax",
                description=(
                    "Autoencoder recommenders in JAX: three CSV files of a shop in, product recommendations with "
                    "held-out evidence out. What JAX compiles is kept in the user's cache folder, or in "
                    "JAX_COMPILATION_CACHE_DIR."
                ),
                args=_join_repeated(sys.argv[1:] if arguments is None else arguments),
            )
        finally:
            sys.stdout.flush()
    except InputError as problem:
        print(f"aejax: {problem}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("aejax: stopped; an unfinished fit goes on with --resume", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read the output has gone, as in `aejax ... | head`: there is no one to tell, at exit neither.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
