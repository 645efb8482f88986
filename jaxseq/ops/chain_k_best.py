"""The k best paths of a linear chain.

Forward, only the k largest scores of every state are kept, sorted; which path each belongs to is
found again going back, along k paths instead of C k. Scores are merged rather than sorted: the r-th
largest of two sorted lists a and b is the largest, over all ways to take s from a and r - s from b,
of the smaller of the last ones taken,

    merged[r] = max_{s=0..r} min(a[s], b[r - s])        (1-based; a[0] = b[0] = +inf)

which is elementwise, whereas a sort or top_k of C k candidates takes twenty times as long on CPUs.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jaxseq.ops.chain_potentials import (
    Chain,
    Potentials,
    finite_or_zero,
    of_step,
    prepare,
    steps_of,
)
from jaxseq.ops.chain_score import score
from jaxseq.typing import Array, Float, Int

_MERGED = 8  # up to this k: the merge takes k^2 operations


def k_best(chain: Chain, k: int) -> tuple[Int[Array, "B K T"], Float[Array, "B K"]]:
    """The k distinct paths of largest scores, best first, and their scores.

    -inf where a chain has fewer than k paths; the states there, though in range, mean nothing.
    Raises ValueError where k is less than 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    potentials = prepare(chain)
    values, sums = _best_scores(potentials, k)
    ends = _largest(values[-1].transpose(2, 0, 1), k)  # K B
    states = _trace(potentials, values, sums, ends)
    states = jnp.where(potentials.valid[:, :, None], states, 0).transpose(1, 2, 0)
    scores = jax.vmap(score, in_axes=(None, 1), out_axes=1)(chain, states)
    return states, jnp.where(-jnp.inf < ends.T, scores, -jnp.inf)


def _best_scores(
    potentials: Potentials, k: int
) -> tuple[Float[Array, "T K B C"], Float[Array, "steps K B C"]]:
    """The k best scores of paths that end in each state, up to a constant of each step, with the
    emission of that step and, from the second step on, without."""
    _, batch, size = potentials.emissions.shape

    def step(values, inputs):
        emissions, transitions, valid = inputs
        transitions = of_step(potentials, transitions)
        into = jnp.swapaxes(transitions, 0, 1)[:, None]  # C 1 B C
        candidates = values.transpose(2, 0, 1)[..., None] + into
        sums = _largest(candidates.reshape(size, k, batch * size), k).reshape(k, batch, size)
        after = sums + emissions[None]
        after -= finite_or_zero(jnp.max(after[0], axis=-1))[None, :, None]
        after = jnp.where(valid[None, :, None], after, values)
        return after, (after, sums)

    # The first step has one path to each state; where there is none at all, one in the first.
    first = jnp.full((k, batch, size), -jnp.inf, potentials.emissions.dtype)
    alone = potentials.valid[0][:, None] | (jnp.arange(size)[None] == 0)
    first = first.at[0].set(jnp.where(alone, potentials.emissions[0], -jnp.inf))
    inputs = (potentials.emissions[1:], steps_of(potentials), potentials.valid[1:])
    _, (values, sums) = lax.scan(step, first, inputs)
    return jnp.concatenate([first[None], values]), sums


def _largest(lists: Float[Array, "N K L"], k: int) -> Float[Array, "K L"]:
    """The k largest of N sorted lists of k, sorted."""
    if k > _MERGED:
        together = jnp.moveaxis(lists, 2, 0).reshape(lists.shape[2], -1)
        return lax.top_k(together, k)[0].T
    while len(lists) > 1:
        half = len(lists) // 2
        merged = _merge(lists[:half], lists[half : 2 * half])
        # The barrier keeps XLA from computing each level again for every use in the next.
        lists = lax.optimization_barrier(jnp.concatenate([merged, lists[2 * half :]]))
    return lists[0]


def _merge(a: Float[Array, "N K L"], b: Float[Array, "N K L"]) -> Float[Array, "N K L"]:
    merged = []
    for r in range(a.shape[1]):
        best = jnp.maximum(a[:, r], b[:, r])
        for s in range(r):
            best = jnp.maximum(best, jnp.minimum(a[:, s], b[:, r - 1 - s]))
        merged.append(best)
    return jnp.stack(merged, axis=1)


def _trace(
    potentials: Potentials,
    values: Float[Array, "T K B C"],
    sums: Float[Array, "steps K B C"],
    ends: Float[Array, "K B"],
) -> Int[Array, "T B K"]:
    """The states of the paths that end with the scores `ends`."""
    k, batch = ends.shape
    rows = jnp.arange(batch)[:, None]

    def step(place, inputs):  # place: the state (B K) and the rank there of each path
        state, rank = place
        before, sums, transitions, valid = inputs
        if transitions is None:
            into = potentials.transitions[:, state]
        else:
            into = jnp.moveaxis(transitions[rows, :, state], -1, 0)
        targets = sums[:, rows, state]  # K B K: all scores at the states that the paths are in
        found = _locate(before, into, targets, rank)
        place = tuple(
            jnp.where(valid[:, None], new, old) for new, old in zip(found, place, strict=True)
        )
        return place, state

    anywhere = jnp.zeros((values.shape[-1], batch, k), values.dtype)
    targets = jnp.broadcast_to(ends[:, :, None], (k, batch, k))
    ranks = jnp.broadcast_to(jnp.arange(k)[None], (batch, k))
    last = _locate(values[-1], anywhere, targets, ranks)
    inputs = (values[:-1], sums, steps_of(potentials), potentials.valid[1:])
    (first, _), states = lax.scan(step, last, inputs, reverse=True)
    return jnp.concatenate([first[None], states])


def _locate(
    before: Float[Array, "K B C"],
    into: Float[Array, "C B P"],
    targets: Float[Array, "K B P"],
    rank: Int[Array, "B P"],
) -> tuple[Int[Array, "B P"], Int[Array, "B P"]]:
    """State and rank of the path before that makes the score of rank `rank` among `targets`.

    The sums here are those of the forward pass, bit by bit, so the score is found by equality.
    Among equal ones, the n-th of rank goes with the n-th in the order of states and ranks: no two
    paths get the same.
    """
    k, _, size = before.shape
    sums = before.transpose(2, 0, 1)[..., None] + into[:, None]  # C K B P
    own = jnp.arange(k)[:, None, None] == rank[None]
    target = jnp.max(jnp.where(own, targets, -jnp.inf), axis=0)
    equal_before = (targets == target[None]) & (jnp.arange(k)[:, None, None] < rank[None])
    ties = jnp.sum(equal_before, axis=0)
    order = jnp.arange(size * k).reshape(size, k, 1, 1)
    order = jnp.where(sums == target[None, None], order, size * k)

    def following(found: Array) -> Array:
        return jnp.min(jnp.where(order > found[None, None], order, size * k), axis=(0, 1))

    def skip(state: tuple[Array, Array]) -> tuple[Array, Array]:
        found, ties = state
        return jnp.where(ties > 0, following(found), found), ties - 1

    found = jnp.min(order, axis=(0, 1))
    found, _ = lax.while_loop(lambda state: jnp.any(state[1] > 0), skip, (found, ties))
    found = jnp.minimum(found, size * k - 1)
    return found // k, found % k
