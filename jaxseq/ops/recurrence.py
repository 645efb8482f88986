"""The elementwise linear recurrence h_t = a_t h_{t-1} + b_t, one step at a time or in parallel.

The gradient is the same recurrence run backwards, so the op keeps a and h and nothing else:

    g_t = dh_t + a_{t+1} g_{t+1}        db_t = g_t        da_t = g_t h_{t-1}        dh_0 = a_1 g_1

Nothing is divided by a and no logarithm of it is taken: a may be 0 (a reset) or 1 (a plain sum).
Products of a over a stretch are all that the parallel forms need, and with |a| <= 1 those only
shrink; that is why no form works in log space (as Feng et al. 2024, arXiv:2410.01201, must, whose
parallel form divides cumulated sums by cumulated products).
"""

import math
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from jaxseq.ops.padding import valid_steps
from jaxseq.ops.precision import accumulator
from jaxseq.parallel.rules import mesh_axes
from jaxseq.typing import Array, Int, Shaped

Method = Literal["auto", "scan", "associative", "chunked"]


def linear_recurrence(
    a: Shaped[Array, "B T F"],
    b: Shaped[Array, "B T F"],
    h0: Shaped[Array, "B F"] | None = None,
    lengths: Int[Array, "B"] | None = None,
    *,
    method: Method = "auto",
    reverse: bool = False,
) -> tuple[Shaped[Array, "B T F"], Shaped[Array, "B F"]]:
    """All states of h_t = a_t * h_{t-1} + b_t, and the last one; real or complex.

    h0 stands before the first step (None: zeros). Row i is read from step 0 to lengths[i] - 1, or
    from lengths[i] - 1 down to 0 if `reverse`; lengths beyond T count as T. The last state is the
    one after the last step read, h0 for an empty row. h is 0 in the padding, whose content matters
    to nothing. States run in float32 or wider: h is returned in the dtype of a and b, the last
    state in the wide one, so that a sequence read in two pieces loses nothing.

    `method` is "scan" (one step at a time), "associative" (a parallel prefix scan: log T passes),
    "chunked" (about sqrt(T) chunks side by side, two passes) or "auto": the fastest known on the
    platform, the loop on CPUs and the prefix scan elsewhere (scripts/bench_recurrence.py). Where
    the mesh around the trace divides time (the rule "time" of `parallel.rules`), "auto" leaves each
    device its own stretch of T and sends one state from device to device. Complex gradients follow
    JAX's convention: da = g_t h_{t-1}, without conjugates.
    """
    dtype = jnp.result_type(a, b)
    wide = accumulator(dtype)
    a, b = a.astype(wide), b.astype(wide)
    if h0 is None:
        h0 = jnp.zeros((a.shape[0], a.shape[2]), wide)
    h0 = h0.astype(wide)
    if lengths is None:
        h, last = _states(a, b, h0, method, reverse)
        return h.astype(dtype), last
    # Steps in the padding hand the state on, so the last state is where the loop ends.
    valid = valid_steps(lengths, a.shape[1])[:, :, None]
    a, b = jnp.where(valid, a, 1), jnp.where(valid, b, 0)
    h, last = _states(a, b, h0, method, reverse)
    return jnp.where(valid, h, 0).astype(dtype), last


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _states(a: Array, b: Array, h0: Array, method: Method, reverse: bool) -> tuple[Array, Array]:
    """All states and the last; arrays of one dtype, no padding."""
    if a.shape[1] == 0:
        return b, h0
    h = _dispatch(a, b, h0, method, reverse=reverse, late=False)
    return h, h[:, 0 if reverse else -1]


def _forward(a: Array, b: Array, h0: Array, method: Method, reverse: bool) -> tuple:
    h, last = _states(a, b, h0, method, reverse)
    return (h, last), (a, h, h0)


