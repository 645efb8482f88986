"""Twin of `decoding.ngram`: probabilities by the recursion itself, from the sequences."""

import math
from collections.abc import Sequence


class NGram:
    """Interpolated Witten-Bell n-grams of label sequences; the boundary is the start and the end.

        p(w | h) = (c(h w) + d(h) p(w | h')) / (c(h) + d(h)),       h' = h without its first

    with d(h) the number of different symbols after h; p(w | h') where h never came, 1 / V behind
    the empty h.
    """

    def __init__(
        self, sequences: Sequence[Sequence[int]], order: int, vocab_size: int, boundary: int = 0
    ):
        self.order, self.vocab_size, self.boundary = order, vocab_size, boundary
        self.texts = [[boundary] * (order - 1) + [*each, boundary] for each in sequences]

    def after(self, context: tuple[int, ...]) -> list[int]:
        """Every symbol that came behind a context."""
        found = []
        for text in self.texts:
            for at in range(self.order - 1, len(text)):
                if tuple(text[at - len(context) : at]) == context:
                    found.append(text[at])
        return found

    def probability(self, symbol: int, context: tuple[int, ...]) -> float:
        """p(symbol | context), of at most order - 1 symbols."""
        shorter = self.probability(symbol, context[1:]) if context else 1 / self.vocab_size
        after = self.after(context)
        if not after:
            return shorter
        different = len(set(after))
        return (after.count(symbol) + different * shorter) / (len(after) + different)

    def perplexity(self, sequences: Sequence[Sequence[int]]) -> float:
        """exp of the mean of -log p over all symbols, ends included."""
        logs = []
        for each in sequences:
            text = [self.boundary] * (self.order - 1) + [*each, self.boundary]
            for at in range(self.order - 1, len(text)):
                context = tuple(text[at - self.order + 1 : at])
                logs.append(math.log(self.probability(text[at], context)))
        return math.exp(-sum(logs) / len(logs))
