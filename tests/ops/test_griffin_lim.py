"""Griffin-Lim against its twin and librosa, and what comes of padding."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close, assert_same

from jaxseq.ops.griffin_lim import griffin_lim
from jaxseq.ops.spectral import FrontEnd, magnitude, stft
from jaxseq.reference import spectral as reference

SMALL = FrontEnd(rate=4000, window=8, hop=3, fft_size=12, num_mels=3)
LENGTHS = np.array([5, 3, 1, 0])

run = jax.jit(griffin_lim, static_argnames=("front_end", "steps", "momentum"))


def magnitudes_of(*shape: int) -> np.ndarray:
    return np.abs(np.random.default_rng(sum(shape)).normal(size=shape))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_equals_twin(dtype: str) -> None:
    magnitudes = magnitudes_of(4, 5, SMALL.num_bins)
    with jax.enable_x64(dtype == "float64"):
        # Of more steps the rounding of float32 makes other, as good phases.
        steps = 6 if dtype == "float64" else 2
        found, counts = run(jnp.asarray(magnitudes, dtype), LENGTHS, SMALL, steps, 0.5)
    assert found.dtype == dtype
    np.testing.assert_array_equal(counts, [12, 6, 0, 0])
    expected = reference.griffin_lim(magnitudes, LENGTHS, SMALL, steps, 0.5)
    assert_close(found, expected, dtype)


def test_padding_cannot_matter() -> None:
    magnitudes = magnitudes_of(4, 5, SMALL.num_bins).astype(np.float32)
    there = (np.arange(5)[None] < LENGTHS[:, None])[:, :, None]
    clean = run(np.where(there, magnitudes, 0), LENGTHS, SMALL, 4)
    assert_same(run(np.where(there, magnitudes, np.nan), LENGTHS, SMALL, 4), clean)
    alone, _ = run(magnitudes[1:2, :3], LENGTHS[1:2], SMALL, 4)
    assert_close(clean[0][1:2, :6], alone, "float32")
    assert run(magnitudes[:, :1], np.array([1, 1, 1, 0]), SMALL)[0].shape == (4, 0)


def test_phases_come_to_fit_the_magnitudes() -> None:
    """The defaults leave less than a tenth of a chirp's spectrum unexplained, no steps the most."""
    front_end = FrontEnd()
    time = np.arange(2400) / front_end.rate
    chirp = np.sin(2 * np.pi * (300 * time + 2000 * time**2))[None].astype(np.float32)

    @partial(jax.jit, static_argnames=("steps",))
    def unexplained(chirp, lengths, steps):
        spectrum, frames = stft(chirp, lengths, front_end)
        wanted = magnitude(spectrum)
        samples, lengths = griffin_lim(wanted, frames, front_end, steps)
        found = magnitude(stft(samples, lengths, front_end)[0])
        return jnp.linalg.norm(found - wanted) / jnp.linalg.norm(wanted)

    lengths = np.array([2400])
    assert float(unexplained(chirp, lengths, 32)) < 0.1 < float(unexplained(chirp, lengths, 0))


def test_steps_are_librosas() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own dependencies' deprecations
        librosa = pytest.importorskip("librosa", reason="librosa is not installed")
    front_end = FrontEnd(window=32, hop=8, fft_size=40)
    magnitudes = magnitudes_of(1, 20, front_end.num_bins)
    with jax.enable_x64(True):
        found, _ = run(jnp.asarray(magnitudes), np.array([20]), front_end, 3)
    expected = librosa.griffinlim(
        magnitudes[0].T,
        n_iter=3,
        n_fft=40,
        hop_length=8,
        win_length=32,
        momentum=0.99,
        init=None,
        pad_mode="reflect",
        dtype=np.float64,
    )
    np.testing.assert_allclose(found[0], expected, atol=1e-4)
