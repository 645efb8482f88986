"""Spoken digits made up on the spot, by a formant synthesiser."""

import functools
import hashlib
from dataclasses import dataclass

import numpy as np

from jaxseq.data.corpus import Corpus
from jaxseq.data.digit_batches import RATE, DigitBatches, DigitSplit
from jaxseq.data.digit_recordings import Recording, by_split
from jaxseq.data.formants import PHONES, Voice, synthesise, varied
from jaxseq.data.speech import SpeechCoder, at_level
from jaxseq.option_checks import check_range

PRONUNCIATIONS = (
    "Z II R O", "W AH N", "- T U", "TH R II", "F AO R", "F A I V", "S I - K S", "S EH V AH N",
    "EH I - T", "N A I N",
)  # fmt: skip
"""Of the digits from 0."""

VOICES = {
    "ada": Voice(pitch=210.0, tract=0.86, tempo=1.1),
    "ben": Voice(pitch=105.0, tract=1.03, tempo=0.9),
    "cleo": Voice(pitch=180.0, tract=0.92, tempo=0.95, breath=0.08),
    "dan": Voice(pitch=130.0, tract=0.97, tempo=1.15),
}


@dataclass(frozen=True, kw_only=True)
class MadeUpDigits(DigitBatches):
    """Digits of made-up voices; they take no file, and are the same everywhere."""

    takes: int = 10
    """Times that each of four voices says each digit; at least 8, for all splits to have some."""

    held_out_speaker: str = ""
    """Who is not heard in training, and makes the test split; empty: takes 0 to 4 of everybody."""

    def resolve(self) -> "MadeUpDigits":
        """The config itself: nothing in it depends on where it is read."""
        return self

    def load(self, tokenizer: SpeechCoder | None = None) -> Corpus[SpeechCoder, DigitSplit]:
        """Make up the recordings; UserError for a bad field."""
        self.check()
        check_range("data", self, "takes", least=8, most=1000)
        splits = by_split(
            iter(made_up_recordings(self.takes)), self.held_out_speaker, "the made-up data"
        )
        # Of what decides the samples: they may differ by rounding from machine to machine.
        recipe = repr((VOICES, PRONUNCIATIONS, PHONES, self.takes, self.held_out_speaker))
        return self.corpus(splits, tokenizer, hashlib.sha256(recipe.encode()).hexdigest())


@functools.cache
def made_up_recordings(takes: int) -> tuple[tuple[Recording, int], ...]:
    """Every voice's recordings of every digit, and their takes from 0; made once in a process."""
    found = []
    for number, (speaker, voice) in enumerate(VOICES.items()):
        for digit, phones in enumerate(PRONUNCIATIONS):
            for take in range(takes):
                rng = np.random.default_rng((number, digit, take))
                samples = synthesise([PHONES[name] for name in phones.split()], voice, RATE, rng)
                found.append((Recording(at_level(samples), digit, speaker), take))
    return tuple(found)


def made_up_voices(count: int, takes: int = 4) -> list[Recording]:
    """Every digit of so many voices, each of its own pitch, size, tempo, breath and accent.

    They are the same everywhere, and those of a smaller count are among those of a larger one.
    """
    found = []
    for number in range(count):
        rng = np.random.default_rng((len(VOICES), number))
        voice = Voice(
            pitch=float(np.exp(rng.uniform(np.log(80), np.log(230)))),
            tract=rng.uniform(0.85, 1.15),
            tempo=rng.uniform(0.8, 1.3),
            breath=float(np.exp(rng.uniform(np.log(0.01), np.log(0.1)))),
        )
        accent = {name: varied(phone, rng) for name, phone in PHONES.items()}
        for digit, phones in enumerate(PRONUNCIATIONS):
            for _ in range(takes):
                sound = synthesise([accent[name] for name in phones.split()], voice, RATE, rng)
                found.append(Recording(at_level(sound), digit, f"made-up {number}", made_up=True))
    return found
