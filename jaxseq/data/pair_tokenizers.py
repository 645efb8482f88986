"""Sources and targets of a sequence-to-sequence model as numbers."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from jaxseq.data.ragged import Example
from jaxseq.data.subwords import SubwordTokenizer
from jaxseq.data.vocabulary import END, START, UNKNOWN, Vocabulary
from jaxseq.typing import Int

Unit = Literal["character", "word"]


@dataclass(frozen=True)
class PairTokenizer:
    """Source and target texts as numbers, by character or by word (what stands between spaces).

    Target number 0 is the start of a target and 1 its end.
    """

    source_unit: Unit
    target_unit: Unit
    source: Vocabulary
    target: Vocabulary
    longest: int = 0
    """Tokens of the longest source or target of the data, start and end counted."""

    start = 0
    end = 1

    @property
    def sizes(self) -> tuple[int, int]:
        """How many numbers there are for a source and for a target."""
        return len(self.source), len(self.target)

    @classmethod
    def train(
        cls, pairs: Iterable[tuple[str, str]], source_unit: Unit, target_unit: Unit
    ) -> "PairTokenizer":
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
        return _example(read, written, self.start, self.end)

    def source_units(self, source: str) -> list[str]:
        """A source as the model reads it: a string for each number."""
        return list(_units(source, self.source_unit))

    def read_source(self, numbers: ArrayLike) -> tuple[str, list[str]]:
        """The text of a source that is given by its numbers, and a string for each of them."""
        units = self.source.decode(numbers)
        return ("" if self.source_unit == "character" else " ").join(units), units

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


@dataclass(frozen=True)
class SubwordPairTokenizer:
    """Source and target texts as the numbers of one subword tokenizer."""

    tokenizer: SubwordTokenizer
    start: int
    """The token before the first of a target."""
    end: int
    """The token behind the last of a target."""
    before_source: tuple[int, ...] = ()
    """Tokens in front of every source."""
    behind_source: tuple[int, ...] = ()
    """Tokens behind every source."""
    longest: int = 0
    """Tokens of the longest source or target of the data, start and end counted."""

    target_unit = "word"  # by which outputs and references are compared

    @classmethod
    def of(cls, tokenizer: SubwordTokenizer) -> "SubwordPairTokenizer":
        """With the tokenizer's own start and end of a text; UserError where it has none."""
        start = tokenizer.special("start" if tokenizer.has("start") else "pad")
        end = tokenizer.special("end")
        return cls(tokenizer, start, end, behind_source=(end,))

    @property
    def sizes(self) -> tuple[int, int]:
        """How many numbers there are for a source and for a target."""
        return self.tokenizer.vocab_size, self.tokenizer.vocab_size

    def example(self, source: str, target: str = "") -> Example:
        """The arrays of a pair, as `PairTokenizer.example` has them."""
        read = [*self.before_source, *self.tokenizer.encode(source), *self.behind_source]
        written = self.tokenizer.encode(target)
        return _example(np.array(read, np.int32), written, self.start, self.end)

    def source_units(self, source: str) -> list[str]:
        """A source as the model reads it: a string for each number."""
        return self._strings(self.example(source)["source"])

    def read_source(self, numbers: ArrayLike) -> tuple[str, list[str]]:
        """The text of a source that is given by its numbers, and a string for each of them."""
        units = self._strings(numbers)
        stop = len(units) - len(self.behind_source)
        return self.join(units[len(self.before_source) : stop]), units

    def target_units(self, numbers: ArrayLike) -> list[str]:
        """What a model wrote, up to its end: a string for each number."""
        written = np.asarray(numbers).tolist()
        return self._strings(written[: written.index(self.end)] if self.end in written else written)

    def join(self, units: Sequence[str]) -> str:
        """The target text that the units spell."""
        return self.tokenizer.decode([self.tokenizer.library.token_to_id(unit) for unit in units])

    def _strings(self, numbers: ArrayLike) -> list[str]:
        library = self.tokenizer.library
        return [library.id_to_token(n) or UNKNOWN for n in np.asarray(numbers).tolist()]


def _example(
    read: Int[np.ndarray, " s"], written: Int[np.ndarray, " t"], start: int, end: int
) -> Example:
    return {
        "source": read,
        "source_lengths": np.array(len(read), np.int32),
        "inputs": np.concatenate([[start], written]).astype(np.int32),
        "targets": np.concatenate([written, [end]]).astype(np.int32),
        "target_lengths": np.array(len(written) + 1, np.int32),
    }


PairCoder = PairTokenizer | SubwordPairTokenizer
