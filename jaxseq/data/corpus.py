"""The text of an experiment: its config, and the tokenized splits that it loads."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from jaxseq.data.batches import Batch, TrainBatches, evaluation_batches
from jaxseq.data.documents import Documents
from jaxseq.data.files import absolute
from jaxseq.data.large_corpus import LargeCorpus
from jaxseq.data.named_tokenizer import absolute_name, encode_all, end_ids, made_tokenizer
from jaxseq.data.packing import TokenStream, Windows
from jaxseq.data.rows import BadRows, OnBadRow
from jaxseq.data.text import Document, split_documents, standard_library
from jaxseq.data.tokenizers import Tokenizer
from jaxseq.option_checks import check_range

_IN_MEMORY = 1 << 24
"""Bytes of text up to which tokens are made at every start, which then takes a second or two."""

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
    """A text file, a directory of them (.gz too), a glob, a URL (gs://, s3://, ...) or a dataset
    hf://ORG/NAME[/CONFIG][?split=train]; None is the Python standard library. Each row of a .jsonl,
    .parquet or .arrayrecord file is a document, and of a .tsv or .csv with a header. `~` and
    `$NAME` of the environment are filled in."""

    column: str = "text"
    """The column of the text in files of rows."""

    on_bad_row: OnBadRow = "error"
    """Whether a row that cannot be read stops the load, or is left out, counted and reported."""

    tokenizer: str = "char"
    """`char`: one token a character of the training text; `byte`: one a UTF-8 byte; `word`: one a
    word of it (those that occur twice), run of spaces or other character. Else the path of a
    subword tokenizer; its end token, where it has one, stands behind each of several documents."""

    context: int = 64
    """Tokens in a window, T."""

    batch_size: int = 12
    """Windows in a batch, B, over all devices."""

    validation_fraction: float = 0.1
    """The share held out: of the files, or, of a single file, its end."""

    separate_documents: bool = False
    """Keep attention and targets inside one document where a window holds several."""

    def resolve(self) -> "TextData":
        """The config with absolute paths, good in every working directory.

        Raises UserError for a path with an environment variable that is not set.
        """
        path = self.path and absolute(self.path)
        return dataclasses.replace(self, path=path, tokenizer=absolute_name(self.tokenizer))

    def load(self, tokenizer: Tokenizer | None = None) -> Corpus[Tokenizer, Windows]:
        """Read, split, tokenize and cut the text.

        Training has full windows, without a last partial one. Validation has all held-out text:
        every token but the first is a target once, the last window padded.

        A `tokenizer` that a run has saved is used as it is; without one, it is made from the
        training split alone, or read from the path that the config names. The tokens of more than
        16 MB of text are kept on disk (see `token_cache`), and mapped.

        Raises UserError for a bad field, a path that cannot be read as text (see `Documents`), bad
        rows and a split shorter than a window.
        """
        self._check()
        if self.path is None:
            return self._in_memory(standard_library(), tokenizer)
        documents = Documents(absolute(self.path), self.column)
        size = documents.num_bytes()
        if size is None or size > _IN_MEMORY:
            return self._on_disk(documents, tokenizer)
        bad_rows = BadRows(self.on_bad_row)
        found = list(documents.whole(bad_rows))
        bad_rows.report()
        return self._in_memory(found, tokenizer)

    def _in_memory(
        self, documents: Sequence[Document], tokenizer: Tokenizer | None
    ) -> Corpus[Tokenizer, Windows]:
        train, validation = split_documents(documents, self.validation_fraction)
        if tokenizer is None:
            tokenizer = made_tokenizer(self.tokenizer, ["".join(part.text for part in train)])
        end = end_ids(tokenizer, len(documents))
        tokens = [
            [np.concatenate([ids, end]) for ids in encode_all(tokenizer, [d.text for d in part])]
            for part in (train, validation)
        ]
        return Corpus(
            tokenizer=tokenizer,
            train=self._windows(tokens[0], "train"),
            validation=self._windows(tokens[1], "validation"),
            fingerprint=fingerprint(documents),
            inputs=("\n",),
        )

    def _on_disk(
        self, documents: Documents, tokenizer: Tokenizer | None
    ) -> Corpus[Tokenizer, Windows]:
        large = LargeCorpus(documents, self.validation_fraction, self.on_bad_row)
        prepared = large.prepare(tokenizer, self.tokenizer)
        return Corpus(
            tokenizer=prepared.tokenizer,
            train=self._windows(prepared.train, "train"),
            validation=self._windows(prepared.validation, "validation"),
            fingerprint=prepared.fingerprint,
            inputs=("\n",),
        )

    def train_batches(self, corpus: Corpus, seed: int) -> TrainBatches:
        """The batches of a training run."""
        return TrainBatches(corpus.train, self.batch_size, seed)

    def evaluation_batches(self, split: Windows, at_most: int | None = None) -> Iterator[Batch]:
        """The batches of a held-out split, or about `at_most` of them, spread over it."""
        return evaluation_batches(split, self.batch_size, at_most)

    def blank_batch(self) -> Batch:
        """A training batch of padding alone, for its shapes: made without reading any text."""
        self._check()
        integers, flags = np.zeros((), np.int32), np.zeros((), bool)
        batch = {"inputs": integers, "targets": integers, "mask": flags}
        if self.separate_documents:
            batch |= {"segments": integers, "positions": integers}
        # Views of one number each: they take no memory.
        shape = (self.batch_size, self.context)
        return {name: np.broadcast_to(value, shape) for name, value in batch.items()}

    def describe(self, corpus: Corpus) -> str:
        """What there is to train on, for a person."""
        return f"{len(corpus.train):,} windows of {self.context} tokens"

    def _check(self) -> None:
        check_range("data", self, "context", "batch_size", least=1)
        check_range("data", self, "validation_fraction", above=0, below=1)

    def _windows(self, documents: Sequence[np.ndarray] | TokenStream, name: str) -> Windows:
        return Windows(
            documents,
            self.context,
            separate=self.separate_documents,
            drop_remainder=name == "train",
            name=name,
        )


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
