"""Forced alignment against the best of all paths, and its twin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_same

from jaxseq.ops.ctc_alignment import ctc_forced_alignment
from jaxseq.reference import ctc as reference

FRAMES = np.array([6, 4, 3, 5, 0, 0])
LABELS = np.array([[2, 2, 1], [1, 1, 2], [1, 1, 2], [0, 0, 0], [0, 0, 0], [1, 0, 0]])
COUNTS = np.array([3, 3, 3, 0, 0, 1])

align = jax.jit(ctc_forced_alignment)


def random_log_probs() -> np.ndarray:
    logits = 2 * np.random.default_rng(0).normal(size=(6, 6, 3)).astype(np.float32)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_finds_the_best_of_all_paths() -> None:
    log_probs = random_log_probs()
    numbers, scores = map(np.asarray, align(*map(jnp.asarray, (log_probs, FRAMES, LABELS, COUNTS))))
    expected_numbers, expected_scores = reference.ctc_forced_alignment(
        log_probs.astype(np.float64), FRAMES, LABELS, COUNTS
    )
    np.testing.assert_array_equal(numbers, expected_numbers)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-6)
    for b in [0, 1, 3]:
        row = log_probs[b, : FRAMES[b]]
        labels = tuple(LABELS[b, : COUNTS[b]].tolist())
        assert scores[b] == pytest.approx(reference.best_paths(row, 0)[labels], rel=1e-6)
        path = np.where(numbers[b] < 0, 0, LABELS[b][numbers[b]])[: FRAMES[b]]
        assert reference.labels_of(tuple(path.tolist()), 0) == labels
        along = row[np.arange(len(path)), path].sum()
        assert scores[b] == pytest.approx(along, rel=1e-6)
    assert scores[4] == 0  # no label in no frame
    assert np.all(np.isneginf(scores[[2, 5]]))
    assert np.all(numbers[[2, 4, 5]] == -1)


def test_padding_is_not_looked_at() -> None:
    log_probs, labels = random_log_probs(), LABELS.copy()
    clean = align(*map(jnp.asarray, (log_probs, FRAMES, LABELS, COUNTS)))
    for b in range(6):
        log_probs[b, FRAMES[b] :] = [np.nan, np.inf][b % 2]
        labels[b, COUNTS[b] :] = -7
    dirty = align(*map(jnp.asarray, (log_probs, FRAMES, labels, COUNTS)))
    assert_same(dirty[0], clean[0])
    np.testing.assert_array_equal(dirty[1], clean[1])


def test_blank_out_of_range_is_named() -> None:
    with pytest.raises(ValueError, match=r"blank is -1; it must be one of 0 \.\.\. 2"):
        ctc_forced_alignment(
            *map(jnp.asarray, (random_log_probs(), FRAMES, LABELS, COUNTS)), blank=-1
        )
