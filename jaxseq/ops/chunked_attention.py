"""Attention whose memory grows with T + S, not with T x S.

Queries go through in chunks, and each chunk of them through the chunks of keys with a softmax that
is mended as it goes: see `attention_chunks` for the equations. Of the forward pass q, k, v, o and
logsumexp alone are kept.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from jaxseq.ops.attention_chunks import (
    Rows,
    Rule,
    Where,
    attend,
    chunk_keys,
    chunk_queries,
    even,
    finish,
    gather,
    join_keys,
    join_queries,
    nothing_seen,
    overlap,
)
from jaxseq.ops.attention_scores import Options
from jaxseq.ops.position_bias import PositionBias
from jaxseq.ops.precision import accumulator
from jaxseq.parallel.rules import mesh_axes
from jaxseq.typing import Array, Float

# The most queries and keys of a chunk: with 8 heads, scores that stay in the cache of a CPU.
QUERY_CHUNK, KEY_CHUNK = 256, 256


def chunked_attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    *,
    options: Options,
) -> Float[Array, "B T N H"]:
    """The chunks' equations for every option of `attention`, dropout included.

    Dropped weights are drawn for each pair of chunks from `fold_in(dropout_key, pair)`, so that
    the gradient draws them again instead of keeping them.

    Whether a pair of chunks is visible is asked of the data. A mesh that divides rows or heads
    would have to agree on it, once a pair: so each device works on its own, except under a bias or
    dropout, which are drawn and learned for all together.
    """
    rows, heads = mesh_axes("batch", query.shape[0]), mesh_axes("heads", query.shape[2])
    if mesh_axes("heads", key.shape[2]) != heads:
        heads = ()
    alone = options.bias is None and options.dropout_key is None
    if not (rows or heads) or not alone:
        return _on_one(query, key, value, options=options)
    arrays = PartitionSpec(rows or None, None, heads or None)
    names = ("mask", "query_segments", "key_segments", "window", "query_start")
    marks = {name: getattr(options, name) for name in names}
    marks = {name: mark for name, mark in marks.items() if isinstance(mark, Array)}
    whole = PartitionSpec()
    by_row = PartitionSpec(rows or None)
    places = {n: by_row if x.ndim and x.shape[0] > 1 else whole for n, x in marks.items()}

    def run(query: Array, key: Array, value: Array, marks: dict[str, Array]) -> Array:
        return _on_one(query, key, value, options=dataclasses.replace(options, **marks))

    return jax.shard_map(
        run,
        in_specs=(arrays, arrays, arrays, places),
        out_specs=arrays,
        axis_names={*rows, *heads},
    )(query, key, value, marks)


def _on_one(query: Array, key: Array, value: Array, *, options: Options) -> Array:
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
        even(queries, QUERY_CHUNK),
        even(keys, KEY_CHUNK),
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


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attend(
    query: Array, key: Array, value: Array, bias: PositionBias | None, where: Where, rule: Rule
) -> Array:
    return _forward(query, key, value, bias, where, rule)[0]


def _forward(
    query: Array, key: Array, value: Array, bias: PositionBias | None, where: Where, rule: Rule
) -> tuple[Array, tuple]:
    q = chunk_queries(query, key.shape[2], rule)
    k, v = chunk_keys(key, rule), chunk_keys(value, rule)
    wide = accumulator(query.dtype)

    def run(_: None, chunk: tuple[Array, Array]) -> tuple[None, tuple[Array, Array]]:
        i, q_i = chunk
        return None, finish(attend(i, q_i, k, v, bias, where, rule, nothing_seen(q_i, wide)))

    _, (output, log_sums) = lax.scan(run, None, (jnp.arange(q.shape[0]), q))
    saved = (q, k, v, output.astype(rule.dtype), log_sums, bias, where)
    return join_queries(output, query.shape).astype(query.dtype), saved


def _backward(rule: Rule, saved: tuple, doutput: Array) -> tuple:
    q, k, v, output, log_sums, bias, where = saved
    do = chunk_queries(doutput, k.shape[2], rule)
    wide = log_sums.dtype

    def run(gradients: tuple, chunk: tuple[Array, Rows]) -> tuple[tuple, Array]:
        i, rows = chunk
        dq = jnp.zeros_like(rows.q, wide)
        dq, gradients = gather(i, rows, k, v, bias, where, rule, dq, gradients)
        return gradients, dq

    rows = Rows(q, do, overlap(do, output, wide), log_sums)
    nothing = jnp.zeros_like(k, wide), jnp.zeros_like(v, wide), jax.tree.map(jnp.zeros_like, bias)
    (dk, dv, dbias), dq = lax.scan(run, nothing, (jnp.arange(q.shape[0]), rows))
    dquery = join_queries(dq, doutput.shape).astype(doutput.dtype)
    dkey, dvalue = (join_keys(x, rule).astype(doutput.dtype) for x in (dk, dv))
    return dquery, dkey, dvalue, dbias, None


_attend.defvjp(_forward, _backward)
