"""Twin of `ops.chain` and `ops.chain_paths`: every path written out, and plain loops in log space.

A chain is (emissions (B, T, C), transitions (C, C) or (B, T-1, C, C), initial, final, lengths), the
last three possibly None. Enumeration (`paths` and what is built on it) is for tiny cases, since
there are C^T paths.
"""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np


class Sequence(NamedTuple):
    """One sequence of a chain, without its padding: T is its length."""

    emissions: np.ndarray  # (T, C)
    transitions: np.ndarray  # (T-1, C, C)
    initial: np.ndarray  # (C,)
    final: np.ndarray  # (C,)


def sequences(chain: Any) -> Iterator[Sequence]:
    """The sequences of a batch, one after the other, in float64."""
    emissions, transitions, initial, final, lengths = chain
    emissions = np.asarray(emissions, np.float64)
    transitions = np.asarray(transitions, np.float64)
    batch, time, states = emissions.shape
    for b in range(batch):
        length = time if lengths is None else min(int(lengths[b]), time)
        steps = max(length - 1, 0)
        if transitions.ndim == 2:
            each = np.broadcast_to(transitions, (steps, states, states))
        else:
            each = transitions[b, :steps]
        yield Sequence(
            emissions[b, :length], each, _row(initial, b, states), _row(final, b, states)
        )


def _row(vector: Any, b: int, states: int) -> np.ndarray:
    if vector is None:
        return np.zeros(states)
    vector = np.asarray(vector, np.float64)
    return vector[b if len(vector) > 1 else 0]


def log_sum_exp(x: np.ndarray, axis: int | None = None) -> Any:
    """log sum exp; -inf for nothing but -inf."""
    largest = np.max(x, axis=axis, keepdims=True)
    largest = np.where(np.isfinite(largest), largest, 0)
    with np.errstate(divide="ignore"):
        sums = np.log(np.sum(np.exp(x - largest), axis=axis, keepdims=True)) + largest
    return np.squeeze(sums, axis=axis)[()]


# --- Every path written out -----------------------------------------------------------------------


def path_score(sequence: Sequence, path: np.ndarray) -> float:
    """initial + emissions + transitions + final along one path."""
    if len(path) == 0:
        return 0.0
    total = sequence.initial[path[0]] + sequence.final[path[-1]]
    for t, state in enumerate(path):
        total += sequence.emissions[t, state]
    for t in range(len(path) - 1):
        total += sequence.transitions[t, path[t], path[t + 1]]
    return float(total)


