"""From waveforms to log-mel features and back: Fourier transforms of windows, and mel filters.

Frames are centred, as librosa's: frame t stands around sample t hop, and a row of n samples has
1 + n // hop of them, one without samples none. What a window sees beyond either end of a row is the
row reflected there, so that a row gives the same frames alone and in a padded batch.
"""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseq.ops.fourier import fourier, inverse_fourier, product, room
from jaxseq.ops.padding import valid_steps, zero_padding
from jaxseq.ops.precision import accumulator
from jaxseq.typing import Array, Complex, Float, Int

Scale = Literal["slaney", "htk"]
"""Slaney's mels are linear below 1000 Hz and logarithmic above; HTK's are 2595 log10(1 + f/700)."""


@dataclasses.dataclass(frozen=True)
class FrontEnd:
    """How a waveform becomes log-mel features; the defaults are 25 and 10 ms of speech at 8 kHz."""

    rate: int = 8000
    """Samples a second (Hz)."""
    window: int = 200
    """Samples of the Hann window around each frame."""
    hop: int = 80
    """Samples from one frame to the next; at most the window."""
    fft_size: int = 256
    """Samples of the Fourier transform: the window and zeros on both sides. An even number."""
    num_mels: int = 40
    """Mel filters, and so features, of a frame."""
    low: float = 0.0
    """Frequency at which the lowest filter begins (Hz)."""
    high: float = 0.0
    """Frequency at which the highest filter ends (Hz); 0: half the rate."""
    floor: float = 1e-5
    """Least magnitude of a filter whose logarithm is taken: of less, silence and noise are all."""

    def check(self) -> None:
        """Raises ValueError, which names the field, for a front end that computes nothing."""
        if self.rate < 1:
            raise ValueError(f"rate is {self.rate}; it must be at least 1")
        if not 1 <= self.hop <= self.window:
            raise ValueError(f"hop is {self.hop}; it must be from 1 to the window, {self.window}")
        if self.fft_size < self.window or self.fft_size % 2:
            raise ValueError(
                f"fft_size is {self.fft_size}; it must be an even number of at least the window, "
                f"{self.window}"
            )
        if not 0 <= self.low < self.highest <= self.rate / 2:
            raise ValueError(
                f"low, high are {self.low}, {self.highest} Hz; they must rise from 0 to at most "
                f"half the rate, {self.rate / 2}"
            )
        if not self.floor > 0:
            raise ValueError(f"floor is {self.floor}; it must be positive")
        if self.num_mels < 1 or not mel_filters(self).any(axis=0).all():
            raise ValueError(
                f"num_mels is {self.num_mels}; it must be at least 1, and few enough that none of "
                f"them stands between two of the {self.num_bins} frequencies of fft_size"
            )

    @property
    def highest(self) -> float:
        """The frequency at which the highest filter ends (Hz)."""
        return self.high or self.rate / 2

    @property
    def num_bins(self) -> int:
        """Frequencies of a Fourier transform, from 0 to half the rate."""
        return self.fft_size // 2 + 1

    def num_frames(self, num_samples: int) -> int:
        """Frames of a row of so many samples: 1 + n // hop, and none of no samples."""
        return 1 + num_samples // self.hop if num_samples else 0


def log_mel(
    samples: Float[Array, "B n"], lengths: Int[Array, "B"], front_end: FrontEnd
) -> tuple[Float[Array, "B T M"], Int[Array, "B"]]:
    """y[t, m] = log max(floor, sum_k filter[k, m] |X[t, k]|), X the spectrum, and frames a row.

    The magnitude |X|, not the power, and the natural logarithm; filters are Slaney's, of unit area
    (librosa's defaults). `samples` are in [-1, 1], `lengths` counts them; T = 1 + n // hop, and
    frames behind the last of a row are 0. Sums in float32 or wider, y in the samples' dtype.
    """
    spectrum, frames = stft(samples.astype(accumulator(samples.dtype)), lengths, front_end)
    mels = product(magnitude(spectrum), mel_filters(front_end))
    features = zero_padding(jnp.log(jnp.maximum(mels, front_end.floor)), frames)
    return features.astype(samples.dtype), frames


_TINY = 1e-30  # divided by in place of 0


def magnitude(spectrum: Complex[Array, "..."]) -> Float[Array, "..."]:
    """|X|, with a gradient of 0 where X is 0."""
    power = spectrum.real**2 + spectrum.imag**2
    return jnp.where(power > 0, jnp.sqrt(jnp.where(power > 0, power, 1)), 0)


@functools.cache
def mel_filters(
    front_end: FrontEnd, *, scale: Scale = "slaney", norm: Literal["slaney"] | None = "slaney"
) -> Float[np.ndarray, "bins M"]:
    """Triangles over the frequencies of a Fourier transform, evenly spaced in mels.

    Filter m rises from edge m to edge m + 1 and falls to edge m + 2, of M + 2 edges from `low` to
    `high`. With `norm` its area over frequency is 1, otherwise its height.
    """
    edges = np.linspace(
        *_mels(np.array([front_end.low, front_end.highest]), scale), front_end.num_mels + 2
    )
    edges = _hertz(edges, scale)
    bins = np.linspace(0, front_end.rate / 2, front_end.num_bins)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    filters = np.maximum(0, np.minimum(rising, falling))
    if norm == "slaney":
        filters *= 2 / (edges[2:] - edges[:-2])
    filters.flags.writeable = False  # it is kept for the next call
    return filters


