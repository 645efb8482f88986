"""What is to be spoken, and what was."""

import re
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxseq.data.digit_batches import WORDS
from jaxseq.data.speech import SpeechCoder, said_in
from jaxseq.errors import UserError
from jaxseq.ops.padding import valid_steps
from jaxseq.typing import Array, Float, Int


class Request(NamedTuple):
    """A text to speak, and the number of the speaker."""

    text: str
    speaker: int
    labels: Int[np.ndarray, " N"]


class Utterance(NamedTuple):
    """What was spoken: samples, log-mel frames, and the token that each frame speaks."""

    samples: Float[np.ndarray, " n"]
    log_mels: Float[np.ndarray, "T M"]
    alignment: Float[np.ndarray, "T S"]


def read_request(line: str, coder: SpeechCoder, where: str) -> Request:
    """What a line `TEXT` or `SPEAKER: TEXT` asks for; without a speaker it is the first one.

    A line of `data.speech.clip_to_line` asks for what it says. Numerals that the alphabet does not
    have are read digit by digit. Raises UserError, beginning with `where`, for an unknown speaker
    or symbol, and for a line without a text.
    """
    said = said_in(line)
    speaker, colon, text = line.partition(":")
    speaker = speaker.strip()
    if said is not None:
        text, speaker = said
    elif not colon or (speaker not in coder.speakers and ":" in coder.labels):
        text, speaker = line, coder.speakers[0]
    if speaker not in coder.speakers:
        known = ", ".join(coder.speakers)
        raise UserError(f"{where}: there is no speaker {speaker!r}; the run knows {known}")
    text = " ".join(re.sub("[0-9]", lambda numeral: _spelled(numeral[0], coder), text).split())
    if not text:
        raise UserError(f"{where} has no text to speak; take it out")
    return Request(text, coder.speakers.index(speaker), coder.encode(text, where))


def _spelled(numeral: str, coder: SpeechCoder) -> str:
    return numeral if numeral in coder.labels else f" {WORDS[int(numeral)]} "


def between_silences(
    labels: Int[Array, "B N"], lengths: Int[Array, "B"]
) -> tuple[Int[Array, "B S"], Int[Array, "B"]]:
    """The tokens 0 x_1 ... x_N 0 of each row, and their number: S = N + 2.

    Label 0 is the silence before and behind a text. A row without labels, a filler, has no token.
    """
    inside = valid_steps(lengths, labels.shape[1])
    tokens = jnp.pad(jnp.where(inside, labels, 0), ((0, 0), (1, 1)))
    return tokens, jnp.where(lengths > 0, lengths + 2, 0)
