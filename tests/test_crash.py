"""Killed commands, a few times each; `scripts/crash_test.py` is the long form. It finds what it looks for."""

import os

import crash_test
import numpy as np
import pytest

from tests.shops import write_shop


@pytest.mark.slow
def test_killed_commands_leave_what_they_write_whole_or_as_it_was(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", os.environ["JAX_COMPILATION_CACHE_DIR"])  # put back at the end
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    # The epochs of a network, killed and resumed, are in test_cli.
    monkeypatch.setattr(crash_test, "FIT", ("--model", "popularity", "--split", "time", "--min-customers", "1"))
    crash_test.main(write_shop(tmp_path / "shop"), kills=3, only=("check", "recommend"))
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in told] == [["check:", "2"], ["recommend:", "1"]]


WHOLE = "a\nb\n"


@pytest.mark.parametrize(
    ("left", "found"),
    [
        (lambda output: output.write_text("a\n"), "neither as it was nor whole"),
        (lambda output: output.unlink(), "neither as it was nor whole"),
        (lambda output: output.with_name(".out.txt.1.partial").touch(), "left ['.out.txt.1.partial']"),
    ],
)
def test_a_command_that_breaks_its_output_is_found(left, found, tmp_path, monkeypatch):
    output, earlier = tmp_path / "out.txt", tmp_path / "earlier.txt"
    earlier.write_text("earlier\n")

    def run(words, folder, *, after=None, before=0):
        killed = after is not None or before > 0
        left(output) if killed else output.write_text(WHOLE)
        return crash_test.Outcome(killed, 1.0, 3)

    monkeypatch.setattr(crash_test, "run", run)
    command = crash_test.Command("write", (), output, earlier)
    with pytest.raises(SystemExit) as problem:
        crash_test.kill_repeatedly(command, tmp_path, 20, np.random.default_rng(0))
    assert found in str(problem.value)


def test_what_was_there_before_and_changes_is_found(tmp_path):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "orders.csv").write_text("a\n")
    with crash_test.unchanged(tmp_path / "shop"):
        pass
    with pytest.raises(SystemExit, match="has changed"), crash_test.unchanged(tmp_path / "shop"):
        (tmp_path / "shop" / "orders.csv").write_text("b\n")
