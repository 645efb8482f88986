"""Twin of `ops.alignment` and `nn.alignment`."""

from typing import Any

import numpy as np

from jaxseq.reference.linear import linear


def dot_scores(query: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """e_ts = h_t^T k_s of query (B, T, D) and keys (B, S, D), as (B, T, S)."""
    scores = np.zeros((*query.shape[:2], keys.shape[1]))
    for b, t, s in np.ndindex(scores.shape):
        scores[b, t, s] = query[b, t] @ keys[b, s]
    return scores


def additive_scores(query: np.ndarray, keys: np.ndarray, v: np.ndarray) -> np.ndarray:
    """e_ts = v^T tanh(q_t + k_s) of query (B, T, A), keys (B, S, A), v (A,), as (B, T, S)."""
    scores = np.zeros((*query.shape[:2], keys.shape[1]))
    for b, t, s in np.ndindex(scores.shape):
        scores[b, t, s] = v @ np.tanh(query[b, t] + keys[b, s])
    return scores


def concat_scores(
    query: np.ndarray, memory: np.ndarray, kernel: np.ndarray, v: np.ndarray
) -> np.ndarray:
    """Luong's e_ts = v^T tanh([h_t; m_s] W) of query (B, T, Q), memory (B, S, D), W (Q + D, A)."""
    scores = np.zeros((*query.shape[:2], memory.shape[1]))
    for b, t, s in np.ndindex(scores.shape):
        scores[b, t, s] = v @ np.tanh(np.concatenate([query[b, t], memory[b, s]]) @ kernel)
    return scores


def attend(
    scores: np.ndarray, values: np.ndarray, visible: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Contexts (B, T, D) and weights (B, T, S) of scores (B, T, S), values (B, S, D)."""
    weights = np.zeros(scores.shape)
    contexts = np.zeros((*scores.shape[:2], values.shape[2]))
    for b, t in np.ndindex(scores.shape[:2]):
        seen = np.flatnonzero(visible[b])
        if len(seen) == 0:
            continue
        exps = np.exp(scores[b, t, seen] - scores[b, t, seen].max())
        weights[b, t, seen] = exps / exps.sum()
        for s in seen:
            contexts[b, t] += weights[b, t, s] * values[b, s]
    return contexts, weights


def location_features(alignment: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """f_s = sum_w F_w a_{s + w - W // 2} of alignment (B, S), kernel (W, C), as (B, S, C)."""
    batch, length = alignment.shape
    taps, channels = kernel.shape
    features = np.zeros((batch, length, channels))
    for b, s, w in np.ndindex(batch, length, taps):
        at = s + w - taps // 2
        if 0 <= at < length:
            features[b, s] += kernel[w] * alignment[b, at]
    return features


def coverage_loss(weights: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """Sum over valid t and all s of min(a_ts, sum_{u < t} a_us), and the number of valid t."""
    total = 0.0
    for b in range(weights.shape[0]):
        covered = np.zeros(weights.shape[2])
        for t in np.flatnonzero(mask[b]):
            total += np.minimum(weights[b, t], covered).sum()
            covered += weights[b, t]
    return total, float(np.sum(mask))


def alignment_step(
    params: dict[str, Any],
    query: np.ndarray,
    memory: np.ndarray,
    lengths: np.ndarray,
    past: np.ndarray,
    *,
    kind: str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One query (B, Q) against memory (B, S, D): context (B, D), weights (B, S), new past (B, S).

    `past` is the sum of the weights of all steps before.
    """
    if kind == "none":
        return np.zeros((len(memory), memory.shape[2])), np.zeros(memory.shape[:2]), past
    query = query[:, None]
    if kind == "dot":
        scores = dot_scores(query, memory)
    elif kind == "general":
        scores = dot_scores(query, linear(memory, **params["memory"]))
    else:
        keys = linear(memory, **params["memory"])
        if kind == "location":
            keys = keys + linear(location_features(past, params["filters"]), params["location"])
        if kind == "coverage":
            keys = keys + past[:, :, None] * params["coverage"]
        scores = additive_scores(linear(query, **params["query"]), keys, params["v"])
    visible = np.arange(memory.shape[1])[None, :] < np.asarray(lengths)[:, None]
    contexts, weights = attend(scores, memory, visible)
    return contexts[:, 0], weights[:, 0], past + weights[:, 0]
