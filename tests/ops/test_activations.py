"""Pointwise nonlinearities against their twins."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import DTYPES, check_parity

from jaxseq.ops.activations import gelu, swiglu
from jaxseq.reference import activations as reference


@pytest.mark.parametrize("dtype", DTYPES)
def test_gelu_equals_twin(dtype: str) -> None:
    check_parity(gelu, reference.gelu, np.linspace(-6, 6, 50).reshape(2, 25), dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_swiglu_equals_twin(dtype: str) -> None:
    rng = np.random.default_rng(0)
    gate, x = rng.normal(scale=3, size=(2, 3, 5)), rng.normal(size=(2, 3, 5))
    check_parity(swiglu, reference.swiglu, gate, x, dtype=dtype)


@pytest.mark.parametrize("function", [gelu, lambda x: swiglu(x, jnp.ones_like(x))])
def test_far_tails_are_finite(function) -> None:
    x = jnp.array([-1e4, -100.0, 100.0, 1e4])
    np.testing.assert_array_equal(function(x), [0.0, 0.0, 100.0, 1e4])
    gradient = jax.jit(jax.grad(lambda x: function(x).sum()))(x)
    np.testing.assert_array_equal(gradient, [0.0, 0.0, 1.0, 1.0])
