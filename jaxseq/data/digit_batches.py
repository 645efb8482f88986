"""Strings of spoken digits, put together from recordings of single ones."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxseq.data.batches import Batch
from jaxseq.data.corpus import Corpus
from jaxseq.data.digit_recordings import Recording, SplitName
from jaxseq.data.ragged import Example, Ragged, collate, ragged_evaluation_batches, room_for
from jaxseq.data.speech import SpeechCoder, TranscriptUnit, clip_to_line, units
from jaxseq.data.wave_augment import faded, in_noise, resample, stretch, through_channel
from jaxseq.errors import UserError
from jaxseq.option_checks import check_range
from jaxseq.typing import Float

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

RATE = 8000
"""Samples a second of every digit, Hz."""

_FADE = RATE // 200
_SHOWN = 3
_SPEEDS = 4  # on either side of a recording's own: few enough to keep every sound that they make
_COLOURS = (0.5, 2.0)  # nearly white to brown: rooms and streets are between
_POOL = 8


@dataclass(frozen=True, kw_only=True)
class DigitBatches:
    """How recordings become strings and batches; what recorded and made-up digits share.

    Everybody says a string alone. Training draws new strings at every step; those held out are
    fixed, and say every held-out recording `rounds` times, unperturbed.
    """

    batch_size: int = 32
    """Strings in a batch, B, over all devices."""

    unit: TranscriptUnit = "word"
    """What one label is."""

    min_digits: int = 1
    """Digits in the shortest string."""

    max_digits: int = 5
    """Digits in the longest string."""

    growth: int = 400
    """Training steps over which the longest string grows from the shortest: strings of one digit
    teach what a label sounds like, which is hard to learn together with where it stands (Amodei et
    al. 2015, arXiv:1512.02595, section 3.3). 0: it is as long from the start."""

    max_pause: float = 0.3
    """Seconds of the longest pause before, between and behind digits."""

    noise: bool = True
    """Whether there is noise in the background, of all splits."""

    min_snr: float = 20.0
    """Ratio of speech to noise in dB, at least."""

    max_snr: float = 50.0
    """The same, at most."""

    speed: float = 0.15
    """Training strings are played at one of nine speeds, up to this share faster or slower, voice
    and all; 0: at their own."""

    tempo: float = 0.0
    """At each speed a recording is said up to this share faster or slower, by the same voice."""

    rooms: float = 0.0
    """Share of the recordings that train with a background of their own, which begins before them
    and ends behind them: that of an unknown speaker's is then not taken for speech."""

    channel: float = 6.0
    """Training strings come through channels that weaken and strengthen frequencies by this many
    dB; 0: none."""

    rounds: int = 3
    """Times that each held-out recording is said, in another string and noise each."""

    def check(self) -> None:
        """Raises UserError naming the option that is out of range."""
        check_range("data", self, "batch_size", "min_digits", "rounds", least=1)
        check_range("data", self, "growth", least=0)
        check_range("data", self, "speed", "tempo", least=0, below=1)
        check_range("data", self, "rooms", least=0, most=1)
        check_range("data", self, "max_pause", "channel", least=0, most=60)
        if self.max_digits < self.min_digits:
            raise UserError(
                f"--data.max-digits is {self.max_digits}: it must be at least --data.min-digits, "
                f"{self.min_digits}"
            )
        if self.max_snr < self.min_snr:
            raise UserError(
                f"--data.max-snr is {self.max_snr}: it must be at least --data.min-snr, "
                f"{self.min_snr}"
            )

    def corpus(
        self,
        recordings: Mapping[SplitName, Sequence[Recording]],
        coder: SpeechCoder | None,
        fingerprint: str,
    ) -> "Corpus[SpeechCoder, DigitSplit]":
        """The corpus of recordings by split, each with one at least; `coder` as a run saved it."""
        if coder is None:
            speakers = sorted({r.speaker for found in recordings.values() for r in found})
            coder = SpeechCoder.of(
                _sample_transcripts(self),
                self.unit,
                RATE,
                tuple(speakers),
                WORDS if self.unit == "word" else sorted(set("".join(WORDS)) | {" "}),
            )
        validation = DigitSplit(self, coder, recordings["validation"])
        return Corpus(
            tokenizer=coder,
            train=DigitSplit(self, coder, recordings["train"]),
            validation=validation,
            test=DigitSplit(self, coder, recordings["test"]),
            fingerprint=fingerprint,
            inputs=tuple(validation.clips(_SHOWN)),
        )

    def train_batches(
        self, corpus: "Corpus[SpeechCoder, DigitSplit]", seed: int
    ) -> "DigitStringBatches":
        """The batches of a training run."""
        return DigitStringBatches(corpus.train, seed)

    def evaluation_batches(
        self, split: "DigitSplit", at_most: int | None = None
    ) -> Iterator[Batch]:
        """The batches of a held-out split, or about `at_most` of them, spread over it."""
        return ragged_evaluation_batches(split.held_out, at_most)

    def describe(self, corpus: "Corpus[SpeechCoder, DigitSplit]") -> str:
        """What there is to train on, for a person."""
        train = corpus.train.recordings
        recorded = [recording.speaker for recording in train if not recording.made_up]
        made_up = {recording.speaker for recording in train if recording.made_up}
        voices = f", and {len(made_up)} made-up voices" if made_up else ""
        return f"{len(recorded):,} recorded digits of {len(set(recorded))} speakers{voices}"


