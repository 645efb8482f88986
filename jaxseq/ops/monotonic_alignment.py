"""Alignments of frames to tokens that start at the first token, end at the last, and go on by
single steps: frame t + 1 has the token of frame t or the next one, so that each token has at least
one frame. How speech synthesis learns from recordings how long each sound is.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import betaln, gammaln

from jaxseq.ops.chain_potentials import time_sum
from jaxseq.ops.left_to_right import LeftToRight, best_path, log_partition, posteriors
from jaxseq.ops.padding import valid_steps
from jaxseq.ops.precision import accumulator
from jaxseq.typing import Array, Float, Int


def monotonic_alignment_search(
    scores: Float[Array, "B T S"],
    frame_lengths: Int[Array, "B"],
    token_lengths: Int[Array, "B"],
) -> Int[Array, "B S"]:
    """How many frames each token has on the alignment a of largest sum_t scores[t, a_t].

        best_t[s] = scores[t, s] + max(best_{t-1}[s], best_{t-1}[s-1])

    Kim et al. 2020, Glow-TTS (arXiv:2005.11129). Every token has at least one frame, and those of
    a row add up to its frames; among equals the alignment that goes on earlier is taken. With fewer
    frames than tokens there is none: the first tokens have one frame each, the others 0. A row of
    no tokens gives 0. What stands in the padding is not looked at.
    """
    model, _ = _model(scores, frame_lengths, jnp.minimum(frame_lengths, token_lengths))
    # An alignment exists in any case: it avoids -inf where it can.
    path, _ = best_path(model._replace(emissions=jnp.maximum(model.emissions, -1e30)))
    _, time, tokens = scores.shape
    here = path[..., None] == jnp.arange(tokens)[None, None]
    counts = valid_steps(frame_lengths, time).T & (token_lengths > 0)[None]
    return jnp.sum(here & counts[..., None], axis=0, dtype=jnp.int32)


def forward_sum_loss(
    log_probs: Float[Array, "B T S"],
    frame_lengths: Int[Array, "B"],
    token_lengths: Int[Array, "B"],
) -> Float[Array, "B"]:
    """-log of the sum over all alignments a of prod_t exp(log_probs[t, a_t]), in nats.

    Badlani et al. 2021 (arXiv:2108.10447); its gradient is minus the probability that frame t has
    token s, found by one forward-backward pass. 0, with gradient 0, where no alignment has a
    probability above 0: with fewer frames than tokens, or no token. In float32 or wider. What
    stands in the padding is not looked at. It cannot be differentiated twice.
    """
    return _forward_sum(log_probs, frame_lengths, token_lengths)


@jax.custom_vjp
def _forward_sum(log_probs: Array, frame_lengths: Array, token_lengths: Array) -> Array:
    model, largest = _model(log_probs, frame_lengths, token_lengths)
    return _loss(log_partition(model), largest)


def _forward_sum_forward(
    log_probs: Array, frame_lengths: Array, token_lengths: Array
) -> tuple[Array, Array]:
    model, largest = _model(log_probs, frame_lengths, token_lengths)
    log_z, shares = posteriors(model)
    return _loss(log_z, largest), -shares.transpose(2, 0, 1).astype(log_probs.dtype)


def _forward_sum_backward(gradient: Array, cotangent: Array) -> tuple[Array, None, None]:
    return gradient * cotangent[:, None, None].astype(gradient.dtype), None, None


_forward_sum.defvjp(_forward_sum_forward, _forward_sum_backward)


def _model(
    log_probs: Array, frame_lengths: Array, token_lengths: Array
) -> tuple[LeftToRight, Float[Array, "B"]]:
    """The chain of the tokens, each frame's emissions less the largest, and the sum of those."""
    _, time, tokens = log_probs.shape
    log_probs = log_probs.astype(accumulator(log_probs.dtype))
    valid = (
        valid_steps(frame_lengths, time)[..., None] & valid_steps(token_lengths, tokens)[:, None]
    )
    largest = jnp.max(log_probs, axis=2, keepdims=True, initial=-jnp.inf, where=valid)
    largest = jnp.where(largest == -jnp.inf, 0, largest)  # NaN stays, to be seen in the loss
    state = jnp.arange(tokens)[:, None]
    model = LeftToRight(
        (log_probs - largest).transpose(1, 2, 0),
        jnp.minimum(frame_lengths, time),
        state == 0,
        state == token_lengths[None] - 1,
    )
    return model, time_sum(largest[..., 0].T)


def _loss(log_z: Float[Array, "B"], largest: Float[Array, "B"]) -> Float[Array, "B"]:
    possible = (log_z > -jnp.inf) | jnp.isnan(largest)
    return jnp.where(possible, -(log_z + largest), 0)


def diagonal_prior(
    frame_lengths: Int[Array, "B"],
    token_lengths: Int[Array, "B"],
    num_frames: int,
    num_tokens: int,
    scale: float = 1.0,
) -> Float[Array, "B T S"]:
    """log p(token s | frame t) of a beta-binomial law about the diagonal; 0 in the padding.

        s ~ BetaBinomial(S - 1, scale (t + 1), scale (T - t)),     s = 0 ... S - 1, t = 0 ... T - 1

    with the row's own T and S. To be added to the log-probabilities that learn to align (Badlani
    et al. 2021, arXiv:2108.10447); the larger `scale`, the narrower.
    """
    frames = jnp.arange(num_frames, dtype=jnp.float32)[None, :, None]
    tokens = jnp.arange(num_tokens, dtype=jnp.float32)[None, None, :]
    valid = (frames < frame_lengths[:, None, None]) & (tokens < token_lengths[:, None, None])
    last = jnp.maximum(token_lengths - 1, 0)[:, None, None].astype(jnp.float32)
    a = scale * (frames + 1)
    b = scale * jnp.maximum(frame_lengths[:, None, None] - frames, 1)
    tokens = jnp.minimum(tokens, last)
    log_prior = (
        gammaln(last + 1) - gammaln(tokens + 1) - gammaln(last - tokens + 1)
        + betaln(tokens + a, last - tokens + b) - betaln(a, b)
    )  # fmt: skip
    return jnp.where(valid, log_prior, 0)
