"""Free memory: what the operating system says, and what control groups leave of it."""

import jax
import psutil
import pytest

from aejax import experiment, memory, registry
from aejax.errors import ResourceError
from aejax.split import split


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """`groups(membership, {file: text})`: a process's control groups, on a machine with 10,000 free bytes."""

    def write(membership, files):
        (tmp_path / "membership").write_text(membership)
        for name, text in files.items():
            path = tmp_path / "groups" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    monkeypatch.setattr(memory, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(memory, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 10_000}))
    return write


def limit(folder, most, used, cache=0):
    return {
        f"{folder}memory.max": f"{most}\n",
        f"{folder}memory.current": f"{used}\n",
        f"{folder}memory.stat": f"anon 5\ninactive_file {cache}\n",
    }


def old_limit(folder, most, used, cache=0):
    return {
        f"memory/{folder}memory.limit_in_bytes": f"{most}\n",
        f"memory/{folder}memory.usage_in_bytes": f"{used}\n",
        f"memory/{folder}memory.stat": f"inactive_file 1\ntotal_inactive_file {cache}\n",
    }


def test_free_memory_is_a_number_of_bytes():
    assert 10**7 < memory.available() < 10**14


def test_a_machine_without_control_groups_has_what_the_system_says(groups):
    assert memory.available() == 10_000


@pytest.mark.parametrize(
    ("membership", "files", "free"),
    [
        ("0::/\n", {}, 10_000),
        ("0::/\n", limit("", 3_000, 1_000), 2_000),
        ("0::/\n", limit("", 3_000, 1_000, cache=600), 2_600),  # files that are cached make room
        ("0::/\n", limit("", 3_000, 3_500), 0),
        ("0::/\n", limit("", 30_000, 1_000), 10_000),
        ("0::/\n", limit("", "max", 1_000), 10_000),
        ("0::/a/b\n", {**limit("a/b/", "max", 1_000), **limit("a/", 4_000, 1_000)}, 3_000),
        ("0::/a/b\n", {**limit("a/b/", 2_500, 1_000), **limit("a/", 4_000, 1_000)}, 1_500),
        ("0::/a\n", limit("b/", 2_500, 1_000), 10_000),  # another's
        ("0::/of/the/host\n", limit("", 2_500, 1_000), 1_500),
        ("4:memory:/a\n1:cpu:/b\n0::/\n", old_limit("a/", 2_500, 1_000, cache=5), 1_505),
        ("4:memory:/a\n0::/\n", old_limit("a/", 2**63 - 4096, 1_000), 10_000),
        ("4:cpu,memory:/of/the/host\n", old_limit("", 2_500, 1_000), 1_500),
        ("4:cpu:/a\n", old_limit("a/", 2_500, 1_000), 10_000),
    ],
)
def test_the_least_that_a_limit_leaves(groups, membership, files, free):
    groups(membership, files)
    assert memory.available() == free


def test_the_error_says_how_much_and_what_to_use():
    text = str(memory.too_little("50,000 products", 52.34e9, 8e9))
    assert text == (
        "50,000 products need 52.3 GB of memory, and 8.0 GB are free; raise --min-customers, or use --model elsa, "
        "whose weights are of low rank"
    )


@pytest.mark.parametrize(
    ("model", "settings", "says"),
    [
        (
            "multvae",
            {"hidden": (), "latent_dim": 10**9},
            "30 products need .*; give a smaller latent_dim",
        ),
        ("elsa", {"latent_dim": 10**9}, "30 products need .*; give a smaller latent_dim"),
        ("ials", {"latent_dim": 10**9}, "1,000,000,000 factors need .*; give a smaller --set latent_dim=N"),
    ],
)
def test_a_model_whose_factors_do_not_fit_says_so_before_it_makes_them(tiny_lines, model, settings, says):
    family = registry.family(model)
    with pytest.raises(ResourceError, match=says):
        family.fit(
            tiny_lines, family.settings(**settings), key=jax.random.key(0), validate=None, on_epoch=None, resume=None
        )


def test_a_batch_that_does_not_fit_is_answered_with_one_that_does(tiny_lines, monkeypatch):
    parts = split(tiny_lines, protocol="users")
    free = 4 * 5 * (30 * 8 + 8 + 8 * 30 + 30) + 12 * 30 * 7 + 5  # of parameters, and 7 customers
    monkeypatch.setattr(memory, "available", lambda: free)

    def fit(batch_size):
        settings = registry.make_settings("ae", {"hidden": "8", "batch_size": batch_size, "epochs": 1})
        return experiment.fit_model("ae", settings, parts, seed=0)

    with pytest.raises(ResourceError, match=r"batches of 8 customers x 30 products need .*; --set batch_size=7 fits"):
        fit(8)
    fit(7)
    monkeypatch.setattr(memory, "available", lambda: free - 12 * 30 * 7)
    with pytest.raises(ResourceError, match="give a smaller latent_dim or hidden"):
        fit(8)
