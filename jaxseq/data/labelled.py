"""Texts, or pairs of texts, with one label each: read from files of rows, as numbers."""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxseq.data.batches import Batch
from jaxseq.data.code_points import code_points
from jaxseq.data.corpus import Corpus, fingerprint
from jaxseq.data.files import absolute
from jaxseq.data.named_tokenizer import KINDS, absolute_name, encode_all, made_tokenizer
from jaxseq.data.ragged import Example, Ragged, RaggedBatches, ragged_evaluation_batches
from jaxseq.data.sources import BadRows, OnBadRow, read_rows
from jaxseq.data.subword_training import train_subwords
from jaxseq.data.subwords import Role, SubwordTokenizer
from jaxseq.data.text import Document
from jaxseq.data.tokenizers import Tokenizer
from jaxseq.errors import UserError
from jaxseq.option_checks import check_range
from jaxseq.typing import Int

Tokens = Int[np.ndarray, " _"]

WORDPIECE = "wordpiece"
"""The name of the subword tokenizer that is made on the spot; others are paths."""


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
class LabelledBatches:
    """How labelled texts become numbers and batches; what files and made-up ones share."""

    tokenizer: str = "word"
    """"char", "byte", "word" or "wordpiece" (made from the training texts, the last in lower case),
    or the path of a subword tokenizer: a tokenizer.json, a vocab.txt, a run directory."""

    vocab_size: int = 8000
    """Tokens of "wordpiece" at most."""

    max_length: int = 0
    """Cut inputs to so many tokens, [CLS] and [SEP] counted; 0: never cut, and an input longer
    than the model's positions is an error."""

    batch_size: int = 32
    """Texts in a batch, B, over all devices."""

    def corpus(
        self,
        rows: Mapping[str, Sequence[Labelled]],
        coder: ClassCoder | Tokenizer | None,
        pairs: bool,
        bad_rows: BadRows,
    ) -> Corpus[ClassCoder, Ragged]:
        """The corpus of the splits "train", "validation" and perhaps "test", each with rows.

        The labels are those of the training split. A `ClassCoder` is used as it is, a bare
        tokenizer for a new one; without either, the tokenizer is what the config names. Held-out
        examples have, beside what `ClassCoder.example` gives,

            text (characters)   the code points of the text, or of both with a tab between

        Raises UserError for a batch without room, an input without, an unknown label, a text
        without a token, and training with one label.
        """
        check_range("data", self, "batch_size", least=1)
        if not isinstance(coder, ClassCoder):
            coder = ClassCoder(
                tokenizer=self._tokenizer(rows["train"]) if coder is None else coder,
                labels=_labels(rows["train"]),
                pairs=pairs,
                max_length=self.max_length,
            )
        _check_room(coder)
        longest, longest_at = 0, ""
        splits: dict[str, Ragged] = {}
        kept: dict[str, list[Labelled]] = {}
        for name, found in rows.items():
            kept[name] = [row for row in found if _known(row, coder, bad_rows)]
            examples = []
            for row, example in zip(kept[name], coder.examples(kept[name]), strict=True):
                if not example["lengths"]:
                    bad_rows.add(row.place, "text without a token")
                    continue
                if example["lengths"] > longest:
                    longest, longest_at = int(example["lengths"]), row.place
                if name != "train":
                    example |= {"text": code_points("\t".join(row.texts))}
                examples.append(example)
            if not examples:
                file = found[0].place.partition(", line ")[0]
                raise UserError(f"{file}: no row can be used; name a file with labelled texts")
            splits[name] = Ragged(examples, by="tokens", batch_size=self.batch_size)
        bad_rows.report()
        return Corpus(
            tokenizer=dataclasses.replace(coder, longest=longest, longest_at=longest_at),
            train=splits["train"],
            validation=splits["validation"],
            test=splits.get("test"),
            fingerprint=_fingerprint(kept),
            inputs=tuple("\t".join(row.texts) for row in kept["validation"][:400:100]),
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

    def _tokenizer(self, rows: Sequence[Labelled]) -> Tokenizer:
        texts = [text for row in rows for text in row.texts]
        if self.tokenizer == WORDPIECE:
            return train_subwords("wordpiece", texts, self.vocab_size, lowercase=True)
        return made_tokenizer(self.tokenizer, texts, (*KINDS, WORDPIECE))


@dataclass(frozen=True, kw_only=True)
class LabelledText(LabelledBatches):
    """Labelled texts from files of rows (.tsv, .csv, .jsonl, .parquet, ...; see `read_rows`)."""

    train: Path
    """What is trained on. `~` and `$NAME` of the environment are filled in, here and below."""

    validation: Path | None = None
    """Held out, and looked at on the way. None: a share of `train`, and where `test` is not named
    another for the end; neither is trained on."""

    test: Path | None = None
    """Held out, for `jaxseq evaluate --split test`."""

    held_out: float = 0.1
    """That share, 0 to 1/2. A hash of a text decides, so that equal texts are in one split."""

    columns: tuple[str, ...] = ("label", "sentence")
    """The columns that are read: the label's, and the text's or those of both texts of a pair. A
    .tsv or .csv file without a header has just these, in this order."""

    label: str = "label"
    """Which of the columns is the label's; the others are the texts, in their order."""

    on_bad_row: OnBadRow = "error"
    """Stop at a row that cannot be used, naming its file and line, or count it and leave it out."""

    def resolve(self) -> "LabelledText":
        """The config with absolute paths, good in every working directory."""
        paths = {name: absolute(path) for name, path in self._paths()}
        made = self.tokenizer == WORDPIECE
        tokenizer = self.tokenizer if made else absolute_name(self.tokenizer)
        return dataclasses.replace(self, **paths, tokenizer=tokenizer)

    def load(self, coder: ClassCoder | Tokenizer | None = None) -> Corpus[ClassCoder, Ragged]:
        """Read the files; see `corpus` for what is made of them.

        Raises UserError for a bad field, and, with file and line, for what `read_rows` cannot
        read, an empty text, and what `corpus` cannot use.
        """
        self._check()
        bad_rows = BadRows(self.on_bad_row)
        rows = self.splits(bad_rows)
        return self.corpus(rows, coder, len(self.columns) == 3, bad_rows)

    def splits(self, bad_rows: BadRows) -> dict[str, list[Labelled]]:
        """The rows of each split by its name, those that can be used."""
        rows = {name: list(self._read(path, bad_rows)) for name, path in self._paths()}
        for name, path in self._paths():
            if not rows[name]:
                raise UserError(f"{path}: no row can be used; name a file with labelled texts")
        if self.validation is None:
            missing = ("validation",) if self.test else ("validation", "test")
            rows |= hash_split(rows["train"], self.held_out, missing)
            empty = [name for name, found in rows.items() if not found]
            if empty:
                raise UserError(
                    f"{self.train} has {len(rows['train'])} rows left to train on and none for "
                    f"{' and '.join(empty)}; name --data.validation, or mend --data.held-out"
                )
        return rows

    def _paths(self) -> list[tuple[str, Path]]:
        paths = (("train", self.train), ("validation", self.validation), ("test", self.test))
        return [(name, path) for name, path in paths if path is not None]

    def _check(self) -> None:
        columns = " ".join(self.columns)
        if len(set(self.columns)) != len(self.columns) or not 2 <= len(self.columns) <= 3:
            raise UserError(
                f"--data.columns is {columns}: name the label's column and one or two of texts"
            )
        if self.label not in self.columns:
            raise UserError(
                f"--data.label is {self.label}, which is none of --data.columns {columns}"
            )
        check_range("data", self, "held_out", above=0, below=0.5)

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


def hash_split(
    rows: Sequence[Labelled], share: float, names: Sequence[str]
) -> dict[str, list[Labelled]]:
    """The rows in "train" and in `names`, about a `share` of them in each of the latter.

    SHA-256 of the texts decides, in lower case and with single spaces: equal texts are in the same
    split, whatever their labels, and rows that are added move no others.
    """
    splits: dict[str, list[Labelled]] = {name: [] for name in ("train", *names)}
    for row in rows:
        text = "\t".join(" ".join(text.casefold().split()) for text in row.texts)
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        part = int(int.from_bytes(digest[:8], "big") / 2**64 / share)
        splits[names[part] if part < len(names) else "train"].append(row)
    return splits


def _check_room(coder: ClassCoder) -> None:
    markers = len(coder.example([""] * (1 + coder.pairs))["tokens"])
    least = markers + 1 + coder.pairs
    if coder.max_length and coder.max_length < least:
        raise UserError(
            f"--data.max-length is {coder.max_length}: an input takes {least} tokens at least; "
            "0 never cuts"
        )


def _known(row: Labelled, coder: ClassCoder, bad_rows: BadRows) -> bool:
    if row.label in coder.labels:
        return True
    known = ", ".join(coder.labels)
    bad_rows.add(row.place, "unknown label", f"{row.label!r}; the labels of training are {known}")
    return False


def _labels(rows: Sequence[Labelled]) -> tuple[str, ...]:
    labels = tuple(sorted({row.label for row in rows}))
    if len(labels) == 1:
        file = rows[0].place.partition(", line ")[0]
        raise UserError(
            f"{file}: every row has the label {labels[0]!r}; give rows of two labels or more, or "
            "mend --data.label"
        )
    return labels


def _fingerprint(rows: Mapping[str, Sequence[Labelled]]) -> str:
    """Of what was read, wherever it lies."""
    return fingerprint(
        [
            Document(f"{name} {row.label}", "\t".join(row.texts))
            for name, found in rows.items()
            for row in found
        ]
    )
