"""Attention against its twin, over every kind of mask."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close, check_parity
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseq.ops.attention import attention
from jaxseq.reference import attention as reference

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def draw(
    batch: int, queries: int, keys: int, heads: int, kv_heads: int, head_size: int = 4
) -> Arrays:
    rng = np.random.default_rng(0)
    return (
        rng.normal(size=(batch, queries, heads, head_size)),
        rng.normal(size=(batch, keys, kv_heads, head_size)),
        rng.normal(size=(batch, keys, kv_heads, head_size)),
    )


def draw_mask(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).random(shape) < 0.5


def segments(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.int32)


def on_device(options: dict[str, Any]) -> dict[str, Any]:
    return {
        name: jnp.asarray(option) if isinstance(option, np.ndarray) else option
        for name, option in options.items()
    }


# Shapes (batch, queries, keys, heads, key/value heads) and options.
CASES = {
    "all pairs": ((2, 3, 5, 2, 2), {}),
    "scale": ((2, 3, 5, 2, 2), {"scale": 0.7}),
    "grouped-query": ((2, 3, 5, 6, 2), {}),
    "multi-query": ((1, 3, 5, 4, 1), {"causal": True}),
    "causal": ((2, 5, 5, 2, 2), {"causal": True}),
    "causal, fewer queries": ((2, 3, 5, 2, 1), {"causal": True}),
    "causal, one query": ((2, 1, 5, 2, 1), {"causal": True}),
    "causal, more queries": ((2, 5, 3, 2, 1), {"causal": True}),
    "mask": ((2, 4, 5, 2, 1), {"mask": draw_mask(2, 4, 5)}),
    "mask by row": ((2, 4, 5, 2, 1), {"mask": draw_mask(2, 1, 5)}),
    "mask for all rows": ((2, 4, 5, 2, 1), {"mask": draw_mask(1, 4, 5)}),
    "segments": (
        (2, 4, 5, 2, 1),
        {
            "query_segments": segments([1, 1, 2, 0], [3, 7, 0, 3]),
            "key_segments": segments([1, 2, 2, 2, 0], [0, 3, 3, 5, 0]),
        },
    ),
    "everything": (
        (2, 5, 5, 4, 2),
        {
            "mask": draw_mask(2, 5, 5),
            "query_segments": segments([1, 1, 1, 2, 2], [1, 1, 1, 1, 0]),
            "key_segments": segments([1, 1, 1, 2, 2], [1, 1, 1, 1, 0]),
            "causal": True,
            "scale": 2.0,
        },
    ),
    # Long enough for a backend to split time into blocks, and not a multiple of any.
    "long": ((1, 130, 130, 2, 1), {"causal": True}),
    "long, packed": (
        (1, 128, 128, 2, 2),
        {
            "causal": True,
            "query_segments": np.repeat(segments([1, 2, 0]), [70, 50, 8], axis=1),
            "key_segments": np.repeat(segments([1, 2, 0]), [70, 50, 8], axis=1),
        },
    ),
}


LOW = ("grouped-query", "causal", "causal, more queries", "segments", "everything", "long")


@pytest.mark.parametrize(
    ("case", "dtype"),
    [(case, "float64") for case in CASES]
    + [(case, dtype) for case in LOW for dtype in ("float32", "bfloat16")],
)
def test_equals_twin(case: str, dtype: str) -> None:
    shape, options = CASES[case]
    check_parity(
        lambda q, k, v: attention(q, k, v, **on_device(options)),
        lambda q, k, v: reference.attention(q, k, v, **options),
        *draw(*shape),
        dtype=dtype,
    )


@pytest.mark.parametrize("case", ["grouped-query", "everything", "long"])
def test_bfloat16_operands_equal_twin(case: str) -> None:
    shape, options = CASES[case]

    def low(query, key, value):
        y = attention(query, key, value, **on_device(options), dtype=jnp.dtype("bfloat16"))
        assert y.dtype == jnp.float32
        return y

    check_parity(
        low,
        lambda q, k, v: reference.attention(q, k, v, **options),
        *draw(*shape),
        dtype="float32",
        compute_dtype="bfloat16",
    )


@st.composite
def draw_case(draws: st.DrawFn) -> tuple[Arrays, dict[str, Any]]:
    batch, queries, keys, heads, kv_heads = draws(
        st.sampled_from([(2, 1, 4, 2, 2), (2, 3, 4, 2, 1), (2, 4, 3, 4, 2)])
    )
    seed = draws(st.integers(0, 10_000))
    rng = np.random.default_rng(seed)
    options: dict[str, Any] = {"causal": draws(st.booleans())}
    if draws(st.booleans()):
        share = draws(st.sampled_from([0.0, 0.5, 1.0]))
        options["mask"] = rng.random((batch, queries, keys)) < share
    if draws(st.booleans()):
        options["query_segments"] = rng.integers(0, 3, (batch, queries), np.int32)
        options["key_segments"] = rng.integers(0, 3, (batch, keys), np.int32)
    return draw(batch, queries, keys, heads, kv_heads), options


JITTED = jax.jit(attention, static_argnames="causal")


@settings(max_examples=60)
@given(draw_case())
def test_any_combination_equals_twin(case: tuple[Arrays, dict[str, Any]]) -> None:
    arrays, options = case
    with jax.enable_x64(True):
        y = JITTED(*map(jnp.asarray, arrays), **on_device(options))
    assert_close(y, reference.attention(*arrays, **options), "float64")


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(0, 3), (3, 0), (0, 0)])
def test_length_zero_gives_zeros(queries: int, keys: int, causal: bool) -> None:
    mask = np.ones((1, 1, keys), bool)
    ones = np.ones((2, queries), np.int32), np.ones((2, keys), np.int32)
    for options in ({}, {"mask": mask}, {"query_segments": ones[0], "key_segments": ones[1]}):
        check_parity(
            lambda q, k, v, o=options: attention(q, k, v, **on_device(o), causal=causal),
            lambda q, k, v, o=options: reference.attention(q, k, v, **o, causal=causal),
            *draw(2, queries, keys, 2, 1),
            dtype="float32",
        )


def test_grouped_query_is_repeated_heads() -> None:
    query, key, value = (jnp.asarray(x, jnp.float32) for x in draw(2, 5, 5, 6, 2))
    repeated = jnp.repeat(key, 3, axis=2), jnp.repeat(value, 3, axis=2)
    grouped = JITTED(query, key, value, causal=True)
    assert_close(grouped, JITTED(query, *repeated, causal=True), "float32")


def test_causal_is_aligned_bottom_right() -> None:
    query, key, value = (jnp.asarray(x, jnp.float32) for x in draw(1, 5, 5, 2, 2))
    full = JITTED(query, key, value, causal=True)
    for new in (1, 2, 4):
        late = JITTED(query[:, -new:], key, value, causal=True)
        assert_close(late, full[:, -new:], "float32")
    early = JITTED(query, key[:, :2], value[:, :2], causal=True)
    np.testing.assert_array_equal(early[:, :3], 0)
    np.testing.assert_allclose(early[:, 3], value[:, 0], rtol=1e-6)


def test_huge_scores_do_not_overflow() -> None:
    key = jnp.array([1e4, -1e4, 2e4, -3e4]).reshape(1, 4, 1, 1)
    value = jnp.arange(4.0).reshape(1, 4, 1, 1)
    y = JITTED(jnp.array([1.0, -1.0]).reshape(1, 2, 1, 1), key, value)
    np.testing.assert_array_equal(y.ravel(), [2.0, 3.0])


def test_one_of_two_segments_raises() -> None:
    query, key, value = (jnp.asarray(x) for x in draw(1, 2, 2, 1, 1))
    ones = jnp.ones((1, 2), jnp.int32)
    for options in ({"query_segments": ones}, {"key_segments": ones}):
        with pytest.raises(ValueError, match="both query_segments and key_segments"):
            attention(query, key, value, **options)


def test_heads_that_do_not_divide_raise() -> None:
    with pytest.raises(ValueError, match="3 query heads are not a multiple of 2"):
        attention(*map(jnp.asarray, draw(1, 2, 2, 3, 2)))
