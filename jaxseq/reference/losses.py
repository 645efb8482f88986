"""Twin of `ops.losses`."""

import numpy as np


def softmax_cross_entropy(
    logits: np.ndarray, targets: np.ndarray, mask: np.ndarray, smoothing: float = 0.0
) -> tuple[float, float]:
    """Sum over valid entries of -sum_v q_v log p_v, and how many are valid.

    q is 1 at the target, and of that a share of `smoothing` is spread over all V alike. logits
    (..., V), targets (...), mask (...) with True where a target counts.
    """
    logits, targets = np.asarray(logits, np.float64), np.asarray(targets)
    total, weight = 0.0, 0.0
    for at in np.ndindex(targets.shape):
        if not mask[at]:
            continue
        largest = np.max(logits[at])
        log_normalizer = largest + np.log(np.sum(np.exp(logits[at] - largest)))
        log_probs = logits[at] - log_normalizer
        q = np.full(len(log_probs), smoothing / len(log_probs))
        q[targets[at]] += 1 - smoothing
        total -= np.sum(q * log_probs)
        weight += 1.0
    return total, weight
