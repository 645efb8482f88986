"""One chunk of queries against chunks of keys, with a softmax that is mended as it goes.

    m' = max(m, max_s e_ts)       l' = exp(m - m') l + sum_s exp(e_ts - m')
    a' = exp(m - m') a + sum_s exp(e_ts - m') v_s        o_t = a / l,  logsumexp = m + log l

(Rabe and Staats 2021, arXiv:2112.05682; Dao et al. 2022, arXiv:2205.14135.) `chunked_attention`
goes through time with it on one device, `ring_attention` around a ring of them. The gradient goes
through the same chunks again; its equations are those of `softmax_attention`. Who sees whom is
worked out for each pair of chunks from indices and segments; pairs that causality or the window
rule out are not visited, and pairs that a mask or segments rule out are skipped.

Inside, axes are "B K G T H": G query heads share each of K key/value heads. The leading axis of
chunked arrays counts the chunks.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from jaxseq.ops.attention_scores import adjusted, visibility
from jaxseq.ops.position_bias import PositionBias
from jaxseq.typing import Array, Bool, Float, Int, Key

Carry = TypeVar("Carry")


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


class Sums(NamedTuple):
    """m, l and a of the equations above, of the keys that a chunk of queries has seen so far."""

    largest: Float[Array, "... B K G T"]
    total: Float[Array, "... B K G T"]
    mixed: Float[Array, "... B K G T H"]


def nothing_seen(q: Float[Array, "... B K G T H"], wide: jnp.dtype) -> Sums:
    """The sums of queries before they look at any key."""
    zero = jnp.zeros_like(q[..., 0], wide)
    return Sums(zero + float(jnp.finfo(wide).min), zero, jnp.zeros_like(q, wide))


def finish(sums: Sums) -> tuple[Float[Array, "... B K G T H"], Float[Array, "... B K G T"]]:
    """o and logsumexp of the queries, o being 0 where one has seen nothing."""
    total = jnp.where(sums.total == 0, 1, sums.total)
    return sums.mixed / total[..., None], sums.largest + jnp.log(total)


def attend(
    i: Array,
    q_i: Float[Array, "B K G T H"],
    k: Float[Array, "C B K S H"],
    v: Float[Array, "C B K S H"],
    bias: PositionBias | None,
    where: Where,
    rule: Rule,
    sums: Sums,
) -> Sums:
    """The sums of chunk i of the queries after it has looked at these keys too."""
    wide = sums.mixed.dtype
    product, lowest = partial(jnp.einsum, preferred_element_type=wide), float(jnp.finfo(wide).min)

    def mend(j: Array, visible: Array | None, sums: Sums) -> Sums:
        q, k_j, v_j = _without_padding(visible, rule, q_i, k[j], v[j])
        raw = rule.scale * product("BKGTH,BKSH->BKGTS", q, k_j)
        scores = _only(visible, _adjustment(i, j, where, rule)(raw, bias), lowest)
        largest = jnp.maximum(sums.largest, scores.max(axis=-1))
        weights = jnp.exp(scores - largest[..., None])
        if rule.has_padding:
            weights = _only(visible, weights, 0.0)
        decay = jnp.exp(sums.largest - largest)
        total = decay * sums.total + weights.sum(axis=-1)
        weights = _drop(weights, i, j, where, rule).astype(rule.dtype)
        mixed = decay[..., None] * sums.mixed + product("BKGTS,BKSH->BKGTH", weights, v_j)
        return Sums(largest, total, mixed)

    return _over_keys(i, k.shape[0], where, rule, mend, sums)


class Rows(NamedTuple):
    """What the gradient needs of queries: themselves, that of their o, do . o, and logsumexp."""

    q: Float[Array, "... B K G T H"]
    do: Float[Array, "... B K G T H"]
    overlap: Float[Array, "... B K G T"]
    log_sums: Float[Array, "... B K G T"]


def overlap(do: Array, output: Array, wide: jnp.dtype) -> Float[Array, "... B K G T"]:
    """do_t . o_t of every query."""
    return (do.astype(wide) * output.astype(wide)).sum(axis=-1)


def gather(
    i: Array,
    rows: Rows,
    k: Float[Array, "C B K S H"],
    v: Float[Array, "C B K S H"],
    bias: PositionBias | None,
    where: Where,
    rule: Rule,
    dq: Array,
    gradients: tuple[Array, Array, PositionBias | None],
) -> tuple[Array, tuple[Array, Array, PositionBias | None]]:
    """dq and (dk, dv, dbias) with what chunk i of the queries and these keys add to them."""
    wide = rows.log_sums.dtype
    product, lowest = partial(jnp.einsum, preferred_element_type=wide), float(jnp.finfo(wide).min)

    def add(j: Array, visible: Array | None, carry: tuple) -> tuple:
        dq, (dk, dv, dbias) = carry
        q, k_j, v_j = _without_padding(visible, rule, rows.q, k[j], v[j])
        raw = rule.scale * product("BKGTH,BKSH->BKGTS", q, k_j)
        scores, pull = jax.vjp(_adjustment(i, j, where, rule), raw, bias)
        scores = _only(visible, scores, lowest)
        weights = jnp.exp(scores - rows.log_sums[..., None])
        if rule.has_padding:
            weights = _only(visible, weights, 0.0)
        dweights = _drop(product("BKGTH,BKSH->BKGTS", rows.do, v_j), i, j, where, rule)
        draw, more = pull(weights * (dweights - rows.overlap[..., None]))
        draw = (rule.scale * draw).astype(rule.dtype)
        weights = _drop(weights, i, j, where, rule).astype(rule.dtype)
        # Each is the operand of two products: do not fuse its computation into both.
        weights, draw = lax.optimization_barrier((weights, draw))
        dq = dq + product("BKGTS,BKSH->BKGTH", draw, k_j)
        dk = dk.at[j].add(product("BKGTS,BKGTH->BKSH", draw, q))
        dv = dv.at[j].add(product("BKGTS,BKGTH->BKSH", weights, rows.do))
        return dq, (dk, dv, jax.tree.map(jnp.add, dbias, more))

    return _over_keys(i, k.shape[0], where, rule, add, (dq, gradients))


def _over_keys(
    i: Array, chunks: int, where: Where, rule: Rule, step: Callable[..., Carry], carry: Carry
) -> Carry:
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

    def visit(j: Array, carry: Carry) -> Carry:
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


def chunk_queries(x: Array, kv_heads: int, rule: Rule) -> Array:
    """From "B T N H" to chunks of "B K G T H" in the compute dtype, filled up with zeros."""
    batch, queries, heads, size = x.shape
    x = jnp.pad(x, ((0, 0), (0, -queries % rule.query_chunk), (0, 0), (0, 0))).astype(rule.dtype)
    x = x.reshape(batch, -1, rule.query_chunk, kv_heads, heads // kv_heads, size)
    return x.transpose(1, 0, 3, 4, 2, 5)


def join_queries(chunks: Array, shape: tuple[int, ...]) -> Array:
    """Chunks of "B K G T H" as one array of this shape, "B T N H"."""
    batch, queries = shape[:2]
    return chunks.transpose(1, 0, 4, 2, 3, 5).reshape(batch, -1, *shape[2:])[:, :queries]


def chunk_keys(x: Array, rule: Rule) -> Array:
    """From "B S K H" to chunks of "B K S H" in the compute dtype, filled up with zeros."""
    batch, keys, heads, size = x.shape
    x = jnp.pad(x, ((0, 0), (0, -keys % rule.key_chunk), (0, 0), (0, 0))).astype(rule.dtype)
    return x.reshape(batch, -1, rule.key_chunk, heads, size).transpose(1, 0, 3, 2, 4)


def join_keys(chunks: Array, rule: Rule) -> Array:
    """Chunks of "B K S H" as one array "B S K H", without the filling."""
    _, batch, heads, _, size = chunks.shape
    return chunks.transpose(1, 0, 3, 2, 4).reshape(batch, -1, heads, size)[:, : rule.keys]


def even(length: int, chunk: int) -> int:
    """The chunk size of as many chunks as `chunk` makes of `length`, all about as long."""
    return -(-length // -(-length // chunk))
