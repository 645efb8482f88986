"""The affine layer that the other layers are made of."""

import flax.linen as nn
import jax.numpy as jnp

from jaxseq.nn.parameters import parameter
from jaxseq.ops.linear import linear
from jaxseq.ops.quantized_linear import Quantize, quantized_linear
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
    quantize: Quantize = "none"

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
        """Maps the last axis of x from its size to `features`."""
        init = nn.initializers.normal(self.init_scale)
        kernel = parameter(self, "kernel", init, self.axes, (x.shape[-1], self.features))
        bias = None
        if self.use_bias:
            bias = parameter(self, "bias", nn.initializers.zeros, self.axes[1:], (self.features,))
        if self.quantize == "none":
            y = linear(x, kernel, bias, dtype=self.dtype)
        else:
            y = quantized_linear(x, kernel, bias, quantize=self.quantize, dtype=self.dtype)
        if self.has_variable("params", "lora_down"):
            names = ("lora_down", "lora_up", "lora_scale")
            down, up, scale = (self.get_variable("params", name) for name in names)
            change = linear(linear(x, down, dtype=self.dtype), up, dtype=self.dtype)
            y = y + scale.astype(y.dtype) * change
        return y

    def affine(self) -> tuple[Float[Array, "D F"], Float[Array, "F"] | None]:
        """(W, an adapter added to it; b) of a layer that has its parameters."""
        kernel, bias = self.get_variable("params", "kernel"), None
        if self.use_bias:
            bias = self.get_variable("params", "bias")
        if self.has_variable("params", "lora_down"):
            names = ("lora_down", "lora_up", "lora_scale")
            down, up, scale = (self.get_variable("params", name) for name in names)
            kernel = kernel + scale.astype(kernel.dtype) * linear(down, up)
        return kernel, bias
