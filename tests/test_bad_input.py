"""Bad input at the command line: one message with place, value and remedy, exit code 1, nothing half-written."""

import json
import os
import resource
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest

from tests.shops import run, write_shop


def replace(file, old, new, count=1):
    def change(shop):
        path = shop / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, count))

    return change


def first_cell(column, value):
    """Puts `value` into a column of the first order line, which is line 2."""

    def change(shop):
        orders = pd.read_csv(shop / "orders.csv", dtype=str)
        orders.loc[0, column] = value
        orders.to_csv(shop / "orders.csv", index=False)

    return change


def keep(column, value):
    def change(shop):
        orders = pd.read_csv(shop / "orders.csv", dtype=str)
        orders[orders[column] == value].to_csv(shop / "orders.csv", index=False)

    return change


def without(*columns):
    def change(shop):
        pd.read_csv(shop / "orders.csv", dtype=str).drop(columns=list(columns)).to_csv(shop / "orders.csv", index=False)

    return change


def one_day(shop):
    pd.read_csv(shop / "orders.csv", dtype=str).assign(created_at="2024-01-01").to_csv(shop / "orders.csv", index=False)


def first_orders(shop):
    orders = pd.read_csv(shop / "orders.csv", dtype=str)
    orders[orders["order_id"].str.endswith("-0")].to_csv(shop / "orders.csv", index=False)


def content(file, data):
    return lambda shop: (shop / file).write_bytes(data)


@pytest.mark.parametrize(
    ("change", "options", "says"),
    [
        (lambda shop: (shop / "products.csv").unlink(), [], ["products.csv", "customers.csv, orders.csv"]),
        (
            replace("orders.csv", "lineitem_sku", "lineitem_skv"),
            [],
            ["lineitem_sku", 'if "lineitem_skv" is that column'],
        ),
        (content("orders.csv", b""), [], ["orders.csv", "empty"]),
        (content("customers.csv", b"customer_id\n"), [], ["customers.csv", "header"]),
        (content("products.csv", b"sku,title\n000,Caf\x81\n"), [], ["products.csv:2:", "UTF-8"]),
        (first_cell("lineitem_quantity", "two"), [], ["orders.csv:2:", '"two"']),
        (first_cell("lineitem_quantity", "1e9"), [], ["orders.csv:2:", '"1e9"']),
        (first_cell("lineitem_quantity", "NaN"), [], ["orders.csv:2:", '"NaN"']),
        (replace("products.csv", "001,Product 001", "000,Again"), [], ["products.csv:3:", '"000"', "line 2"]),
        (first_cell("created_at", "31/31/2024"), [], ["orders.csv:2:", '"31/31/2024"']),
        (keep("customer_id", "003"), [], ["one customer"]),
        (keep("lineitem_sku", "003"), [], ["one product"]),
        (lambda shop: None, ["--min-customers", 41], ["--min-customers 41"]),
        (without("created_at"), ["--split", "time"], ["--split time", "created_at"]),
        (without("created_at", "order_id"), ["--split", "last-order"], ["--split last-order", "order_id"]),
        (one_day, ["--split", "time"], ["--split time", "different dates", "2024-01-01", "--split users"]),
        (one_day, ["--split", "last-order"], ["--split last-order", "different dates", "--split users"]),
        (
            first_orders,
            ["--split", "last-order", "--min-customers", 1],
            ["of 40 customers 0 have two or more", "--split users"],
        ),
        (lambda shop: None, ["--set", "values=order"], ['"order"', 'did you mean "orders"']),
        (lambda shop: None, ["--set", "learning_rate=inf"], ["learning_rate", '"inf"', "finite"]),
        (
            lambda shop: None,
            ["--set", "learning_rate=1e38"],  # of 1e30 some processors make finite scores
            ["epoch ", "is nan", "learning_rate is 1e+38", "--set learning_rate=0.001"],
        ),
    ],
)
def test_bad_data_end_in_one_message(change, options, says, tmp_path, capsys):
    shop = write_shop(tmp_path / "shop")
    change(shop)
    before = {path: path.read_bytes() for path in shop.iterdir()}
    out = tmp_path / "runs" / "one"
    options = [*options] if "--set" in options else [*options, "--set"]
    assert run("fit", shop, "--model", "ae", "--run", out, *options, "hidden=4", "epochs=2") == 1
    message = capsys.readouterr().err
    assert message.startswith("aejax: ") and message.count("\n") == 1, message
    assert [text for text in says if text not in message] == [], message
    assert not out.parent.exists() or list(out.parent.iterdir()) == []
    assert {path: path.read_bytes() for path in shop.iterdir()} == before


