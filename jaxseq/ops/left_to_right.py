"""Left-to-right models, ragged and batched, the sums over their paths and the best of these: the
engine under CTC and monotonic alignment.

A path has a state for every frame. It begins in one of the `starts`, goes from state s to s, s + 1
or, where `skips[s + 2]`, to s + 2, and ends in one of the `ends` at the row's last frame. With
x_t[s] = exp(emissions[t, s]),

    forward    f_t[s] = a_{t-1}[s] + a_{t-1}[s-1] + [skips[s]] a_{t-1}[s-2]           a_t = x_t f_t
    backward   b_t[s] = q_{t+1}[s] + q_{t+1}[s+1] + [skips[s+2]] q_{t+1}[s+2]         q_t = x_t b_t
    Z = sum over starts of q_0[s]               p(state s at t) = a_t[s] q_t[s] / (x_t[s] Z)

(Graves et al. 2006; Rabiner 1989). Seen from the last state and the last frame, the second is the
first: both run side by side in one scan. Numbers are `wide_range.Wide`: the likelihoods of two
states of one frame may differ by any amount, which no common scale could hold. The batch is the
last axis: what is summed over states is summed over rows of sequences, which vectorises.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from jaxseq.ops import wide_range as wide
from jaxseq.ops.wide_range import Wide
from jaxseq.typing import Array, Bool, Float, Int


class LeftToRight(NamedTuple):
    """Log-emissions and the ways through; frames from `lengths` on are padding.

    What stands in the emissions of padding, and of states behind the last end, is not looked at.
    Of the others, what is below `wide_range.LEAST_LOG` or NaN is taken for -inf.
    """

    emissions: Float[Array, "T S B"]
    lengths: Int[Array, "B"]  # at most T
    starts: Bool[Array, "S 1"]
    ends: Bool[Array, "S B"]
    skips: Bool[Array, "S B"] | None = None


def log_partition(model: LeftToRight) -> Float[Array, "B"]:
    """log Z in nats; -inf where there is no path, and where there is no frame."""
    if 0 in model.emissions.shape[:2]:
        return jnp.full(len(model.lengths), -jnp.inf, model.emissions.dtype)
    q = _sweep(
        Wide(*(each[::-1, ::-1] for each in _likelihoods(model))),
        model.ends[::-1],
        _is_last(model)[::-1],
        None if model.skips is None else _mirrored(model.skips),
    )
    return wide.log(_z(Wide(*(each[-1] for each in q)), model.starts))


def posteriors(model: LeftToRight) -> tuple[Float[Array, "B"], Float[Array, "T S B"]]:
    """log Z, and p(state s at frame t); 0 in the padding and where there is no path."""
    if 0 in model.emissions.shape[:2]:
        return log_partition(model), jnp.zeros_like(model.emissions)
    x = _likelihoods(model)
    starts = jnp.broadcast_to(model.starts, model.ends.shape)
    is_last = _is_last(model)
    is_first = jnp.broadcast_to(_frames(model) == 0, is_last.shape)
    skips = model.skips
    # Both directions on an axis of their own: the batch may be divided over devices.
    swept = _sweep(
        Wide(*(jnp.stack([each, each[::-1, ::-1]], axis=2) for each in x)),
        jnp.stack([starts, model.ends[::-1]], axis=1),
        jnp.stack([is_first, is_last[::-1]], axis=2),
        None if skips is None else jnp.stack([skips, _mirrored(skips)], axis=1),
    )
    z = wide.normalized(_z(Wide(*(each[-1, :, 1] for each in swept)), model.starts))
    return wide.log(z), lax.platform_dependent(x, swept, z, cpu=_held_shares, default=_shares)


def _shares(x: Wide, swept: Wide, z: Wide) -> Float[Array, "T S B"]:
    """a q / (x z), 0 where z is."""
    a = Wide(*(each[:, :, 0] for each in swept))
    q = Wide(*(each[::-1, ::-1, 1] for each in swept))
    shares = wide.relative_to(wide.over(wide.times(a, q), x), z.exponent[None, None])
    return jnp.where(wide.is_zero(z)[None, None], 0, shares / z.mantissa[None, None])


def _held_shares(x: Wide, swept: Wide, z: Wide) -> Float[Array, "T S B"]:
    """`_shares`, written out: else XLA's CPU fusions compute them element by element in the order
    of whatever transposes them next. The results of a condition are always written out."""
    possible = jnp.any(~wide.is_zero(z))
    return lax.cond(possible, _shares, lambda x, *_: jnp.zeros_like(x.mantissa), x, swept, z)


def best_path(model: LeftToRight) -> tuple[Int[Array, "T B"], Float[Array, "B"]]:
    """The states of the likeliest path, and its log-probability; -inf where there is no path.

        best_t[s] = emissions[t, s] + max(best_{t-1}[s], best_{t-1}[s-1], best_{t-1}[s-2])

    with the last where `skips[s]`. Among equals, the path that goes on earlier. Behind the row's
    last frame its state is repeated.
    """
    model = model._replace(emissions=lax.stop_gradient(model.emissions))  # a path has no gradient
    emissions = jnp.where(_there(model), model.emissions, -jnp.inf)
    time, states, batch = emissions.shape
    if time == 0 or states == 0:
        return jnp.zeros((time, batch), jnp.int32), jnp.full(batch, -jnp.inf, emissions.dtype)
    valid = (_frames(model) < model.lengths[None, None])[:, 0]

    def forward(best: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        emissions, valid = inputs
        before = jnp.pad(best, ((2, 0), (0, 0)), constant_values=-jnp.inf)
        top, move = best, jnp.zeros(best.shape, jnp.int8)
        top, move = jnp.maximum(top, before[1:-1]), jnp.where(before[1:-1] > top, 1, move)
        if model.skips is not None:
            two = jnp.where(model.skips, before[:-2], -jnp.inf)
            top, move = jnp.maximum(top, two), jnp.where(two > top, 2, move)
        return jnp.where(valid[None], emissions + top, best), move.astype(jnp.int8)

    first = jnp.where(model.starts, emissions[0], -jnp.inf)
    best, moves = lax.scan(forward, first, (emissions[1:], valid[1:]))
    best = jnp.where(model.ends, best, -jnp.inf)

    def backward(state: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        moves, valid = inputs
        move = jnp.take_along_axis(moves, state[None], axis=0, mode="promise_in_bounds")[0]
        state = state - jnp.where(valid, move, 0).astype(jnp.int32)
        return state, state

    last = jnp.argmax(best, axis=0).astype(jnp.int32)
    _, path = lax.scan(backward, last, (moves, valid[1:]), reverse=True)
    return jnp.concatenate([path, last[None]]), jnp.max(best, axis=0)


def _mirrored(skips: Bool[Array, "S B"]) -> Bool[Array, "S B"]:
    """Into s from s + 2, where it is into s + 2 from s; the last state first."""
    return jnp.pad(skips[:1:-1], ((min(2, len(skips)), 0), (0, 0)))


def _frames(model: LeftToRight) -> Int[Array, "T 1 1"]:
    return jnp.arange(model.emissions.shape[0])[:, None, None]


def _is_last(model: LeftToRight) -> Bool[Array, "T 1 B"]:
    """True at each row's last frame."""
    return _frames(model) == model.lengths[None, None] - 1


