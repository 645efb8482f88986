"""Long chains in blocks: a pass over T steps as P passes over T/P steps, side by side.

On CPUs the overhead of a step dwarfs the arithmetic of one sequence, so 128 blocks cost little more
than one. Every block starts from a guess of the message that enters it; what comes out of block
p - 1 is then the better guess for block p:

    m_p <- pass(m_{p-1}) for all p at once, until no m_p changes

The fixed point is the sequential pass, whatever the first guess, after P rounds at the latest: the
first block is right from the start, the second after one round, and so on (Song et al. 2021,
arXiv:2002.03629). Chains forget, and one round is most often enough behind a short warm-up, the
last `WARM_UP` steps of each block from a flat guess. A chain that never forgets takes as many steps
as the pass it stands for.

"No change" is exact for states. A message may change by `_TOLERANCE` units in the last place, in
every component relatively: what follows is then as close, because a step with a non-negative matrix
never stretches that distance between messages (Birkhoff 1957).

Transitions are shared by all steps here. A loop that runs until nothing changes has no gradient:
`sweep` takes that of the scan that it stands for.
"""

from collections.abc import Callable
from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import lax

from jaxseq.ops.chain_potentials import Potentials, finite_or_zero, time_sum
from jaxseq.typing import Array, Bool, Float, Int, PyTree

WARM_UP = 24  # steps
_TOLERANCE = 16
_UNROLLED = 8  # up to this many states a sum over states is written out: one kernel, no matmul


