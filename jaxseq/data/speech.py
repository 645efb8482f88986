"""Utterances and their transcripts as numbers."""

import base64
import binascii
import re
import urllib.parse
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxseq.data.audio import read_audio
from jaxseq.data.ragged import Example
from jaxseq.data.vocabulary import Vocabulary
from jaxseq.data.wav import encode_wav
from jaxseq.errors import UserError
from jaxseq.typing import Float, Int

BLANK = "<blank>"
"""Label 0: nothing new is said in this frame (connectionist temporal classification)."""

LEVEL = 0.1
"""Root mean square that every utterance is brought to: microphones differ by 20 dB and more, and
say nothing about words."""

TranscriptUnit = Literal["word", "character"]


@dataclass(frozen=True)
class SpeechCoder:
    """Utterances as samples at one level and rate, transcripts as numbers, 0 being the blank."""

    unit: TranscriptUnit
    """What one label is: a word, or a character (spaces are characters)."""
    labels: Vocabulary
    """The blank, and the alphabet."""
    rate: int
    """Samples a second, Hz."""
    speakers: tuple[str, ...] = ("",)
    """Their names, by number."""
    transcripts: tuple[str, ...] = ()
    """Some of training's, for a language model."""

    @classmethod
    def of(
        cls,
        transcripts: Sequence[str],
        unit: TranscriptUnit,
        rate: int,
        speakers: tuple[str, ...] = ("",),
        alphabet: Iterable[str] = (),
    ) -> "SpeechCoder":
        """With the labels of `alphabet`, or, where it is empty, those that `transcripts` have."""
        entries = tuple(dict.fromkeys(alphabet)) or tuple(
            sorted(Counter(label for text in transcripts for label in units(text, unit)))
        )
        kept = tuple(transcripts[:: max(len(transcripts) // 1000, 1)])
        return cls(unit, Vocabulary((BLANK, *entries)), rate, speakers, kept)

    def example(
        self,
        samples: Float[np.ndarray, " n"],
        text: str = "",
        speaker: int = 0,
        where: str = "the transcript",
    ) -> Example:
        """The arrays of an utterance of `rate` Hz.

        samples (n) float32 at the common level, lengths () in samples, labels (N), label_lengths
        (), speakers (). Raises UserError, beginning with `where`, for a symbol outside the
        alphabet.
        """
        labels = self.encode(text, where)
        return {
            "samples": at_level(samples),
            "lengths": np.array(len(samples), np.int32),
            "labels": labels,
            "label_lengths": np.array(len(labels), np.int32),
            "speakers": np.array(speaker, np.int32),
        }

    def encode(self, text: str, where: str = "the transcript") -> Int[np.ndarray, " N"]:
        """The labels of a transcript; UserError, beginning with `where`, for an unknown one."""
        found = units(text, self.unit)
        for symbol in found:
            if symbol not in self.labels or symbol == BLANK:
                known = " ".join(self.labels.entries[1:])
                raise UserError(
                    f"{where}: the {self.unit} {symbol!r} is not in the alphabet ({known[:200]}); "
                    "mend the transcript, or name an alphabet that has it"
                )
        return self.labels.encode(found)

    def text(self, labels: ArrayLike) -> str:
        """What the labels say; blanks (padding too) say nothing."""
        numbers = np.asarray(labels, np.int64)
        said = self.labels.decode(numbers[numbers > 0])
        return ("" if self.unit == "character" else " ").join(said)


def units(text: str, unit: TranscriptUnit) -> list[str]:
    """The words of a transcript, or its characters with runs of spaces cut to one."""
    words = text.split()
    return words if unit == "word" else list(" ".join(words))


def at_level(samples: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The samples in float32 with a root mean square of `LEVEL`; silence stays silent."""
    power = np.mean(np.square(samples), dtype=np.float64) if len(samples) else 0.0
    gain = LEVEL / np.sqrt(power) if power > 0 else 1.0
    return (samples * gain).astype(np.float32)


# ---- utterances as lines of text --------------------------------------------------------------


class Clip(NamedTuple):
    """An utterance that a line of text stands for."""

    samples: Float[np.ndarray, " n"]
    name: str
    text: str = ""
    """What is said, where the line tells."""
    speaker: str = ""


_CLIP = re.compile(r"data:audio/wav;speaker=([^;]*);text=([^;]*);base64,(.*)", re.DOTALL)


def clip_to_line(samples: Float[np.ndarray, " n"], rate: int, text: str, speaker: str) -> str:
    """A data: URL (RFC 2397) of the sound as 16-bit WAV, with what is said and by whom.

    Strings of digits are no files; so they can stand among the inputs of a run directory.
    """
    coded = base64.b64encode(encode_wav(samples, rate)).decode("ascii")
    said, by = urllib.parse.quote(text), urllib.parse.quote(speaker)
    return f"data:audio/wav;speaker={by};text={said};base64,{coded}"


def read_clip(line: str, rate: int) -> Clip:
    """The utterance, at `rate` Hz, of an audio file's path or of a line of `clip_to_line`.

    Raises UserError naming the file for one that cannot be read.
    """
    found = _CLIP.fullmatch(line)
    if found is None:
        samples, _ = read_audio(Path(line).expanduser(), rate=rate)
        return Clip(samples, line)
    speaker, text = urllib.parse.unquote(found[1]), urllib.parse.unquote(found[2])
    name = f"{speaker}: {text}" if speaker else text
    try:
        data = base64.b64decode(found[3], validate=True)
    except binascii.Error as error:
        raise UserError(f"the clip {name!r} is damaged: {error}") from error
    samples, _ = read_audio(data, f"the clip {name!r}", rate=rate)
    return Clip(samples, name, text, speaker)


def said_in(line: str) -> tuple[str, str] | None:
    """(text, speaker) of a line of `clip_to_line`; None for any other."""
    found = _CLIP.fullmatch(line)
    return found and (urllib.parse.unquote(found[2]), urllib.parse.unquote(found[1]))
