"""Rotary positions against their twin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import DTYPES, assert_close, check_parity

from jaxseq.ops.positions import Rotary, rotary, sinusoidal
from jaxseq.reference import positions as reference

PLAIN = Rotary()
STRETCHED = {
    "linear": Rotary(scaling="linear", factor=4.0),
    "ntk": Rotary(scaling="ntk", factor=4.0),
    # Of the wavelengths 6.3, 63, 628 and 6283 the first stays, the second is between.
    "llama3": Rotary(scaling="llama3", factor=8.0, original_context=128),
}


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape)


@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_twin(dtype: str) -> None:
    at = np.array([[0, 1, 2, 0, 1], [7, 6, 5, 40, 3]], np.int32)
    check_parity(
        lambda x: rotary(x, jnp.asarray(at), Rotary(base=100.0)),
        lambda x: reference.rotary(x, at, Rotary(base=100.0)),
        draw(2, 5, 3, 6),
        dtype=dtype,
    )


def test_shared_positions_and_default_base_equal_twin() -> None:
    at = np.arange(4, dtype=np.int32)[None]
    check_parity(
        lambda x: rotary(x, jnp.asarray(at), PLAIN),
        lambda x: reference.rotary(x, at, PLAIN),
        draw(2, 4, 1, 8),
        dtype="float64",
    )


def test_bfloat16_angles_are_float32() -> None:
    # bfloat16 has no 1001: an angle rounded to it would be wrong by a radian and more.
    at = np.array([[1001, 2003, 4007]], np.int32)
    check_parity(
        lambda x: rotary(x, jnp.asarray(at), PLAIN),
        lambda x: reference.rotary(x, at, PLAIN),
        draw(1, 3, 2, 4),
        dtype="bfloat16",
    )


def test_scores_depend_on_the_distance_alone() -> None:
    with jax.enable_x64(True):
        query, key = jnp.asarray(draw(1, 1, 1, 8)), jnp.asarray(draw(1, 1, 1, 8)[..., ::-1])

        @jax.jit
        def score(query_at, key_at):
            turned = (
                rotary(query, query_at[None, None], PLAIN),
                rotary(key, key_at[None, None], PLAIN),
            )
            return jnp.sum(turned[0] * turned[1])

        assert_close(score(9, 4), score(5, 0), "float64")
        assert abs(score(9, 4) - score(9, 5)) > 1e-3


def test_position_zero_changes_nothing() -> None:
    x = jnp.asarray(draw(2, 3, 2, 4), jnp.float32)
    np.testing.assert_array_equal(rotary(x, jnp.zeros((1, 3), jnp.int32), PLAIN), x)


def test_length_zero() -> None:
    y = rotary(jnp.zeros((2, 0, 2, 4)), jnp.zeros((1, 0), jnp.int32), PLAIN)
    assert y.shape == (2, 0, 2, 4)


def test_odd_head_size_raises() -> None:
    with pytest.raises(ValueError, match="even head size, not 5"):
        rotary(jnp.zeros((1, 2, 1, 5)), jnp.zeros((1, 2), jnp.int32), PLAIN)


@pytest.mark.parametrize("scaling", STRETCHED)
def test_stretched_wavelengths_equal_twin(scaling: str) -> None:
    at = np.array([[0, 7, 300]], np.int32)
    check_parity(
        lambda x: rotary(x, jnp.asarray(at), STRETCHED[scaling]),
        lambda x: reference.rotary(x, at, STRETCHED[scaling]),
        draw(1, 3, 2, 8),
        dtype="float64",
    )
    assert STRETCHED[scaling] != PLAIN


def test_sinusoids_equal_twin() -> None:
    at = np.array([[0, 1, 2], [511, 40, 3]], np.int32)
    with jax.enable_x64(True):
        assert_close(sinusoidal(jnp.asarray(at), 6), reference.sinusoidal(at, 6), "float64")
    assert_close(sinusoidal(jnp.asarray(at), 6), reference.sinusoidal(at, 6), "float32")
    with pytest.raises(ValueError, match="even width, not 5"):
        sinusoidal(jnp.asarray(at), 5)
