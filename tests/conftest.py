from __future__ import annotations

import dataclasses
import gc
import os
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import settings

from aejax.interactions import Features, Interactions, Vocabulary
from tests.shops import write_shop

# Tests compile many programs and run each a few times on small data: they are compiled by the older emitters, a third
# of the work, in one piece, and hardly optimised. The commands that they start read the same.
_quickly = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_quickly}"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"
jax.config.update("jax_disable_most_optimizations", True)
# What one test compiles, the others and the commands that they start find compiled: the same small programs come again
# and again. All workers have one folder, which ends with the first of them.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _compiled = tempfile.TemporaryDirectory(prefix="aejax-tests-", ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)

settings.register_profile("aejax", deadline=None, max_examples=30, derandomize=True)
settings.load_profile("aejax")

USERS, ITEMS = 60, 30


def pytest_collection_finish() -> None:
    """What is imported stays: it is not looked through for garbage again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small shop, for tests that leave it as it is."""
    return write_shop(tmp_path_factory.mktemp("shops") / "shop")


@pytest.fixture(scope="session")
def tiny_lines() -> Interactions:
    """A shop of 60 customers and 30 products with two tastes: even customers buy even products, odd ones odd products,
    and one purchase in ten is of the other kind. Orders of 1 to 4 distinct products, 4 to 7 per customer, no returns,
    sorted by date. Every customer and every product occurs. The taste is the products' attribute."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(USERS):
        taste, other = np.arange(user % 2, ITEMS, 2), np.arange(1 - user % 2, ITEMS, 2)
        for _ in range(rng.integers(4, 8)):
            size = rng.integers(1, 5)
            foreign = rng.binomial(size, 0.1)
            basket = [*rng.choice(taste, size - foreign, replace=False), *rng.choice(other, foreign, replace=False)]
            minute = int(rng.integers(0, 365 * 24 * 60))
            rows.extend((minute, user, item, rng.integers(1, 4)) for item in basket)
    minute, user, item, quantity = np.array(sorted(rows)).T
    _, order = np.unique(minute * USERS + user, return_inverse=True)
    lines = Interactions(
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        quantity=quantity.astype(np.int32),
        users=Vocabulary.of(f"c{u:02d}" for u in range(USERS)),
        items=Vocabulary.of(f"p{i:02d}" for i in range(ITEMS)),
        order=order.astype(np.int32),
        at=np.datetime64("2024-01-01T00:00:00", "s") + minute * np.timedelta64(60, "s"),
    )
    tastes = np.stack([np.arange(ITEMS) % 2 == 0, np.arange(ITEMS) % 2 == 1], axis=1)
    features = Features(sp.csr_array(tastes.astype(np.float32)), (("taste", "even"), ("taste", "odd")))
    lines = dataclasses.replace(lines, item_features=features)
    assert len(np.unique(user)) == USERS and len(np.unique(item)) == ITEMS
    return lines
