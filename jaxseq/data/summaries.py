"""Texts with summaries of them, from files of rows: SciTLDR's, CNN/DailyMail's and their like."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jaxseq.data.batches import Batch
from jaxseq.data.code_points import code_points, stacked_points
from jaxseq.data.corpus import Corpus, fingerprint
from jaxseq.data.extracts import extractive_oracle
from jaxseq.data.files import absolute
from jaxseq.data.pair_tokenizers import SubwordPairTokenizer
from jaxseq.data.ragged import Example, Ragged, RaggedBatches, ragged_evaluation_batches
from jaxseq.data.rows import BadRows, OnBadRow
from jaxseq.data.sources import read_rows
from jaxseq.data.subword_training import train_subwords
from jaxseq.data.summary_coders import (
    SubwordSummaryCoder,
    SummaryCoder,
    WordSummaryCoder,
    split_sentences,
)
from jaxseq.data.text import Document
from jaxseq.errors import UserError
from jaxseq.option_checks import check_range


class Summarised(NamedTuple):
    """A text by its sentences, and the summaries that people gave of it."""

    sentences: tuple[str, ...]
    summaries: tuple[str, ...]

    @property
    def text(self) -> str:
        """The sentences, a line each: what a model reads."""
        return "\n".join(self.sentences)


def read_summaries(
    path: Path, columns: tuple[str, str], bad_rows: BadRows | None = None
) -> list[Summarised]:
    """The rows of a file as `data.sources.read_rows` reads it; `columns` are (text, summaries).

    A text is a string, which is cut into sentences (`split_sentences`), or the list of its
    sentences (SciTLDR's "source"). Summaries are a string, whose lines are its sentences
    (CNN/DailyMail's "highlights"), or a list of them, each by another person (SciTLDR's "target").

    Raises UserError, or counts with `BadRows("skip")`, naming file and line: a text or a summary
    that is empty or no text; and as `read_rows` does.
    """
    bad_rows = bad_rows or BadRows()
    found = []
    for place, fields in read_rows(path, columns, bad_rows):
        source, target = (fields[column] for column in columns)
        if not _is_texts(source) or not _is_texts(target):
            wrong = columns[0] if not _is_texts(source) else columns[1]
            bad_rows.add(place, "neither a text nor a list of texts", wrong)
            continue
        # One string is cut into sentences, a list is taken as it was cut.
        cut = split_sentences(source) if isinstance(source, str) else map(_one_line, source)
        sentences = tuple(sentence for sentence in cut if sentence)
        summaries = tuple(map(_lines, [target] if isinstance(target, str) else target))
        if not sentences:
            bad_rows.add(place, "empty text", columns[0])
        elif not summaries or not all(summaries):
            bad_rows.add(place, "empty summary", columns[1])
        else:
            found.append(Summarised(sentences, summaries))
    if not found:
        raise UserError(f"{path}: no row can be used; name a file with texts and summaries")
    return found


def _is_texts(value: Any) -> bool:
    items = value if isinstance(value, list) else [value]
    return all(isinstance(item, str) for item in items)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _lines(text: str) -> str:
    """With single spaces, and without empty lines."""
    return "\n".join(filter(None, map(_one_line, text.splitlines())))


def summary_corpus(
    coder: SummaryCoder,
    splits: Mapping[str, Sequence[Summarised]],
    batch_size: int,
    extracts: bool = False,
) -> Corpus[SummaryCoder, Ragged]:
    """The corpus of the splits "train", "validation" and perhaps "test".

    In training each summary of a text is an example, and with `extracts` the sentence of the text
    that is nearest to its summaries. Held out, a text is one, with the first of its
    summaries as the target, and with

        text (characters)         the code points of the text
        references (R characters) those of all its summaries
    """
    examples: dict[str, list[Example]] = {}
    for name, found in splits.items():
        if name == "train":
            pairs = [(x.text, one) for x in found for one in x.summaries]
            if extracts:
                pairs += [(x.text, extractive_oracle(*x, most=1) or x.sentences[0]) for x in found]
            examples[name] = [coder.example(*pair) for pair in pairs]
        else:
            examples[name] = [
                coder.example(x.text, x.summaries[0])
                | {"text": code_points(x.text), "references": stacked_points(x.summaries)}
                for x in found
            ]
    lengths = ("source_lengths", "target_lengths")
    longest = max(int(e[name]) for found in examples.values() for e in found for name in lengths)
    ragged = {name: Ragged(found, "source", batch_size) for name, found in examples.items()}
    documents = [
        Document(name, "\n\n".join([x.text, *x.summaries]))
        for name, found in splits.items()
        for x in found
    ]
    return Corpus(
        tokenizer=dataclasses.replace(coder, longest=longest),
        train=ragged["train"],
        validation=ragged["validation"],
        test=ragged.get("test"),
        fingerprint=fingerprint(documents),
        inputs=tuple(x.text for x in splits["validation"][:3]),
    )


@dataclass(frozen=True)
class SummaryBatches:
    """How texts and summaries become numbers and batches; what files and made-up ones share."""

    vocab_size: int = 5000
    """Words of the vocabulary at most, those that stand in most texts of training; others can be
    copied. Of a subword tokenizer: its tokens."""

    extracts: bool = False
    """In training, learn the one sentence of each text that is nearest to its summaries as one more
    summary: where summaries are few, it teaches where to look, and to copy."""

    subwords: bool = False
    """Learn a byte-pair encoding from the training texts in place of a vocabulary of words."""

    lowercase: bool = True
    """Leave case away, as ROUGE does."""

    max_source: int = 400
    """Tokens of a text that are read."""

    max_target: int = 100
    """Tokens of a summary that are learned from."""

    batch_size: int = 16
    """Texts in a batch, B, over all devices."""

    def train_batches(self, corpus: Corpus[SummaryCoder, Ragged], seed: int) -> RaggedBatches:
        """The batches of a training run."""
        return RaggedBatches(corpus.train, seed)

    def evaluation_batches(self, split: Ragged, at_most: int | None = None) -> Iterator[Batch]:
        """The batches of a held-out split, or about `at_most` of them, spread over it."""
        return ragged_evaluation_batches(split, at_most)

    def describe(self, corpus: Corpus[SummaryCoder, Ragged]) -> str:
        """What there is to train on, for a person."""
        return f"{len(corpus.train):,} summaries"

    def check(self) -> None:
        """Raises UserError for a count out of range."""
        counts = ("vocab_size", "max_source", "max_target", "batch_size")
        check_range("data", self, *counts, least=1)

    def coder(self, train: Sequence[Summarised]) -> SummaryCoder:
        """The coder made from what is trained on; UserError for too small a vocabulary."""
        texts = ["\n".join([x.text, *x.summaries]) for x in train]
        lengths = {"max_source": self.max_source, "max_target": self.max_target}
        if self.subwords:
            made = train_subwords("bpe", texts, self.vocab_size, lowercase=self.lowercase)
            return SubwordSummaryCoder(SubwordPairTokenizer.of(made), **lengths)
        return WordSummaryCoder.train(texts, self.vocab_size, lowercase=self.lowercase, **lengths)


@dataclass(frozen=True, kw_only=True)
class SummaryData(SummaryBatches):
    """Texts and summaries from files of rows, and how they are batched."""

    train: Path
    """What is trained on: a .jsonl, .parquet, .tsv or .csv file, a directory or pattern of them, or
    hf://ORG/NAME[/CONFIG][?split=train]. `~` and `$NAME` of the environment are filled in."""

    validation: Path | None = None
    """Held out, and looked at on the way. None: every tenth row of `train`, which is then not
    trained on."""

    test: Path | None = None
    """Held out, for `jaxseq evaluate --split test`."""

    columns: tuple[str, str] = ("source", "target")
    """The columns of the text and of its summaries, SciTLDR's; of CNN/DailyMail: article
    highlights."""

    on_bad_row: OnBadRow = "error"
    """Stop at a row that cannot be used, naming its file and line, or count it and leave it out."""

    def resolve(self) -> "SummaryData":
        """The config with absolute paths, good in every working directory."""
        paths = {name: path and absolute(path) for name, path in self._paths()}
        return dataclasses.replace(self, **paths)

    def load(self, coder: SummaryCoder | None = None) -> Corpus[SummaryCoder, Ragged]:
        """Read the files; the coder is made from what is trained on where none is given.

        Raises UserError for a bad field, a path that cannot be read, and rows that cannot be used
        (`read_summaries`).
        """
        self.check()
        splits = self.splits()
        coder = self.coder(splits["train"]) if coder is None else coder
        return summary_corpus(coder, splits, self.batch_size, self.extracts)

    def splits(self) -> dict[str, list[Summarised]]:
        """The texts and summaries of each split by its name."""
        bad_rows = BadRows(self.on_bad_row)
        found = {
            name: read_summaries(path, self.columns, bad_rows)
            for name, path in self._paths()
            if path is not None
        }
        bad_rows.report()
        if self.validation is None:
            rows = found["train"]
            if len(rows) < 2:
                raise UserError(
                    f"{self.train} has one row, and none to hold out; name --data.validation"
                )
            found["validation"] = rows[::10]
            found["train"] = [row for number, row in enumerate(rows) if number % 10]
        return found

    def _paths(self) -> list[tuple[str, Path | None]]:
        return [(name, getattr(self, name)) for name in ("train", "validation", "test")]
