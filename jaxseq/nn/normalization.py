"""Normalisation layers: the learned scale (and bias) around an op."""

import flax.linen as nn

from jaxseq.nn.parameters import parameter
from jaxseq.ops.normalization import layer_norm, rms_norm
from jaxseq.typing import Array, Float


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis, with a learned scale and, if wanted, bias."""

    epsilon: float = 1e-5
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """See `ops.normalization.layer_norm`."""
        size, bias = x.shape[-1:], None
        scale = parameter(self, "scale", nn.initializers.ones, ("norm",), size)
        if self.use_bias:
            bias = parameter(self, "bias", nn.initializers.zeros, ("norm",), size)
        return layer_norm(x, scale, bias, epsilon=self.epsilon)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last axis, with a learned scale."""

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """See `ops.normalization.rms_norm`."""
        scale = parameter(self, "scale", nn.initializers.ones, ("norm",), x.shape[-1:])
        return rms_norm(x, scale, epsilon=self.epsilon)
