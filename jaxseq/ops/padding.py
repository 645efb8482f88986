"""Which steps of ragged rows are there, and zeros in place of those that are not."""

import jax.numpy as jnp

from jaxseq.typing import Array, Bool, Float, Int, Shaped


def valid_steps(lengths: Int[Array, "B"], num_steps: int) -> Bool[Array, "B T"]:
    """True where t < lengths[b], for t of 0 ... T - 1."""
    return jnp.arange(num_steps)[None, :] < lengths[:, None]


def valid_steps_of(
    x: Shaped[Array, "B T ..."], lengths: Int[Array, "B"] | None
) -> Bool[Array, "B T"]:
    """`valid_steps` for the rows of x; None: every step is."""
    if lengths is None:
        return jnp.ones(x.shape[:2], bool)
    return valid_steps(lengths, x.shape[1])


def zero_padding(
    x: Float[Array, "B T D"], lengths: Int[Array, "B"] | None
) -> Float[Array, "B T D"]:
    """x with 0 behind each row's length: what stands there reaches no sum and no gradient."""
    if lengths is None:
        return x
    return jnp.where(valid_steps(lengths, x.shape[1])[:, :, None], x, 0)
