"""The affine map against its twin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import DTYPES, assert_close, check_parity

from jaxseq.ops.linear import linear
from jaxseq.reference import linear as reference

BFLOAT16 = jnp.dtype("bfloat16")


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape)


@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_twin(dtype: str) -> None:
    check_parity(linear, reference.linear, draw(2, 5, 6), draw(6, 4), draw(4), dtype=dtype)


@pytest.mark.parametrize("leading", [(), (3,), (2, 0), (33,)])
def test_any_leading_axes_equal_twin(leading: tuple[int, ...]) -> None:
    arguments = draw(*leading, 6), draw(6, 4), draw(4)
    check_parity(linear, reference.linear, *arguments, dtype="float32")


def test_without_bias_equals_twin() -> None:
    check_parity(linear, reference.linear, draw(2, 3, 6), draw(6, 4), dtype="float64")


@pytest.mark.parametrize("shape", [(2, 5), (4, 64)])
def test_bfloat16_operands_keep_float32_around_them(shape: tuple[int, int]) -> None:
    def low(x, kernel, bias):
        y = linear(x, kernel, bias, dtype=BFLOAT16)
        assert y.dtype == jnp.float32
        return y

    arguments = draw(*shape, 32), draw(32, 48), draw(48)
    check_parity(low, reference.linear, *arguments, dtype="float32", compute_dtype="bfloat16")


def test_bfloat16_products_are_summed_in_float32() -> None:
    # 1 + 4096 x 2^-9: a running sum in bfloat16 would never leave 1.
    x = jnp.concatenate([jnp.ones((1, 1)), jnp.full((1, 4096), 2.0**-9)], axis=1)
    y = linear(x, jnp.ones((4097, 1)), dtype=BFLOAT16)
    np.testing.assert_array_equal(y, [[9.0]])


def test_bias_is_not_rounded_to_the_compute_dtype() -> None:
    bias = jnp.array([1.0 + 2.0**-20])
    y = linear(jnp.zeros((1, 2)), jnp.zeros((2, 1)), bias, dtype=BFLOAT16)
    np.testing.assert_array_equal(y, bias[None])


def test_gradients_of_every_example_by_itself() -> None:
    # XLA's CPU compiler once ended the process over these shapes.
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((4, 3, 6), (4, 6, 5)))

    def loss(x, kernel):
        return jnp.sum(linear(x, kernel) ** 2)

    together = jax.jit(jax.vmap(jax.grad(loss, (0, 1))))(x, kernel)
    single = jax.jit(jax.grad(loss, (0, 1)))
    for i in range(4):
        assert_close(
            jax.tree.map(lambda g, i=i: g[i], together), single(x[i], kernel[i]), "float32"
        )
