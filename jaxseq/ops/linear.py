"""The affine map, with product operands in the compute dtype and sums in float32."""

import jax.numpy as jnp

from jaxseq.ops.precision import accumulator
from jaxseq.typing import Array, Float


def linear(
    x: Float[Array, "... D"],
    kernel: Float[Array, "D F"],
    bias: Float[Array, "F"] | None = None,
    *,
    dtype: jnp.dtype | None = None,
) -> Float[Array, "... F"]:
    """y = x W + b over the last axis of x.

    Operands of the product are cast to `dtype` (the compute dtype; None keeps x's), products are
    summed in float32 or wider, and y has x's dtype.
    """
    dtype = dtype or x.dtype
    y = jnp.matmul(
        x.astype(dtype), kernel.astype(dtype), preferred_element_type=accumulator(x.dtype)
    ).astype(x.dtype)
    if bias is not None:
        y = y + jnp.broadcast_to(bias.astype(x.dtype), y.shape)
    return y
