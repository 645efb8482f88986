"""Utterances from sound files and their transcripts."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxseq.data.audio import read_audio
from jaxseq.data.batches import Batch
from jaxseq.data.corpus import Corpus
from jaxseq.data.files import absolute
from jaxseq.data.packing import TokenStream
from jaxseq.data.ragged import Example, Ragged, RaggedBatches, ragged_evaluation_batches
from jaxseq.data.rows import BadRows, OnBadRow
from jaxseq.data.speech import SpeechCoder, TranscriptUnit
from jaxseq.data.speech_manifests import Utterance, read_manifest
from jaxseq.data.text import held_out
from jaxseq.data.token_cache import TokenWriter, cached_tokens
from jaxseq.errors import UserError
from jaxseq.option_checks import check_range

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SpeechFiles:
    """Utterances that files list, and how they are batched.

    A list is LibriSpeech's directory, LJSpeech's metadata.csv, or a file of rows (.tsv, .jsonl,
    ...) with a column of sound files and one of transcripts. All sound is decoded once, and kept in
    the cache with 16 bits a sample.
    """

    train: Path
    """The list of what is trained on. `~` and `$NAME` of the environment are filled in."""

    validation: Path | None = None
    """The list of what is held out and looked at on the way; None: a part of the other."""

    test: Path | None = None
    """The list of what is held out for `jaxseq evaluate --split test`."""

    validation_fraction: float = 0.05
    """The share of training's list that is held out, where no other list is."""

    sound_column: str = "file"
    """The column of the sound file; without a suffix, .wav, .flac and .ogg are tried."""

    text_column: str = "text"
    """The column of the transcript."""

    on_bad_row: OnBadRow = "error"
    """Whether a row without a sound file or a transcript stops the load, or is left out, counted
    and reported."""

    unit: TranscriptUnit = "character"
    """What one label is."""

    alphabet: str = ""
    """The characters that transcripts may hold; empty: those that training's list has."""

    rate: int = 16000
    """Samples a second that the model hears, Hz; files at other rates are resampled."""

    batch_size: int = 16
    """Utterances in a batch, B, over all devices."""

    def resolve(self) -> "SpeechFiles":
        """The config with absolute paths, good in every working directory."""
        paths = {name: absolute(path) for name, path in self._paths()}
        return dataclasses.replace(self, **paths)

    def load(self, tokenizer: SpeechCoder | None = None) -> Corpus[SpeechCoder, Ragged]:
        """Read lists and sound; the alphabet is that of the training list where none is given.

        Raises UserError for a bad field, a list that cannot be read, a sound file that is missing
        or damaged, and a transcript with a symbol outside the alphabet, naming file and line.
        """
        self._check()
        listed = self._listed()
        splits = self._splits(listed)
        if tokenizer is None:
            texts = [utterance.text for utterance in listed["train"]]
            tokenizer = SpeechCoder.of(texts, self.unit, self.rate, alphabet=self.alphabet)
        streams, facts = self._sound(splits)
        ragged = {
            name: Ragged(_Utterances(tokenizer, found, streams[name]), "samples", self.batch_size)
            for name, found in splits.items()
        }
        said = [[utterance.text for utterance in found] for found in splits.values()]
        content = f"{facts['content']} {json.dumps(said)}"
        return Corpus(
            tokenizer=tokenizer,
            train=ragged["train"],
            validation=ragged["validation"],
            test=ragged.get("test"),
            fingerprint=hashlib.sha256(content.encode()).hexdigest(),
            inputs=tuple(str(utterance.sound) for utterance in splits["validation"][:3]),
        )

    def train_batches(self, corpus: Corpus[SpeechCoder, Ragged], seed: int) -> RaggedBatches:
        """The batches of a training run."""
        return RaggedBatches(corpus.train, seed)

    def evaluation_batches(self, split: Ragged, at_most: int | None = None) -> Iterator[Batch]:
        """The batches of a held-out split, or about `at_most` of them, spread over it."""
        return ragged_evaluation_batches(split, at_most)

    def describe(self, corpus: Corpus[SpeechCoder, Ragged]) -> str:
        """What there is to train on, for a person."""
        return f"{len(corpus.train):,} utterances"

    def _check(self) -> None:
        check_range("data", self, "batch_size", "rate", least=1)
        if self.validation is None:
            check_range("data", self, "validation_fraction", above=0, below=1)
        if self.alphabet and self.unit == "word":
            raise UserError("--data.alphabet is of characters; leave it out, or --data.unit word")

    def _paths(self) -> list[tuple[str, Path]]:
        paths = (("train", self.train), ("validation", self.validation), ("test", self.test))
        return [(name, path) for name, path in paths if path is not None]

    def _listed(self) -> dict[str, list[Utterance]]:
        bad_rows = BadRows(self.on_bad_row)
        columns = (self.sound_column, self.text_column)
        listed = {
            name: read_manifest(absolute(path), columns, bad_rows) for name, path in self._paths()
        }
        bad_rows.report()
        return listed

    def _splits(self, listed: Mapping[str, list[Utterance]]) -> dict[str, list[Utterance]]:
        if self.validation is not None:
            return dict(listed)
        found = listed["train"]
        if len(found) < 2:
            raise UserError(f"{self.train} lists one utterance: give --data.validation too")
        held = held_out(len(found), self.validation_fraction)
        return {
            **listed,
            "train": [one for i, one in enumerate(found) if i not in held],
            "validation": [one for i, one in enumerate(found) if i in held],
        }

    def _sound(self, splits: Mapping[str, Sequence[Utterance]]) -> Any:
        """The samples of every split, from the cache where they are there already."""
        key = hashlib.sha256(str(self.rate).encode())
        for name, found in splits.items():
            for utterance in found:
                state = utterance.sound.stat()
                said = f"{name} {utterance.sound} {state.st_size} {state.st_mtime_ns}\n"
                key.update(said.encode("utf-8", "surrogateescape"))

        def write(writers: Mapping[str, TokenWriter]) -> dict[str, Any]:
            count = sum(map(len, splits.values()))
            _log.warning("decoding %s sound files, once for these files and rate", f"{count:,}")
            digest = hashlib.sha256()
            for name, found in splits.items():
                for sound, _, place in found:
                    samples, _ = read_audio(sound, f"{sound} ({place})", rate=self.rate)
                    coded = _to_words(samples)
                    digest.update(f"{name} {len(coded)} ".encode() + coded.tobytes())
                    writers[name].write(coded)
                    writers[name].end_document()
            return {"content": digest.hexdigest()}

        # 16 bits: a sample is one of 65,536 tokens.
        return cached_tokens(key.hexdigest()[:32], list(splits), 1 << 16, write)


class _Utterances(Sequence[Example]):
    """The examples of a split, made of the mapped samples as they are asked for."""

    def __init__(self, coder: SpeechCoder, found: Sequence[Utterance], stream: TokenStream):
        """Check every transcript against the alphabet."""
        self._coder = coder
        self._found = found
        self._stream = stream
        self._ends = np.append(stream.starts, len(stream.tokens))
        for utterance in found:
            coder.encode(utterance.text, utterance.place)

    def __len__(self) -> int:
        """Return the number of utterances."""
        return len(self._found)

    def __getitem__(self, number: Any) -> Any:
        """Return the arrays of one utterance; `number` is an integer."""
        coded = self._stream.tokens[self._ends[number] : self._ends[number + 1]]
        return self._coder.example(_from_words(coded), self._found[number].text)


def _to_words(samples: np.ndarray) -> np.ndarray:
    return (np.clip(samples, -1, 1) * 32767).round().astype(np.int32) + 32768


def _from_words(coded: np.ndarray) -> np.ndarray:
    return (coded.astype(np.float32) - 32768) / 32767
