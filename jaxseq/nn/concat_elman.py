"""Elman's network in the form of the PyTorch tutorial."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseq.nn.parameters import parameter
from jaxseq.nn.recurrent import INPUT_INIT, State
from jaxseq.ops.elman import Activation, elman
from jaxseq.ops.linear import linear
from jaxseq.ops.padding import zero_padding
from jaxseq.typing import Array, Float, Int


class ConcatElman(nn.Module):
    """Elman's network over the concatenation [x, h], with log-probabilities of classes as output.

    h_t = sigma([x_t, h_{t-1}] W_h + b_h)        y_t = log_softmax([x_t, h_{t-1}] W_y + b_y)

    This is the classifier of the PyTorch tutorial on names, which has no sigma ("identity") and
    reads y at the last step. y is (B, T, num_classes) and the carry is h, `features` wide.
    """

    features: int
    num_classes: int
    activation: Activation = "tanh"
    dtype: jnp.dtype | None = None

    @nn.compact
    def _parameters(self, inputs: int) -> tuple[Array, Array, Array, Array]:
        rows, zeros = inputs + self.features, nn.initializers.zeros
        shape, classes = (rows, self.features), (rows, self.num_classes)
        return (
            parameter(self, "hidden_kernel", INPUT_INIT, ("embed", "mlp"), shape),
            parameter(self, "hidden_bias", zeros, ("mlp",), shape[1:]),
            parameter(self, "output_kernel", INPUT_INIT, ("embed", "vocab"), classes),
            parameter(self, "output_bias", zeros, ("vocab",), classes[1:]),
        )

    def __call__(
        self,
        x: Float[Array, "B T D"],
        carry: State | None = None,
        lengths: Int[Array, "B"] | None = None,
        *,
        reverse: bool = False,
    ) -> tuple[Float[Array, "B T C"], State]:
        """See the contract above."""
        inputs, steps = x.shape[-1], x.shape[1]
        kernel, bias, output_kernel, output_bias = self._parameters(inputs)
        first = self.zero_carry(x.shape[0]) if carry is None else carry
        x = zero_padding(x, lengths)
        h, carry = elman(
            *(x, kernel[:inputs], kernel[inputs:], bias, first, lengths),
            activation=self.activation,
            reverse=reverse,
            dtype=self.dtype,
        )
        column = first[:, None].astype(h.dtype)
        if reverse:
            # The first step that a row reads is its last valid one.
            ends = jnp.full(x.shape[:1], steps) if lengths is None else jnp.minimum(lengths, steps)
            starts = (jnp.arange(steps)[None] == ends[:, None] - 1)[:, :, None]
            before = jnp.where(starts, column, jnp.concatenate([h, column], axis=1)[:, 1:])
        else:
            before = jnp.concatenate([column, h], axis=1)[:, :-1]
        both = jnp.concatenate([x, before], axis=-1)
        logits = linear(both, output_kernel, output_bias, dtype=self.dtype)
        return zero_padding(jax.nn.log_softmax(logits, axis=-1), lengths), carry

    def step(self, x: Float[Array, "B D"], carry: State) -> tuple[Float[Array, "B C"], State]:
        """See the contract above."""
        y, carry = self(x[:, None], carry)
        return y[:, 0], carry

    def zero_carry(self, batch_size: int) -> State:
        """h of zeros."""
        return jnp.zeros((batch_size, self.features))
