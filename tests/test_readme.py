"""What README shows in Python runs."""

import functools
import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest
import tyro

from aejax import cli, registry, rules
from tests.shops import run, write_shop

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_ten_lines_from_files_to_recommendations(tmp_path, capsys):
    write_shop(tmp_path / "shop")
    lines = BLOCKS[0].replace("data/prepared_data", str(tmp_path / "shop"))
    assert len([line for line in lines.splitlines() if line.strip()]) <= 12
    names: dict = {}
    exec(lines, names)
    frame = names["frame"]
    assert list(frame.columns) == ["customer_id", "rank", "sku", "title", "score", "basis"]
    assert set(frame["basis"]) == {"model"}
    assert "ci95" in capsys.readouterr().out


def test_a_model_in_one_file_and_one_line(tmp_path, monkeypatch):
    code = BLOCKS[1]
    assert len([line for line in code.splitlines() if line.strip()]) <= 32
    (tmp_path / "together.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(registry.MODELS, "together", "together:FAMILY")
    shop = write_shop(tmp_path / "shop")
    assert run("fit", shop, "--model", "together", "--run", tmp_path / "run", "--set", "shrink=5") == 0
    assert run("evaluate", tmp_path / "run", "--json", tmp_path / "again.json") == 0
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "run" / "metrics.json").read_bytes()
    assert run("recommend", tmp_path / "run", "--top", 3) == 0
    sys.modules.pop("together")


def test_the_rules_shown_are_understood(tmp_path):
    (block,) = re.findall(r"```toml\n(.*?)```", README, flags=re.DOTALL)
    (tmp_path / "rules.toml").write_text(block, encoding="utf-8")
    shown = rules.read_rules(tmp_path / "rules.toml")
    assert shown.not_bought_days == 60 and shown.at_most == {"category": 3} and shown.never["sku"] == ("POST", "M")


ROOT = Path(__file__).parent.parent
SHOWN = re.sub(r"\\\n\s*", "", README) + (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", "")
COMMAND_LINES = re.findall(r"^(?:    |\t)(?:\$\(BIN\)/)?aejax (.*)$", SHOWN, flags=re.MULTILINE)
SCRIPT_LINES = [
    (path, line.split(path.name)[1].split("#")[0])
    for path in sorted((ROOT / "scripts").glob("*.py"))
    for line in re.sub(r"\\\n\s*", "", path.read_text(encoding="utf-8")).splitlines()
    if line.startswith(f"    python scripts/{path.name}")
]


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_every_command_line_shown_is_understood(line, monkeypatch):
    called = []

    def stub(command):
        return functools.wraps(command)(lambda *args, **options: called.append(command.__name__))

    monkeypatch.setattr(cli, "COMMANDS", {name: stub(command) for name, command in cli.COMMANDS.items()})
    arguments = [re.sub(r"\$\(\w+\)", "x", word) for word in shlex.split(line, comments=True)]
    assert run(*arguments) == 0
    assert called == [arguments[0]]


@pytest.mark.parametrize(("path", "line"), SCRIPT_LINES)
def test_every_script_line_shown_is_understood(path, line):
    script = importlib.import_module(path.stem)
    arguments = shlex.split(line)
    target = getattr(script, arguments.pop(0)) if path.stem == "benchmark" else script.main
    stub = functools.wraps(target)(lambda *args, **options: "called")
    assert tyro.cli(stub, args=arguments) == "called"


def test_there_are_lines_to_check():
    assert len(COMMAND_LINES) >= 10 and len(SCRIPT_LINES) >= 6


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#:]+)\)", README))
def test_every_file_that_is_linked_is_there(target):
    assert (ROOT / target).exists()
