"""SpecAugment: spans of frames and of mel bands hidden from a recogniser as it trains."""

import jax
import jax.numpy as jnp

from jaxseq.ops.padding import valid_steps, zero_padding
from jaxseq.ops.precision import accumulator
from jaxseq.typing import Array, Bool, Float, Int, Key


def spec_augment(
    features: Float[Array, "B T M"],
    lengths: Int[Array, "B"],
    key: Key[Array, ""],
    *,
    time_masks: int,
    time_width: int,
    mel_masks: int,
    mel_width: int,
) -> Float[Array, "B T M"]:
    """The features with `time_masks` spans of frames and `mel_masks` spans of bands hidden.

    Of each row by itself: a span's width is drawn from 0 ... `time_width` (or `mel_width`), at
    most the row's frames (or M), and its start from where it fits in the row. In a span stands the
    mean of the row's features: 0 where they were normalised (Park et al. 2019, arXiv:1904.08779,
    without its time warping). Padding is left as it is.
    """
    num_frames, num_mels = features.shape[1:]
    for_time, for_mels = jax.random.split(key)
    bands = jnp.full_like(lengths, num_mels)
    hidden_frames = _spans(for_time, lengths, time_masks, time_width, num_frames)
    hidden_bands = _spans(for_mels, bands, mel_masks, mel_width, num_mels)
    valid = valid_steps(lengths, num_frames)[:, :, None]
    hidden = (hidden_frames[:, :, None] | hidden_bands[:, None, :]) & valid
    known = zero_padding(features, lengths).astype(accumulator(features.dtype))
    count = jnp.maximum(lengths, 1) * num_mels
    mean = (known.sum(axis=(1, 2)) / count).astype(features.dtype)
    return jnp.where(hidden, mean[:, None, None], features)


def _spans(
    key: Key[Array, ""], sizes: Int[Array, "B"], count: int, width: int, room: int
) -> Bool[Array, "B room"]:
    """True in `count` spans of each row, within its first `sizes` places."""
    for_width, for_start = (
        jax.random.uniform(k, (len(sizes), count)) for k in jax.random.split(key)
    )
    widest = jnp.minimum(sizes, width)[:, None]
    widths = jnp.minimum((for_width * (widest + 1)).astype(int), widest)
    starts = jnp.minimum(
        (for_start * (sizes[:, None] - widths + 1)).astype(int), sizes[:, None] - widths
    )
    places = jnp.arange(room)[None, None]
    inside = (places >= starts[:, :, None]) & (places < (starts + widths)[:, :, None])
    return inside.any(axis=1)
