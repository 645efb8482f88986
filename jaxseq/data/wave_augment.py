"""Ways in which the same words may sound: faster, slower, through another room, in noise."""

import numpy as np

from jaxseq.typing import Float

_RIPPLES = 3
"""Cosines over the frequency axis that make a channel's response: more would carve into formants
that tell one vowel from another."""


def resample(samples: Float[np.ndarray, " n"], length: int) -> Float[np.ndarray, " m"]:
    """The same sound in `length` samples, m, by its discrete Fourier transform.

    Played at the old rate it is n / m times as fast, and pitch and formants are n / m times as
    high: a voice of another size (speed perturbation, Ko et al. 2015). What would lie above half
    the rate is left out. Raises ValueError for a length below 1.
    """
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    if len(samples) == 0:
        return np.zeros(length, samples.dtype)
    spectrum = np.fft.rfft(samples)
    wanted = np.zeros(length // 2 + 1, spectrum.dtype)
    kept = min(len(wanted), len(spectrum))
    wanted[:kept] = spectrum[:kept]
    return (np.fft.irfft(wanted, length) * (length / len(samples))).astype(samples.dtype)


def stretch(samples: Float[np.ndarray, " n"], length: int, rate: int) -> Float[np.ndarray, " m"]:
    """The same voice in `length` samples, m: slower or faster without another pitch.

    Windows of 30 ms, cut out where the sound goes on most like the last one, are overlapped and
    added (WSOLA, Verhelst and Roelands 1993). Sounds shorter than two windows are cut or padded.
    """
    hop, reach = round(0.015 * rate), round(0.0075 * rate)
    if min(len(samples), length) < 4 * hop:
        return np.pad(samples[:length], (0, max(length - len(samples), 0)))
    window = np.hanning(2 * hop + 1)[:-1].astype(samples.dtype)
    around = np.pad(samples, (hop + reach, 4 * hop + 2 * reach))
    stretched = np.zeros(length + 4 * hop, samples.dtype)
    follows = reach  # where the window that goes on from the last one would begin
    for start in range(0, length + hop, hop):
        place = reach + min(round(start * len(samples) / length), len(samples))
        nearby = around[place - reach : place + reach + 2 * hop]
        alike = np.correlate(nearby, around[follows : follows + 2 * hop], "valid")
        place += int(np.argmax(alike)) - reach
        stretched[start : start + 2 * hop] += window * around[place : place + 2 * hop]
        follows = place + hop
    return stretched[hop : hop + length]


def through_channel(
    samples: Float[np.ndarray, " n"], decibels: float, rng: np.random.Generator
) -> Float[np.ndarray, " n"]:
    """The sound through a microphone and room of their own: a smooth random frequency response.

    gain(f) = sum over r = 1..3 of a_r cos(pi r f / f_max) dB,  a_r uniform in +-decibels / r
    """
    if len(samples) == 0:
        return samples
    spectrum = np.fft.rfft(samples, _quick(len(samples)))
    angle = np.linspace(0, np.pi, len(spectrum), dtype=np.float32)
    sizes = rng.uniform(-decibels, decibels, _RIPPLES) / np.arange(1, _RIPPLES + 1)
    gain = sum(np.float32(size) * np.cos(r * angle) for r, size in enumerate(sizes, start=1))
    heard = np.fft.irfft(spectrum * np.power(10, gain / 20))[: len(samples)]
    return heard.astype(samples.dtype)


def in_noise(
    samples: Float[np.ndarray, " n"], snr: float, slope: float, rng: np.random.Generator
) -> Float[np.ndarray, " n"]:
    """The sound with noise of a power that falls as f^-slope: 0 is white, 1 pink, 2 brown.

    `snr` is the ratio of the mean powers of sound and noise, in dB; silence stays silent.
    """
    power = np.mean(np.square(samples), dtype=np.float64) if len(samples) else 0.0
    if power == 0:
        return samples
    bins = _quick(len(samples)) // 2 + 1
    spectrum = rng.standard_normal(2 * bins, np.float32).view(np.complex64)
    # Frequencies from 1: the mean, at 0, would have all the power.
    spectrum *= np.arange(1, bins + 1, dtype=np.float32) ** np.float32(-slope / 2)
    noise = np.fft.irfft(spectrum)[: len(samples)]
    loudness = np.sqrt(power / np.mean(np.square(noise), dtype=np.float64)) * 10 ** (-snr / 20)
    return (samples + noise * loudness).astype(samples.dtype)


def faded(samples: Float[np.ndarray, " n"], ramp: int) -> Float[np.ndarray, " n"]:
    """The sound rising from 0 over its first `ramp` samples and falling to 0 over its last.

    Without it a recording that is cut into another begins and ends with a click.
    """
    ramp = min(ramp, len(samples) // 2)
    gain = np.ones(len(samples), samples.dtype)
    gain[:ramp] = np.arange(ramp) / max(ramp, 1)
    gain[len(gain) - ramp :] = gain[:ramp][::-1]
    return samples * gain


def _quick(length: int) -> int:
    """The next length that has a quick Fourier transform: a prime takes ten times as long."""
    return -(-length // 1024) * 1024
