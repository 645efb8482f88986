"""Language models of counted n-grams, as decoding wants them: one look into a table for a step."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from jaxseq.typing import Array, Float, Int

LARGEST = 1 << 26
"""Entries of a table: 256 MiB of float32."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NGram:
    """log p(next symbol | the n - 1 symbols before) as one dense table.

    Symbols are 0 ... V - 1. `boundary` stands before every sequence, as often as the context is
    long, and is the end as what comes next; no sequence holds it. The defaults are those of CTC,
    whose blank no label sequence holds. Usable as `language_model=(grams.step,
    grams.start_carry(rows))` in `decoding.ctc`, and in `decoding.beam` with the boundary as start
    and end token.
    """

    log_probs: Float[Array, "contexts V"]  # contexts as numbers in base V, the oldest symbol first
    order: int = field(metadata={"static": True})
    boundary: int = field(default=0, metadata={"static": True})

    @staticmethod
    def fit(
        sequences: Iterable[Sequence[int]], order: int, vocab_size: int, boundary: int = 0
    ) -> "NGram":
        """Interpolated n-grams of the sequences, each with its end (Witten and Bell 1991).

            p(w | h) = (c(h w) + d(h) p(w | h')) / (c(h) + d(h)),       h' = h without its first

        with counts c and d(h) the number of different symbols that came after h; p(w | h') where h
        never came, and 1 / V behind the empty h: no symbol is impossible.

        Raises ValueError for an order or a vocabulary out of range, a table of more than 2^26
        entries, and a symbol that is none, naming its sequence.
        """
        if order < 1:
            raise ValueError(f"order is {order}; it must be at least 1")
        if not 0 <= boundary < vocab_size:
            raise ValueError(f"boundary is {boundary}; it must be one of 0 ... {vocab_size - 1}")
        if vocab_size**order > LARGEST:
            raise ValueError(
                f"order {order} of {vocab_size} symbols has {vocab_size**order} entries, more than "
                f"{LARGEST}; take a lower order"
            )
        texts = [_bounded(each, order, vocab_size, boundary, i) for i, each in enumerate(sequences)]
        probabilities = np.full((1, vocab_size), 1 / vocab_size)
        for length in range(order):  # of the context
            contexts = vocab_size**length
            events = [_numbers(text, length + 1, order, vocab_size) for text in texts]
            counts = np.bincount(
                np.concatenate([*events, np.zeros(0, np.int64)]), minlength=contexts * vocab_size
            ).reshape(contexts, vocab_size)
            shorter = np.tile(probabilities, (contexts // len(probabilities), 1))
            different = np.sum(counts > 0, axis=1, keepdims=True)
            weight = np.sum(counts, axis=1, keepdims=True) + different
            mixed = (counts + different * shorter) / np.maximum(weight, 1)
            probabilities = np.where(different > 0, mixed, shorter)
        return NGram(jnp.asarray(np.log(probabilities), jnp.float32), order, boundary)

    def start_carry(self, rows: int) -> Int[Array, "J"]:
        """The context before the first symbol, for each of `rows` hypotheses."""
        contexts, vocab_size = self.log_probs.shape
        start = sum(self.boundary * vocab_size**i for i in range(self.order - 1))
        return jnp.full(rows, start % contexts, jnp.int32)

    def step(
        self, tokens: Int[Array, "J"], carry: Int[Array, "J"]
    ) -> tuple[Float[Array, "J V"], Int[Array, "J"]]:
        """log p of what follows (J, V) when `tokens` come behind the contexts, and the new ones."""
        contexts, vocab_size = self.log_probs.shape
        carry = (carry * vocab_size + tokens) % contexts
        return jnp.take(self.log_probs, carry, axis=0, mode="clip"), carry

    def perplexity(self, sequences: Iterable[Sequence[int]]) -> float:
        """exp of the mean of -log p over all symbols, ends included; NaN for no sequence."""
        vocab_size, order = self.log_probs.shape[1], self.order
        texts = [
            _bounded(each, order, vocab_size, self.boundary, i) for i, each in enumerate(sequences)
        ]
        if not texts:
            return float("nan")
        events = np.concatenate([_numbers(text, order, order, vocab_size) for text in texts])
        return float(np.exp(-np.mean(np.asarray(self.log_probs, np.float64).reshape(-1)[events])))


def _bounded(
    sequence: Sequence[int], order: int, vocab_size: int, boundary: int, number: int
) -> np.ndarray:
    """A sequence with its start and end, checked."""
    symbols = np.asarray(sequence, np.int64).reshape(-1)
    wrong = symbols[(symbols < 0) | (symbols >= vocab_size) | (symbols == boundary)]
    if len(wrong):
        raise ValueError(
            f"sequence {number} holds {wrong[0]}, which is no symbol of 0 ... {vocab_size - 1} "
            f"without the boundary {boundary}"
        )
    start = np.full(order - 1, boundary)
    return np.concatenate([start, symbols, [boundary]]).astype(np.int64)


def _numbers(text: np.ndarray, length: int, order: int, vocab_size: int) -> np.ndarray:
    """The last `length` symbols up to each position behind the start, as numbers in base V."""
    events = np.zeros(len(text) - (order - 1), np.int64)
    for back in range(length - 1, -1, -1):
        events = events * vocab_size + text[order - 1 - back : len(text) - back]
    return events
