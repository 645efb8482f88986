"""Durations of tokens, and frames repeated accordingly: against their twins and over padding."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import check_parity, random_params

from jaxseq.nn.length_regulator import (
    DurationPredictor,
    frame_alignment,
    places_in_tokens,
    regulate_length,
    whole_durations,
)
from jaxseq.reference import length_regulator as twin

# The last row's tokens last longer than the frames that there is room for.
DURATIONS = np.array([[2, 0, 3], [1, 2, 0], [0, 0, 0], [3, 4, 2]])
X = np.random.default_rng(0).normal(size=(4, 3, 2))
LENGTHS = np.array([3, 2, 0, 3])


def test_predictor_equals_twin_and_sees_no_padding() -> None:
    layer = DurationPredictor(8)
    junk = jnp.where(np.arange(3)[None, :, None] < LENGTHS[:, None, None], 0, jnp.nan)
    params = random_params(layer, jnp.asarray(X))
    check_parity(
        lambda params, x: layer.apply({"params": params}, x + junk, jnp.asarray(LENGTHS)),
        lambda params, x: twin.duration_predictor(params, x, LENGTHS),
        params,
        X,
        dtype="float64",
    )


@partial(jax.jit, static_argnums=1)
def frames_of(x, num_frames):
    durations = jnp.asarray(DURATIONS)
    return (
        *regulate_length(x, durations, num_frames),
        frame_alignment(durations, num_frames),
        *places_in_tokens(durations, num_frames),
    )


@pytest.mark.parametrize("num_frames", [6, 3])
def test_repeated_tokens_equal_twin(num_frames: int) -> None:
    shown = np.float32(np.where(DURATIONS[..., None] > 0, X, 0))
    expected = (
        *twin.regulate_length(shown, DURATIONS, num_frames),
        twin.frame_alignment(DURATIONS, num_frames),
        *twin.places_in_tokens(DURATIONS, num_frames),
    )
    # Copies are exact, and nothing is taken from tokens that last no frame.
    hidden = jnp.float32(np.where(DURATIONS[..., None] > 0, X, np.nan))
    for actual, exact in zip(frames_of(hidden, num_frames), expected, strict=True):
        np.testing.assert_array_equal(actual, exact)


def test_gradient_counts_the_frames_of_a_token() -> None:
    durations = jnp.asarray(DURATIONS)
    x = jnp.float32(np.where(DURATIONS[..., None] > 0, X, np.nan))
    gradient = jax.jit(jax.grad(lambda x: regulate_length(x, durations, 6)[0].sum()))(x)
    counts = twin.frame_alignment(DURATIONS, 6).sum(axis=1)
    np.testing.assert_array_equal(gradient, np.repeat(counts[..., None], 2, axis=2))


def test_whole_durations_are_in_range_whatever_is_predicted() -> None:
    logs = np.array([[-3.0, np.log1p(2.4), np.log1p(2.6)], [90.0, 0.2, np.nan], [1.0, np.inf, 5.0]])
    lengths = np.array([3, 2, 1])
    whole = jax.jit(whole_durations, static_argnums=2)(jnp.float32(logs), jnp.asarray(lengths), 7)
    np.testing.assert_array_equal(whole, [[1, 2, 3], [7, 1, 0], [2, 0, 0]])
    np.testing.assert_array_equal(whole, twin.whole_durations(logs, lengths, 7))
