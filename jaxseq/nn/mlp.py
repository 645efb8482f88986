"""The feed-forward layer of a Transformer."""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from jaxseq.nn.linear import Linear
from jaxseq.ops.activations import gelu, swiglu
from jaxseq.typing import Array, Float


class MLP(nn.Module):
    """Two maps with a nonlinearity between, applied at every position by itself.

    "gelu":    y = W_out gelu(W_in x)
    "swiglu":  y = W_out (silu(W_gate x) * W_in x)
    """

    hidden: int
    activation: Literal["gelu", "swiglu"] = "gelu"
    use_bias: bool = True
    output_init_scale: float = 0.02
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Returns the layer's output, x's shape."""

        def project(name: str) -> Float[Array, "B T F"]:
            axes = ("embed", "mlp")
            return Linear(self.hidden, axes, self.use_bias, dtype=self.dtype, name=name)(x)

        if self.activation == "swiglu":
            hidden = swiglu(project("gate"), project("in"))
        else:
            hidden = gelu(project("in"))
        return Linear(
            x.shape[-1],
            ("mlp", "embed"),
            self.use_bias,
            self.output_init_scale,
            self.dtype,
            name="out",
        )(hidden)
