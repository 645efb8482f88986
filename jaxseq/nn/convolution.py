"""Layers that convolve over time: depthwise, and strided to make a sequence shorter.

Both keep one contract:

    layer(x "B T D", valid "B T", before=None) -> (y, after)

What stands where `valid` is False, NaN included, is read as 0. Without `before` the sequence begins
and ends here, and zeros stand around it. With it, x goes on with a sequence: `before` are its last
inputs (`after` of the call before; zeros at first), and the layer must be causal.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseq.nn.linear import Linear
from jaxseq.nn.parameters import parameter
from jaxseq.ops.convolution import convolution, depthwise_convolution
from jaxseq.typing import Array, Bool, Float


class DepthwiseConvolution(nn.Module):
    """Every feature convolved along time by itself; y is as long as x.

        y_t = b + sum_k w_k * x_{t + k - p}        p = floor((K - 1) / 2), or K - 1 if `causal`

    K is the `kernel`'s size in steps. `after` are the last K - 1 inputs.
    """

    kernel: int
    causal: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        valid: Bool[Array, "B T"],
        before: Float[Array, "B P D"] | None = None,
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B P D"]]:
        """See the contract above; ValueError for `before` in a layer that is not causal."""
        size, width = self.kernel, x.shape[-1]
        init = nn.initializers.normal(size**-0.5)
        kernel = parameter(self, "kernel", init, ("position", "mlp"), (size, width))
        bias = parameter(self, "bias", nn.initializers.zeros, ("mlp",), (width,))
        x = _preceded(self, x, valid, before, size - 1 if self.causal else (size - 1) // 2)
        after = x[:, x.shape[1] - (size - 1) :]
        if not self.causal:
            x = jnp.pad(x, ((0, 0), (0, size // 2), (0, 0)))
        return depthwise_convolution(x, kernel, bias), after


class StridedConvolution(nn.Module):
    """A convolution along time that keeps every `stride`-th step: ceil(T / stride) of them.

        y_s = b + sum_k W_k x_{stride s + k - p}    p = floor((K - 1) / 2), or K - 1 if `causal`

    A row of length L has ceil(L / stride) outputs that see any of it. A sequence that goes on is
    given a multiple of `stride` steps at a time, and the first call `stride` - 1 steps that are
    not valid before its own: so each call ends with the last step that its last output sees, and
    `after` are the last K - `stride` inputs.
    """

    features: int
    kernel: int = 3
    stride: int = 2
    causal: bool = False
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        valid: Bool[Array, "B T"],
        before: Float[Array, "B P D"] | None = None,
    ) -> tuple[Float[Array, "B S F"], Float[Array, "B Q D"]]:
        """See the contract above; ValueError for `before` in a layer that is not causal."""
        size, fan_in = self.kernel, self.kernel * x.shape[-1]
        init = nn.initializers.normal((2 / fan_in) ** 0.5)  # SiLU halves what it is given
        kernel = parameter(self, "kernel", init, ("position", "embed"), (fan_in, self.features))
        bias = parameter(self, "bias", nn.initializers.zeros, ("embed",), (self.features,))
        outputs = -(-x.shape[1] // self.stride)
        x = _preceded(self, x, valid, before, size - 1 if self.causal else (size - 1) // 2)
        after = x[:, x.shape[1] - (size - self.stride) :]
        missing = self.stride * (outputs - 1) + size - x.shape[1]
        x = jnp.pad(x, ((0, 0), (0, max(missing, 0)), (0, 0)))
        return convolution(x, kernel, bias, stride=self.stride, dtype=self.dtype), after


class Subsampling(nn.Module):
    """Features made `factor` (a power of 2) times as sparse in time: y = W silu(conv( ... x)) + b.

    Each convolution sees 3 steps and keeps every second. `before` and `after` are tuples with an
    entry for each; `start` gives the first. The steps of a call that goes on with a sequence are
    arranged as `StridedConvolution` says, with `factor` in the place of its stride.
    """

    features: int
    factor: int = 4
    causal: bool = False
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T M"],
        valid: Bool[Array, "B T"],
        before: tuple[Array, ...] | None = None,
    ) -> tuple[Float[Array, "B S D"], Bool[Array, "B S"], tuple[Array, ...]]:
        """Returns (y, which of its steps see any of a row, after)."""
        after = []
        for i in range(self._stages()):
            layer = StridedConvolution(
                self.features, causal=self.causal, dtype=self.dtype, name=f"layer_{i}"
            )
            x, last = layer(x, valid, None if before is None else before[i])
            # Output s is there where input 2 s is, which in a call that goes on is its second.
            valid = valid[:, 0 if before is None else 1 :: 2]
            x = jax.nn.silu(x)
            after.append(last)
        scale = self.features**-0.5
        out = Linear(self.features, ("position", "embed"), True, scale, self.dtype, name="out")
        return out(jnp.where(valid[..., None], x, 0)), valid, tuple(after)

    def start(self, batch_size: int, features: int) -> tuple[Array, ...]:
        """What stands before a sequence of vectors of this size: zeros."""
        sizes = [features] + [self.features] * (self._stages() - 1)
        return tuple(jnp.zeros((batch_size, 1, size)) for size in sizes)

    def _stages(self) -> int:
        stages = self.factor.bit_length() - 1
        if self.factor != 2**stages or stages == 0:
            raise ValueError(f"factor: {self.factor} is no power of 2 from 2 on")
        return stages


def _preceded(
    layer: DepthwiseConvolution | StridedConvolution,
    x: Array,
    valid: Array,
    before: Array | None,
    padding: int,
) -> Array:
    """x without what is not valid, behind `before` or that many zeros."""
    x = jnp.where(valid[..., None], x, 0)
    if before is None:
        return jnp.pad(x, ((0, 0), (padding, 0), (0, 0)))
    if not layer.causal:
        raise ValueError("before: a layer that sees what comes later cannot go on with a sequence")
    return jnp.concatenate([before.astype(x.dtype), x], axis=1)
