"""Twin of `nn.mlp`. Parameters: linear layers "in", "out" and, for swiglu, "gate"."""

from typing import Any

import numpy as np

from jaxseq.reference.activations import gelu, swiglu
from jaxseq.reference.linear import linear


def mlp(params: dict[str, Any], x: np.ndarray, *, activation: str = "gelu") -> np.ndarray:
    """y = W_out gelu(W_in x), or W_out (silu(W_gate x) * W_in x), for x (..., D)."""
    hidden = linear(x, **params["in"])
    gated = activation == "swiglu"
    hidden = swiglu(linear(x, **params["gate"]), hidden) if gated else gelu(hidden)
    return linear(hidden, **params["out"])
