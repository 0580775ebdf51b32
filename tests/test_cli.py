"""The commands as a person types them, on a small shop with two tastes."""

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from crash_test import PROCESSES

from aejax import experiment, recommendation
from aejax.experiment import fitting
from aejax.models import popularity_segment
from tests import shops
from tests.shops import run, write_shop

SMALL = ["--set", "hidden=8", "latent_dim=4", "batch_size=16"]


@pytest.fixture(scope="module")
def fitted(shop, tmp_path_factory):
    return shops.fitted(shop, tmp_path_factory.mktemp("runs") / "one", "multvae", "--epochs", 3, *SMALL)


def test_help_is_answered_without_jax_and_pandas():
    code = (
        "import sys\nfrom aejax.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        "print([name for name in ('jax', 'pandas', 'pyarrow', 'rich.table') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"


def test_recommendations_wait_for_nothing_that_plots_or_checks_tables(fitted, tmp_path):
    code = (
        "import sys\nfrom aejax.cli import main\nmain(['recommend', sys.argv[1], '--out', sys.argv[2]])\n"
        "print([name for name in ('matplotlib', 'jinja2', 'optuna') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, fitted, tmp_path / "lists.csv"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]" and (tmp_path / "lists.csv").exists()


def test_a_table_of_both_tasks_waits_for_no_plots(fitted):
    code = (
        "import json, sys\nfrom aejax.cli import terminal\nresult = json.load(open(sys.argv[1]))\n"
        "terminal.print_metrics(terminal.make_console(), {'multvae': result}, result)\n"
        "print([name for name in ('matplotlib', 'jinja2', 'jax', 'pandas') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, fitted / "metrics.json"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "next, repeat targets" in " ".join(out.split()) and out.splitlines()[-1] == "[]"


def test_a_run_evaluates_to_its_own_figures(fitted, tmp_path):
    assert run("evaluate", fitted, "--json", tmp_path / "again.json") == 0
    assert (tmp_path / "again.json").read_bytes() == (fitted / "metrics.json").read_bytes()


def test_who_stops_reading_the_output_gets_no_traceback():
    with subprocess.Popen(
        [sys.executable, "-m", "aejax", "tune", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as command:
        command.stdout.close()
        assert command.stderr.read() == b""
    assert command.returncode == 1


def test_a_customer_without_orders_gets_what_their_like_buy(shop, tmp_path, capsys, monkeypatch):
    """Customers of even and of odd numbers keep to one half of the products each; 040 is even, 041 says nothing."""
    folder = tmp_path / "shop"
    shutil.copytree(shop, folder)
    customers = pd.read_csv(folder / "customers.csv", dtype=str)
    customers["kind"] = np.where(customers["customer_id"].astype(int) % 2, "odd", "even")
    customers.loc[len(customers)] = ["041", ""]
    customers.to_csv(folder / "customers.csv", index=False)
    assert run("fit", folder, "--model", "itemknn", "--run", tmp_path / "run") == 0
    assert run("recommend", tmp_path / "run", "--top", 3, "--out", tmp_path / "r.csv") == 0
    assert "1 of them have no usable history and get what customers of the same" in " ".join(
        capsys.readouterr().out.split()
    )
    rows = pd.read_csv(tmp_path / "r.csv", dtype={"customer_id": str, "sku": str})
    even = rows[rows["customer_id"] == "040"]
    assert set(even["basis"]) == {"customer-attributes"} and (even["sku"].astype(int) < 8).all()
    assert set(rows.loc[rows["customer_id"] == "041", "basis"]) == {"popular"}
    # More attributes than can be solved for take nothing from the customers with orders, and are not passed over.
    monkeypatch.setattr(popularity_segment, "MOST_ROWS", 1)
    assert run("recommend", tmp_path / "run", "--top", 3, "--out", tmp_path / "r.csv") == 0
    assert "Note: customers without orders get the most popular products: 2 features of" in " ".join(
        capsys.readouterr().out.split()
    )
    few = pd.read_csv(tmp_path / "r.csv", dtype={"customer_id": str, "sku": str})
    assert set(few.loc[few["customer_id"] == "040", "basis"]) == {"popular"}
    pd.testing.assert_frame_equal(few[few["customer_id"] < "040"], rows[rows["customer_id"] < "040"])


def test_every_customer_gets_ten_products_not_bought_before(fitted, shop, tmp_path):
    out = tmp_path / "r.csv"
    assert run("recommend", fitted, "--top", 8, "--out", out) == 0
    rows = pd.read_csv(out, dtype={"customer_id": str, "sku": str})
    assert list(rows.columns) == ["customer_id", "rank", "sku", "title", "score", "basis"]
    assert set(rows["customer_id"]) == {f"{customer:03d}" for customer in range(41)}
    assert (rows.groupby("customer_id").size() == 8).all()
    assert set(rows.loc[rows["customer_id"] == "040", "basis"]) == {"popular"}
    orders = pd.read_csv(shop / "orders.csv", dtype=str)
    bought = set(zip(orders["customer_id"], orders["lineitem_sku"], strict=True))
    assert not bought & set(zip(rows["customer_id"], rows["sku"], strict=True))


def test_one_seed_twice_is_the_same_bytes_and_another_seed_is_not(fitted, shop, tmp_path):
    for name, seed in (("same", 0), ("other", 1)):
        arguments = ("--run", tmp_path / name, "--seed", seed, "--epochs", 3, *SMALL)
        assert run("fit", shop, "--model", "multvae", *arguments) == 0
    stored = [json.loads((folder / "log.jsonl").read_text().splitlines()[0]) for folder in (fitted, tmp_path / "other")]
    assert stored[0]["loss"] != stored[1]["loss"]
    for file in ("metrics.json", "log.jsonl", "report.html"):
        assert (tmp_path / "same" / file).read_bytes() == (fitted / file).read_bytes(), file


def test_similar_products_are_of_the_same_half(shop, tmp_path, capsys):
    folder = tmp_path / "run"
    # 40 customers are one update an epoch: with the default learning rate 60 updates would learn next to nothing.
    trained = ("--split", "reconstruction", "--epochs", 60, "--set", "hidden=", "latent_dim=8", "learning_rate=0.05")
    assert run("fit", shop, "--model", "multvae", "--run", folder, *trained, "patience=60") == 0
    capsys.readouterr()
    assert run("similar", folder, "--sku", "003", "--top", 7) == 0
    shown = [line for line in capsys.readouterr().out.splitlines() if "Product" in line and "│" in line]
    assert len(shown) == 7
    assert all(int(line.split("│")[2]) < 8 for line in shown)


def test_compare_shares_users_and_writes_all_it_names(shop, tmp_path):
    out = tmp_path / "c"
    models = ("--models", "popularity,vae", "--epochs", 2, "--set", "hidden=8", "latent_dim=4")
    assert run("compare", shop, *models, "--seeds", 2, "--out", out) == 0
    result = json.loads((out / "comparison.json").read_text())
    users = pd.read_parquet(out / "per_user.parquet").groupby(["model", "seed"])["customer_id"].apply(set)
    assert len(users) == 3  # popularity has no seed to vary
    assert all(own == users.iloc[0] for own in users)
    assert set(result["models"]) == {"popularity", "vae"}
    assert "Product" in (out / "report.html").read_text()
    assert run("evaluate", out / "best") == 0


def test_every_output_says_whom_the_model_does_not_know(shop, tmp_path, capsys):
    """Under `users` no tested customer was trained on: 4 of validation and 4 of test."""
    brief = ("--split", "users", "--epochs", 2, "--set", "latent_dim=4")
    folder = tmp_path / "run"
    assert run("fit", shop, "--model", "cdae", "--run", folder, *brief) == 0
    note = "the model, or a part of it, does not know 4 of the 4 customers and took each for the mean of those it knows"
    assert json.loads((folder / "metrics.json").read_text())["note"] == note
    assert note in " ".join(capsys.readouterr().out.split())
    page = (folder / "report.html").read_text()
    assert note[1:] in page  # its first letter is a capital there
    assert "mean-customer" in page
    assert run("evaluate", folder, "--json", tmp_path / "again.json") == 0
    assert (tmp_path / "again.json").read_bytes() == (folder / "metrics.json").read_bytes()
    assert run("recommend", folder, "--top", 3) == 0
    assert "8 of them are unknown to the model" in capsys.readouterr().out
    basis = pd.read_csv(folder / "recommendations.csv", dtype=str).drop_duplicates("customer_id")["basis"]
    assert basis.value_counts().to_dict() == {"model": 32, "mean-customer": 8, "popular": 1}
    out = tmp_path / "c"
    assert run("compare", shop, "--models", "popularity,cdae", "--out", out, *brief) == 0
    assert json.loads((out / "comparison.json").read_text())["note"] == f"cdae: {note}"


def test_both_tasks_are_reported_whichever_was_asked_for(shop, tmp_path, capsys):
    found = {}
    for repeat in ("include", "exclude"):
        folder = tmp_path / repeat
        options = ("--split", "last-order", "--repeat", repeat, "--set", "l2=5")
        assert run("fit", shop, "--model", "ease", *options, "--run", folder) == 0
        shown = capsys.readouterr().out
        assert "first time" in shown and f"Every choice was made for --repeat {repeat}." in shown
        found[repeat] = json.loads((folder / "metrics.json").read_text())
        assert "What is bought next, and what for the first time" in (folder / "report.html").read_text()
        assert run("evaluate", folder, "--json", tmp_path / "again.json") == 0
        assert "They equal those of metrics.json." in capsys.readouterr().out
        assert (tmp_path / "again.json").read_bytes() == (folder / "metrics.json").read_bytes()
    # The settings are given and the model is closed, so it is the same one, and so are the figures of both tasks.
    assert found["include"]["tasks"] == found["exclude"]["tasks"]
    for repeat, result in found.items():
        task = result["tasks"][repeat]
        more = {"calibration"} if repeat == "include" else set()
        assert task.keys() == {"users", "users_left_out", "metrics", "repeat_targets", "new_targets"} | more
        assert {key: result[key] for key in ("users", "users_left_out", "metrics")} == {
            key: task[key] for key in ("users", "users_left_out", "metrics")
        }
    include, exclude = (found["include"]["tasks"][name] for name in ("include", "exclude"))
    targets = {kind: include[f"{kind}_targets"]["targets"] for kind in ("repeat", "new")}
    assert sum(targets.values()) == 80  # of 40 customers, two products in each order
    assert include["repeat_targets"]["share"] == targets["repeat"] / 80
    assert exclude["new_targets"]["targets"] == targets["new"]
    assert exclude["repeat_targets"] == {"targets": 0, "share": 0.0, "users": 0, "metrics": {}}


def test_figures_of_a_task_that_differ_are_said_to(shop, tmp_path, capsys):
    folder = tmp_path / "run"
    assert run("fit", shop, "--model", "popularity", "--split", "time", "--run", folder) == 0
    stored = json.loads((folder / "metrics.json").read_text())
    stored["tasks"]["include"]["repeat_targets"]["metrics"]["ndcg@10"]["mean"] += 0.25
    (folder / "metrics.json").write_text(json.dumps(stored))
    capsys.readouterr()
    assert run("evaluate", folder) == 0
    assert "They differ from those of metrics.json by at most 0.25." in capsys.readouterr().out


def test_compare_has_both_tasks_of_every_model(shop, tmp_path, capsys):
    out = tmp_path / "c"
    options = ("--models", "popularity,own-frequency,multvae", "--split", "time", "--repeat", "include", "--seeds", 2)
    assert run("compare", shop, *options, "--epochs", 2, "--set", "hidden=8", "latent_dim=4", "--out", out) == 0
    result = json.loads((out / "comparison.json").read_text())
    for name, row in result["models"].items():
        include, exclude = row["tasks"]["include"], row["tasks"]["exclude"]
        assert include["metrics"] == row["metrics"]
        assert include["users"] == result["users"] >= exclude["users"] > 0
        assert ("difference" in include) == (name != "popularity")
        if name == "own-frequency":  # which is popularity for what is new
            assert exclude["metrics"] == result["models"]["popularity"]["tasks"]["exclude"]["metrics"]
            assert exclude["difference"]["metrics"]["ndcg@100"]["mean"] == 0.0
        if name != "popularity":
            assert include["difference"]["metrics"] == row["difference"]["metrics"]
    best = result["best_on_validation"]
    if best != "multvae":  # whose figures are means over two seeds
        stored = json.loads((out / "best" / "metrics.json").read_text())["tasks"]
        for task, row in result["models"][best]["tasks"].items():
            for kind in ("repeat_targets", "new_targets"):
                assert {key: row[kind][key] for key in ("targets", "share", "users")} == {
                    key: stored[task][kind][key] for key in ("targets", "share", "users")
                }
    assert "next, repeat" in capsys.readouterr().out


def test_one_task_is_one_task(shop, tmp_path, capsys):
    assert run("fit", shop, "--model", "popularity", "--split", "items", "--run", tmp_path / "run") == 0
    assert "tasks" not in json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert "first time" not in capsys.readouterr().out
    rows = "".join(f"{user}\t{item}\t{user + item}\n" for user in range(9) for item in range(user % 3, 9))
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "toy.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n" + rows)
    # Each pair stands once in this format: nothing is bought again.
    assert run("fit", tmp_path / "toy", "--model", "popularity", "--split", "time", "--run", tmp_path / "toy-run") == 0
    assert "tasks" not in json.loads((tmp_path / "toy-run" / "metrics.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fit", "DATA", "--model", "multvea"], 'did you mean "multvae"'),
        (["fit", "DATA", "--model", "ae", "--set", "hiden=8"], 'did you mean "hidden"'),
        (["fit", "DATA", "--model", "ae", "--set", "hidden"], "key=value"),
        (["fit", "DATA", "--model", "ae", "--min-customers", "500"], "--min-customers 500 leaves no product"),
        (["fit", "DATA", "--model", "popularity", "--split", "predefined"], "--split predefined needs"),
        (["compare", "DATA", "--models", "ae,ae"], "different names"),
        (["compare", "DATA", "--models", "ae", "--split", "predefined", "--out", "c"], "--split predefined needs"),
        (["fit", "DATA", "--model", "ae", "--split-seed", "-1"], "--split-seed is -1"),
        (["fit", "DATA", "--model", "ae", "--cut", "2024-W40-1", "--split", "time"], "not inside the period"),
        (["check", "nowhere"], "nowhere"),
        (["evaluate", "nowhere"], "nowhere"),
        (["recommend", "RUN", "--top", "1000"], "expected 1 to 16"),
        (["recommend", "RUN", "--out", "x.xls"], ".parquet"),
        (["similar", "RUN", "--sku", "none"], '--sku is "none"'),
        (["fit", "DATA", "--model", "ae", "--run", "RUN"], "--overwrite"),
        (["fit", "DATA", "--model", "ae", "--run", "r[old]"], "a path with ["),
    ],
)
def test_one_message_exit_code_1_and_nothing_written(arguments, says, shop, fitted, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in fitted.parent.iterdir())
    given = [{"DATA": shop, "RUN": fitted}.get(argument, argument) for argument in arguments]
    assert run(*given) == 1
    message = capsys.readouterr().err
    assert says in message and "Traceback" not in message
    assert message.startswith("aejax: ") and message.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    assert sorted(path.name for path in fitted.parent.iterdir()) == before


def test_wrong_usage_exits_with_2(shop):
    assert run("fit", shop) == 2


@pytest.mark.slow
def test_a_fit_killed_at_any_moment_resumes_to_the_same_bits(shop, tmp_path):
    options = [shop, "--model", "multvae", "--epochs", "12", *SMALL]
    assert run("fit", *options, "--run", tmp_path / "whole") == 0
    assert run("recommend", tmp_path / "whole") == 0
    words = ["fit", *map(str, options), "--run", str(tmp_path / "killed")]
    log = tmp_path / ".killed.unfinished" / "log.jsonl"

    def lines():
        return log.read_text().splitlines() if log.exists() else []

    rng = np.random.default_rng(0)
    before: list[str] = []
    for stage in ("select", "refit"):
        process = PROCESSES.Process(target=shops.fit_slowly, args=([*words, *(["--resume"] if before else [])],))
        process.start()
        wait_for(lambda stage=stage: sum(f'"{stage}"' in line for line in lines()) >= 4, process)
        time.sleep(rng.uniform(0.0, 0.3))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not (tmp_path / "killed").exists()
        # What was trained and saved before the kill stands as it was: the resumed fit went on behind it.
        assert lines()[: len(before)] == before
        before = lines()[:-2]  # the last epochs may have been killed before they were saved
    assert run(*words, "--resume") == 0
    assert run("recommend", tmp_path / "killed") == 0
    for file in ("metrics.json", "log.jsonl", "report.html", "recommendations.csv"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file


def wait_for(happened, process):
    deadline = time.monotonic() + 120
    while not happened():
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)


def test_a_resumed_fit_starts_behind_its_last_saved_epoch(shop, tmp_path, monkeypatch):
    options = [shop, "--model", "multvae", "--epochs", 6, *SMALL, "--run", tmp_path / "run"]
    monkeypatch.setattr(fitting, "SAVE_EVERY_S", 0.0)
    listen = fitting._SavedProgress.listen
    trained = []

    def stop_at_epoch_4(self, stage, record):
        listen(self, stage, record)
        trained.append((stage, record["epoch"]))
        if (stage, record["epoch"]) == ("select", 4):
            raise KeyboardInterrupt

    monkeypatch.setattr(fitting._SavedProgress, "listen", stop_at_epoch_4)
    assert run("fit", *options) == 130
    assert trained == [("select", epoch) for epoch in range(1, 5)]
    trained.clear()
    monkeypatch.setattr(
        fitting._SavedProgress, "listen", lambda self, *told: (listen(self, *told), trained.append(told))
    )
    assert run("fit", *options, "--resume") == 0
    assert [(stage, record["epoch"]) for stage, record in trained][:3] == [("select", epoch) for epoch in (4, 5, 6)]


def test_a_fit_that_was_not_finished_is_not_started_again_unasked(shop, tmp_path, capsys, monkeypatch):
    options = [shop, "--model", "multvae", "--epochs", 3, *SMALL, "--run", tmp_path / "run"]
    with monkeypatch.context() as patched:
        patched.setattr(fitting, "finish_run", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run("fit", *options) == 130
    assert run("fit", *options) == 1
    assert "--resume to go on, or --overwrite to start again" in capsys.readouterr().err
    assert run("fit", *options, "--resume", "--set", "learning_rate=0.5") == 1
    assert run("fit", *options, "--resume", "--attributes", "nosuch=text") == 1
    assert "settings.learning_rate was 0.001, now 0.5" in capsys.readouterr().err
    assert run("fit", *options, "--resume") == 0


def test_titles_are_shown_as_they_are(shop, tmp_path, capsys):
    odd = tmp_path / "odd"
    shutil.copytree(shop, odd)
    products = odd / "products.csv"
    products.write_text(products.read_text().replace("Product 001", "Lamp [/b] [organic]"))
    folder = tmp_path / "run"
    trained = ("--split", "reconstruction", "--set", "l2=1")
    assert run("fit", odd, "--model", "ease", "--run", folder, *trained) == 0
    assert run("similar", folder, "--sku", "000", "--top", 15) == 0
    assert "Lamp [/b] [organic]" in capsys.readouterr().out


def ids_recommended(fitted, tmp_path, name, content):
    customers = tmp_path / name
    customers.write_text(content)
    assert run("recommend", fitted, "--customers", customers, "--top", 2, "--out", tmp_path / "r.csv") == 0
    return list(dict.fromkeys(pd.read_csv(tmp_path / "r.csv", dtype=str)["customer_id"]))


def test_only_the_customers_of_a_file(fitted, tmp_path, capsys):
    for name, content in (
        ("a.csv", "customer_id\n003\n001\n003\n"),
        ("b.csv", '\ufeff"Customer ID",note\n"003","x, y"\n001,\n'),
        ("c.txt", "003\n\n001\n"),
    ):
        assert ids_recommended(fitted, tmp_path, name, content) == ["003", "001"]
    capsys.readouterr()
    for name, content, says in (
        ("d.csv", "customer_id\n001,x\n", "d.csv:2"),
        ("e.csv", "003\n001\n", "the first line holds a number"),
        ("g.csv", "name\n003\n", 'no column "customer_id"'),
        ("f.csv", "", "f.csv is empty"),
    ):
        (tmp_path / name).write_text(content)
        assert run("recommend", fitted, "--customers", tmp_path / name, "--out", tmp_path / "n.csv") == 1
        message = capsys.readouterr().err
        assert says in message and message.count("\n") == 1
    assert not (tmp_path / "n.csv").exists()


def test_recommend_as_of_a_day(shop, tmp_path, capsys):
    """A run of `time` has learned from what was before its cut, one of `items` from all of the period."""
    for split, learned in (("time", []), ("items", ["but the model has learned from orders up to 2024-0"])):
        folder = tmp_path / split
        assert run("fit", shop, "--model", "own-recency", "--split", split, "--run", folder) == 0
        capsys.readouterr()
        day = "2024-04-20" if split == "time" else "2024-03-01"
        assert run("recommend", folder, "--top", 3, "--on", day, "--repeat", "include") == 0
        said = " ".join(capsys.readouterr().out.split())
        dates = pd.read_csv(shop / "orders.csv", dtype=str).drop_duplicates("order_id")["created_at"]
        assert f"Note: {(dates > day).sum()} orders after --on {day} were not looked at" in said
        assert [part for part in learned if part not in said] == [] and ("learned" in said) == bool(learned)
        rows = pd.read_csv(folder / "recommendations.csv", dtype=str)
        assert len(rows) == 3 * 41
        assert "Note:" in said and "--cut" not in said  # which may be refused
    assert run("recommend", folder, "--on", dates.max()) == 0
    assert "after --on" not in " ".join(capsys.readouterr().out.split())
    for on, says in (
        ("2024-09-01", "--on 2024-09-01 is after the last order of this run, whose orders are of 2024-01-0"),
        ("2023-09-01", "is before the first order"),
        ("soon", '--on is "soon"; expected a date such as 2024-0'),
    ):
        assert run("recommend", folder, "--on", on, "--out", tmp_path / "r.csv") == 1
        message = capsys.readouterr().err
        assert says in message and message.count("\n") == 1
    assert not (tmp_path / "r.csv").exists()


@pytest.fixture(scope="module")
def recency(shop, tmp_path_factory):
    folder = tmp_path_factory.mktemp("recency") / "run"
    assert run("fit", shop, "--model", "own-recency", "--split", "time", "--run", folder) == 0
    return folder


def test_recommendations_on_a_day_are_those_of_the_orders_cut_at_it(recency, tmp_path, capsys):
    """Row by row, with ages counted to the end of the day, on which nobody bought."""
    loaded = experiment.load_run(recency)
    lines, data = loaded.prepared.interactions, loaded.prepared.dataset
    days = set(lines.at.astype("datetime64[D]"))
    day = next(day for day in np.arange("2024-03-01", "2024-04-01", dtype="datetime64[D]") if day not in days)
    end = (day + 1).astype("datetime64[s]") - np.timedelta64(1, "s")
    assert run("recommend", recency, "--top", 3, "--on", day, "--repeat", "include", "--out", tmp_path / "r.csv") == 0
    known, customers = lines.take(lines.at <= end), list(data.customers["customer_id"])
    assert 0 < len(known) < len(lines)
    titles = data.products.set_index("sku")["title"]
    sold = np.ones(len(lines.items), dtype=bool)
    cut = recommendation.Known(known, known, np.datetime64(end, "s"), sold, later=0)
    frames = recommendation.recommend(loaded.model, cut, customers, titles, top=3, repeat="include")
    found = pd.read_csv(tmp_path / "r.csv", dtype={"customer_id": str, "sku": str})
    pd.testing.assert_frame_equal(found, pd.concat(frames, ignore_index=True), check_dtype=False, rtol=1e-6)


def test_a_model_that_was_fitted_again_has_learned_from_validation_too(recency, capsys):
    """A day from which on train has nothing, but what the model was fitted on last has."""
    parts = experiment.load_run(recency).prepared.split
    day = parts.train.at.max().astype("datetime64[D]")
    assert day < parts.refit.at.max().astype("datetime64[D]")
    capsys.readouterr()
    assert run("recommend", recency, "--on", day, "--top", 3) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"but the model has learned from orders up to {parts.refit.at.max()}" in said


def test_damaged_or_misplaced_files_have_a_message(fitted, shop, tmp_path, capsys):
    shutil.copytree(fitted, tmp_path / "run")
    (tmp_path / "run" / "metrics.json").write_text("{}")
    assert run("evaluate", tmp_path / "run") == 1
    assert "metrics.json of the run is damaged" in capsys.readouterr().err
    (tmp_path / "s.json").write_text('{"multvea": {"epochs": 1}}')
    assert run("fit", shop, "--model", "ease", "--settings", tmp_path / "s.json") == 1
    assert 'did you mean "multvae"' in capsys.readouterr().err
    for command in (["fit", shop, "--model", "ease", "--settings", tmp_path], ["check", shop, "--json", tmp_path]):
        assert run(*command) == 1
        message = capsys.readouterr().err
        assert str(tmp_path) in message and "folder" in message and message.count("\n") == 1


def test_an_interrupted_swap_of_a_comparison_is_repaired_by_who_reads_its_best_run(fitted, tmp_path):
    shutil.copytree(fitted, tmp_path / ".c.previous" / "best")
    assert run("evaluate", tmp_path / "c" / "best") == 0
    assert (tmp_path / "c" / "best").exists() and not (tmp_path / ".c.previous").exists()


def test_a_protocol_that_draws_nothing_has_one_split(shop, tmp_path, capsys):
    assert run("compare", shop, "--models", "popularity", "--split-seeds", 2, "--out", tmp_path / "c") == 1
    assert "--split time draws nothing" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_side_that_was_solved_is_shown_and_kept(tmp_path, capsys):
    shop = write_shop(tmp_path / "shop")
    assert run("fit", shop, "--model", "ease", "--split", "users", "--set", "side=users", "--run", tmp_path / "r") == 0
    assert "ease select: side users" in capsys.readouterr().out
    assert json.loads((tmp_path / "r" / "log.jsonl").read_text()) == {"stage": "select", "side": "users"}
