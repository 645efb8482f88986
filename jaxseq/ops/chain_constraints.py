"""Hard constraints on the paths of a chain: which states may start, follow and end."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxseq.ops.chain_potentials import Chain
from jaxseq.typing import Array, Bool


class Allowed(NamedTuple):
    """True where a state may come first, follow another ([from, to]), and come last."""

    initial: Bool[Array, "C"]
    transitions: Bool[Array, "C C"]
    final: Bool[Array, "C"]


def bio_transitions(tags: Sequence[str]) -> Allowed:
    """Legality under BIO (IOB2): I-X follows B-X or I-X alone.

    Tags are O, B-X and I-X. Raises ValueError for any other, naming it.
    """
    return _allowed(tags, "BIO", starts="B", goes_on="BI", stops="BI")


def bioes_transitions(tags: Sequence[str]) -> Allowed:
    """Legality under BIOES (IOBES): a span is S-X, or B-X, any number of I-X, and E-X.

    Tags are O, B-X, I-X, E-X and S-X. Raises ValueError for any other, naming it.
    """
    return _allowed(tags, "BIOES", starts="BS", goes_on="BI", stops="ES")


def _allowed(tags: Sequence[str], letters: str, starts: str, goes_on: str, stops: str) -> Allowed:
    """A tag is legal after another where a span starts after one that may stop, or goes on in one
    that may go on."""
    spans = [_split(tag, letters) for tag in tags]
    begins = np.array([letter in "O" + starts for letter, _ in spans], bool)
    ends = np.array([letter in "O" + stops for letter, _ in spans], bool)
    inside = np.array(
        [
            [a in goes_on and b not in "O" + starts and kind == other for b, other in spans]
            for a, kind in spans
        ],
        bool,
    ).reshape(len(spans), len(spans))
    legal = inside | (ends[:, None] & begins[None, :])
    return Allowed(jnp.asarray(begins), jnp.asarray(legal), jnp.asarray(ends))


def _split(tag: str, letters: str) -> tuple[str, str]:
    """A tag's letter and kind of span."""
    letter, dash, kind = tag.partition("-")
    if tag == "O" or (letter in set(letters) - {"O"} and dash and kind):
        return letter, kind
    forms = ", ".join(["O", *(f"{each}-X" for each in letters if each != "O")])
    raise ValueError(f"tag {tag!r} is not of the scheme {letters}: {forms}")


def constrain(
    chain: Chain,
    *,
    allowed_initial: Bool[Array, "C"] | None = None,
    allowed_transitions: Bool[Array, "C C"] | None = None,
    allowed_final: Bool[Array, "C"] | None = None,
    allowed_states: Bool[Array, "B T C"] | None = None,
) -> Chain:
    """The chain with potentials of -inf wherever something is not allowed."""
    emissions, transitions, initial, final, _ = chain
    if allowed_states is not None:
        emissions = jnp.where(allowed_states, emissions, -jnp.inf)
    if allowed_transitions is not None:
        extra = transitions.ndim - 2
        mask = allowed_transitions.reshape((1,) * extra + allowed_transitions.shape)
        transitions = jnp.where(mask, transitions, -jnp.inf)
    if allowed_initial is not None:
        initial = _forbid(initial, allowed_initial, emissions.dtype)
    if allowed_final is not None:
        final = _forbid(final, allowed_final, emissions.dtype)
    return Chain(emissions, transitions, initial, final, chain.lengths)


def _forbid(vector: Array | None, allowed: Array, dtype: jnp.dtype) -> Array:
    start = jnp.zeros((1, allowed.shape[0]), dtype) if vector is None else vector
    return jnp.where(allowed[None], start, -jnp.inf)
