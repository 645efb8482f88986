"""Twins of `ops.ctc` and `ops.ctc_alignment`, and the enumeration of all paths."""

import itertools
from functools import reduce

import numpy as np


def labels_of(path: tuple[int, ...], blank: int) -> tuple[int, ...]:
    """Equal neighbours merged, then blanks left out."""
    return tuple(symbol for symbol, _ in itertools.groupby(path) if symbol != blank)


def path_probabilities(log_probs: np.ndarray, blank: int) -> dict[tuple[int, ...], float]:
    """log p of every label sequence that T frames (T, V) can have, by all V^T paths."""
    time, vocab_size = log_probs.shape
    found: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(vocab_size), repeat=time):
        score = float(sum(log_probs[t, symbol] for t, symbol in enumerate(path)))
        labels = labels_of(path, blank)
        found[labels] = float(np.logaddexp(found.get(labels, -np.inf), score))
    return found


def best_paths(log_probs: np.ndarray, blank: int) -> dict[tuple[int, ...], float]:
    """The log-probability of the likeliest path of every label sequence, by all V^T paths."""
    time, vocab_size = log_probs.shape
    found: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(vocab_size), repeat=time):
        score = float(sum(log_probs[t, symbol] for t, symbol in enumerate(path)))
        labels = labels_of(path, blank)
        found[labels] = max(found.get(labels, -np.inf), score)
    return found


def with_blanks(labels: np.ndarray, blank: int) -> list[int]:
    """blank, label 1, blank, label 2, ..., blank."""
    return [blank, *itertools.chain.from_iterable((int(label), blank) for label in labels)]


def ways_into(state: int, symbols: list[int], blank: int) -> list[int]:
    """The states before `state`: itself, the one before, and over a blank that may be left out."""
    ways = [state]
    if state >= 1:
        ways.append(state - 1)
    if state >= 2 and symbols[state] not in (blank, symbols[state - 2]):
        ways.append(state - 2)
    return ways


def ctc_loss(
    logits: np.ndarray,
    logit_lengths: np.ndarray,
    labels: np.ndarray,
    label_lengths: np.ndarray,
    *,
    blank: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Nats of each row (B,), 0 where the labels are impossible, and whether they are possible."""
    losses, possible = np.zeros(len(logits)), np.zeros(len(logits), bool)
    for b in range(len(logits)):
        row = logits[b, : logit_lengths[b]]
        symbols = with_blanks(labels[b, : label_lengths[b]], blank)
        if len(row) == 0:
            possible[b] = len(symbols) == 1
            continue
        log_probs = row - np.log(np.sum(np.exp(row), axis=-1, keepdims=True))
        forward = np.full((len(row), len(symbols)), -np.inf)
        for state in range(min(2, len(symbols))):
            forward[0, state] = log_probs[0, symbols[state]]
        for t in range(1, len(row)):
            for state, symbol in enumerate(symbols):
                before = reduce(
                    np.logaddexp, [forward[t - 1, way] for way in ways_into(state, symbols, blank)]
                )
                forward[t, state] = before + log_probs[t, symbol]
        log_z = reduce(np.logaddexp, forward[-1, -2:])
        possible[b] = log_z > -np.inf
        losses[b] = -log_z if possible[b] else 0.0
    return losses, possible


def ctc_forced_alignment(
    log_probs: np.ndarray,
    logit_lengths: np.ndarray,
    labels: np.ndarray,
    label_lengths: np.ndarray,
    *,
    blank: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """The number of the label that each frame has on the best path (B, T), -1 for none; scores."""
    numbers = np.full(log_probs.shape[:2], -1)
    scores = np.full(len(log_probs), -np.inf)
    for b in range(len(log_probs)):
        row = log_probs[b, : logit_lengths[b]]
        symbols = with_blanks(labels[b, : label_lengths[b]], blank)
        if len(row) == 0:
            scores[b] = 0.0 if len(symbols) == 1 else -np.inf
            continue
        best = np.full((len(row), len(symbols)), -np.inf)
        came_from = np.zeros((len(row), len(symbols)), int)
        for state in range(min(2, len(symbols))):
            best[0, state] = row[0, symbols[state]]
        for t in range(1, len(row)):
            for state, symbol in enumerate(symbols):
                ways = ways_into(state, symbols, blank)
                way = max(ways, key=lambda way, t=t: best[t - 1, way])
                best[t, state], came_from[t, state] = best[t - 1, way] + row[t, symbol], way
        state = max(range(max(0, len(symbols) - 2), len(symbols)), key=lambda s: best[-1, s])
        scores[b] = best[-1, state]
        for t in reversed(range(len(row))):
            if scores[b] > -np.inf and state % 2 == 1:
                numbers[b, t] = state // 2
            state = came_from[t, state]
    return numbers, scores
