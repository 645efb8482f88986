"""Spectra, mel features and what is made of them: twins, librosa, padding, devices."""

import dataclasses
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import DTYPES, assert_close, assert_same, check_parity
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxseq.ops import spectral
from jaxseq.ops.spectral import FrontEnd
from jaxseq.reference import spectral as reference

SMALL = FrontEnd(rate=4000, window=8, hop=3, fft_size=12, num_mels=3, low=100.0)
LENGTHS = np.array([13, 7, 1, 0, 2])


def waves(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape)


def parts(spectrum):
    return spectrum.real, spectrum.imag


# --- Twins ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_mel_equals_twin(dtype: str) -> None:
    def features(samples):
        return spectral.log_mel(samples, jnp.asarray(LENGTHS), SMALL)[0]

    def twin(samples):
        return reference.log_mel(samples, LENGTHS, SMALL)

    check_parity(features, twin, waves(5, 13), dtype=dtype)


@pytest.mark.parametrize(
    "front_end",
    [SMALL, FrontEnd(window=5, hop=5, fft_size=10), FrontEnd(window=7, hop=2, fft_size=8)],
    ids=["even", "odd, no overlap", "odd"],
)
def test_stft_and_istft_equal_twins(front_end: FrontEnd) -> None:
    def there(samples):
        return parts(spectral.stft(samples, jnp.asarray(LENGTHS), front_end)[0])

    def back(real, imaginary):
        spectrum = jax.lax.complex(real, imaginary)
        return spectral.istft(spectrum, jnp.asarray([4, 3, 1, 0]), front_end)[0]

    def back_twin(real, imaginary):
        return reference.istft(real + 1j * imaginary, np.array([4, 3, 1, 0]), front_end)

    there_twin = partial(reference.stft, lengths=LENGTHS, front_end=front_end)
    check_parity(there, lambda x: parts(there_twin(x)), waves(5, 13), dtype="float64")
    real, imaginary = waves(2, 4, 4, front_end.num_bins)
    check_parity(back, back_twin, real, imaginary, dtype="float64")


@pytest.mark.parametrize("dtype", DTYPES)
def test_deltas_equal_twin(dtype: str) -> None:
    lengths = np.array([6, 3, 1, 0])
    ours = partial(spectral.deltas, lengths=jnp.asarray(lengths))
    twin = partial(reference.deltas, lengths=lengths)
    check_parity(ours, twin, waves(4, 6, 2), dtype=dtype)


def test_cepstra_and_magnitudes_equal_twins() -> None:
    check_parity(
        partial(spectral.mel_cepstra, count=4),
        partial(reference.mel_cepstra, count=4),
        waves(2, 3, 5),
        dtype="float64",
    )
    check_parity(
        partial(spectral.mel_to_magnitudes, front_end=SMALL, steps=3),
        partial(reference.mel_to_magnitudes, front_end=SMALL, steps=3),
        waves(2, 3, 3),
        dtype="float64",
    )


@jax.jit
def everything(samples, lengths, cotangent):
    """Features, slopes, frames, and the gradient of the samples."""

    def run(samples):
        features, frames = spectral.log_mel(samples, lengths, SMALL)
        return (features, spectral.deltas(features, frames)), frames

    outputs, pullback, frames = jax.vjp(run, samples, has_aux=True)
    return outputs, frames, pullback((cotangent, cotangent))[0]


# --- What they are --------------------------------------------------------------------------------


def test_istft_of_stft_is_the_waveform() -> None:
    samples, lengths = waves(3, 30).astype(np.float32), jnp.asarray([30, 20, 2])

    @jax.jit
    def there_and_back(samples, lengths):
        return spectral.istft(*spectral.stft(samples, lengths, SMALL), SMALL)

    back, counts = there_and_back(samples, lengths)
    np.testing.assert_array_equal(counts, [30, 18, 0])
    expected = np.where(np.arange(30)[None] < np.asarray(counts)[:, None], samples, 0)
    assert_close(back, expected, "float32")


