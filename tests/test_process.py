"""What is said to JAX and to the C library before they start."""

import os
import subprocess
import sys

import platformdirs
import pytest

from aejax import __main__, cli, process


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A process that nobody has told anything, whose user's cache folder is in `tmp_path`."""
    for name in list(os.environ):
        if name.startswith(("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE", "GLIBC_TUNABLES", "XLA_FLAGS")):
            monkeypatch.delenv(name)
    # So that what the test sets is undone.
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name, appauthor: str(tmp_path / name))
    return tmp_path


def test_what_is_compiled_is_kept_in_the_users_cache_folder(fresh):
    process.keep_compiled()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(fresh / "aejax" / "compiled")
    assert (fresh / "aejax" / "compiled").is_dir()
    assert int(os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"]) > 0


def test_a_cache_folder_that_the_user_chose_stands(fresh):
    os.environ["JAX_COMPILATION_CACHE_DIR"] = "mine"
    process.keep_compiled()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "mine"
    assert not (fresh / "aejax").exists()


def test_a_cache_folder_that_cannot_be_made_is_done_without(fresh):
    (fresh / "aejax").write_text("a file")
    process.keep_compiled()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


def started(monkeypatch, tmp_path, pages):
    """The commands that `start_with_huge_pages` starts where Linux says `pages`."""
    (tmp_path / "enabled").write_text(pages)
    monkeypatch.setattr(process, "HUGE_PAGES_FILE", tmp_path / "enabled")
    commands = []
    monkeypatch.setattr(os, "execv", lambda python, words: commands.append((python, words)))
    process.start_with_huge_pages()
    return commands


def test_a_process_starts_again_with_huge_pages_once_and_with_its_own_words(fresh, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "aejax", "fit", "data"])
    os.environ["GLIBC_TUNABLES"] = "glibc.malloc.check=1"
    commands = started(monkeypatch, tmp_path, "always [madvise] never\n")
    assert commands == [(sys.executable, [sys.executable, "-m", "aejax", "fit", "data"])]
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.check=1:glibc.malloc.hugetlb=1"
    assert started(monkeypatch, tmp_path, "always [madvise] never\n") == []


@pytest.mark.parametrize("pages", ["[always] madvise never\n", "always madvise [never]\n"])
def test_a_process_goes_on_where_it_is_given_huge_pages_anyway_or_never(fresh, monkeypatch, tmp_path, pages):
    assert started(monkeypatch, tmp_path, pages) == []
    assert "GLIBC_TUNABLES" not in os.environ


@pytest.mark.parametrize(
    ("command", "told"), [("fit", ["kept", "loops", "pages"]), ("check", []), ("--help", []), (None, [])]
)
def test_the_commands_that_compute_are_told_before_they_run(fresh, monkeypatch, command, told):
    events = []
    monkeypatch.setattr(process, "keep_compiled", lambda: events.append("kept"))
    monkeypatch.setattr(process, "compile_loops_whole", lambda: events.append("loops"))
    monkeypatch.setattr(process, "start_with_huge_pages", lambda: events.append("pages"))
    monkeypatch.setattr(cli, "main", lambda: events.append("command"))
    monkeypatch.setattr(sys, "argv", ["aejax"] if command is None else ["aejax", command, "data"])
    __main__.main()
    assert events == [*told, "command"]


def test_who_calls_the_command_line_is_not_started_again(fresh, monkeypatch):
    monkeypatch.setattr(os, "execv", lambda *words: pytest.fail("the caller's process started again"))
    monkeypatch.setattr(sys, "argv", ["aejax", "fit", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "GLIBC_TUNABLES" not in os.environ


def test_a_process_that_cannot_start_again_goes_on(fresh, monkeypatch, tmp_path):
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    monkeypatch.setattr(process, "HUGE_PAGES_FILE", tmp_path / "enabled")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no python"))
    process.start_with_huge_pages()


def test_a_process_that_starts_again_has_loaded_nothing_before():
    """It would be loaded twice. What starts again is asked for nothing but the modules it has."""
    code = "import os, sys, aejax.__main__; sys.argv = ['aejax', 'fit']; "
    code += "os.execv = lambda *_: (print(*sys.modules), os._exit(0)); from aejax import process; "
    code += "process._given_to_who_asks = lambda: True; aejax.__main__.main()"
    alone = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    loaded = subprocess.run([sys.executable, "-c", code], env=alone, capture_output=True, text=True, check=True).stdout
    assert "aejax.process" in loaded.split() and not {"aejax.cli", "tyro", "numpy", "jax"} & set(loaded.split())


def test_what_is_imported_is_not_looked_through_for_garbage():
    count = "[generation['collections'] for generation in gc.get_stats()[1:]]"
    code = f"import gc; from aejax import process; process.collect_seldom(); before = {count}; "
    code += f"import aejax.experiment; print({count} == before)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found == "True\n"


def test_loops_are_compiled_whole_beside_the_users_own_flags_and_where_these_say_otherwise_not(fresh):
    os.environ["XLA_FLAGS"] = "--xla_dump_to=x"
    process.compile_loops_whole()
    assert os.environ["XLA_FLAGS"] == f"--xla_dump_to=x {process.WHOLE_LOOPS}"
    process.compile_loops_whole()
    assert os.environ["XLA_FLAGS"].count(process.BACKEND_OPTIONS) == 1
    os.environ["XLA_FLAGS"] = own = f"{process.BACKEND_OPTIONS}=mine=1"
    process.compile_loops_whole()
    assert os.environ["XLA_FLAGS"] == own


def test_a_network_learns_the_same_bits_whether_loops_are_compiled_whole_or_not():
    code = """if True:
        import hashlib, jax, jax.numpy as jnp, numpy as np
        from aejax.batching import Batch, drop_inputs, product
        rng = np.random.default_rng(0)
        items = np.sort(rng.permuted(np.tile(np.arange(400), (8, 1)), axis=1)[:, :16], axis=1).astype(np.int32)
        batch = Batch(jnp.asarray(items), jnp.asarray(rng.normal(size=items.shape), jnp.float32))
        matrix = jnp.asarray(rng.normal(size=(400, 32)), jnp.float32)
        def loss(matrix):
            kept = drop_inputs(batch, 0.5, 400, dropout_key=jax.random.key(0))
            return jnp.square(product(kept, matrix)).sum()
        value, gradient = jax.jit(jax.value_and_grad(loss))(matrix)
        print(hashlib.sha256(np.asarray(gradient).tobytes() + np.asarray(value).tobytes()).hexdigest())"""
    found = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "XLA_FLAGS": flags},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for flags in ("", process.WHOLE_LOOPS)
    ]
    assert found[0] == found[1] != ""
