"""Texts cut into sentences, and a tokenized corpus that knows where sentences and documents are."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jaxseq.data.subwords import SubwordTokenizer
from jaxseq.typing import Int

Sentences = Literal["split", "line"]
"""What a sentence is: see `documents_of`."""

_BLANK_LINES = re.compile(r"\n[ \t\r]*\n\s*")
_ENDS = re.compile(
    r"[.!?\u2026]+[\"'\u201d\u2019)\]]*\s+(?=[\"'\u201c\u2018(\[]*[^\sa-z\"'\u201c\u2018(\[])"
    r"|[\u3002\uff01\uff1f]+\s*"
)
_SENTENCES_AT_ONCE = 1 << 16


def documents_of(text: str, sentences: Sentences) -> Iterator[list[str]]:
    """Yield the documents of a text, each as its sentences, none of them empty.

    "line": a line is a sentence, and an empty line ends a document, as in BERT's own files.

    "split": the text is one document. A sentence ends at an empty line; behind `. ! ?` or an
    ellipsis (and the quotes and brackets that close there) where white space follows and then
    something other than a lower-case letter; and behind the full stops of Chinese and Japanese. So
    "Mr. Smith" is cut in two, which does no harm here: what is asked of sentences is that one
    follows the other.
    """
    if sentences == "line":
        for part in _BLANK_LINES.split(text):
            lines = [line.strip() for line in part.split("\n")]
            if found := [line for line in lines if line]:
                yield found
    else:
        found = [
            sentence for part in _BLANK_LINES.split(text) for sentence in _split(part) if sentence
        ]
        if found:
            yield found


def _split(text: str) -> Iterator[str]:
    start = 0
    for end in _ENDS.finditer(text):
        yield text[start : end.end()].strip()
        start = end.end()
    yield text[start:].strip()


def split_documents_of_sentences(
    documents: list[list[str]], validation_fraction: float
) -> tuple[list[list[str]], list[list[str]]]:
    """Return (train, validation): whole documents spread over the list, or the end of a single one.

    As `text.split_documents`, with sentences in place of characters; of a single document with two
    sentences or more each side has one at least.
    """
    if len(documents) == 1:
        (only,) = documents
        boundary = min(max(int(len(only) * (1 - validation_fraction)), 1), len(only) - 1)
        return [only[:boundary]], [only[boundary:]]
    n = len(documents)
    held = min(max(1, round(n * validation_fraction)), n - 1)
    validation = {(2 * i + 1) * n // (2 * held) for i in range(held)}
    return (
        [document for i, document in enumerate(documents) if i not in validation],
        [document for i, document in enumerate(documents) if i in validation],
    )


@dataclass(frozen=True)
class SentenceCorpus:
    """Tokens of all documents in one array; sentence i is `tokens[starts[i] : starts[i + 1]]`.

    Document j has the sentences from `documents[j]` up to `documents[j + 1]`, one at least.
    """

    tokens: Int[np.ndarray, " n"]
    starts: Int[np.ndarray, " sentences_and_1"]
    documents: Int[np.ndarray, " documents_and_1"]

    @classmethod
    def encode(
        cls, documents: Iterable[list[str]], tokenizer: SubwordTokenizer, longest: int
    ) -> "SentenceCorpus":
        """Tokenize `documents`. A sentence of more than `longest` tokens becomes several.

        A sentence without a token is left out, and so is a document without a sentence.
        """
        tokens, lengths, counts = [], [], []
        for sentences, document_sizes in _blocks(documents):
            encoded = iter(tokenizer.encode_many(sentences))
            for size in document_sizes:
                pieces = []
                for _ in range(size):
                    ids = next(encoded)
                    pieces += [ids[i : i + longest] for i in range(0, len(ids), longest)]
                if pieces:
                    tokens += pieces
                    lengths += map(len, pieces)
                    counts.append(len(pieces))
        flat = np.concatenate(tokens) if tokens else np.zeros(0, np.int32)
        flat.flags.writeable = False  # batches are read out of it: nobody may write into it
        return cls(flat, _offsets(lengths), _offsets(counts))

    @property
    def num_sentences(self) -> int:
        """How many sentences there are."""
        return len(self.starts) - 1

    @property
    def num_documents(self) -> int:
        """How many documents there are."""
        return len(self.documents) - 1

    def document_of(self, sentences: Int[np.ndarray, "..."]) -> Int[np.ndarray, "..."]:
        """The number of the document that each sentence is in."""
        return np.searchsorted(self.documents, sentences, side="right") - 1

    def filled(
        self, first: Int[np.ndarray, " k"], room: Int[np.ndarray, " k"] | int
    ) -> Int[np.ndarray, " k"]:
        """The end of the sentences from `first` that fit whole into `room` tokens; one at least.

        They are of one document.
        """
        end = np.searchsorted(self.starts, self.starts[first] + room, side="right") - 1
        return np.minimum(np.maximum(end, first + 1), self.documents[self.document_of(first) + 1])


def _blocks(documents: Iterable[list[str]]) -> Iterator[tuple[list[str], list[int]]]:
    """The sentences of many documents at once, and how many of them each document has."""
    sentences, sizes = [], []
    for document in documents:
        sentences += document
        sizes.append(len(document))
        if len(sentences) >= _SENTENCES_AT_ONCE:
            yield sentences, sizes
            sentences, sizes = [], []
    if sentences:
        yield sentences, sizes


def _offsets(lengths: list[int]) -> Int[np.ndarray, " n_and_1"]:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
