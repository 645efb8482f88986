"""Strings of spoken digits from the Free Spoken Digit Dataset (Jackson et al. 2016-)."""

import dataclasses
import hashlib
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jaxseq.data.audio import read_audio
from jaxseq.data.corpus import Corpus
from jaxseq.data.digit_batches import RATE, DigitBatches, DigitSplit
from jaxseq.data.digit_recordings import Recording, by_split
from jaxseq.data.files import absolute
from jaxseq.data.made_up_speech import made_up_voices
from jaxseq.data.speech import SpeechCoder, at_level
from jaxseq.errors import UserError
from jaxseq.option_checks import check_range

_NAME = re.compile(r"([0-9])_([^_]+)_([0-9]+)\.wav")


@dataclass(frozen=True, kw_only=True)
class DigitStrings(DigitBatches):
    """Digits that people have recorded, and how they are put together."""

    path: Path
    """A directory with files {digit}_{speaker}_{take}.wav, below it or in .tar files: the
    dataset's own `recordings`, for one. `~` and `$NAME` of the environment are filled in."""

    speakers: tuple[str, ...] = ()
    """Whose recordings are used; none named: everybody's."""

    held_out_speaker: str = ""
    """Who is not heard in training, and makes the test split; empty: the official split, takes 0
    to 4 of every digit and speaker."""

    made_up_voices: int = 0
    """Voices of a formant synthesiser that say half of the training strings: what only the few
    people recorded do is then not learnt as what tells digits apart."""

    def resolve(self) -> "DigitStrings":
        """The config with absolute paths, good in every working directory."""
        return dataclasses.replace(self, path=absolute(self.path))

    def load(self, tokenizer: SpeechCoder | None = None) -> Corpus[SpeechCoder, DigitSplit]:
        """Read the recordings.

        Raises UserError for a bad field, a path without recordings, a recording that cannot be
        read (named), speakers who say nothing and an empty split.
        """
        self.check()
        check_range("data", self, "made_up_voices", least=0)
        path = absolute(self.path)
        sounds = read_sounds(path)
        found = [
            recording_of(name, sound)
            for name, sound in sounds
            if not self.speakers or name.split("_")[1] in self.speakers
        ]
        missing = set(self.speakers) - {recording.speaker for recording, _ in found}
        if missing:
            raise UserError(f"--data.speakers names {sorted(missing)}, who says nothing in {path}")
        digest = hashlib.sha256()
        for name, sound in sounds:
            digest.update(f"{name} {len(sound)} ".encode() + sound)
        splits = by_split(iter(found), self.held_out_speaker, str(path))
        splits["train"] += made_up_voices(self.made_up_voices)
        return self.corpus(splits, tokenizer, digest.hexdigest())


def recording_of(name: str, sound: bytes) -> tuple[Recording, int]:
    """The recording in a file {digit}_{speaker}_{take}.wav, at the common level, and its take."""
    digit, speaker, take = name.removesuffix(".wav").split("_")
    samples, _ = read_audio(sound, name, rate=RATE)
    return Recording(at_level(samples), int(digit), speaker), int(take)


def read_sounds(path: Path) -> list[tuple[str, bytes]]:
    """The names and contents of the recordings below `path` or in its .tar files, by name.

    Raises UserError for a path without one and for an archive that cannot be read.
    """
    named = sorted(_sounds(path))
    if not named:
        raise UserError(f"{path} has no files {{digit}}_{{speaker}}_{{take}}.wav, nor .tar of them")
    return named


def _sounds(path: Path) -> Iterator[tuple[str, bytes]]:
    if not path.is_dir():
        raise UserError(f"{path} is no directory: name the one with the recordings")
    for file in path.rglob("*.wav"):
        if _NAME.fullmatch(file.name):
            yield file.name, file.read_bytes()
    for archive in path.glob("*.tar"):
        try:
            with tarfile.open(archive) as files:
                for member in files:
                    name = Path(member.name).name
                    content = files.extractfile(member) if _NAME.fullmatch(name) else None
                    if content is not None:
                        yield name, content.read()
        except (OSError, tarfile.TarError) as error:
            raise UserError(f"cannot read {archive}: {error}; restore it from a copy") from error