LEARN = {
    "fit": ["fit", "SHOP", "--model", "MODEL", "--run", "OUT"],
    "compare": ["compare", "SHOP", "--models", "popularity,MODEL", "--out", "OUT"],
    "tune": ["tune", "SHOP", "--model", "MODEL", "--trials", "2", "--run", "OUT"],
}
UNCARRIED = {
    "time without dates": (without("created_at"), "ease", ["--split", "time"], ["--split time", "created_at", "users"]),
    "last-order without dates": (
        without("created_at"),
        "ease",
        ["--split", "last-order"],
        ["--split last-order", "created_at", "try --split users"],
    ),
    "last-order without ids": (
        without("order_id", "created_at"),
        "ease",
        ["--split", "last-order"],
        ["--split last-order", "order_id", "try --split users"],
    ),
    "a rule without dates": (without("created_at"), "own-recency", [], ["own-recency", "created_at", "own-frequency"]),
    "a rule without orders": (without("order_id", "created_at"), "last-basket", [], ["order_id", "own-frequency"]),
    "values without dates": (
        without("created_at"),
        "ease",
        ["--values", "recency"],
        ["--values recency", "created_at", "try orders"],
    ),
    "targets without dates": (
        without("created_at"),
        "ease",
        ["--set", "targets=recency"],
        ["targets recency", "created_at", "try orders"],
    ),
    "time on one day": (one_day, "ease", ["--split", "time"], ["--split time", "2024-01-01", "try --split users"]),
    "no split given, on one day": (one_day, "ease", [], ["--split time", "2024-01-01", "try --split users"]),
    "last-order on one day": (
        one_day,
        "ease",
        ["--split", "last-order"],
        ["--split last-order", "2024-01-01", "try --split users"],
    ),
    "one order each": (
        first_orders,
        "ease",
        ["--split", "last-order", "--min-customers", 1],
        ["--split last-order", "of 40 customers 0 have two or more", "try --split users or time"],
    ),
}


@pytest.mark.parametrize("command", LEARN)
@pytest.mark.parametrize("case", UNCARRIED)
def test_what_the_dates_and_orders_cannot_carry_is_refused_by_every_command(case, command, tmp_path, capsys):
    change, model, options, says = UNCARRIED[case]
    if model == "last-basket" and command == "tune":
        says = ["last-basket has no setting left to tune"]
    shop = write_shop(tmp_path / "shop")
    change(shop)
    out = tmp_path / "runs" / "one"
    names = {"SHOP": shop, "OUT": out}
    arguments = [names.get(part, part.replace("MODEL", model)) for part in LEARN[command]]
    assert run(*arguments, *options) == 1
    message = capsys.readouterr().err
    assert message.startswith("aejax: ") and message.count("\n") == 1, message
    assert [text for text in says if text not in message] == [], message
    assert not out.parent.exists() or list(out.parent.iterdir()) == []


@pytest.mark.parametrize("command", LEARN)
@pytest.mark.parametrize("model", ["ae", "ease"])
def test_a_device_that_is_not_there_is_refused_by_every_command(command, model, place, tmp_path, capsys):
    names = {"SHOP": place / "shop", "OUT": tmp_path / "one"}
    arguments = [names.get(part, part.replace("MODEL", model)) for part in LEARN[command]]
    assert run(*arguments, "--device", "tpu") == 1
    assert capsys.readouterr().err == "aejax: --device tpu is not there; JAX finds: cpu\n"
    assert list(tmp_path.iterdir()) == []


