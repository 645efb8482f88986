"""Twin of `ops.grouped_linear`."""

import numpy as np


def grouped_linear(x: np.ndarray, kernel: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """y_r = x_r W_e: sizes[0] rows of group 0, then sizes[1] of group 1, ...; 0 behind them."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    y = np.zeros((len(x), kernel.shape[2]))
    start = 0
    for e, size in enumerate(sizes):
        y[start : start + size] = x[start : start + size] @ kernel[e]
        start += size
    return y
