"""Masked tokens, as BERT chooses them (Devlin et al. 2018, arXiv:1810.04805, section 3.1)."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from jaxseq.data.subwords import Role, SubwordTokenizer
from jaxseq.typing import Bool, Float, Int

MASKED = 0.8
"""The share of the chosen tokens that [MASK] takes the place of."""

REPLACED = 0.1
"""The share that a random token takes the place of; the others stay as they are."""


class RowDraws:
    """Random numbers for some rows of a batch: those that a draw for the whole batch gives them."""

    def __init__(self, rng: np.random.Generator, batch_size: int, rows: Sequence[int]):
        """Draw from `rng` for `batch_size` rows, and keep `rows`."""
        self._rng = rng
        self._batch_size = batch_size
        self._rows = np.array(rows)

    def random(self, size: tuple[int, ...], dtype: type[np.float32]) -> Float[np.ndarray, "..."]:
        """As `numpy.random.Generator.random`, for an array of these rows."""
        return self._rng.random((self._batch_size, *size[1:]), dtype)[self._rows]

    def integers(self, high: int, size: tuple[int, ...]) -> Int[np.ndarray, "..."]:
        """As `numpy.random.Generator.integers`, for an array of these rows."""
        return self._rng.integers(high, size=(self._batch_size, *size[1:]))[self._rows]


Draws = np.random.Generator | RowDraws


@dataclass(frozen=True)
class Masking:
    """Chooses tokens of a batch, and hides them.

    Of the tokens of a row that are not special, `round(fraction x their number)` are chosen, one at
    least and `most` (which is at most T) at most. With `whole_word`, words are chosen in place of
    tokens, in random order, as long as half of the next one still fits into that number; a word of
    more than `most` tokens is never chosen.
    """

    tokenizer: SubwordTokenizer
    fraction: float
    most: int
    whole_word: bool

    def __call__(
        self,
        tokens: Int[np.ndarray, "B T"],
        segments: Int[np.ndarray, "B T"],
        rng: Draws,
    ) -> dict[str, Int[np.ndarray, "B ..."]]:
        """The batch with its tokens chosen and hidden; M is `most`. `segments` are 0 in padding.

            tokens (B T)             what the model reads
            masked_positions (B M)   where the chosen tokens stand, in order; 0 behind the last
            masked_targets (B M)     the tokens that stood there; 0 behind the last
            masked_count (B)         how many there are

        What stands at a chosen place is [MASK] for 80 % of them, a random token that is not
        special for 10 %, and the token itself for 10 %.
        """
        positions, counts = self.choose(tokens, segments, rng)
        rows = np.arange(len(tokens))[:, None]
        chosen = np.arange(self.most)[None] < counts[:, None]
        targets = np.where(chosen, tokens[rows, positions], 0)
        draw = rng.random(targets.shape, np.float32)
        others = self._ordinary[rng.integers(len(self._ordinary), size=targets.shape)]
        hidden = np.where(draw < MASKED + REPLACED, others, targets)
        hidden = np.where(draw < MASKED, self._mask, hidden)
        read = tokens.copy()
        read[np.broadcast_to(rows, positions.shape)[chosen], positions[chosen]] = hidden[chosen]
        return {
            "tokens": read,
            "masked_positions": positions,
            "masked_targets": targets.astype(np.int32),
            "masked_count": counts,
        }

    def choose(
        self,
        tokens: Int[np.ndarray, "B T"],
        segments: Int[np.ndarray, "B T"],
        rng: Draws,
    ) -> tuple[Int[np.ndarray, "B M"], Int[np.ndarray, " B"]]:
        """(places of the chosen tokens, in order and 0 behind the last; how many there are)."""
        candidates = (segments != 0) & ~self._special[tokens]
        keys = rng.random(tokens.shape, np.float32)
        count = np.rint(self.fraction * candidates.sum(axis=1))
        count = np.clip(count, 1, self.most)[:, None]
        if self.whole_word:
            words = self._words(tokens, candidates)
            sizes = _word_sizes(words, candidates)
            candidates = candidates & (sizes <= self.most)
            keys = np.take_along_axis(keys, words, axis=1)  # one for all tokens of a word
        # Behind all others: a key is below 1.
        order = np.argsort(np.where(candidates, keys, 2), axis=1, kind="stable")
        if self.whole_word:
            words = np.take_along_axis(words, order, axis=1)
            sizes = np.take_along_axis(sizes, order, axis=1)
            places = np.broadcast_to(np.arange(tokens.shape[1])[None], tokens.shape)
            begins = np.diff(words, axis=1, prepend=-1) != 0
            before = np.maximum.accumulate(np.where(begins, places, 0), axis=1)
            taken = (before == 0) | ((before + sizes / 2 <= count) & (before + sizes <= self.most))
        else:
            taken = np.arange(tokens.shape[1])[None] < count
        # Words lie whole in this order, so that what is taken is its beginning.
        taken &= np.take_along_axis(candidates, order, axis=1)
        counts = taken.sum(axis=1).astype(np.int32)
        places = np.sort(np.where(taken, order, tokens.shape[1])[:, : self.most], axis=1)
        chosen = np.arange(self.most)[None] < counts[:, None]
        return np.where(chosen, places, 0).astype(np.int32), counts

    def _words(
        self, tokens: Int[np.ndarray, "B T"], candidates: Bool[np.ndarray, "B T"]
    ) -> Int[np.ndarray, "B T"]:
        """The number of each token's word in its row."""
        continues = np.zeros(tokens.shape, bool)
        goes_on, open_ended = self._joins
        continues[:, 1:] = goes_on[tokens[:, 1:]] & open_ended[tokens[:, :-1]]
        continues[:, 1:] &= candidates[:, 1:] & candidates[:, :-1]
        return np.cumsum(~continues, axis=1) - 1

    @functools.cached_property
    def _mask(self) -> int:
        return self.tokenizer.special("mask")

    @functools.cached_property
    def _special(self) -> Bool[np.ndarray, " V"]:
        return special_tokens(self.tokenizer)

    @functools.cached_property
    def _ordinary(self) -> Int[np.ndarray, " n"]:
        return np.flatnonzero(~self._special)

    @functools.cached_property
    def _joins(self) -> tuple[Bool[np.ndarray, " V"], Bool[np.ndarray, " V"]]:
        return word_joins(self.tokenizer)


