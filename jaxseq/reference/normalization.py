"""Twin of `ops.normalization` and `nn.normalization`, whose parameters are the ops' arguments."""

import numpy as np


def layer_norm(
    x: np.ndarray, scale: np.ndarray, bias: np.ndarray | None = None, *, epsilon: float = 1e-5
) -> np.ndarray:
    """y = scale * (x - mean) / sqrt(variance + epsilon) + bias over the last axis of x (..., D)."""
    x = np.asarray(x, np.float64)
    y = np.zeros_like(x)
    for at in np.ndindex(x.shape[:-1]):
        y[at] = scale * (x[at] - np.mean(x[at])) / np.sqrt(np.var(x[at]) + epsilon)
        if bias is not None:
            y[at] += bias
    return y


def rms_norm(x: np.ndarray, scale: np.ndarray, *, epsilon: float = 1e-5) -> np.ndarray:
    """y = scale * x / sqrt(mean(x^2) + epsilon) over the last axis of x (..., D)."""
    x = np.asarray(x, np.float64)
    y = np.zeros_like(x)
    for at in np.ndindex(x.shape[:-1]):
        y[at] = scale * x[at] / np.sqrt(np.mean(x[at] ** 2) + epsilon)
    return y
