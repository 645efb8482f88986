"""Normalisation over the features of one position; statistics in float32 or wider."""

import jax
import jax.numpy as jnp

from jaxseq.ops.precision import accumulator
from jaxseq.typing import Array, Float


def layer_norm(
    x: Float[Array, "... D"],
    scale: Float[Array, "D"],
    bias: Float[Array, "D"] | None = None,
    *,
    epsilon: float = 1e-5,
) -> Float[Array, "... D"]:
    """Layer normalisation (Ba et al. 2016, arXiv:1607.06450).

    y = scale * (x - mean) / sqrt(variance + epsilon) + bias, with the biased variance over D.
    """
    wide = x.astype(accumulator(x.dtype))
    centred = wide - wide.mean(axis=-1, keepdims=True)
    variance = jnp.square(centred).mean(axis=-1, keepdims=True)
    y = centred * jax.lax.rsqrt(variance + epsilon) * _last(scale, wide)
    if bias is not None:
        y = y + _last(bias, wide)
    return y.astype(x.dtype)


def rms_norm(
    x: Float[Array, "... D"], scale: Float[Array, "D"], *, epsilon: float = 1e-5
) -> Float[Array, "... D"]:
    """Root-mean-square normalisation (Zhang and Sennrich 2019, arXiv:1910.07467).

    y = scale * x / sqrt(mean(x^2) + epsilon), the mean over D.
    """
    wide = x.astype(accumulator(x.dtype))
    mean_square = jnp.square(wide).mean(axis=-1, keepdims=True)
    return (wide * jax.lax.rsqrt(mean_square + epsilon) * _last(scale, wide)).astype(x.dtype)


def _last(vector: Float[Array, "D"], like: Float[Array, "... D"]) -> Float[Array, "... D"]:
    return jnp.broadcast_to(vector.astype(like.dtype), like.shape)
