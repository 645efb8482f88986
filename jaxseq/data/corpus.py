"""The text of an experiment: its config, and the tokenized splits that it loads."""

import dataclasses
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxseq.data.packing import Windows
from jaxseq.data.text import Document, read_documents, split_documents, standard_library
from jaxseq.data.tokenizers import ByteTokenizer, CharTokenizer, Tokenizer
from jaxseq.errors import UserError


@dataclass(frozen=True)
class Corpus:
    """A text, split, tokenized and cut into windows."""

    tokenizer: Tokenizer
    """The tokenizer of both splits."""

    train: Windows
    """Full windows; a last partial one is left out."""

    validation: Windows
    """All held-out text: every token but the first is a target once, the last window padded."""

    fingerprint: str
    """SHA-256, in hex, of the documents' names and contents: tells that a corpus has changed."""


@dataclass(frozen=True)
class TextData:
    """Text for a language model, and how it is cut into batches."""

    path: Path | None = None
    """A text file, or a directory of text files (.gz too); None is the Python standard library.
    `~` and `$NAME` of the environment are filled in."""

    tokenizer: Literal["char", "byte"] = "char"
    """One token a character of the training text, or one a UTF-8 byte."""

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
        return dataclasses.replace(self, path=self.path and _absolute(self.path))

    def load(self, tokenizer: Tokenizer | None = None) -> Corpus:
        """Read, split, tokenize and cut the text.

        A `tokenizer` that a run has saved is used as it is; without one, it is made from the
        training split alone. Raises UserError for a bad field, a path that cannot be read as text
        (see `read_documents`) and a split shorter than a window.
        """
        self._check()
        if self.path is None:
            documents = standard_library()
        else:
            documents = read_documents(_absolute(self.path))
        train, validation = split_documents(documents, self.validation_fraction)
        if tokenizer is None and self.tokenizer == "byte":
            tokenizer = ByteTokenizer()
        elif tokenizer is None:
            tokenizer = CharTokenizer.train("".join(document.text for document in train))
        return Corpus(
            tokenizer=tokenizer,
            train=self._windows(train, tokenizer, "train"),
            validation=self._windows(validation, tokenizer, "validation"),
            fingerprint=_fingerprint(documents),
        )

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


def _absolute(path: Path) -> Path:
    expanded = Path(os.path.expandvars(path)).expanduser().resolve()
    unset = re.search(r"\$\{?(\w+)", str(expanded))
    if unset and not expanded.exists():
        raise UserError(
            f"cannot read {path}: the environment variable {unset[1]} is not set; set it, or say "
            "with --data.path where the text is"
        )
    return expanded


def _fingerprint(documents: Sequence[Document]) -> str:
    digest = hashlib.sha256()
    for document in documents:
        for field in (document.name, document.text):
            # surrogateescape: file names, unlike texts, may hold bytes that are not UTF-8.
            data = field.encode("utf-8", "surrogateescape")
            # The length goes first, so that no two lists of fields run into the same bytes.
            digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()
