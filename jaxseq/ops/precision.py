"""Where sums happen: softmax, log-sum-exp, statistics and losses never run below float32."""

import jax.numpy as jnp


def accumulator(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype to sum in: float32, or float64 where the data is float64."""
    return jnp.promote_types(dtype, jnp.float32)
