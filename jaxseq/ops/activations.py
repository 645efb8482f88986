"""Pointwise nonlinearities."""

import jax

from jaxseq.typing import Array, Float


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Gaussian error linear unit in its tanh form (Hendrycks and Gimpel 2016, arXiv:1606.08415).

    y = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
    """
    return jax.nn.gelu(x, approximate=True)


def swiglu(gate: Float[Array, "..."], x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Gated linear unit with a swish gate (Shazeer 2020, arXiv:2002.05202).

    y = gate * sigmoid(gate) * x
    """
    return jax.nn.silu(gate) * x
