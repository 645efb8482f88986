"""Twin of `ops.positions`."""

from typing import Any

import numpy as np


def rotary_frequencies(head_size: int, config: Any) -> list[float]:
    """The angle by which one position turns pair i of a head; `config` has Rotary's fields."""
    base = config.base
    if config.scaling == "ntk":
        base = base * config.factor ** (head_size / (head_size - 2))
    found = []
    for i in range(head_size // 2):
        frequency = base ** (-2 * i / head_size)
        if config.scaling == "linear":
            frequency = frequency / config.factor
        if config.scaling == "llama3":
            wavelength = 2 * np.pi / frequency
            short = config.original_context / config.high_frequency_factor
            long = config.original_context / config.low_frequency_factor
            if wavelength > long:
                frequency = frequency / config.factor
            elif wavelength >= short:
                turns = config.original_context / wavelength
                kept = (turns - config.low_frequency_factor) / (
                    config.high_frequency_factor - config.low_frequency_factor
                )
                frequency = (1 - kept) * frequency / config.factor + kept * frequency
        found.append(frequency)
    return found


def rotary(x: np.ndarray, positions: np.ndarray | int, config: Any) -> np.ndarray:
    """Turns pair (x_i, x_{i + H/2}) of x (B, T, N, H) by the angle p * f_i.

    `positions` (B or 1, T) holds p.
    """
    x = np.asarray(x, np.float64)
    batch, length, heads, head_size = x.shape
    positions = np.broadcast_to(positions, (batch, length))
    half = head_size // 2
    frequencies = rotary_frequencies(head_size, config)
    y = np.zeros_like(x)
    for b, t, n, i in np.ndindex(batch, length, heads, half):
        angle = positions[b, t] * frequencies[i]
        first, second = x[b, t, n, i], x[b, t, n, i + half]
        y[b, t, n, i] = first * np.cos(angle) - second * np.sin(angle)
        y[b, t, n, i + half] = first * np.sin(angle) + second * np.cos(angle)
    return y


def sinusoidal(positions: np.ndarray, size: int) -> np.ndarray:
    """sin(p w_i) for i < D/2 and cos(p w_{i - D/2}) behind, w_i = 10000^(-2i / D), (..., D)."""
    positions = np.asarray(positions)
    y = np.zeros((*positions.shape, size))
    for at in np.ndindex(positions.shape):
        for i in range(size // 2):
            angle = positions[at] * 10_000.0 ** (-2 * i / size)
            y[(*at, i)] = np.sin(angle)
            y[(*at, i + size // 2)] = np.cos(angle)
    return y
