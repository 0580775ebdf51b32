"""What README shows in Python runs."""

import re
import sys
from pathlib import Path

import pytest

from aejax import registry
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


@pytest.mark.parametrize("command", re.findall(r"^    (?:\S+/)?(aejax \S+)", README, flags=re.MULTILINE))
def test_every_command_shown_is_one(command, capsys):
    assert run(command.split()[1], "--help") == 0
