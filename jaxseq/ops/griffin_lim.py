"""Griffin-Lim: waveforms of spectrograms without phases."""

import jax.numpy as jnp
from jax import lax

from jaxseq.ops.precision import accumulator
from jaxseq.ops.spectral import FrontEnd, istft, magnitude, stft
from jaxseq.typing import Array, Float, Int


def griffin_lim(
    magnitudes: Float[Array, "B T bins"],
    lengths: Int[Array, "B"],
    front_end: FrontEnd,
    steps: int = 32,
    momentum: float = 0.99,
) -> tuple[Float[Array, "B n"], Int[Array, "B"]]:
    """Waveforms whose spectra have about these magnitudes, and the samples of each row.

    Each step takes the phases of the spectrum of the waveform of the magnitudes with the phases
    before (Griffin and Lim 1984), drawn on past where the last step led (Perraudin et al. 2013):

        Y_s = stft(istft(magnitudes P_s))        P_{s+1} = phase of Y_s - a Y_{s-1}

    with a = momentum / (1 + momentum), as librosa has it. `lengths` counts frames; a row of F
    frames has (F - 1) hop samples, and those behind are 0.
    """
    if magnitudes.shape[1] < 2:
        return jnp.zeros((len(magnitudes), 0), magnitudes.dtype), jnp.zeros_like(lengths)
    known = magnitudes.astype(accumulator(magnitudes.dtype))
    drawn = momentum / (1 + momentum)

    def step(_: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        phases, before = carry
        rebuilt, _ = stft(*istft(known * phases, lengths, front_end), front_end)
        ahead = rebuilt - drawn * before
        return ahead / jnp.maximum(magnitude(ahead), _TINY), rebuilt

    start = jnp.ones_like(lax.complex(known, known))
    phases, _ = lax.fori_loop(0, steps, step, (start, jnp.zeros_like(start)))
    samples, lengths = istft(known * phases, lengths, front_end)
    return samples.astype(magnitudes.dtype), lengths


_TINY = 1e-30  # divided by in place of 0
