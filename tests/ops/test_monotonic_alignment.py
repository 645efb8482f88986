"""Monotonic alignments against the list of all of them, and against their twins."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import DTYPES, assert_close, assert_same, check_parity

from jaxseq.ops.monotonic_alignment import (
    diagonal_prior,
    forward_sum_loss,
    monotonic_alignment_search,
)
from jaxseq.reference import monotonic_alignment as reference

# Enough frames, one per token, too few, one token, no frame, no token.
FRAMES = np.array([7, 4, 3, 5, 0, 6])
TOKENS = np.array([4, 4, 4, 1, 2, 0])


def random_scores() -> np.ndarray:
    return 2 * np.random.default_rng(0).normal(size=(6, 7, 4))


search = jax.jit(monotonic_alignment_search)


@jax.jit
def losses_and_gradient(log_probs, frames, tokens):
    losses, pullback = jax.vjp(lambda x: forward_sum_loss(x, frames, tokens), log_probs)
    return losses, pullback(jnp.ones_like(losses))[0]


def arrays(*each) -> list:
    return [jnp.asarray(x, jnp.float32 if np.asarray(x).ndim > 1 else jnp.int32) for x in each]


def test_search_finds_the_best_of_all_alignments() -> None:
    scores = random_scores()
    durations = search(*arrays(scores, FRAMES, TOKENS))
    for b in [0, 1, 3]:
        every = reference.alignments(int(FRAMES[b]), int(TOKENS[b]))
        best = max(every, key=lambda path: sum(scores[b, t, s] for t, s in enumerate(path)))
        np.testing.assert_array_equal(durations[b], np.bincount(best, minlength=4))
    np.testing.assert_array_equal(durations[2], [1, 1, 1, 0])
    assert not np.any(durations[4:])
    np.testing.assert_array_equal(
        durations, reference.monotonic_alignment_search(scores, FRAMES, TOKENS)
    )


def test_search_among_equals_and_around_what_is_excluded() -> None:
    """Every token has a frame and every frame a token, whatever the scores."""
    scores = np.zeros((6, 7, 4))
    durations = search(*arrays(scores, FRAMES, TOKENS))
    np.testing.assert_array_equal(
        durations, reference.monotonic_alignment_search(scores, FRAMES, TOKENS)
    )
    np.testing.assert_array_equal(durations[0], [1, 1, 1, 4])  # goes on as early as it can
    scores[0, :, 1] = -np.inf
    scores[0, 5, 3] = -np.inf
    scores[1] = -np.inf
    durations = search(*arrays(scores, FRAMES, TOKENS))
    assert durations[0, 1] == 1
    np.testing.assert_array_equal(np.sum(durations, axis=1), [7, 4, 3, 5, 0, 0])
    assert np.all(np.asarray(durations[:2]) >= 1)


def test_loss_is_the_sum_over_all_alignments() -> None:
    log_probs = random_scores().astype(np.float32)
    losses, gradient = losses_and_gradient(*arrays(log_probs, FRAMES, TOKENS))
    for b in [0, 1, 3]:
        every = reference.alignments(int(FRAMES[b]), int(TOKENS[b]))
        scores = [sum(log_probs[b, t, s] for t, s in enumerate(path)) for path in every]
        log_z = np.logaddexp.reduce(np.asarray(scores, np.float64))
        assert_close(losses[b], -log_z, "float32")
        shares = np.zeros((7, 4))
        for path, score in zip(every, scores, strict=True):
            shares[np.arange(len(path)), path] += np.exp(score - log_z)
        assert_close(gradient[b], -shares, "float32")
    for b in [2, 4, 5]:  # there is none
        assert losses[b] == 0
        assert not np.any(gradient[b])


@pytest.mark.parametrize("dtype", DTYPES)
def test_loss_equals_twin(dtype: str) -> None:
    check_parity(
        lambda x: forward_sum_loss(x, jnp.asarray(FRAMES), jnp.asarray(TOKENS)),
        lambda x: reference.forward_sum_loss(x, FRAMES, TOKENS),
        random_scores(),
        dtype=dtype,
    )


def test_padding_is_not_looked_at() -> None:
    log_probs = random_scores()
    clean = [*losses_and_gradient(*arrays(log_probs, FRAMES, TOKENS))]
    clean.append(search(*arrays(log_probs, FRAMES, TOKENS)))
    for b, junk in enumerate([np.nan, np.inf, -np.inf, np.nan, np.inf, np.nan]):
        log_probs[b, FRAMES[b] :] = junk
        log_probs[b, :, TOKENS[b] :] = junk
    dirty = [*losses_and_gradient(*arrays(log_probs, FRAMES, TOKENS))]
    dirty.append(search(*arrays(log_probs, FRAMES, TOKENS)))
    assert_same(dirty, clean)


def test_scores_of_any_size_and_excluded_tokens() -> None:
    log_probs = random_scores() * 1000 - 5000
    log_probs[1, 2, 2] = -np.inf  # on the only alignment of the row
    log_probs[3, 1, 0] = np.nan
    losses, gradient = losses_and_gradient(*arrays(log_probs, FRAMES, TOKENS))
    expected = reference.forward_sum_loss(log_probs[:1], FRAMES, TOKENS[:1])
    np.testing.assert_allclose(losses[:1], expected, rtol=1e-6)
    assert losses[1] == 0
    assert np.isnan(losses[3])
    assert np.all(np.isfinite(gradient[:3]))


def test_diagonal_prior_equals_twin_and_adds_up_to_one() -> None:
    prior = jax.jit(diagonal_prior, static_argnums=(2, 3, 4))(*arrays(FRAMES, TOKENS), 7, 4, 0.7)
    expected = reference.diagonal_prior(FRAMES, TOKENS, 7, 4, 0.7)
    assert_close(prior, expected, "float32")
    np.testing.assert_allclose(np.exp(expected[:2][expected[:2].all(-1)]).sum(-1), 1)
    assert np.argmax(expected[0, 0]) == 0
    assert np.argmax(expected[0, -1]) == 3
