"""Pointwise nonlinearities."""

import math

import jax
import jax.numpy as jnp

from jaxseq.ops.precision import accumulator
from jaxseq.typing import Array, Float

SLOPE, CUBIC = math.sqrt(2 / math.pi), 0.044715


@jax.custom_vjp
def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Gaussian error linear unit in its tanh form (Hendrycks and Gimpel 2016, arXiv:1606.08415).

    y = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))

    The gradient keeps x alone and computes the tanh again, which costs less than a second array
    of the feed-forward width kept per layer.
    """
    return _gelu_forward(x)[0]


def _gelu_forward(x: Array) -> tuple[Array, Array]:
    return jax.nn.gelu(x, approximate=True), x


def _gelu_backward(x: Array, dy: Array) -> tuple[Array]:
    wide = x.astype(accumulator(x.dtype))
    bend = jnp.tanh(SLOPE * (wide + CUBIC * wide**3))
    slope = 0.5 * (1 + bend) + 0.5 * wide * (1 - bend**2) * SLOPE * (1 + 3 * CUBIC * wide**2)
    return ((dy * slope).astype(x.dtype),)


gelu.defvjp(_gelu_forward, _gelu_backward)


def gelu_exact(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Gaussian error linear unit (Hendrycks and Gimpel 2016, arXiv:1606.08415), as BERT has it.

    y = x Phi(x) = x/2 (1 + erf(x / sqrt(2)))
    """
    return jax.nn.gelu(x, approximate=False)


def swiglu(gate: Float[Array, "..."], x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Gated linear unit with a swish gate (Shazeer 2020, arXiv:2002.05202).

    y = gate * sigmoid(gate) * x
    """
    return jax.nn.silu(gate) * x
