"""What stands in the padding cannot matter: empty rows, NaN and infinity under masks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_same

from jaxseq.ops.attention import attention

BATCH, QUERIES, KEYS, HEADS, KV_HEADS, SIZE = 2, 4, 5, 4, 2, 4

# Which queries and keys are padding, and the options that say so.
EMPTY_QUERIES = np.array([[0, 0, 0, 1], [0, 1, 0, 1]], bool)
UNSEEN_KEYS = np.array([[0, 0, 0, 0, 1], [1, 0, 0, 1, 1]], bool)
QUERY_SEGMENTS = np.array([[1, 1, 2, 0], [3, 7, 3, 0]], np.int32)  # 7 has no key of its own
KEY_SEGMENTS = np.array([[1, 2, 2, 2, 0], [0, 3, 3, 5, 0]], np.int32)
BY_SEGMENTS = {"query_segments": QUERY_SEGMENTS, "key_segments": KEY_SEGMENTS}
BY_MASK = {"mask": ~EMPTY_QUERIES[:, :, None] & ~UNSEEN_KEYS[:, None, :]}
NOTHING = {"mask": np.zeros((1, 1, KEYS), bool)}
CASES = {
    "mask": (BY_MASK, EMPTY_QUERIES, UNSEEN_KEYS),
    "segments": (BY_SEGMENTS, EMPTY_QUERIES, UNSEEN_KEYS),
    "mask and segments": (BY_MASK | BY_SEGMENTS, EMPTY_QUERIES, UNSEEN_KEYS),
    "nothing visible": (
        NOTHING,
        np.ones((BATCH, QUERIES), bool),
        np.ones((BATCH, KEYS), bool),
    ),
}


@partial(jax.jit, static_argnames=("causal", "compute"))
def evaluate(arrays, weights, options, causal, compute):
    y, pullback = jax.vjp(
        lambda *a: attention(*a, **options, causal=causal, dtype=compute), *arrays
    )
    return y, pullback(weights)


def run(arrays, options, *, causal=False, dtype="float32", compute=None):
    """Output, and the gradients of a weighted sum of it, as NumPy arrays."""
    weights = np.random.default_rng(2).normal(size=arrays[0].shape)
    arrays, weights = jax.tree.map(lambda a: jnp.asarray(a, dtype), (arrays, weights))
    return jax.tree.map(np.asarray, evaluate(arrays, weights, options, causal, compute))


def draw(keys: int = KEYS):
    rng = np.random.default_rng(0)
    return (
        rng.normal(size=(BATCH, QUERIES, HEADS, SIZE)),
        rng.normal(size=(BATCH, keys, KV_HEADS, SIZE)),
        rng.normal(size=(BATCH, keys, KV_HEADS, SIZE)),
    )


def spoil(arrays, empty_queries, unseen_keys, junk: float):
    query, key, value = (array.copy() for array in arrays)
    query[empty_queries] = junk
    key[unseen_keys] = junk
    value[unseen_keys] = junk
    return query, key, value


@pytest.mark.parametrize(
    ("dtype", "compute"), [("float32", None), ("float32", "bfloat16"), ("bfloat16", None)]
)
@pytest.mark.parametrize("case", CASES)
def test_junk_in_padding_cannot_matter(case: str, dtype: str, compute: str | None) -> None:
    options, empty_queries, unseen_keys = CASES[case]
    compute = compute and jnp.dtype(compute)
    clean = run(draw(), options, dtype=dtype, compute=compute)
    for junk in (np.nan, np.inf, -np.inf, 1e30):
        spoiled = spoil(draw(), empty_queries, unseen_keys, junk)
        dirty = run(spoiled, options, dtype=dtype, compute=compute)
        assert_same(dirty, clean, f"{junk} in the padding: ")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("causal", [False, True])
def test_empty_rows_give_and_take_exactly_zero(case: str, causal: bool) -> None:
    options, empty_queries, unseen_keys = CASES[case]
    y, (query, key, value) = run(draw(), options, causal=causal)
    assert not np.any(y[empty_queries])
    assert not np.any(query[empty_queries])
    assert not np.any(key[unseen_keys])
    assert not np.any(value[unseen_keys])
    if case != "nothing visible" and not causal:
        assert np.all(np.any(y[~empty_queries] != 0, axis=(1, 2)))
        assert np.all(np.any(value[~unseen_keys] != 0, axis=(1, 2)))


@pytest.mark.parametrize("junk", [np.nan, np.inf])
def test_queries_before_the_first_key_are_padding(junk: float) -> None:
    # Causal is aligned bottom-right: with 4 queries and 3 keys the first query sees nothing.
    clean = run(draw(keys=3), {}, causal=True)
    assert not np.any(clean[0][:, 0])
    spoiled = draw(keys=3)
    spoiled[0][:, 0] = junk
    assert_same(run(spoiled, {}, causal=True), clean)


def test_junk_in_a_cache_beyond_what_is_written_cannot_matter() -> None:
    mask = {"mask": (np.arange(KEYS)[None, :] <= 1 + np.arange(QUERIES)[:, None])[None]}
    mask["mask"][..., -1] = False
    clean = run(draw(), mask)
    query, key, value = draw()
    key[:, -1] = value[:, -1] = np.nan
    assert_same(run((query, key, value), mask), clean)
