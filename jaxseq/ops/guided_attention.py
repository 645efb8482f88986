"""Attention that ought to run along a diagonal, as that of speech over its text does."""

import jax.numpy as jnp

from jaxseq.ops.padding import valid_steps
from jaxseq.ops.precision import accumulator
from jaxseq.typing import Array, Bool, Float, Int


def guided_attention_loss(
    weights: Float[Array, "B T S"],
    frame_lengths: Int[Array, "B"],
    token_lengths: Int[Array, "B"],
    *,
    width: float = 0.2,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """What looking far from the diagonal costs (Tachibana et al. 2017, arXiv:1710.08969).

        sum    = sum over valid t, s  a_ts (1 - exp(-((s + 1/2) / S_b - (t + 1/2) / T_b)^2 / 2 g^2))
        weight = number of valid frames t

    for attention weights a, the T_b frames and S_b tokens of row b, and g = `width`. The paper
    divides by the number of tokens too; over t alone the loss is the mean penalty of a frame, in
    [0, 1), whatever the length of the text. Padding, NaN included, changes nothing. Computed in
    float32 or wider.
    """
    distances, valid = _off_diagonal(weights, frame_lengths, token_lengths)
    penalties = 1 - jnp.exp(-(distances**2) / (2 * width**2))
    wide = jnp.where(valid, weights, 0).astype(distances.dtype)
    frames = valid_steps(frame_lengths, weights.shape[1])
    return jnp.sum(wide * penalties), jnp.sum(frames, dtype=wide.dtype)


def diagonality(
    weights: Float[Array, "B T S"],
    frame_lengths: Int[Array, "B"],
    token_lengths: Int[Array, "B"],
    *,
    band: float = 0.2,
) -> Float[Array, "B"]:
    """The share of each row's attention that lies near the diagonal, in [0, 1].

        r_b = sum of a_ts over valid t, s with |(s + 1/2) / S_b - (t + 1/2) / T_b| <= band
              / sum of a_ts over valid t, s

    the diagonal attention ratio of Ren et al. (2019, arXiv:1905.06791, section 4). Attention spread
    evenly gives 2 band - band^2 where texts are long; a row that looks at nothing gives 0. Padding,
    NaN included, changes nothing.
    """
    distances, valid = _off_diagonal(weights, frame_lengths, token_lengths)
    wide = jnp.where(valid, weights, 0).astype(distances.dtype)
    near = jnp.where(jnp.abs(distances) <= band, wide, 0).sum(axis=(1, 2))
    total = wide.sum(axis=(1, 2))
    return near / jnp.where(total == 0, 1, total)


def _off_diagonal(
    weights: Array, frame_lengths: Array, token_lengths: Array
) -> tuple[Float[Array, "B T S"], Bool[Array, "B T S"]]:
    """(place in the text minus place in time, both in (0, 1); which pairs are valid)."""
    dtype = accumulator(weights.dtype)

    def places(lengths: Array, size: int) -> Array:
        middles = jnp.arange(size, dtype=dtype)[None] + 0.5
        return middles / jnp.maximum(lengths, 1).astype(dtype)[:, None]

    _, num_frames, num_tokens = weights.shape
    distances = (
        places(token_lengths, num_tokens)[:, None] - (places(frame_lengths, num_frames)[:, :, None])
    )
    frames = valid_steps(frame_lengths, num_frames)[:, :, None]
    return distances, frames & valid_steps(token_lengths, num_tokens)[:, None]
