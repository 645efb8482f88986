"""The score of one path of a linear chain."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxseq.ops.chain_potentials import Chain, check_shapes, like, time_sum
from jaxseq.ops.precision import accumulator
from jaxseq.typing import Array, Bool, Float, Int


def score(chain: Chain, states: Int[Array, "B T"]) -> Float[Array, "B"]:
    """The score of one path of every sequence (see `Chain`), in float32 or wider.

    -inf for a path that the potentials forbid or that leaves 0..C-1; then, too, the gradients are
    finite: how often the path uses each potential. `states` in the padding are not looked at.
    """
    check_shapes(chain)
    return _score(chain, states)


@jax.custom_vjp
def _score(chain: Chain, states: Array) -> Array:
    return _score_forward(chain, states)[0]


def _score_forward(chain: Chain, states: Array) -> tuple[Array, tuple]:
    batch, _, size = chain.emissions.shape
    dtype = accumulator(chain.emissions.dtype)
    valid, last = _places(chain)
    states = jnp.where(valid, states, 0)
    in_range = jnp.all((states >= 0) & (states < size), axis=1)
    states = jnp.clip(states, 0, size - 1)
    look_up = partial(jnp.take_along_axis, axis=-1, mode="promise_in_bounds")

    steps = look_up(chain.emissions, states[..., None])[..., 0].astype(dtype)
    moves = states[:, :-1] * size + states[:, 1:]
    if chain.transitions.ndim == 2:
        moves = chain.transitions.reshape(-1).at[moves].get(mode="promise_in_bounds")
    else:
        flat = chain.transitions.reshape(*moves.shape, size * size)
        moves = look_up(flat, moves[..., None])[..., 0]
    moves = jnp.where(valid[:, 1:], moves.astype(dtype), 0)
    total = time_sum(jnp.where(valid, steps, 0).T) + time_sum(moves.T)
    if chain.initial is not None:
        initial = look_up(jnp.broadcast_to(chain.initial, (batch, size)), states[:, :1])[:, 0]
        total += jnp.where(valid[:, 0], initial, 0)
    if chain.final is not None:
        end = jnp.sum(jnp.where(last, states, 0), axis=1, keepdims=True)
        final = look_up(jnp.broadcast_to(chain.final, (batch, size)), end)[:, 0]
        total += jnp.where(valid[:, 0], final, 0)
    return jnp.where(in_range, total, -jnp.inf), (chain, states)


def _score_backward(saved: tuple, cotangent: Array) -> tuple[Chain, None]:
    """One-hot paths, and a product of two of them: on CPUs the scatters that gathers turn into
    take longer than all the rest of a CRF's loss."""
    chain, states = saved
    valid, last = _places(chain)
    every = jnp.arange(chain.emissions.shape[-1])
    path = (states[..., None] == every[None, None]) & valid[..., None]
    nodes = jnp.where(path, cotangent[:, None, None], 0)
    before, after = path[:, :-1].astype(nodes.dtype), nodes[:, 1:]
    if chain.transitions.ndim == 2:
        edges = jnp.einsum("bti,btj->ij", before, after, precision=lax.Precision.HIGHEST)
    else:
        edges = before[..., :, None] * after[..., None, :]

    def at(state: Array) -> Array:  # anew, since taking it from `nodes` would have those written
        one_hot = (state[:, None] == every[None]) & valid[:, :1]
        return jnp.where(one_hot, cotangent[:, None], 0)

    end = jnp.sum(jnp.where(last, states, 0), axis=1)
    counts = Chain(
        nodes.astype(chain.emissions.dtype),
        edges.astype(chain.transitions.dtype),
        None if chain.initial is None else like(at(states[:, 0]), chain.initial),
        None if chain.final is None else like(at(end), chain.final),
    )
    return counts, None


_score.defvjp(_score_forward, _score_backward)


def _places(chain: Chain) -> tuple[Bool[Array, "B T"], Bool[Array, "B T"]]:
    """Which steps are valid, and which are the last valid ones."""
    batch, time, _ = chain.emissions.shape
    lengths = jnp.full(batch, time) if chain.lengths is None else jnp.minimum(chain.lengths, time)
    steps = jnp.arange(time)[None]
    return steps < lengths[:, None], steps == lengths[:, None] - 1
