"""A stack of convolutions against its twin, and over padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close, assert_same, check_parity, float32, random_params

from jaxseq.nn.convolution_stack import ConvolutionStack
from jaxseq.reference.convolution_stack import convolution_stack

LENGTHS = np.array([5, 2, 0])
X = np.random.default_rng(0).normal(size=(3, 5, 3))


def make(kernel: int):
    layer = ConvolutionStack(8, 2, kernel)
    return layer, random_params(layer, jnp.asarray(X))


@pytest.mark.parametrize(("kernel", "dtype"), [(3, "float64"), (4, "float32")])
def test_equals_twin(kernel: int, dtype: str) -> None:
    layer, params = make(kernel)
    check_parity(
        lambda params, x: layer.apply({"params": params}, x, jnp.asarray(LENGTHS)),
        lambda params, x: convolution_stack(params, x, LENGTHS),
        params,
        X,
        dtype=dtype,
    )


def test_what_stands_in_the_padding_changes_nothing() -> None:
    layer, params = make(3)

    @jax.jit
    def value_and_gradient(params, x):
        value, pullback = jax.vjp(
            lambda params, x: layer.apply({"params": params}, x, jnp.asarray(LENGTHS)), params, x
        )
        return value, pullback(jnp.cos(value))

    valid = (np.arange(5)[None] < LENGTHS[:, None])[..., None]
    expected = value_and_gradient(float32(params), jnp.float32(np.where(valid, X, 0)))
    with_junk = value_and_gradient(float32(params), jnp.float32(np.where(valid, X, np.nan)))
    assert_same(with_junk, expected)
    alone = jax.jit(layer.apply)({"params": float32(params)}, jnp.float32(X[1:2, :2]))
    assert_close(alone, expected[0][1:2, :2], "float32")
    assert not np.any(expected[0][1:, 2:])
