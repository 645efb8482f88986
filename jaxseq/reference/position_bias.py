"""Twin of `ops.position_bias`."""

import dataclasses
import math
from fractions import Fraction

import numpy as np


@dataclasses.dataclass(frozen=True)
class ALiBi:
    """b_nts = -slope_n |s - t|, for slopes (N,) and distances s - t (T, S)."""

    slopes: np.ndarray

    def __call__(self, distances: np.ndarray) -> np.ndarray:
        """The biases, (N, T, S)."""
        return np.stack([-slope * np.abs(distances) for slope in self.slopes])


@dataclasses.dataclass(frozen=True)
class RelativeBias:
    """b_nts = table[bucket(s - t), n], for a table (R, N) and distances s - t (T, S)."""

    table: np.ndarray
    bidirectional: bool
    max_distance: int = 128

    def __call__(self, distances: np.ndarray) -> np.ndarray:
        """The biases, (N, T, S)."""
        biases = np.zeros((self.table.shape[1], *distances.shape))
        for t, s in np.ndindex(*distances.shape):
            distance = int(distances[t, s])
            row = bucket(distance, len(self.table), self.bidirectional, self.max_distance)
            biases[:, t, s] = self.table[row]
        return biases


def bucket(distance: int, num_buckets: int, bidirectional: bool, max_distance: int) -> int:
    """Small distances as they are, then e + floor((R - e) log(n / e) / log(max / e)), e = R / 2.

    Both ways, the keys behind the query have the second half of the buckets.
    """
    if bidirectional:
        side, first = num_buckets // 2, num_buckets // 2 if distance > 0 else 0
        length = abs(distance)
    else:
        side, first = num_buckets, 0
        length = max(0, -distance)
    exact = side // 2
    if length < exact:
        return first + length
    # floor(m log x / log y) is how often y divides x^m: counted without a rounded logarithm.
    power, base = Fraction(length, exact) ** (side - exact), Fraction(max_distance, exact)
    steps = 0
    while steps < side - exact - 1 and base ** (steps + 1) <= power:
        steps += 1
    return first + exact + steps


def alibi_slopes(num_heads: int) -> np.ndarray:
    """2^(-8/N), 2^(-16/N), ... for N a power of two; else some of twice as many fill it up."""
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2.0 ** (-8 * (i + 1) / power) for i in range(power)]
    between = [2.0 ** (-8 * (i + 1) / (2 * power)) for i in range(0, 2 * power, 2)]
    return np.array(slopes + between[: num_heads - power])
