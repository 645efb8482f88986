"""Twin of `ops.frame_normalization`."""

import numpy as np

EPSILON = 1e-3


def standardise_utterances(x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(x_t - mean) / sqrt(variance + 0.001) over each row's valid steps; x is (B, T, M)."""
    y = np.zeros(x.shape)
    for b, length in enumerate(lengths):
        if length:
            row = x[b, :length]
            y[b, :length] = (row - row.mean(0)) / np.sqrt(row.var(0) + EPSILON)
    return y


def standardise_running(x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """d_t / sqrt(v_t) of each row's valid steps by what was heard up to each; x is (B, T, M).

    d_t = x_t - (x_0 + ... + x_t) / (t + 1)     v_t = (1 + d_0^2 + ... + d_t^2) / (t + 2)
    """
    y = np.zeros(x.shape)
    for b, length in enumerate(lengths):
        squares = np.ones(x.shape[2])
        for t in range(length):
            distance = x[b, t] - x[b, : t + 1].mean(0)
            squares += distance**2
            y[b, t] = distance / np.sqrt(squares / (t + 2))
    return y