def _backward(method: Method, reverse: bool, saved: tuple, cotangents: tuple) -> tuple:
    a, h, h0 = saved
    dh, dlast = cotangents
    if a.shape[1] == 0:
        return jnp.zeros_like(a), dh, dlast
    g = _dispatch(a, dh, dlast, method, reverse=not reverse, late=True)
    first = -1 if reverse else 0
    da = g * _before(h, h0, reverse=reverse)
    return da, g, a[:, first] * g[:, first]


_states.defvjp(_forward, _backward)


def _dispatch(a: Array, b: Array, h0: Array, method: Method, **order: bool) -> Array:
    if method != "auto":
        return FORMS[method](a, b, h0, **order)
    if mesh_axes("time", a.shape[1]):
        return _sharded(a, b, h0, **order)
    # On CPUs the loop beats the others at every shape measured, because it alone reads and writes
    # each number once; on accelerators a loop would launch kernels T times.
    return lax.platform_dependent(
        *(a, b, h0), cpu=partial(_scan, **order), default=partial(_associative, **order)
    )


def _before(
    x: Shaped[Array, "B T F"], start: Shaped[Array, "B F"], *, reverse: bool
) -> Shaped[Array, "B T F"]:
    """At each step what x is at the step read before it, and `start` at the first one read."""
    num_steps = x.shape[1]
    padding = [(0, 0, 0), (-1, 1, 0) if reverse else (1, -1, 0), (0, 0, 0)]
    moved = lax.pad(x, x.dtype.type(0), padding)
    is_first = jnp.arange(num_steps) == (num_steps - 1 if reverse else 0)
    # A select joins the loops around it, where a concatenation would be an array of its own.
    return jnp.where(is_first[None, :, None], start[:, None], moved)


# --- The forms -----------------------------------------------------------------------------------
# Each returns all states of h_t = a_t h_{t-1} + b_t, or, if `late`, of h_t = a_{t-1} h_{t-1} + b_t
# with a = 1 before the first step; `reverse` reads from the last step to the first.


def _scan(a: Array, b: Array, h0: Array, *, reverse: bool, late: bool) -> Array:
    """One step after the other, each state written over the b that it has used up.

    Time stays axis 1: a step reads B rows of F numbers where they lie, so nothing is transposed,
    and no second array of states is touched, which on CPUs costs as much as the arithmetic.
    """
    num_steps = a.shape[1]

    def step(i: Array, state_and_states: tuple[Array, Array]) -> tuple[Array, Array]:
        state, states = state_and_states
        t = num_steps - 1 - i if reverse else i
        decay = _at(a, (t + 1 if reverse else t - 1) if late else t)
        state = decay * state + _at(states, t)
        return state, lax.dynamic_update_index_in_dim(states, state, t, 1)

    state, states = h0, b
    if late:
        first = num_steps - 1 if reverse else 0
        state = state + b[:, first]
        states = lax.dynamic_update_index_in_dim(states, state, first, 1)
    return lax.fori_loop(int(late), num_steps, step, (state, states))[1]


def _at(x: Array, t: Array) -> Array:
    return lax.dynamic_index_in_dim(x, t, axis=1, keepdims=False)


def _associative(a: Array, b: Array, h0: Array, *, reverse: bool, late: bool) -> Array:
    """The prefix scan of (a, b) pairs under (a, b) then (a', b') = (a a', a' b + b')."""
    if late:
        a = _before(a, jnp.ones_like(h0), reverse=reverse)

    products, states = _prefixes(a, b, reverse=reverse)
    return products * h0[:, None] + states


def _prefixes(a: Array, b: Array, *, reverse: bool) -> tuple[Array, Array]:
    """The product of a from the first step to each, and the state there after one of 0."""

    def combine(first: tuple[Array, Array], then: tuple[Array, Array]) -> tuple[Array, Array]:
        return first[0] * then[0], then[0] * first[1] + then[1]

    return lax.associative_scan(combine, (a, b), reverse=reverse, axis=1)


