"""The passes over a chain with shared transitions by matmuls of probabilities, each result with the
proof that underflow did not touch it.

With E = exp(transitions - largest) and x_t = exp(emissions_t - largest), both at most 1,

    forward   s_t = p_{t-1} E          p_t = x_t s_t / sum(p_{t-1})        log n_t = log sum(p_t)
    backward  b_t = q_{t+1} E^T        q_t = x_t b_t / sum(q_{t+1})

A row of ones under E^T makes the sum part of the same product, so that a step is one matmul and one
fused elementwise kernel, and both directions run side by side as one batched matmul: on CPUs a few
microseconds a step where logsumexp over every pair of states takes tens.

What underflow may do. Every number lost, in E, x, p, q or a product, is below `tiny`, the smallest
normal float, and a sum over states loses at most about 3 C of them.

Forward, if no s_t[j] lies below 64 C tiny / eps (float32: C x 6e-30), each is right to a 20th of
eps, and so, by induction over t, is every message. A p_t[j] that is itself lost is no harm: all
sums of the next step are large without it. Emissions may thus differ by any amount; what trips the
test is transitions that differ by more than about exp(34), or a state that the future might need
and the past all but excludes.

Backward, paths that are first lost at step t weigh at most 3 C tiny beside Z_t = sum(p_t b_t),
with p_t of sum 1 and exact, and b_t in the scale of its sums. If no Z_t lies below the same
threshold, each step loses at most a 20th of eps of all paths, and no marginal can lose more.

Sums that are zero for another reason, hard zeros, must not trip it: a small s_t[j] counts where j
follows, by finite transitions, a state that is possible at t - 1, i.e. has s_{t-1} > 0 and finite
emissions. Up to the first harm done this is true reachability, so the first harm is always seen,
and the test is one matmul for all steps together, made only where small sums were found. Where harm
was done the caller runs the pass again in log space, which is exact.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax.numpy as jnp
from jax import lax

from jaxseq.ops import chain_blocks
from jaxseq.ops.chain_log_space import Posteriors
from jaxseq.ops.chain_potentials import Potentials, finite_or_zero, time_sum
from jaxseq.typing import Array, Bool, Float

EXACT = lax.Precision.HIGHEST
T = TypeVar("T")


class _Factors(NamedTuple):
    """Exponentials of the potentials, each at most 1, and the logarithms that were taken out.

    Sequences are the last axis in this file: what is summed over states is then summed over rows
    of sequences, which vectorises.
    """

    emissions: Float[Array, "T C B"]
    transitions: Float[Array, "C C"]
    largest_emission: Float[Array, "T B"]
    largest_transition: Float[Array, ""]


def _exponentiate(potentials: Potentials) -> _Factors:
    emissions = jnp.swapaxes(potentials.emissions, 1, 2)
    emission = finite_or_zero(jnp.max(emissions, axis=1))
    transition = finite_or_zero(jnp.max(potentials.transitions))
    return _Factors(
        jnp.exp(emissions - emission[:, None]),
        jnp.exp(potentials.transitions - transition),
        emission,
        transition,
    )


def _sweep(
    first: Float[Array, "G C B"],
    weights: tuple[Array, ...],
    emissions: Float[Array, "steps G C B"],
    restarts: Bool[Array, "steps G 1 B"] | None,
    *,
    blocks: bool,
) -> Float[Array, "steps G C+1 B"]:
    """The sums s of G directions side by side, and as row C + 1 the sum of the message before.

    Where `restarts` is True the message is what the emissions say alone. With `blocks`, few long
    sequences are cut into blocks that run side by side.
    """
    steps, _, states, batch = emissions.shape
    if not blocks or chain_blocks.num_blocks(steps, batch, states) == 1:
        return _scan(first, weights, emissions, restarts)
    return chain_blocks.sweep(_scan, first, weights, emissions, restarts)


def _scan(
    first: Array, weights: tuple[Array, ...], emissions: Array, restarts: Array | None
) -> Array:
    rows = jnp.stack([each.T for each in weights])
    products = jnp.concatenate([rows, jnp.ones_like(rows[:, :1])], axis=1)

    def step(message, inputs):
        likelihoods, restart = inputs
        sums = jnp.einsum("gij,gjb->gib", products, message, precision=EXACT)
        predicted = sums[:, :-1] / _positive(sums[:, -1:])
        if restart is not None:
            predicted = jnp.where(restart, 1, predicted)
        return likelihoods * predicted, sums

    return lax.scan(step, first, (emissions, restarts))[1]


class _Forward(NamedTuple):
    sums: Float[Array, "T C B"]  # s_t; 1 at the first step
    before: Float[Array, "T B"]  # n_{t-1}; 1 at the first step
    totals: Float[Array, "T B"]  # n_t


def _read_forward(factors: _Factors, swept: Float[Array, "_ _ B"]) -> _Forward:
    first = jnp.ones_like(factors.emissions[:1])
    sums = jnp.concatenate([first, swept[:, :-1]])
    before = jnp.concatenate([first[:, 0], swept[:, -1]])
    last = factors.emissions[-1] * sums[-1] / _positive(before[-1:])
    totals = jnp.concatenate([swept[:, -1], jnp.sum(last, axis=0)[None]])
    return _Forward(sums, before, totals)


def _normalizers(factors: _Factors, totals: Float[Array, "T B"]) -> Float[Array, "T B"]:
    """log n_t with what was taken out of the exponentials; -inf where nothing is possible."""
    follows = jnp.arange(len(totals))[:, None] > 0
    moved = jnp.where(follows, factors.largest_transition, 0)
    return jnp.log(totals) + (factors.largest_emission + moved)


def forward(
    potentials: Potentials, *, blocks: bool = False
) -> tuple[tuple[Float[Array, "T B C"], Float[Array, "T B"]], "Doubt"]:
    """`chain_log_space.forward`, and the doubt whether underflow harmed it."""
    factors = _exponentiate(potentials)
    x = factors.emissions
    swept = _sweep(x[:1], (factors.transitions,), x[1:, None], None, blocks=blocks)
    found = _read_forward(factors, swept[:, 0])
    # The large terms first, which cancel exactly, so that the small ones keep their digits.
    scale = jnp.log(_positive(found.before)) + jnp.log(_positive(found.totals))
    alpha = jnp.swapaxes(potentials.emissions, 1, 2) - factors.largest_emission[:, None]
    alpha += jnp.log(found.sums) - scale[:, None]
    found_messages = jnp.swapaxes(alpha, 1, 2), _normalizers(factors, found.totals)
    return found_messages, _doubt(potentials, found)


def forward_backward(potentials: Potentials, *, blocks: bool = False) -> tuple[Posteriors, "Doubt"]:
    """log Z, marginals and expected transitions, and the doubt whether underflow harmed them."""
    factors = _exponentiate(potentials)
    x, weights, valid = factors.emissions, factors.transitions, potentials.valid
    # The backward direction meets the steps from the last one on, and restarts in the padding.
    ends = ~valid[:0:-1]
    restarts = jnp.stack([jnp.zeros_like(ends), ends], axis=1)[:, :, None]
    swept = _sweep(
        jnp.stack([x[0], x[-1]]),
        (weights, weights.T),
        jnp.stack([x[1:], x[-2::-1]], axis=1),
        restarts,
        blocks=blocks,
    )
    found = _read_forward(factors, swept[:, 0])
    after = swept[::-1, 1]  # b_t and sum(q_{t+1})
    log_partition = time_sum(jnp.where(valid, _normalizers(factors, found.totals), 0))
    # p_t and q_t with sum 1, then Z_t and the marginals as shares of it.
    p = x * (found.sums / _positive(found.before)[:, None]) / _positive(found.totals)[:, None]
    b = jnp.where(valid[1:, None], after[:, :-1] / _positive(after[:, -1:]), 1)
    b = jnp.concatenate([b, jnp.ones_like(x[:1])])
    q = x[1:] * b[1:] / _positive(after[:, -1:])
    joint = p * b
    z = jnp.sum(joint, axis=1)
    counts = valid & (log_partition > -jnp.inf)[None]
    share = jnp.where(counts, 1 / _positive(z), 0)
    nodes = joint * share[:, None]
    q *= jnp.where(counts[1:], share[:-1], 0)[:, None]
    edges = weights[None] * jnp.einsum("tib,tjb->bij", p[:-1], q, precision=EXACT)
    lost = jnp.any(counts[1:] & (z[:-1] * after[:, -1] < _threshold(potentials)))
    raised, holds = _doubt(potentials, found)
    doubt = Doubt(raised | lost, lambda: lost | holds())
    return Posteriors(log_partition, jnp.swapaxes(nodes, 1, 2), edges), doubt


def _positive(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x >= 0 as a divisor: where it is 0, so is what it divides."""
    return jnp.maximum(x, jnp.finfo(x.dtype).tiny)


