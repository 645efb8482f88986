"""Scaled dot-product attention with one contract for every mask, bias and backend.

The contract, which every backend keeps:

- True in a mask is "may look". All of `mask`, `causal`, `window` and the segments must allow a
  pair.
- Causal is aligned bottom-right: the last query stands beside the last key, so that a few new
  queries against many cached keys need no other flag, unless `query_start` says beside which key
  the first query stands.
- A query that may look at nothing gives exactly 0, and takes and gives gradient 0.
- A query or key that takes part in no allowed pair is padding: whatever stands there, NaN and
  infinity included, changes no output and no gradient elsewhere.
"""

import math
from functools import partial
from typing import get_args

import jax
import jax.numpy as jnp
from jax import lax

from jaxseq.ops.attention_backends import (
    Backend,
    choose,
    gathered,
    refusal,
    with_cudnn,
    with_splash,
)
from jaxseq.ops.attention_scores import Options, adjusted
from jaxseq.ops.chunked_attention import chunked_attention
from jaxseq.ops.position_bias import PositionBias
from jaxseq.ops.precision import accumulator
from jaxseq.ops.ring_attention import ring_attention
from jaxseq.ops.softmax_attention import Rule, softmax_attention
from jaxseq.parallel.rules import mesh_axes
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
    window: int | Int[Array, ""] | None = None,
    query_start: int | Int[Array, ""] | None = None,
    bias: PositionBias | None = None,
    soft_cap: float | None = None,
    scale: float | None = None,
    dropout_rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
    dtype: jnp.dtype | None = None,
    backend: Backend = "auto",
) -> Float[Array, "B T N H"]:
    """Softmax-weighted mean of values (Vaswani et al. 2017, arXiv:1706.03762, equation 1).

        e_ts = f(scale * q_t . k_s) + b_ts     where t may look at s, else -infinity
        o_t  = sum_s softmax_s(e_t)_s v_s

    With K < N key/value heads, query head n uses head n // (N / K) (grouped-query attention,
    Ainslie et al. 2023, arXiv:2305.13245). Segments number the documents packed into a row from
    1; 0 is padding; only equal, non-zero segments see each other.

    `causal` lets a query look at no key behind its own index i, which is `query_start` plus its
    place among the queries (None: S - T). `window` w leaves it the keys i - w < s < i + w, with
    `causal` the w keys up to its own (sliding window, Beltagy et al. 2020, arXiv:2004.05150); an
    array below 1 counts as 1. `bias` adds b for the distance s - i. `soft_cap` makes f(e) =
    soft_cap * tanh(e / soft_cap), else f(e) = e. `scale` defaults to 1/sqrt(H). `dropout_rate`
    drops attention weights when `dropout_key` is given; each backend draws its own.

    Product operands are cast to `dtype`; the softmax runs in float32 or wider; the result has the
    query's dtype. `backend` is one of "dense" (T x S scores, never kept for the gradient),
    "chunked" (memory linear in T and S), "ring" (time divided over devices), "cudnn", "splash" or
    "auto", see `attention_backends`.

    Raises ValueError when N is not a multiple of K, the bias is not for N heads, only one of the
    two segments is given, `window` or `soft_cap` is not positive, or the backend asked for cannot
    do one of the options.
    """
    queries, keys = query.shape[1], key.shape[1]
    _check(query.shape[2], key.shape[2], query_segments, key_segments, window, soft_cap, bias)
    if backend not in get_args(Backend):
        raise ValueError(f"backend {backend!r} is none of {', '.join(get_args(Backend))}")
    drops = dropout_rate > 0.0 and dropout_key is not None
    wide = accumulator(query.dtype)
    options = Options(
        mask=mask,
        query_segments=query_segments,
        key_segments=key_segments,
        causal=causal,
        window=window if window is None or isinstance(window, int) else jnp.maximum(window, 1),
        query_start=None if _is_number(query_start, keys - queries) else query_start,
        bias=jax.tree.map(lambda parameter: parameter.astype(wide), bias),
        soft_cap=soft_cap,
        scale=1.0 / math.sqrt(query.shape[3]) if scale is None else scale,
        dropout_rate=dropout_rate if drops else 0.0,
        dropout_key=dropout_key if drops else None,
        dtype=jnp.dtype(dtype or query.dtype),
    )
    forms = {
        "dense": partial(_dense, options=options),
        "chunked": partial(chunked_attention, options=options),
        "ring": partial(ring_attention, options=options),
        "cudnn": partial(with_cudnn, options=options),
        "splash": partial(with_splash, options=options),
    }
    chosen: dict[str, Backend] = {"default": backend}
    if backend == "auto":
        chosen = choose(query, key, options)
    else:
        reason = refusal(backend, query, key, options)
        if reason is not None:
            raise ValueError(f"backend {backend!r} cannot do {reason}")
    by_platform = {platform: forms[name] for platform, name in chosen.items()}
    run = by_platform["default"]
    if len(chosen) > 1:
        run = partial(lax.platform_dependent, **by_platform)
    if "ring" not in chosen.values() and mesh_axes("time", queries):
        run = gathered(run, chosen.values())
    return run(query, key, value)


