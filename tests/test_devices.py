"""Where JAX computes, and who asks."""

import jax
import jax.numpy as jnp

from aejax import batching, devices


def test_the_device_that_was_chosen_counts_and_not_the_one_that_jax_prefers(monkeypatch):
    assert devices.on_cpu()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not devices.on_cpu()
    for chosen in (jax.devices("cpu")[0], "cpu"):
        with jax.default_device(chosen):
            assert devices.on_cpu()
    assert not devices.on_cpu()


def test_it_can_be_asked_while_a_function_is_compiled(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    batch = batching.Batch(jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2)))

    def steps():
        return str(jax.make_jaxpr(lambda batch: batching.product(batch, jnp.ones((40, 3))))(batch))

    assert "dot_general" in steps()
    with jax.default_device(jax.devices("cpu")[0]):
        assert "while" in steps() and "dot_general" not in steps()