def test_a_refit_where_the_run_s_device_is_not_there(place, tmp_path, capsys):
    shutil.copytree(place / "run", tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["training"]["device"] = "tpu"
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    assert run("refit", tmp_path / "run", "--run", tmp_path / "all") == 1
    assert "--device tpu is not there; JAX finds: cpu" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_day_to_score_on_needs_dates(tmp_path, capsys):
    shop = write_shop(tmp_path / "shop")
    without("created_at")(shop)
    assert run("fit", shop, "--model", "popularity", "--run", tmp_path / "run") == 0
    capsys.readouterr()
    before = sorted((tmp_path / "run").iterdir())
    assert run("recommend", tmp_path / "run", "--on", "2024-03-01") == 1
    message = capsys.readouterr().err
    assert "--on 2024-03-01 needs order dates (created_at)" in message and message.count("\n") == 1
    assert sorted((tmp_path / "run").iterdir()) == before


def test_a_folder_in_the_place_of_a_file(tmp_path, capsys):
    shop = write_shop(tmp_path / "shop")
    (shop / "orders.csv").unlink()
    (shop / "orders.csv").mkdir()
    assert run("check", shop) == 1
    message = capsys.readouterr().err
    assert "has no orders.csv (there are: customers.csv, products.csv)" in message and message.count("\n") == 1


@pytest.fixture(scope="module")
def place():
    """A folder that every user of the machine can read: a shop and its earlier orders, a run of these, its lists."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    write_shop(folder / "shop")
    shutil.copytree(folder / "shop", folder / "earlier")
    orders = pd.read_csv(folder / "shop" / "orders.csv", dtype=str)
    orders[orders["created_at"] < "2024-03-15"].to_csv(folder / "earlier" / "orders.csv", index=False)
    pd.DataFrame({"customer_id": ["000"]}).to_csv(folder / "customers.csv", index=False)
    assert run("fit", folder / "earlier", "--model", "popularity", "--run", folder / "run") == 0
    assert run("recommend", folder / "run", "--out", folder / "lists.csv") == 0
    yield folder
    shutil.rmtree(folder)


def test_a_run_of_another_version(place, tmp_path, capsys):
    shutil.copytree(place / "run", tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps({**config, "format": 99}))
    assert run("evaluate", tmp_path / "run") == 1
    message = capsys.readouterr().err
    assert "99" in message and "version" in message and message.count("\n") == 1


@pytest.mark.parametrize("words", ["evaluate RUN", "recommend RUN", "refit RUN --run NEW", "update RUN SHOP --run NEW"])
def test_a_run_that_is_not_finished_says_how_to_go_on(words, place, tmp_path, capsys):
    (tmp_path / ".one.unfinished").mkdir()
    names = {"RUN": tmp_path / "one", "NEW": tmp_path / "new", "SHOP": place / "shop"}
    assert run(*(names.get(word, word) for word in words.split())) == 1
    message = capsys.readouterr().err
    assert "one is not finished; go on with: aejax fit" in message and message.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == [".one.unfinished"]


COMMANDS = {
    "fit": ["fit", "SHOP", "--model", "popularity", "--run", "OUT"],
    "compare": ["compare", "SHOP", "--models", "popularity", "--out", "OUT"],
    "recommend": ["recommend", "RUN", "--out", "OUT.csv"],
    "check": ["check", "SHOP", "--json", "OUT.json"],
    "evaluate": ["evaluate", "RUN", "--json", "OUT.json"],
    "tune": ["tune", "SHOP", "--model", "ease", "--trials", "1", "--run", "OUT"],
    "refit": ["refit", "RUN", "--run", "OUT"],
    "update": ["update", "RUN", "SHOP", "--force", "--run", "OUT"],
    "hindsight": ["hindsight", "LISTS", "SHOP", "--after", "2024-03-15", "--json", "OUT.json"],
}


def at(place, out, arguments):
    names = {"SHOP": place / "shop", "RUN": place / "run", "LISTS": place / "lists.csv"}
    return [names.get(argument, argument.replace("OUT", str(out))) for argument in arguments]


@contextmanager
def files_of_at_most(bytes_each):
    """The operating system refuses larger files, as it refuses any byte on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_each, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def as_nobody():
    """Root may write everywhere, so commands run as nobody."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk(command, place, tmp_path, capsys):
    older = {name: tmp_path / f"out{name}" for name in (".csv", ".json")}
    for path in older.values():
        path.write_text("older")
    with files_of_at_most(500):
        code = run(*at(place, tmp_path / "out", COMMANDS[command]))
    message = capsys.readouterr().err
    assert code == 1, message
    assert "cannot write" in message and str(tmp_path) in message and "ulimit" in message and message.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert all(path.read_text() == "older" for path in older.values())
    assert not list(tmp_path.glob(".*.partial"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of Orbax's threads
def test_a_disk_that_is_full_at_any_file_of_a_fit(place, tmp_path, capfd, monkeypatch):
    """What is kept of it is resumed where there is room; Orbax and JAX say nothing of their own."""
    monkeypatch.setattr("aejax.experiment.fitting.SAVE_EVERY_S", 0.0)
    network = ["--model", "multvae", "--epochs", "1", "--set", "hidden=64", "latent_dim=8"]
    words = ["fit", place / "shop", *network, "--run", tmp_path / "out"]
    places, bytes_each = set(), 500
    while True:
        with files_of_at_most(bytes_each):
            code = run(*words, *(["--resume"] if (tmp_path / ".out.unfinished").exists() else []))
        message = capfd.readouterr().err
        if code == 0:
            break
        assert code == 1 and message.startswith("aejax: cannot write"), message
        assert "ulimit" in message and message.count("\n") == 1, message
        assert not (tmp_path / "out").exists()
        places.add(message.split(".out.unfinished")[1].split(":")[0])
        bytes_each *= 2
    assert {"/environment.json", "/report.html"} < places
    assert any(place.startswith("/state/") for place in places)


def test_a_full_disk_leaves_a_run_that_forgets_as_it_was(place, tmp_path, capsys):
    shutil.copytree(place / "run", tmp_path / "run")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with files_of_at_most(500):
        assert run("forget", tmp_path / "run", "--customers", place / "customers.csv") == 1
    message = capsys.readouterr().err
    assert "cannot write" in message and "ulimit" in message and message.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("command", [*COMMANDS, "forget"])
def test_a_read_only_folder(command, place, capsys):
    closed = place / f"closed-{command}"
    closed.mkdir()
    words = COMMANDS.get(command, ["forget", closed / "run", "--customers", place / "customers.csv"])
    if command == "forget":
        shutil.copytree(place / "run", closed / "run")
    before = sorted(closed.rglob("*"))
    closed.chmod(0o555)
    with as_nobody():
        code = run(*at(place, closed / "out", words)) if command in COMMANDS else run(*words)
    message = capsys.readouterr().err
    assert code == 1, message
    assert "cannot write" in message and str(closed) in message and "permissions" in message
    assert message.count("\n") == 1
    assert sorted(closed.rglob("*")) == before
