"""Twin of `nn.convolution_stack`."""

from typing import Any

import numpy as np

from jaxseq.reference.activations import gelu
from jaxseq.reference.normalization import layer_norm


def convolution_stack(
    params: dict[str, Any], x: np.ndarray, lengths: np.ndarray | None = None
) -> np.ndarray:
    """x -> LayerNorm(gelu(convolution(x))) for each layer, x (B, T, D), one row by itself.

    y_t = b + sum_k x_{t + k - (K - 1) // 2} W_k, x 0 outside the row.
    """
    features = params["layer_0"]["bias"].size
    outputs = np.zeros((*x.shape[:2], features))
    for b in range(len(x)):
        length = x.shape[1] if lengths is None else int(lengths[b])
        row = x[b, :length]
        for i in range(len(params) // 2):
            row = _convolution(params[f"layer_{i}"], row)
            row = layer_norm(gelu(row), **params[f"norm_{i}"], epsilon=1e-5)
        outputs[b, :length] = row
    return outputs


def _convolution(params: dict[str, np.ndarray], row: np.ndarray) -> np.ndarray:
    steps, width = row.shape
    kernel = params["kernel"].reshape(-1, width, params["bias"].size)
    y = np.zeros((steps, params["bias"].size))
    for t in range(steps):
        y[t] = params["bias"]
        for k in range(len(kernel)):
            at = t + k - (len(kernel) - 1) // 2
            if 0 <= at < steps:
                y[t] += row[at] @ kernel[k]
    return y
