"""How far synthesised speech is from a recording of the same words.

Two speakers never take the same time over a word, so frames are first laid beside each other by
dynamic time warping. What is compared are cepstra: the envelope of the spectrum, without its fine
structure (the pitch) and without its loudness.
"""

import math

import numpy as np

from jaxseq.typing import Float

_DECIBELS = 10 / math.log(10)


def mel_cepstral_distortion(
    spoken: Float[np.ndarray, "T C"], reference: Float[np.ndarray, "S C"]
) -> tuple[float, int]:
    """(decibels summed over the frames of the path, its frames); their ratio is the distortion.

        d(t, s) = 10 / ln 10  sqrt(2 sum_{c >= 1} (x_tc - y_sc)^2)   (Kubichek 1993)

    summed over the path of `warped_distance`. x and y are cepstra in the field's scale, that of
    ln |H(w)| = x_0 + sum_c x_c cos(c w): then d is the root-mean-square difference of two smooth
    spectra in dB. The first, the loudness, is left out. Raises ValueError for one without a frame.
    """
    # One matrix product in place of T S C differences; what rounding leaves below 0 is 0.
    x, y = (np.asarray(cepstra, np.float64)[:, 1:] for cepstra in (spoken, reference))
    squares = (x * x).sum(axis=1)[:, None] + (y * y).sum(axis=1)[None] - 2 * x @ y.T
    return warped_distance(_DECIBELS * np.sqrt(2 * np.maximum(squares, 0)))


def warped_distance(distances: Float[np.ndarray, "T S"]) -> tuple[float, int]:
    """(the least sum of distances along a path, the frames of that path).

    A path goes from the first frames of both to the last of both, and on by one frame of either or
    of both at a time (dynamic time warping, Sakoe & Chiba 1978, without weights). Among equal ways
    it goes on by both, then by the first. O(T S) numbers are looked at, a diagonal at once.

    Raises ValueError for a side without a frame.
    """
    rows, columns = distances.shape
    if not rows or not columns:
        raise ValueError(f"distances is {rows} x {columns}: each side needs a frame")
    # Of the last two diagonals t + s = k - 2 and k - 1: sums and path lengths by t + 1.
    before = last = np.full(rows + 1, np.inf)
    steps_before = steps_last = np.zeros(rows + 1, np.int64)
    for k in range(rows + columns - 1):
        low, high = max(0, k - columns + 1), min(rows - 1, k) + 1
        t = np.arange(low, high)
        here, steps = np.full(rows + 1, np.inf), np.zeros(rows + 1, np.int64)
        ways = np.stack([before[t], last[t], last[t + 1]])
        lengths = np.stack([steps_before[t], steps_last[t], steps_last[t + 1]])
        best = ways.argmin(axis=0)  # the first of equal ones
        least = ways[best, t - low] if k else np.zeros(1)
        here[t + 1] = least + distances[t, k - t]
        steps[t + 1] = lengths[best, t - low] + 1
        before, last, steps_before, steps_last = last, here, steps_last, steps
    return float(last[rows]), int(steps_last[rows])
