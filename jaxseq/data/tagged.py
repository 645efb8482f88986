"""Sentences with a tag for every word: files of FORM TAB TAG lines."""

import functools
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxseq.data.batches import Batch
from jaxseq.data.corpus import Corpus, fingerprint
from jaxseq.data.ragged import Example, Ragged, RaggedBatches, ragged_evaluation_batches
from jaxseq.data.split_files import SplitFiles, two_fields
from jaxseq.data.text import Document
from jaxseq.data.vocabulary import UNKNOWN, Vocabulary
from jaxseq.errors import UserError
from jaxseq.option_checks import check_range

LONGEST_WORD = 24
"""Characters of a word that a model reads: of a longer one, as many from either end."""


class Sentence(NamedTuple):
    """Words and their tags."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    line: int
    """The line of the file on which it starts, from 1."""


def read_tagged(document: Document) -> list[Sentence]:
    """The sentences of a file: a line for each word, `FORM TAB TAG`, and empty lines between.

    Raises UserError naming file and line for a line that is not two fields, neither empty, and
    for a file without a sentence.
    """
    sentences: list[Sentence] = []
    words, tags, start = [], [], 1
    # One more empty line ends the last sentence.
    form = "FORM TAB TAG; mend the line (sentences are separated by empty lines)"
    for number, fields in itertools.chain(two_fields(document, form), [(0, None)]):
        if fields is None:
            if words:
                sentences.append(Sentence(tuple(words), tuple(tags), start))
            words, tags, start = [], [], number + 1
        else:
            words.append(fields[0])
            tags.append(fields[1])
    if not sentences:
        raise UserError(f"{document.name} has no sentence: give lines of FORM TAB TAG")
    return sentences


@dataclass(frozen=True)
class TagTokenizer:
    """Words, their characters and hand-made features, and the tags, as numbers.

    Number 0 of words, characters and features is whatever training did not have.
    """

    words: Vocabulary
    """Words in lower case."""
    characters: Vocabulary
    features: Vocabulary
    """See `word_features`."""
    tags: Vocabulary

    @classmethod
    def train(cls, sentences: Sequence[Sentence], min_count: int) -> "TagTokenizer":
        """The numbers of what occurs in `sentences`, words and features `min_count` times."""
        forms = Counter(word for sentence in sentences for word in sentence.words)
        words, characters, features = Counter[str](), Counter[str](), Counter[str]()
        for form, count in forms.items():
            words[form.lower()] += count
            for counter, found in ((characters, form), (features, word_features(form))):
                for entry in found:
                    counter[entry] += count
        tags = Counter(tag for sentence in sentences for tag in sentence.tags)
        return cls(
            Vocabulary.build(words, (UNKNOWN,), min_count),
            Vocabulary.build(characters, (UNKNOWN,)),
            Vocabulary.build(features, (UNKNOWN,), min_count),
            Vocabulary.build(tags),
        )

    def example(self, words: Sequence[str], tags: Sequence[str] | None = None) -> Example:
        """The arrays of a sentence; tags are 0 where none are given.

        words (T), characters (T, W) from 1 with 0 behind a word's end, features (T, F), tags (T),
        lengths ().
        """
        characters = [self._characters_of(word) for word in words]
        longest = max(map(len, characters), default=0)
        spelt = np.zeros((len(words), longest), np.int32)
        for row, numbers in zip(spelt, characters, strict=True):
            row[: len(numbers)] = numbers
        features = [self._features_of(word) for word in words]
        return {
            "words": self.words.encode(word.lower() for word in words),
            "characters": spelt,
            "features": np.array(features, np.int32).reshape(len(words), NUM_FEATURES),
            "tags": np.zeros(len(words), np.int32) if tags is None else self.tags.encode(tags),
            "lengths": np.array(len(words), np.int32),
        }

    def _characters_of(self, word: str) -> np.ndarray:
        if len(word) > LONGEST_WORD:
            word = word[: LONGEST_WORD // 2] + word[-LONGEST_WORD // 2 :]
        return self.characters.encode(word) + 1

    @functools.cached_property
    def _known(self) -> dict[str, np.ndarray]:
        return {}

    def _features_of(self, word: str) -> np.ndarray:
        if word not in self._known:
            self._known[word] = self.features.encode(word_features(word))
        return self._known[word]


def word_features(word: str) -> tuple[str, ...]:
    """The hand-made features of a word: itself, its ends, its shape.

    The shape writes X for an upper-case letter, x for another letter, 9 for a digit, runs cut to
    one: McDonald's-80s is XxXx'x-9x.
    """
    low = word.lower()
    kinds = (
        "X" if c.isupper() else "x" if c.isalpha() else "9" if c.isdigit() else c for c in word
    )
    shape = "".join(kind for kind, _ in itertools.groupby(kinds))
    starts = [f"{n}<{low[:n]}" for n in (1, 2, 3)]
    ends = [f"{n}>{low[-n:]}" for n in (1, 2, 3, 4)]
    return (f"word:{low}", f"form:{word}", f"shape:{shape}", *starts, *ends)


NUM_FEATURES = len(word_features("a"))


@dataclass(frozen=True, kw_only=True)
class TaggedData(SplitFiles):
    """Tagged sentences from files of FORM TAB TAG lines, and how they are batched."""

    batch_size: int = 32
    """Sentences in a batch, B, over all devices."""

    min_count: int = 2
    """Words and features seen less often in training are read as unknown ones."""

    def load(self, tokenizer: TagTokenizer | None = None) -> Corpus[TagTokenizer, Ragged]:
        """Read the files; the tokenizer is made from the training file where none is given.

        Raises UserError for a bad field, a path that cannot be read, a malformed line (with file
        and line) and a tag that training does not have (likewise).
        """
        check_range("data", self, "batch_size", "min_count", least=1)
        documents = self.documents()
        sentences = {name: read_tagged(document) for name, document in documents.items()}
        if tokenizer is None:
            tokenizer = TagTokenizer.train(sentences["train"], self.min_count)
        splits = {}
        for name, found in sentences.items():
            check_tags(found, tokenizer.tags, documents[name].name)
            examples = [tokenizer.example(sentence.words, sentence.tags) for sentence in found]
            splits[name] = Ragged(examples, by="words", batch_size=self.batch_size)
        shown = [" ".join(sentence.words) for sentence in sentences["validation"][:400:100]]
        return Corpus(
            tokenizer=tokenizer,
            train=splits["train"],
            validation=splits["validation"],
            test=splits.get("test"),
            fingerprint=fingerprint(list(documents.values())),
            inputs=tuple(shown),
        )

    def train_batches(self, corpus: Corpus[TagTokenizer, Ragged], seed: int) -> RaggedBatches:
        """The batches of a training run."""
        return RaggedBatches(corpus.train, seed)

    def evaluation_batches(self, split: Ragged, at_most: int | None = None) -> Iterator[Batch]:
        """The batches of a held-out split, or about `at_most` of them, spread over it."""
        return ragged_evaluation_batches(split, at_most)

    def describe(self, corpus: Corpus[TagTokenizer, Ragged]) -> str:
        """What there is to train on, for a person."""
        return f"{len(corpus.train):,} sentences with {len(corpus.tokenizer.tags)} tags"


def check_tags(sentences: Sequence[Sentence], tags: Vocabulary, name: str) -> None:
    """Raises UserError naming file `name` and line for a tag that is not among `tags`."""
    for sentence in sentences:
        for offset, tag in enumerate(sentence.tags):
            if tag not in tags:
                raise UserError(
                    f"{name}, line {sentence.line + offset}: the tag {tag!r} does not occur in "
                    f"training, which has {', '.join(sorted(tags.entries))}; mend the line, or "
                    "train on such sentences too"
                )