# --- The proof that nothing was lost --------------------------------------------------------------


class Doubt(NamedTuple):
    """Whether a result was harmed: a cheap test that hard zeros fail too, and the full one."""

    raised: Bool[Array, ""]
    holds: Callable[[], Bool[Array, ""]]

    def settle(self, found: T, exact: Callable[[], T]) -> T:
        """What was found, or where it was harmed what `exact` gives instead."""

        def look() -> T:
            return lax.cond(self.holds(), exact, lambda: found)

        return lax.cond(self.raised, look, lambda: found)


def _threshold(potentials: Potentials) -> float:
    info = jnp.finfo(potentials.emissions.dtype)
    return 64 * potentials.emissions.shape[-1] * float(info.tiny) / float(info.eps)


def _doubt(potentials: Potentials, found: _Forward) -> Doubt:
    """Whether a sum s_t[j], or a total, of the forward pass is too small and not a hard zero."""
    threshold, valid = _threshold(potentials), potentials.valid
    least = jnp.minimum(jnp.min(found.sums, axis=1), found.totals)
    raised = jnp.min(jnp.where(valid, least, 1)) < threshold

    def holds() -> Array:
        possible = (found.sums > 0) & (jnp.swapaxes(potentials.emissions, 1, 2) > -jnp.inf)
        few = (found.totals < threshold) & jnp.any(possible, axis=1)
        may = (potentials.transitions > -jnp.inf).astype(found.sums.dtype)
        before = possible[:-1].astype(may.dtype)
        reached = jnp.einsum("tib,ij->tjb", before, may, precision=EXACT) > 0
        small = jnp.any((found.sums[1:] < threshold) & reached, axis=1)
        return jnp.any(few & valid) | jnp.any(small & valid[1:])

    return Doubt(raised, holds)
