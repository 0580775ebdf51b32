"""What a run stores comes back as it was, and is whole or absent."""

import dataclasses
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aejax import runs
from aejax.errors import InputError
from aejax.interactions import Dataset, Interactions, Vocabulary


def dataset(*, dates=True):
    lines = Interactions(
        user=np.array([1, 0, 1], dtype=np.int32),
        item=np.array([0, 1, 1], dtype=np.int32),
        quantity=np.array([2, 1, -1], dtype=np.int32),
        users=Vocabulary.of(["007", "b"]),
        items=Vocabulary.of(["x", "y"]),
        order=np.array([0, 1, 2], dtype=np.int32) if dates else None,
        at=np.array(["2024-01-01T10:00:01", "1969-12-31", "2024-03-01"], dtype="datetime64[s]") if dates else None,
        price=np.array([2.5, np.nan, 0], dtype=np.float32) if dates else None,
    )
    customers = pd.DataFrame({"customer_id": ["007", "b", "c"]}, dtype=str)
    products = pd.DataFrame({"sku": ["x", "y"], "title": ["X", "Y"]}, dtype=str)
    attributes = {"products": [{"column": "title", "kind": "none", "edges": [0.1]}], "customers": []}
    pinned = Vocabulary.of(["y", "z"]) if dates else None
    return Dataset("shop", lines, customers, products, {"warnings": []}, (), pinned, attributes)


@pytest.mark.parametrize("dates", [True, False])
def test_data_come_back_with_values_and_types(tmp_path, dates):
    before = dataset(dates=dates)
    runs.write_data(tmp_path, before)
    after = runs.read_data(tmp_path)
    for field in dataclasses.fields(Interactions):
        one, other = getattr(before.interactions, field.name), getattr(after.interactions, field.name)
        if isinstance(one, Vocabulary):
            assert one.ids.tolist() == other.ids.tolist()
        elif one is None:
            assert other is None
        else:
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype, field.name
    assert after.customers["customer_id"].tolist() == ["007", "b", "c"]
    assert after.products["title"].tolist() == ["X", "Y"]
    assert after.attributes == before.attributes
    assert (None if after.pinned is None else after.pinned.ids.tolist()) == (["y", "z"] if dates else None)


def test_a_replacement_interrupted_between_its_renames_is_undone_or_finished(tmp_path):
    run, previous = tmp_path / "run", tmp_path / ".run.previous"
    previous.mkdir()
    (previous / "old").touch()
    runs.repair(run)
    assert (run / "old").exists() and not previous.exists()
    previous.mkdir()
    runs.repair(run)
    assert (run / "old").exists() and not previous.exists()


def test_a_new_run_replaces_the_older_one(tmp_path):
    run = tmp_path / "run"
    for name in ("config.json", "second"):
        with runs.whole_folder(run, overwrite=True) as unfinished:
            (unfinished / name).touch()
    assert [path.name for path in run.iterdir()] == ["second"]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_existing_run_is_refused_and_a_missing_one_cannot_be_resumed(tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(InputError, match="--overwrite"), runs.whole_folder(tmp_path / "run"):
        raise AssertionError
    with pytest.raises(InputError, match="finds no unfinished run"), runs.whole_folder(tmp_path / "new", resume=True):
        raise AssertionError
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("name", ["notes.txt", "orders.csv"])
def test_overwrite_replaces_nothing_that_aejax_did_not_write(tmp_path, name):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / name).write_text("mine")
    for path in (tmp_path / "other", tmp_path / "other" / name):
        with pytest.raises(InputError, match="nothing that aejax wrote"), runs.whole_folder(path, overwrite=True):
            raise AssertionError
    assert (tmp_path / "other" / name).read_text() == "mine"
    with pytest.raises(InputError, match="cannot be a run"), runs.whole_folder(Path(), overwrite=True):
        raise AssertionError


def test_two_commands_never_write_one_run(tmp_path):
    run = tmp_path / "run"
    with runs.whole_folder(run) as unfinished:
        (unfinished / "config.json").write_text("{}")
        for flags in ({}, {"overwrite": True}, {"resume": True}):
            with pytest.raises(InputError, match="another command is writing"), runs.whole_folder(run, **flags):
                raise AssertionError
    assert [path.name for path in run.iterdir()] == ["config.json"]


def test_what_can_be_resumed_is_kept_and_not_forgotten_unasked(tmp_path):
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt), runs.whole_folder(run) as unfinished:
        (unfinished / "config.json").write_text("{}")
        raise KeyboardInterrupt
    with pytest.raises(InputError, match="--resume to go on"), runs.whole_folder(run):
        raise AssertionError
    with runs.whole_folder(run, resume=True) as unfinished:
        assert (unfinished / "config.json").exists()
    assert [path.name for path in run.iterdir()] == ["config.json"]


def test_what_the_data_are_at_fault_for_is_not_kept(tmp_path):
    with pytest.raises(InputError), runs.whole_folder(tmp_path / "run") as unfinished:
        (unfinished / "config.json").write_text("{}")
        raise InputError("the loss is nan")
    assert list(tmp_path.iterdir()) == []


def test_the_environment_is_known_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert runs.environment([])["git_commit"] is None


def test_a_file_that_fails_halfway_leaves_the_older_one(tmp_path):
    path = tmp_path / "file.json"
    runs.write_json(path, {"old": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        runs.write_json(path, {"new": float("nan")})
    with pytest.raises(RuntimeError), runs.whole_file(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert runs.read_json(path) == {"old": 1}
    assert [found.name for found in tmp_path.iterdir()] == ["file.json"]


@pytest.mark.parametrize("number", ["null", "0", "1", "2", "4"])
def test_a_run_of_another_version_says_so(tmp_path, number):
    """Of version 2 are runs that did not store how columns are used."""
    (tmp_path / "config.json").write_text(f'{{"format": {number}}}')
    with pytest.raises(InputError, match=r"another version of aejax .*this version reads 3.*; fit it again"):
        runs.read_config(tmp_path)


def test_a_folder_that_fails_halfway_leaves_the_older_one(tmp_path):
    run = tmp_path / "run"
    with runs.whole_folder(run) as unfinished:
        (unfinished / "comparison.json").touch()
    with pytest.raises(RuntimeError), runs.whole_folder(run, overwrite=True) as unfinished:
        (unfinished / "half").touch()
        raise RuntimeError
    assert [path.name for path in run.iterdir()] == ["comparison.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_a_killed_writer_left_of_a_file_is_removed_by_the_next(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    own = f".out[1].csv.{platform.node()}-"
    kept = [f"{own}{os.getppid()}.partial", f".out[1].csv.elsewhere-{gone.pid}.partial", ".out.csv.1.partial"]
    for name in (f"{own}{gone.pid}.partial", *kept):
        (tmp_path / name).touch()
    runs.write_text(tmp_path / "out[1].csv", "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "out[1].csv"])


def test_a_folder_whose_removal_is_interrupted_is_not_taken_for_whole(tmp_path, monkeypatch):
    saved = tmp_path / "refit-000001"
    saved.mkdir()
    (saved / "arrays").touch()

    def interrupted(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runs.shutil, "rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            runs.remove(saved)
    assert not list(tmp_path.glob("refit-*"))
    runs.remove(saved)
    assert list(tmp_path.iterdir()) == []
