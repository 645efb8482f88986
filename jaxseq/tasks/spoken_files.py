"""Sound and pictures of what was spoken."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxseq.data.audio import write_wav
from jaxseq.data.speech import SpeechCoder, units
from jaxseq.ops.spectral import FrontEnd
from jaxseq.tasks.spectrograms import draw_spectrograms
from jaxseq.tasks.utterances import Request, Utterance
from jaxseq.typing import Float


def write_utterance(
    folder: Path,
    name: str,
    front_end: FrontEnd,
    coder: SpeechCoder,
    request: Request,
    utterance: Utterance,
) -> dict[str, str]:
    """Writes an utterance to files in `folder` that begin with `name`; returns them by kind."""
    files = {
        "audio": f"{name}.wav",
        "spectrogram": f"{name}-spectrogram.png",
        "alignment": f"{name}-alignment.png",
    }
    write_wav(folder / files["audio"], utterance.samples, front_end.rate)
    picture = folder / files["spectrogram"]
    draw_spectrograms([(utterance.log_mels, "")], front_end, picture)
    # A dash for the silence at both ends, and spaces that can be seen.
    tokens = ["\u2013", *units(request.text, coder.unit), "\u2013"]
    tokens = ["\u2423" if token == " " else token for token in tokens]
    draw_text_alignment(utterance.alignment, tokens, front_end, folder / files["alignment"])
    return files


def draw_text_alignment(
    weights: Float[np.ndarray, "T S"], tokens: Sequence[str], front_end: FrontEnd, path: Path
) -> None:
    """A picture of the weight of each token (upwards) in each frame (to the right)."""
    from matplotlib.figure import Figure  # half a second that only this needs

    figure = Figure(figsize=(8, 1.2 + 0.14 * len(tokens)), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(
        weights.T,
        origin="lower",
        aspect="auto",
        cmap="Blues",
        vmin=0.0,
        vmax=1.0,
        extent=(0, len(weights) * front_end.hop / front_end.rate, -0.5, len(tokens) - 0.5),
    )
    axes.set_yticks(range(len(tokens)), tokens, fontsize="small")
    axes.set_xlabel("seconds")
    axes.set_ylabel("text")
    figure.savefig(path, dpi=100)