# Slaney's scale: 15 mels of 200 / 3 Hz up to 1000 Hz, then 27 mels for each factor of 6.4.
_BREAK, _HERTZ_A_MEL, _MELS_AN_E = 1000.0, 200 / 3, 27 / np.log(6.4)


def _mels(hertz: np.ndarray, scale: Scale) -> np.ndarray:
    if scale == "htk":
        return 2595 * np.log10(1 + hertz / 700)
    above = _BREAK / _HERTZ_A_MEL + _MELS_AN_E * np.log(np.maximum(hertz, _BREAK) / _BREAK)
    return np.where(hertz < _BREAK, hertz / _HERTZ_A_MEL, above)


def _hertz(mels: np.ndarray, scale: Scale) -> np.ndarray:
    if scale == "htk":
        return 700 * (10 ** (mels / 2595) - 1)
    above = _BREAK * np.exp((mels - _BREAK / _HERTZ_A_MEL) / _MELS_AN_E)
    return np.where(mels < _BREAK / _HERTZ_A_MEL, mels * _HERTZ_A_MEL, above)


def mel_to_magnitudes(
    log_mels: Float[Array, "B T M"], front_end: FrontEnd, steps: int = 30
) -> Float[Array, "B T bins"]:
    """Magnitudes s >= 0 of which `log_mel` would make about these features m.

    min_s |s W - exp(m)|^2, W the mel filters, from the least-squares solution, its negative parts
    cut off, by multiplicative updates, s <- s (exp(m) W') / (s W W') (Lee and Seung 2001).
    """
    mels = jnp.exp(log_mels.astype(accumulator(log_mels.dtype)))
    filters = mel_filters(front_end)
    wanted = product(mels, filters.T)

    def step(_: Array, found: Array) -> Array:
        return found * wanted / jnp.maximum(product(product(found, filters), filters.T), _TINY)

    start = jnp.maximum(product(mels, np.linalg.pinv(filters)), front_end.floor)
    return lax.fori_loop(0, steps, step, start).astype(log_mels.dtype)


# --- What is made of features ---------------------------------------------------------------------


def deltas(
    features: Float[Array, "B T D"], lengths: Int[Array, "B"], width: int = 2
) -> Float[Array, "B T D"]:
    """The slope of each feature over the `width` frames on both sides (HTK's deltas).

        d[t] = sum_{i=1..width} i (x[t+i] - x[t-i]) / (2 sum_i i^2)

    Before a row's first frame stands the first again, behind its last frame the last; d is 0
    behind a row's `lengths` frames. For accelerations take deltas of deltas.
    """
    valid = valid_steps(lengths, features.shape[1])[:, :, None]
    num_frames = features.shape[1]
    x = features.astype(accumulator(features.dtype))
    if num_frames:
        last = jnp.maximum(lengths - 1, 0)[:, None, None]
        x = jnp.where(valid, x, jnp.take_along_axis(x, last, axis=1))
        x = jnp.pad(x, ((0, 0), (width, width), (0, 0)), mode="edge")
    total = jnp.zeros(features.shape, x.dtype)
    for i in range(1, width + 1):
        later = x[:, width + i : width + i + num_frames]
        total += i * (later - x[:, width - i : width - i + num_frames])
    slope = total / (2 * sum(i * i for i in range(1, width + 1)))
    return zero_padding(slope, lengths).astype(features.dtype)


def mel_cepstra(log_mels: Float[Array, "B T M"], count: int = 13) -> Float[Array, "B T {count}"]:
    """The first `count` cepstra c_0 ... of each frame: a cosine series over its mel bands.

        y[m] = c_0 + sum_{k=1..M-1} c_k cos(pi k (m + 1/2) / M)

    c_0 is the frame's mean, its loudness, which distances leave out. In this scale the distance
    10 / log 10 sqrt(2 sum_{k>0} (c_k - c'_k)^2) of log magnitudes is the root mean square over
    bands of their difference in decibels (mel-cepstral distortion, Kubichek 1993); the
    coefficients of the orthonormal DCT-II are sqrt(M / 2) times as large. Padding stays where it
    is.
    """
    num_mels = log_mels.shape[-1]
    bands, orders = np.arange(num_mels)[:, None] + 0.5, np.arange(count)[None]
    cosines = np.cos(np.pi * bands * orders / num_mels) * np.where(orders == 0, 1, 2) / num_mels
    cepstra = product(log_mels.astype(accumulator(log_mels.dtype)), cosines)
    return cepstra.astype(log_mels.dtype)


# --- Spectra --------------------------------------------------------------------------------------


