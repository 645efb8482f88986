"""Twins of `decoding.beam` for one row, and the enumeration of all that it could find.

`next_log_probs(prefix)` gives the log-probabilities (V,) of the token after a tuple of tokens. A
hypothesis is (tokens without the end token, score).
"""

from collections.abc import Callable

import numpy as np

Model = Callable[[tuple[int, ...]], np.ndarray]
Hypothesis = tuple[tuple[int, ...], float]


def length_penalty(length: int, exponent: float) -> float:
    """((5 + n) / 6)^exponent for n tokens written, the end token included."""
    return ((5 + length) / 6) ** exponent


def all_hypotheses(
    next_log_probs: Model, *, max_length: int, end_token: int, exponent: float
) -> list[Hypothesis]:
    """Every finished hypothesis of probability above 0, best first."""
    found = []

    def extend(prefix: tuple[int, ...], log_prob: float) -> None:
        if len(prefix) == max_length:
            found.append((prefix, log_prob / length_penalty(max_length, exponent)))
            return
        for token, more in enumerate(next_log_probs(prefix)):
            if token == end_token:
                score = (log_prob + more) / length_penalty(len(prefix) + 1, exponent)
                found.append((prefix, score))
            else:
                extend((*prefix, token), log_prob + more)

    extend((), 0.0)
    return best_first([(tokens, score) for tokens, score in found if score > -np.inf])


def beam_search(
    next_log_probs: Model,
    *,
    beam_size: int,
    max_length: int,
    end_token: int,
    exponent: float,
    early_stopping: bool = False,
) -> list[Hypothesis]:
    """The `beam_size` best that a beam finds, best first.

    It stops before `max_length` only where it is told to: with `beam_size` finished ones.
    """
    beam: list[Hypothesis] = [((), 0.0)]
    finished: list[Hypothesis] = []
    for at in range(max_length):
        continuations: list[Hypothesis] = []
        for prefix, log_prob in beam:
            for token, more in enumerate(next_log_probs(prefix)):
                if more > -np.inf:
                    continuations.append(((*prefix, token), log_prob + more))
        continuations = best_first(continuations)
        finished += [
            (tokens[:-1], log_prob / length_penalty(at + 1, exponent))
            for tokens, log_prob in continuations[:beam_size]
            if tokens[-1] == end_token
        ]
        beam = [c for c in continuations if c[0][-1] != end_token][:beam_size]
        if early_stopping and len(finished) >= beam_size:
            return best_first(finished)[:beam_size]
    cut = [(tokens, log_prob / length_penalty(max_length, exponent)) for tokens, log_prob in beam]
    return best_first(finished + cut)[:beam_size]


def greedy_search(
    next_log_probs: Model, *, max_length: int, end_token: int, exponent: float
) -> Hypothesis:
    """The likeliest token at every step."""
    prefix: tuple[int, ...] = ()
    log_prob = 0.0
    for at in range(max_length):
        log_probs = next_log_probs(prefix)
        token = int(np.argmax(log_probs))
        log_prob += log_probs[token]
        if token == end_token:
            return prefix, log_prob / length_penalty(at + 1, exponent)
        prefix = (*prefix, token)
    return prefix, log_prob / length_penalty(max_length, exponent)


def best_first(hypotheses: list[Hypothesis]) -> list[Hypothesis]:
    """Sorted by falling score; equals stay in order."""
    return sorted(hypotheses, key=lambda hypothesis: -hypothesis[1])
