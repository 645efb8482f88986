"""Twins of `decoding.ctc` for one row; a language model is a function of a tuple of labels.

`model(labels)` gives the log-probabilities (V,) of what follows; the entry of the blank is the end.
"""

from collections.abc import Callable, Iterable
from functools import reduce

import numpy as np

from jaxseq.reference.ctc import labels_of, path_probabilities

Model = Callable[[tuple[int, ...]], np.ndarray]
Hypothesis = tuple[tuple[int, ...], float]


def ctc_greedy(log_probs: np.ndarray, *, blank: int = 0) -> Hypothesis:
    """The labels of the likeliest path of a row (T, V), and the path's log-probability."""
    path = tuple(int(np.argmax(frame)) for frame in log_probs)
    return labels_of(path, blank), float(sum(np.max(frame) for frame in log_probs))


def favour(
    labels: tuple[int, ...], model: Model | None, weight: float, bonus: float, blank: int
) -> float:
    """What language model and bonus add for labels, without their end."""
    total = bonus * len(labels)
    for at, label in enumerate(labels):
        total += 0.0 if model is None else weight * model(labels[:at])[label]
    return total


def at_end(labels: tuple[int, ...], model: Model | None, weight: float, blank: int) -> float:
    """What the language model adds for the end."""
    return 0.0 if model is None else weight * model(labels)[blank]


def all_labels(
    log_probs: np.ndarray,
    *,
    blank: int = 0,
    model: Model | None = None,
    weight: float = 1.0,
    bonus: float = 0.0,
) -> list[Hypothesis]:
    """Every possible label sequence of a row (T, V) by its score, best first."""
    found = [
        (
            labels,
            score
            + favour(labels, model, weight, bonus, blank)
            + at_end(labels, model, weight, blank),
        )
        for labels, score in path_probabilities(log_probs, blank).items()
    ]
    return sorted((each for each in found if each[1] > -np.inf), key=lambda each: -each[1])


def ctc_prefix_beam(
    log_probs: np.ndarray,
    *,
    beam_size: int,
    blank: int = 0,
    model: Model | None = None,
    weight: float = 1.0,
    bonus: float = 0.0,
) -> list[Hypothesis]:
    """The best label sequences of a row (T, V) that a beam over prefixes finds, best first.

    A prefix has the log-probabilities of its paths that end in a blank, and in its last label.
    """
    beam = {(): (0.0, -np.inf)}
    for frame in log_probs:
        grown: dict[tuple[int, ...], list[list[float]]] = {}
        for labels, (by_blank, by_label) in beam.items():
            both = np.logaddexp(by_blank, by_label)
            grown.setdefault(labels, [[], []])[0].append(both + frame[blank])
            for label, more in enumerate(frame):
                if label == blank:
                    continue
                extended = (*labels, label)
                if labels[-1:] == (label,):
                    grown[labels][1].append(by_label + more)
                    grown.setdefault(extended, [[], []])[1].append(by_blank + more)
                else:
                    grown.setdefault(extended, [[], []])[1].append(both + more)
        summed = {
            labels: tuple(_log_sum(scores) for scores in both) for labels, both in grown.items()
        }
        ranks = {
            labels: _log_sum(both) + favour(labels, model, weight, bonus, blank)
            for labels, both in summed.items()
        }
        best = sorted(ranks, key=lambda labels: -ranks[labels])[:beam_size]
        beam = {labels: summed[labels] for labels in best if ranks[labels] > -np.inf}
    found = [
        (
            labels,
            _log_sum(both)
            + favour(labels, model, weight, bonus, blank)
            + at_end(labels, model, weight, blank),
        )
        for labels, both in beam.items()
    ]
    return sorted((each for each in found if each[1] > -np.inf), key=lambda each: -each[1])


def _log_sum(logs: Iterable[float]) -> float:
    """log of the sum of exponentials; -inf of none."""
    return float(reduce(np.logaddexp, logs, -np.inf))
