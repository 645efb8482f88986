"""Scaled dot-product attention with one contract for every mask.

The contract, which every backend keeps:

- True in a mask is "may look". All of `mask`, `causal` and the segments must allow a pair.
- Causal is aligned bottom-right: the last query sees the last key, so that a few new queries
  against many cached keys need no other flag.
- A query that may look at nothing gives exactly 0, and takes and gives gradient 0.
- A query or key that takes part in no allowed pair is padding: whatever stands there, NaN and
  infinity included, changes no output and no gradient elsewhere.
"""

import math

import jax
import jax.numpy as jnp

from jaxseq.ops.precision import accumulator
from jaxseq.ops.softmax_attention import Rule, softmax_attention
from jaxseq.typing import Array, Bool, Float, Int, Key


def attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    *,
    mask: Bool[Array, "#B #T S"] | None = None,
    query_segments: Int[Array, "B T"] | None = None,
    key_segments: Int[Array, "B S"] | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout_rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
    dtype: jnp.dtype | None = None,
) -> Float[Array, "B T N H"]:
    """Softmax-weighted mean of values (Vaswani et al. 2017, arXiv:1706.03762, equation 1).

        e_ts = scale * q_t . k_s        where t may look at s, else -infinity
        o_t  = sum_s softmax_s(e_t)_s v_s

    With K < N key/value heads, query head n uses head n // (N / K) (grouped-query attention,
    Ainslie et al. 2023, arXiv:2305.13245). Segments number the documents packed into a row from
    1; 0 is padding; only equal, non-zero segments see each other. `scale` defaults to 1/sqrt(H).
    `dropout_rate` drops attention weights when `dropout_key` is given. Product operands are cast
    to `dtype`; the softmax runs in float32 or wider; the result has the query's dtype.

    Raises ValueError when N is not a multiple of K or only one of the two segments is given.
    """
    heads, kv_heads, head_size = query.shape[2], key.shape[2], query.shape[3]
    if heads % kv_heads:
        raise ValueError(f"{heads} query heads are not a multiple of {kv_heads} key/value heads")
    visible = visibility(
        query.shape[1], key.shape[1], mask, query_segments, key_segments, causal=causal
    )
    # Causal alone leaves padding too: with T > S the first T - S queries see nothing.
    may_pad = mask is not None or query_segments is not None or query.shape[1] > key.shape[1]
    if visible is not None and may_pad:
        looks, is_seen = visible.any(2)[..., None, None], visible.any(1)[..., None, None]
        query = jnp.where(looks, query, 0)
        key, value = jnp.where(is_seen, key, 0), jnp.where(is_seen, value, 0)

    dtype = jnp.dtype(dtype or query.dtype)
    scale = 1.0 / math.sqrt(head_size) if scale is None else scale
    if dropout_rate > 0.0 and dropout_key is not None:
        weights = _weights(query, key, visible, scale, dtype)
        keep = jax.random.bernoulli(dropout_key, 1.0 - dropout_rate, weights.shape)
        weights = jnp.where(keep, weights / (1.0 - dropout_rate), 0)
        output = jnp.einsum(
            "BKGTS,BSKH->BTKGH",
            weights.astype(dtype),
            value.astype(dtype),
            preferred_element_type=weights.dtype,
        )
        return output.reshape(query.shape).astype(query.dtype)
    square = query.shape[1] == key.shape[1]
    rule = Rule(scale, dtype, lower_triangular=causal and square, has_padding=may_pad)
    return softmax_attention(query, key, value, visible, rule)


def _weights(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    visible: Bool[Array, "#B T S"] | None,
    scale: float,
    dtype: jnp.dtype,
) -> Float[Array, "B K G T S"]:
    """The softmax itself, for when its weights are dropped: with the derived gradient."""
    kv_heads = key.shape[2]
    grouped = query.reshape(*query.shape[:2], kv_heads, -1, query.shape[3])
    scores = scale * jnp.einsum(
        "BTKGH,BSKH->BKGTS",
        grouped.astype(dtype),
        key.astype(dtype),
        preferred_element_type=accumulator(query.dtype),
    )
    return masked_softmax(scores, None if visible is None else visible[:, None, None])


def visibility(
    queries: int,
    keys: int,
    mask: Bool[Array, "#B #T S"] | None = None,
    query_segments: Int[Array, "B T"] | None = None,
    key_segments: Int[Array, "B S"] | None = None,
    *,
    causal: bool = False,
) -> Bool[Array, "#B T S"] | None:
    """Which query may look at which key, all conditions together; None where every pair may."""
    if (query_segments is None) != (key_segments is None):
        raise ValueError("give both query_segments and key_segments, or neither")
    conditions = []
    if mask is not None:
        conditions.append(jnp.broadcast_to(mask, (mask.shape[0], queries, keys)))
    if query_segments is not None and key_segments is not None:
        q, k = query_segments[:, :, None], key_segments[:, None, :]
        conditions.append((q == k) & (q != 0))
    if causal:
        ages = jnp.arange(queries)[:, None] + (keys - queries) - jnp.arange(keys)[None, :]
        conditions.append((ages >= 0)[None])
    if not conditions:
        return None
    batch = max(condition.shape[0] for condition in conditions)
    allowed = jnp.broadcast_to(conditions[0], (batch, queries, keys))
    for condition in conditions[1:]:
        allowed = allowed & jnp.broadcast_to(condition, allowed.shape)
    return allowed


def masked_softmax(
    scores: Float[Array, "*B S"], visible: Bool[Array, "*#B S"] | None
) -> Float[Array, "*B S"]:
    """Softmax over the last axis among the visible entries; a row with none of them is all 0."""
    if visible is None:
        return jax.nn.softmax(scores)
    visible = jnp.broadcast_to(visible, scores.shape)
    weights = jax.nn.softmax(jnp.where(visible, scores, jnp.finfo(scores.dtype).min))
    return jnp.where(visible, weights, 0)
