"""The scripts do what their first lines say, on a small shop."""

import json
import subprocess
import sys

import against_recbole
import benchmark
import numpy as np
import pandas as pd
import pytest
import reproduce
import results_table
import train
import write_inter

from aejax import datasets, experiment, registry, runs
from aejax.config import DataConfig, SplitConfig
from aejax.evaluation import evaluate
from aejax.interactions import net_returns
from aejax.matrix import user_item_matrix
from tests.shops import write_shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return write_shop(tmp_path_factory.mktemp("scripts") / "shop")


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


def test_the_benchmark_measures_what_it_names(shop, tmp_path, capsys):
    write_inter.main(shop, tmp_path, min_customers=1, split_seeds=1)
    assert benchmark.own_epoch(str(tmp_path / "shop-s0"), "16", "8", "4", "4") > 0
    _, megabytes = benchmark.in_fresh_process("read_to_matrix", str(shop))
    assert 20 < megabytes < 1000  # pandas and pyarrow are in it, this process's JAX is not
    capsys.readouterr()
    assert benchmark.show("three", [3.0, 1.0, 2.0], "s") == 2.0
    assert "[1, 3]  n=3" in capsys.readouterr().out


def test_the_benchmark_runs_a_whole_fit_and_a_closed_form(shop, capsys):
    benchmark.run(shop, "ease", ("l2=5",), repeats=2)
    benchmark.closed(shop, "itemknn", repeats=3)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "aejax fit --model ease, seconds",
        "aejax fit --model ease, memory",
        "itemknn, fit",
        "itemknn, encode and score all",
    ]
    assert [line[-3:] for line in lines] == ["n=2", "n=2", "n=3", "n=3"]
    assert 0.1 < float(lines[1].split("memory")[1].split()[0]) < 4  # JAX and the run are in it
    with pytest.raises(subprocess.CalledProcessError):
        benchmark.run(shop, "ease", ("l2=-5",))


def test_the_pivot_beside_which_the_matrix_is_measured_holds_the_same_cells(shop):
    lines = datasets.read(shop).interactions
    orders = pd.read_csv(shop / "orders.csv", dtype={"customer_id": str, "lineitem_sku": str})
    cells = orders.groupby(["customer_id", "lineitem_sku"])["lineitem_quantity"].sum()
    assert user_item_matrix(net_returns(lines), "quantity").sum() == cells.sum()
    assert user_item_matrix(net_returns(lines), "quantity").nnz == len(cells)


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
