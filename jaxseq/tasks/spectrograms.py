"""Pictures of sound."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxseq.data.ragged import room_for
from jaxseq.ops.spectral import FrontEnd, log_mel
from jaxseq.typing import Float


def spectrogram(samples: Float[np.ndarray, " n"], front_end: FrontEnd) -> Float[np.ndarray, "T M"]:
    """The log-mel features of a waveform."""
    # A few padded lengths, each of which compiles once, serve any number of waveforms.
    padded = np.zeros((1, room_for(len(samples))), np.float32)
    padded[0, : len(samples)] = samples
    mels, frames = _log_mel(jnp.asarray(padded), jnp.array([len(samples)]), front_end)
    return np.asarray(mels[0])[: int(frames[0])]


_log_mel = jax.jit(log_mel, static_argnums=2)


def draw_spectrograms(
    pictures: list[tuple[Float[np.ndarray, "T M"], str]], front_end: FrontEnd, path: Path
) -> None:
    """A picture of each (log-mel features, title), one below the other."""
    from matplotlib.figure import Figure  # half a second that only this needs

    figure = Figure(figsize=(8, 2.2 * len(pictures)), layout="constrained")
    for place, (mels, title) in enumerate(pictures, start=1):
        axes = figure.add_subplot(len(pictures), 1, place)
        seconds = len(mels) * front_end.hop / front_end.rate
        axes.imshow(
            mels.T,
            origin="lower",
            aspect="auto",
            cmap="magma",
            extent=(0, seconds, 0, front_end.num_mels),
        )
        axes.set_xlabel("seconds")
        axes.set_ylabel("mel filter")
        axes.set_title(title, fontsize="medium")
    figure.savefig(path, dpi=100)