def self_attention_of(x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """Self-attention with nothing learned: every vector becomes a mean of all, weighted by match.

    e_ij = x_i . x_j / sqrt(D)        y_i = sum_j softmax_j(e_i)_j x_j
    """
    heads = x[:, :, None]
    return attention(heads, heads, heads)[:, :, 0]


def _check(
    heads: int,
    kv_heads: int,
    query_segments: Array | None,
    key_segments: Array | None,
    window: int | Array | None,
    soft_cap: float | None,
    bias: PositionBias | None,
) -> None:
    if heads % kv_heads:
        raise ValueError(f"{heads} query heads are not a multiple of {kv_heads} key/value heads")
    if (query_segments is None) != (key_segments is None):
        raise ValueError("give both query_segments and key_segments, or neither")
    if isinstance(window, int) and window < 1:
        raise ValueError(f"a window of {window} keys holds nothing: give 1 or more, or None")
    if soft_cap is not None and soft_cap <= 0:
        raise ValueError(f"soft_cap must be positive, not {soft_cap}")
    if bias is not None and bias.num_heads != heads:
        raise ValueError(f"a bias for {bias.num_heads} heads with {heads} query heads")


def _is_number(x: int | Array | None, number: int) -> bool:
    return isinstance(x, int) and x == number


def _dense(query: Array, key: Array, value: Array, *, options: Options) -> Array:
    """Every score at once, in blocks over the visible part where the platform gains by it."""
    queries, keys = query.shape[1], key.shape[1]
    start = options.start(queries, keys)
    visible, may_pad = options.visible(queries, keys), options.may_pad(queries, keys)
    if visible is not None and may_pad:
        looks, is_seen = visible.any(2)[..., None, None], visible.any(1)[..., None, None]
        query = jnp.where(looks, query, 0)
        key, value = jnp.where(is_seen, key, 0), jnp.where(is_seen, value, 0)
    if options.dropout_key is not None:
        return _dropped(query, key, value, visible, start, options)
    lower = options.causal and queries == keys and options.query_start is None
    rule = Rule(
        options.scale,
        options.dtype,
        lower_triangular=lower,
        has_padding=may_pad,
        window=options.window if isinstance(options.window, int) else None,
        soft_cap=options.soft_cap,
    )
    return softmax_attention(query, key, value, visible, options.bias, start, rule)


def _dropped(
    query: Array,
    key: Array,
    value: Array,
    visible: Array | None,
    start: int | Array,
    options: Options,
) -> Array:
    """The mean under weights of which some are dropped, with the derived gradient."""
    assert options.dropout_key is not None
    kv_heads, dtype = key.shape[2], options.dtype
    grouped = query.reshape(*query.shape[:2], kv_heads, -1, query.shape[3])
    scores = options.scale * jnp.einsum(
        "BTKGH,BSKH->BKGTS",
        grouped.astype(dtype),
        key.astype(dtype),
        preferred_element_type=accumulator(query.dtype),
    )
    scores = adjusted(scores, options.bias, start, options.soft_cap)
    weights = masked_softmax(scores, None if visible is None else visible[:, None, None])
    keep = jax.random.bernoulli(options.dropout_key, 1.0 - options.dropout_rate, weights.shape)
    weights = jnp.where(keep, weights / (1.0 - options.dropout_rate), 0)
    output = jnp.einsum(
        "BKGTS,BSKH->BTKGH",
        weights.astype(dtype),
        value.astype(dtype),
        preferred_element_type=weights.dtype,
    )
    return output.reshape(query.shape).astype(query.dtype)


def masked_softmax(
    scores: Float[Array, "*B S"], visible: Bool[Array, "*#B S"] | None
) -> Float[Array, "*B S"]:
    """Softmax over the last axis among the visible entries; a row with none of them is all 0."""
    if visible is None:
        return jax.nn.softmax(scores)
    visible = jnp.broadcast_to(visible, scores.shape)
    weights = jax.nn.softmax(jnp.where(visible, scores, jnp.finfo(scores.dtype).min))
    return jnp.where(visible, weights, 0)
