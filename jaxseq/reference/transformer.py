"""Twin of `nn.transformer`."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from jaxseq.reference.attention import self_attention
from jaxseq.reference.experts import mixture_of_experts
from jaxseq.reference.mlp import mlp
from jaxseq.reference.normalization import layer_norm, rms_norm


def norm(params: dict[str, Any], x: np.ndarray, kind: str, epsilon: float = 1e-5) -> np.ndarray:
    """RMSNorm ("rms") or LayerNorm ("layer") of x (..., D)."""
    rule = rms_norm if kind == "rms" else layer_norm
    return rule(x, **params, epsilon=epsilon)


def block(
    params: dict[str, Any],
    x: np.ndarray,
    *,
    norm_kind: str = "layer",
    norm_epsilon: float = 1e-5,
    norm_position: str = "pre",
    activation: str = "gelu",
    experts: Any = None,
    memory: np.ndarray | None = None,
    memory_mask: np.ndarray | None = None,
    **attend: Any,
) -> np.ndarray:
    """Attention (and attention to a memory) and MLP, each f with a residual around it.

    x + f(norm(x)) if "pre", norm(x + f(x)) if "post", for x (B, T, D); `attend` goes to
    `self_attention`.
    """
    branches: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "attention": partial(
            self_attention, params["attention"], norm_epsilon=norm_epsilon, **attend
        )
    }
    if memory is not None:
        kept = ("num_heads", "num_kv_heads", "scale")
        look: dict[str, Any] = {name: attend[name] for name in kept if name in attend}
        look |= {"memory": memory, "memory_mask": memory_mask, "causal": False}
        branches["cross"] = partial(self_attention, params["cross_attention"], **look)
    if experts is not None and experts.count:
        segments = attend.get("segments")
        valid = np.ones(x.shape[:2], bool) if segments is None else segments != 0
        branches["mlp"] = lambda x: mixture_of_experts(
            params["experts"], x, valid, experts, activation
        )[0]
    else:
        branches["mlp"] = partial(mlp, params["mlp"], activation=activation)

    for name, f in branches.items():
        normed = params[f"{name}_norm"], norm_kind, norm_epsilon
        if norm_position == "pre":
            x = x + f(norm(normed[0], x, *normed[1:]))
        else:
            x = norm(normed[0], x + f(x), *normed[1:])
    return x


def stack(params: dict[str, Any], x: np.ndarray, num_layers: int, **fields: Any) -> np.ndarray:
    """`num_layers` blocks in a row; every array in `params` has a leading layer axis.

    A list of `windows` has the window of each layer.
    """
    windows = fields.pop("windows", None)
    for layer in range(num_layers):
        if windows is not None:
            fields["window"] = windows[layer]
        x = block(at_layer(params, layer), x, **fields)
    return x


def at_layer(params: dict[str, Any], layer: int) -> dict[str, Any]:
    """The parameters of one block out of the stacked ones."""
    return {
        name: at_layer(entry, layer) if isinstance(entry, dict) else entry[layer]
        for name, entry in params.items()
    }
