"""Sums and products of numbers far out of the range of floats."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.ops import wide_range as wide


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_and_products_keep_the_precision_of_the_dtype(dtype: str) -> None:
    logs = np.random.default_rng(0).uniform(-2000, 0, (4, 50)).astype(np.float32)
    logs[:, 7] = logs.max(axis=1) - 0.5
    logs[1] -= 6000
    logs[2, 3:] = -np.inf
    logs[3] = [-np.inf, -3e4] * 25

    @jax.jit
    def results(logs):
        x = wide.from_log(logs)
        twice = wide.normalized(wide.times(x, x))
        once = wide.over(twice, x)
        sums = wide.plus(*(wide.Wide(*(each[:, i] for each in twice)) for i in range(3)))
        in_range = (twice.mantissa >= 1) & (twice.mantissa < 2)
        return (
            wide.log(wide.total(twice, 1)),
            wide.log(sums),
            wide.is_zero(x),
            in_range,
            wide.log(once),
            x,
        )

    with jax.enable_x64(dtype == "float64"):
        found = results(jnp.asarray(logs, dtype))
    total, few, zero, in_range, once, x = jax.tree.map(np.asarray, found)
    exact = 2 * np.where(logs < wide.LEAST_LOG, -np.inf, logs.astype(np.float64))
    rtol = {"float32": 3e-7, "float64": 1e-14}[dtype]
    np.testing.assert_allclose(total[:3], np.logaddexp.reduce(exact[:3], axis=1), rtol=rtol)
    np.testing.assert_allclose(few[:3], np.logaddexp.reduce(exact[:3, :3], axis=1), rtol=rtol)
    # exp is right to all digits of its own, of which the logarithm of a large number has few.
    back = np.log(x.mantissa.astype(np.float64)) + x.exponent * np.log(2)
    atol = {"float32": 3e-7, "float64": 3e-13}[dtype]  # of numbers up to 8000, in float64 too
    np.testing.assert_allclose(back[~zero], exact[~zero] / 2, rtol=0, atol=atol)
    assert np.isneginf(total[3])
    assert np.isneginf(few[3])
    np.testing.assert_array_equal(zero, np.isneginf(exact))
    assert np.all(in_range)
    np.testing.assert_allclose(once[~zero], exact[~zero] / 2, rtol=rtol)
