"""The affine layer that the other layers are made of."""

import flax.linen as nn
import jax.numpy as jnp

from jaxseq.nn.parameters import parameter
from jaxseq.ops.linear import linear
from jaxseq.typing import Array, Float


class Linear(nn.Module):
    """y = x W + b, with a logical name for W's input and output axes.

    Weights start as normal numbers of standard deviation `init_scale`, biases at zero. Where the
    parameters hold a low-rank adapter (Hu et al. 2021, arXiv:2106.09685; `training.lora` makes
    them), y = x W + b + s (x A) B.
    """

    features: int
    axes: tuple[str, str]
    use_bias: bool = True
    init_scale: float = 0.02
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
        """Maps the last axis of x from its size to `features`."""
        init = nn.initializers.normal(self.init_scale)
        kernel = parameter(self, "kernel", init, self.axes, (x.shape[-1], self.features))
        bias = None
        if self.use_bias:
            bias = parameter(self, "bias", nn.initializers.zeros, self.axes[1:], (self.features,))
        y = linear(x, kernel, bias, dtype=self.dtype)
        if self.has_variable("params", "lora_down"):
            names = ("lora_down", "lora_up", "lora_scale")
            down, up, scale = (self.get_variable("params", name) for name in names)
            change = linear(linear(x, down, dtype=self.dtype), up, dtype=self.dtype)
            y = y + scale.astype(y.dtype) * change
        return y
