"""What XLA is told for a GPU whose bits are the same each time, before JAX starts."""

import os
import shutil
import subprocess
import sys

import pytest

from aejax import determinism, experiment, runs
from aejax.cli import main
from aejax.config import DataConfig, RunConfig, SplitConfig, TrainingConfig
from aejax.errors import InputError
from tests import shops

FALSE = determinism.FLAG.replace("true", "false")
STUB = "import os, sys\nprint('flags:', os.environ.get('XLA_FLAGS'))\nsys.stdout.flush()\nos._exit(0)\n"


@pytest.mark.parametrize(
    ("flags", "then"),
    [
        (None, determinism.FLAG),
        ("--a=1  --b=2", f"--a=1 --b=2 {determinism.FLAG}"),
        (f"--a=1 {determinism.FLAG} --b=2", f"--a=1 {determinism.FLAG} --b=2"),
        (FALSE, f"{FALSE} {determinism.FLAG}"),
        (f"{determinism.FLAG} {FALSE}", f"{determinism.FLAG} {FALSE} {determinism.FLAG}"),
    ],
)
def test_the_flag_comes_behind_the_users_own_and_once(monkeypatch, flags, then):
    monkeypatch.delitem(sys.modules, "jax")
    monkeypatch.setenv("XLA_FLAGS", flags or "")
    if flags is None:
        monkeypatch.delenv("XLA_FLAGS")
    for _ in range(2):
        determinism.ask()
        assert os.environ["XLA_FLAGS"] == then and determinism.asked()


def test_once_jax_is_imported_it_is_too_late_unless_it_was_told(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--a=1")
    with pytest.raises(InputError, match=f"before JAX is imported, .* start it with XLA_FLAGS={determinism.FLAG}"):
        determinism.ask()
    with (
        pytest.raises(InputError, match=f"needs XLA_FLAGS={determinism.FLAG}"),
        experiment.on_device("cpu", deterministic=True),
    ):
        pass
    assert os.environ["XLA_FLAGS"] == "--a=1"


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        ("fit DATA --model ae --deterministic", f"--a=1 {determinism.FLAG}"),
        ("fit DATA --model ae", "--a=1"),
        ("tune DATA --model ae --deterministic", f"--a=1 {determinism.FLAG}"),
        ("compare DATA --models ae --deterministic", f"--a=1 {determinism.FLAG}"),
        ("refit RUN --run NEW", f"--a=1 {determinism.FLAG}"),
        ("update RUN DATA --run NEW", f"--a=1 {determinism.FLAG}"),
        ("evaluate RUN", f"--a=1 {determinism.FLAG}"),
        ("recommend RUN", f"--a=1 {determinism.FLAG}"),
        ("similar RUN --sku 1", f"--a=1 {determinism.FLAG}"),
        ("forget RUN --customers GONE", f"--a=1 {determinism.FLAG}"),
        ("fit --help", None),
    ],
)
def test_it_is_told_before_jax_is_imported(tmp_path, words, flags):
    """A file that stands for JAX prints what it finds in the environment, and ends the process."""
    (tmp_path / "jax.py").write_text(STUB)
    (tmp_path / "RUN").mkdir()
    training = TrainingConfig(deterministic=True)
    runs.write_config(tmp_path / "RUN", RunConfig(DataConfig("DATA"), SplitConfig("users"), training, "ae", {}))
    told = os.environ | {"XLA_FLAGS": "--a=1", "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-c", "from aejax.cli import main; main()", *words.split()]
    out = subprocess.run(command, cwd=tmp_path, env=told, capture_output=True, text=True).stdout
    if flags is None:
        assert "--deterministic" in out and "flags:" not in out
    else:
        assert out.splitlines() == [f"flags: {flags}"]


def test_a_run_says_that_it_was_deterministic_and_what_comes_of_it_is_so_too(monkeypatch, shop, tmp_path):
    monkeypatch.setenv("XLA_FLAGS", determinism.FLAG)
    run = shops.fitted(shop, tmp_path / "run", "popularity", "--deterministic")
    main(["refit", str(run), "--run", str(tmp_path / "all")])
    main(["compare", str(shop), "--models", "popularity", "--out", str(tmp_path / "compared"), "--deterministic"])
    for folder in (run, tmp_path / "all", tmp_path / "compared" / "best"):
        assert runs.read_config(folder).training == TrainingConfig(0, None, True)
    shutil.move(run, run.with_name(".run.previous"))  # as where a command that replaced it was cut off
    main(["evaluate", str(run)])
    monkeypatch.delenv("XLA_FLAGS")
    with pytest.raises(SystemExit):
        main(["refit", str(run), "--run", str(tmp_path / "again")])
    assert not (tmp_path / "again").exists()
