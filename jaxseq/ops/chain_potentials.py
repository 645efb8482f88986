"""A linear chain of log-potentials, and the same chain as the passes over it want it: time first,
with nothing that could matter in the padding."""

from typing import Literal, NamedTuple

import jax.numpy as jnp
from jax import lax

from jaxseq.ops.precision import accumulator
from jaxseq.typing import Array, Bool, Float, Int

Method = Literal["auto", "scan", "associative"]


class Chain(NamedTuple):
    """Log-potentials of a linear chain over C states; an exponential family of paths y.

        score(y) = initial[y_1] + sum_t emissions[t, y_t] + sum_{t<T} transitions[t, y_t, y_{t+1}]
                   + final[y_T],      T = lengths[b],      p(y) = exp(score(y)) / Z

    `transitions[i, j]` leads from state i at one step to state j at the next; they are shared, or
    one matrix for every step of every sequence. None stands for zeros, `lengths` None for full
    ones; lengths beyond T count as T. A potential of -inf forbids. NaN and +inf are the caller's
    error, except in the padding (steps from lengths[b] on), where anything may stand.
    """

    emissions: Float[Array, "B T C"]
    transitions: Float[Array, "C C"] | Float[Array, "B T-1 C C"]
    initial: Float[Array, "#B C"] | None = None
    final: Float[Array, "#B C"] | None = None
    lengths: Int[Array, "B"] | None = None


class Potentials(NamedTuple):
    """A chain made ready for a pass over time.

    The emissions hold `initial` at step 0 and `final` at the last valid step, and 0 in the padding.
    """

    emissions: Float[Array, "T B C"]
    transitions: Float[Array, "C C"] | Float[Array, "T-1 B C C"]
    valid: Bool[Array, "T B"]
    last: Bool[Array, "T B"]  # True at step lengths - 1, nowhere where the length is 0


def prepare(chain: Chain) -> Potentials:
    """The chain's potentials, time first, in float32 or wider; 0 in the padding.

    Raises ValueError for shapes that do not fit together.
    """
    check_shapes(chain)
    batch, time, _ = chain.emissions.shape
    dtype = accumulator(chain.emissions.dtype)
    lengths = jnp.full(batch, time) if chain.lengths is None else jnp.minimum(chain.lengths, time)
    steps = jnp.arange(time)[:, None]
    valid, last = steps < lengths[None], steps == lengths[None] - 1
    emissions = jnp.swapaxes(chain.emissions, 0, 1).astype(dtype)
    emissions = jnp.where(valid[..., None], emissions, 0)
    for vector, place in ((chain.initial, valid & (steps == 0)), (chain.final, last)):
        if vector is not None:
            emissions += jnp.where(place[..., None], vector[None].astype(dtype), 0)
    transitions = chain.transitions.astype(dtype)
    if transitions.ndim == 4:
        transitions = jnp.swapaxes(transitions, 0, 1)
        transitions = jnp.where(valid[1:, :, None, None], transitions, 0)
    return Potentials(emissions, transitions, valid, last)


def steps_of(potentials: Potentials) -> Float[Array, "steps B C C"] | None:
    """The transitions into each step but the first, for a scan over time; None where shared."""
    return potentials.transitions if potentials.transitions.ndim == 4 else None


def of_step(potentials: Potentials, step: Array | None) -> Float[Array, "#B C C"]:
    """The transitions of one step that `steps_of` gave; the shared ones for None."""
    return potentials.transitions[None] if step is None else step


def of_all_steps(potentials: Potentials) -> Float[Array, "_ #B C C"]:
    """The transitions into each step but the first, or the shared ones as if of one step."""
    shape = potentials.transitions.shape
    return potentials.transitions.reshape((1,) * (4 - len(shape)) + shape)


def check_shapes(chain: Chain) -> None:
    """Raises ValueError where the potentials of a chain do not fit together, naming the one."""
    batch, time, states = chain.emissions.shape
    allowed = [(states, states), (batch, max(time - 1, 0), states, states)]
    if chain.transitions.shape not in allowed:
        raise ValueError(f"transitions {chain.transitions.shape} are neither of {allowed}")
    for name, vector in (("initial", chain.initial), ("final", chain.final)):
        if vector is not None and vector.shape not in [(1, states), (batch, states)]:
            raise ValueError(f"{name} {vector.shape} is neither (1, {states}) nor the batch's")
    if chain.lengths is not None and chain.lengths.shape != (batch,):
        raise ValueError(f"lengths {chain.lengths.shape} are not ({batch},)")
    if time == 0 or states == 0:
        raise ValueError(f"emissions {chain.emissions.shape} have no step or no state")


def time_sum(x: Float[Array, "T *B"]) -> Float[Array, "*B"]:
    """The sum over the first axis, in short blocks, so that ten thousand steps keep float32's
    precision: the error grows with the logarithm of T where a running sum's grows with T."""
    block = 64
    while x.shape[0] > block:
        missing = -x.shape[0] % block
        x = jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1))
        x = jnp.sum(x.reshape(-1, block, *x.shape[1:]), axis=1)
    return jnp.sum(x, axis=0)


def like(counts: Float[Array, "B C"], potential: Float[Array, "#B C"]) -> Float[Array, "#B C"]:
    """The gradient of a potential that is one for all sequences, or one for each."""
    if potential.shape[0] != counts.shape[0]:
        counts = jnp.sum(counts, axis=0, keepdims=True)
    return counts.astype(potential.dtype)


def finite_or_zero(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x, with 0 for -inf: what may be subtracted without making a NaN."""
    return jnp.where(x > -jnp.inf, x, 0)


def log_sum_exp(x: Float[Array, "..."], axis: int) -> Float[Array, "..."]:
    """log sum exp over one axis; -inf, and finite gradients, where nothing is possible."""
    largest = finite_or_zero(lax.stop_gradient(jnp.max(x, axis=axis, keepdims=True)))
    total = jnp.sum(jnp.exp(x - largest), axis=axis)
    possible = total > 0
    logarithm = jnp.log(jnp.where(possible, total, 1))
    return jnp.where(possible, logarithm + jnp.squeeze(largest, axis), -jnp.inf)
