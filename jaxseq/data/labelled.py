"""Texts, or pairs of texts, with one label each: read from files of rows, as numbers."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxseq.data.batches import Batch
from jaxseq.data.corpus import Corpus, fingerprint
from jaxseq.data.named_tokenizer import absolute_name, encode_all, made_tokenizer
from jaxseq.data.ragged import Example, Ragged, RaggedBatches, ragged_evaluation_batches
from jaxseq.data.sources import BadRows, OnBadRow, read_rows
from jaxseq.data.split_files import SplitFiles
from jaxseq.data.subwords import Role, SubwordTokenizer
from jaxseq.data.text import Document
from jaxseq.data.tokenizers import Tokenizer
from jaxseq.errors import UserError
from jaxseq.typing import Int

Tokens = Int[np.ndarray, " _"]


class Labelled(NamedTuple):
    """One text, or two, and their label."""

    place: str
    """`FILE, line N`."""
    texts: tuple[str, ...]
    label: str


@dataclass(frozen=True)
class ClassCoder:
    """Texts as a classifier reads them, and its labels."""

    tokenizer: Tokenizer
    labels: tuple[str, ...]
    """`labels[c]` is class c."""
    pairs: bool = False
    """Whether an input is two texts."""
    max_length: int = 0
    """Tokens to which an input is cut, its markers counted; 0: it never is."""
    longest: int = 0
    """Tokens of the longest input of the data."""
    longest_at: str = ""
    """Where that stands: `FILE, line N`."""

    def example(self, texts: Sequence[str], label: str | None = None) -> Example:
        """The arrays of one text or two; the label is 0 where none is given.

            tokens (T)   [CLS] text [SEP]   or   [CLS] text [SEP] second text [SEP]
            types (T)    0 up to the first [SEP] and on it, 1 behind it
            lengths ()   T
            labels ()

        A tokenizer that has no such markers gives none. An input of more than `max_length` tokens
        is cut: a text at its end, of two the longer one.
        """
        return self._joined([self.tokenizer.encode(text) for text in texts], label)

    def examples(self, rows: Sequence[Labelled]) -> list[Example]:
        """`example` of every row (whose labels must be known), on all cores."""
        columns = [
            encode_all(self.tokenizer, texts)
            for texts in zip(*(row.texts for row in rows), strict=True)
        ]
        return [self._joined(parts, row.label) for row, *parts in zip(rows, *columns, strict=True)]

    def _joined(self, parts: Sequence[Tokens], label: str | None) -> Example:
        start = marker(self.tokenizer, "classify")
        stop = marker(self.tokenizer, "separate")
        if self.max_length:
            markers = len(start) + len(parts) * len(stop)
            parts = cut_longer(parts, max(self.max_length - markers, 0))
        kept = [np.concatenate([start, parts[0], stop])]
        kept += [np.concatenate([part, stop]) for part in parts[1:]]
        types = [np.full(len(part), number) for number, part in enumerate(kept)]
        return {
            "tokens": np.concatenate(kept).astype(np.int32),
            "types": np.concatenate(types).astype(np.int32),
            "lengths": np.array(sum(map(len, kept)), np.int32),
            "labels": np.array(0 if label is None else self.labels.index(label), np.int32),
        }


def marker(tokenizer: Tokenizer, role: Role) -> Tokens:
    """The one token that plays `role` ("classify": [CLS], "separate": [SEP]), or none."""
    if isinstance(tokenizer, SubwordTokenizer) and tokenizer.has(role):
        return np.array([tokenizer.special(role)], np.int32)
    return np.zeros(0, np.int32)


def cut_longer(parts: Sequence[Tokens], room: int) -> list[Tokens]:
    """One sequence or two, cut at their ends to `room` tokens in all, of two the longer first."""
    if len(parts) == 1:
        return [parts[0][:room]]
    first, second = parts
    shorter = min(len(first), len(second), room // 2)
    if len(first) < len(second):
        return [first[:shorter], second[: room - shorter]]
    return [first[: room - shorter], second[:shorter]]


@dataclass(frozen=True, kw_only=True)
class LabelledText(SplitFiles):
    """Labelled texts from files of rows (.tsv, .csv, .jsonl, .parquet, ...; see `read_rows`)."""

    columns: tuple[str, ...] = ("label", "sentence")
    """The columns that are read: the label's, and the text's or those of both texts of a pair. A
    .tsv or .csv file without a header has just these, in this order."""

    label: str = "label"
    """Which of the columns is the label's; the others are the texts, in their order."""

    tokenizer: str = "word"
    """"char", "byte" or "word" (made from the training texts), or the path of a subword tokenizer:
    a tokenizer.json, a vocab.txt, a run directory."""

    max_length: int = 0
    """Cut inputs to so many tokens, [CLS] and [SEP] counted; 0: never cut, and an input longer
    than the model's positions is an error."""

    batch_size: int = 32
    """Texts in a batch, B, over all devices."""

    on_bad_row: OnBadRow = "error"
    """Stop at a row that cannot be used, naming its file and line, or count it and leave it out."""

    def resolve(self) -> "LabelledText":
        """The config with absolute paths, good in every working directory."""
        return dataclasses.replace(super().resolve(), tokenizer=absolute_name(self.tokenizer))

    def load(self, coder: ClassCoder | Tokenizer | None = None) -> Corpus[ClassCoder, Ragged]:
        """Read the files.

        The labels are those of the training split. A `ClassCoder` is used as it is, a bare
        tokenizer for a new one; without either, the tokenizer is what the config names.

        Raises UserError for a bad field, and, with file and line, for what `read_rows` cannot
        read, an empty text, a label that training does not have, and training with one label.
        """
        self._check()
        bad_rows = BadRows(self.on_bad_row)
        rows = {name: list(self._read(path, bad_rows)) for name, path in self._paths()}
        if not isinstance(coder, ClassCoder):
            texts = (text for row in rows["train"] for text in row.texts)
            coder = ClassCoder(
                tokenizer=made_tokenizer(self.tokenizer, texts) if coder is None else coder,
                labels=self._labels(rows["train"]),
                pairs=len(self.columns) == 3,
                max_length=self.max_length,
            )
        self._check_room(coder)
        longest, longest_at = 0, ""
        splits = {}
        for name, path in self._paths():
            examples = []
            rows[name] = [row for row in rows[name] if self._known(row, coder, bad_rows)]
            for row, example in zip(rows[name], coder.examples(rows[name]), strict=True):
                if not example["lengths"]:
                    bad_rows.add(row.place, "text without a token")
                    continue
                if example["lengths"] > longest:
                    longest, longest_at = int(example["lengths"]), row.place
                examples.append(example)
            if not examples:
                raise UserError(f"{path}: no row can be used; name a file with labelled texts")
            splits[name] = Ragged(examples, by="tokens", batch_size=self.batch_size)
        bad_rows.report()
        return Corpus(
            tokenizer=dataclasses.replace(coder, longest=longest, longest_at=longest_at),
            train=splits["train"],
            validation=splits["validation"],
            test=splits.get("test"),
            fingerprint=_fingerprint(rows),
            inputs=tuple("\t".join(row.texts) for row in rows["validation"][:400:100]),
        )

    def train_batches(self, corpus: Corpus[ClassCoder, Ragged], seed: int) -> RaggedBatches:
        """The batches of a training run."""
        return RaggedBatches(corpus.train, seed)

    def evaluation_batches(self, split: Ragged, at_most: int | None = None) -> Iterator[Batch]:
        """The batches of a held-out split, or about `at_most` of them, spread over it."""
        return ragged_evaluation_batches(split, at_most)

    def describe(self, corpus: Corpus[ClassCoder, Ragged]) -> str:
        """What there is to train on, for a person."""
        kind = "pairs of texts" if corpus.tokenizer.pairs else "texts"
        return f"{len(corpus.train):,} {kind} with {len(corpus.tokenizer.labels)} labels"

    def _check(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"--data.batch-size is {self.batch_size}: it must be at least 1")
        columns = " ".join(self.columns)
        if len(set(self.columns)) != len(self.columns) or not 2 <= len(self.columns) <= 3:
            raise UserError(
                f"--data.columns is {columns}: name the label's column and one or two of texts"
            )
        if self.label not in self.columns:
            raise UserError(
                f"--data.label is {self.label}, which is none of --data.columns {columns}"
            )

    def _check_room(self, coder: ClassCoder) -> None:
        markers = len(coder.example([""] * (1 + coder.pairs))["tokens"])
        least = markers + 1 + coder.pairs
        if coder.max_length and coder.max_length < least:
            raise UserError(
                f"--data.max-length is {coder.max_length}: an input takes {least} tokens at least; "
                "0 never cuts"
            )

    def _read(self, path: Path, bad_rows: BadRows) -> Iterator[Labelled]:
        for place, fields in read_rows(path, self.columns, bad_rows):
            label = fields.pop(self.label)
            texts = tuple(fields.values())
            if not isinstance(label, str | int) or not str(label).strip():
                bad_rows.add(place, "label that is neither text nor a whole number", repr(label))
            elif not all(isinstance(text, str) and text.strip() for text in texts):
                bad_rows.add(place, "empty text")
            else:
                yield Labelled(place, texts, str(label).strip())

    def _known(self, row: Labelled, coder: ClassCoder, bad_rows: BadRows) -> bool:
        if row.label in coder.labels:
            return True
        known = ", ".join(coder.labels)
        bad_rows.add(
            row.place, "unknown label", f"{row.label!r}; the labels of training are {known}"
        )
        return False

    def _labels(self, rows: Sequence[Labelled]) -> tuple[str, ...]:
        labels = tuple(sorted({row.label for row in rows}))
        if len(labels) == 1:
            raise UserError(
                f"{self.train}: every row has the label {labels[0]!r}; give rows of two labels or "
                "more, or mend --data.label"
            )
        return labels


def _fingerprint(rows: dict[str, list[Labelled]]) -> str:
    """Of what was read, wherever it lies."""
    return fingerprint(
        [
            Document(f"{name} {row.label}", "\t".join(row.texts))
            for name, found in rows.items()
            for row in found
        ]
    )
