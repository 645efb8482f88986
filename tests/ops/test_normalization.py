"""Normalisation against its twin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import DTYPES, check_parity

from jaxseq.ops.normalization import layer_norm, rms_norm
from jaxseq.reference import normalization as reference


def draw(*shape: int, mean: float = 0.5) -> np.ndarray:
    return mean + np.random.default_rng(sum(shape)).normal(size=shape)


@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_norm_equals_twin(dtype: str) -> None:
    arguments = draw(2, 4, 10), draw(10), draw(10)
    check_parity(layer_norm, reference.layer_norm, *arguments, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm_equals_twin(dtype: str) -> None:
    check_parity(rms_norm, reference.rms_norm, draw(2, 4, 10), draw(10), dtype=dtype)


@pytest.mark.parametrize("leading", [(), (3,), (2, 0), (2, 3, 2)])
def test_any_leading_axes_equal_twin(leading: tuple[int, ...]) -> None:
    x, scale, bias = draw(*leading, 10), draw(10), draw(10)
    check_parity(layer_norm, reference.layer_norm, x, scale, bias, dtype="float32")
    check_parity(rms_norm, reference.rms_norm, x, scale, dtype="float32")


def test_layer_norm_without_bias_and_with_epsilon_equals_twin() -> None:
    check_parity(
        lambda x, scale: layer_norm(x, scale, epsilon=0.3),
        lambda x, scale: reference.layer_norm(x, scale, epsilon=0.3),
        draw(3, 10),
        draw(10),
        dtype="float64",
    )


def test_rms_norm_with_epsilon_equals_twin() -> None:
    check_parity(
        lambda x, scale: rms_norm(x, scale, epsilon=0.3),
        lambda x, scale: reference.rms_norm(x, scale, epsilon=0.3),
        draw(3, 10),
        draw(10),
        dtype="float64",
    )


def test_layer_norm_keeps_its_precision_far_from_zero() -> None:
    # The mean of squares less the square of the mean loses three digits here.
    arguments = draw(4, 64, mean=30.0), draw(64), draw(64)
    check_parity(layer_norm, reference.layer_norm, *arguments, dtype="float32")


def test_bfloat16_statistics_are_float32() -> None:
    # 257 is not a bfloat16 number, so a bfloat16 sum of 512 ones stops at 256.
    x = jnp.ones((1, 512), jnp.bfloat16)
    np.testing.assert_array_equal(rms_norm(x, jnp.ones(512), epsilon=0.0), x)


@pytest.mark.parametrize("norm", [layer_norm, rms_norm])
def test_constant_rows_have_finite_gradients(norm) -> None:
    gradient = jax.jit(jax.grad(lambda x: norm(x, jnp.arange(4.0)).sum()))(jnp.zeros((2, 4)))
    assert np.isfinite(gradient).all()
