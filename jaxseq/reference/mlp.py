"""Twin of `nn.mlp`. Parameters: linear layers "in", "out" and, for gated ones, "gate"."""

from typing import Any

import numpy as np

from jaxseq.reference import activations
from jaxseq.reference.linear import linear


def mlp(params: dict[str, Any], x: np.ndarray, *, activation: str = "gelu") -> np.ndarray:
    """y = W_out f(W_in x), or W_out (f(W_gate x) * W_in x) if f is gated, for x (..., D)."""
    f, hidden = getattr(activations, activation), linear(x, **params["in"])
    gated = activation in ("swiglu", "geglu")
    hidden = f(linear(x, **params["gate"]), hidden) if gated else f(hidden)
    return linear(hidden, **params["out"])
