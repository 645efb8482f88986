"""Twin of `tasks.speech_metrics`."""

import math

import numpy as np


def mel_cepstral_distortion(spoken, reference):
    """(decibels summed over the frames of the path, its frames)."""
    distances = np.zeros((len(spoken), len(reference)))
    for t, x in enumerate(spoken):
        for s, y in enumerate(reference):
            squares = sum((x[c] - y[c]) ** 2 for c in range(1, len(x)))
            distances[t, s] = 10 / math.log(10) * math.sqrt(2 * squares)
    return warped_distance(distances)


def warped_distance(distances):
    """(the least sum of distances along a path, the frames of that path)."""
    best = {}
    for t in range(distances.shape[0]):
        for s in range(distances.shape[1]):
            came_from = [(t - 1, s - 1), (t - 1, s), (t, s - 1)]
            total, frames = min(
                (best[place] for place in came_from if place in best),
                key=lambda found: found[0],  # the first of equal ones
                default=(0.0, 0),
            )
            best[t, s] = total + distances[t, s], frames + 1
    return best[distances.shape[0] - 1, distances.shape[1] - 1]
