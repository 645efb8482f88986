"""From tokens to frames: how long each token lasts, and its encoding repeated that often."""

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from jaxseq.nn.convolution_stack import ConvolutionStack
from jaxseq.nn.linear import Linear
from jaxseq.ops.padding import valid_steps_of
from jaxseq.typing import Array, Float, Int


class DurationPredictor(nn.Module):
    """log(1 + d_s) of each token from its encoding and its neighbours' (Ren et al. 2020,
    arXiv:2006.04558), d_s in frames: a stack of convolutions and a linear layer.
    """

    features: int
    num_layers: int = 2
    kernel: int = 3
    dropout_rate: float = 0.0
    deterministic: bool = True
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S D"], lengths: Int[Array, "B"] | None = None
    ) -> Float[Array, "B S"]:
        """Logarithms of 1 + durations; 0 in the padding."""
        x = ConvolutionStack(
            *(self.features, self.num_layers, self.kernel, self.dropout_rate, self.deterministic),
            dtype=self.dtype,
            name="layers",
        )(x, lengths)
        scale = self.features**-0.5
        y = Linear(1, ("embed", "norm"), True, scale, self.dtype, name="output")(x)[..., 0]
        return jnp.where(valid_steps_of(x, lengths), y, 0)


def whole_durations(
    log_durations: Float[Array, "B S"], lengths: Int[Array, "B"], longest: int
) -> Int[Array, "B S"]:
    """max(1, round(exp(l) - 1)) frames for each token, at most `longest`; 0 in the padding."""
    frames = jnp.expm1(jnp.clip(log_durations, 0, jnp.log1p(longest)))
    frames = jnp.clip(jnp.round(frames), 1, longest).astype(jnp.int32)
    return jnp.where(valid_steps_of(log_durations, lengths), frames, 0)


def frame_alignment(durations: Int[Array, "B S"], num_frames: int) -> Float[Array, "B T S"]:
    """1 where frame t is one of token s, else 0: the first d_0 frames are those of token 0, ...

    Frames from the sum of a row's durations on belong to no token; frames from `num_frames` on are
    cut off.
    """
    ends = jnp.cumsum(durations, axis=1)[:, None]
    frames = jnp.arange(num_frames)[None, :, None]
    belongs = (frames >= ends - durations[:, None]) & (frames < ends)
    return belongs.astype(jnp.result_type(float))


def regulate_length(
    x: Float[Array, "B S D"], durations: Int[Array, "B S"], num_frames: int
) -> tuple[Float[Array, "B T D"], Int[Array, "B"]]:
    """Each token's vector repeated d_s times (Ren et al. 2019, arXiv:1905.09263), and how many
    frames there are: at most T = `num_frames`.

    Frames behind them are 0; tokens that last no frame, the padding's, are not looked at.
    """
    x = jnp.where(durations[..., None] > 0, x, 0)
    # A product with zeros and ones, because the gradient of an index is slow; "highest" so that a
    # TPU copies all bits.
    alignment = frame_alignment(durations, num_frames).astype(x.dtype)
    frames = jnp.einsum("BTS,BSD->BTD", alignment, x, precision=lax.Precision.HIGHEST)
    return frames, jnp.minimum(durations.sum(axis=1), num_frames)


def places_in_tokens(
    durations: Int[Array, "B S"], num_frames: int
) -> tuple[Int[Array, "B T"], Int[Array, "B T"]]:
    """How many frames of its token stand before a frame, and how many behind it; 0 for frames of
    no token.
    """
    alignment = frame_alignment(durations, num_frames).astype(durations.dtype)
    ends = jnp.cumsum(durations, axis=1)
    start, end = (jnp.einsum("BTS,BS->BT", alignment, edge) for edge in (ends - durations, ends))
    frames = jnp.arange(num_frames, dtype=durations.dtype)[None]
    inside = frames < ends[:, -1:]
    return jnp.where(inside, frames - start, 0), jnp.where(inside, end - 1 - frames, 0)
