"""Twin of `ops.attention` and `nn.attention`."""

from collections.abc import Callable
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
    window: int | None = None,
    query_start: int | None = None,
    bias: Callable[[np.ndarray], np.ndarray] | None = None,
    soft_cap: float | None = None,
    scale: float | None = None,
) -> np.ndarray:
    """o_t = sum_s softmax_s(f(scale * q_t . k_s) + b_ts) v_s over the keys s that t may look at.

    query (B, T, N, H), key and value (B, S, K, H), mask (B or 1, T or 1, S), segments (B, T) and
    (B, S). Query head n uses key/value head n // (N / K). A query with no visible key gives 0.
    Query t stands beside key `query_start` + t (None: the last query beside the last key), from
    which causality, the window and the distances given to `bias` are counted. f(e) is
    cap tanh(e / cap), or e.
    """
    query, key = np.asarray(query, np.float64), np.asarray(key, np.float64)
    value = np.asarray(value, np.float64)
    batch, queries, heads, head_size = query.shape
    keys, kv_heads = key.shape[1:3]
    if scale is None:
        scale = 1 / np.sqrt(head_size)

    start = keys - queries if query_start is None else query_start
    distances = np.array([[s - (start + t) for s in range(keys)] for t in range(queries)])
    distances = distances.reshape(queries, keys)
    biases = np.zeros((heads, queries, keys)) if bias is None else bias(distances)

    visible = np.array(np.broadcast_to(True if mask is None else mask, (batch, queries, keys)))
    if query_segments is not None and key_segments is not None:
        segments = np.asarray(query_segments)[:, :, None]
        visible &= (segments != 0) & (segments == np.asarray(key_segments)[:, None, :])
    if causal:
        visible &= distances <= 0
    if window is not None:
        visible &= np.abs(distances) < window

    output = np.zeros_like(query)
    for b, t in np.ndindex(batch, queries):
        seen = np.flatnonzero(visible[b, t])
        if not seen.size:
            continue
        for n in range(heads):
            k = n // (heads // kv_heads)
            scores = scale * key[b, seen, k] @ query[b, t, n]
            if soft_cap is not None:
                scores = soft_cap * np.tanh(scores / soft_cap)
            scores = scores + biases[n, t, seen]
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
    positions: np.ndarray | int = 0,
    segments: np.ndarray | None = None,
    causal: bool = True,
    rotary_config: Any = None,
    qk_norm: bool = False,
    norm_epsilon: float = 1e-5,
    memory: np.ndarray | None = None,
    memory_mask: np.ndarray | None = None,
    **options: Any,
) -> np.ndarray:
    """W_out attention(W_query x, W_key x, W_value x) for x (B, T, D).

    Queries and keys are normalised per head if `qk_norm`, then turned by their positions
    (B or 1, T) when `rotary_config` is given. `memory` (B, S, D) stands in for x in keys and
    values, where its mask (B, S) is true. `options` go to `attention`.
    """
    y = x if memory is None else memory
    query, key, value = (
        linear(z, **params[name]).reshape(*z.shape[:2], heads, -1)
        for name, z, heads in (
            ("query", x, num_heads),
            ("key", y, num_kv_heads),
            ("value", y, num_kv_heads),
        )
    )
    if qk_norm:
        query = rms_norm(query, **params["query_norm"], epsilon=norm_epsilon)
        key = rms_norm(key, **params["key_norm"], epsilon=norm_epsilon)
    if rotary_config is not None:
        query = rotary(query, positions, rotary_config)
        key = rotary(key, positions, rotary_config)
    if memory_mask is not None:
        options["mask"] = np.asarray(memory_mask)[:, None, :]
    options |= {"query_segments": segments, "key_segments": segments}
    y = attention(query, key, value, causal=causal, **options)
    return linear(y.reshape(*x.shape[:2], -1), **params["out"])
