"""Dropout of attention weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import central_difference

from jaxseq.ops.attention import attention

RATE = 0.25
JITTED = jax.jit(attention, static_argnames=("causal", "dropout_rate"))


def weights(key, rate: float = RATE, causal: bool = False) -> np.ndarray:
    """The attention weights themselves: the values are the rows of the identity."""
    size = 32
    rng = np.random.default_rng(0)
    query, keys = (jnp.asarray(rng.normal(size=(4, size, 2, size)), jnp.float32) for _ in range(2))
    value = jnp.broadcast_to(jnp.eye(size)[None, :, None], keys.shape)
    return np.asarray(JITTED(query, keys, value, dropout_rate=rate, dropout_key=key, causal=causal))


def test_each_weight_is_dropped_or_scaled_up() -> None:
    kept, full = weights(jax.random.key(0)), weights(None)
    dropped = kept == 0
    np.testing.assert_allclose(kept[~dropped], full[~dropped] / (1 - RATE), rtol=1e-5)
    # 8192 draws: the standard deviation of the share is 0.005.
    assert abs(dropped.mean() - RATE) < 0.02


def test_the_mean_is_kept() -> None:
    shares = [weights(jax.random.key(i)).sum() / weights(None).sum() for i in range(8)]
    assert abs(np.mean(shares) - 1) < 0.02


def test_heads_queries_and_rows_are_dropped_independently() -> None:
    dropped = weights(jax.random.key(0)) == 0
    assert not np.array_equal(dropped[0], dropped[1])
    assert not np.array_equal(dropped[:, 0], dropped[:, 1])
    assert not np.array_equal(dropped[:, :, 0], dropped[:, :, 1])


def test_the_key_decides() -> None:
    np.testing.assert_array_equal(weights(jax.random.key(1)), weights(jax.random.key(1)))
    assert np.any(weights(jax.random.key(1)) != weights(jax.random.key(2)))


@pytest.mark.parametrize(("key", "rate"), [(None, RATE), (0, 0.0)])
def test_without_key_or_rate_nothing_is_dropped(key: int | None, rate: float) -> None:
    key = None if key is None else jax.random.key(key)
    np.testing.assert_array_equal(weights(key, rate), weights(None, 0.0))


def test_masked_weights_stay_zero() -> None:
    kept = weights(jax.random.key(0), causal=True)
    assert not np.any(kept * np.triu(np.ones((32, 32)), 1)[None, :, None])


def test_gradient_is_that_of_the_dropped_function() -> None:
    rng = np.random.default_rng(0)
    shape = (2, 5, 2, 4)
    with jax.enable_x64(True):
        point, direction = (
            [jnp.asarray(rng.normal(size=shape)) for _ in range(3)] for _ in range(2)
        )
        key = jax.random.key(3)

        @jax.jit
        @jax.value_and_grad
        def total(step):
            moved = [p + step * d for p, d in zip(point, direction, strict=True)]
            y = attention(*moved, causal=True, dropout_rate=RATE, dropout_key=key)
            return jnp.sum(jnp.sin(y))

        _, slope = total(0.0)
        np.testing.assert_allclose(
            slope, central_difference(lambda step: float(total(step)[0])), rtol=1e-8
        )
