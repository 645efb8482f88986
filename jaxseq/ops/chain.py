"""Sums over all paths of a linear chain: the engine under hidden Markov models and CRFs.

log Z, filtered messages, marginals, expected counts and entropy of a `Chain`; single paths (best, k
best, samples) are in `ops.chain_paths`.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from jaxseq.ops import chain_exp_space as exp_space
from jaxseq.ops import chain_log_space as log_space
from jaxseq.ops.chain_log_space import Posteriors
from jaxseq.ops.chain_potentials import (
    Chain,
    Method,
    Potentials,
    finite_or_zero,
    like,
    log_sum_exp,
    of_all_steps,
    of_step,
    prepare,
    steps_of,
    time_sum,
)
from jaxseq.ops.chain_score import score
from jaxseq.typing import Array, Float

T = TypeVar("T")

__all__ = [
    "Chain",
    "Method",
    "edge_marginals",
    "entropy",
    "expected_counts",
    "filtered",
    "log_partition",
    "node_marginals",
    "score",
]


def log_partition(chain: Chain, *, method: Method = "auto") -> Float[Array, "B"]:
    """log Z = logsumexp over all paths y of score(y), in nats, in float32 or wider.

    -inf where no path is possible, 0 where the length is 0. Its gradient is the marginals, found
    by one explicit forward-backward pass (0 for impossible sequences, never NaN). It cannot be
    differentiated twice: `entropy` can where a gradient of marginals is wanted.
    """
    return _log_partition(chain, method)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _log_partition(chain: Chain, method: Method) -> Array:
    return forward_only(prepare(chain), method)


def _log_partition_forward(chain: Chain, method: Method) -> tuple[Array, tuple]:
    potentials = prepare(chain)
    found = forward_backward(potentials, method)
    return found.log_partition, (chain, potentials.valid, found)


def _log_partition_backward(method: Method, saved: tuple, cotangent: Array) -> tuple[Chain]:
    chain, valid, found = saved
    return (_counts(chain, valid, found, cotangent)._replace(lengths=None),)


_log_partition.defvjp(_log_partition_forward, _log_partition_backward)


def expected_counts(chain: Chain, *, method: Method = "auto") -> tuple[Float[Array, "B"], Chain]:
    """log Z and its gradient with respect to every potential: what EM counts.

    The second is a Chain of expectations in the shapes of the potentials: node marginals for the
    emissions, expected transitions (summed over batch and time where shared), and how often each
    state comes first and last. `lengths` are passed through.
    """
    potentials = prepare(chain)
    found = forward_backward(potentials, method)
    ones = jnp.ones_like(found.log_partition)
    return found.log_partition, _counts(chain, potentials.valid, found, ones)


def node_marginals(chain: Chain, *, method: Method = "auto") -> Float[Array, "B T C"]:
    """p(y_t = j) given all emissions; 0 in the padding and where no path is possible."""
    nodes = forward_backward(prepare(chain), method, lambda found: found.nodes)
    return jnp.swapaxes(nodes, 0, 1)


def edge_marginals(chain: Chain, *, method: Method = "auto") -> Float[Array, "B steps C C"]:
    """p(y_t = i, y_{t+1} = j) of T - 1 steps; 0 in the padding and where no path is possible."""
    batch, time, states = chain.emissions.shape
    if chain.transitions.ndim == 2 and time:
        steps = (batch, time - 1, states, states)
        chain = chain._replace(transitions=jnp.broadcast_to(chain.transitions[None, None], steps))
    edges = forward_backward(prepare(chain), method, lambda found: found.edges)
    return jnp.swapaxes(edges, 0, 1)


def filtered(
    chain: Chain, *, method: Method = "auto"
) -> tuple[Float[Array, "B T C"], Float[Array, "B T"]]:
    """log p(y_t = j | emissions up to t), and the log normaliser of each step.

    `final` plays no part, so the normalisers of a sequence sum to its log Z where there is none.
    Both are 0 in the padding and -inf from the step on where no path is possible.
    """
    potentials = prepare(chain._replace(final=None))
    alpha, normalizers = forward_messages(potentials, method)
    alpha = jnp.where(potentials.valid[..., None], alpha, 0)
    normalizers = jnp.where(potentials.valid, normalizers, 0)
    return jnp.swapaxes(alpha, 0, 1), normalizers.T


def _counts(chain: Chain, valid: Array, found: Posteriors, weights: Float[Array, "B"]) -> Chain:
    """Marginals, each sequence's times its weight, in the shapes and dtypes of the potentials."""
    nodes = found.nodes * weights[None, :, None]
    if chain.transitions.ndim == 2:
        edges = jnp.einsum("b,bij->ij", weights, found.edges, precision=lax.Precision.HIGHEST)
    else:
        edges = jnp.swapaxes(found.edges * weights[None, :, None, None], 0, 1)
    last = jnp.maximum(jnp.sum(valid, axis=0) - 1, 0)  # nodes are 0 there where the length is 0
    ends = nodes[last, jnp.arange(nodes.shape[1])]
    return Chain(
        jnp.swapaxes(nodes, 0, 1).astype(chain.emissions.dtype),
        edges.astype(chain.transitions.dtype),
        None if chain.initial is None else like(nodes[0], chain.initial),
        None if chain.final is None else like(ends, chain.final),
        chain.lengths,
    )


# --- The form of the passes -----------------------------------------------------------------------


