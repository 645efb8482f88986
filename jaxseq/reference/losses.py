"""Twin of `ops.losses`."""

import numpy as np


def softmax_cross_entropy(
    logits: np.ndarray, targets: np.ndarray, mask: np.ndarray
) -> tuple[float, float]:
    """Sum over valid entries of logsumexp(logits) - logits[target], and how many are valid.

    logits (..., V), targets (...), mask (...) with True where a target counts.
    """
    logits, targets = np.asarray(logits, np.float64), np.asarray(targets)
    total, weight = 0.0, 0.0
    for at in np.ndindex(targets.shape):
        if not mask[at]:
            continue
        largest = np.max(logits[at])
        log_normalizer = largest + np.log(np.sum(np.exp(logits[at] - largest)))
        total += log_normalizer - logits[at][targets[at]]
        weight += 1.0
    return total, weight
