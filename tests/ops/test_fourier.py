"""Both forms of the transform of windows against NumPy's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close

from jaxseq.ops import fourier as module
from jaxseq.ops.fourier import fourier, inverse_fourier


@pytest.mark.parametrize("form", ["fast", "products"])
@pytest.mark.parametrize(("window", "size"), [(6, 6), (5, 12)])
def test_equals_numpy(form, window, size, monkeypatch) -> None:
    monkeypatch.setattr(module, "is_divided", lambda: form == "products")
    rng = np.random.default_rng(0)
    windows = rng.normal(size=(2, 3, window))
    spectrum = rng.normal(size=(2, 3, size // 2 + 1, 2)).view(complex)[..., 0]

    @jax.jit
    def both(windows, spectrum):
        there = fourier(windows, size)
        return there.real, there.imag, inverse_fourier(spectrum, window)

    with jax.enable_x64(True):
        found = both(jnp.asarray(windows), jnp.asarray(spectrum))
    before = (size - window) // 2
    expected = np.fft.rfft(np.pad(windows, ((0, 0), (0, 0), (before, size - window - before))))
    back = np.fft.irfft(spectrum)[..., before : before + window]
    assert_close(found, (expected.real, expected.imag, back), "float64")
