"""The scripts do what their first lines say, on a small shop."""

import importlib
import inspect
import json
import subprocess
import sys

import against_recbole
import benchmark
import growth
import jax
import machine
import measuring
import numpy as np
import own_run
import pytest
import reproduce
import results_table
import sides
import train
import write_inter

from aejax import datasets, determinism, experiment, registry, runs
from aejax.config import DataConfig, SplitConfig
from aejax.evaluation import evaluate, validator
from aejax.matrix import user_item_matrix
from tests.shops import write_shop


def test_the_training_script_learns_more_than_popularity(shop, capsys):
    sizes = {"hidden": 16, "latent_dim": 8, "batch_size": 16, "learning_rate": 0.02, "beta": 0.0}
    figures = train.main(shop, split="users", epochs=40, **sizes)
    parts = experiment.prepare(DataConfig(str(shop)), SplitConfig("users")).split
    popularity = experiment.fit_model("popularity", registry.make_settings("popularity", {}), parts, seed=0).model
    assert figures["ndcg@100"] > evaluate(popularity, parts.test).values["ndcg@100"].mean() + 0.1
    losses = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert len(losses) == 40 and losses[-1] < losses[0]


def test_written_splits_read_back_as_the_same_parts(shop, tmp_path):
    write_inter.main(shop, tmp_path, min_customers=1, split_seeds=2)
    for seed in (0, 1):
        whole = experiment.prepare(DataConfig(str(shop), 1), SplitConfig("items", seed=seed)).split
        again = experiment.prepare(DataConfig(str(tmp_path / f"shop-s{seed}")), SplitConfig("predefined")).split
        for part in ("validation", "test"):
            ours, theirs = getattr(whole, part), getattr(again, part)
            assert np.array_equal(ours.users, theirs.users)
            assert (ours.targets != theirs.targets).nnz == 0
            assert (ours.seen != theirs.seen).nnz == 0


def test_the_results_table_holds_the_figures_of_compare(shop, tmp_path, capsys):
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"ae": {"hidden": [4], "epochs": 2}}))
    results_table.main(shop, ("users", "reconstruction"), ("popularity", "ae"), 2, settings)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert [row[:2] for row in rows[2:]] == [
        [protocol, model] for protocol in ("users", "reconstruction") for model in ("popularity", "ae")
    ]
    found = experiment.compare(
        datasets.read(shop),
        DataConfig(str(shop)),
        SplitConfig("users"),
        experiment.compare_settings(["popularity", "ae"], {}, {"ae": {"hidden": [4], "epochs": 2}}),
        seeds=range(2),
    ).result["models"]["ae"]
    assert rows[3][2].split()[0] == f"{found['metrics']['precision@10']['mean']:.4f}"
    seeds = [trial["test"]["ndcg@100"] for trial in found["trials"]]
    assert seeds[0] != seeds[1] and rows[3][5] == f"{abs(seeds[0] - seeds[1]):.4f}"


def test_the_pairing_runs_the_peer_on_the_same_files_with_its_own_settings(shop, tmp_path, capsys):
    write_inter.main(shop, tmp_path, min_customers=1, split_seeds=2)
    capsys.readouterr()
    peer = tmp_path / "peer"
    calls = tmp_path / "calls"
    peer.write_text(
        f"#!{sys.executable}\nimport sys\nopen({str(calls)!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')\n"
        "print('{\"test\": 0.25}')\n"
    )
    peer.chmod(0o755)
    own, theirs = tmp_path / "own.json", tmp_path / "theirs.json"
    own.write_text(json.dumps({"multvae": {"hidden": [], "latent_dim": 4, "epochs": 2}}))
    theirs.write_text(json.dumps({"MultiVAE": {"latent_dimension": 8, "mlp_hidden_size": []}}))
    folders = (tmp_path / "shop-s0", tmp_path / "shop-s1")
    against_recbole.main(folders, peer, own, theirs, seeds=2)
    lines = capsys.readouterr().out.splitlines()
    asked = calls.read_text().splitlines()
    assert len(asked) == 4
    assert all("latent_dimension=8 mlp_hidden_size=[]" in call and "--test" in call for call in asked)
    assert [str(folder) in call for folder, call in zip(np.repeat(folders, 2), asked, strict=True)] == [True] * 4
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:4]]
    assert [row[2] for row in rows] == ["0.2500 (0.2500, 0.2500)"] * 2
    assert float(rows[0][3]) == pytest.approx(float(rows[0][1].split()[0]) - 0.25, abs=2e-4)
    mean = np.mean([float(row[3]) for row in rows])
    assert float(lines[-1].split()[-1]) == pytest.approx(mean, abs=2e-4)