def test_all_cepstra_make_the_features_again() -> None:
    features = waves(2, 3, 5)
    cepstra = np.asarray(spectral.mel_cepstra(jnp.asarray(features), count=5), np.float64)
    waves_of = np.cos(np.pi * np.arange(5)[:, None] * (np.arange(5)[None] + 0.5) / 5)
    assert_close(cepstra @ waves_of, features, "float32")


def test_magnitudes_of_log_mels_have_these_log_mels() -> None:
    front_end = FrontEnd()
    samples = 0.1 * waves(1, 2000).astype(np.float32)

    @jax.jit
    def there_and_back(samples, lengths):
        features, _ = spectral.log_mel(samples, lengths, front_end)
        return features, spectral.mel_to_magnitudes(features, front_end)

    features, magnitudes = there_and_back(samples, jnp.asarray([2000]))
    assert float(magnitudes.min()) >= 0
    again = np.log(np.asarray(magnitudes) @ spectral.mel_filters(front_end))
    assert np.abs(again - np.asarray(features)).max() < 0.05


def test_silence_is_the_floor_and_its_gradient_zero() -> None:
    cotangent = np.ones((5, 5, 3), np.float32)
    (features, slopes), _, gradient = everything(np.zeros((5, 13), np.float32), LENGTHS, cotangent)
    np.testing.assert_allclose(features[0], np.log(SMALL.floor), rtol=1e-6)
    assert_same(
        (slopes, gradient), (np.zeros((5, 5, 3), np.float32), np.zeros((5, 13), np.float32))
    )


# --- Padding and devices --------------------------------------------------------------------------


def test_padding_cannot_matter() -> None:
    log_mel = jax.jit(partial(spectral.log_mel, front_end=SMALL))
    samples = waves(5, 13).astype(np.float32)
    cotangent = waves(5, 5, 3).astype(np.float32)
    there = np.arange(13)[None] < LENGTHS[:, None]
    lengths = jnp.asarray(LENGTHS)
    clean = everything(np.where(there, samples, 0), lengths, cotangent)
    for junk in (np.nan, np.inf, 7.0):
        found = everything(np.where(there, samples, np.float32(junk)), lengths, cotangent)
        assert_same(found, clean)
    (features, _), frames, gradient = clean
    np.testing.assert_array_equal(frames, [5, 3, 1, 0, 1])
    assert [SMALL.num_frames(n) for n in LENGTHS.tolist()] == frames.tolist()
    assert not np.asarray(gradient)[~there].any()
    alone, _ = log_mel(samples[1:2, :7], lengths[1:2])
    assert_same(features[1:2, :3], alone)
    nothing, frames = log_mel(jnp.zeros((2, 0)), jnp.zeros(2, int))
    assert_same((nothing, frames), (np.zeros((2, 1, 3), np.float32), np.zeros(2, np.int32)))


def test_junk_frames_reach_no_slope_and_no_sample() -> None:
    frames, lengths = waves(2, 5, 7).astype(np.float32), jnp.asarray([3, 0])
    junk = np.where(np.arange(5)[None, :, None] < np.array([3, 0])[:, None, None], frames, np.nan)

    def run(x):
        spectrum = jax.lax.complex(x, x)
        return spectral.deltas(x, lengths), spectral.istft(spectrum, lengths, SMALL)[0]

    @jax.jit
    def value_and_gradient(x):
        value, pullback = jax.vjp(run, x)
        return value, pullback(jax.tree.map(jnp.ones_like, value))

    value, (gradient,) = value_and_gradient(junk)
    expected, (slope,) = value_and_gradient(frames)
    assert_same(value, expected)
    assert_same(gradient, slope)


def test_rows_divided_among_devices_stay_where_they_are() -> None:
    mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,))
    samples, lengths = waves(8, 13).astype(np.float32), np.array([13, 7, 1, 0, 2, 13, 5, 9])
    cotangent = waves(8, 5, 3).astype(np.float32)
    expected = everything(samples, lengths, cotangent)
    with jax.set_mesh(mesh):
        rows = NamedSharding(mesh, PartitionSpec("data"))
        inputs = jax.device_put((samples, lengths, cotangent), rows)
        program = everything.lower(*inputs).compile()
        assert_close(program(*inputs), expected, "float32")
    text = program.as_text()
    assert "all-gather" not in text
    assert "all-reduce" not in text