class Plan(NamedTuple):
    """A string before its samples are made."""

    recordings: tuple[Recording, ...]
    sounds: tuple[Float[np.ndarray, " n"], ...]
    """Their samples, perhaps faster or slower."""
    pauses: tuple[int, ...]
    """Samples before each, and behind the last."""
    seed: tuple[int, ...]
    """What decides the rest."""

    @property
    def length(self) -> int:
        """Samples of the whole string."""
        return sum(map(len, self.sounds)) + sum(self.pauses)

    @property
    def text(self) -> str:
        """What is said."""
        return " ".join(WORDS[recording.digit] for recording in self.recordings)


class DigitSplit:
    """Recordings of single digits, and the strings that they make."""

    def __init__(self, options: DigitBatches, coder: SpeechCoder, recordings: Sequence[Recording]):
        """`recordings` has one at least."""
        self.options = options
        self.coder = coder
        self.recordings = recordings
        self._of: dict[str, list[int]] = {}
        for number, recording in enumerate(recordings):
            self._of.setdefault(recording.speaker, []).append(number)
        self._speakers = sorted(self._of)
        made_up = {recording.speaker for recording in recordings if recording.made_up}
        groups = sorted(self._of.keys() - made_up), sorted(made_up)
        self._groups = [group for group in groups if group]
        self._sound = functools.cache(self._make_sound)

    def __len__(self) -> int:
        """Return the number of recordings."""
        return len(self.recordings)

    def draw(self, max_digits: int, seed: tuple[int, ...]) -> Plan:
        """A string to train on, one speaker's, perturbed; half are made-up voices', if any."""
        rng, options = np.random.default_rng((*seed, 0)), self.options
        group = self._groups[rng.integers(len(self._groups))]
        own = self._of[group[rng.integers(len(group))]]
        count = rng.integers(options.min_digits, max_digits, endpoint=True)
        said = [own[place] for place in rng.integers(len(own), size=count)]
        version = int(rng.integers(1, 2 * _SPEEDS + 1, endpoint=True))
        return self._plan(said, version, seed)

    def _plan(self, said: Sequence[int], version: int, seed: tuple[int, ...]) -> Plan:
        rng = np.random.default_rng((*seed, 1))
        pauses = rng.integers(0, int(self.options.max_pause * RATE), len(said) + 1, endpoint=True)
        return Plan(
            tuple(self.recordings[number] for number in said),
            tuple(self._sound(number, version) for number in said),
            tuple(pauses.tolist()),
            seed,
        )

    def _make_sound(self, number: int, version: int) -> Float[np.ndarray, " n"]:
        """A recording as it is (version 0), or at one of nine speeds and a tempo of its own."""
        sound, options = self.recordings[number].samples, self.options
        if version:
            speed = 1 + options.speed * ((version - 1) / _SPEEDS - 1)
            tempo = 1 + options.tempo * np.random.default_rng((number, version)).uniform(-1, 1)
            if speed != 1:
                sound = resample(sound, max(round(len(sound) / speed), 1))
            if tempo != 1:
                sound = stretch(sound, max(round(len(sound) / tempo), 1), RATE)
            room = np.random.default_rng((number, version, 1))
            if room.random() < options.rooms:
                sound = _in_a_room(sound, room)
        return faded(sound, _FADE)

    def render(self, plan: Plan, channel: float) -> Example:
        """The arrays of a string, as `SpeechCoder.example` has them."""
        options, rng = self.options, np.random.default_rng((*plan.seed, 2))
        samples = np.zeros(plan.length, np.float32)
        at = 0
        for sound, pause in zip(plan.sounds, plan.pauses, strict=False):
            at += pause
            samples[at : at + len(sound)] = sound
            at += len(sound)
        if channel:
            samples = through_channel(samples, channel, rng)
        if options.noise:
            snr = rng.uniform(options.min_snr, options.max_snr)
            samples = in_noise(samples, snr, rng.uniform(*_COLOURS), rng)
        speaker = self.coder.speakers.index(plan.recordings[0].speaker)
        return self.coder.example(samples, plan.text, speaker)

    @functools.cached_property
    def held_out(self) -> Ragged:
        """The fixed strings of a held-out split, in buckets."""
        examples = [self.render(plan, channel=0.0) for plan in self._fixed()]
        return Ragged(examples, "samples", self.options.batch_size)

    def clips(self, count: int) -> Iterator[str]:
        """Yield lines that stand for some of the held-out strings (`speech.clip_to_line`)."""
        plans = self._fixed()
        for plan in plans[:: max(len(plans) // count, 1)][:count]:
            samples = self.render(plan, channel=0.0)["samples"]
            yield clip_to_line(samples, RATE, plan.text, plan.recordings[0].speaker)

    def _fixed(self) -> list[Plan]:
        """Every recording `rounds` times, in strings of each speaker's."""
        plans = []
        for round_number in range(self.options.rounds):
            for number, speaker in enumerate(self._speakers):
                rng = np.random.default_rng((round_number, number))
                own = self._of[speaker]
                left = [own[i] for i in rng.permutation(len(own))]
                while left:
                    low, high = self.options.min_digits, self.options.max_digits
                    count = int(rng.integers(low, high, endpoint=True))
                    said, left = left[:count], left[count:]
                    plans.append(self._plan(said, 0, (round_number, number, len(left))))
        return plans


class DigitStringBatches:
    """`batches[step]`: new strings at every step, a pure function of (seed, step).

    The strings of `_POOL` steps are sorted by length, so that little of a batch is padding, and
    cut into batches of a few shapes, whose order is random.
    """

    def __init__(self, split: DigitSplit, seed: int):
        """Build on `split`; `seed` is an integer from 0 up."""
        self.split = split
        self._seed = seed
        self._pool = functools.lru_cache(maxsize=2)(self._make_pool)

    def __len__(self) -> int:
        """Return the number of batches in which every recording is said once, on average."""
        options = self.split.options
        digits = options.batch_size * (options.min_digits + options.max_digits) / 2
        return max(round(len(self.split) / digits), 1)

    def __getitem__(self, step: int) -> Batch:
        """Return the arrays of `step`, counted from 0."""
        return self.rows(step, range(self.split.options.batch_size))

    def rows(self, step: int, rows: Sequence[int]) -> Batch:
        """Return these rows of the batch of `step`, in the shape of the whole one's.

        All rows are planned, which costs little, and these alone are laid out.
        """
        if step < 0:
            raise IndexError(f"step {step} is negative")
        options = self.split.options
        pool, index = divmod(step, _POOL)
        plans = self._pool(pool)[index]
        longest = max(len(units(f"{word} " * options.max_digits, options.unit)) for word in WORDS)
        shapes = {
            "samples": (_seconds(max(plan.length for plan in plans)),),
            "labels": (room_for(longest),),
            **dict.fromkeys(("lengths", "label_lengths", "speakers"), ()),
        }
        examples = [self.split.render(plans[row], options.channel) for row in rows]
        return collate(examples, len(rows), shapes)

    def _make_pool(self, pool: int) -> list[list[Plan]]:
        options = self.split.options
        size, grown = options.batch_size, 1.0
        if options.growth:
            grown = min(pool * _POOL / options.growth, 1.0)
        longest = options.min_digits + round((options.max_digits - options.min_digits) * grown)
        plans = [
            self.split.draw(longest, (self._seed, pool, number)) for number in range(_POOL * size)
        ]
        plans.sort(key=lambda plan: plan.length)
        order = np.random.default_rng((self._seed, pool)).permutation(_POOL)
        return [plans[place * size : (place + 1) * size] for place in order.tolist()]


def _in_a_room(sound: Float[np.ndarray, " n"], rng: np.random.Generator) -> Float[np.ndarray, " m"]:
    """The sound between up to 0.25 s on either side, all of it in noise of 5 to 40 dB less."""
    around = rng.integers(0, round(0.25 * RATE), 2)
    return in_noise(np.pad(sound, around), rng.uniform(5, 40), rng.uniform(*_COLOURS), rng)


def _seconds(length: int) -> int:
    """The least of 1, 2, 4, ... seconds that holds `length`, in samples.

    Finer shapes would take longer to compile than they save.
    """
    room = RATE
    while room < length:
        room *= 2
    return room


def _sample_transcripts(options: DigitBatches) -> list[str]:
    """Some strings like those of training, for a language model."""
    rng = np.random.default_rng(0)
    counts = rng.integers(options.min_digits, options.max_digits, 200, endpoint=True)
    return [" ".join(WORDS[digit] for digit in rng.integers(10, size=n)) for n in counts]
