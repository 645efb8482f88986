"""The feed-forward layer of a Transformer."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseq.nn.linear import Linear
from jaxseq.ops.activations import gelu, gelu_exact, swiglu
from jaxseq.ops.quantized_linear import Quantize
from jaxseq.parallel.rules import constrain
from jaxseq.typing import Array, Float

Activation = Literal["gelu", "gelu_exact", "relu", "silu", "swiglu", "geglu"]

POINTWISE = {"gelu": gelu, "gelu_exact": gelu_exact, "relu": jax.nn.relu, "silu": jax.nn.silu}
GATED = {"swiglu": swiglu, "geglu": lambda gate, x: gelu(gate) * x}


class MLP(nn.Module):
    """Two maps with a nonlinearity between, applied at every position by itself.

    y = W_out f(W_in x)               "gelu" (its tanh form), "gelu_exact", "relu", "silu"
    y = W_out (f(W_gate x) * W_in x)  "swiglu" (f = silu), "geglu" (f = gelu, its tanh form)
                                      (Shazeer 2020, arXiv:2002.05202)
    """

    hidden: int
    activation: Activation = "gelu"
    use_bias: bool = True
    output_init_scale: float = 0.02
    dtype: jnp.dtype | None = None
    quantize: Quantize = "none"

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Returns the layer's output, x's shape."""

        def project(name: str) -> Float[Array, "B T F"]:
            axes = ("embed", "mlp")
            layer = Linear(
                *(self.hidden, axes, self.use_bias),
                dtype=self.dtype,
                quantize=self.quantize,
                name=name,
            )
            y = layer(x)
            return constrain(y, "batch", "time", "mlp")

        if self.activation in GATED:
            hidden = GATED[self.activation](project("gate"), project("in"))
        else:
            hidden = POINTWISE[self.activation](project("in"))
        return Linear(
            x.shape[-1],
            ("mlp", "embed"),
            self.use_bias,
            self.output_init_scale,
            self.dtype,
            self.quantize,
            name="out",
        )(hidden)
