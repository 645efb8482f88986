"""Normalisation over the features of one position; statistics in float32 or wider."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

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
    y = _standardise(wide, epsilon, True) * _last(scale, wide)
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
    return (_standardise(wide, epsilon, False) * _last(scale, wide)).astype(x.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _standardise(x: Array, epsilon: float, centre: bool) -> Array:
    """n = r (x - m), with r = 1 / sqrt(mean((x - m)^2) + epsilon) and m the mean of x, or 0.

    Its gradient keeps n and r, one number a position:
    dx = r (dn - mean(dn) - n mean(dn n)), without mean(dn) where m is 0.
    """
    return _standardise_forward(x, epsilon, centre)[0]


def _standardise_forward(x: Array, epsilon: float, centre: bool) -> tuple[Array, tuple]:
    if centre:
        x = x - x.mean(axis=-1, keepdims=True)
    rate = lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + epsilon)
    standard = x * rate
    return standard, (standard, rate)


def _standardise_backward(epsilon: float, centre: bool, saved: tuple, dn: Array) -> tuple[Array]:
    standard, rate = saved
    across = dn - standard * (dn * standard).mean(axis=-1, keepdims=True)
    if centre:
        across = across - dn.mean(axis=-1, keepdims=True)
    return (rate * across,)


_standardise.defvjp(_standardise_forward, _standardise_backward)


def _last(vector: Float[Array, "D"], like: Float[Array, "... D"]) -> Float[Array, "... D"]:
    return jnp.broadcast_to(vector.astype(like.dtype), like.shape)
