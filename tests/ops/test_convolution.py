"""Convolutions over time against their twins."""

import jax.numpy as jnp
import numpy as np
import pytest
from compare import check_parity

from jaxseq.ops.convolution import convolution, depthwise_convolution
from jaxseq.reference import convolution as reference

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 7, 3))
KERNEL, BIAS = RNG.normal(size=(3 * 3, 4)), RNG.normal(size=4)
DEPTHWISE_KERNEL, DEPTHWISE_BIAS = RNG.normal(size=(4, 3)), RNG.normal(size=3)


@pytest.mark.parametrize(
    ("stride", "dtype", "operands"),
    [(1, "float64", None), (2, "float64", None), (2, "float32", None), (3, "float32", "bfloat16")],
)
def test_convolution_equals_twin(stride: int, dtype: str, operands: str | None) -> None:
    low = None if operands is None else jnp.dtype(operands)
    check_parity(
        lambda x, kernel, bias: convolution(x, kernel, bias, stride=stride, dtype=low),
        lambda x, kernel, bias: reference.convolution(x, kernel, bias, stride=stride),
        *(X, KERNEL, BIAS),
        dtype=dtype,
        compute_dtype=operands,
    )


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_depthwise_convolution_equals_twin(dtype: str) -> None:
    arguments = X, DEPTHWISE_KERNEL, DEPTHWISE_BIAS
    check_parity(depthwise_convolution, reference.depthwise_convolution, *arguments, dtype=dtype)


def test_kernels_that_do_not_fit_are_refused() -> None:
    x = jnp.zeros((1, 4, 3))
    for rows in (8, 15):
        with pytest.raises(ValueError, match=f"kernel: {rows} rows .* 4 steps of 3"):
            convolution(x, jnp.zeros((rows, 2)))
    with pytest.raises(ValueError, match="kernel: 5 steps are more than the 4 of x"):
        depthwise_convolution(x, jnp.zeros((5, 3)))
