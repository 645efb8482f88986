"""Convolutions over time, as products of matrices and sums of shifted arrays.

Both read windows that lie wholly inside x; who wants padding puts it there before. That XLA's own
convolutions are not used is for CPUs, where a grouped one is slow and its gradient slower; a sum of
shifted products fuses into one loop on every platform.
"""

import jax.numpy as jnp

from jaxseq.ops.linear import linear
from jaxseq.typing import Array, Float


def convolution(
    x: Float[Array, "B T D"],
    kernel: Float[Array, "KD F"],
    bias: Float[Array, "F"] | None = None,
    *,
    stride: int = 1,
    dtype: jnp.dtype | None = None,
) -> Float[Array, "B S F"]:
    """A convolution along time of every `stride`-th window of K steps.

        y_s = b + sum_k x_{stride s + k} W_k        s = 0 ... floor((T - K) / stride)

    `kernel` holds W_0 ... W_{K-1} (D, F) one below the other. Operands of the product are cast to
    `dtype`, see `ops.linear`. Raises ValueError for a kernel that is no multiple of D high, or one
    longer than x.
    """
    steps, width = x.shape[1:]
    size, rest = divmod(kernel.shape[0], width)
    if rest or not 1 <= size <= steps:
        raise ValueError(
            f"kernel: {kernel.shape[0]} rows are no window of 1 to {steps} steps of {width}"
        )
    return linear(_windows(x, size, stride), kernel, bias, dtype=dtype)


def _windows(x: Float[Array, "B T D"], size: int, stride: int) -> Float[Array, "B S KD"]:
    """Each window's steps side by side."""
    last = x.shape[1] - size + 1
    return jnp.concatenate([x[:, k : last + k : stride] for k in range(size)], axis=-1)


def depthwise_convolution(
    x: Float[Array, "B T D"], kernel: Float[Array, "K D"], bias: Float[Array, "D"] | None = None
) -> Float[Array, "B S D"]:
    """A convolution along time of every feature by itself: S = T - K + 1.

        y_s = b + sum_k x_{s + k} * w_k

    Raises ValueError for a kernel longer than x.
    """
    size, outputs = kernel.shape[0], x.shape[1] - kernel.shape[0] + 1
    if outputs < 1:
        raise ValueError(f"kernel: {size} steps are more than the {x.shape[1]} of x")
    y = x[:, :outputs] * _at_every_step(kernel[0], x, outputs)
    for k in range(1, size):
        y = y + x[:, k : k + outputs] * _at_every_step(kernel[k], x, outputs)
    return y if bias is None else y + _at_every_step(bias, x, outputs)


def _at_every_step(vector: Array, x: Array, steps: int) -> Array:
    return jnp.broadcast_to(vector.astype(x.dtype), (len(x), steps, x.shape[2]))
