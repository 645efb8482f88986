"""What chunked attention adds to the contract: memory linear in length, and its own dropout."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import draw
from compare import assert_close, central_difference

from jaxseq.ops import chunked_attention
from jaxseq.ops.attention import attention
from jaxseq.ops.position_bias import RelativeBias

RATE = 0.25


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(chunked_attention, "QUERY_CHUNK", 16)
    monkeypatch.setattr(chunked_attention, "KEY_CHUNK", 8)


def temporary_bytes(length: int, backend: str) -> int:
    """Memory of a training step's attention (4 heads of 64, with a bias) beside its arrays."""
    array = jax.ShapeDtypeStruct((1, length, 4, 64), jnp.float32)
    table = jax.ShapeDtypeStruct((32, 4), jnp.float32)

    def loss(query, key, value, table):
        bias = RelativeBias(table, True)
        return jnp.sum(attention(query, key, value, bias=bias, backend=backend) ** 2)

    step = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3))).lower(array, array, array, table)
    return step.compile().memory_analysis().temp_size_in_bytes


def test_memory_is_linear_in_length_and_an_eighth_of_dense() -> None:
    short, middle, long = (temporary_bytes(length, "chunked") for length in (2048, 4096, 8192))
    assert 0 < middle - short <= 0.6 * (long - short)
    assert long <= 2 * middle
    assert 8 * long <= temporary_bytes(8192, "dense")


@pytest.mark.parametrize(
    ("options", "dtype"),
    [({}, "float32"), ({"window": 40}, "float32"), ({"window": 40, "soft_cap": 2.0}, "bfloat16")],
)
def test_equals_dense_over_several_blocks(monkeypatch, options: dict, dtype: str) -> None:
    # Dense goes through 300 queries in blocks of 128 and leaves out what the window masks.
    monkeypatch.setattr(chunked_attention, "QUERY_CHUNK", 64)
    monkeypatch.setattr(chunked_attention, "KEY_CHUNK", 128)
    arrays = [jnp.asarray(x, jnp.float32) for x in draw(0, 1, 300, 300, 2, 1, None)[:3]]

    @functools.partial(jax.jit, static_argnums=1)
    def run(arrays, backend):
        more = {"causal": True, "dtype": jnp.dtype(dtype), "backend": backend, **options}
        y, pull = jax.vjp(lambda *a: attention(*a, **more), *arrays)
        return y, pull(jnp.cos(y))

    assert_close(run(arrays, "chunked"), run(arrays, "dense"), dtype)


# --- Dropout -------------------------------------------------------------------------------------


def weights(key: jax.Array | None) -> np.ndarray:
    """The attention weights themselves: the values are the rows of the identity."""
    query, keys, _, _ = (jnp.asarray(x, jnp.float32) for x in draw(0, 8, 32, 32, 2, 2, None))
    value = jnp.broadcast_to(jnp.eye(32)[None, :, None], (8, 32, 2, 32))
    query, keys = (jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, 28))) for x in (query, keys))
    drops = {"dropout_rate": RATE, "dropout_key": key}
    return np.asarray(attention(query, keys, value, **drops, backend="chunked"))


def test_each_weight_is_dropped_or_scaled_up(small_chunks) -> None:
    kept, full = weights(jax.random.key(0)), weights(None)
    dropped = kept == 0
    np.testing.assert_allclose(kept[~dropped], full[~dropped] / (1 - RATE), rtol=1e-5)
    # 16384 draws: the standard deviation of the share is 0.0034.
    assert abs(dropped.mean() - RATE) < 0.015
    # No pair of chunks (16 queries by 8 keys), row of the batch or head repeats another's draws.
    pairs = dropped.transpose(0, 2, 1, 3).reshape(16, 2, 16, 4, 8).swapaxes(2, 3).reshape(-1, 128)
    assert len(np.unique(pairs, axis=0)) == len(pairs)
    assert np.any(weights(jax.random.key(1)) != kept)
    np.testing.assert_array_equal(weights(jax.random.key(0)), kept)


def test_gradient_is_that_of_the_dropped_function(small_chunks) -> None:
    with jax.enable_x64(True):
        point, direction = (
            [jnp.asarray(x) for x in draw(seed, 1, 20, 20, 2, 1, None)[:3]] for seed in (0, 1)
        )
        key = jax.random.key(3)

        @jax.jit
        @jax.value_and_grad
        def total(step):
            moved = [p + step * d for p, d in zip(point, direction, strict=True)]
            drops = {"dropout_rate": RATE, "dropout_key": key}
            return jnp.sum(jnp.sin(attention(*moved, causal=True, **drops, backend="chunked")))

        slope = central_difference(lambda step: float(total(step)[0]))
        np.testing.assert_allclose(total(0.0)[1], slope, rtol=1e-8)
