"""Where JAX computes, and who asks."""

import threading

import jax
import jax.numpy as jnp
import pytest

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


@pytest.mark.parametrize("compiled", [False, True])
def test_calls_overlap_in_order_on_the_device_that_was_chosen(compiled):
    """Two calls wait for each other, which one after the other they would do for ever."""
    together, taken = threading.Barrier(2, timeout=60), []

    def numbers():
        for number in range(5 - compiled):
            taken.append(number)
            yield number

    def doubled(number):
        if compiled or number:
            together.wait()
        # `devices.overlapped` must hand the chosen device on: the default of a thread is its own.
        assert jax.config.jax_default_device == chosen
        return jnp.asarray(2 * number)

    chosen = jax.devices("cpu")[0]
    with jax.default_device(chosen):
        results = devices.overlapped(doubled, numbers(), compiled=compiled)
        assert next(results) == 0
        assert len(taken) <= 1 + devices.WORKERS
        assert [int(result) for result in results] == [2 * number for number in range(1, 5 - compiled)]


def test_what_a_call_raises_is_raised_and_off_a_cpu_there_are_no_threads(monkeypatch):
    def refuse(number):
        raise ValueError(f"{number} {threading.current_thread() is threading.main_thread()}")

    with pytest.raises(ValueError, match="0 False"):
        list(devices.overlapped(refuse, [0, 1], compiled=True))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(ValueError, match="0 True"):
        list(devices.overlapped(refuse, [0, 1], compiled=True))