def paths(sequence: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """All C^T paths (P, T) and their scores (P,)."""
    length, states = sequence.emissions.shape
    every = np.array(list(itertools.product(range(states), repeat=length)), int)
    return every, np.array([path_score(sequence, path) for path in every])


def enumerated_log_partition(chain: Any) -> np.ndarray:
    """log Z (B,) as the log-sum-exp over all paths."""
    return np.array([log_sum_exp(paths(sequence)[1]) for sequence in sequences(chain)])


def probabilities(scores: np.ndarray) -> np.ndarray:
    """exp(score - log Z) of every path; 0 where none is possible."""
    total = log_sum_exp(scores)
    return np.exp(scores - total) if total > -np.inf else np.zeros_like(scores)


def enumerated_edge_marginals(chain: Any) -> np.ndarray:
    """p(y_t = i, y_{t+1} = j) (B, T-1, C, C): the share of the paths that go that way."""
    batch, time, states = np.shape(chain[0])
    marginals = np.zeros((batch, time - 1, states, states))
    for b, sequence in enumerate(sequences(chain)):
        every, scores = paths(sequence)
        for path, probability in zip(every, probabilities(scores), strict=True):
            for t in range(len(path) - 1):
                marginals[b, t, path[t], path[t + 1]] += probability
    return marginals


def enumerated_node_marginals(chain: Any) -> np.ndarray:
    """p(y_t = j) (B, T, C): the share of the paths that pass there."""
    marginals = np.zeros(np.shape(chain[0]))
    for b, sequence in enumerate(sequences(chain)):
        every, scores = paths(sequence)
        for path, probability in zip(every, probabilities(scores), strict=True):
            for t, state in enumerate(path):
                marginals[b, t, state] += probability
    return marginals


def enumerated_entropy(chain: Any) -> np.ndarray:
    """-sum p log p over all paths (B,), in nats; 0 where none is possible."""
    entropies = []
    for sequence in sequences(chain):
        p = probabilities(paths(sequence)[1])
        p = p[p > 0]
        entropies.append(-np.sum(p * np.log(p)))
    return np.array(entropies)


def enumerated_k_best(chain: Any, k: int) -> tuple[list[np.ndarray], np.ndarray]:
    """The k best possible paths of each sequence (fewer where there are fewer), and all scores
    (B, k), -inf after the last."""
    best, values = [], []
    for sequence in sequences(chain):
        every, scores = paths(sequence)
        order = np.argsort(-scores, kind="stable")[:k]
        order = order[scores[order] > -np.inf]
        best.append(every[order])
        values.append(np.pad(scores[order], (0, k - len(order)), constant_values=-np.inf))
    return best, np.array(values)


# --- Plain loops ----------------------------------------------------------------------------------


def score(chain: Any, states: np.ndarray) -> np.ndarray:
    """The score (B,) of one path of every sequence."""
    return np.array(
        [
            path_score(sequence, path[: len(sequence.emissions)])
            for sequence, path in zip(sequences(chain), states, strict=True)
        ]
    )


def forward(sequence: Sequence) -> np.ndarray:
    """alpha_t[j] (T, C): log-sum-exp of the scores of all beginnings that end in j at t."""
    alpha = np.zeros(sequence.emissions.shape)
    for t, emissions in enumerate(sequence.emissions):
        if t == 0:
            alpha[t] = sequence.initial + emissions
        else:
            into = alpha[t - 1][:, None] + sequence.transitions[t - 1]
            alpha[t] = log_sum_exp(into, axis=0) + emissions
    return alpha


def backward(sequence: Sequence) -> np.ndarray:
    """beta_t[i] (T, C): log-sum-exp of the scores of all that may follow i at t."""
    beta = np.zeros(sequence.emissions.shape)
    for t in reversed(range(len(beta))):
        if t == len(beta) - 1:
            beta[t] = sequence.final
        else:
            after = sequence.emissions[t + 1] + beta[t + 1]
            beta[t] = log_sum_exp(sequence.transitions[t] + after[None, :], axis=1)
    return beta


def log_partition(chain: Any) -> np.ndarray:
    """log Z (B,): 0 for length 0."""
    return np.array(
        [
            log_sum_exp(forward(sequence)[-1] + sequence.final) if len(sequence.emissions) else 0.0
            for sequence in sequences(chain)
        ]
    )


def filtered(chain: Any) -> tuple[np.ndarray, np.ndarray]:
    """log p(y_t | up to t) (B, T, C) and each step's log normaliser (B, T); 0 in the padding."""
    shape = np.shape(chain[0])
    messages, normalizers = np.zeros(shape), np.zeros(shape[:2])
    for b, sequence in enumerate(sequences(chain)):
        before = 0.0
        for t, alpha in enumerate(forward(sequence)):
            total = log_sum_exp(alpha)
            possible = total > -np.inf
            messages[b, t] = alpha - total if possible else -np.inf
            normalizers[b, t] = total - before if possible else -np.inf
            before = total
    return messages, normalizers


def node_marginals(chain: Any) -> np.ndarray:
    """exp(alpha_t + beta_t - log Z) (B, T, C)."""
    marginals = np.zeros(np.shape(chain[0]))
    for b, sequence in enumerate(sequences(chain)):
        both = forward(sequence) + backward(sequence)
        for t, scores in enumerate(both):
            marginals[b, t] = probabilities(scores)
    return marginals


def edge_marginals(chain: Any) -> np.ndarray:
    """exp(alpha_t[i] + transitions[i, j] + emissions_{t+1}[j] + beta_{t+1}[j] - log Z)."""
    batch, time, states = np.shape(chain[0])
    marginals = np.zeros((batch, time - 1, states, states))
    for b, sequence in enumerate(sequences(chain)):
        alpha, beta = forward(sequence), backward(sequence)
        for t in range(len(alpha) - 1):
            after = sequence.emissions[t + 1] + beta[t + 1]
            scores = alpha[t][:, None] + sequence.transitions[t] + after[None, :]
            marginals[b, t] = probabilities(scores)
    return marginals


def viterbi(chain: Any) -> tuple[np.ndarray, np.ndarray]:
    """The best path (B, T), 0 in the padding, and its score (B,); -inf where there is none."""
    batch, time, _ = np.shape(chain[0])
    states, scores = np.zeros((batch, time), int), np.zeros(batch)
    for b, sequence in enumerate(sequences(chain)):
        length = len(sequence.emissions)
        best, pointers = np.zeros(sequence.emissions.shape), np.zeros(sequence.emissions.shape, int)
        for t, emissions in enumerate(sequence.emissions):
            if t == 0:
                best[t] = sequence.initial + emissions
            else:
                into = best[t - 1][:, None] + sequence.transitions[t - 1]
                best[t], pointers[t] = np.max(into, axis=0) + emissions, np.argmax(into, axis=0)
        if length:
            best[-1] += sequence.final
            states[b, length - 1], scores[b] = np.argmax(best[-1]), np.max(best[-1])
        for t in reversed(range(length - 1)):
            states[b, t] = pointers[t + 1][states[b, t + 1]]
    return states, scores
