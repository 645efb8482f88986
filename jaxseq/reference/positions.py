"""Twin of `ops.positions`."""

import numpy as np


def rotary(x: np.ndarray, positions: np.ndarray, *, base: float = 10_000.0) -> np.ndarray:
    """Turns pair (x_i, x_{i + H/2}) of x (B, T, N, H) by the angle p * base^(-2i / H).

    `positions` (B or 1, T) holds p.
    """
    x = np.asarray(x, np.float64)
    batch, length, heads, head_size = x.shape
    positions = np.broadcast_to(positions, (batch, length))
    half = head_size // 2
    y = np.zeros_like(x)
    for b, t, n, i in np.ndindex(batch, length, heads, half):
        angle = positions[b, t] * base ** (-2 * i / head_size)
        first, second = x[b, t, n, i], x[b, t, n, i + half]
        y[b, t, n, i] = first * np.cos(angle) - second * np.sin(angle)
        y[b, t, n, i + half] = first * np.sin(angle) + second * np.cos(angle)
    return y
