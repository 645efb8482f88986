"""SpecAugment hides what it says, in every row something else, and nothing of the padding."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from compare import assert_same

from jaxseq.ops.spec_augment import spec_augment

FRAMES, MELS = 12, 6
LENGTHS = np.array([12, 5, 1, 0] * 64)
THERE = np.broadcast_to(
    (np.arange(FRAMES)[None] < LENGTHS[:, None])[:, :, None], (len(LENGTHS), FRAMES, MELS)
)
MASKS = {"time_masks": 1, "time_width": 3, "mel_masks": 2, "mel_width": 2}


@partial(jax.jit, static_argnames=tuple(MASKS))
def augment(features, key, **masks):
    return spec_augment(features, jnp.asarray(LENGTHS), key, **masks)


def spans(**masks: int) -> tuple[np.ndarray, np.ndarray]:
    """(frames, bands) that are hidden in each row; of features 1 and -1, whose mean is 0."""
    signs = np.where(np.arange(MELS) % 2, -1, 1)[None, None]
    features = np.where(THERE, signs, 7).astype(np.float32)
    found = np.asarray(augment(features, jax.random.key(3), **masks))
    hidden = found != features
    assert not hidden[~THERE].any()
    assert not found[hidden].any()
    frames = hidden.all(axis=2)  # no more than four of six bands are hidden by themselves
    bands = (hidden & ~frames[:, :, None]).any(axis=1)
    assert (hidden == (frames[:, :, None] | bands[:, None, :]) & THERE).all()
    return frames, bands


def test_spans_are_of_every_width_at_every_place() -> None:
    frames, bands = spans(**MASKS)
    for length in (12, 5, 1):
        rows = frames[length == LENGTHS]
        assert set(rows.sum(axis=1).tolist()) == set(range(min(3, length) + 1))
        assert rows[:, :length].any(axis=0).all()
        steps = np.diff(rows.astype(int), axis=1, prepend=0, append=0)
        assert (np.count_nonzero(steps, axis=1) <= 2).all()  # a span has no gap
    rows = bands[LENGTHS > 3]
    assert set(rows.sum(axis=1).tolist()) == set(range(5))
    assert rows.any(axis=0).all()


def test_nothing_is_hidden_where_nothing_is_asked() -> None:
    frames, bands = spans(time_masks=0, time_width=9, mel_masks=2, mel_width=0)
    assert not frames.any()
    assert not bands.any()


def test_in_a_span_stands_the_mean_of_the_row_whatever_is_in_the_padding() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.normal(2, 1, size=THERE.shape).astype(np.float32)
    key = jax.random.key(0)
    found = np.asarray(augment(np.where(THERE, drawn, 0), key, **MASKS))
    junk = np.asarray(augment(np.where(THERE, drawn, np.nan), key, **MASKS))
    assert_same(np.where(THERE, junk, 0), found)
    changed = (found != drawn) & THERE
    assert changed.any(axis=(1, 2))[LENGTHS > 0].mean() > 0.7
    for row in np.flatnonzero(LENGTHS):
        expected = drawn[row, : LENGTHS[row]].mean()
        np.testing.assert_allclose(found[row][changed[row]], expected, rtol=1e-5)
