"""Speed and memory beside other libraries and beside what the machine allows, in one run.

    python scripts/benchmark.py tasks --split data/inter/ml-100k-s0 --shop data/prepared_data --peers .peers --out bench
    python scripts/benchmark.py tasks --split data/inter/ml-100k-s0 --only ae multvae --repeats 7
    python scripts/benchmark.py quality --split data/inter/ml-100k-s0 --settings soon.json --peers .peers
    python scripts/benchmark.py growth --out bench
    python scripts/benchmark.py run data/gowalla --model ease --set l2=80

`make bench` makes the peers' environments and runs `tasks`, `quality` and `growth` on the demo shop. Each side of a
task runs in a process of its own, alternating; a figure is the median [least, most] of the repeats, a ratio the median
of the ratios pair by pair, and the machine's limits are measured in every round. Machines are noisy: compare figures of
one run only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import growth as curves
import machine
import reaching
import sides
import tyro
from measuring import Peer, Task, measure, show, spread, table, write

from aejax import determinism

AE = {"hidden": [128, 64, 32], "batch_size": 64}
# RecBole draws z with a deviation of .01.
MULTVAE = {"hidden": [600], "latent_dim": 200, "dropout": 0.5, "batch_size": 100, "noise": 0.01}
RECVAE = {"hidden_dim": 600, "latent_dim": 200, "dropout": 0.5, "batch_size": 100, "noise": 0.01}
# RecBole's latent_dimension counts the mean and the log-variance.
RECBOLE_MULTVAE = "MultiVAE --batch 100 --set mlp_hidden_size=[600] latent_dimension=400 dropout_prob=0.5"
RECBOLE_RECVAE = "RecVAE --batch 100 --set hidden_dimension=600 latent_dimension=200 dropout_prob=0.5"
RECBOLE = Peer("RecBole MultiVAE", "recbole", RECBOLE_MULTVAE + " eval_step={epochs} --epochs {epochs} --patience 1000")
ALL_METRICS = 'metrics=["Recall","NDCG","Precision","Hit","MAP","MRR"] topk=[10,20,50,100]'


def training(
    name: str, what: str, settings: Mapping[str, Any], work: Any, *peers: Peer, model: str | None = None
) -> Task:
    """An epoch of a model, by default the one of that name; `--epochs` is added to its settings."""
    options = {"model": model or name, "settings": settings}
    return Task(name, what, "split", "epoch", options, "epoch_seconds", peers, work)


ONE_EPOCH = {"model": "multvae", "settings": {**MULTVAE, "epochs": 1}}
FIT_TWO = ["--model", "multvae", "--epochs", "2", "--set", "batch_size=100"]
TASKS = (
    training(
        "ae",
        "an epoch of ae 128-64-32-64-128, batch 64",
        AE,
        machine.ae_epoch,
        Peer("Keras", "keras", "--hidden 128 64 32 --batch 64 --epochs {epochs}"),
    ),
    training(
        "multvae",
        "an epoch of Mult-VAE 600-200, batch 100",
        MULTVAE,
        machine.multvae_epoch,
        RECBOLE,
        Peer("irspack MultVAE", "irspack", "--hidden 600 --latent-dim 200 --batch 100 --dropout 0.5 --epochs {epochs}"),
        Peer("Cornac VAECF", "cornac", "--hidden 600 --latent-dim 200 --batch 100 --epochs {epochs}"),
    ),
    training(
        "multvae-lazy",
        "the same by lazy Adam, which is another optimizer",
        {**MULTVAE, "optimizer": "lazy-adam"},
        machine.lazy_multvae_epoch,
        RECBOLE,
        model="multvae",
    ),
    training(
        "recvae",
        "an epoch of RecVAE 600-200, batch 100: three passes of the encoder, one of the decoder",
        RECVAE,
        machine.recvae_epoch,
        Peer("RecBole RecVAE", "recbole", RECBOLE_RECVAE + " eval_step={epochs} --epochs {epochs} --patience 1000"),
    ),
    Task(
        "ease",
        "EASE, l2 350: fit, and scores of all users",
        "split",
        "fit_and_score",
        {"model": "ease", "settings": {"l2": 350.0}},
        "fit_and_score_seconds",
        (Peer("RecBole EASE", "recbole", "EASE --batch 1000000 --score --set reg_weight=350.0"),),
        machine.ease_fit_and_score,
    ),
    Task(
        "top-100",
        "the best 100 products of every user with titles, by Mult-VAE 600-200",
        "split",
        "top_lists",
        {**ONE_EPOCH, "top": 100},
        "seconds",
        work=machine.multvae_scores,
    ),
    Task(
        "evaluation",
        "all metrics of all test users, by Mult-VAE 600-200",
        "split",
        "evaluation",
        ONE_EPOCH,
        "evaluation_seconds",
        (Peer("RecBole", "recbole", f"{RECBOLE_MULTVAE} {ALL_METRICS} --epochs 1 --test"),),
        machine.multvae_scores,
    ),
    *(
        Task(
            f"seeds-{count}",
            f"{count} trainings of ae, 5 epochs each, compilation included",
            "split",
            "seeds",
            {"model": "ae", "settings": {**AE, "epochs": 5}, "count": count},
            "seconds",
        )
        for count in (1, 4, 16)
    ),
    Task(
        "matrix",
        "CSV files to the user-item matrix, after imports",
        "shop",
        "read_to_matrix",
        {},
        "seconds",
        (Peer("pandas pivot", "", "notebook_pivot"),),
        machine.files_read,
    ),
    Task(
        "cold",
        "CSV files to recommendations.csv, Mult-VAE of 2 epochs, the first time: two commands with their start",
        "shop",
        "files_to_recommendations",
        {"arguments": FIT_TWO, "rounds": 1},
        "seconds",
    ),
    Task(
        "warm",
        "the same two commands once more",
        "shop",
        "files_to_recommendations",
        {"arguments": FIT_TWO, "rounds": 2},
        "seconds",
    ),
    Task(
        "recommend",
        "a stored run to recommendations.csv, start included, compiled before",
        "shop",
        "stored_to_recommendations",
        {"arguments": FIT_TWO},
        "seconds",
    ),
    *(
        Task(
            f"lists-{model}",
            f"top 10 with titles of 50,000 customers of the shop to a CSV file, by {model}, warm",
            "shop",
            "lists_to_file",
            {"arguments": ["--model", model, *options], "customers": 50_000},
            "seconds",
        )
        for model, options in (("ease", ["--set", "l2=350"]), ("multvae", ["--epochs", "1"]))
    ),
    Task("help", "aejax --help", "", "command", {"arguments": ["--help"]}, "seconds"),
)


def tasks(
    split: Path | None = None,
    shop: Path | None = None,
    peers: Path = Path(".peers"),
    only: tuple[str, ...] = (),
    repeats: int = 5,
    epochs: int = 6,
    once_above: float = 120.0,
    device: str | None = None,
    deterministic: bool = False,
    out: Path | None = None,
) -> list[dict[str, Any]]:
    """Every task beside its peers and the machine's limits.

    Args:
      split: a predefined split in RecBole's format, for the tasks that train and score.
      shop: three CSV files, for the tasks that begin with files.
      peers: the folder of the peers' environments.
      only: names of tasks; default: all.
      repeats: alternating rounds.
      epochs: of a training in each round; its first is left out (compilation).
      once_above: seconds after whose first run a peer is not run again.
      device: cpu, gpu or tpu; default: what JAX prefers.
      deterministic: as `aejax fit` has it, for our sides and peers in JAX: run once with it and once without for its
        cost.
      out: a folder to which benchmark.jsonl is appended.
    """
    names = [task.name for task in TASKS]
    if unknown := [name for name in only if name not in names]:
        raise SystemExit(f"--only {unknown[0]} is no task; the tasks are {', '.join(names)}")
    if deterministic:
        determinism.ask()
    folders = {"split": split, "shop": shop}
    here = environment([folder for folder in (split, shop) if folder], peers)
    write(out, {"kind": "environment", **here, "deterministic": deterministic})
    asked = ", deterministic" if deterministic else ""
    print(f"{here['processor']}, {here['cores']} cores; {here['device']}{asked}; load {here['load']}", flush=True)
    records = []
    for task in TASKS:
        if only and task.name not in only:
            continue
        if task.data and folders[task.data] is None:
            print(f"\n{task.name} is left out: it needs --{task.data}")
            continue
        record = measure(
            task,
            folders.get(task.data),
            peers=peers,
            repeats=repeats,
            epochs=epochs,
            once_above=once_above,
            device=device,
        )
        write(out, record)
        show(record)
        records.append(record)
    print("\n" + table(records))
    return records


def quality(
    split: Path,
    settings: Path,
    peers: Path = Path(".peers"),
    target: float | None = None,
    peer_settings: Path | None = None,
    repeats: int = 5,
    most_epochs: int = 300,
    device: str | None = None,
    out: Path | None = None,
) -> list[dict[str, Any]]:
    """Seconds until Mult-VAE reaches a validation ndcg@100, here and at RecBole, each round with a seed of its own.

    Both validate after every epoch. RecBole runs with the given configuration and with its defaults, these for no
    longer than the first one took; the faster one to reach the target counts.

    Args:
      split: a predefined split in RecBole's format.
      settings: JSON file with aejax's settings by model.
      peers: the folder of the peers' environments.
      target: the validation ndcg@100; default: in each round the best of RecBole with the given configuration.
      peer_settings: JSON file with RecBole's settings by model; default: those of the task `multvae`.
      repeats: rounds.
      most_epochs: after which a side has not reached it.
      device: cpu, gpu or tpu; default: what JAX prefers.
      out: a folder to which benchmark.jsonl is appended.
    """
    own = json.loads(settings.read_text(encoding="utf-8"))["multvae"]
    given = RECBOLE_MULTVAE
    if peer_settings is not None:
        chosen = json.loads(peer_settings.read_text(encoding="utf-8"))["MultiVAE"]
        pairs = [f"{name}={json.dumps(value, separators=(',', ':'))}" for name, value in chosen.items()]
        given = " ".join(["MultiVAE", "--set", *pairs])
    recbole = {"RecBole": given, "RecBole, its defaults": "MultiVAE --batch 2048"}
    write(out, {"kind": "environment", **environment((split,), peers)})
    records = []
    for seed in range(repeats):
        record = reaching.a_round(
            split,
            own,
            recbole,
            peers=peers,
            target=target,
            seed=seed,
            most_epochs=most_epochs,
            device=device,
        )
        write(out, record)
        print(reaching.line(record), flush=True)
        records.append(record)
    print("\n".join(reaching.summary(records)))
    return records


def environment(folders: Sequence[Path], peers: Path) -> dict[str, Any]:
    """The machine, versions, the git commit, and the SHA-256 of every file of the folders."""
    files = [str(file.resolve()) for folder in folders for file in sorted(folder.iterdir()) if file.is_file()]
    return sides.run(sides.own("environment", {"files": files}), peers)


def growth(
    axes: tuple[str, ...] = tuple(axis.name for axis in curves.AXES),
    models: tuple[str, ...] = tuple(curves.MODELS),
    repeats: int = 3,
    device: str | None = None,
    out: Path = Path("bench"),
) -> None:
    """How an epoch's seconds and the peak memory grow with users, products and purchases, on synthetic shops.

    Args:
      axes: what grows.
      models: whose curves.
      repeats: fresh processes of a point.
      device: cpu, gpu or tpu; default: what JAX prefers.
      out: the folder for benchmark.jsonl and the plots.
    """
    write(out, {"kind": "environment", **environment((), Path())})
    for axis in curves.AXES:
        if axis.name not in axes:
            continue
        found = []
        for model in models:
            found.append(curves.measure(axis, model, repeats=repeats, device=device))
            write(out, {"kind": "growth", **found[-1]})
            print(curves.line(found[-1]), flush=True)
        curves.plot(found, out)


def run(data: tyro.conf.Positional[Path], model: str = "ease", set: tuple[str, ...] = (), repeats: int = 1) -> None:
    """`aejax fit` from files to run directory, test figures and report included: seconds, and the most memory.

    Args:
      data: the folder.
      model: registry name.
      set: its settings, key=value.
      repeats: fresh processes.
    """
    options = {"data": str(data.resolve()), "arguments": ["--model", model, "--set", *set]}
    figures = [sides.run(sides.own("whole_fit", options), Path()) for _ in range(repeats)]
    for name, scale, unit in (("seconds", 1.0, " s"), ("megabytes", 1024.0, " GiB")):
        values = machine.median_range([figure[name] / scale for figure in figures])
        print(f"aejax fit --model {model}, {name}: {spread(values, unit)} n={repeats}")


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"tasks": tasks, "quality": quality, "growth": growth, "run": run})
