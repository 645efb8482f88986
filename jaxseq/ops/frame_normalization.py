"""Features of speech with the loudness and colour of their recording taken out of them.

Each feature is shifted and scaled by its mean and variance over time: those of the whole utterance,
or, where speech is recognised as it is spoken, of what was heard so far.
"""

import jax.numpy as jnp
from flax.struct import PyTreeNode

from jaxseq.ops.padding import valid_steps
from jaxseq.ops.precision import accumulator
from jaxseq.typing import Array, Bool, Float, Int

EPSILON = 1e-3


def standardise_utterances(
    x: Float[Array, "B T M"], lengths: Int[Array, "B"]
) -> Float[Array, "B T M"]:
    """y_t = (x_t - m) / sqrt(v + 0.001): m, v the mean and variance over a row's valid steps.

    0 behind a row's length, whatever stands there.
    """
    valid = valid_steps(lengths, x.shape[1])[:, :, None]
    x, dtype = jnp.where(valid, x.astype(accumulator(x.dtype)), 0), x.dtype
    number = jnp.maximum(lengths, 1)[:, None, None].astype(x.dtype)
    distance = jnp.where(valid, x - x.sum(axis=1, keepdims=True) / number, 0)
    variance = jnp.square(distance).sum(axis=1, keepdims=True) / number
    return (distance / jnp.sqrt(variance + EPSILON)).astype(dtype)


class RunningMoments(PyTreeNode):
    """What has been heard of each row: frames, their sum, the sum of their squared distances."""

    number: Float[Array, "B"]
    total: Float[Array, "B M"]
    squares: Float[Array, "B M"]


def no_moments(batch_size: int, features: int) -> RunningMoments:
    """The moments before anything is heard."""
    zeros = jnp.zeros((batch_size, features))
    return RunningMoments(jnp.zeros(batch_size), zeros, zeros)


def standardise_running(
    x: Float[Array, "B T M"], valid: Bool[Array, "B T"], before: RunningMoments
) -> tuple[Float[Array, "B T M"], RunningMoments]:
    """y_t = d_t / sqrt(v_t), which knows the frames up to t alone, and the moments behind x.

        d_t = x_t - (x_0 + ... + x_t) / (t + 1)     v_t = (1 + d_0^2 + ... + d_t^2) / (t + 2)

    The 1 is the variance that is believed in before anything is heard. t counts the valid steps,
    those of the calls before among them; y is 0 at others.
    """
    dtype, wide = x.dtype, accumulator(x.dtype)
    x = jnp.where(valid[:, :, None], x.astype(wide), 0)
    number = before.number.astype(wide)[:, None] + jnp.cumsum(valid, axis=1, dtype=wide)
    total = before.total.astype(wide)[:, None] + jnp.cumsum(x, axis=1)
    distance = jnp.where(valid[:, :, None], x - total / jnp.maximum(number, 1)[:, :, None], 0)
    squares = before.squares.astype(wide)[:, None] + jnp.cumsum(jnp.square(distance), axis=1)
    y = distance * jnp.sqrt((number + 1)[:, :, None] / (1 + squares))
    after = RunningMoments(number[:, -1], total[:, -1], squares[:, -1])
    return y.astype(dtype), after
