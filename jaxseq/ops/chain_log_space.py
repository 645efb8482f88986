"""The passes over a chain in log space: exact whatever the potentials, one step after the other or
as an associative scan.

Forward and backward messages are kept up to a constant of each step,

    alpha_t[j] = logsumexp_i(alpha_{t-1}[i] + transitions[i, j]) + emissions_t[j] - n_t
    beta_t[i]  = logsumexp_j(transitions[i, j] + emissions_{t+1}[j] + beta_{t+1}[j]) - constant

with n_t such that exp(alpha_t) sums to 1: nothing grows with time, so float32 is as precise at step
ten thousand as at step ten, and log Z is the sum of the n_t.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from jaxseq.ops.chain_potentials import (
    Potentials,
    finite_or_zero,
    log_sum_exp,
    of_all_steps,
    of_step,
    steps_of,
    time_sum,
)
from jaxseq.typing import Array, Float


class Posteriors(NamedTuple):
    """What one forward-backward pass knows of every sequence."""

    log_partition: Float[Array, "B"]
    nodes: Float[Array, "T B C"]  # p(y_t = j), 0 in the padding
    edges: Float[Array, "B C C"] | Float[Array, "T-1 B C C"]  # p(y_t = i, y_{t+1} = j)


def normalise(scores: Float[Array, "*B C"]) -> tuple[Float[Array, "*B C"], Float[Array, "*B"]]:
    """Scores less their log-sum-exp, and it; all -inf stays so."""
    normalizer = log_sum_exp(scores, axis=-1)
    return scores - finite_or_zero(normalizer)[..., None], normalizer


def forward(potentials: Potentials) -> tuple[Float[Array, "T B C"], Float[Array, "T B"]]:
    """alpha_t and n_t of every step; in the padding whatever comes out."""

    def step(alpha, inputs):
        emissions, transitions = inputs
        transitions = of_step(potentials, transitions)
        scores = log_sum_exp(alpha[:, :, None] + transitions, axis=1) + emissions
        alpha, normalizer = normalise(scores)
        return alpha, (alpha, normalizer)

    first, normalizer = normalise(potentials.emissions[0])
    inputs = (potentials.emissions[1:], steps_of(potentials))
    _, (alpha, normalizers) = lax.scan(step, first, inputs)
    return _put_first(first, alpha), _put_first(normalizer, normalizers)


def backward(potentials: Potentials) -> Float[Array, "T B C"]:
    """beta_t of every step: 0 at the last valid one and in the padding."""

    def step(beta, inputs):
        emissions, transitions, ends = inputs
        transitions = of_step(potentials, transitions)
        beta = log_sum_exp(transitions + (emissions + beta)[:, None, :], axis=2)
        beta -= finite_or_zero(jnp.max(beta, axis=1, keepdims=True))
        beta = jnp.where(ends[:, None], 0, beta)
        return beta, beta

    last = jnp.zeros_like(potentials.emissions[0])
    inputs = (potentials.emissions[1:], steps_of(potentials), ~potentials.valid[1:])
    _, beta = lax.scan(step, last, inputs, reverse=True)
    return jnp.concatenate([beta, last[None]])


def posteriors(
    potentials: Potentials,
    alpha: Float[Array, "T B C"],
    normalizers: Float[Array, "T B"],
    beta: Float[Array, "T B C"],
) -> Posteriors:
    """Marginals from the messages.

        p(y_t = j)                ~ exp(alpha_t[j] + beta_t[j])
        p(y_t = i, y_{t+1} = j)   ~ exp(alpha_t[i] + transitions[i, j]
                                        + emissions_{t+1}[j] + beta_{t+1}[j])

    The second's normaliser is n_{t+1} plus the first's at t + 1. Shared transitions have their
    edges summed over time, step by step, so that no array holds B x T x C x C.
    """
    log_nodes, weights = normalise(alpha + beta)
    log_partition = time_sum(jnp.where(potentials.valid, normalizers, 0))
    counts = potentials.valid & (log_partition > -jnp.inf)[None]
    nodes = jnp.where(counts[..., None], jnp.exp(log_nodes), 0)
    after = finite_or_zero(normalizers + weights)[1:, :, None]
    after = potentials.emissions[1:] + beta[1:] - after
    shared = potentials.transitions.ndim == 2

    def step(total, inputs):
        before, transitions, after, counts = inputs
        transitions = of_step(potentials, transitions)
        edges = jnp.exp(before[:, :, None] + transitions + after[:, None, :])
        edges = jnp.where(counts[:, None, None], edges, 0)
        return (total + edges, None) if shared else (total, edges)

    states = alpha.shape[-1]
    shape = (alpha.shape[1], states, states) if shared else ()
    inputs = (alpha[:-1], steps_of(potentials), after, counts[1:])
    total, edges = lax.scan(step, jnp.zeros(shape, alpha.dtype), inputs)
    return Posteriors(log_partition, nodes, total if shared else edges)


def _put_first(first: Array, others: Array) -> Array:
    return jnp.concatenate([first[None], others])


# --- As an associative scan -----------------------------------------------------------------------


def associative_forward(
    potentials: Potentials,
) -> tuple[Float[Array, "T B C"], Float[Array, "T B"]]:
    """alpha_t and n_t of every step by one associative scan."""
    into = _matrices(potentials)
    alpha, _ = normalise(_prefixes(potentials, into, log_sum_exp))
    # From neighbours alone, since the difference of two sums over all steps would lose digits.
    steps = log_sum_exp(log_sum_exp(alpha[:-1, :, :, None] + into, axis=-2), axis=-1)
    return alpha, _put_first(log_sum_exp(potentials.emissions[0], axis=-1), steps)


def associative_backward(potentials: Potentials) -> Float[Array, "T B C"]:
    """beta_t of every step by one associative scan."""
    into = _matrices(potentials)
    states = into.shape[-1]
    unit = jnp.where(jnp.eye(states, dtype=bool), 0.0, -jnp.inf).astype(into.dtype)
    into = jnp.where(potentials.valid[1:, :, None, None], into, unit[None, None])
    beta = log_sum_exp(_products(into, reverse=True), axis=-1)
    beta -= finite_or_zero(jnp.max(beta, axis=-1, keepdims=True))
    return jnp.concatenate([beta, jnp.zeros_like(potentials.emissions[:1])])


def associative_best(potentials: Potentials) -> Float[Array, "T B C"]:
    """The best score of a path that ends in each state, up to a constant of each step."""
    return _prefixes(potentials, _matrices(potentials), jnp.max)


def _prefixes(potentials: Potentials, into: Array, total: Callable[..., Array]) -> Array:
    """The forward messages: rows of products that begin with a matrix of equal rows."""
    first = jnp.broadcast_to(potentials.emissions[:1, :, None, :], (1, *into.shape[1:]))
    matrices = jnp.concatenate([first, into])
    return _products(matrices, reverse=False, total=total)[:, :, 0]


def _matrices(potentials: Potentials) -> Float[Array, "steps B C C"]:
    """Transitions and emissions into every step but the first."""
    return of_all_steps(potentials) + potentials.emissions[1:, :, None, :]


def _products(
    steps: Float[Array, "T B C C"], *, reverse: bool, total: Callable[..., Array] = log_sum_exp
) -> Float[Array, "T B C C"]:
    """Every prefix (or suffix) product of matrices in the log semiring, up to a constant each.

    With the max for `total`, in the semiring of best paths.

    Särkkä and García-Fernández 2021, arXiv:2102.05743.
    """

    def combine(a, b):
        a, b = (b, a) if reverse else (a, b)
        product = total(a[..., :, :, None] + b[..., None, :, :], axis=-2)
        return product - finite_or_zero(jnp.max(product, axis=(-2, -1), keepdims=True))

    return lax.associative_scan(combine, steps, reverse=reverse)
