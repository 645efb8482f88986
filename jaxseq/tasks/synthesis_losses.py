"""What models that speak are trained on, of each utterance.

Every term is a sum over frames, tokens or utterances in the scale of one number a frame, so that
the task divides all of them by the frames once.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxseq.models.attention_tts import Predicted as ByAttention
from jaxseq.models.duration_tts import Predicted as ByDurations
from jaxseq.nn.length_regulator import frame_alignment
from jaxseq.ops.guided_attention import guided_attention_loss
from jaxseq.ops.monotonic_alignment import forward_sum_loss
from jaxseq.ops.padding import valid_steps
from jaxseq.ops.precision import accumulator
from jaxseq.typing import Array, Float, Int


class Targets(NamedTuple):
    """What should have been said: frames to predict, and how many frames and tokens there are."""

    log_mels: Float[Array, "B T M"]
    frames: Int[Array, "B"]
    tokens: Int[Array, "B"]


def mel_errors(log_mels: Float[Array, "B T M"], targets: Targets) -> Float[Array, "B"]:
    """Sum over valid frames t of the mean over mels of |y_tm - log_mels_tm|."""
    inside = valid_steps(targets.frames, log_mels.shape[1])
    dtype = accumulator(log_mels.dtype)
    # Both sides, not their difference: 0 times the gradient of a NaN would be NaN.
    spoken, real = (
        jnp.where(inside[:, :, None], mels, 0).astype(dtype)
        for mels in (log_mels, targets.log_mels)
    )
    return jnp.abs(spoken - real).mean(axis=2).sum(axis=1)


def attention_losses(
    predicted: ByAttention, targets: Targets, *, guide: float, stop_weight: float
) -> Float[Array, "B"]:
    """Of frames told one after the other (Tacotron 2, Shen et al. 2017, arXiv:1712.05884):

        errors before the postnet + errors behind it
        + sum over frames  -w_t log p(stops behind t is right)
        + guide  sum over frames, tokens  a_ts (1 - exp(-(s/S - t/T)^2 / 2 g^2))

    with `mel_errors` in place of the paper's squares, w_t = `stop_weight` for a row's last frame,
    which it has one of, else 1, and the last line that of `ops.guided_attention`.
    """
    inside = valid_steps(targets.frames, predicted.stop_logits.shape[1])
    last = inside & ~valid_steps(targets.frames - 1, inside.shape[1])
    logits = jnp.where(inside, predicted.stop_logits, 0)
    logits = logits.astype(accumulator(logits.dtype))
    stops = jnp.where(last, stop_weight * jax.nn.softplus(-logits), jax.nn.softplus(logits))
    stops = jnp.where(inside, stops, 0).sum(axis=1)

    def off_diagonal(weights: Array, frames: Array, tokens: Array) -> Array:
        return guided_attention_loss(weights[None], frames[None], tokens[None])[0]

    off = jax.vmap(off_diagonal)(predicted.alignments, targets.frames, targets.tokens)
    errors = mel_errors(predicted.before, targets) + mel_errors(predicted.after, targets)
    return errors + stops + guide * off


def duration_losses(
    predicted: ByDurations, targets: Targets, *, duration_weight: float, align_weight: float
) -> Float[Array, "B"]:
    """Of frames told at once (FastSpeech 2, Ren et al. 2020, arXiv:2006.04558):

        errors
        + duration_weight  sum over tokens  (l_s - log(1 + d_s))^2
        + align_weight  (-log sum over monotonic paths of prod_t p_ts  - sum_t log p_t,path(t))

    with `mel_errors`, l the predicted log durations, and d those of the best path of the aligner's
    p (Badlani et al. 2021, arXiv:2108.10447: the sum over all paths teaches it to align, the term
    of the best path to be sure of it).
    """
    tokens = valid_steps(targets.tokens, predicted.durations.shape[1])
    dtype = accumulator(predicted.log_durations.dtype)
    wanted = jnp.log1p(predicted.durations.astype(dtype))
    off = jnp.where(tokens, predicted.log_durations.astype(dtype) - wanted, 0)
    every = forward_sum_loss(predicted.soft, targets.frames, targets.tokens)
    path = frame_alignment(predicted.durations, predicted.soft.shape[1]) > 0
    path = path & valid_steps(targets.frames, path.shape[1])[:, :, None] & tokens[:, None]
    best = -jnp.where(path, predicted.soft, 0).sum(axis=(1, 2))
    aligning = align_weight * (every + best)
    return mel_errors(predicted.log_mels, targets) + duration_weight * (off**2).sum(1) + aligning
