"""Twin of `ops.guided_attention`."""

import numpy as np


def guided_attention_loss(
    weights: np.ndarray,
    frame_lengths: np.ndarray,
    token_lengths: np.ndarray,
    *,
    width: float = 0.2,
) -> tuple[float, float]:
    """Sum of a_ts (1 - exp(-((s + 1/2) / S_b - (t + 1/2) / T_b)^2 / 2 g^2)), and of frames."""
    total = 0.0
    for b, (num_frames, num_tokens) in enumerate(zip(frame_lengths, token_lengths, strict=True)):
        for t, s in np.ndindex(int(num_frames), int(num_tokens)):
            distance = (s + 0.5) / num_tokens - (t + 0.5) / num_frames
            total += weights[b, t, s] * (1 - np.exp(-(distance**2) / (2 * width**2)))
    return total, float(np.sum(frame_lengths))


def diagonality(
    weights: np.ndarray,
    frame_lengths: np.ndarray,
    token_lengths: np.ndarray,
    *,
    band: float = 0.2,
) -> np.ndarray:
    """The share of each row's a_ts with |(s + 1/2) / S_b - (t + 1/2) / T_b| <= band, (B,)."""
    shares = np.zeros(len(weights))
    for b, (num_frames, num_tokens) in enumerate(zip(frame_lengths, token_lengths, strict=True)):
        near = total = 0.0
        for t, s in np.ndindex(int(num_frames), int(num_tokens)):
            total += weights[b, t, s]
            if abs((s + 0.5) / num_tokens - (t + 0.5) / num_frames) <= band:
                near += weights[b, t, s]
        if total:
            shares[b] = near / total
    return shares
