"""Attention over a sequence divided among devices: keys and values go round, nothing is gathered.

Every device holds a stretch of the queries and one of the keys and values. It looks at its own
keys, hands them on to the next device, looks at those that came from the one before, and so on,
with the softmax mended as it goes (ring attention: Liu et al. 2023, arXiv:2310.01889). The pass of
keys to the next device is under way while this one works. The gradient is a second ring, in which
dk and dv travel with their k and v and are carried home at the end. A device never holds more than
its stretches and a pair of chunks of scores.

Under causality the devices of the first stretches would see almost nothing and wait for the others.
So time is cut in twice as many pieces as there are n devices, and device i works on pieces i and
2n - 1 - i (its striped relative: Brandon et al. 2023, arXiv:2311.09431): of every pair of devices'
pieces half is visible, to all devices alike, and what is not visible is not visited. Pieces change
places on the way in and on the way out, so that nobody outside knows. A causal window that ends
before the ring does leaves time as it is, and ends the ring early.

The mesh is the one around the trace; rows of the batch and heads stay on the mesh axes of theirs.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from jaxseq.ops import chunked_attention
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
from jaxseq.ops.precision import accumulator
from jaxseq.parallel.rules import mesh_axes, mesh_size
from jaxseq.typing import Array, Float, Int, PyTree

Axes = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Ring:
    """What is fixed when the op is traced.

    `time`, `rows` and `heads` are mesh axes; a device has `pieces` of `queries` queries and of
    `rule.keys` keys, which it hands on `hops` times.
    """

    rule: Rule
    time: Axes
    rows: Axes
    heads: Axes
    devices: int
    pieces: int
    hops: int
    queries: int


def ring_attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    *,
    options: Options,
) -> Float[Array, "B T N H"]:
    """`attention` with time divided over the mesh axes of the rule "time", where it can be.

    `refusal` says where not. Key/value heads that the mesh axes of "heads" do not divide, where
    they divide the query heads, are repeated until they do.
    """
    batch, queries, num_heads, _ = query.shape
    keys, kv_heads = key.shape[1:3]
    time, heads = mesh_axes("time", queries), mesh_axes("heads", num_heads)
    devices = _size(time)
    copies = _size(heads) // math.gcd(kv_heads, _size(heads))
    key, value = (jnp.repeat(x, copies, axis=2) if copies > 1 else x for x in (key, value))
    pieces, hops = _route(keys, devices, options)
    queries, keys = queries // (devices * pieces), keys // (devices * pieces)
    rule = Rule(
        options.scale,
        options.dtype,
        options.causal,
        options.soft_cap,
        0.0,
        options.may_pad(query.shape[1], key.shape[1]),
        keys,
        even(queries, chunked_attention.QUERY_CHUNK),
        even(keys, chunked_attention.KEY_CHUNK),
    )
    ring = Ring(rule, time, mesh_axes("batch", batch), heads, devices, pieces, hops, queries)
    marks = {
        "mask": None if options.mask is None else options.mask[:, 0],
        "query_segments": options.query_segments,
        "key_segments": options.key_segments,
        "window": None if options.window is None else jnp.asarray(options.window, jnp.int32),
    }
    given = {name: mark for name, mark in marks.items() if mark is not None}
    return _attend(query, key, value, given, ring)


def refusal(query: Array, key: Array, options: Options) -> str | None:
    """The option that a ring cannot do here, or None."""
    queries, keys = query.shape[1], key.shape[1]
    time = mesh_axes("time", queries)
    if not (queries and keys):
        return "length 0"
    if not time or mesh_axes("time", keys) != time:
        return f"lengths {queries} and {keys}: no mesh axis of the rule 'time' divides both"
    beside = queries == keys and options.query_start is None
    if (options.causal or options.window is not None) and not beside:
        return "causality or a window where queries do not stand beside their keys"
    parts = _route(keys, _size(time), options)[0] * _size(time)
    if queries % parts or keys % parts:
        return f"length {queries}: it takes multiples of {parts} on this mesh"
    if options.mask is not None and options.mask.shape[1] > 1:
        return "a mask that differs from query to query"
    if options.bias is not None:
        return "bias"
    return None if options.dropout_key is None else "dropout"


def _route(keys: int, devices: int, options: Options) -> tuple[int, int]:
    """(pieces of a device, times that keys are handed on)."""
    hops = devices - 1
    if options.causal and isinstance(options.window, int):
        hops = min(hops, -(-(options.window - 1) // (keys // devices)))
    return 2 if options.causal and hops == devices - 1 else 1, hops


def _size(axes: Axes) -> int:
    return math.prod(mesh_size(axis) for axis in axes)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(query: Array, key: Array, value: Array, marks: dict[str, Array], ring: Ring) -> Array:
    return _forward(query, key, value, marks, ring)[0]


def _forward(
    query: Array, key: Array, value: Array, marks: dict[str, Array], ring: Ring
) -> tuple[Array, tuple]:
    arrays, saved = _specs(ring)
    places = arrays, arrays, arrays, _mark_specs(marks, ring)
    output, kept = _on_each(_forward_on_one, ring, places, (arrays, saved))(
        query, key, value, marks
    )
    return output, (kept, marks)


def _backward(ring: Ring, saved: tuple, doutput: Array) -> tuple:
    kept, marks = saved
    arrays, specs = _specs(ring)
    places = specs, arrays, _mark_specs(marks, ring)
    run = _on_each(_backward_on_one, ring, places, (arrays, arrays, arrays))
    return *run(kept, doutput, marks), None


_attend.defvjp(_forward, _backward)


def _on_each(function: Callable, ring: Ring, places: PyTree, results: PyTree) -> Callable:
    return jax.shard_map(
        partial(function, ring=ring),
        in_specs=places,
        out_specs=results,
        axis_names={*ring.time, *ring.rows, *ring.heads},
    )


def _specs(ring: Ring) -> tuple[PartitionSpec, tuple[PartitionSpec, ...]]:
    """Where "B T N H" arrays live, and chunks of q, k, v, o and logsumexp."""
    rows, heads = ring.rows or None, ring.heads or None
    q, k = PartitionSpec(ring.time, rows, heads), PartitionSpec(ring.time, None, rows, heads)
    return PartitionSpec(rows, ring.time, heads), (q, k, k, q, q)


def _mark_specs(marks: dict[str, Array], ring: Ring) -> dict[str, PartitionSpec]:
    def spec(mark: Array) -> PartitionSpec:
        if not mark.ndim:
            return PartitionSpec()
        return PartitionSpec(ring.rows or None if mark.shape[0] > 1 else None, ring.time)

    return {name: spec(mark) for name, mark in marks.items()}


# --- What each device does: T and S are those of its own stretches -------------------------------


def _forward_on_one(
    query: Array, key: Array, value: Array, marks: dict[str, Array], ring: Ring
) -> tuple[Array, tuple[Array, ...]]:
    q = _query_chunks(query, key.shape[2], ring)
    keys = {"k": _key_chunks(key, ring), "v": _key_chunks(value, ring)}
    chunks = jnp.arange(q.shape[0]), _chunk_starts(ring), q
    place = _placing(marks, ring)

    def visit(hop: Array | int, keys: dict[str, Array], sums: PyTree) -> PyTree:
        def look(sums: PyTree, piece: tuple) -> tuple[PyTree, None]:
            def run(_: None, chunk: tuple) -> tuple[None, PyTree]:
                (i, start, q_i), sums_i = chunk
                where = place(i, start, piece)
                k, v = piece[1]["k"], piece[1]["v"]
                return None, attend(i, q_i, k, v, None, where, ring.rule, sums_i)

            return lax.scan(run, None, (chunks, sums))[1], None

        return lax.scan(look, sums, (_piece_starts(hop, ring.rule.keys, ring), keys))[0]

    sums = nothing_seen(q, accumulator(query.dtype))
    output, log_sums = finish(_around(keys | _key_marks(marks, ring), visit, sums, ring))
    saved = (q, keys["k"], keys["v"], output.astype(ring.rule.dtype), log_sums)
    return _join_queries(output, query.shape, ring).astype(query.dtype), saved


def _backward_on_one(
    saved: tuple[Array, ...], doutput: Array, marks: dict[str, Array], ring: Ring
) -> tuple[Array, Array, Array]:
    q, k, v, output, log_sums = saved
    wide, dtype = log_sums.dtype, doutput.dtype
    do = _query_chunks(doutput, k.shape[3], ring)
    rows = Rows(q, do, overlap(do, output, wide), log_sums)
    chunks = jnp.arange(q.shape[0]), _chunk_starts(ring), rows
    place = _placing(marks, ring)

    def visit(hop: Array | int, keys: dict[str, Array], gradients: tuple) -> tuple:
        dq, before = gradients
        before = _hand_on(before, 1, ring)  # under way too, until what is new is added

        def look(dq: Array, piece: tuple) -> tuple[Array, tuple[Array, Array]]:
            k, v = piece[1]["k"], piece[1]["v"]

            def run(sums: tuple, chunk: tuple) -> tuple[tuple, Array]:
                (i, start, rows_i), dq_i = chunk
                where = place(i, start, piece)
                dq_i, sums = gather(i, rows_i, k, v, None, where, ring.rule, dq_i, sums)
                return sums, dq_i

            nothing = jnp.zeros_like(k, wide), jnp.zeros_like(v, wide), None
            (dk, dv, _), dq = lax.scan(run, nothing, (chunks, dq))
            return dq, (dk, dv)

        dq, new = lax.scan(look, dq, (_piece_starts(hop, ring.rule.keys, ring), keys))
        return dq, jax.tree.map(jnp.add, before, new)

    nothing = jnp.zeros_like(q, wide), (jnp.zeros_like(k, wide), jnp.zeros_like(v, wide))
    keys = {"k": k, "v": v} | _key_marks(marks, ring)
    dq, travelled = _around(keys, visit, nothing, ring)
    dkey, dvalue = (
        _collect(jax.vmap(partial(join_keys, rule=ring.rule))(x), ring).astype(dtype)
        for x in _hand_on(travelled, -ring.hops, ring)
    )
    return _join_queries(dq, doutput.shape, ring).astype(dtype), dkey, dvalue


def _around(keys: dict[str, Array], visit: Callable, state: PyTree, ring: Ring) -> PyTree:
    """visit(hop, keys of the device `hop` places before, state), once for each device's keys."""

    def stop(carry: tuple[dict[str, Array], PyTree], hop: Array) -> tuple[tuple, None]:
        keys, state = carry
        arriving = _hand_on(keys, 1, ring)
        return (arriving, visit(hop, keys, state)), None

    (keys, state), _ = lax.scan(stop, (keys, state), jnp.arange(ring.hops))
    return visit(ring.hops, keys, state)


