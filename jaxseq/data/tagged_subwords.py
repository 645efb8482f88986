"""Sentences with a tag for every word, as the subwords that a Transformer reads."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxseq.data.batches import Batch
from jaxseq.data.corpus import Corpus, fingerprint
from jaxseq.data.labelled import marker
from jaxseq.data.named_tokenizer import absolute_name, made_tokenizer
from jaxseq.data.ragged import Example, Ragged, RaggedBatches, ragged_evaluation_batches
from jaxseq.data.split_files import SplitFiles
from jaxseq.data.subwords import SubwordTokenizer
from jaxseq.data.tagged import check_tags, read_tagged
from jaxseq.data.tokenizers import Tokenizer
from jaxseq.data.vocabulary import Vocabulary
from jaxseq.errors import UserError
from jaxseq.option_checks import check_range
from jaxseq.typing import Int


class Piece(NamedTuple):
    """Some words of a sentence that are read at once: those from `start` up to `stop`."""

    start: int
    stop: int
    example: Example


@dataclass(frozen=True)
class SubwordTagCoder:
    """Words as the subwords that a model reads, and the tags as numbers."""

    tokenizer: Tokenizer
    tags: tuple[str, ...]
    """`tags[c]` is class c."""
    max_length: int = 0
    """Tokens that are read at once, markers counted; a longer sentence is read in pieces. 0: every
    sentence is read whole."""
    longest: int = 0
    """Tokens of the longest sentence or piece of the data."""
    longest_at: str = ""
    """Where that stands: `FILE, line N`."""

    def pieces(self, words: Sequence[str], tags: Sequence[str] | None = None) -> list[Piece]:
        """The arrays of a sentence, whole or in pieces; tags are 0 where none are given.

            tokens (T)   [CLS] subwords [SEP], the markers where the tokenizer has them
            types (T)    0
            lengths ()   T
            firsts (W)   where each word's first subword stands in `tokens`
            tags (W)
            words ()     W

        A word is never in two pieces: what of it is longer than a piece is left out.
        """
        start, stop = marker(self.tokenizer, "classify"), marker(self.tokenizer, "separate")
        spelt = self._subwords(words)
        room = sum(map(len, spelt))
        if self.max_length:
            room = self.max_length - len(start) - len(stop)
            spelt = [subwords[:room] for subwords in spelt]
        numbers = np.zeros(len(words), np.int32)
        if tags is not None:
            numbers = np.array([self.tags.index(tag) for tag in tags], np.int32)
        found = []
        for begin, end in _fitting([len(subwords) for subwords in spelt], room):
            chosen = spelt[begin:end]
            ends = np.cumsum([len(start), *map(len, chosen)])
            tokens = np.concatenate([start, *chosen, stop]).astype(np.int32)
            example = {
                "tokens": tokens,
                "types": np.zeros_like(tokens),
                "lengths": np.array(len(tokens), np.int32),
                "firsts": ends[:-1].astype(np.int32),
                "tags": numbers[begin:end],
                "words": np.array(end - begin, np.int32),
            }
            found.append(Piece(begin, end, example))
        return found

    def _subwords(self, words: Sequence[str]) -> list[Int[np.ndarray, " n"]]:
        """The subwords of each word, one at least."""
        if not isinstance(self.tokenizer, SubwordTokenizer):
            return [self.tokenizer.encode(word) for word in words]
        ids, word_of_id = self.tokenizer.encode_words(words)
        spelt = np.split(ids, np.searchsorted(word_of_id, np.arange(1, len(words) + 1)))[:-1]
        for word, subwords in zip(words, spelt, strict=True):
            if not len(subwords):
                raise UserError(
                    f"the tokenizer makes no token of the word {word!r}; leave it out, or take a "
                    "tokenizer with an unknown token"
                )
        return spelt


def _fitting(lengths: Sequence[int], room: int) -> Iterator[tuple[int, int]]:
    """Cut items of these lengths into runs (start, stop) whose lengths add up to `room` at most."""
    start = used = 0
    for number, length in enumerate(lengths):
        if used + length > room:
            yield start, number
            start, used = number, 0
        used += length
    yield start, len(lengths)


@dataclass(frozen=True, kw_only=True)
class TaggedSubwords(SplitFiles):
    """Tagged sentences from files of FORM TAB TAG lines, read by subwords."""

    tokenizer: str = "char"
    """"char", "byte" or "word" (made from the training words), or the path of a subword tokenizer:
    a tokenizer.json, a vocab.txt, a run directory."""

    max_length: int = 0
    """Tokens that are read at once, [CLS] and [SEP] counted: a longer sentence is read in pieces,
    and a span of tags that is cut counts as two. 0: sentences are read whole, and one longer than
    the model's positions is an error."""

    batch_size: int = 32
    """Sentences in a batch, B, over all devices."""

    def resolve(self) -> "TaggedSubwords":
        """The config with absolute paths, good in every working directory."""
        return dataclasses.replace(super().resolve(), tokenizer=absolute_name(self.tokenizer))

    def load(
        self, coder: SubwordTagCoder | Tokenizer | None = None
    ) -> Corpus[SubwordTagCoder, Ragged]:
        """Read the files.

        The tags are those of the training file. A `SubwordTagCoder` is used as it is, a bare
        tokenizer for a new one; without either, the tokenizer is what the config names.

        Raises UserError for a bad field, a path that cannot be read, a malformed line (with file
        and line) and a tag that training does not have (likewise).
        """
        check_range("data", self, "batch_size", least=1)
        documents = self.documents()
        sentences = {name: read_tagged(document) for name, document in documents.items()}
        if not isinstance(coder, SubwordTagCoder):
            words = (" ".join(sentence.words) for sentence in sentences["train"])
            tags = {tag for sentence in sentences["train"] for tag in sentence.tags}
            coder = SubwordTagCoder(
                tokenizer=made_tokenizer(self.tokenizer, words) if coder is None else coder,
                tags=tuple(sorted(tags)),
                max_length=self.max_length,
            )
        least = 1 + sum(len(marker(coder.tokenizer, role)) for role in ("classify", "separate"))
        if coder.max_length and coder.max_length < least:
            raise UserError(
                f"--data.max-length is {coder.max_length}: a word takes {least} tokens at least; "
                "0 reads sentences whole"
            )
        longest, longest_at = 0, ""
        splits = {}
        for name, found in sentences.items():
            place = documents[name].name
            check_tags(found, Vocabulary(coder.tags), place)
            examples = []
            for sentence in found:
                for piece in coder.pieces(sentence.words, sentence.tags):
                    examples.append(piece.example)
                    if piece.example["lengths"] > longest:
                        longest = int(piece.example["lengths"])
                        longest_at = f"{place}, line {sentence.line + piece.start}"
            splits[name] = Ragged(examples, by="tokens", batch_size=self.batch_size)
        shown = [" ".join(sentence.words) for sentence in sentences["validation"][:400:100]]
        return Corpus(
            tokenizer=dataclasses.replace(coder, longest=longest, longest_at=longest_at),
            train=splits["train"],
            validation=splits["validation"],
            test=splits.get("test"),
            fingerprint=fingerprint(list(documents.values())),
            inputs=tuple(shown),
        )

    def train_batches(self, corpus: Corpus[SubwordTagCoder, Ragged], seed: int) -> RaggedBatches:
        """The batches of a training run."""
        return RaggedBatches(corpus.train, seed)

    def evaluation_batches(self, split: Ragged, at_most: int | None = None) -> Iterator[Batch]:
        """The batches of a held-out split, or about `at_most` of them, spread over it."""
        return ragged_evaluation_batches(split, at_most)

    def describe(self, corpus: Corpus[SubwordTagCoder, Ragged]) -> str:
        """What there is to train on, for a person."""
        words = sum(int(example["words"]) for example in corpus.train.examples)
        return f"{words:,} words with {len(corpus.tokenizer.tags)} tags"
