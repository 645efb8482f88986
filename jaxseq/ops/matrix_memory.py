"""A matrix-valued memory with a decay: what linear attention with a gate remembers."""

import math

import jax.numpy as jnp

from jaxseq.ops.padding import valid_steps
from jaxseq.ops.precision import accumulator
from jaxseq.ops.recurrence import linear_recurrence
from jaxseq.parallel.rules import mesh_axes, mesh_size
from jaxseq.typing import Array, Float, Int


def matrix_memory(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B T N H"],
    value: Float[Array, "B T N H"],
    log_decay: Float[Array, "B T N"],
    memory: Float[Array, "B N H H"] | None = None,
    lengths: Int[Array, "B"] | None = None,
    *,
    reverse: bool = False,
    chunk_size: int = 64,
    dtype: jnp.dtype | None = None,
) -> tuple[Float[Array, "B T N H"], Float[Array, "B N H H"]]:
    """What each query reads from a memory that decays and gains key x value at every step.

        M_t = exp(log_decay_t) M_{t-1} + k_t v_t^T          o_t = M_t^T q_t

    (Yang et al. 2023, arXiv:2312.06635, with one decay per head as in Dao and Gu 2024,
    arXiv:2405.21060.) `log_decay` is finite and at most 0. `memory` stands before the first step
    (None: zeros); the memory after the last step comes back with o, in float32 or wider. Row i is
    read from step 0 to lengths[i] - 1, or the other way round if `reverse`; o is 0 in the padding,
    whose content matters to nothing.

    The chunkwise form: with l_t the sum of log decays from the chunk's start to t and M its memory
    on entry,

        o_t = exp(l_t) M^T q_t + sum_{s <= t} exp(l_t - l_s) (q_t . k_s) v_s

    so that the work is matrix products of chunks, and memories are handed from chunk to chunk by
    `linear_recurrence`. Every exponent is at most 0: nothing overflows, whatever the decays.
    Operands of products are cast to `dtype` (None keeps query's), sums are in float32 or wider.
    """
    batch, num_steps, heads, size = query.shape
    wide, low = accumulator(query.dtype), jnp.dtype(dtype or query.dtype)
    if memory is None:
        memory = jnp.zeros((batch, heads, size, size), wide)
    memory = memory.astype(wide)
    if num_steps == 0:
        return jnp.zeros_like(query), memory
    if lengths is not None:
        valid = valid_steps(lengths, num_steps)[:, :, None]
        log_decay = jnp.where(valid, log_decay, 0)
        query, key, value = (jnp.where(valid[..., None], x, 0) for x in (query, key, value))

    # Where the mesh divides time, chunks end where the stretches of its devices do.
    devices = math.prod(mesh_size(axis) for axis in mesh_axes("time", num_steps))
    chunk_size = min(chunk_size, num_steps // devices)
    chunks = -(-num_steps // chunk_size)
    missing = chunks * chunk_size - num_steps

    def in_chunks(x: Array) -> Array:
        """Axes (B, chunks, N, steps, ...), steps in the order in which they are read."""
        x = jnp.flip(x, 1) if reverse else x
        x = jnp.pad(x, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(batch, chunks, chunk_size, *x.shape[2:]), 3, 2)

    q, k, v = (in_chunks(x).astype(low) for x in (query, key, value))
    decay = jnp.cumsum(in_chunks(log_decay).astype(wide), axis=-1)

    def product(equation: str, x: Array, y: Array) -> Array:
        return jnp.einsum(equation, x.astype(low), y.astype(low), preferred_element_type=wide)

    whole = decay[..., -1:]
    kept = jnp.exp(whole - decay)[..., None] * v
    gains = product("bcnsh,bcnsv->bcnhv", k, kept)
    after, last = linear_recurrence(
        jnp.broadcast_to(jnp.exp(whole)[..., None], gains.shape).reshape(batch, chunks, -1),
        gains.reshape(batch, chunks, -1),
        memory.reshape(batch, -1),
    )
    before = jnp.concatenate([memory.reshape(batch, 1, -1), after[:, :-1]], axis=1)
    before = before.reshape(gains.shape)

    steps = jnp.arange(chunk_size)
    past = (steps[:, None] >= steps[None])[None, None, None]
    gap = jnp.where(past, decay[..., :, None] - decay[..., None, :], -jnp.inf)
    scores = product("bcnth,bcnsh->bcnts", q, k) * jnp.exp(gap)
    output = product("bcnts,bcnsv->bcntv", scores, v)
    output = output + jnp.exp(decay)[..., None] * product("bcnth,bcnhv->bcntv", q, before)
    output = jnp.moveaxis(output, 2, 3).reshape(batch, -1, heads, size)[:, :num_steps]
    if reverse:
        output = jnp.flip(output, 1)
    return output.astype(query.dtype), last.reshape(memory.shape)