def num_blocks(time: int, batch: int, states: int) -> int:
    """Into how many blocks to cut; 1 where cutting does not pay."""
    lanes = 96 if states <= 32 else 32
    return max(1, min(lanes // max(batch, 1), time // (2 * WARM_UP)))


# --- Sums over paths ------------------------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def sweep(
    scan: Callable[..., Array],
    first: Float[Array, "G C B"],
    weights: tuple[Array, ...],
    factors: Float[Array, "steps G C B"],
    restarts: Bool[Array, "steps G 1 B"] | None,
) -> Float[Array, "steps G C+1 B"]:
    """What `scan` of the other arguments gives, for G directions with a matrix each:

    sums_t = [weights^T m_{t-1}, sum m_{t-1}]
    m_t = factors_t sums_t / sum m_{t-1}        (factors_t where restarts_t)
    """
    del scan
    steps, directions, states, batch = factors.shape
    count = num_blocks(steps, batch, states)
    matrices = jnp.stack(weights)
    inputs = _cut(factors, count, 1.0), None if restarts is None else _cut(restarts, count, True)

    def run(message, inputs):
        def step(message, inputs):
            factors, restart = inputs
            rows, total = _sums(matrices, message)
            predicted = rows / jnp.maximum(total, jnp.finfo(total.dtype).tiny)
            if restart is not None:
                predicted = jnp.where(restart, 1, predicted)
            return factors * predicted, (rows, total)

        return lax.scan(step, message, inputs)

    flat = jnp.ones((directions, states, count * batch), first.dtype)
    sums = _settle(run, flat, inputs, lambda ends: _shift(ends, first), count)
    return _join(jnp.concatenate(sums, axis=2), steps, batch)


def _sums(matrices: Array, message: Array) -> tuple[Array, Array]:
    """matrix^T message (G, C, L) and the sum of the message (G, 1, L) for each direction."""
    states = message.shape[1]
    if states > _UNROLLED:
        rows = jnp.einsum("gij,gil->gjl", matrices, message, precision=lax.Precision.HIGHEST)
        return rows, jnp.sum(message, axis=1, keepdims=True)
    each = [message[:, i, None] for i in range(states)]
    rows = [matrices[:, i, :, None] * each[i] for i in range(states)]
    return reduce(jnp.add, rows), reduce(jnp.add, each)


def _sweep_forward(scan: Callable[..., Array], *arguments) -> tuple[Array, tuple]:
    return sweep(scan, *arguments), arguments


def _sweep_backward(scan: Callable[..., Array], arguments: tuple, cotangent: Array) -> tuple:
    return jax.vjp(scan, *arguments)[1](cotangent)


sweep.defvjp(_sweep_forward, _sweep_backward)


# --- Best paths -----------------------------------------------------------------------------------


def best_scores(potentials: Potentials) -> Float[Array, "T B C"]:
    """The best score of a path that ends in each state, up to a constant of each step."""
    potentials = lax.stop_gradient(potentials)  # a path has none
    time, batch, states = potentials.emissions.shape
    count = num_blocks(time - 1, batch, states)

    def run(best, emissions):
        def step(best, emissions):
            # Shifted by what came in, not by itself: one kernel in place of two.
            top = finite_or_zero(_max_over_states(best))
            best = _best(potentials.transitions, best) + (emissions - top[None])
            return best, best

        return lax.scan(step, best, emissions)

    emissions = jnp.swapaxes(potentials.emissions, 1, 2)
    start, emissions = emissions[0], _cut(emissions[1:], count, 0.0)
    flat = jnp.zeros((states, count * batch), start.dtype)
    best = _settle(run, flat, emissions, lambda ends: _shift(ends, start), count)
    best = jnp.concatenate([start[None], _join(best, time - 1, batch)])
    return jnp.swapaxes(best, 1, 2)


def _best(matrix: Array, best: Array) -> Array:
    """The max over i of best[i] + matrix[i, j]: (C, L)."""
    states = matrix.shape[0]
    if states > _UNROLLED:
        return jnp.max(best[:, None] + matrix[:, :, None], axis=0)
    return _max_over_states(best[:, None] + matrix[:, :, None])


def _max_over_states(x: Array) -> Array:
    if x.shape[0] > _UNROLLED:
        return jnp.max(x, axis=0)
    return reduce(jnp.maximum, list(x))


def trace(potentials: Potentials, best: Float[Array, "T B C"]) -> Int[Array, "T B"]:
    """The best path, from its end backward through `best_scores`; 0 in the padding."""
    potentials, best = lax.stop_gradient((potentials, best))
    time, batch, states = best.shape
    count = num_blocks(time, batch, states)
    transitions = potentials.transitions
    # The lowest of the best states is the largest in this order.
    order = jnp.arange(states - 1, -1, -1, dtype=jnp.int32)[:, None]

    def into(state):
        if states > _UNROLLED:
            return transitions.T[state].T
        chosen = jnp.broadcast_to(transitions[:, -1:], (states, len(state)))
        for each in range(states - 1):
            chosen = jnp.where(state[None] == each, transitions[:, each, None], chosen)
        return chosen

    def run(state, inputs):
        def step(state, inputs):
            best, ends = inputs
            scores = jnp.where(ends, best, best + into(state))
            found = scores == _max_over_states(scores)[None]
            state = _max_over_states(jnp.where(found, order, 0))
            state = states - 1 - state
            return state, state

        return lax.scan(step, state, inputs)

    # Time runs backward. Where the path ends, the state behind it does not count: any will do.
    ends = (potentials.last | ~potentials.valid)[::-1, None]
    inputs = _cut(jnp.swapaxes(best[::-1], 1, 2), count, 0.0), _cut(ends, count, True)
    start = jnp.zeros(batch, jnp.int32)
    flat = jnp.zeros(count * batch, jnp.int32)
    states = _settle(run, flat, inputs, lambda ends: _shift(ends, start), count)
    return jnp.where(potentials.valid, _join(states[:, None], time, batch)[::-1, 0], 0)


def score(potentials: Potentials, states: Int[Array, "T B"]) -> Float[Array, "B"]:
    """`chain.score` of states that are in range, by gathers: of one path, they are cheap."""
    emissions = jnp.take_along_axis(
        potentials.emissions, states[..., None], axis=-1, mode="promise_in_bounds"
    )[..., 0]
    moves = potentials.transitions.at[states[:-1], states[1:]].get(mode="promise_in_bounds")
    moves = jnp.where(potentials.valid[1:], moves, 0)
    return time_sum(emissions) + time_sum(moves)


# --- Blocks ---------------------------------------------------------------------------------------


def _cut(x: Array, count: int, filler: float | bool) -> Array:
    """(steps, ..., B) to (step within the block, ..., lanes), lanes = (block, sequence), filled up.

    Lanes last, because they are many and states are few: every operation is one of long vectors.
    """
    steps, *between, batch = x.shape
    length = -(-steps // count)
    filled = [(0, count * length - steps)] + [(0, 0)] * (x.ndim - 1)
    x = jnp.pad(x, filled, constant_values=filler).reshape(count, length, *between, batch)
    return jnp.moveaxis(x, 0, -2).reshape(length, *between, count * batch)


def _join(x: Array, steps: int, batch: int) -> Array:
    """`_cut` undone."""
    length, *between, lanes = x.shape
    x = jnp.moveaxis(x.reshape(length, *between, lanes // batch, batch), -2, 0)
    return x.reshape(-1, *between, batch)[:steps]


def _shift(ends: Array, start: Array) -> Array:
    """What the blocks end with, where it enters the next; `start` enters the first."""
    return jnp.concatenate([start, ends[..., : -start.shape[-1]]], axis=-1)


def _settle(run: Callable, flat: PyTree, inputs: PyTree, hand_on: Callable, count: int) -> PyTree:
    """The outputs of `run` from messages that are those which its own blocks hand on.

    Rounds are counted because a NaN never settles.
    """

    def near(a: Array, b: Array) -> Array:
        if jnp.issubdtype(a.dtype, jnp.integer):
            return a == b
        close = _TOLERANCE * jnp.finfo(a.dtype).eps
        return (a == b) | (jnp.abs(a - b) <= close * jnp.abs(b))

    def unsettled(state) -> Array:
        guess, handed, _, rounds = state
        settled = jnp.array(True)
        for a, b in zip(jax.tree.leaves(guess), jax.tree.leaves(handed), strict=True):
            settled &= jnp.all(near(a, b))
        return ~settled & (rounds < count)

    def again(state):
        _, handed, _, rounds = state
        ends, outputs = run(handed, inputs)
        return handed, hand_on(ends), outputs, rounds + 1

    guess, _ = run(flat, jax.tree.map(lambda x: x[-WARM_UP:], inputs))
    guess = hand_on(guess)
    ends, outputs = run(guess, inputs)
    return lax.while_loop(unsettled, again, (guess, hand_on(ends), outputs, 1))[2]