def stft(
    samples: Float[Array, "B n"], lengths: Int[Array, "B"], front_end: FrontEnd
) -> tuple[Complex[Array, "B T bins"], Int[Array, "B"]]:
    """X[t, k] = sum_i w[i] x[t hop + i - N/2] exp(-2 pi j k i / N) of N = fft_size, and frames.

    w is the periodic Hann window in the middle of N zeros, and x the row, reflected at its ends.
    Frames behind the last of a row are 0.
    """
    dtype = accumulator(samples.dtype)
    frames = jnp.where(lengths > 0, 1 + lengths // front_end.hop, 0)
    windows = _windows(_reflected(samples.astype(dtype), lengths, front_end), front_end)
    windows = jnp.where(valid_steps(frames, windows.shape[1])[:, :, None], windows, 0)
    return fourier(windows * hann(front_end).astype(dtype)[None, None], front_end.fft_size), frames


def hann(front_end: FrontEnd) -> Float[np.ndarray, " window"]:
    """The periodic Hann window, (1 - cos(2 pi i / window)) / 2."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(front_end.window) / front_end.window)


def istft(
    spectrum: Complex[Array, "B T bins"], lengths: Int[Array, "B"], front_end: FrontEnd
) -> tuple[Float[Array, "B n"], Int[Array, "B"]]:
    """The waveform whose windows are nearest to those of X in squares (Griffin and Lim 1984).

    x[i] = sum_t w[i - t hop + N/2] x_t[i - t hop + N/2] / sum_t w[i - t hop + N/2]^2, x_t the
    inverse transform of X[t]. `lengths` counts frames; a row of F has (F - 1) hop samples, and
    what stands behind is 0: `stft` of the result has as many frames.
    """
    frames = spectrum.shape[1]
    window = hann(front_end).astype(spectrum.real.dtype)[None, None]
    valid = valid_steps(lengths, frames)[:, :, None]
    windows = inverse_fourier(jnp.where(valid, spectrum, 0), front_end.window) * window
    weights = _overlapped(jnp.where(valid, window**2, 0), front_end)
    row = _overlapped(windows, front_end) / jnp.where(weights > _NO_WEIGHT, weights, 1)
    left, _ = _reach(front_end)
    num_samples = max(frames - 1, 0) * front_end.hop
    lengths = jnp.maximum(lengths - 1, 0) * front_end.hop
    row = row[:, left : left + num_samples]
    return jnp.where(valid_steps(lengths, num_samples), row, 0), lengths


_NO_WEIGHT = 1e-10  # of a sample that only the zeros at the ends of windows see


# --- Windows of a row ----------------------------------------------------------------------------


def _reflected(
    samples: Float[Array, "B n"], lengths: Int[Array, "B"], front_end: FrontEnd
) -> Float[Array, "B m"]:
    """Each row between its reflections at both ends, as far as windows reach; junk behind."""
    if samples.shape[1] == 0:
        samples = jnp.zeros((samples.shape[0], 1), samples.dtype)
    left, right = _reach(front_end)

    def mirrored(places: Int[Array, "B m"]) -> Float[Array, "B m"]:
        period = jnp.maximum(2 * (lengths - 1), 1)[:, None]
        places = places % period
        return jnp.take_along_axis(samples, jnp.minimum(places, period - places), axis=1)

    before = mirrored(jnp.broadcast_to(jnp.arange(-left, 0)[None], (len(lengths), left)))
    behind = mirrored(lengths[:, None] + jnp.arange(right)[None])
    row = jnp.concatenate([before, samples, jnp.zeros_like(behind)], axis=1)
    place = functools.partial(lax.dynamic_update_slice_in_dim, axis=0)
    return jax.vmap(place)(row, behind, left + lengths)


def _reach(front_end: FrontEnd) -> tuple[int, int]:
    """Samples that a window sees before that in its middle, and from it on."""
    left = front_end.fft_size // 2 - room(front_end.window, front_end.fft_size)[0]
    return left, front_end.window - left


def _windows(row: Float[Array, "B m"], front_end: FrontEnd) -> Float[Array, "B T window"]:
    """The overlapping windows of a row, put together from pieces of `hop` samples."""
    window, hop = front_end.window, front_end.hop
    pieces = -(-window // hop)
    frames = 1 + (row.shape[1] - window) // hop
    reach = (frames - 1 + pieces) * hop
    row = jnp.pad(row, ((0, 0), (0, max(0, reach - row.shape[1]))))[:, :reach]
    row = row.reshape(len(row), -1, hop)
    return jnp.concatenate([row[:, i : i + frames] for i in range(pieces)], axis=2)[:, :, :window]


def _overlapped(windows: Float[Array, "B T window"], front_end: FrontEnd) -> Float[Array, "B m"]:
    """The sum of windows, each `hop` behind the one before: the transpose of `_windows`."""
    batch, frames, window = windows.shape
    hop = front_end.hop
    pieces = -(-window // hop)
    windows = jnp.pad(windows, ((0, 0), (0, 0), (0, pieces * hop - window)))
    windows = windows.reshape(batch, frames, pieces, hop)
    row = jnp.zeros((batch, frames + pieces - 1, hop), windows.dtype)
    for i in range(pieces):
        row += jnp.pad(windows[:, :, i], ((0, 0), (i, pieces - 1 - i), (0, 0)))
    return row.reshape(batch, -1)
