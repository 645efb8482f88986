"""Pairs that are made up on the spot: what all kinds of them share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from jaxseq.data.corpus import Corpus
from jaxseq.data.pair_tokenizers import PairCoder, PairTokenizer, Unit
from jaxseq.data.pairs import Pair, PairBatches, pair_corpus
from jaxseq.data.ragged import Ragged
from jaxseq.data.text import Document
from jaxseq.option_checks import check_range

MOST = 100_000
"""Pairs of a split."""

Made = TypeVar("Made", bound="MadeUpPairs")


@dataclass(frozen=True, kw_only=True)
class MadeUpPairs(PairBatches):
    """How many pairs are made up, no source in two splits."""

    num_train: int = 10_000
    """Pairs to train on."""

    num_held_out: int = 1_000
    """Pairs in each of the validation and the test split."""

    seed: int = 0
    """Decides the pairs."""

    def resolve(self: Made) -> Made:
        """The config itself: nothing in it depends on where it is read."""
        return self

    def describe(self, corpus: Corpus[PairCoder, Ragged]) -> str:
        """What there is to train on, for a person."""
        return f"{len(corpus.train):,} made-up pairs"

    def count(self) -> int:
        """Pairs of all splits; UserError for a count out of range."""
        self.check()
        check_range("data", self, "num_train", "num_held_out", least=1, most=MOST)
        return self.num_train + 2 * self.num_held_out

    def corpus(
        self,
        made: Sequence[Pair],
        unit: Unit,
        tokenizer: PairTokenizer | None,
        references: bool = False,
    ) -> Corpus[PairCoder, Ragged]:
        """The corpus of `count` pairs; see `pair_corpus` for `references`."""
        held = self.num_held_out
        pairs = {
            "validation": made[:held],
            "test": made[held : 2 * held],
            "train": made[2 * held :],
        }
        if tokenizer is None:
            tokenizer = PairTokenizer.train(pairs["train"], unit, unit)
        document = Document(type(self).__name__, "\n".join("\t".join(pair) for pair in made))
        return pair_corpus(tokenizer, pairs, self.batch_size, [document], references)
