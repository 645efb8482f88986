"""A small formant synthesiser: a source, pulses or noise, through resonances (Klatt 1980)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxseq.typing import Float

_FRAME = 0.005
"""Seconds for which the resonances stand still."""

_GLIDE = 3
"""Frames over which one sound moves into the next: 2 _GLIDE + 1 are averaged."""

_BANDWIDTHS = (80.0, 110.0, 170.0)
"""Hz, of the three resonances."""


class Phone(NamedTuple):
    """A sound of speech, held for a while."""

    seconds: float
    voice: float
    """Loudness of the pulses of the vocal folds."""
    noise: float
    """Loudness of the noise of a narrow place."""
    formants: tuple[int, int, int]
    """The three lowest resonances, Hz."""


PHONES = {
    "AH": Phone(0.10, 1.0, 0.0, (640, 1190, 2390)),
    "AO": Phone(0.13, 1.0, 0.0, (570, 840, 2410)),
    "EH": Phone(0.09, 1.0, 0.0, (530, 1840, 2480)),
    "F": Phone(0.09, 0.0, 0.1, (900, 2000, 3000)),
    "I": Phone(0.09, 1.0, 0.0, (390, 1990, 2550)),
    "II": Phone(0.13, 1.0, 0.0, (270, 2290, 3010)),
    "K": Phone(0.02, 0.0, 0.15, (1400, 1900, 2600)),
    "N": Phone(0.08, 0.5, 0.0, (280, 1100, 2600)),
    "O": Phone(0.12, 1.0, 0.0, (480, 900, 2400)),
    "R": Phone(0.06, 0.8, 0.0, (420, 1200, 1600)),
    "S": Phone(0.11, 0.0, 0.015, (2500, 3400, 3800)),
    "T": Phone(0.02, 0.0, 0.05, (1800, 2900, 3500)),
    "TH": Phone(0.08, 0.0, 0.05, (1400, 2200, 3300)),
    "U": Phone(0.12, 1.0, 0.0, (300, 870, 2240)),
    "V": Phone(0.06, 0.5, 0.03, (350, 1100, 2300)),
    "A": Phone(0.09, 1.0, 0.0, (740, 1250, 2450)),
    "W": Phone(0.06, 0.8, 0.0, (300, 650, 2200)),
    "Z": Phone(0.09, 0.4, 0.01, (1700, 3000, 3700)),
    "-": Phone(0.04, 0.0, 0.0, (500, 1500, 2500)),  # the silence before a burst
}


@dataclass(frozen=True)
class Voice:
    """What tells one speaker from another."""

    pitch: float
    """Hz."""
    tract: float = 1.0
    """Length of the vocal tract, as a share of a tall man's: a shorter one has higher formants."""
    tempo: float = 1.0
    """How fast this one speaks."""
    breath: float = 0.02
    """Loudness of the noise that goes with the voice."""


def varied(phone: Phone, rng: np.random.Generator) -> Phone:
    """The phone as somebody else may say it: longer or shorter, in other formants and noise."""
    one, two, three = (round(formant * rng.uniform(0.9, 1.1)) for formant in phone.formants)
    # The burst of a stop may be a click, or a breath three times as long.
    longest = 1.5 if phone.seconds < 0.03 else 0.5
    return Phone(
        phone.seconds * float(np.exp(rng.uniform(-0.5, longest))),
        phone.voice,
        phone.noise * float(np.exp(rng.uniform(-1.5, 1.5))),
        (one, two, three),
    )


def synthesise(
    phones: Sequence[Phone], voice: Voice, rate: int, rng: np.random.Generator
) -> Float[np.ndarray, " n"]:
    """The phones, said by the voice, as float32 samples; no two times are alike.

    source[t] = voice[t] pulses(pitch[t]) + noise[t] white,   each of the three resonances:
    y[t] = (1 - 2 r cos w + r^2) x[t] + 2 r cos w y[t-1] - r^2 y[t-2],
    r = exp(-pi bandwidth / rate),  w = 2 pi formant / rate
    """
    from scipy.signal import lfilter  # takes a third of a second to import

    rows = []
    for phone in phones:
        seconds = phone.seconds / voice.tempo * rng.uniform(0.8, 1.25)
        formants = np.array(phone.formants) / voice.tract * rng.uniform(0.96, 1.04, 3)
        row = np.array([phone.voice, phone.noise, *np.minimum(formants, 0.48 * rate)])
        rows += [row] * max(round(seconds / _FRAME), 1)
    track = np.pad(np.array(rows), ((_GLIDE, _GLIDE), (0, 0)), mode="edge")
    window = np.ones(2 * _GLIDE + 1) / (2 * _GLIDE + 1)
    track = np.stack([np.convolve(column, window, "valid") for column in track.T], axis=1)

    size = round(rate * _FRAME)
    along = np.linspace(0, 1, len(track) * size)
    pitch = voice.pitch * rng.uniform(0.93, 1.07) * (1.1 - 0.25 * along)  # it falls to the end
    turns = np.cumsum(pitch / rate)
    pulses = np.diff(np.floor(turns), prepend=0.0) * np.sqrt(rate / pitch)
    pulses = lfilter([1.0], [1.0, -0.85], pulses)  # the folds close fast, not at once
    voiced, noisy = (np.repeat(column, size) for column in track[:, :2].T)
    white = rng.standard_normal(len(along))
    sound = voiced * (pulses + voice.breath * white) + noisy * white

    for number, bandwidth in enumerate(_BANDWIDTHS):
        radius = np.exp(-np.pi * bandwidth / rate)
        angles = 2 * np.pi * track[:, 2 + number] / rate
        state = np.zeros(2)
        for frame, angle in enumerate(angles):
            poles = [1.0, -2 * radius * np.cos(angle), radius**2]
            part = slice(frame * size, (frame + 1) * size)
            sound[part], state = lfilter([sum(poles)], poles, sound[part], zi=state)
    return sound.astype(np.float32)