SIZE = {"users": 10, "items": 7, "cells": 20, "batch_size": 4, "dropout": 0.5}  # 3 updates an epoch


def test_floors_count_what_a_hand_counts():
    work = machine.multvae_epoch(SIZE, {"hidden": [3], "latent_dim": 2})
    # Half of 20 cells twice into 3 units; 10 users three times through 3 x 4, 2 x 3 and 3 x 7.
    assert work.flops == 2 * 2 * 10 * 3 + 3 * 2 * 10 * (12 + 6 + 21)
    assert work.bytes == 28 * (8 * 3 + 4 * 4 + 3 * 3 + 4 * 7) * 3
    assert work.product == (4, 3, 7) and work.resident == 16 * 77
    lazy = machine.lazy_multvae_epoch({**SIZE, "batch_items": 5.5}, {"hidden": [3], "latent_dim": 2})
    assert lazy.bytes == work.bytes - 28 * 1.5 * 3 * 3 and lazy.flops == work.flops
    work = machine.ae_epoch({**SIZE, "dropout": 0.0}, {"hidden": [5, 3]})
    assert work.flops == 2 * 2 * 20 * 5 + 3 * 2 * 10 * (15 + 15 + 35)
    work = machine.recvae_epoch(SIZE, {"hidden_dim": 3, "latent_dim": 2})
    encoder, out = 4 * 9 + 3 * 4, 2 * 7
    trained = 3 * (2 * 2 * 10 * 3 + 3 * 2 * 10 * encoder + 2 * 2 * 10 * out)
    encoded = 2 * 20 * 3 + 2 * 10 * encoder
    assert work.flops == trained + encoded + (encoded + 2 * 2 * 10 * out)
    squares = {"user_squares": 44, "item_squares": 60}
    work = machine.ease_fit_and_score({**SIZE, **squares}, {})
    assert work.flops == 7**3 + 44 + 2 * 20 * 7 and work.bytes == 4 * 10 * 7
    assert machine.ease_fit_and_score({**SIZE, **squares, "users": 3}, {}).flops == 3**3 + 3 * 60 + 2 * 20 * 3
    assert machine.multvae_scores(SIZE, {"hidden": [3], "latent_dim": 2}).flops == 2 * 20 * 3 + 2 * 10 * (6 + 6 + 21)
    limits = machine.Limits(float32=100.0, bfloat16=50.0, bandwidth=10.0)
    work = machine.Work(flops=300.0, bytes=20.0, product=(1, 1, 1))
    assert limits.floor(work) == 5.0 and limits.binds(work) == "arithmetic"


@pytest.mark.parametrize(
    ("model", "settings", "work"),
    [
        ("ae", {"hidden": [4, 3]}, machine.ae_epoch),
        ("multvae", {"hidden": [4], "latent_dim": 3, "dropout": 0.5}, machine.multvae_epoch),
    ],
)
def test_the_floor_moves_the_parameters_of_the_model_that_was_trained(shop, model, settings, work):
    settings = {**settings, "batch_size": 16}
    found = own_run.epoch(str(shop), model, {**settings, "epochs": 2})
    assert found["epoch_seconds"] > 0 and 0 <= found["validation"] <= 1
    size = found["work"]
    assert (size["users"], size["items"], size["epochs"]) == (40, 16, 2)
    assert work(size, settings).bytes == 28 * size["parameters"] * 3
    assert 0 < size["batch_items"] <= 16


def test_the_floor_of_recvae_moves_its_parameters_pass_by_pass(tiny_lines):
    settings = {"hidden_dim": 4, "latent_dim": 3, "batch_size": 60, "epochs": 1}
    fitted, _ = own_run._train(tiny_lines, "recvae", settings)
    count = {part: sum(leaf.size for leaf in jax.tree.leaves(tree)) for part, tree in fitted.params.items()}
    work = machine.recvae_epoch(own_run._size(tiny_lines, fitted, settings), settings)
    assert work.bytes == 28 * (3 * count["encoder"] + count["decoder"])


