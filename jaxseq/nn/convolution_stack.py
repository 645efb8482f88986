"""Convolutions over time in a row, each followed by GELU and LayerNorm."""

import flax.linen as nn
import jax.numpy as jnp

from jaxseq.nn.convolution import StridedConvolution
from jaxseq.nn.normalization import LayerNorm
from jaxseq.ops.activations import gelu
from jaxseq.ops.padding import valid_steps_of, zero_padding
from jaxseq.typing import Array, Float, Int


class ConvolutionStack(nn.Module):
    """`num_layers` times x -> dropout(LayerNorm(gelu(convolution(x)))), of the same length.

    The layers of FastSpeech's predictor of durations (Ren et al. 2019, arXiv:1905.09263), with GELU
    for their ReLU. Those of Tacotron's encoder and postnet have a batch norm instead, which makes a
    row depend on what it is padded and batched with. A convolution sees `kernel` steps.
    """

    features: int
    num_layers: int
    kernel: int
    dropout_rate: float = 0.0
    deterministic: bool = True
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], lengths: Int[Array, "B"] | None = None
    ) -> Float[Array, "B T F"]:
        """Maps D features to F; what stands in the padding is read as 0, and y is 0 there."""
        valid = valid_steps_of(x, lengths)
        for i in range(self.num_layers):
            shape = self.features, self.kernel
            layer = StridedConvolution(*shape, stride=1, dtype=self.dtype, name=f"layer_{i}")
            x, _ = layer(x, valid)
            x = LayerNorm(name=f"norm_{i}")(gelu(x))
            x = nn.Dropout(self.dropout_rate)(x, deterministic=self.deterministic)
        return zero_padding(x, lengths)
