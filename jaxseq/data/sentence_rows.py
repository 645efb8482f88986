"""Rows of whole sentences, and of pairs of segments, out of a corpus that is never copied."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from jaxseq.data.ragged import Example
from jaxseq.data.sentences import SentenceCorpus
from jaxseq.data.subwords import SubwordTokenizer
from jaxseq.errors import UserError
from jaxseq.typing import Int

Numbers = Int[np.ndarray, " k"]


class TextRows:
    """[CLS] text [SEP]: as many whole sentences of one document as find room in T tokens.

    Every sentence is in exactly one row.
    """

    markers: ClassVar[int] = 2

    def __init__(
        self, corpus: SentenceCorpus, tokenizer: SubwordTokenizer, context: int, name: str
    ):
        """Cut `corpus` into rows; UserError where split `name` has no text."""
        self.corpus = corpus
        self.context = context
        self._start = tokenizer.special("classify")
        self._stop = tokenizer.special("separate")
        self.first = row_starts(corpus, context - self.markers)
        if not len(self.first):
            raise UserError(f"the {name} split has no text: give more of it")
        self.end = corpus.filled(self.first, context - self.markers)

    @classmethod
    def longest_sentence(cls, context: int) -> int:
        """The tokens beyond which a sentence must be cut to find room."""
        return context - cls.markers

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.first)

    @property
    def lengths(self) -> Numbers:
        """The tokens of each row, [CLS] and [SEP] included."""
        return self.corpus.starts[self.end] - self.corpus.starts[self.first] + self.markers

    def example(self, epoch: int, number: int) -> Example:
        """Return tokens and types (T) of one row without padding, the same in every epoch."""
        starts = self.corpus.starts
        text = self.corpus.tokens[starts[self.first[number]] : starts[self.end[number]]]
        tokens = np.concatenate([[self._start], text, [self._stop]]).astype(np.int32)
        return {"tokens": tokens, "types": np.zeros_like(tokens)}

    def batch(
        self, numbers: Numbers, rng: np.random.Generator, chosen: Sequence[int] | None = None
    ) -> Example:
        """Return tokens, types and segments (B T) of rows `numbers`; nothing is drawn.

        With `chosen` those rows of the batch alone.
        """
        numbers = numbers if chosen is None else numbers[np.array(chosen)]
        begin = self.corpus.starts[self.first[numbers]]
        length = self.corpus.starts[self.end[numbers]] - begin
        return lay_out(self.corpus.tokens, [(begin, length)], self._start, self._stop, self.context)


class PairRows:
    """[CLS] A [SEP] B [SEP]: two segments of several sentences that fill T tokens together.

    A begins where a row of as many sentences as find room does, and ends between two of its
    sentences, drawn anew each time. Half the time B is the text that follows A. Else it begins with
    a sentence drawn from the other documents, or, where the corpus is a single document, from
    anywhere but A and the sentence behind it. Either way B goes on until the row is full or its
    document ends; where A and B are then more than find room, the longer one is cut, A at its
    beginning and B at its end, so that what follows still does. A document of a single sentence
    serves as B alone.
    """

    markers: ClassVar[int] = 3

    def __init__(
        self, corpus: SentenceCorpus, tokenizer: SubwordTokenizer, context: int, name: str
    ):
        """Cut `corpus` into rows.

        Raises UserError where split `name` has no two sentences that follow each other, or is one
        document with nothing but those.
        """
        self.corpus = corpus
        self.context = context
        self._start = tokenizer.special("classify")
        self._stop = tokenizer.special("separate")
        self._room = context - self.markers
        first = row_starts(corpus, self._room)
        # What follows the last sentence of a document is another: begin one sentence earlier.
        document = corpus.document_of(first)
        last = first == corpus.documents[document + 1] - 1
        alone = corpus.documents[document] == corpus.documents[document + 1] - 1
        self.first = (first - last)[~alone]
        if not len(self.first):
            raise UserError(
                f"no document of the {name} split has two sentences, so that none follows "
                "another: mend --data.sentences, or drop --data.next-sentence"
            )
        self.end = corpus.filled(self.first, self._room)
        # A has one sentence less than the row, but the one that follows is excluded too.
        excluded = int((self.end - self.first).max())
        if corpus.num_documents == 1 and excluded >= corpus.num_sentences:
            raise UserError(
                f"the {name} split is one document of {corpus.num_sentences} sentences, too few "
                "to find any that do not follow each other: give more text, a shorter "
                "--data.context, or drop --data.next-sentence"
            )

    @classmethod
    def longest_sentence(cls, context: int) -> int:
        """The tokens beyond which a sentence must be cut, so that two find room."""
        return (context - cls.markers) // 2

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.first)

    def batch(
        self, numbers: Numbers, rng: np.random.Generator, chosen: Sequence[int] | None = None
    ) -> Example:
        """Return tokens, types and segments (B T) of rows `numbers`, and next_sentence (B).

        next_sentence is 0 where B follows A, and 1 where it does not. With `chosen` those rows of
        the batch alone; it is drawn for all, so that they are as in the whole.
        """
        starts, room = self.corpus.starts, self._room
        first = self.first[numbers]
        # 1 to all but one of the row's sentences
        a_end = first + 1 + rng.integers(self.end[numbers] - first - 1)
        elsewhere = rng.random(len(numbers)) < 0.5
        b_first = np.where(elsewhere, self._other(first, a_end, rng), a_end)
        a_length = starts[a_end] - starts[first]
        b_end = np.searchsorted(starts, starts[b_first] + room - a_length)
        b_end = np.minimum(b_end, self.corpus.documents[self.corpus.document_of(b_first) + 1])
        b_length = starts[b_end] - starts[b_first]
        a_kept = np.minimum(a_length, np.maximum(room - b_length, room - room // 2))
        b_kept = np.minimum(b_length, room - a_kept)
        laid = slice(None) if chosen is None else np.array(chosen)
        segments = [
            (begin[laid], length[laid])
            for begin, length in ((starts[a_end] - a_kept, a_kept), (starts[b_first], b_kept))
        ]
        batch = lay_out(self.corpus.tokens, segments, self._start, self._stop, self.context)
        return batch | {"next_sentence": elsewhere[laid].astype(np.int32)}

    def _other(self, first: Numbers, a_end: Numbers, rng: np.random.Generator) -> Numbers:
        """A sentence for each row that is not the one after its A, equally likely among them."""
        if self.corpus.num_documents > 1:
            document = self.corpus.document_of(first)
            low, high = self.corpus.documents[document], self.corpus.documents[document + 1]
        else:
            low, high = first, a_end + 1
        drawn = rng.integers(self.corpus.num_sentences - (high - low))
        return np.where(drawn < low, drawn, drawn + high - low)


def row_starts(corpus: SentenceCorpus, room: int) -> Numbers:
    """The first sentences of rows that take all sentences in order, as many as fit each."""
    following = corpus.filled(np.arange(corpus.num_sentences), room)
    starts, at = [], 0
    while at < corpus.num_sentences:
        starts.append(at)
        at = following.item(at)
    return np.array(starts, np.int64)


def lay_out(
    tokens: Int[np.ndarray, " n"],
    segments: list[tuple[Numbers, Numbers]],
    start: int,
    stop: int,
    context: int,
) -> Example:
    """Rows of T = `context` tokens: [CLS] first segment [SEP] (second segment [SEP]) padding.

    `segments` are (begin in `tokens`, length) of each row's. Returns int32 arrays (B T): tokens;
    types, 0 up to the first [SEP] and on it, then 1 up to the last, then 0; segments, 1 up to the
    last [SEP] and on it, then 0.
    """
    column = np.arange(context)[None]
    rows = np.arange(len(segments[0][0]))
    found = np.zeros((len(rows), context), np.int32)
    types = np.zeros_like(found)
    found[:, 0] = start
    at = np.ones(len(rows), np.int64)
    for number, (begin, length) in enumerate(segments):
        inside = (column >= at[:, None]) & (column < (at + length)[:, None])
        found[inside] = tokens[((begin - at)[:, None] + column)[inside]]
        end = at + length
        found[rows, end] = stop
        types[(column >= at[:, None]) & (column <= end[:, None])] = number
        at = end + 1
    valid = (column < at[:, None]).astype(np.int32)
    return {"tokens": found, "types": types, "segments": valid}