def by_method(
    potentials: Potentials, method: Method, scan: Callable[[], T], associative: Callable[[], T]
) -> T:
    """The result of one of two ways to the same.

    A scan takes T steps after one another, an associative scan about 2 log T with C times the
    arithmetic and C times the memory. CPUs have nothing to gain from the second: "auto" scans
    there. On accelerators, where a step is a kernel launch and arithmetic is idle, "auto" takes
    the second for few states and many steps. The border (16 states, 256 steps) is reckoned from
    that, not measured.
    """
    if method == "scan":
        return scan()
    if method == "associative":
        return associative()
    time, _, states = potentials.emissions.shape
    if states > 16 or time < 256:
        return scan()
    return lax.platform_dependent(cpu=scan, default=associative)


def forward_only(potentials: Potentials, method: Method) -> Float[Array, "B"]:
    """log Z alone."""
    _, normalizers = forward_messages(potentials, method)
    return time_sum(jnp.where(potentials.valid, normalizers, 0))


def forward_messages(
    potentials: Potentials, method: Method
) -> tuple[Float[Array, "T B C"], Float[Array, "T B"]]:
    """Normalised forward messages and their log normalisers (`chain_log_space.forward`)."""

    def scan() -> tuple[Array, Array]:
        if potentials.transitions.ndim == 4:  # as many exponentials as in log space, and exact
            return log_space.forward(potentials)
        found, doubt = exp_space.forward(potentials, blocks=method == "auto")
        return doubt.settle(found, partial(log_space.forward, potentials))

    associative = partial(log_space.associative_forward, potentials)
    return by_method(potentials, method, scan, associative)


def forward_backward(
    potentials: Potentials, method: Method, wanted: Callable[[Posteriors], T] = lambda found: found
) -> T:
    """What is `wanted` of log Z, node and edge marginals; nothing else is computed."""

    def in_log_space() -> T:
        alpha, normalizers = log_space.forward(potentials)
        beta = log_space.backward(potentials)
        return wanted(log_space.posteriors(potentials, alpha, normalizers, beta))

    def scan() -> T:
        if potentials.transitions.ndim == 4:
            return in_log_space()
        found, doubt = exp_space.forward_backward(potentials, blocks=method == "auto")
        # Chosen from before the branches meet: what a branch returns is computed, used or not.
        return doubt.settle(wanted(found), in_log_space)

    def associative() -> T:
        alpha, normalizers = log_space.associative_forward(potentials)
        beta = log_space.associative_backward(potentials)
        return wanted(log_space.posteriors(potentials, alpha, normalizers, beta))

    return by_method(potentials, method, scan, associative)


# --- Entropy --------------------------------------------------------------------------------------


def entropy(chain: Chain, *, method: Method = "auto") -> Float[Array, "B"]:
    """H = -sum_y p(y) log p(y) in nats; 0 where there is one path or none. Differentiable.

    Built from local choices (Hernando, Crespi and Cybenko 2005), which keeps digits that log Z
    less the expected score, two large numbers, would lose. With the probabilities c_t[i, j] of
    y_{t-1} = i given y_t = j and the emissions before, as an associative scan

        H = H(y_T) + sum_t sum_j p(y_t = j) h_t[j],      h_t[j] = -sum_i c_t[i, j] log c_t[i, j]

    and otherwise forward alone: H_t[j] = h_t[j] + sum_i c_t[i, j] H_{t-1}[i].
    """
    potentials = prepare(chain)
    if method == "associative":
        return _entropy_of_marginals(potentials)

    @jax.checkpoint  # a gradient keeps (alpha, H) of each step and no C x C array
    def step(carry, inputs):
        alpha, before = carry
        emissions, transitions, valid = inputs
        transitions = of_step(potentials, transitions)
        predicted, choice = _choices(alpha, transitions)
        after = jnp.sum(jnp.exp(choice) * (before[:, :, None] - finite_or_zero(choice)), axis=1)
        following, _ = log_space.normalise(predicted + emissions)
        keep = valid[:, None]
        return (jnp.where(keep, following, alpha), jnp.where(keep, after, before)), None

    alpha, _ = log_space.normalise(potentials.emissions[0])
    inputs = potentials.emissions[1:], steps_of(potentials), potentials.valid[1:]
    (alpha, before), _ = lax.scan(step, (alpha, jnp.zeros_like(alpha)), inputs)
    total = jnp.sum(jnp.exp(alpha) * (before - finite_or_zero(alpha)), axis=1)
    return jnp.where(potentials.valid[0], total, 0)


def _entropy_of_marginals(potentials: Potentials) -> Array:
    alpha, _ = log_space.associative_forward(potentials)
    nodes, _ = log_space.normalise(alpha + log_space.associative_backward(potentials))
    _, choice = _choices(alpha[:-1], of_all_steps(potentials))
    local = -jnp.sum(jnp.exp(choice) * finite_or_zero(choice), axis=-2)
    into = jnp.where(potentials.valid[1:], jnp.sum(jnp.exp(nodes[1:]) * local, axis=-1), 0)
    ends = -jnp.sum(jnp.exp(nodes) * finite_or_zero(nodes), axis=-1)
    return time_sum(jnp.where(potentials.last, ends, 0)) + jnp.sum(into, axis=0)


def _choices(alpha: Array, transitions: Array) -> tuple[Array, Array]:
    """logsumexp_i(alpha[i] + transitions[i, j]), and the log-probability of each i given j."""
    scores = alpha[..., :, None] + transitions
    predicted = log_sum_exp(scores, axis=-2)
    return predicted, _difference(scores, predicted[..., None, :])


def _difference(a: Array, b: Array) -> Array:
    """a - b, and -inf, without a NaN in value or gradient, where a is -inf."""
    possible = a > -jnp.inf
    return jnp.where(possible, jnp.where(possible, a, 0) - finite_or_zero(b), -jnp.inf)
