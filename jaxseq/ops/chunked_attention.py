"""Attention whose memory grows with T + S, not with T x S.

Queries go through in chunks, and each chunk of them through the chunks of keys with a softmax that
is mended as it goes (Rabe and Staats 2021, arXiv:2112.05682; Dao et al. 2022, arXiv:2205.14135):

    m' = max(m, max_s e_ts)       l' = exp(m - m') l + sum_s exp(e_ts - m')
    a' = exp(m - m') a + sum_s exp(e_ts - m') v_s        o_t = a / l,  logsumexp = m + log l

Of the forward pass q, k, v, o and logsumexp alone are kept. The gradient goes through the same
chunks again; its equations are those of `softmax_attention`. Who sees whom is worked out for each
pair of chunks from indices and segments; pairs that causality or the window rule out are not
visited, and pairs that a mask or segments rule out are skipped.

Inside, axes are "B K G T H": G query heads share each of K key/value heads. The leading axis of
chunked arrays counts the chunks.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxseq.ops.attention_scores import Options, adjusted, visibility
from jaxseq.ops.position_bias import PositionBias
from jaxseq.ops.precision import accumulator
from jaxseq.typing import Array, Bool, Float, Int, Key

# The most queries and keys of a chunk: with 8 heads, scores that stay in the cache of a CPU.
QUERY_CHUNK, KEY_CHUNK = 256, 256


class Where(NamedTuple):
    """What decides who sees whom and what is dropped, beside the static Rule."""

    mask: Bool[Array, "#B #T S"] | None
    query_segments: Int[Array, "B T"] | None
    key_segments: Int[Array, "B S"] | None
    window: Int[Array, ""] | None
    query_start: Int[Array, ""]
    dropout_key: Key[Array, ""] | None


@dataclasses.dataclass(frozen=True)
class Rule:
    """What is fixed when the op is traced; `keys` is S, without the filling of the last chunk."""

    scale: float
    dtype: jnp.dtype
    causal: bool
    soft_cap: float | None
    dropout_rate: float
    has_padding: bool
    keys: int
    query_chunk: int
    key_chunk: int


def chunked_attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    *,
    options: Options,
) -> Float[Array, "B T N H"]:
    """The equations above for every option of `attention`, dropout included.

    Dropped weights are drawn for each pair of chunks from `fold_in(dropout_key, pair)`, so that
    the gradient draws them again instead of keeping them.
    """
    queries, keys = query.shape[1], key.shape[1]
    if not (queries and keys):
        return jnp.zeros_like(query)
    rule = Rule(
        options.scale,
        options.dtype,
        options.causal,
        options.soft_cap,
        options.dropout_rate,
        options.may_pad(queries, keys),
        keys,
        _even(queries, QUERY_CHUNK),
        _even(keys, KEY_CHUNK),
    )
    more_queries, more_keys = -queries % rule.query_chunk, -keys % rule.key_chunk
    mask, query_segments, key_segments = options.mask, None, None
    if mask is not None:
        more_rows = more_queries if mask.shape[1] > 1 else 0
        mask = jnp.pad(mask, ((0, 0), (0, more_rows), (0, more_keys)))
    if options.query_segments is not None and options.key_segments is not None:
        query_segments = jnp.pad(options.query_segments, ((0, 0), (0, more_queries)))
        key_segments = jnp.pad(options.key_segments, ((0, 0), (0, more_keys)))
    window = None if options.window is None else jnp.asarray(options.window, jnp.int32)
    start = jnp.asarray(options.start(queries, keys), jnp.int32)
    where = Where(mask, query_segments, key_segments, window, start, options.dropout_key)
    return _attend(query, key, value, options.bias, where, rule)


def _even(length: int, chunk: int) -> int:
    """The chunk size of as many chunks as `chunk` makes of `length`, all about as long."""
    return -(-length // -(-length // chunk))


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attend(
    query: Array, key: Array, value: Array, bias: PositionBias | None, where: Where, rule: Rule
) -> Array:
    return _forward(query, key, value, bias, where, rule)[0]


def _forward(
    query: Array, key: Array, value: Array, bias: PositionBias | None, where: Where, rule: Rule
) -> tuple[Array, tuple]:
    q = _chunk_queries(query, key.shape[2], rule)
    k, v = _chunk_keys(key, rule), _chunk_keys(value, rule)
    wide = accumulator(query.dtype)
    product, lowest = partial(jnp.einsum, preferred_element_type=wide), float(jnp.finfo(wide).min)

    def attend(_: None, chunk: tuple[Array, Array]) -> tuple[None, tuple[Array, Array]]:
        i, q_i = chunk

        def mend(j: Array, visible: Array | None, carry: tuple) -> tuple:
            largest, total, mixed = carry
            rows, k_j, v_j = _without_padding(visible, rule, q_i, k[j], v[j])
            raw = rule.scale * product("BKGTH,BKSH->BKGTS", rows, k_j)
            scores = _only(visible, _adjustment(i, j, where, rule)(raw, bias), lowest)
            new = jnp.maximum(largest, scores.max(axis=-1))
            weights = jnp.exp(scores - new[..., None])
            if rule.has_padding:
                weights = _only(visible, weights, 0.0)
            decay = jnp.exp(largest - new)
            total = decay * total + weights.sum(axis=-1)
            weights = _drop(weights, i, j, where, rule).astype(rule.dtype)
            mixed = decay[..., None] * mixed + product("BKGTS,BKSH->BKGTH", weights, v_j)
            return new, total, mixed

        nothing = jnp.zeros(q_i.shape[:-1], wide)
        carry = (nothing + lowest, nothing, jnp.zeros(q_i.shape, wide))
        largest, total, mixed = _over_keys(i, k.shape[0], where, rule, mend, carry)
        total = jnp.where(total == 0, 1, total)
        return None, (mixed / total[..., None], largest + jnp.log(total))

    _, (output, log_sums) = lax.scan(attend, None, (jnp.arange(q.shape[0]), q))
    saved = (q, k, v, output.astype(rule.dtype), log_sums, bias, where)
    return _join_queries(output, query.shape).astype(query.dtype), saved


def _backward(rule: Rule, saved: tuple, doutput: Array) -> tuple:
    q, k, v, output, log_sums, bias, where = saved
    do = _chunk_queries(doutput, k.shape[2], rule)
    wide = log_sums.dtype
    product, lowest = partial(jnp.einsum, preferred_element_type=wide), float(jnp.finfo(wide).min)

    def attend(carry: tuple, chunk: tuple) -> tuple[tuple, Array]:
        i, q_i, do_i, o_i, log_sums_i = chunk
        shared = (do_i.astype(wide) * o_i.astype(wide)).sum(axis=-1, keepdims=True)

        def gather(j: Array, visible: Array | None, carry: tuple) -> tuple:
            dq, (dk, dv, dbias) = carry
            rows, k_j, v_j = _without_padding(visible, rule, q_i, k[j], v[j])
            raw = rule.scale * product("BKGTH,BKSH->BKGTS", rows, k_j)
            scores, pull = jax.vjp(_adjustment(i, j, where, rule), raw, bias)
            scores = _only(visible, scores, lowest)
            weights = jnp.exp(scores - log_sums_i[..., None])
            if rule.has_padding:
                weights = _only(visible, weights, 0.0)
            dweights = _drop(product("BKGTH,BKSH->BKGTS", do_i, v_j), i, j, where, rule)
            draw, more = pull(weights * (dweights - shared))
            draw = (rule.scale * draw).astype(rule.dtype)
            weights = _drop(weights, i, j, where, rule).astype(rule.dtype)
            # Each is the operand of two products: do not fuse its computation into both.
            weights, draw = lax.optimization_barrier((weights, draw))
            dq = dq + product("BKGTS,BKSH->BKGTH", draw, k_j)
            dk = dk.at[j].add(product("BKGTS,BKGTH->BKSH", draw, rows))
            dv = dv.at[j].add(product("BKGTS,BKGTH->BKSH", weights, do_i))
            return dq, (dk, dv, jax.tree.map(jnp.add, dbias, more))

        start = jnp.zeros(q_i.shape, wide), carry
        dq, carry = _over_keys(i, k.shape[0], where, rule, gather, start)
        return carry, dq

    nothing = jnp.zeros(k.shape, wide), jnp.zeros(v.shape, wide), jax.tree.map(jnp.zeros_like, bias)
    chunks = (jnp.arange(q.shape[0]), q, do, output, log_sums)
    (dk, dv, dbias), dq = lax.scan(attend, nothing, chunks)
    dquery = _join_queries(dq, doutput.shape).astype(doutput.dtype)
    dkey, dvalue = (_join_keys(x, rule).astype(doutput.dtype) for x in (dk, dv))
    return dquery, dkey, dvalue, dbias, None


_attend.defvjp(_forward, _backward)


def _over_keys(
    i: Array, chunks: int, where: Where, rule: Rule, step: Callable[..., tuple], carry: tuple
) -> tuple:
    """step(j, who sees whom, carry) for each chunk j of keys that chunk i of queries may see."""
    first = where.query_start + i * rule.query_chunk
    last = first + rule.query_chunk - 1
    begin, end = 0, chunks
    if rule.causal:
        end = jnp.clip(last // rule.key_chunk + 1, 0, chunks)
    if where.window is not None:
        begin = jnp.clip((first - where.window + 1) // rule.key_chunk, 0, chunks)
        if not rule.causal:
            end = jnp.clip((last + where.window - 1) // rule.key_chunk + 1, 0, chunks)
    sparse = where.mask is not None or where.query_segments is not None

    def visit(j: Array, carry: tuple) -> tuple:
        visible = _visible(i, j, where, rule)
        if not sparse or visible is None:
            return step(j, visible, carry)
        return lax.cond(visible.any(), partial(step, j, visible), lambda carry: carry, carry)

    return lax.fori_loop(begin, end, visit, carry)


def _visible(i: Array, j: Array, where: Where, rule: Rule) -> Bool[Array, "#B T S"] | None:
    """Which queries of chunk i may look at which keys of chunk j; None where every pair may."""
    queries, keys = rule.query_chunk, rule.key_chunk
    row, column = i * queries, j * keys
    mask, query_segments, key_segments = where.mask, None, None
    if mask is not None:
        if mask.shape[1] > 1:
            mask = lax.dynamic_slice_in_dim(mask, row, queries, axis=1)
        mask = lax.dynamic_slice_in_dim(mask, column, keys, axis=2)
    if where.query_segments is not None and where.key_segments is not None:
        query_segments = lax.dynamic_slice_in_dim(where.query_segments, row, queries, axis=1)
        key_segments = lax.dynamic_slice_in_dim(where.key_segments, column, keys, axis=1)
    visible = visibility(
        queries,
        keys,
        where.query_start + row - column,
        mask=mask,
        query_segments=query_segments,
        key_segments=key_segments,
        causal=rule.causal,
        window=where.window,
    )
    if rule.keys % keys == 0:
        return visible
    exists = jnp.broadcast_to(column + jnp.arange(keys) < rule.keys, (1, queries, keys))
    return exists if visible is None else visible & exists


def _adjustment(i: Array, j: Array, where: Where, rule: Rule) -> Callable[..., Array]:
    """Soft cap and bias of a pair of chunks, as a function of raw scores and the bias."""
    start = where.query_start + i * rule.query_chunk - j * rule.key_chunk
    return lambda raw, bias: adjusted(raw, bias, start, rule.soft_cap)


def _only(visible: Array | None, x: Array, otherwise: float) -> Array:
    if visible is None:
        return x
    return jnp.where(jnp.broadcast_to(visible[:, None, None], x.shape), x, otherwise)


def _without_padding(
    visible: Array | None, rule: Rule, q: Array, k: Array, v: Array
) -> tuple[Array, Array, Array]:
    """0 in place of what takes part in no visible pair of these chunks: 0 times NaN is NaN."""
    if visible is None or not rule.has_padding:
        return q, k, v
    looks, is_seen = visible.any(2)[:, None, None, :, None], visible.any(1)[:, None, :, None]
    return jnp.where(looks, q, 0), jnp.where(is_seen, k, 0), jnp.where(is_seen, v, 0)


def _drop(weights: Array, i: Array, j: Array, where: Where, rule: Rule) -> Array:
    """The weights of a pair of chunks, or their gradient, with the same ones dropped each time."""
    if where.dropout_key is None:
        return weights
    pair = i * (-(-rule.keys // rule.key_chunk)) + j
    key = jax.random.fold_in(where.dropout_key, pair)
    keep = jax.random.bernoulli(key, 1.0 - rule.dropout_rate, weights.shape)
    return jnp.where(keep, weights / (1.0 - rule.dropout_rate), 0)


def _chunk_queries(x: Array, kv_heads: int, rule: Rule) -> Array:
    """From "B T N H" to chunks of "B K G T H" in the compute dtype, filled up with zeros."""
    batch, queries, heads, size = x.shape
    x = jnp.pad(x, ((0, 0), (0, -queries % rule.query_chunk), (0, 0), (0, 0))).astype(rule.dtype)
    x = x.reshape(batch, -1, rule.query_chunk, kv_heads, heads // kv_heads, size)
    return x.transpose(1, 0, 3, 4, 2, 5)


def _join_queries(chunks: Array, shape: tuple[int, ...]) -> Array:
    batch, queries = shape[:2]
    return chunks.transpose(1, 0, 4, 2, 3, 5).reshape(batch, -1, *shape[2:])[:, :queries]


def _chunk_keys(x: Array, rule: Rule) -> Array:
    """From "B S K H" to chunks of "B K S H" in the compute dtype, filled up with zeros."""
    batch, keys, heads, size = x.shape
    x = jnp.pad(x, ((0, 0), (0, -keys % rule.key_chunk), (0, 0), (0, 0))).astype(rule.dtype)
    return x.reshape(batch, -1, rule.key_chunk, heads, size).transpose(1, 0, 3, 2, 4)


def _join_keys(chunks: Array, rule: Rule) -> Array:
    _, batch, heads, _, size = chunks.shape
    return chunks.transpose(1, 0, 3, 2, 4).reshape(batch, -1, heads, size)[:, : rule.keys]
