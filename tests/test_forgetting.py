"""Customers who are taken out of a run."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from aejax import experiment
from aejax.experiment import forgetting
from tests.shops import run, write_shop

GONE = [f"{number:03d}" for number in range(0, 36, 2)]  # of one half of the products two customers remain
SMALL = ["--epochs", 1, "--set", "latent_dim=4", "batch_size=16"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = write_shop(tmp_path_factory.mktemp("shop"))
    customers = pd.read_csv(folder / "customers.csv", dtype=str)
    customers.assign(city=["x", "y", "z"] * 13 + ["x", "z"]).to_csv(folder / "customers.csv", index=False)
    return folder


@pytest.fixture(params=["userknn", "ease", "cdae", "gfcf"])
def fitted(shop, tmp_path, request):
    more = SMALL if request.param == "cdae" else ["--set", "side=users"] if request.param == "ease" else []
    assert run("fit", shop, "--model", request.param, "--run", tmp_path / "one", *more) == 0
    assert run("recommend", tmp_path / "one") == 0
    return tmp_path / "one"


def named(folder):
    path = folder.parent / "gone.csv"
    pd.DataFrame({"customer_id": [*GONE, "a stranger"]}).to_csv(path, index=False)
    return path


def test_nothing_of_them_is_left_and_the_run_still_works(fitted, capsys):
    before = experiment.load_run(fitted)
    metrics = (fitted / "metrics.json").read_bytes()
    assert run("forget", fitted, "--customers", named(fitted)) == 0
    said = capsys.readouterr().out
    assert f"{len(GONE)} customers" in said and "1 customer of the file" in said
    assert ("remember them" in said) == (before.config.model == "cdae")
    after = experiment.load_run(fitted)
    dataset = after.prepared.dataset
    assert not set(GONE) & {*dataset.customers["customer_id"], *dataset.interactions.users.ids}
    assert after.prepared.interactions.items.ids.tolist() == before.prepared.interactions.items.ids.tolist()
    noteless = {
        table: tuple(dataclasses.replace(one, note="") for one in own)
        for table, own in before.prepared.attributes.items()
    }
    assert after.prepared.attributes == noteless
    assert (fitted / "metrics.json").read_bytes() == metrics
    assert not (fitted / "report.html").exists() and not (fitted / "recommendations.csv").exists()
    assert run("evaluate", fitted) == 0
    assert "may differ" in capsys.readouterr().out
    assert run("recommend", fitted, "--top", 3) == 0
    assert not set(GONE) & set(pd.read_csv(fitted / "recommendations.csv", dtype=str)["customer_id"])
    if before.config.model == "cdae":
        assert not set(GONE) & set(after.model.users.ids)
        histories = after.prepared.split.test.inputs
        assert np.isfinite(np.asarray(after.model.scores(after.model.encode(histories)))).all()


def test_a_run_is_whole_when_forgetting_fails(shop, tmp_path, monkeypatch, capsys):
    assert run("fit", shop, "--model", "popularity", "--run", tmp_path / "one") == 0
    before = {path: path.read_bytes() for path in (tmp_path / "one").rglob("*") if path.is_file()}

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(forgetting.runs, "save_state", stop)
    assert run("forget", tmp_path / "one", "--customers", named(tmp_path / "one")) == 130
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in (tmp_path / "one").rglob("*") if path.is_file()} == before
    (tmp_path / "none.txt").write_text("a stranger\n")
    assert run("forget", tmp_path / "one", "--customers", tmp_path / "none.txt") == 1
    assert "none of the 1 customer" in capsys.readouterr().err
    assert run("forget", tmp_path / "one", "--customers", named(tmp_path / "one")) == 0


def test_a_comparison_forgets_with_its_best_run(tmp_path, capsys):
    folder = write_shop(tmp_path / "shop")
    for name in ("orders.csv", "customers.csv"):
        table = pd.read_csv(folder / name, dtype=str)
        table.replace({"customer_id": {"002": "forgetme"}}).to_csv(folder / name, index=False)
    compared = tmp_path / "c"
    assert run("compare", folder, "--models", "popularity", "--out", compared) == 0
    figures, rows = (compared / "comparison.json").read_bytes(), pd.read_parquet(compared / "per_user.parquet")
    assert "forgetme" in set(rows["customer_id"]) and (compared / "report.html").exists()
    (tmp_path / "gone.txt").write_text("forgetme\n")
    capsys.readouterr()
    assert run("forget", compared / "best", "--customers", tmp_path / "gone.txt") == 0
    assert "per_user.parquet and the comparison's report" in capsys.readouterr().out.replace("\n", " ")
    left = pd.read_parquet(compared / "per_user.parquet")
    pd.testing.assert_frame_equal(left, rows[rows["customer_id"] != "forgetme"].reset_index(drop=True))
    assert not (compared / "report.html").exists() and (compared / "comparison.json").read_bytes() == figures


def test_ids_in_stored_warnings_are_masked():
    said = '2 customers of orders.csv not in customers.csv: "004", "005"; kept, without attributes'
    assert forgetting._masked(said, {"004"}) == said.replace("004", "...")


def test_no_file_of_the_run_names_them(tmp_path):
    """Ids that nothing else holds: of one whom only orders name, and of one with more than messages show; and a cell
    that a note on its column shows.
    """
    folder = write_shop(tmp_path / "shop")
    long = "forgetme" + "7" * 60
    renamed = {"000": "forgetme-0", "002": long}
    for name in ("orders.csv", "customers.csv"):
        table = pd.read_csv(folder / name, dtype=str)
        table["customer_id"] = table["customer_id"].replace(renamed)
        if name == "customers.csv":
            table = table[~table["customer_id"].isin(renamed.values())]
            table["visits"] = [*(str(number % 12) for number in range(len(table) - 1)), "forgetme 7 Elm St"]
            renamed["last"] = table["customer_id"].iloc[-1]
        table.to_csv(folder / name, index=False)
    one = tmp_path / "one"
    assert run("fit", folder, "--model", "userknn", "--run", one) == 0
    assert run("recommend", one) == 0

    def naming():
        found = set()
        for path in one.rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                if path.suffix == ".parquet":
                    content += pd.read_parquet(path).astype(str).to_csv().encode()
                if b"forgetme" in content:
                    found.add(str(path.relative_to(one)))
        return found

    assert {"data/quality.json", "data/attributes.json", "recommendations.csv"} <= naming()
    (tmp_path / "gone.txt").write_text("\n".join(renamed.values()))
    assert run("forget", one, "--customers", tmp_path / "gone.txt") == 0
    assert not naming()
