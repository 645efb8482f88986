"""Texts and their summaries as numbers, so that words may be copied from one to the other."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from jaxseq.data.pair_tokenizers import SubwordPairTokenizer
from jaxseq.data.ragged import Example
from jaxseq.data.vocabulary import END, START, UNKNOWN, Vocabulary
from jaxseq.typing import Int

UNKNOWN_NUMBER = 2
"""Of a word that is not in the vocabulary of words."""

_SENTENCE_END = re.compile(r"""(?<=[.!?])["')\]]*\s+(?=["'(\[]*[A-Z0-9])""")
_WORD = re.compile(r"\n|\d+(?:[.,]\d+)+|\w+(?:[-'\u2019]\w+)*|[^\w\s]")
_NO_SPACE_BEFORE = set(".,;:!?%)]}\u2019\n")
_NO_SPACE_BEHIND = set("([{\n")


def split_sentences(text: str) -> list[str]:
    """The sentences of a text: lines, cut behind `.`, `!` and `?` where a capital or digit follows.

    White space is made single, and empty sentences are left out.
    """
    parts = (part for line in text.splitlines() for part in _SENTENCE_END.split(line))
    return [" ".join(part.split()) for part in parts if part.strip()]


@dataclass(frozen=True)
class WordSummaryCoder:
    """Sources and summaries by word, with one vocabulary for both.

    A word is letters and digits with hyphens and apostrophes inside them, a number, or any other
    character; the end of a sentence's line is one too. Number 0 is the start of a summary, 1 its
    end, 2 an unknown word. A word of a source that is not in the vocabulary can still be copied: as
    such it has the number V + p, with p the first place in the source where it stands.
    """

    vocabulary: Vocabulary
    lowercase: bool = True
    """Whether case is left away."""
    max_source: int = 400
    """Words of a source that are read; what follows them is left away."""
    max_target: int = 100
    """Words of a summary that are learned from."""
    longest: int = 0
    """Words of the longest source or summary of the data, start and end counted."""

    start = 0
    end = 1
    unknown = UNKNOWN_NUMBER

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, *, lowercase: bool, **lengths: int
    ) -> "WordSummaryCoder":
        """With the words that stand in most of `texts`, so that there are `vocab_size` numbers.

        A word that stands in one text alone is never among them: nothing could be learned of it,
        and what is unknown in training teaches a model to copy.
        """
        counts = Counter[str]()
        for text in texts:
            counts.update(set(_words(text, lowercase)))
        entries = Vocabulary.build(counts, (START, END, UNKNOWN), min_count=2).entries
        return cls(Vocabulary(entries[:vocab_size]), lowercase, **lengths)

    @property
    def size(self) -> int:
        """How many numbers the vocabulary has (V)."""
        return len(self.vocabulary)

    def example(self, source: str, summary: str = "") -> Example:
        """The arrays of a source and a summary.

        source (S)          numbers of the words, unknown ones being 2
        copies (S)          the same, unknown ones being V and on
        source_lengths ()   S
        inputs (T)          the summary behind its start, unknown words being 2
        targets (T)         the summary and its end; unknown words that stand in the source have
                            their number of `copies`, others are 2
        target_lengths ()   T
        """
        words = self.source_units(source)
        read = self.vocabulary.encode(words)
        places: dict[str, int] = {}
        for place, word in enumerate(words):
            places.setdefault(word, self.size + place)
        written_words = _words(summary, self.lowercase)[: self.max_target]
        written = self.vocabulary.encode(written_words)
        targets = _with_copies(written, written_words, places, self.unknown)
        copies = _with_copies(read, words, places, self.unknown)
        return _arrays(read, copies, written, targets, self.start, self.end)

    def source_units(self, source: str) -> list[str]:
        """A source as the model reads it: a string for each number."""
        return _words(source, self.lowercase)[: self.max_source]

    def written_units(self, numbers: ArrayLike, source: str) -> list[str]:
        """What a model wrote for `source`, up to its end: a string for each number."""
        words = self.source_units(source)
        entries = self.vocabulary.entries
        return [
            entries[number] if number < self.size else words[number - self.size]
            for number in _up_to(self.end, numbers)
        ]

    def join(self, units: Sequence[str]) -> str:
        """The text that the units spell, without a space before punctuation."""
        text = ""
        for unit in units:
            glued = not text or unit in _NO_SPACE_BEFORE or text[-1] in _NO_SPACE_BEHIND
            text += unit if glued else f" {unit}"
        return text.strip()


@dataclass(frozen=True)
class SubwordSummaryCoder:
    """Sources and summaries as the numbers of one subword tokenizer, which spells every word.

    So copying needs no numbers beyond the vocabulary.
    """

    pairs: SubwordPairTokenizer
    max_source: int = 400
    """Tokens of a source that are read."""
    max_target: int = 100
    """Tokens of a summary that are learned from."""
    longest: int = 0
    """Tokens of the longest source or summary of the data, start and end counted."""

    unknown = 0
    """Never read: there are no numbers beyond the vocabulary."""

    @property
    def start(self) -> int:
        """The token before the first of a summary."""
        return self.pairs.start

    @property
    def end(self) -> int:
        """The token behind the last of a summary."""
        return self.pairs.end

    @property
    def size(self) -> int:
        """How many numbers the vocabulary has (V)."""
        return self.pairs.sizes[0]

    def example(self, source: str, summary: str = "") -> Example:
        """The arrays of a source and a summary, as `WordSummaryCoder.example` has them."""
        read = self._source(source)
        written = self.pairs.tokenizer.encode(summary)[: self.max_target]
        return _arrays(read, read, written, written, self.start, self.end)

    def source_units(self, source: str) -> list[str]:
        """A source as the model reads it: a string for each number."""
        return self.pairs.target_units(self._source(source))

    def written_units(self, numbers: ArrayLike, source: str) -> list[str]:
        """What a model wrote for `source`, up to its end: a string for each number."""
        return self.pairs.target_units(_up_to(self.end, numbers))

    def join(self, units: Sequence[str]) -> str:
        """The text that the units spell."""
        return self.pairs.join(units).strip()

    def _source(self, source: str) -> Int[np.ndarray, " s"]:
        return self.pairs.tokenizer.encode(source)[: self.max_source]


SummaryCoder = WordSummaryCoder | SubwordSummaryCoder


def _words(text: str, lowercase: bool) -> list[str]:
    return _WORD.findall(text.lower() if lowercase else text)


def _up_to(end: int, numbers: ArrayLike) -> list[int]:
    written = np.asarray(numbers).tolist()
    return written[: written.index(end)] if end in written else written


def _with_copies(
    numbers: Int[np.ndarray, " n"], words: Sequence[str], places: dict[str, int], unknown: int
) -> Int[np.ndarray, " n"]:
    found = [
        places.get(word, unknown) if number == unknown else number
        for number, word in zip(numbers.tolist(), words, strict=True)
    ]
    return np.array(found, np.int32)


def _arrays(
    read: Int[np.ndarray, " s"],
    copies: Int[np.ndarray, " s"],
    written: Int[np.ndarray, " t"],
    targets: Int[np.ndarray, " t"],
    start: int,
    end: int,
) -> Example:
    return {
        "source": read,
        "copies": copies,
        "source_lengths": np.array(len(read), np.int32),
        "inputs": np.concatenate([[start], written]).astype(np.int32),
        "targets": np.concatenate([targets, [end]]).astype(np.int32),
        "target_lengths": np.array(len(written) + 1, np.int32),
    }
