"""Normalised features: against their twins, over padding, and heard in parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close, assert_same, check_parity

from jaxseq.ops.frame_normalization import (
    no_moments,
    standardise_running,
    standardise_utterances,
)
from jaxseq.ops.padding import valid_steps
from jaxseq.reference import frame_normalization as reference

X = 3 + np.random.default_rng(0).normal(size=(4, 6, 2))
LENGTHS = np.array([6, 3, 1, 0])


def running(x: jax.Array, lengths: np.ndarray = LENGTHS) -> jax.Array:
    valid = valid_steps(jnp.asarray(lengths), x.shape[1])
    return standardise_running(x, valid, no_moments(*x.shape[::2]))[0]


def whole(x: jax.Array, lengths: np.ndarray = LENGTHS) -> jax.Array:
    return standardise_utterances(x, jnp.asarray(lengths))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("function", "twin"),
    [(whole, reference.standardise_utterances), (running, reference.standardise_running)],
)
def test_equals_twin(function, twin, dtype: str) -> None:
    check_parity(function, lambda x: twin(x, LENGTHS), X, dtype=dtype)


@pytest.mark.parametrize("function", [whole, running])
def test_padding_cannot_matter(function) -> None:
    valid = np.arange(6)[None] < LENGTHS[:, None]
    rows = jnp.asarray(X, jnp.float32)
    compute = jax.jit(jax.value_and_grad(lambda x: (function(x) ** 3).sum()))
    clean = compute(jnp.where(valid[..., None], rows, 0.0))
    assert_same(compute(jnp.where(valid[..., None], rows, jnp.nan)), clean)
    alone = jax.jit(lambda x: function(x, np.array([3])))(rows[1:2, :3])
    assert_close(alone, jax.jit(function)(rows)[1:2, :3], "float32")


def test_heard_in_parts_equals_heard_at_once() -> None:
    # Steps that are not valid may stand before a row too.
    x = jnp.pad(jnp.float32(X), ((0, 0), (2, 0), (0, 0)), constant_values=jnp.nan)
    valid = jnp.pad(valid_steps(jnp.asarray(LENGTHS), 6), ((0, 0), (2, 0)))
    parts, moments = [], no_moments(4, 2)
    for i in range(0, 8, 2):
        y, moments = standardise_running(x[:, i : i + 2], valid[:, i : i + 2], moments)
        parts.append(y)
    y = jnp.concatenate(parts, axis=1)
    assert_close(y[:, 2:], running(jnp.float32(X)), "float32")
    assert not y[:, :2].any()
