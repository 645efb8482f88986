"""Pairs of a source and a target text, from files of SOURCE TAB TARGET lines."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxseq.data.batches import Batch
from jaxseq.data.code_points import stacked_points
from jaxseq.data.corpus import Corpus, fingerprint
from jaxseq.data.files import absolute, as_url, suffix_of
from jaxseq.data.pair_tokenizers import PairCoder, PairTokenizer, SubwordPairTokenizer, Unit
from jaxseq.data.ragged import Example, Ragged, RaggedBatches, ragged_evaluation_batches
from jaxseq.data.sources import read_rows
from jaxseq.data.split_files import SplitFiles, read_file, two_fields
from jaxseq.data.subword_training import train_subwords
from jaxseq.data.subwords import SubwordTokenizer, load_subwords
from jaxseq.data.text import Document
from jaxseq.errors import UserError
from jaxseq.option_checks import check_range

Pair = tuple[str, str]


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


def pair_corpus(
    tokenizer: PairCoder,
    pairs: Mapping[str, Sequence[Pair]],
    batch_size: int,
    documents: Sequence[Document],
    references: bool = False,
) -> Corpus[PairCoder, Ragged]:
    """The corpus of the splits "train", "validation" and perhaps "test".

    With `references`, the held-out pairs of one source are one example: the first pair's, and as
    "references" (R, characters) the code points of all their targets.
    """
    examples = {name: [tokenizer.example(*pair) for pair in found] for name, found in pairs.items()}
    if references:
        for name in examples.keys() - {"train"}:
            examples[name] = _by_source(pairs[name], examples[name])
    lengths = ("source_lengths", "target_lengths")
    longest = max(int(e[name]) for found in examples.values() for e in found for name in lengths)
    splits = {name: Ragged(found, "source", batch_size) for name, found in examples.items()}
    return Corpus(
        tokenizer=dataclasses.replace(tokenizer, longest=longest),
        train=splits["train"],
        validation=splits["validation"],
        test=splits.get("test"),
        fingerprint=fingerprint(documents),
        inputs=tuple(source for source, _ in pairs["validation"][:6]),
    )


def _by_source(pairs: Sequence[Pair], examples: Sequence[Example]) -> list[Example]:
    targets: dict[str, list[str]] = {}
    firsts: dict[str, Example] = {}
    for (source, target), example in zip(pairs, examples, strict=True):
        targets.setdefault(source, []).append(target)
        firsts.setdefault(source, example)
    return [
        example | {"references": stacked_points(targets[source])}
        for source, example in firsts.items()
    ]


@dataclass(frozen=True)
class PairBatches:
    """How pairs are batched; what `PairData` and generated pairs share."""

    batch_size: int = 64
    """Pairs in a batch, B, over all devices."""

    def train_batches(self, corpus: Corpus[PairCoder, Ragged], seed: int) -> RaggedBatches:
        """The batches of a training run."""
        return RaggedBatches(corpus.train, seed)

    def evaluation_batches(self, split: Ragged, at_most: int | None = None) -> Iterator[Batch]:
        """The batches of a held-out split, or about `at_most` of them, spread over it."""
        return ragged_evaluation_batches(split, at_most)

    def describe(self, corpus: Corpus[PairCoder, Ragged]) -> str:
        """What there is to train on, for a person."""
        return f"{len(corpus.train):,} pairs"

    def check(self) -> None:
        """Raises UserError for a batch without room."""
        check_range("data", self, "batch_size", least=1)


def _field(fields: Mapping[str, Any], column: str, place: str) -> str:
    """The text of a column, or of one inside another; UserError where there is none."""
    found: Any = fields
    for name in column.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    if not isinstance(found, str) or not found.strip():
        raise UserError(f"{place}: the column {column} has no text; mend the row")
    return found


@dataclass(frozen=True, kw_only=True)
class PairData(SplitFiles, PairBatches):
    """Pairs from files of SOURCE TAB TARGET lines or of rows, and how they are batched."""

    source_unit: Unit = "character"
    """What one token of a source is."""

    target_unit: Unit = "word"
    """What one token of a target is."""

    tokenizer: str = ""
    """The path of a subword tokenizer for sources and targets, in place of units: a tokenizer.json,
    a directory with one, a run directory."""

    columns: tuple[str, str] = ("source", "target")
    """The columns of sources and targets in .jsonl, .csv and .parquet files and hf:// datasets, a
    dot between those that lie in one another: translation.en translation.fr."""

    subwords: int = 0
    """Tokens of a byte-pair encoding made from sources and targets of training together, in place
    of units; 0: none."""

    references: bool = False
    """Held-out pairs of one source are one example, whose output is scored as a text against all
    of their targets: by BLEU and chrF. Its loss is that of the first of them."""

    def resolve(self) -> "PairData":
        """The config with absolute paths, good in every working directory."""
        tokenizer = self.tokenizer and str(absolute(Path(self.tokenizer)))
        return dataclasses.replace(super().resolve(), tokenizer=tokenizer)

    def load(
        self, tokenizer: PairCoder | SubwordTokenizer | None = None
    ) -> Corpus[PairCoder, Ragged]:
        """Read the files; the tokenizer is made from the training file where none is given.

        A bare subword tokenizer is used for sources and targets.

        Raises UserError for a bad field, a path that cannot be read and a malformed line (with
        file and line).
        """
        self.check()
        documents = {name: self._document(absolute(path)) for name, path in self._paths()}
        pairs = {name: read_pairs(document) for name, document in documents.items()}
        if tokenizer is None:
            tokenizer = self._tokenizer(pairs["train"])
        if isinstance(tokenizer, SubwordTokenizer):
            tokenizer = SubwordPairTokenizer.of(tokenizer)
        documents = list(documents.values())
        return pair_corpus(tokenizer, pairs, self.batch_size, documents, self.references)

    def _document(self, path: Path) -> Document:
        """A split as lines of SOURCE TAB TARGET, which rows of other formats are made into."""
        if as_url(path) is None and suffix_of(path.name) in ("", ".tsv", ".txt"):
            return read_file(path)
        outer = tuple(dict.fromkeys(column.partition(".")[0] for column in self.columns))
        lines = []
        for place, fields in read_rows(path, outer):
            texts = [_field(fields, column, place) for column in self.columns]
            lines.append("\t".join(" ".join(text.split()) for text in texts))
        return Document(str(path), "\n".join(lines))

    def _tokenizer(self, pairs: Sequence[Pair]) -> PairCoder | SubwordTokenizer:
        if self.tokenizer and self.subwords:
            raise UserError(
                "--data.tokenizer names a tokenizer and --data.subwords asks for a new "
                "one; drop one of them"
            )
        if self.tokenizer:
            return load_subwords(absolute(Path(self.tokenizer)))
        if self.subwords:
            return train_subwords("bpe", [text for pair in pairs for text in pair], self.subwords)
        return PairTokenizer.train(pairs, self.source_unit, self.target_unit)
