"""Twin of `ops.copying`."""

import numpy as np


def mixture_probabilities(
    logits: np.ndarray, gate: np.ndarray, weights: np.ndarray, numbers: np.ndarray, size: int
) -> np.ndarray:
    """P_t(w) = g_t softmax(z_t)_w + (1 - g_t) sum_{s: n_s = w} a_ts, as (B, T, W), W = `size`.

    Logits (B, T, V), the log odds of writing (B, T), weights (B, T, S), numbers (B, S).
    """
    batch, steps, vocab_size = logits.shape
    found = np.zeros((batch, steps, size))
    for b, t in np.ndindex(batch, steps):
        share = 1 / (1 + np.exp(-gate[b, t]))
        exps = np.exp(logits[b, t] - logits[b, t].max())
        found[b, t, :vocab_size] = share * exps / exps.sum()
        for s, number in enumerate(numbers[b]):
            if 0 <= number < size:
                found[b, t, number] += (1 - share) * weights[b, t, s]
    return found


def mixture_cross_entropy(
    logits: np.ndarray,
    gate: np.ndarray,
    weights: np.ndarray,
    numbers: np.ndarray,
    targets: np.ndarray,
    mask: np.ndarray,
) -> tuple[float, float]:
    """Sum over valid t of -log P_t(target_t), and the number of valid t."""
    size = max(logits.shape[-1], int(numbers.max()) + 1, int(targets.max()) + 1)
    probabilities = mixture_probabilities(logits, gate, weights, numbers, size)
    total = 0.0
    for b, t in zip(*np.nonzero(mask), strict=True):
        total -= np.log(probabilities[b, t, targets[b, t]])
    return total, float(np.sum(mask))
