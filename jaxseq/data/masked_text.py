"""Text for masked-language-model pretraining, with or without next-sentence pairs."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxseq.data.batches import Batch, spread
from jaxseq.data.corpus import Corpus, fingerprint
from jaxseq.data.documents import Documents
from jaxseq.data.example_packing import Packed, PackedBatches, packed_evaluation_batches
from jaxseq.data.files import absolute
from jaxseq.data.marked_tokenizer import marked_tokenizer
from jaxseq.data.masking import Masking, RowDraws
from jaxseq.data.named_tokenizer import absolute_name
from jaxseq.data.rows import BadRows, OnBadRow
from jaxseq.data.sentence_rows import PairRows, TextRows
from jaxseq.data.sentences import (
    SentenceCorpus,
    Sentences,
    documents_of,
    split_documents_of_sentences,
)
from jaxseq.data.subwords import SubwordTokenizer
from jaxseq.errors import UserError
from jaxseq.option_checks import check_range
from jaxseq.typing import Int

VALIDATION_SEED = 2018
"""Decides pairs and masks of the validation batches, which are the same in every run."""

SHOWN = 4
"""Held-out sentences that show what the trained model makes of them."""


_Unmasked = Callable[[int, Sequence[int], np.random.Generator], Batch]
"""(step, rows, draws) -> these rows of a step before masking."""


@dataclass(frozen=True)
class MaskedSplit:
    """The rows of a split, and how their tokens are masked."""

    rows: TextRows | PairRows | Packed
    masking: Masking

    def __len__(self) -> int:
        """Return the number of rows in an epoch."""
        return len(self.rows)


class MaskedBatches:
    """`batches[step]`: the masked rows of one training step, a pure function of (seed, step).

    The rows are shuffled anew in every epoch and batches run on from one epoch into the next, so
    that each epoch holds every row once. Pairs and masks are drawn anew at every step.
    """

    def __init__(self, split: MaskedSplit, batch_size: int, seed: int):
        """Build on `split`; `seed` is an integer from 0 up."""
        self.batch_size = batch_size
        self._seed = seed
        self._masking = split.masking
        if isinstance(split.rows, Packed):
            packed = PackedBatches(split.rows, batch_size, seed)
            self._unmasked: _Unmasked = lambda step, rows, rng: packed.rows(step, rows)
        else:
            self._unmasked = _shuffled(split.rows, batch_size, seed)

    def __getitem__(self, step: int) -> Batch:
        """Return the arrays of `step`, counted from 0; see `Masking` for those of the masks.

        tokens, types, segments (B T), as the model reads them (segments are 0 in padding);
        positions (B T) of packed rows; masked_positions and masked_targets (B M), masked_count
        (B); next_sentence (B) of pairs: 0 where the second segment follows the first, else 1.
        """
        return self.rows(step, range(self.batch_size))

    def rows(self, step: int, rows: Sequence[int]) -> Batch:
        """Return these rows of the batch of `step`, and lay out no others."""
        if step < 0:
            raise IndexError(f"step {step} is negative")
        rng = np.random.default_rng((self._seed, step, 1))
        batch = self._unmasked(step, rows, rng)
        draws = RowDraws(rng, self.batch_size, rows)
        return batch | self._masking(batch["tokens"], batch["segments"], draws)


def _shuffled(rows: TextRows | PairRows, batch_size: int, seed: int) -> _Unmasked:
    # Two: the epoch that ends in a batch, and the one that begins there.
    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> Int[np.ndarray, " rows"]:
        return np.random.default_rng((seed, epoch)).permutation(len(rows))

    def unmasked(step: int, chosen: Sequence[int], rng: np.random.Generator) -> Batch:
        first = step * batch_size
        places = [divmod(i, len(rows)) for i in range(first, first + batch_size)]
        numbers = np.array([order(epoch)[index] for epoch, index in places])
        return rows.batch(numbers, rng, chosen)

    return unmasked


@dataclass(frozen=True, kw_only=True)
class MaskedText:
    """Text for BERT's pretraining (Devlin et al. 2018, arXiv:1810.04805, sections 3.1 and A.2).

    A row is [CLS] text [SEP], the text as many whole sentences of one document as find room, or,
    with `next_sentence`, [CLS] A [SEP] B [SEP]; see `sentence_rows`. 80 % of the tokens chosen in
    it are [MASK], 10 % a random token, 10 % themselves; see `masking`.
    """

    path: Path
    """Text: a file, a directory, a glob or a URL. Each row of a .jsonl, .parquet or .arrayrecord
    file or of an hf:// dataset is a document, and any other file is one (or several: `sentences`).
    `~` and `$NAME` of the environment are filled in."""

    tokenizer: str
    """A subword tokenizer that has [CLS], [SEP] and [MASK]: a tokenizer.json, a vocab.txt, a
    directory with one of them or a run directory. `jaxseq tokenizer` makes one."""

    column: str = "text"
    """The column with the text, where a document is a row."""

    sentences: Sentences = "split"
    """line: a line is a sentence and an empty line ends a document. split: sentences end at empty
    lines and at `. ! ?` followed by white space and no lower-case letter."""

    context: int = 128
    """Tokens of a row, T, special ones included."""

    batch_size: int = 32
    """Rows in a batch, B, over all devices."""

    mask_fraction: float = 0.15
    """The share of a row's tokens that is to be predicted."""

    whole_word: bool = False
    """Choose whole words, all their tokens, in place of single tokens."""

    next_sentence: bool = False
    """Pairs of segments, half of them really consecutive, and the question whether they are."""

    packing: bool = False
    """Put short rows together into one, where attention stays inside each."""

    validation_fraction: float = 0.1
    """The share held out: of the documents, or, of a single one, its end."""

    on_bad_row: OnBadRow = "error"
    """Stop at a row that cannot be used, naming its file and line, or count it and leave it out."""

    def resolve(self) -> "MaskedText":
        """The config with absolute paths, good in every working directory.

        Raises UserError for a path with an environment variable that is not set.
        """
        tokenizer = absolute_name(self.tokenizer)
        return dataclasses.replace(self, path=absolute(self.path), tokenizer=tokenizer)

    def load(self, tokenizer: Any = None) -> Corpus[SubwordTokenizer, MaskedSplit]:
        """Read, cut into sentences, split and tokenize the text.

        A `tokenizer` that a run has saved is used as it is. Raises UserError for a bad field, a
        path that cannot be read, a tokenizer without [CLS], [SEP] and [MASK], and too little text.
        """
        self._check()
        tokenizer = marked_tokenizer(tokenizer, self.tokenizer, "classify", "separate", "mask")
        bad_rows = BadRows(self.on_bad_row)
        texts = list(Documents(absolute(self.path), self.column).whole(bad_rows))
        bad_rows.report()
        documents = [d for text in texts for d in documents_of(text.text, self.sentences)]
        if sum(map(len, documents)) < 2:
            raise UserError(f"{self.path} has less than two sentences: give more text")
        train, validation = split_documents_of_sentences(documents, self.validation_fraction)
        held_out = [sentence for document in validation for sentence in document]
        return Corpus(
            tokenizer=tokenizer,
            train=self._split(train, tokenizer, "train"),
            validation=self._split(validation, tokenizer, "validation"),
            fingerprint=fingerprint(texts),
            inputs=tuple(held_out[:: max(len(held_out) // SHOWN, 1)][:SHOWN]),
        )

    def train_batches(
        self, corpus: Corpus[SubwordTokenizer, MaskedSplit], seed: int
    ) -> MaskedBatches:
        """The batches of a training run."""
        return MaskedBatches(corpus.train, self.batch_size, seed)

    def evaluation_batches(self, split: MaskedSplit, at_most: int | None = None) -> Iterator[Batch]:
        """The rows of a held-out split in order, or about `at_most` batches of them.

        Their pairs and masks are always the same. Rows of zeros fill the last batch.
        """
        for number, batch in enumerate(_in_order(split.rows, self.batch_size, at_most)):
            rng = np.random.default_rng((VALIDATION_SEED, number, 1))
            yield batch | split.masking(batch["tokens"], batch["segments"], rng)

    def describe(self, corpus: Corpus[SubwordTokenizer, MaskedSplit]) -> str:
        """What there is to train on, for a person."""
        rows, kind = corpus.train.rows, "pairs" if self.next_sentence else "rows"
        if isinstance(rows, Packed):
            return f"{len(rows):,} rows of {self.context} tokens, {rows.fill:.0%} filled"
        return f"{len(rows):,} {kind} of at most {self.context} tokens"

    def _check(self) -> None:
        check_range("data", self, "context", least=8)
        check_range("data", self, "batch_size", least=1)
        check_range("data", self, "mask_fraction", "validation_fraction", above=0, below=1)
        if self.packing and self.next_sentence:
            raise UserError(
                "--data.packing and --data.next-sentence do not go together: whether the second "
                "segment follows is asked once a row; drop one of them"
            )

    def _split(
        self, documents: list[list[str]], tokenizer: SubwordTokenizer, name: str
    ) -> MaskedSplit:
        kind = PairRows if self.next_sentence else TextRows
        corpus = SentenceCorpus.encode(documents, tokenizer, kind.longest_sentence(self.context))
        rows = kind(corpus, tokenizer, self.context, name)
        masking = Masking(
            tokenizer,
            self.mask_fraction,
            math.ceil(self.mask_fraction * (self.context - 2)),
            self.whole_word,
        )
        if self.packing:
            assert isinstance(rows, TextRows)
            return MaskedSplit(Packed(rows.lengths, self.context, rows.example), masking)
        return MaskedSplit(rows, masking)


def _in_order(
    rows: TextRows | PairRows | Packed, batch_size: int, at_most: int | None
) -> Iterator[Batch]:
    if isinstance(rows, Packed):
        yield from packed_evaluation_batches(rows, batch_size, at_most)
        return
    chosen = np.array(spread(len(rows), batch_size, at_most))
    for number, start in enumerate(range(0, len(chosen), batch_size)):
        numbers = chosen[start : start + batch_size]
        batch = rows.batch(numbers, np.random.default_rng((VALIDATION_SEED, number, 0)))
        missing = batch_size - len(numbers)
        yield {
            name: np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])
            for name, array in batch.items()
        }
