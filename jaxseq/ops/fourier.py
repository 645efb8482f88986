"""The Fourier transform of short windows, by the form that is fast on the device.

CPUs have a fast transform. TPUs multiply by a matrix faster than they follow its steps, and among
several devices XLA would gather all rows for a transform, which it does not for a product.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseq.parallel.rules import is_divided
from jaxseq.typing import Array, Complex, Float


def fourier(windows: Float[Array, "B T window"], fft_size: int) -> Complex[Array, "B T bins"]:
    """X[k] = sum_i x[i] exp(-2 pi j i k / N), k = 0 ... N/2, of windows amid N = fft_size zeros."""
    window = windows.shape[-1]
    around = room(window, fft_size)

    def fast(windows: Array) -> Array:
        return jnp.fft.rfft(jnp.pad(windows, ((0, 0), (0, 0), around)))

    def by_products(windows: Array) -> Array:
        cosines, sines = _waves(window, fft_size)
        return lax.complex(product(windows, cosines), -product(windows, sines))

    if is_divided():
        return by_products(windows)
    return lax.platform_dependent(windows, cpu=fast, default=by_products)


def inverse_fourier(
    spectrum: Complex[Array, "B T bins"], window: int
) -> Float[Array, "B T {window}"]:
    """The `window` samples in the middle of those of which the spectrum is the transform."""
    fft_size = 2 * (spectrum.shape[-1] - 1)
    before, _ = room(window, fft_size)

    def fast(spectrum: Array) -> Array:
        return jnp.fft.irfft(spectrum)[:, :, before : before + window]

    def by_products(spectrum: Array) -> Array:
        # Frequencies between 0 and half the rate stand for their mirror images too.
        share = np.full((fft_size // 2 + 1, 1), 2 / fft_size)
        share[[0, -1]] /= 2
        cosines, sines = (share * wave.T for wave in _waves(window, fft_size))
        return product(spectrum.real, cosines) - product(spectrum.imag, sines)

    if is_divided():
        return by_products(spectrum)
    return lax.platform_dependent(spectrum, cpu=fast, default=by_products)


def product(x: Float[Array, "B T m"], matrix: Float[np.ndarray, "m k"]) -> Float[Array, "B T k"]:
    """x times a constant matrix, of which accelerators would drop digits if not told."""
    return jnp.matmul(x, matrix.astype(x.dtype), precision=lax.Precision.HIGHEST)


def room(window: int, fft_size: int) -> tuple[int, int]:
    """The zeros before and behind a window amid `fft_size` samples."""
    before = (fft_size - window) // 2
    return before, fft_size - window - before


def _waves(window: int, fft_size: int) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin of 2 pi i k / N, for the samples i of a window and each frequency k."""
    samples = room(window, fft_size)[0] + np.arange(window)
    turns = samples[:, None] * np.arange(fft_size // 2 + 1) % fft_size
    angles = 2 * np.pi * turns / fft_size
    return np.cos(angles), np.sin(angles)