def _hand_on(tree: PyTree, places: int, ring: Ring) -> PyTree:
    """What every device has, to the device so many places behind it."""
    pairs = [(d, (d + places) % ring.devices) for d in range(ring.devices)]
    return jax.tree.map(lambda x: lax.ppermute(x, ring.time, pairs), tree)


# --- Pieces and their places ---------------------------------------------------------------------


def _deal(x: Array, ring: Ring) -> Array:
    """This device's stretch "B T ..." for the pieces that it works on, (pieces, B, T, ...)."""
    pieces = jnp.stack(jnp.split(x, ring.pieces, axis=1))
    if ring.pieces == 1:
        return pieces
    arrived = [lax.ppermute(pieces[p], ring.time, _homes(p, ring)) for p in range(2)]
    return _by_parity(*arrived, ring)


def _collect(pieces: Array, ring: Ring) -> Array:
    """The inverse of `_deal`."""
    if ring.pieces == 2:
        sent = _by_parity(*pieces, ring)
        back = [[(home, d) for d, home in _homes(p, ring)] for p in range(2)]
        pieces = jnp.stack([lax.ppermute(sent[p], ring.time, back[p]) for p in range(2)])
    return jnp.concatenate(list(pieces), axis=1)


def _homes(parity: int, ring: Ring) -> list[tuple[int, int]]:
    """(device, where its even or odd piece is worked on): pieces i and 2n - 1 - i on device i."""
    pieces = range(parity, 2 * ring.devices, 2)
    return [(p // 2, min(p, 2 * ring.devices - 1 - p)) for p in pieces]


def _by_parity(first: Array, second: Array, ring: Ring) -> Array:
    """Both in this order on even devices, whose earlier piece is an even one; else turned."""
    is_even = lax.axis_index(ring.time) % 2 == 0
    return jnp.where(is_even, jnp.stack([first, second]), jnp.stack([second, first]))


def _piece_starts(hop: Array | int, length: int, ring: Ring) -> Int[Array, "P"]:
    """At which index of the sequence each piece of the device `hop` places before begins."""
    device = (lax.axis_index(ring.time) - hop) % ring.devices
    pieces = [device] if ring.pieces == 1 else [device, 2 * ring.devices - 1 - device]
    return jnp.stack(pieces).astype(jnp.int32) * length


def _chunk_starts(ring: Ring) -> Int[Array, "C"]:
    """The same for each chunk of this device's queries."""
    starts = jnp.arange(0, ring.queries, ring.rule.query_chunk, jnp.int32)
    return (_piece_starts(0, ring.queries, ring)[:, None] + starts[None]).reshape(-1)


def _placing(marks: dict[str, Array], ring: Ring) -> Callable[[Array, Array, tuple], Where]:
    """(number of a chunk of queries, its first index, piece of keys) -> who sees whom there."""
    segments = marks.get("query_segments")
    if segments is not None:
        filled = _fill(_deal(segments, ring), ring.rule.query_chunk)
        segments = jnp.concatenate(list(filled), axis=1)

    def place(i: Array, start: Array, piece: tuple[Array, dict[str, Array]]) -> Where:
        key_start, keys = piece
        mask = keys.get("mask")
        return Where(
            mask=None if mask is None else mask[:, None],
            query_segments=segments,
            key_segments=keys.get("key_segments"),
            window=marks.get("window"),
            # Chunks are counted on from piece to piece, where indices jump.
            query_start=start - i * ring.rule.query_chunk - key_start,
            dropout_key=None,
        )

    return place


def _key_marks(marks: dict[str, Array], ring: Ring) -> dict[str, Array]:
    """The marks that travel with the keys, by pieces."""
    return {
        name: _fill(_deal(marks[name], ring), ring.rule.key_chunk)
        for name in ("mask", "key_segments")
        if name in marks
    }


def _fill(pieces: Array, chunk: int) -> Array:
    """Marks (pieces, B, T) with 0 behind them up to whole chunks."""
    return jnp.pad(pieces, ((0, 0), (0, 0), (0, -pieces.shape[2] % chunk)))


def _query_chunks(x: Array, kv_heads: int, ring: Ring) -> Array:
    """The chunks of all pieces, one after another: "C B K G T H"."""
    cut = partial(chunk_queries, kv_heads=kv_heads, rule=ring.rule)
    chunks = jax.vmap(cut)(_deal(x, ring))
    return chunks.reshape(-1, *chunks.shape[2:])


def _join_queries(chunks: Array, shape: tuple[int, ...], ring: Ring) -> Array:
    chunks = chunks.reshape(ring.pieces, -1, *chunks.shape[1:])
    join = partial(join_queries, shape=(shape[0], ring.queries, *shape[2:]))
    return _collect(jax.vmap(join)(chunks), ring)


def _key_chunks(x: Array, ring: Ring) -> Array:
    """The chunks of each piece: "P C B K S H"."""
    return jax.vmap(partial(chunk_keys, rule=ring.rule))(_deal(x, ring))
