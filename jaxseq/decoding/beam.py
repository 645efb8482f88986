"""Beam search and greedy search over any model that writes one token at a time.

A hypothesis is finished when it has written `end_token` or `max_length` tokens. Its score is

    log p(y) / lp(n),    lp(n) = ((5 + n) / 6)^length_penalty     (Wu et al. 2016, arXiv:1609.08144)

with n the tokens written, the end token included; 0 ranks by log-probability alone, which favours
short ones, and 0.6 to 1 is usual.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxseq.ops.precision import accumulator
from jaxseq.typing import Array, Bool, Float, Int, PyTree

Step = Callable[[Array, PyTree], tuple[Array, PyTree]]
Reorder = Callable[[PyTree, Array], PyTree]


def take_rows(carry: PyTree, rows: Int[Array, "J"]) -> PyTree:
    """Row rows[j] of every leaf, for each j."""
    return jax.tree.map(lambda leaf: jnp.take(leaf, rows, axis=0, mode="clip"), carry)


class _Beam(NamedTuple):
    """K unfinished hypotheses of each row and the K best finished ones, both best first."""

    at: Int[Array, ""]
    tokens: Int[Array, "B K L"]
    log_probs: Float[Array, "B K"]
    last: Int[Array, "BK"]
    carry: PyTree
    finished_tokens: Int[Array, "B K L"]
    finished_lengths: Int[Array, "B K"]
    finished_scores: Float[Array, "B K"]


def beam_search(
    step: Step,
    carry: PyTree,
    *,
    batch_size: int,
    beam_size: int,
    max_length: int,
    start_token: int | Int[Array, "B"],
    end_token: int,
    length_penalty: float = 0.0,
    early_stopping: bool = False,
    reorder: Reorder = take_rows,
) -> tuple[Int[Array, "B K L"], Int[Array, "B K"], Float[Array, "B K"]]:
    """The K best finished hypotheses that a beam of K finds: (tokens, lengths, scores), best first.

        beam = [start]
        repeat: the K likeliest of all one-token continuations of the beam;
                those that end leave it for the finished ones, the next likeliest that do not take
                their places

    `step(tokens (B*K,), carry)` gives the log-probabilities (B*K, V), V at least 2, of the next
    token and the new carry, whose leaves have leading axis B*K: hypothesis k of row b is number
    b K + k. `carry` is that of the start, each row's repeated K times (`repeat_rows`). The carry
    of the hypotheses that go on is `reorder(carry, rows)`: hypothesis j goes on from `rows[j]`.

    `lengths` counts tokens before the end token; behind them stands `end_token`. Where fewer than
    K hypotheses exist, the rest have score -infinity and length 0. A row's search ends when no
    unfinished hypothesis can come to be among its K best finished ones, whatever follows: its log-
    probability, which only falls, over lp(max_length) is not above the worst of them. Then the
    loop of the whole batch ends with the last row, and no row depends on the others. With
    `early_stopping` a row's search ends as soon as K hypotheses are finished, good or not.

    With K = 1 and no length penalty this is `greedy_search`; with K at least the number of all
    hypotheses it is exhaustive. Call it under `jit`. Raises ValueError naming the argument that is
    out of range.
    """
    _check(batch_size, beam_size, max_length, length_penalty)
    shape = (batch_size, beam_size)

    def penalty(length: Array) -> Array:
        return _length_penalty(length, length_penalty, dtype)

    def stopped(beam: _Beam) -> Bool[Array, "B 1"]:
        return early_stopping & (beam.finished_scores[:, -1:] > -jnp.inf)

    def unfinished(beam: _Beam) -> Bool[Array, ""]:
        bound = beam.log_probs[:, 0] / penalty(jnp.asarray(max_length))
        can_win = (bound > beam.finished_scores[:, -1]) & ~stopped(beam)[:, 0]
        return (beam.at < max_length) & jnp.any(can_win)

    def write(beam: _Beam) -> _Beam:
        log_probs, carry = step(beam.last, beam.carry)
        vocab_size = log_probs.shape[-1]
        totals = beam.log_probs[:, :, None] + log_probs.astype(dtype).reshape(*shape, vocab_size)
        # Of the 2 K best at most K end, so that K remain to go on.
        totals, best = lax.top_k(totals.reshape(batch_size, -1), 2 * beam_size)
        parents, written = best // vocab_size, (best % vocab_size).astype(jnp.int32)
        ends = written == end_token
        tokens = _choose(beam.tokens, parents)

        # The ends among the K likeliest; `tokens` is full of end tokens from here on.
        at_end = ends[:, :beam_size] & ~stopped(beam)
        scores = jnp.where(at_end, totals[:, :beam_size] / penalty(beam.at + 1), -jnp.inf)
        finished = _best_finished(
            (beam.finished_tokens, beam.finished_lengths, beam.finished_scores),
            (tokens[:, :beam_size], jnp.full(shape, beam.at), scores),
        )

        # The first K that go on: their order is kept because top_k is stable.
        _, alive = lax.top_k(jnp.where(ends, 0, 1), beam_size)
        parents, written = _choose(parents, alive), _choose(written, alive)
        tokens = lax.dynamic_update_slice(
            _choose(tokens, alive), written[:, :, None], (0, 0, beam.at)
        )
        rows = (jnp.arange(batch_size)[:, None] * beam_size + parents).reshape(-1)
        return _Beam(
            beam.at + 1,
            tokens,
            _choose(totals, alive),
            written.reshape(-1),
            reorder(carry, rows),
            *finished,
        )

    starts = jnp.broadcast_to(jnp.asarray(start_token, jnp.int32), batch_size)
    starts = jnp.repeat(starts, beam_size)
    dtype = _score_dtype(step, starts, carry)
    nothing = jnp.full((*shape, max_length), end_token, jnp.int32)
    # All K start as one and the same hypothesis: only the first counts.
    log_probs = jnp.where(jnp.arange(beam_size) == 0, 0.0, -jnp.inf).astype(dtype)
    beam = _Beam(
        jnp.int32(0),
        nothing,
        jnp.broadcast_to(log_probs, shape),
        starts,
        carry,
        nothing,
        jnp.zeros(shape, jnp.int32),
        jnp.full(shape, -jnp.inf, dtype),
    )
    beam = lax.while_loop(unfinished, write, beam)

    # What has written max_length tokens is finished too.
    cut = (beam.at == max_length) & ~stopped(beam)
    scores = jnp.where(cut, beam.log_probs / penalty(beam.at), -jnp.inf)
    tokens, lengths, scores = _best_finished(
        (beam.finished_tokens, beam.finished_lengths, beam.finished_scores),
        (beam.tokens, jnp.full(shape, max_length), scores),
    )
    exists = scores > -jnp.inf
    return jnp.where(exists[..., None], tokens, end_token), jnp.where(exists, lengths, 0), scores


def greedy_search(
    step: Step,
    carry: PyTree,
    *,
    batch_size: int,
    max_length: int,
    start_token: int,
    end_token: int,
    length_penalty: float = 0.0,
) -> tuple[Int[Array, "B L"], Int[Array, "B"], Float[Array, "B"]]:
    """The likeliest token at every step: (tokens, lengths, scores), as in `beam_search`.

    `step` and `carry` have leading axis B. The length penalty changes the scores alone. The lowest
    number among equals is taken. The loop ends when every row has.
    """
    _check(batch_size, 1, max_length, length_penalty)
    starts = jnp.full(batch_size, start_token, jnp.int32)
    dtype = _score_dtype(step, starts, carry)

    def unfinished(state):
        at, _, lengths, *_ = state
        return (at < max_length) & jnp.any(lengths == max_length)

    def write(state):
        at, tokens, lengths, total, last, carry = state
        log_probs, carry = step(last, carry)
        going = lengths == max_length
        best = jnp.argmax(log_probs, axis=-1).astype(jnp.int32)
        total = jnp.where(going, total + log_probs.max(axis=-1).astype(dtype), total)
        last = jnp.where(going, best, end_token)
        tokens = lax.dynamic_update_slice(tokens, last[:, None], (0, at))
        lengths = jnp.where(going & (last == end_token), at, lengths)
        return at + 1, tokens, lengths, total, last, carry

    state = (
        jnp.int32(0),
        jnp.full((batch_size, max_length), end_token, jnp.int32),
        jnp.full(batch_size, max_length, jnp.int32),
        jnp.zeros(batch_size, dtype),
        starts,
        carry,
    )
    _, tokens, lengths, total, *_ = lax.while_loop(unfinished, write, state)
    written = jnp.minimum(lengths + 1, max_length)
    return tokens, lengths, total / _length_penalty(written, length_penalty, dtype)


def repeat_rows(tree: PyTree, times: int) -> PyTree:
    """Every row of every leaf `times` times in a row: what a beam of that size starts from."""
    return jax.tree.map(lambda leaf: jnp.repeat(leaf, times, axis=0), tree)


def _best_finished(
    one: tuple[Array, Array, Array], other: tuple[Array, Array, Array]
) -> tuple[Array, Array, Array]:
    """The K best by score of two lots of (tokens, lengths, scores); the first among equals."""
    tokens, lengths, scores = (
        jnp.concatenate(pair, axis=1) for pair in zip(one, other, strict=True)
    )
    scores, best = lax.top_k(scores, one[2].shape[1])
    return _choose(tokens, best), _choose(lengths, best), scores


def _choose(x: Array, at: Int[Array, "B J"]) -> Array:
    """x[b, at[b, j]] for x with leading axes B and K."""
    return jax.vmap(lambda row, numbers: jnp.take(row, numbers, axis=0, mode="clip"))(x, at)


def _length_penalty(length: Array, exponent: float, dtype: jnp.dtype) -> Array:
    return ((5 + length.astype(dtype)) / 6) ** exponent


def _score_dtype(step: Step, starts: Array, carry: PyTree) -> jnp.dtype:
    # Without the carry, whose classes may refuse to hold shapes in place of arrays.
    return accumulator(jax.eval_shape(lambda: step(starts, carry)[0]).dtype)


def _check(batch_size: int, beam_size: int, max_length: int, length_penalty: float) -> None:
    sizes = {"batch_size": batch_size, "beam_size": beam_size, "max_length": max_length}
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}; it must be at least 1")
    if not length_penalty >= 0:
        raise ValueError(f"length_penalty is {length_penalty}; it must be at least 0")
