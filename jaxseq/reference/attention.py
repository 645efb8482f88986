"""Twin of `ops.attention` and `nn.attention`."""

from typing import Any

import numpy as np

from jaxseq.reference.linear import linear
from jaxseq.reference.normalization import rms_norm
from jaxseq.reference.positions import rotary


def attention(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    *,
    mask: np.ndarray | None = None,
    query_segments: np.ndarray | None = None,
    key_segments: np.ndarray | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> np.ndarray:
    """o_t = sum_s softmax_s(scale * q_t . k_s) v_s over the keys s that query t may look at.

    query (B, T, N, H), key and value (B, S, K, H), mask (B or 1, T or 1, S), segments (B, T) and
    (B, S). Query head n uses key/value head n // (N / K). A query with no visible key gives 0.
    """
    query, key = np.asarray(query, np.float64), np.asarray(key, np.float64)
    value = np.asarray(value, np.float64)
    batch, queries, heads, head_size = query.shape
    keys, kv_heads = key.shape[1:3]
    if scale is None:
        scale = 1 / np.sqrt(head_size)
    if mask is not None:
        mask = np.broadcast_to(mask, (batch, queries, keys))

    def visible(b: int, t: int, s: int) -> bool:
        if mask is not None and not mask[b, t, s]:
            return False
        if query_segments is not None and key_segments is not None:
            segment = query_segments[b, t]
            if segment == 0 or segment != key_segments[b, s]:
                return False
        # Bottom-right: the last query stands beside the last key.
        return not causal or queries - t <= keys - s

    output = np.zeros_like(query)
    for b, t in np.ndindex(batch, queries):
        seen = [s for s in range(keys) if visible(b, t, s)]
        if not seen:
            continue
        for n in range(heads):
            k = n // (heads // kv_heads)
            scores = scale * key[b, seen, k] @ query[b, t, n]
            weights = np.exp(scores - np.max(scores))
            weights /= np.sum(weights)
            output[b, t, n] = weights @ value[b, seen, k]
    return output


def self_attention(
    params: dict[str, Any],
    x: np.ndarray,
    *,
    num_heads: int,
    num_kv_heads: int,
    positions: np.ndarray,
    segments: np.ndarray | None = None,
    causal: bool = True,
    rotary_base: float | None = None,
    qk_norm: bool = False,
) -> np.ndarray:
    """W_out attention(W_query x, W_key x, W_value x) for x (B, T, D).

    Queries and keys are normalised per head if `qk_norm`, then turned by their positions
    (B or 1, T) when `rotary_base` is given.
    """
    batch, length, width = x.shape
    head_size = width // num_heads
    query = linear(x, **params["query"]).reshape(batch, length, num_heads, head_size)
    key = linear(x, **params["key"]).reshape(batch, length, num_kv_heads, head_size)
    value = linear(x, **params["value"]).reshape(batch, length, num_kv_heads, head_size)
    if qk_norm:
        query = rms_norm(query, **params["query_norm"])
        key = rms_norm(key, **params["key_norm"])
    if rotary_base is not None:
        query = rotary(query, positions, base=rotary_base)
        key = rotary(key, positions, base=rotary_base)
    y = attention(query, key, value, query_segments=segments, key_segments=segments, causal=causal)
    return linear(y.reshape(batch, length, width), **params["out"])
