"""Single paths of a linear chain: the best, the k best, and samples."""

import jax
import jax.numpy as jnp
from jax import lax

from jaxseq.ops import chain_blocks
from jaxseq.ops.chain import by_method, forward_messages, score
from jaxseq.ops.chain_k_best import k_best
from jaxseq.ops.chain_log_space import associative_best
from jaxseq.ops.chain_potentials import (
    Chain,
    Method,
    Potentials,
    finite_or_zero,
    of_all_steps,
    of_step,
    prepare,
    steps_of,
)
from jaxseq.typing import Array, Float, Int, Key

__all__ = ["k_best", "sample", "viterbi"]


def viterbi(
    chain: Chain, *, method: Method = "auto"
) -> tuple[Int[Array, "B T"], Float[Array, "B"]]:
    """The path of largest score, and its score; ties go to the lower state, from the end backward.

    States are 0 in the padding. Where no path is possible the score is -inf and the states, though
    in range, mean nothing.
    """
    potentials = prepare(chain)
    time, batch, size = potentials.emissions.shape
    blocks = method == "auto" and potentials.transitions.ndim == 2
    blocks = blocks and chain_blocks.num_blocks(time - 1, batch, size) > 1

    def scan() -> Array:
        if blocks:
            return chain_blocks.trace(potentials, chain_blocks.best_scores(potentials))
        return _trace(potentials, _best_scores(potentials))

    def associative() -> Array:
        return _associative_trace(potentials, associative_best(potentials))

    states = by_method(potentials, method, scan, associative)
    best = chain_blocks.score(potentials, states) if blocks else score(chain, states.T)
    return states.T, best


def _best_scores(potentials: Potentials) -> Float[Array, "T B C"]:
    """The best score of a path that ends in each state, up to a constant of each step.

    Only the maxima are kept: the argmax is found again along the one best path, which costs a
    C-th of finding it for every state, and argmax is slow on CPUs.
    """

    def step(best, inputs):
        emissions, transitions = inputs
        transitions = of_step(potentials, transitions)
        best = jnp.max(best[:, :, None] + transitions, axis=1) + emissions
        best -= finite_or_zero(jnp.max(best, axis=1, keepdims=True))
        return best, best

    first = potentials.emissions[0]
    _, best = lax.scan(step, first, (potentials.emissions[1:], steps_of(potentials)))
    return jnp.concatenate([first[None], best])


def _trace(potentials: Potentials, best: Float[Array, "T B C"]) -> Int[Array, "T B"]:
    steps = _steps_out(potentials)

    def step(state, inputs):
        best, transitions, valid, last = inputs
        if transitions is None:
            into = potentials.transitions.T[state]
        else:
            into = jnp.take_along_axis(transitions, state[:, None, None], axis=2)[..., 0]
        scores = jnp.where(last[:, None], best, best + into)
        state = jnp.argmax(scores, axis=1).astype(state.dtype)
        return jnp.where(valid, state, 0), state

    state = jnp.zeros(best.shape[1], jnp.int32)
    _, states = lax.scan(
        step, state, (best, steps, potentials.valid, potentials.last), reverse=True
    )
    return jnp.where(potentials.valid, states, 0)


def _associative_trace(potentials: Potentials, best: Float[Array, "T B C"]) -> Int[Array, "T B"]:
    """The composition, from each step on, of the maps from a state to the best one before it."""
    steps = _steps_out(potentials)
    transitions = of_all_steps(potentials) if steps is None else steps
    scores = jnp.where(potentials.last[..., None, None], 0, transitions) + best[..., None]
    before = jnp.argmax(scores, axis=-2).astype(jnp.int32)

    def compose(later, earlier):
        return jnp.take_along_axis(earlier, later, axis=-1)

    states = lax.associative_scan(compose, before, reverse=True)[..., 0]
    return jnp.where(potentials.valid, states, 0)


def _steps_out(potentials: Potentials) -> Array | None:
    """The transitions out of every step, zeros out of the last; None where shared."""
    steps = steps_of(potentials)
    return None if steps is None else jnp.pad(steps, [(0, 1), (0, 0), (0, 0), (0, 0)])


def sample(key: Key[Array, ""], chain: Chain, num_samples: int) -> Int[Array, "M B T"]:
    """Independent paths y ~ exp(score(y)) / Z; 0 in the padding.

    Forward filtering, backward sampling. Impossible sequences give states in range.
    """
    potentials = prepare(chain)
    alpha, _ = forward_messages(potentials, "scan")
    steps = _steps_out(potentials)
    time, batch, _ = potentials.emissions.shape

    def step(state, inputs):  # state: M B
        alpha, transitions, last, valid, t = inputs
        if transitions is None:
            into = potentials.transitions.T[state]
        else:
            into = jnp.swapaxes(transitions, 1, 2)[jnp.arange(batch)[None], state]
        logits = alpha[None] + jnp.where(last[None, :, None], 0, into)
        noise = jax.random.gumbel(jax.random.fold_in(key, t), logits.shape, logits.dtype)
        state = jnp.where(valid[None], jnp.argmax(logits + noise, axis=-1), 0)
        return state, state

    start = jnp.zeros((num_samples, batch), jnp.argmax(alpha[0], axis=-1).dtype)
    inputs = (alpha, steps, potentials.last, potentials.valid, jnp.arange(time))
    _, states = lax.scan(step, start, inputs, reverse=True)
    return states.transpose(1, 2, 0)
