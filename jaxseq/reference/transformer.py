"""Twin of `nn.transformer`."""

from typing import Any

import numpy as np

from jaxseq.reference.attention import self_attention
from jaxseq.reference.mlp import mlp
from jaxseq.reference.normalization import layer_norm, rms_norm


def norm(params: dict[str, Any], x: np.ndarray, kind: str) -> np.ndarray:
    """RMSNorm ("rms") or LayerNorm ("layer") of x (..., D)."""
    return rms_norm(x, **params) if kind == "rms" else layer_norm(x, **params)


def block(
    params: dict[str, Any],
    x: np.ndarray,
    *,
    norm_kind: str = "layer",
    norm_position: str = "pre",
    activation: str = "gelu",
    **attend: Any,
) -> np.ndarray:
    """Attention and MLP with residuals: x + f(norm(x)) if "pre", norm(x + f(x)) if "post".

    x is (B, T, D); `attend` goes to `self_attention`.
    """
    if norm_position == "pre":
        normed = norm(params["attention_norm"], x, norm_kind)
        x = x + self_attention(params["attention"], normed, **attend)
        normed = norm(params["mlp_norm"], x, norm_kind)
        return x + mlp(params["mlp"], normed, activation=activation)
    x = x + self_attention(params["attention"], x, **attend)
    x = norm(params["attention_norm"], x, norm_kind)
    x = x + mlp(params["mlp"], x, activation=activation)
    return norm(params["mlp_norm"], x, norm_kind)


def stack(params: dict[str, Any], x: np.ndarray, num_layers: int, **fields: Any) -> np.ndarray:
    """`num_layers` blocks in a row; every array in `params` has a leading layer axis."""
    for layer in range(num_layers):
        x = block(at_layer(params, layer), x, **fields)
    return x


def at_layer(params: dict[str, Any], layer: int) -> dict[str, Any]:
    """The parameters of one block out of the stacked ones."""
    return {
        name: at_layer(entry, layer) if isinstance(entry, dict) else entry[layer]
        for name, entry in params.items()
    }
