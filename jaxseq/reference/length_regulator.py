"""Twin of `nn.length_regulator`."""

from typing import Any

import numpy as np

from jaxseq.reference.convolution_stack import convolution_stack
from jaxseq.reference.linear import linear


def duration_predictor(
    params: dict[str, Any], x: np.ndarray, lengths: np.ndarray | None = None
) -> np.ndarray:
    """log(1 + d) of each token (B, S), 0 in the padding, from encodings x (B, S, D)."""
    hidden = convolution_stack(params["layers"], x, lengths)
    y = linear(hidden, **params["output"])[..., 0]
    if lengths is not None:
        for b, length in enumerate(lengths):
            y[b, length:] = 0
    return y


def whole_durations(log_durations: np.ndarray, lengths: np.ndarray, longest: int) -> np.ndarray:
    """max(1, round(exp(l) - 1)), at most `longest`, as integers (B, S); 0 in the padding."""
    durations = np.zeros(log_durations.shape, int)
    for b, length in enumerate(lengths):
        for s in range(length):
            frames = min(np.exp(min(log_durations[b, s], 50.0)) - 1, longest)
            durations[b, s] = max(1, np.round(frames))
    return durations


def frame_alignment(durations: np.ndarray, num_frames: int) -> np.ndarray:
    """1 where frame t is one of token s, else 0, as (B, T, S)."""
    alignment = np.zeros((len(durations), num_frames, durations.shape[1]))
    for b, row in enumerate(durations):
        for t, s in enumerate(np.repeat(np.arange(len(row)), row)[:num_frames]):
            alignment[b, t, s] = 1
    return alignment


def regulate_length(
    x: np.ndarray, durations: np.ndarray, num_frames: int
) -> tuple[np.ndarray, np.ndarray]:
    """Each token's vector d_s times, (B, T, D), and how many frames each row has."""
    frames = np.zeros((len(x), num_frames, x.shape[2]))
    lengths = np.zeros(len(x), int)
    for b in range(len(x)):
        row = np.repeat(x[b], durations[b], axis=0)[:num_frames]
        frames[b, : len(row)], lengths[b] = row, len(row)
    return frames, lengths


def places_in_tokens(durations: np.ndarray, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames of its token before each frame, and behind it, (B, T) each; 0 for those of none."""
    before = np.zeros((len(durations), num_frames), int)
    behind = np.zeros_like(before)
    for b, row in enumerate(durations):
        places = [(place, d - 1 - place) for d in row for place in range(d)]
        for t, place in enumerate(places[:num_frames]):
            before[b, t], behind[b, t] = place
    return before, behind