def test_ratios_pair_by_pair_and_exponents():
    assert machine.paired([1.0, 2.0, 4.0], [3.0, 2.0]) == [3.0, 1.0]
    assert machine.median_range([3.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 3.0, "repeats": 3}
    for power in (0.0, 1.0, 2.5):
        assert machine.exponent([1, 2, 4, 8], [3.0 * n**power for n in (1, 2, 4, 8)]) == pytest.approx(power, abs=1e-9)
    assert measuring.differences({"users": 3, "dropout": 0.5}, {"users": 3, "dropout": 0.0, "epochs": 2}) == [
        "dropout 0.0 instead of 0.5"
    ]


def test_the_machine_is_measured():
    limits = machine.measure((8, 4, 16), 2**12)
    assert min(limits.float32, limits.bfloat16, limits.bandwidth) > 0
    assert machine.peak("NVIDIA H100 80GB HBM3") == 989e12 and machine.peak("cpu: cpu") is None


def test_every_task_can_be_run():
    names = [task.name for task in benchmark.TASKS]
    assert len(set(names)) == len(names)
    assert {"ae", "multvae", "recvae", "ease", "top-100", "evaluation", "matrix", "cold", "warm"} <= set(names)
    assert {"seeds-1", "seeds-4", "seeds-16"} <= set(names)
    scripts = measuring.sides.SCRIPTS
    for task in benchmark.TASKS:
        given = dict(task.options) | ({"data": "x"} if task.data else {})
        inspect.signature(getattr(own_run, task.function)).bind(**given)
        if "settings" in given:
            registry.make_settings(given["model"], given["settings"])
        for peer in task.peers:
            side = measuring.side_of(peer, scripts, 6, None)
            assert (scripts / side.script).exists() and "{" not in " ".join(side.arguments[:1] + side.arguments[2:])
            if peer.environment:
                assert (scripts / "peers" / f"{peer.environment}.txt").exists()
            else:
                assert hasattr(own_run, peer.arguments)


def test_sides_alternate_and_a_peer_may_be_missing_or_slow(monkeypatch, tmp_path):
    asked = []

    def run(side, peers, device):
        asked.append(side.name)
        if side.name == "broken":
            raise sides.LeftOut("broken is left out: no wheel")
        return {"process_seconds": 9.0 if side.name == "slow" else 1.0}

    monkeypatch.setattr(sides, "run", run)
    three = [sides.own("environment", {}), *(sides.Side(name, "x", (), name) for name in ("broken", "slow"))]
    reports, words = sides.alternate(three, 3, peers=tmp_path, device=None, once_above=5.0)
    assert asked == ["aejax", "broken", "slow", "aejax", "aejax"]
    assert [len(lines) for lines in reports.values()] == [3, 1]
    assert words == ["broken is left out: no wheel", "slow ran once: it takes 9 s"]
    monkeypatch.undo()
    with pytest.raises(sides.LeftOut, match=r"peer is left out: there is no .*/none/bin/python; `make bench` makes it"):
        sides.run(sides.Side("peer", "own_run.py", (), "none"), tmp_path)
    with pytest.raises(sides.LeftOut, match="aejax is left out: KeyError: 'nothing'"):
        sides.run(sides.own("nothing", {}), tmp_path)


def test_a_task_without_its_peer_is_measured_shown_and_written(shop, tmp_path, capsys, monkeypatch):
    apart = sides.run

    def run(side, peers, device=None):
        """Our sides in this process; that of others is tested with the matrix and with a whole fit."""
        if side.script != "own_run.py":
            return apart(side, peers, device)
        report = getattr(own_run, side.arguments[0])(**json.loads(side.arguments[1]))
        return {**json.loads(json.dumps(report)), "process_seconds": 1.0}

    monkeypatch.setattr(sides, "run", run)
    write_inter.main(shop, tmp_path, min_customers=1, split_seeds=1)
    split, out = tmp_path / "shop-s0", tmp_path / "out"
    monkeypatch.setenv("XLA_FLAGS", determinism.FLAG)
    benchmark.tasks(split, peers=tmp_path, only=("ae", "matrix"), repeats=1, epochs=3, deterministic=True, out=out)
    shown = capsys.readouterr().out
    assert "Keras is left out: there is no" in shown and "matrix is left out: it needs --shop" in shown
    environment, record = (json.loads(line) for line in (out / "benchmark.jsonl").read_text().splitlines())
    assert {"processor", "git_commit", "packages", "data_sha256"} <= environment.keys() and environment["deterministic"]
    side, floor = record["sides"]["aejax"], record["floor"]
    assert side["work"]["epochs"] == 3 and side["repeats"] == 1 and side["median"] == side["values"][0]
    assert floor["share"]["median"] == pytest.approx(floor["seconds"]["median"] / side["median"])
    assert "| an epoch of ae 128-64-32-64-128, batch 64 (shop-s0) |" in shown
    with pytest.raises(SystemExit, match="--only mult is no task; the tasks are ae, multvae"):
        benchmark.tasks(only=("mult",))


def test_time_to_quality_takes_the_faster_peer_and_only_what_arrived(monkeypatch, capsys, tmp_path):
    curves = {
        "RecBole": [[1.0, 2.0, 0.1], [2.0, 4.0, 0.3]],
        "RecBole, its defaults": [[0.5, 1.0, 0.29]],
        "aejax": [[0.25, 1.0, 0.2], [0.5, 2.0, 0.31]],
    }
    asked = []

    def run(side, *others):
        asked.append(side.arguments)
        return {"curve": curves.get(side.name)}

    monkeypatch.setattr(sides, "run", run)
    monkeypatch.setattr(benchmark, "environment", lambda folders, peers: {})
    settings = tmp_path / "soon.json"
    settings.write_text('{"multvae": {"latent_dim": 4}}')
    records = benchmark.quality(tmp_path, settings, repeats=2)
    assert [record["target"] for record in records] == [0.3, 0.3]
    lines = capsys.readouterr().out.splitlines()
    assert "RecBole, its defaults not in 1 s, best 0.2900" in lines[0]
    first, second, own = asked[:3]
    assert "--limits" not in first
    at = second.index("--limits")
    assert second[at + 1 : at + 3] == ("2.0", "4.0")  # what the first took to its best, training and all
    assert '"latent_dim": 4' in own[-1]
    assert lines[2].startswith("with validation: aejax 2 [2, 2] s, RecBole 4 [4, 4] s, ratio 2 [2, 2] in 2 of 2")
    assert "training alone: aejax 0.5 [0.5, 0.5] s, RecBole 2" in lines[3]
    curves["RecBole, its defaults"][0][2] = 0.5
    benchmark.quality(tmp_path, settings, repeats=1)
    assert "ratio 0.5" in capsys.readouterr().out.splitlines()[1]


def test_our_training_stops_at_the_target(shop):
    settings = {"hidden": [8], "latent_dim": 4, "batch_size": 16, "learning_rate": 0.02, "epochs": 30, "patience": 30}
    whole = own_run.to_quality(str(shop), "multvae", settings, 2.0, 0)["curve"]
    assert len(whole) == 30
    target = max(score for _, _, score in whole)
    curve = own_run.to_quality(str(shop), "multvae", settings, target, 0)["curve"]
    assert [score for *_, score in curve] == [score for *_, score in whole[: len(curve)]]
    assert curve[-1][2] == target and all(trained < spent for trained, spent, _ in curve)


def test_a_synthetic_shop_falls_as_a_power_and_grows_as_asked(tmp_path):
    lines = own_run.power_law_shop(2_000, 50, 5)
    buyers = np.bincount(lines.item, minlength=50)
    assert 1.2 < buyers[0] / buyers[2] < 3.0  # a third as popular, but a user's second draw of the first counts once
    assert np.array_equal(lines.item, own_run.power_law_shop(2_000, 50, 5).item)
    assert np.bincount(lines.user).max() <= 5
    found = own_run.synthetic_epoch(60, 30, 5, "ease", {})
    assert found["seconds"] > 0 and found["megabytes"] > 50 and found["work"]["users"] == 60
    points = [
        {key: machine.median_range([size * scale]) for key, scale in (("seconds", 0.5), ("megabytes", 2.0))}
        for size in (10, 20)
    ]
    curve = {"axis": "users", "model": "ease", "sizes": [10, 20], "points": points}
    curve["exponents"] = {"seconds": 1.0, "megabytes": 1.0}
    assert growth.line(curve).startswith("ease, users: seconds ~ n^1.00, megabytes ~ n^1.00")
    growth.plot([curve], tmp_path)
    assert "<svg" in (tmp_path / "growth-users.svg").read_text()


def test_curves_are_fitted_to_what_fresh_processes_report(monkeypatch):
    def run(side, peers):
        asked = json.loads(side.arguments[1])
        return {"seconds": asked["users"] ** 1.5, "megabytes": 7.0, "work": {}}

    monkeypatch.setattr(sides, "run", run)
    curve = growth.measure(growth.AXES[0], "ae", repeats=2, device=None)
    assert curve["exponents"] == pytest.approx({"seconds": 1.5, "megabytes": 0.0}, abs=1e-9)
    assert curve["sizes"] == [1_000, 2_000, 4_000, 8_000] and curve["points"][0]["seconds"]["repeats"] == 2
    assert growth.AXES[1].sizes[-1] == 200_000


def test_peers_count_the_validation_figure_as_we_do(shop, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(measuring.sides.SCRIPTS / "peers")
    held_out = importlib.import_module("held_out")
    write_inter.main(shop, tmp_path, min_customers=1, split_seeds=1)
    split = held_out.read(tmp_path / "shop-s0")
    parts = experiment.prepare(DataConfig(str(tmp_path / "shop-s0")), SplitConfig("predefined")).split
    assert (split.train != user_item_matrix(parts.train)).nnz == 0
    popularity = experiment.fit_model("popularity", registry.make_settings("popularity", {}), parts, seed=0).model
    buyers = np.asarray(split.train.sum(axis=0)).ravel()
    ours = validator(parts.validation)(popularity)
    assert held_out.ndcg_at_100(split, lambda rows: np.tile(buyers, (rows.shape[0], 1)), size=7) == pytest.approx(ours)


def test_the_benchmark_runs_a_whole_fit(shop, capsys):
    benchmark.run(shop, "ease", ("l2=5",), repeats=1)
    seconds, memory = capsys.readouterr().out.splitlines()
    assert seconds.startswith("aejax fit --model ease, seconds: ") and seconds.endswith("n=1")
    assert 0.1 < float(memory.split(": ")[1].split()[0]) < 4  # JAX and the run are in it


def test_commands_of_a_shop_are_measured(shop, monkeypatch):
    commands = []

    def command(arguments, compiled):
        commands.append((arguments[0], compiled))
        return {"seconds": 1.0, "command": arguments[0]}

    monkeypatch.setattr(own_run, "command", command)
    fit = ["--model", "popularity"]
    assert own_run.stored_to_recommendations(str(shop), fit) == {"seconds": 1.0, "command": "recommend"}
    assert own_run.files_to_recommendations(str(shop), fit, rounds=2)["seconds"] > 0
    assert [name for name, _ in commands] == ["fit", "recommend", "recommend", "fit", "recommend", "fit", "recommend"]
    # What a task's commands compile is theirs: the next repeat finds nothing compiled.
    assert len({compiled for _, compiled in commands[:3]}) == len({compiled for _, compiled in commands[3:]}) == 1
    assert commands[0][1] != commands[3][1]
    assert own_run.lists_to_file(str(shop), fit, customers=100)["customers_per_second"] > 0
    settings = {"hidden": [4], "latent_dim": 2, "batch_size": 16, "epochs": 1}
    assert own_run.top_lists(str(shop), "multvae", settings, top=3)["rows"] == 40 * 3
    assert own_run.evaluation(str(shop), "multvae", settings)["evaluation_seconds"] > 0
    assert own_run.fit_and_score(str(shop), "ease", {})["work"]["user_squares"] > 40
    assert own_run.seeds(str(shop), "ae", {"hidden": [4], "epochs": 1}, count=2)["seconds"] > 0


def test_the_pivot_beside_which_the_matrix_is_measured_holds_the_same_cells(shop):
    ours, pivot = own_run.read_to_matrix(str(shop)), own_run.notebook_pivot(str(shop))
    assert ours["work"]["cells"] == pivot["work"]["cells"] > 0 and ours["seconds"] > 0
    assert ours["work"]["bytes"] == sum(file.stat().st_size for file in shop.glob("*.csv"))
    found = sides.run(sides.own("read_to_matrix", {"data": str(shop)}), shop)
    assert 20 < found["megabytes"] < 1000  # pandas and pyarrow are in it, this process's JAX is not


def test_a_table_is_reproduced_row_by_row_and_resumed(tmp_path, capsys, monkeypatch):
    shop = write_shop(tmp_path / "shop")
    rows = (
        reproduce.Row("popularity", {"ndcg@10": 0.5}, 1, quick=True, source="someone"),
        reproduce.Row("ease", {}, 1),
        reproduce.Row("ease", {}, 1, {"l2": 3.0}),
    )
    table = reproduce.Table("users", ("ndcg@10",), 2, rows)
    monkeypatch.setitem(reproduce.TABLES, "ml-100k", table)
    monkeypatch.setattr(reproduce, "SETTINGS", tmp_path)
    (tmp_path / "ml-100k.json").write_text(json.dumps({"ease": {"l2": 1e6}}))
    calls = []

    run = subprocess.run

    def call(command, **options):
        if command[0] != reproduce.sys.executable:  # the environment asks git
            return run(command, **options)
        calls.append(command[command.index("--row") + 1])
        capsys.readouterr()
        reproduce.main("ml-100k", shop, row=calls[-1], quick="--quick" in command)
        return subprocess.CompletedProcess(command, 0, capsys.readouterr().out)

    monkeypatch.setattr(reproduce.subprocess, "run", call)
    out = tmp_path / "out.jsonl"
    reproduce.main("ml-100k", shop, quick=True, out=out)
    assert calls == ["popularity"]
    assert "On the first of 2 splits" in capsys.readouterr().out
    reproduce.main("ml-100k", shop, out=out)
    assert calls == ["popularity", "popularity", "ease", "ease*"]  # one split is not two
    reproduce.main("ml-100k", shop, out=out)
    assert len(calls) == 4
    shown = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in shown if line.startswith("| ")][-3:]
    assert [row[0] for row in cells] == ["popularity", "ease", "ease*"]
    figures = []
    for seed in (0, 1):
        parts = experiment.prepare(DataConfig(str(shop)), SplitConfig("users", seed=seed)).split
        model = experiment.fit_model("ease", registry.make_settings("ease", {"l2": 3.0}), parts, seed=0).model
        figures.append(evaluate(model, parts.test).values["ndcg@10"].mean())
    assert [row[1] for row in cells] == ["defaults", "tuned", "published"]
    assert float(cells[2][2]) == pytest.approx(np.mean(figures), abs=1e-4)
    assert cells[1][2] != cells[2][2]
    assert float(cells[0][4]) == pytest.approx(float(cells[0][2]) - 0.5, abs=1e-4)
    assert cells[0][7] == "someone"
    with out.open("a") as opened:
        opened.write('{"row": "ease", "cut')  # as a full disk leaves it
    (tmp_path / "ml-100k.json").write_text(json.dumps({"ease": {"l2": 1e5}}))
    calls.clear()
    reproduce.main("ml-100k", shop, out=out)
    assert calls == ["ease"]  # its settings are others now
    (shop / "orders.csv").write_text((shop / "orders.csv").read_text().rsplit("\n", 2)[0] + "\n")
    calls.clear()
    reproduce.main("ml-100k", shop, quick=True, out=out)
    assert calls == ["popularity"]
    reproduce.main("ml-100k", shop, quick=True, out=out)
    assert calls == ["popularity"]
    monkeypatch.setattr(reproduce.subprocess, "run", lambda command, **options: subprocess.CompletedProcess(command, 1))
    monkeypatch.setattr(reproduce.runs, "environment", lambda files: {"data_sha256": {}})
    with pytest.raises(SystemExit, match=r"no figure for popularity, ease, ease\*;"):
        reproduce.main("ml-100k", shop, out=tmp_path / "none.jsonl")
    with pytest.raises(SystemExit, match='--row is "eas"; the rows of ml-100k are popularity, ease, ease\\*'):
        reproduce.main("ml-100k", shop, row="eas")


def logs_of_tune():
    """Data and model of every stored setting that has a log of `tune` beside it."""
    for file in sorted(reproduce.SETTINGS.glob("*.json")):
        for model in sorted(runs.read_json(file)):
            log = reproduce.SETTINGS / f"{file.stem}-{model}.jsonl"
            if log.exists() and all("state" in record for record in runs.read_log(log)):
                yield file.stem, model


@pytest.mark.parametrize(("data", "model"), list(logs_of_tune()))
def test_stored_settings_are_the_best_trial_of_the_log_beside_them(data, model):
    stored = runs.read_json(reproduce.SETTINGS / f"{data}.json")[model]
    trials = runs.read_log(reproduce.SETTINGS / f"{data}-{model}.jsonl")
    best = max((trial for trial in trials if trial["state"] == "complete"), key=lambda trial: trial["validation"])
    assert {name: stored[name] for name in best["settings"]} == best["settings"]
    registry.make_settings(model, stored)
