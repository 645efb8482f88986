"""Twins of `ops.monotonic_alignment`, and the list of all alignments of a row."""

import itertools
import math

import numpy as np


def alignments(frames: int, tokens: int) -> list[list[int]]:
    """Every alignment: the token of each frame, from the first to the last by steps of 0 or 1."""
    if tokens == 0 or frames < tokens:
        return []
    found = []
    for changes in itertools.combinations(range(1, frames), tokens - 1):
        found.append([sum(change <= t for change in changes) for t in range(frames)])
    return found


def monotonic_alignment_search(
    scores: np.ndarray, frame_lengths: np.ndarray, token_lengths: np.ndarray
) -> np.ndarray:
    """Frames of each token (B, S) on the best alignment; one of each first token where none is."""
    batch, num_frames, num_tokens = scores.shape
    durations = np.zeros((batch, num_tokens), int)
    for b in range(batch):
        frames, tokens = min(int(frame_lengths[b]), num_frames), int(token_lengths[b])
        tokens = min(frames, tokens)
        if tokens == 0:
            continue
        best = np.full((frames, tokens), -np.inf)
        best[0, 0] = scores[b, 0, 0]
        for t in range(1, frames):
            for s in range(min(t + 1, tokens)):
                before = max(best[t - 1, s], best[t - 1, s - 1] if s else -np.inf)
                best[t, s] = scores[b, t, s] + before
        s = tokens - 1
        for t in reversed(range(frames)):
            durations[b, s] += 1
            if s and (s == t or best[t - 1, s - 1] > best[t - 1, s]):
                s -= 1
    return durations


def forward_sum_loss(
    log_probs: np.ndarray, frame_lengths: np.ndarray, token_lengths: np.ndarray
) -> np.ndarray:
    """-log of the sum over alignments (B,); 0 where there is none."""
    batch, num_frames, _ = log_probs.shape
    losses = np.zeros(batch)
    for b in range(batch):
        frames, tokens = min(int(frame_lengths[b]), num_frames), int(token_lengths[b])
        if tokens == 0 or frames < tokens:
            continue
        forward = np.full((frames, tokens), -np.inf)
        forward[0, 0] = log_probs[b, 0, 0]
        for t in range(1, frames):
            for s in range(min(t + 1, tokens)):
                before = forward[t - 1, s]
                if s:
                    before = np.logaddexp(before, forward[t - 1, s - 1])
                forward[t, s] = log_probs[b, t, s] + before
        losses[b] = -forward[-1, -1]
    return losses


def diagonal_prior(
    frame_lengths: np.ndarray,
    token_lengths: np.ndarray,
    num_frames: int,
    num_tokens: int,
    scale: float = 1.0,
) -> np.ndarray:
    """log BetaBinomial(s; S - 1, scale (t + 1), scale (T - t)), 0 in the padding (B, T, S)."""
    log_prior = np.zeros((len(frame_lengths), num_frames, num_tokens))
    for b, (frames, tokens) in enumerate(zip(frame_lengths, token_lengths, strict=True)):
        for t in range(min(int(frames), num_frames)):
            a, c = scale * (t + 1), scale * (int(frames) - t)
            for s in range(min(int(tokens), num_tokens)):
                ways = math.log(math.comb(int(tokens) - 1, s))
                law = _log_beta(s + a, int(tokens) - 1 - s + c) - _log_beta(a, c)
                log_prior[b, t, s] = ways + law
    return log_prior


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
