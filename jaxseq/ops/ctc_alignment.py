"""When labels are spoken: the likeliest path of given labels under a CTC model."""

import jax.numpy as jnp

from jaxseq.ops.ctc import check_blank, model_of, paths_of
from jaxseq.ops.left_to_right import best_path
from jaxseq.ops.padding import valid_steps
from jaxseq.ops.precision import accumulator
from jaxseq.typing import Array, Float, Int


def ctc_forced_alignment(
    log_probs: Float[Array, "B T V"],
    logit_lengths: Int[Array, "B"],
    labels: Int[Array, "B N"],
    label_lengths: Int[Array, "B"],
    *,
    blank: int = 0,
) -> tuple[Int[Array, "B T"], Float[Array, "B"]]:
    """Which label each frame has on the likeliest path of `labels`, and its log-probability.

    A frame has the number n of its label labels[b, n], not the label itself, so that equal ones are
    told apart: label n is spoken from the first to the last frame with number n. -1 is a blank, or
    padding. Where the labels are impossible (`ctc.ctc_loss`) all frames have -1 and the score is
    -infinity; without labels and frames it is 0. What stands in the padding is not looked at.
    Raises ValueError for a blank that is no index.
    """
    check_blank(blank, log_probs.shape[-1])
    time = log_probs.shape[1]
    paths = paths_of(labels, label_lengths, blank)
    lengths = jnp.minimum(logit_lengths, time)
    wide_log_probs = log_probs.astype(accumulator(log_probs.dtype))
    states, scores = best_path(model_of(wide_log_probs, lengths, paths))
    scores = jnp.where((lengths <= 0) & (label_lengths <= 0), 0, scores)
    spoken = (states % 2 == 1).T & valid_steps(lengths, time) & (scores > -jnp.inf)[:, None]
    return jnp.where(spoken, states.T // 2, -1), scores
