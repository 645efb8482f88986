"""Losses against their twins: (sum, weight) over the valid entries."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import DTYPES, assert_close, assert_same, check_parity

from jaxseq.ops.losses import softmax_cross_entropy
from jaxseq.reference import losses as reference


def draw_batch(shape=(2, 5), vocab=7, seed=0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2, size=(*shape, vocab))
    return logits, rng.integers(0, vocab, shape, np.int32), rng.random(shape) < 0.6


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((2, 5), dtype) for dtype in DTYPES] + [(shape, "float32") for shape in ((), (4,), (2, 0))],
)
def test_cross_entropy_equals_twin(shape: tuple[int, ...], dtype: str) -> None:
    logits, targets, mask = draw_batch(shape)
    if shape == ():
        mask = np.array(True)
    check_parity(
        lambda logits: softmax_cross_entropy(logits, jnp.asarray(targets), jnp.asarray(mask)),
        lambda logits: reference.softmax_cross_entropy(logits, targets, mask),
        logits,
        dtype=dtype,
    )


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_smoothed_cross_entropy_equals_twin(smoothing: float) -> None:
    logits, targets, mask = draw_batch()
    check_parity(
        lambda logits: softmax_cross_entropy(
            logits, jnp.asarray(targets), jnp.asarray(mask), smoothing
        ),
        lambda logits: reference.softmax_cross_entropy(logits, targets, mask, smoothing),
        logits,
        dtype="float64",
    )


LOSS_AND_GRADIENT = jax.jit(jax.value_and_grad(softmax_cross_entropy, has_aux=True))


def value_and_gradient(logits, targets, mask):
    (total, weight), gradient = LOSS_AND_GRADIENT(logits, targets, mask)
    return total, weight, gradient


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf])
def test_masked_entries_cannot_matter(dtype: str, junk: float) -> None:
    logits, targets, mask = draw_batch()
    clean = value_and_gradient(jnp.asarray(logits, dtype), targets, mask)
    logits[~mask] = junk
    for target in (-1, 7, 2**31 - 1, -(2**31)):
        targets[~mask] = target
        dirty = value_and_gradient(jnp.asarray(logits, dtype), targets, mask)
        assert_same(dirty, clean, f"target {target}")
    assert not np.any(clean[2][~mask])
    assert np.all(np.any(clean[2][mask] != 0, axis=-1))


def test_all_masked_is_zero_over_zero() -> None:
    logits, targets, mask = draw_batch()
    total, weight, gradient = value_and_gradient(
        np.full_like(logits, np.nan, np.float32), targets, np.zeros_like(mask)
    )
    assert (total, weight) == (0, 0)
    assert not np.any(gradient)


def test_large_logits_are_finite() -> None:
    logits = np.array([[3e38, -3e38], [0.0, 0.0]], np.float32)
    total, _, gradient = value_and_gradient(logits, np.zeros(2, np.int32), np.ones(2, bool))
    np.testing.assert_allclose(total, np.log(2), rtol=1e-6)
    np.testing.assert_array_equal(gradient, [[0, 0], [-0.5, 0.5]])


def test_a_valid_target_outside_the_vocabulary_is_seen() -> None:
    logits, targets, _ = draw_batch()
    targets[0, 0] = 7
    total, _ = softmax_cross_entropy(
        jnp.asarray(logits, jnp.float32), jnp.asarray(targets), jnp.ones((2, 5), bool)
    )
    assert np.isnan(total)


def test_bfloat16_logits_are_summed_in_float32() -> None:
    total, weight = softmax_cross_entropy(
        jnp.zeros((1000, 2), jnp.bfloat16), jnp.zeros(1000, jnp.int32), jnp.ones(1000, bool)
    )
    assert total.dtype == weight.dtype == jnp.float32
    np.testing.assert_allclose(total, 1000 * np.log(2), rtol=1e-5)
    assert weight == 1000


def test_parts_of_a_batch_add_up() -> None:
    logits, targets, mask = draw_batch((8, 3))
    loss = jax.jit(softmax_cross_entropy)
    with jax.enable_x64(True):
        whole = loss(logits, targets, mask)
        edges = [0, 1, 4, 4, 8]
        parts = [
            [float(x) for x in loss(logits[a:b], targets[a:b], mask[a:b])]
            for a, b in pairwise(edges)
        ]
    assert_close(tuple(map(sum, zip(*parts, strict=True))), whole, "float64")
