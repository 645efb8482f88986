"""Twins of `ops.spectral` and `ops.griffin_lim`; `front_end` is a `FrontEnd`, read for its fields.

Rows are computed one by one from their valid samples or frames, and padded with 0.
"""

from typing import Any

import numpy as np


def stft(samples: np.ndarray, lengths: np.ndarray, front_end: Any) -> np.ndarray:
    """X[t, k] = sum_i w[i] x[t hop + i - N/2] exp(-2 pi j k i / N): (B, n) to (B, T, N/2 + 1)."""
    size, hop = front_end.fft_size, front_end.hop
    window = _hann(front_end)
    result = np.zeros((len(samples), 1 + samples.shape[1] // hop, size // 2 + 1), complex)
    for b, n in enumerate(lengths.tolist()):
        for t in range(1 + n // hop if n else 0):
            x = [samples[b, _mirrored(t * hop + i - size // 2, n)] for i in range(size)]
            for k in range(size // 2 + 1):
                turns = np.exp(-2j * np.pi * k * np.arange(size) / size)
                result[b, t, k] = np.sum(window * x * turns)
    return result


def istft(spectrum: np.ndarray, lengths: np.ndarray, front_end: Any) -> np.ndarray:
    """The waveform nearest to the windows of X: (B, T, N/2 + 1) to (B, (T - 1) hop)."""
    size, hop = front_end.fft_size, front_end.hop
    window = _hann(front_end)
    result = np.zeros((len(spectrum), max(spectrum.shape[1] - 1, 0) * hop))
    for b, frames in enumerate(lengths.tolist()):
        total, weight = np.zeros((2, frames * hop + size))
        for t in range(frames):
            both = np.concatenate([spectrum[b, t], np.conj(spectrum[b, t, -2:0:-1])])
            both[[0, size // 2]] = both[[0, size // 2]].real
            for i in range(size):
                turns = np.exp(2j * np.pi * i * np.arange(size) / size)
                total[t * hop + i] += window[i] * np.sum(both * turns).real / size
                weight[t * hop + i] += window[i] ** 2
        for i in range((frames - 1) * hop):
            if weight[i + size // 2] > 0:
                result[b, i] = total[i + size // 2] / weight[i + size // 2]
    return result


def log_mel(samples: np.ndarray, lengths: np.ndarray, front_end: Any) -> np.ndarray:
    """y[t, m] = log max(floor, sum_k filter[k, m] |X[t, k]|): (B, n) to (B, T, M)."""
    mels = np.abs(stft(samples, lengths, front_end)) @ mel_filters(front_end)
    for b, n in enumerate(lengths.tolist()):
        frames = 1 + n // front_end.hop if n else 0
        mels[b, :frames] = np.log(np.maximum(mels[b, :frames], front_end.floor))
        mels[b, frames:] = 0
    return mels


def mel_filters(front_end: Any) -> np.ndarray:
    """Slaney's triangles of unit area: (N/2 + 1, M)."""
    highest = front_end.high or front_end.rate / 2
    mels = np.linspace(_mel(front_end.low), _mel(highest), front_end.num_mels + 2)
    edges = [_hertz(mel) for mel in mels.tolist()]
    filters = np.zeros((front_end.fft_size // 2 + 1, front_end.num_mels))
    for k in range(len(filters)):
        frequency = k * front_end.rate / front_end.fft_size
        for m in range(front_end.num_mels):
            left, middle, right = edges[m : m + 3]
            height = 2 / (right - left)
            if left <= frequency <= middle:
                filters[k, m] = height * (frequency - left) / (middle - left)
            elif middle <= frequency <= right:
                filters[k, m] = height * (right - frequency) / (right - middle)
    return filters


def mel_to_magnitudes(log_mels: np.ndarray, front_end: Any, steps: int = 30) -> np.ndarray:
    """s >= 0 with about s W = exp(y), by multiplicative updates: (B, T, M) to (B, T, N/2 + 1)."""
    filters, mels = mel_filters(front_end), np.exp(log_mels)
    s = np.maximum(mels @ np.linalg.pinv(filters), front_end.floor)
    for _ in range(steps):
        s = s * (mels @ filters.T) / np.maximum(s @ filters @ filters.T, 1e-30)
    return s


def griffin_lim(
    magnitudes: np.ndarray,
    lengths: np.ndarray,
    front_end: Any,
    steps: int = 32,
    momentum: float = 0.99,
) -> np.ndarray:
    """Waveforms whose spectra have about these magnitudes: (B, T, N/2 + 1) to (B, (T - 1) hop)."""
    num_samples = np.maximum(lengths - 1, 0) * front_end.hop
    phases, before = np.ones_like(magnitudes, complex), 0
    for _ in range(steps):
        rebuilt = stft(istft(magnitudes * phases, lengths, front_end), num_samples, front_end)
        ahead = rebuilt - momentum / (1 + momentum) * before
        phases = ahead / np.maximum(np.abs(ahead), 1e-30)
        before = rebuilt
    return istft(magnitudes * phases, lengths, front_end)


def deltas(features: np.ndarray, lengths: np.ndarray, width: int = 2) -> np.ndarray:
    """d[t] = sum_i i (x[t+i] - x[t-i]) / (2 sum_i i^2) with the ends repeated: (B, T, D)."""
    result = np.zeros(features.shape)
    for b, frames in enumerate(lengths.tolist()):
        for t in range(frames):
            for i in range(1, width + 1):
                later = features[b, min(t + i, frames - 1)]
                result[b, t] += i * (later - features[b, max(t - i, 0)])
    return result / (2 * sum(i**2 for i in range(1, width + 1)))


def mel_cepstra(log_mels: np.ndarray, count: int = 13) -> np.ndarray:
    """c_k of y[m] = c_0 + sum_k c_k cos(pi k (m + 1/2) / M): (B, T, M) to (B, T, count)."""
    num_mels = log_mels.shape[-1]
    result = np.zeros((*log_mels.shape[:-1], count))
    for k in range(count):
        for m in range(num_mels):
            share = (1 if k == 0 else 2) / num_mels
            result[..., k] += share * log_mels[..., m] * np.cos(np.pi * k * (m + 0.5) / num_mels)
    return result


def _hann(front_end: Any) -> np.ndarray:
    """The window in the middle of fft_size zeros."""
    window = np.zeros(front_end.fft_size)
    first = (front_end.fft_size - front_end.window) // 2
    for i in range(front_end.window):
        window[first + i] = (1 - np.cos(2 * np.pi * i / front_end.window)) / 2
    return window


def _mirrored(place: int, length: int) -> int:
    """The place in a row of `length` samples of which `place` is the mirror image."""
    while length > 1 and not 0 <= place < length:
        place = -place if place < 0 else 2 * (length - 1) - place
    return place if length > 1 else 0


def _mel(hertz: float) -> float:
    """Slaney's scale."""
    return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * np.log(hertz / 1000) / np.log(6.4)


def _hertz(mel: float) -> float:
    return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)
