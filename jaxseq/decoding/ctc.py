"""From what a CTC model says of each frame to labels: the best path, and a beam over prefixes.

A path names a label or the blank for every frame; its labels are what remains when equal neighbours
are merged and blanks left out (Graves et al. 2006). Many paths have the same labels, and

    p(y | x) = sum over the paths of y of  prod_t p_t(path_t)
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxseq.decoding.beam import Step, take_rows
from jaxseq.ops.padding import valid_steps
from jaxseq.ops.precision import accumulator
from jaxseq.typing import Array, Bool, Float, Int, PyTree

LanguageModel = tuple[Step, PyTree]


def ctc_greedy(
    log_probs: Float[Array, "B T V"], lengths: Int[Array, "B"], *, blank: int = 0
) -> tuple[Int[Array, "B T"], Int[Array, "B"], Float[Array, "B"]]:
    """The labels of the likeliest path: (labels, their number, log-probability of the path).

    Behind the labels stands `blank`. The lowest number among equals is taken.
    """
    batch, time, _ = log_probs.shape
    valid = valid_steps(lengths, time)
    path = jnp.where(valid, jnp.argmax(log_probs, axis=-1), blank).astype(jnp.int32)
    largest = jnp.max(log_probs, axis=-1).astype(accumulator(log_probs.dtype))
    before = jnp.pad(path[:, :-1], ((0, 0), (1, 0)), constant_values=blank)[:, :time]
    written = (path != blank) & (path != before)
    place = jnp.where(written, jnp.cumsum(written, axis=1) - 1, time)
    rows = jnp.broadcast_to(jnp.arange(batch)[:, None], place.shape)
    labels = jnp.full((batch, time), blank, jnp.int32).at[rows, place].set(path, mode="drop")
    return (
        labels,
        jnp.sum(written, axis=1, dtype=jnp.int32),
        jnp.sum(jnp.where(valid, largest, 0), axis=1),
    )


class _Beam(NamedTuple):
    """K different prefixes of each row, best first; those of probability 0 stand for none."""

    labels: Int[Array, "B K T"]
    lengths: Int[Array, "B K"]
    last: Int[Array, "B K"]  # `blank` for the empty prefix
    by_blank: Float[Array, "B K"]  # log-probability of the prefix's paths that end in a blank
    by_label: Float[Array, "B K"]  # and of those that end in its last label
    begins: Bool[Array, "B K K"]  # [i, j]: prefix j begins with i and is longer
    favour: Float[Array, "B K"]  # what language model and bonus add
    following: Float[Array, "B K V"]  # what they would add for each next label
    carry: PyTree


def ctc_prefix_beam(
    log_probs: Float[Array, "B T V"],
    lengths: Int[Array, "B"],
    *,
    beam_size: int,
    blank: int = 0,
    language_model: LanguageModel | None = None,
    weight: float | Float[Array, ""] = 1.0,
    bonus: float | Float[Array, ""] = 0.0,
) -> tuple[Int[Array, "B K T"], Int[Array, "B K"], Float[Array, "B K"]]:
    """The K best label sequences that a beam over prefixes finds: (labels, lengths, scores).

        score(y) = log p(y | x) + weight log p_lm(y, end) + bonus |y|

    Paths with the same labels are added up as they grow (Graves 2006; with a language model, Hannun
    et al. 2014, arXiv:1408.2873): with K at least the number of all prefixes, the scores are exact
    and the search is exhaustive. Best first; behind the labels stands `blank`. Where fewer than K
    sequences are possible the rest have score -infinity and length 0.

    `language_model` is (step, carry): `step(tokens (B*K,), carry)` gives the log-probabilities
    (B*K, V) of the next label and the new carry, as in `decoding.beam`; hypothesis k of row b is
    number b K + k, and `carry` is that of the start, each row's K times. Labels have the numbers
    that they have in `log_probs`. The number `blank`, which no label has, is the start as a token
    that goes in and the end as one that comes out. Call it under `jit`.

    Raises ValueError for a beam size or a blank that is out of range.
    """
    batch, time, vocab_size = log_probs.shape
    if beam_size < 1:
        raise ValueError(f"beam_size is {beam_size}; it must be at least 1")
    if not 0 <= blank < vocab_size:
        raise ValueError(f"blank is {blank}; it must be one of 0 ... {vocab_size - 1}")
    shape = (batch, beam_size)
    dtype = accumulator(log_probs.dtype)
    is_blank = jnp.arange(vocab_size) == blank

    def consult(tokens: Array, carry: PyTree) -> tuple[Array, PyTree]:
        """What each next label adds to the score; behind `blank`, what the end does."""
        if language_model is None:
            return jnp.where(is_blank, 0.0, bonus).astype(dtype)[None, None], carry
        following, carry = language_model[0](tokens.reshape(-1), carry)
        following = following.astype(dtype).reshape(*shape, vocab_size)
        # What the model forbids stays forbidden at weight 0; a NaN is the best of all to some.
        following = jnp.where(following > -jnp.inf, weight * following, -jnp.inf)
        return following + jnp.where(is_blank, 0.0, bonus).astype(dtype)[None, None], carry

    def frame(beam: _Beam, frame_log_probs: Float[Array, "B V"]) -> tuple[_Beam, None]:
        grown = _grow(beam, frame_log_probs, blank)
        ranks = jnp.where(is_blank[None, None], grown.stays[..., None], grown.extensions)
        ranks += beam.favour[..., None] + jnp.where(is_blank[None, None], 0, beam.following)
        best_ranks, best = lax.top_k(ranks.reshape(batch, -1), beam_size)
        beam, rows, tokens = _survivors(beam, grown, best, best_ranks > -jnp.inf, blank)
        if language_model is None:
            return beam, None
        carry = take_rows(beam.carry, rows)
        following, after = consult(tokens, carry)
        extended = tokens != blank
        return beam._replace(
            following=jnp.where(extended[..., None], following, beam.following),
            carry=jax.tree.map(_selector(extended.reshape(-1)), after, carry),
        ), None

    starts = jnp.full(shape, blank, jnp.int32)
    following, carry = consult(starts, None if language_model is None else language_model[1])
    following = jnp.broadcast_to(following, (*shape, vocab_size))
    nothing = jnp.full(shape, -jnp.inf, dtype)
    beam = _Beam(
        jnp.full((*shape, max(time, 1)), blank, jnp.int32),
        jnp.zeros(shape, jnp.int32),
        starts,
        nothing.at[:, 0].set(0),  # all paths of no frame: one, of the empty prefix
        nothing,
        jnp.zeros((*shape, beam_size), bool),
        jnp.zeros(shape, dtype),
        following,
        carry,
    )
    # A blank for certain changes nothing: that is what padding is taken for.
    certain = jnp.where(is_blank, 0.0, -jnp.inf).astype(dtype)[None, None]
    valid = valid_steps(lengths, time)[..., None]
    frames = jnp.where(valid, log_probs.astype(dtype), certain)
    beam, _ = lax.scan(frame, beam, jnp.swapaxes(frames, 0, 1))

    scores = jnp.logaddexp(beam.by_blank, beam.by_label) + beam.favour + beam.following[..., blank]
    scores, order = lax.top_k(scores, beam_size)
    exists = scores > -jnp.inf
    labels = jnp.take_along_axis(beam.labels, order[..., None], axis=1)[..., :time]
    found_lengths = jnp.take_along_axis(beam.lengths, order, axis=1)
    return (
        jnp.where(exists[..., None], labels, blank),
        jnp.where(exists, found_lengths, 0),
        scores,
    )


class _Grown(NamedTuple):
    """The log-probabilities of what the prefixes may become within a frame."""

    by_blank: Float[Array, "B K"]  # the same prefix
    by_label: Float[Array, "B K"]
    stays: Float[Array, "B K"]  # both together
    extensions: Float[Array, "B K V"]  # longer by a label; -inf where that is in the beam already


def _grow(beam: _Beam, log_probs: Float[Array, "B V"], blank: int) -> _Grown:
    """One frame of every prefix y, with l its last label:

    stays:     p_blank'(y) = (p_blank(y) + p_label(y)) p(blank)
               p_label'(y) = p_label(y) p(l)  + p(y again from the prefix before it)
    extension: p_label'(y c) = (p_blank(y) + [c is not l] p_label(y)) p(c)
    """
    vocab_size = log_probs.shape[-1]
    both = jnp.logaddexp(beam.by_blank, beam.by_label)
    by_blank = both + log_probs[:, blank, None]
    by_label = beam.by_label + jnp.take_along_axis(log_probs, beam.last, axis=1)
    repeats = jnp.arange(vocab_size)[None, None] == beam.last[..., None]
    extensions = jnp.where(repeats, beam.by_blank[..., None], both[..., None]) + log_probs[:, None]

    # Where j is i and one label, this extension of i is j: what it brings goes there.
    next_to = beam.begins & (beam.lengths[:, None, :] == beam.lengths[:, :, None] + 1)
    lasts = jnp.broadcast_to(beam.last[:, None, :], next_to.shape)
    brought = jnp.take_along_axis(extensions, lasts, axis=2)
    brought = jnp.max(jnp.where(next_to, brought, -jnp.inf), axis=1)  # of one i at most
    by_label = jnp.logaddexp(by_label, brought)
    known = jnp.einsum("bij,bjv->biv", next_to.astype(log_probs.dtype), repeats) > 0
    extensions = jnp.where(known, -jnp.inf, extensions)
    return _Grown(by_blank, by_label, jnp.logaddexp(by_blank, by_label), extensions)


def _survivors(
    beam: _Beam, grown: _Grown, best: Int[Array, "B K"], alive: Bool[Array, "B K"], blank: int
) -> tuple[_Beam, Int[Array, "BK"], Int[Array, "B K"]]:
    """The beam of the `best` of the K x V ways on (`blank` is to stay), but for the model's carry;
    the number of the hypothesis that each comes from; the label that each took or `blank`."""
    batch, beam_size, capacity = beam.labels.shape
    vocab_size = grown.extensions.shape[-1]
    parents, tokens = best // vocab_size, (best % vocab_size).astype(jnp.int32)
    extended = tokens != blank

    def of_parent(x: Array) -> Array:
        at = parents.reshape(*parents.shape, *(1,) * (x.ndim - 2))
        return jnp.take_along_axis(x, at, axis=1)

    def of_best(x: Float[Array, "B K V"]) -> Array:
        return jnp.take_along_axis(x.reshape(batch, -1), best, axis=1)

    before = of_parent(beam.lengths)
    here = jnp.arange(capacity)[None, None] == before[..., None]
    labels = jnp.where(here & extended[..., None], tokens[..., None], of_parent(beam.labels))

    # i of the new beam begins j: seen from the prefixes a and b that they come from.
    begins = of_parent(beam.begins)
    begins = jnp.take_along_axis(
        begins, jnp.broadcast_to(parents[:, None, :], begins.shape), axis=2
    )
    after = jnp.take_along_axis(  # the label of j behind what it shares with a
        jnp.broadcast_to(labels[:, None], (batch, beam_size, beam_size, capacity)),
        jnp.broadcast_to(
            jnp.minimum(before, capacity - 1)[:, :, None, None],
            (batch, beam_size, beam_size, 1),
        ),
        axis=3,
    )[..., 0]
    same = (parents[:, :, None] == parents[:, None, :]) & extended[:, None, :]
    begins = jnp.where(extended[:, :, None], begins & (after == tokens[:, :, None]), begins | same)
    begins &= alive[:, :, None] & alive[:, None, :]

    nothing = -jnp.inf
    by_label = jnp.where(extended, of_best(grown.extensions), of_parent(grown.by_label))
    favour = of_parent(beam.favour)
    survivors = _Beam(
        labels,
        before + extended,
        jnp.where(extended, tokens, of_parent(beam.last)),
        jnp.where(alive & ~extended, of_parent(grown.by_blank), nothing),
        jnp.where(alive, by_label, nothing),
        begins,
        jnp.where(extended, favour + of_best(beam.following), favour),
        of_parent(beam.following),
        beam.carry,
    )
    rows = (jnp.arange(batch)[:, None] * beam_size + parents).reshape(-1)
    return survivors, rows, tokens


def _selector(condition: Bool[Array, "R"]) -> Callable[[Array, Array], Array]:
    """Row by row: the first where `condition`, else the second."""

    def select(one: Array, other: Array) -> Array:
        return jnp.where(condition.reshape(-1, *(1,) * (one.ndim - 1)), one, other)

    return select
