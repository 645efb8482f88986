"""Scores, softmax over the source and coverage against their twins; padding cannot matter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import DTYPES, assert_close, assert_same, check_parity

from jaxseq.ops import alignment
from jaxseq.reference import alignment as reference

BATCH, QUERIES, PLACES, SIZE = 3, 2, 4, 5
LENGTHS = np.array([4, 2, 0])
VISIBLE = np.arange(PLACES)[None] < LENGTHS[:, None]


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dot_scores_equal_twin(dtype: str) -> None:
    query, keys = draw(BATCH, QUERIES, SIZE), draw(BATCH, PLACES, SIZE)
    check_parity(alignment.dot_scores, reference.dot_scores, query, keys, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_additive_scores_equal_twin(dtype: str) -> None:
    query, keys = draw(BATCH, QUERIES, SIZE), draw(BATCH, PLACES, SIZE)
    check_parity(
        alignment.additive_scores, reference.additive_scores, query, keys, draw(SIZE), dtype=dtype
    )


def test_additive_scores_of_one_query_after_the_other_equal_those_at_once() -> None:
    """The form that CPUs get against the plain form that every other platform gets."""
    query, keys, v, dscores = (
        jnp.asarray(x, jnp.float32)
        for x in (draw(3, 7, SIZE), draw(3, 4, SIZE), draw(SIZE), draw(3, 7, 4))
    )
    for on_cpu, plain, arguments in [
        (alignment._additive_by_query, alignment._additive_at_once, (query, keys, v)),
        (
            alignment._additive_gradient_by_query,
            alignment._additive_gradient_at_once,
            (query, keys, v, dscores),
        ),
    ]:
        assert_close(jax.jit(on_cpu)(*arguments), jax.jit(plain)(*arguments), "float32")


def test_additive_scores_are_luongs_concat_with_the_kernel_cut_in_two() -> None:
    def cut_in_two(query, memory, kernel, v):
        size = query.shape[-1]
        return alignment.additive_scores(query @ kernel[:size], memory @ kernel[size:], v)

    check_parity(
        cut_in_two,
        reference.concat_scores,
        *(draw(BATCH, QUERIES, 3), draw(BATCH, PLACES, SIZE), draw(3 + SIZE, 6), draw(6)),
        dtype="float64",
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_attend_equals_twin(dtype: str) -> None:
    check_parity(
        lambda scores, values: alignment.attend(scores, values, jnp.asarray(VISIBLE)),
        lambda scores, values: reference.attend(scores, values, VISIBLE),
        3 * draw(BATCH, QUERIES, PLACES),
        draw(BATCH, PLACES, SIZE),
        dtype=dtype,
    )


def test_large_scores_do_not_overflow() -> None:
    scores = np.array([[[1e4, -1e4, 9e3, 0]]])
    values = draw(1, PLACES, SIZE)
    context, weights = alignment.attend(
        jnp.asarray(scores, jnp.float32), jnp.asarray(values, jnp.float32), jnp.ones((1, 4), bool)
    )
    assert_close(weights, np.array([[[1.0, 0, 0, 0]]]), "float32")
    assert_close(context, values[:, :1], "float32")


@pytest.mark.parametrize("taps", [1, 2, 5, 9])
def test_location_features_equal_twin(taps: int) -> None:
    check_parity(
        alignment.location_features,
        reference.location_features,
        draw(BATCH, PLACES),
        draw(taps, 3),
        dtype="float64" if taps == 5 else "float32",
    )


def test_coverage_loss_equals_twin() -> None:
    mask = np.array([[True, True, True], [True, False, False], [False, False, False]])
    weights = np.random.default_rng(0).random((3, 3, PLACES))
    check_parity(
        lambda weights: alignment.coverage_loss(weights, jnp.asarray(mask)),
        lambda weights: reference.coverage_loss(weights, mask),
        weights,
        dtype="float64",
    )


def test_coverage_costs_nothing_until_a_place_is_seen_again() -> None:
    weights = jnp.eye(3)[None, jnp.array([0, 1, 2, 1])]
    for steps, expected in [(3, 0.0), (4, 1.0)]:
        loss, weight = alignment.coverage_loss(weights[:, :steps], jnp.ones((1, steps), bool))
        assert (float(loss), float(weight)) == (expected, steps)


def test_coverage_loss_never_sees_weights_that_do_not_count() -> None:
    mask = jnp.array([[True, True, False]])
    weights = jnp.array([[[0.5, 0.5], [0.9, 0.1], [0.3, 0.7]]])

    def value_and_gradient(weights):
        return jax.value_and_grad(lambda w: alignment.coverage_loss(w, mask)[0])(weights)

    expected = value_and_gradient(weights)
    assert_same(value_and_gradient(weights.at[:, 2].set(jnp.nan)), expected)
    assert not np.any(expected[1][:, 2])


@jax.jit
def everything(query, keys, values, v):
    """Weights and contexts of both kinds of scores over padded memory, and all gradients."""

    def outputs(query, keys, values, v):
        visible = jnp.asarray(VISIBLE)
        keys = alignment.hide_padding(keys, visible)
        values = alignment.hide_padding(values, visible)
        scores = alignment.dot_scores(query, keys) + alignment.additive_scores(query, keys, v)
        return alignment.attend(scores, values, visible)

    value, pullback = jax.vjp(outputs, query, keys, values, v)
    return value, pullback(jax.tree.map(jnp.cos, value))


@pytest.mark.parametrize("junk", [jnp.nan, jnp.inf, -jnp.inf, 1e30])
def test_what_stands_in_the_padding_changes_nothing(junk: float) -> None:
    query, keys, values, v = (
        jnp.asarray(x, jnp.float32)
        for x in (draw(BATCH, QUERIES, SIZE), draw(BATCH, PLACES, SIZE), draw(3, 4, 5), draw(SIZE))
    )
    visible = jnp.asarray(VISIBLE)[..., None]
    expected = everything(query, jnp.where(visible, keys, 0), jnp.where(visible, values, 0), v)
    actual = everything(query, jnp.where(visible, keys, junk), jnp.where(visible, values, junk), v)
    assert_same(actual, expected)
    (context, weights), (dquery, dkeys, dvalues, _) = actual
    np.testing.assert_allclose(weights.sum(-1), np.repeat(LENGTHS[:, None] > 0, 2, 1), rtol=1e-6)
    # The last row sees nothing.
    for x in (context[2], weights[2], dquery[2], dkeys[~VISIBLE], dvalues[~VISIBLE]):
        assert not np.any(x)