def _word_sizes(
    words: Int[np.ndarray, "B T"], candidates: Bool[np.ndarray, "B T"]
) -> Int[np.ndarray, "B T"]:
    """How many candidates are in the word of each token."""
    rows, length = words.shape
    numbers = words + length * np.arange(rows)[:, None]
    sizes = np.bincount(numbers[candidates], minlength=rows * length)
    return sizes[numbers]


def special_tokens(tokenizer: SubwordTokenizer) -> Bool[np.ndarray, " V"]:
    """True for the tokens that have a role: [CLS], [SEP], [PAD], [UNK], [MASK], <s>, </s>."""
    special = np.zeros(tokenizer.vocab_size, bool)
    for role in get_args(Role):
        if tokenizer.has(role):
            special[tokenizer.special(role)] = True
    return special


def word_joins(
    tokenizer: SubwordTokenizer,
) -> tuple[Bool[np.ndarray, " V"], Bool[np.ndarray, " V"]]:
    """(whether a token may go on in a word, whether it leaves one open), for every token.

    It goes on where what it spells behind another token begins with a letter or digit and not with
    a space ("##ing"; "ing" of a byte-level vocabulary, which writes " ing" with its space), and
    leaves a word open where it ends in a letter or digit.
    """
    lead = tokenizer.encode("a")[:1].tolist()
    skip = len(tokenizer.decode(lead))
    # One by one, because a piece may be part of a character.
    spelled = [tokenizer.decode([*lead, i])[skip:] for i in range(tokenizer.vocab_size)]
    goes_on = [bool(text) and _in_a_word(text[0]) for text in spelled]
    open_ended = [bool(text) and _in_a_word(text[-1]) for text in spelled]
    return np.array(goes_on), np.array(open_ended)


def _in_a_word(character: str) -> bool:
    # U+FFFD: part of a character, which mostly is a letter.
    return character.isalnum() or character == "\ufffd"
