"""The text of an experiment: its config, and the tokenized splits that it loads."""

import dataclasses
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar

from jaxseq.data.batches import Batch, TrainBatches, evaluation_batches
from jaxseq.data.packing import Windows
from jaxseq.data.text import Document, read_documents, split_documents, standard_library
from jaxseq.data.tokenizers import ByteTokenizer, CharTokenizer, Tokenizer, WordTokenizer
from jaxseq.errors import UserError

Coder = TypeVar("Coder")
Split = TypeVar("Split")


@dataclass(frozen=True)
class Corpus(Generic[Coder, Split]):
    """Data split, tokenized and ready to be cut into batches."""

    tokenizer: Coder
    """The tokenizer of all splits, made from the training split alone."""

    train: Split
    """What is trained on."""

    validation: Split
    """Held out, and looked at on the way."""

    fingerprint: str
    """SHA-256, in hex, of the documents' names and contents: tells that a corpus has changed."""

    inputs: tuple[str, ...]
    """A few held-out inputs that show what the trained model makes of them."""

    test: Split | None = None
    """Held out, and looked at when asked for."""


@dataclass(frozen=True)
class TextData:
    """Text for a language model, and how it is cut into batches."""

    path: Path | None = None
    """A text file, or a directory of text files (.gz too); None is the Python standard library.
    `~` and `$NAME` of the environment are filled in."""

    tokenizer: Literal["char", "byte", "word"] = "char"
    """One token a character of the training text, one a UTF-8 byte, or one a word of it (those
    that occur twice), run of spaces or other character."""

    context: int = 64
    """Tokens in a window, T."""

    batch_size: int = 12
    """Windows in a batch, B, over all devices."""

    validation_fraction: float = 0.1
    """The share held out: of the files, or, of a single file, its end."""

    separate_documents: bool = False
    """Keep attention and targets inside one document where a window holds several."""

    def resolve(self) -> "TextData":
        """The config with an absolute path, good in every working directory.

        Raises UserError for a path with an environment variable that is not set.
        """
        return dataclasses.replace(self, path=self.path and absolute(self.path))

    def load(self, tokenizer: Tokenizer | None = None) -> Corpus[Tokenizer, Windows]:
        """Read, split, tokenize and cut the text.

        Training has full windows, without a last partial one. Validation has all held-out text:
        every token but the first is a target once, the last window padded.

        A `tokenizer` that a run has saved is used as it is; without one, it is made from the
        training split alone. Raises UserError for a bad field, a path that cannot be read as text
        (see `read_documents`) and a split shorter than a window.
        """
        self._check()
        path = self.path
        documents = standard_library() if path is None else read_documents(absolute(path))
        train, validation = split_documents(documents, self.validation_fraction)
        if tokenizer is None and self.tokenizer == "byte":
            tokenizer = ByteTokenizer()
        elif tokenizer is None:
            kind = CharTokenizer if self.tokenizer == "char" else WordTokenizer
            tokenizer = kind.train("".join(document.text for document in train))
        return Corpus(
            tokenizer=tokenizer,
            train=self._windows(train, tokenizer, "train"),
            validation=self._windows(validation, tokenizer, "validation"),
            fingerprint=fingerprint(documents),
            inputs=("\n",),
        )

    def train_batches(self, corpus: Corpus, seed: int) -> TrainBatches:
        """The batches of a training run."""
        return TrainBatches(corpus.train, self.batch_size, seed)

    def evaluation_batches(self, split: Windows, at_most: int | None = None) -> Iterator[Batch]:
        """The batches of a held-out split, or about `at_most` of them, spread over it."""
        return evaluation_batches(split, self.batch_size, at_most)

    def describe(self, corpus: Corpus) -> str:
        """What there is to train on, for a person."""
        return f"{len(corpus.train):,} windows of {self.context} tokens"

    def _check(self) -> None:
        for option, value in (("context", self.context), ("batch-size", self.batch_size)):
            if value < 1:
                raise UserError(f"--data.{option} is {value}: it must be at least 1")
        if not 0 < self.validation_fraction < 1:
            raise UserError(
                f"--data.validation-fraction is {self.validation_fraction}: it must lie between "
                "0 and 1, both excluded"
            )

    def _windows(self, documents: Sequence[Document], tokenizer: Tokenizer, name: str) -> Windows:
        return Windows(
            [tokenizer.encode(document.text) for document in documents],
            self.context,
            separate=self.separate_documents,
            drop_remainder=name == "train",
            name=name,
        )


def absolute(path: Path) -> Path:
    """The absolute path, `~` and `$NAME` filled in; UserError for a variable that is not set."""
    expanded = Path(os.path.expandvars(path)).expanduser().resolve()
    unset = re.search(r"\$\{?(\w+)", str(expanded))
    if unset and not expanded.exists():
        raise UserError(
            f"cannot read {path}: the environment variable {unset[1]} is not set; set it, or say "
            "with --data.path where the text is"
        )
    return expanded


def fingerprint(documents: Sequence[Document]) -> str:
    """SHA-256, in hex, of names and texts."""
    digest = hashlib.sha256()
    for document in documents:
        for field in (document.name, document.text):
            # surrogateescape: file names, unlike texts, may hold bytes that are not UTF-8.
            data = field.encode("utf-8", "surrogateescape")
            # The length goes first, so that no two lists of fields run into the same bytes.
            digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()
