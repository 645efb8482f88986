"""Search that writes no n-gram twice."""

import jax.numpy as jnp
from jax import lax

from jaxseq.decoding.beam import Step
from jaxseq.typing import Array, PyTree


def without_repeats(
    step: Step, carry: PyTree, *, n: int, num_rows: int, max_length: int
) -> tuple[Step, PyTree]:
    """The step and carry of a search in which no n tokens in a row are written a second time.

    The log-probability of a token that would end such a repetition is -infinity, and those of the
    others stay (Paulus et al. 2017, arXiv:1705.04304, section 2.5). The start token counts as
    written. Rows are those of the carry, `num_rows` of them, and all of one length; `max_length`
    is that of the search. Raises ValueError for an n below 1.
    """
    if n < 1:
        raise ValueError(f"n is {n}; it must be at least 1")
    written = jnp.full((num_rows, max_length), -1, jnp.int32)

    def stepped(tokens: Array, state: PyTree) -> tuple[Array, PyTree]:
        written, counts, carry = state
        at = counts[0]
        written = lax.dynamic_update_slice(written, tokens[:, None].astype(jnp.int32), (0, at))
        log_probs, carry = step(tokens, carry)
        # Every place of n - 1 tokens that are the last n - 1: what followed there must not follow
        # here. Where fewer were written the slice is another, and no place is complete.
        last = lax.dynamic_slice_in_dim(written, at - (n - 2), n - 1, axis=1)
        places = max(max_length - n + 1, 0)
        again = jnp.arange(places)[None] + (n - 1) <= at
        for i in range(n - 1):
            again = again & (written[:, i : i + places] == last[:, i : i + 1])
        banned = jnp.where(again, written[:, n - 1 :][:, :places], log_probs.shape[-1])
        rows = jnp.arange(num_rows)[:, None]
        log_probs = log_probs.at[rows, banned].set(-jnp.inf, mode="drop")
        return log_probs, (written, counts + 1, carry)

    return stepped, (written, jnp.zeros(num_rows, jnp.int32), carry)
