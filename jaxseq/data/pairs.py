"""Pairs of a source and a target text, from files of SOURCE TAB TARGET lines."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from jaxseq.data.batches import Batch
from jaxseq.data.corpus import Corpus, fingerprint
from jaxseq.data.ragged import Example, Ragged, RaggedBatches, ragged_evaluation_batches
from jaxseq.data.split_files import SplitFiles, two_fields
from jaxseq.data.text import Document
from jaxseq.data.vocabulary import END, START, UNKNOWN, Vocabulary
from jaxseq.errors import UserError

Pair = tuple[str, str]
Unit = Literal["character", "word"]


def read_pairs(document: Document) -> list[Pair]:
    """The pairs of a file with a line `SOURCE TAB TARGET` for each; empty lines are passed over.

    Raises UserError naming file and line for another number of fields or an empty one, and for a
    file without a pair.
    """
    lines = two_fields(document, "SOURCE TAB TARGET; mend the line")
    pairs = [fields for _, fields in lines if fields is not None]
    if not pairs:
        raise UserError(f"{document.name} has no pair: give lines of SOURCE TAB TARGET")
    return pairs


@dataclass(frozen=True)
class PairTokenizer:
    """Source and target texts as numbers, by character or by word (what stands between spaces).

    Target number 0 is the start of a target and 1 its end.
    """

    source_unit: Unit
    target_unit: Unit
    source: Vocabulary
    target: Vocabulary

    start = 0
    end = 1

    @classmethod
    def train(cls, pairs: Sequence[Pair], source_unit: Unit, target_unit: Unit) -> "PairTokenizer":
        """The numbers of what occurs in `pairs`."""
        sources, targets = Counter[str](), Counter[str]()
        for source, target in pairs:
            sources.update(_units(source, source_unit))
            targets.update(_units(target, target_unit))
        return cls(
            source_unit,
            target_unit,
            Vocabulary.build(sources, (UNKNOWN,)),
            Vocabulary.build(targets, (START, END, UNKNOWN)),
        )

    def example(self, source: str, target: str = "") -> Example:
        """The arrays of a pair: source (S), inputs and targets (T), and their lengths ().

        Inputs are the target behind its start, targets the same followed by its end.
        """
        read = self.source.encode(_units(source, self.source_unit))
        written = self.target.encode(_units(target, self.target_unit))
        return {
            "source": read,
            "source_lengths": np.array(len(read), np.int32),
            "inputs": np.concatenate([[self.start], written]).astype(np.int32),
            "targets": np.concatenate([written, [self.end]]).astype(np.int32),
            "target_lengths": np.array(len(written) + 1, np.int32),
        }

    def source_units(self, source: str) -> list[str]:
        """A source as the model reads it: a string for each number."""
        return list(_units(source, self.source_unit))

    def target_units(self, numbers: ArrayLike) -> list[str]:
        """What a model wrote, up to its end: a string for each number."""
        written = np.asarray(numbers).tolist()
        if self.end in written:
            written = written[: written.index(self.end)]
        return self.target.decode(written)

    def join(self, units: Sequence[str]) -> str:
        """The target text that the units spell."""
        return ("" if self.target_unit == "character" else " ").join(units)


def _units(text: str, unit: Unit) -> Sequence[str]:
    return text if unit == "character" else text.split()


def pair_corpus(
    tokenizer: PairTokenizer,
    pairs: Mapping[str, Sequence[Pair]],
    batch_size: int,
    documents: Sequence[Document],
) -> Corpus[PairTokenizer, Ragged]:
    """The corpus of the splits "train", "validation" and perhaps "test"."""
    splits = {
        name: Ragged([tokenizer.example(*pair) for pair in found], "source", batch_size)
        for name, found in pairs.items()
    }
    return Corpus(
        tokenizer=tokenizer,
        train=splits["train"],
        validation=splits["validation"],
        test=splits.get("test"),
        fingerprint=fingerprint(documents),
        inputs=tuple(source for source, _ in pairs["validation"][:6]),
    )


@dataclass(frozen=True)
class PairBatches:
    """How pairs are batched; what `PairData` and generated pairs share."""

    batch_size: int = 64
    """Pairs in a batch, B, over all devices."""

    def train_batches(self, corpus: Corpus[PairTokenizer, Ragged], seed: int) -> RaggedBatches:
        """The batches of a training run."""
        return RaggedBatches(corpus.train, seed)

    def evaluation_batches(self, split: Ragged, at_most: int | None = None) -> Iterator[Batch]:
        """The batches of a held-out split, or about `at_most` of them, spread over it."""
        return ragged_evaluation_batches(split, at_most)

    def describe(self, corpus: Corpus[PairTokenizer, Ragged]) -> str:
        """What there is to train on, for a person."""
        return f"{len(corpus.train):,} pairs"

    def check(self) -> None:
        """Raises UserError for a batch without room."""
        if self.batch_size < 1:
            raise UserError(f"--data.batch-size is {self.batch_size}: it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class PairData(SplitFiles, PairBatches):
    """Pairs from files of SOURCE TAB TARGET lines, and how they are batched."""

    source_unit: Unit = "character"
    """What one token of a source is."""

    target_unit: Unit = "word"
    """What one token of a target is."""

    def load(self, tokenizer: PairTokenizer | None = None) -> Corpus[PairTokenizer, Ragged]:
        """Read the files; the tokenizer is made from the training file where none is given.

        Raises UserError for a bad field, a path that cannot be read and a malformed line (with
        file and line).
        """
        self.check()
        documents = self.documents()
        pairs = {name: read_pairs(document) for name, document in documents.items()}
        if tokenizer is None:
            tokenizer = PairTokenizer.train(pairs["train"], self.source_unit, self.target_unit)
        return pair_corpus(tokenizer, pairs, self.batch_size, list(documents.values()))