def _prefixes_by_loops(a: Array, b: Array, *, reverse: bool) -> tuple[Array, Array]:
    zero = jnp.zeros_like(b[:, 0])
    products = _scan(a, jnp.zeros_like(b), zero + 1, reverse=reverse, late=False)
    return products, _scan(a, b, zero, reverse=reverse, late=False)


def _chunked(a: Array, b: Array, h0: Array, *, reverse: bool, late: bool) -> Array:
    """Chunks side by side: first what each does to a state, then each from its right start."""
    if late:
        a = _before(a, jnp.ones_like(h0), reverse=reverse)
    batch, num_steps, features = a.shape
    length = math.isqrt(num_steps - 1) + 1
    chunks = -(-num_steps // length)
    missing = chunks * length - num_steps
    if missing:
        padding = [(0, 0, 0), (missing, 0, 0) if reverse else (0, missing, 0), (0, 0, 0)]
        a, b = lax.pad(a, a.dtype.type(1), padding), lax.pad(b, b.dtype.type(0), padding)
    a, b = (x.reshape(batch, chunks, length, features) for x in (a, b))

    def at(x: Array, i: Array) -> Array:
        return lax.dynamic_index_in_dim(x, length - 1 - i if reverse else i, 2, keepdims=False)

    def effect(i: Array, effects: tuple[Array, Array]) -> tuple[Array, Array]:
        product, state = effects
        return at(a, i) * product, at(a, i) * state + at(b, i)

    zero = jnp.zeros((batch, chunks, features), b.dtype)
    product, state = lax.fori_loop(0, length, effect, (zero + 1, zero))
    ends = _scan(product, state, h0, reverse=reverse, late=False)
    starts = _before(ends, h0, reverse=reverse)

    def step(i: Array, state_and_states: tuple[Array, Array]) -> tuple[Array, Array]:
        state, states = state_and_states
        state = at(a, i) * state + at(states, i)
        t = length - 1 - i if reverse else i
        return state, lax.dynamic_update_index_in_dim(states, state, t, 2)

    h = lax.fori_loop(0, length, step, (starts, b))[1]
    h = h.reshape(batch, chunks * length, features)
    return h[:, missing:] if reverse else h[:, :num_steps]


FORMS = {"scan": _scan, "associative": _associative, "chunked": _chunked}


def _sharded(a: Array, b: Array, h0: Array, *, reverse: bool, late: bool) -> Array:
    """Each device of the mesh axes of "time" its own stretch, which T divides into evenly.

    A device reads its stretch from a state of 0, and takes the product of a along it. The ends of
    all stretches, one state a device, are exchanged, and each device adds what reaches it:

        h_t = local h_t + (product of a from the stretch's start to t) (state before the stretch)
    """
    if late:
        a = _before(a, jnp.ones_like(h0), reverse=reverse)
    time, rows = mesh_axes("time", a.shape[1]), mesh_axes("batch", a.shape[0])

    def on_one(a: Array, b: Array, h0: Array) -> Array:
        products, states = lax.platform_dependent(
            *(a, b),
            cpu=partial(_prefixes_by_loops, reverse=reverse),
            default=partial(_prefixes, reverse=reverse),
        )
        h0, end = lax.pcast(h0, time, to="varying"), 0 if reverse else -1
        wholes, ends = (lax.all_gather(x[:, end], time, axis=1) for x in (products, states))
        after = _dispatch(wholes, ends, h0, "auto", reverse=reverse, late=False)
        starts = _before(after, h0, reverse=reverse)
        here = lax.dynamic_index_in_dim(starts, lax.axis_index(time), 1)
        return states + products * here

    in_time, at_start = PartitionSpec(rows or None, time), PartitionSpec(rows or None)
    return jax.shard_map(
        on_one,
        in_specs=(in_time, in_time, at_start),
        out_specs=in_time,
        axis_names={*time, *rows},
    )(a, b, h0)
