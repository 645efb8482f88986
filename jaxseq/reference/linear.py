"""Twin of `ops.linear` and `nn.linear`, whose parameters are the op's arguments."""

import numpy as np


def linear(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """y = x W + b over the last axis: x (..., D), kernel (D, F), bias (F,), result (..., F)."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    y = np.zeros((*x.shape[:-1], kernel.shape[1]))
    for at in np.ndindex(x.shape[:-1]):
        y[at] = x[at] @ kernel
        if bias is not None:
            y[at] += bias
    return y


def adapted_linear(
    x: np.ndarray,
    kernel: np.ndarray,
    bias: np.ndarray,
    lora_down: np.ndarray,
    lora_up: np.ndarray,
    lora_scale: float,
) -> np.ndarray:
    """y = x W + b + s (x A) B with a low-rank adapter: A (D, r), B (r, F), s ()."""
    return linear(x, kernel, bias) + lora_scale * linear(linear(x, lora_down), lora_up)