# --- librosa --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def librosa():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own dependencies' deprecations
        return pytest.importorskip("librosa", reason="librosa is not installed")


SPEECH = FrontEnd(rate=16000, window=400, hop=160, fft_size=512, num_mels=64, low=60.0, high=7600.0)


def test_filters_are_librosas(librosa) -> None:
    shape = {"sr": 16000, "n_fft": 512, "n_mels": 64, "fmin": 60, "fmax": 7600}
    for scale in ("slaney", "htk"):
        for norm in ("slaney", None):
            expected = librosa.filters.mel(**shape, htk=scale == "htk", norm=norm)
            ours = spectral.mel_filters(SPEECH, scale=scale, norm=norm)
            np.testing.assert_allclose(ours, expected.T, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("front_end", [FrontEnd(), SPEECH], ids=["8 kHz", "16 kHz"])
def test_features_are_librosas(librosa, front_end) -> None:
    lengths = np.array([4000, 1111])
    samples = 0.3 * waves(2, 4000).astype(np.float32)

    @jax.jit
    def ours(samples, lengths):
        features, frames = spectral.log_mel(samples, lengths, front_end)
        more = spectral.deltas(features, frames), spectral.mel_cepstra(features)
        return spectral.stft(samples, lengths, front_end)[0], features, *more, frames

    spectrum, features, slopes, cepstra, frames = map(np.asarray, ours(samples, lengths))
    power = np.square(np.abs(spectrum)) @ spectral.mel_filters(front_end, scale="htk", norm=None)
    shape = {
        "n_fft": front_end.fft_size,
        "hop_length": front_end.hop,
        "win_length": front_end.window,
        "pad_mode": "reflect",
    }
    mel = {
        "sr": front_end.rate,
        "n_mels": front_end.num_mels,
        "fmin": front_end.low,
        "fmax": front_end.highest,
    }
    for row, n in enumerate(lengths):
        samples_of = samples[row, :n]
        count = int(frames[row])
        assert count == front_end.num_frames(int(n))
        theirs = librosa.stft(samples_of, **shape)
        np.testing.assert_allclose(spectrum[row, :count], theirs.T, atol=1e-4)
        mels = librosa.feature.melspectrogram(y=samples_of, power=1.0, **shape, **mel)
        logs = np.log(np.maximum(mels, front_end.floor))
        np.testing.assert_allclose(features[row, :count], logs.T, atol=1e-4)
        htk = librosa.feature.melspectrogram(
            y=samples_of, power=2.0, htk=True, norm=None, **shape, **mel
        )
        np.testing.assert_allclose(power[row, :count], htk.T, rtol=1e-4, atol=1e-4)
        deltas = librosa.feature.delta(logs, width=5, mode="nearest")
        np.testing.assert_allclose(slopes[row, :count], deltas.T, atol=1e-4)
        orthonormal = librosa.feature.mfcc(S=logs, n_mfcc=13)
        scaled = np.asarray(cepstra[row, :count]) * np.sqrt(front_end.num_mels / 2)
        scaled[:, 0] *= np.sqrt(2)
        np.testing.assert_allclose(scaled, orthonormal.T, atol=1e-4)


# --- Mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"rate": 0},
        {"hop": 0},
        {"hop": 201},
        {"fft_size": 128},
        {"fft_size": 257},
        {"low": 4000.0},
        {"high": 4001.0},
        {"floor": 0.0},
        {"num_mels": 0},
        {"num_mels": 200},
    ],
    ids=str,
)
def test_a_front_end_that_computes_nothing_is_refused(changes) -> None:
    FrontEnd().check()
    with pytest.raises(ValueError, match=next(iter(changes))):
        dataclasses.replace(FrontEnd(), **changes).check()
