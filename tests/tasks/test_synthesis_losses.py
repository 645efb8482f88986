"""What models that speak are trained on, against the equations and against all alignments."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from jaxseq.models import attention_tts, duration_tts
from jaxseq.tasks.synthesis_losses import Targets, attention_losses, duration_losses

FRAMES, TOKENS = (5, 3, 0), (3, 2, 0)
"""Of three rows, the last a filler; arrays have 6 frames, 4 tokens and 2 mels."""

rng = np.random.default_rng(0)
REAL, BEFORE, AFTER = rng.normal(size=(3, 3, 6, 2))
STOPS = rng.normal(size=(3, 6))
LOOKS = rng.dirichlet(np.ones(4), size=(3, 6))
LOG_DURATIONS = rng.normal(size=(3, 4))
DURATIONS = np.array([[1, 3, 1, 0], [2, 1, 0, 0], [0, 0, 0, 0]])


def junk(array: np.ndarray, *lengths: tuple[int, ...]) -> jax.Array:
    """The array with NaN in its padding."""
    array = array.copy()
    for row, sizes in enumerate(zip(*lengths, strict=True)):
        for axis, size in enumerate(sizes):
            array[(row, *[slice(None)] * axis, slice(size, None))] = np.nan
    return jnp.asarray(array, jnp.float32)


def targets() -> Targets:
    return Targets(junk(REAL, FRAMES), jnp.array(FRAMES), jnp.array(TOKENS))


def error(spoken: np.ndarray, row: int) -> float:
    return sum(np.mean(np.abs(spoken[row, t] - REAL[row, t])) for t in range(FRAMES[row]))


def check(losses, arrays, expected):
    """The losses are those expected, and NaN in the padding reaches no gradient."""

    def total(arrays):
        found = losses(*arrays)
        return found.sum(), found

    (_, found), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(arrays)
    np.testing.assert_allclose(found, expected, rtol=2e-6)
    assert found[2] == 0
    for array in gradient:
        assert np.isfinite(array).all()
        assert np.any(np.asarray(array)[1])
        assert not np.any(np.asarray(array)[2])


def test_losses_of_frames_told_one_after_the_other():
    def of(row):
        frames, tokens = FRAMES[row], TOKENS[row]
        total = error(BEFORE, row) + error(AFTER, row)
        for t in range(frames):
            stops = 1 / (1 + np.exp(-STOPS[row, t]))
            total -= 7 * np.log(stops) if t == frames - 1 else np.log(1 - stops)
            for s in range(tokens):
                off = (s + 0.5) / tokens - (t + 0.5) / frames
                total += 3 * LOOKS[row, t, s] * (1 - np.exp(-(off**2) / (2 * 0.2**2)))
        return total

    def losses(*arrays):
        predicted = attention_tts.Predicted(*arrays)
        return attention_losses(predicted, targets(), guide=3.0, stop_weight=7.0)

    frames = [junk(array, FRAMES) for array in (BEFORE, AFTER, STOPS)]
    check(losses, [*frames, junk(LOOKS, FRAMES, TOKENS)], [of(0), of(1), 0])


def test_losses_of_frames_told_at_once():
    def of(row):
        frames, tokens = FRAMES[row], TOKENS[row]
        total = error(AFTER, row)
        for s in range(tokens):
            total += 3 * (LOG_DURATIONS[row, s] - np.log(1 + DURATIONS[row, s])) ** 2
        every = 0.0
        for cuts in itertools.combinations(range(1, frames), tokens - 1):
            path = [sum(t >= cut for cut in cuts) for t in range(frames)]
            every += np.prod([LOOKS[row, t, s] for t, s in enumerate(path)])
        best = np.repeat(np.arange(4), DURATIONS[row])
        sure = sum(np.log(LOOKS[row, t, s]) for t, s in enumerate(best))
        return total + 0.5 * (-np.log(every) - sure)

    def losses(log_mels, log_durations, soft):
        predicted = duration_tts.Predicted(log_mels, log_durations, jnp.asarray(DURATIONS), soft)
        return duration_losses(predicted, targets(), duration_weight=3.0, align_weight=0.5)

    arrays = (
        junk(AFTER, FRAMES),
        junk(LOG_DURATIONS, TOKENS),
        junk(np.log(LOOKS), FRAMES, TOKENS),
    )
    check(losses, arrays, [of(0), of(1), 0])