def _likelihoods(model: LeftToRight) -> Wide:
    """x_t, with 0 where nothing must be looked at."""
    x = wide.from_log(jnp.where(_there(model), model.emissions, -jnp.inf))
    return lax.optimization_barrier(x)  # several read it: one exp each


def _there(model: LeftToRight) -> Bool[Array, "T S B"]:
    """Frames that are not padding and states that are not behind the last end."""
    states = jnp.arange(model.emissions.shape[1])[:, None]
    last = jnp.max(jnp.where(model.ends, states, -1), axis=0)
    return (_frames(model) < model.lengths[None, None]) & (states <= last[None])[None]


def _sweep(
    x: Wide,
    entry: Bool[Array, "S *B"],
    enters: Bool[Array, "T 1 *B"],
    skips: Bool[Array, "S *B"] | None,
) -> Wide:
    """Every a_t of the forward equation, with f_t = `entry` where it `enters`; not normalised."""
    return lax.platform_dependent(x, entry, enters, skips, cpu=_flat_scan, default=_scan)


def _flat_scan(
    x: Wide, entry: Bool[Array, "S *B"], enters: Bool[Array, "T 1 *B"], skips: Array | None
) -> Wide:
    """`_scan` of long vectors, which takes half the time on CPUs, whose loops are over the last
    axis; not what a batch that is divided over devices wants."""
    shape = x.mantissa.shape

    def flat(each: Array) -> Array:
        return each.reshape(len(each), -1)

    enters = flat(jnp.broadcast_to(enters, shape))
    skips = None if skips is None else skips.reshape(-1)
    a = _scan(Wide(*map(flat, x)), entry.reshape(-1), enters, skips, entry[0].size)
    return Wide(*(each.reshape(shape) for each in a))


def _scan(
    x: Wide,
    entry: Bool[Array, "S *B"],
    enters: Bool[Array, "T ..."],
    skips: Array | None,
    stride: int = 1,
) -> Wide:
    """The states of a row are `stride` apart on the second axis."""
    dtype = x.mantissa.dtype
    start, zero = wide.indicator(entry, dtype), wide.indicator(jnp.zeros((), bool), dtype)
    barred = None if skips is None else jnp.where(skips, 0, wide.ZERO)
    two_states = [(2 * stride, 0, 0), *[(0, 0, 0)] * (entry.ndim - 1)]

    def step(a: Wide, inputs: tuple[Wide, Array]) -> tuple[Wide, Wide]:
        likelihoods, enters = inputs
        a = wide.normalized(a)
        # Held, because XLA's CPU fusions would compute it anew wherever it goes.
        before = lax.optimization_barrier(
            Wide(*(lax.pad(each, fill, two_states) for each, fill in zip(a, zero, strict=True)))
        )
        terms = [
            Wide(*(each[2 * stride :] for each in before)),
            Wide(*(each[stride:-stride] for each in before)),
        ]
        if barred is not None:
            two = Wide(*(each[: -2 * stride] for each in before))
            terms.append(two._replace(exponent=two.exponent + barred))
        f = wide.plus(*terms)
        f = Wide(
            jnp.where(enters, start.mantissa, f.mantissa),
            jnp.where(enters, start.exponent, f.exponent),
        )
        a = wide.times(f, likelihoods)
        return a, a

    return lax.scan(step, wide.indicator(jnp.zeros_like(entry), dtype), (x, enters))[1]


def _z(q: Wide, starts: Bool[Array, "S 1"]) -> Wide:
    """The sum over `starts` of q_0, whose states are mirrored."""
    return wide.total(Wide(q.mantissa, jnp.where(starts[::-1], q.exponent, wide.ZERO)), axis=0)
