"""Biases by distance against their twins, T5's buckets, and the matrix that repeats one line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close, assert_same, check_parity

from jaxseq.ops.position_bias import (
    ALiBi,
    RelativeBias,
    alibi_slopes,
    bias_matrix,
    relative_buckets,
)
from jaxseq.reference import position_bias as reference

DISTANCES = np.arange(-30, 31).reshape(1, -1) + np.array([[0], [3]])
PARAMETERS = np.random.default_rng(0).normal(size=(8, 3))


def test_alibi_equals_twin() -> None:
    check_parity(
        lambda slopes: ALiBi(slopes)(jnp.asarray(DISTANCES)),
        lambda slopes: reference.ALiBi(slopes)(DISTANCES),
        PARAMETERS[0],
        dtype="float64",
    )


@pytest.mark.parametrize("bidirectional", [False, True])
def test_relative_bias_equals_twin(bidirectional: bool) -> None:
    check_parity(
        lambda table: RelativeBias(table, bidirectional, 20)(jnp.asarray(DISTANCES)),
        lambda table: reference.RelativeBias(table, bidirectional, 20)(DISTANCES),
        PARAMETERS,
        dtype="float64",
    )


# The first distance of each bucket as T5Attention of transformers 5.23 gives it, from 1 on.
T5 = {
    (32, 128, True): [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91],
    (8, 20, False): [1, 2, 3, 4, 6, 9, 14],
}


@pytest.mark.parametrize("layout", T5)
def test_buckets_start_where_those_of_t5_start(layout: tuple[int, int, bool]) -> None:
    num_buckets, max_distance, bidirectional = layout
    lengths = np.arange(2000)
    buckets = [
        relative_buckets(
            jnp.asarray(sign * lengths)[None],
            num_buckets=num_buckets,
            bidirectional=bidirectional,
            max_distance=max_distance,
        )[0]
        for sign in (-1, 1)
    ]
    past, future = map(np.asarray, buckets)
    assert list(np.flatnonzero(np.diff(past)) + 1) == T5[layout]
    assert past[-1] == len(T5[layout])
    if bidirectional:
        np.testing.assert_array_equal(future[1:], past[1:] + num_buckets // 2)
    else:
        np.testing.assert_array_equal(future, 0)


@pytest.mark.parametrize(
    ("queries", "keys", "start"), [(1, 1, 0), (1, 5, 4), (4, 1, -2), (3, 5, 7), (5, 3, -1)]
)
def test_matrix_equals_the_bias_of_every_distance(queries: int, keys: int, start: int) -> None:
    distances = np.arange(keys)[None] - (start + np.arange(queries))[:, None]
    bias = RelativeBias(jnp.asarray(PARAMETERS, jnp.float32), True, 20)
    matrix = bias_matrix(bias, queries, keys, jnp.asarray(start))
    assert_same(matrix, bias(jnp.asarray(distances)))


@pytest.mark.parametrize(("queries", "keys"), [(0, 3), (3, 0), (0, 0)])
def test_matrix_of_length_zero_is_empty(queries: int, keys: int) -> None:
    assert bias_matrix(ALiBi(jnp.ones(2)), queries, keys, 0).shape == (2, queries, keys)


def test_gradient_of_the_matrix_reaches_every_used_parameter() -> None:
    def total(bias: RelativeBias) -> jax.Array:
        return bias_matrix(bias, 3, 4, 1)[0].sum()

    gradient = jax.grad(total)(RelativeBias(jnp.zeros((8, 2)), True, 20))
    counts = np.zeros((8, 2))
    for t, s in np.ndindex(3, 4):
        counts[reference.bucket(s - 1 - t, 8, True, 20), 0] += 1
    assert_close(gradient.table, counts, "float32")


def test_slopes_equal_twin_and_paper() -> None:
    np.testing.assert_allclose(alibi_slopes(8), 2.0 ** -np.arange(1, 9))
    for heads in (1, 2, 3, 6, 12, 20):
        assert_close(alibi_slopes(heads), reference.alibi_slopes(heads), "float32")


@pytest.mark.parametrize(
    ("buckets", "bidirectional", "max_distance"), [(7, True, 20), (2, True, 20), (32, False, 16)]
)
def test_impossible_buckets_raise(buckets: int, bidirectional: bool, max_distance: int) -> None:
    bias = RelativeBias(jnp.zeros((buckets, 1)), bidirectional, max_distance)
    with pytest.raises(ValueError, match=f"num_buckets {buckets} and max_distance {max_distance}"):
        bias(jnp.zeros((1, 1), jnp.int32))
