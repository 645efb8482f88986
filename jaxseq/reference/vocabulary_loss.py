"""Twin of `ops.vocabulary_loss`."""

import numpy as np

from jaxseq.reference.losses import softmax_cross_entropy


def linear_cross_entropy(
    hidden: np.ndarray,
    kernel: np.ndarray,
    bias: np.ndarray | None,
    targets: np.ndarray,
    mask: np.ndarray,
    *,
    soft_cap: float | None = None,
) -> tuple[float, float]:
    """(sum over valid of -log softmax(f(W^T x + b))[target], number of valid positions).

    hidden (B, T, D), kernel (D, V), bias (V,), targets and mask (B, T); f is c tanh(. / c) or
    nothing.
    """
    logits = np.where(mask[..., None], np.asarray(hidden, np.float64), 0) @ kernel
    if bias is not None:
        logits = logits + bias
    if soft_cap is not None:
        logits = soft_cap * np.tanh(logits / soft_cap)
    return softmax_cross_entropy(logits, targets, mask)
