"""Twin of `ops.convolution` and `nn.convolution`."""

from typing import Any

import numpy as np

from jaxseq.reference.activations import silu
from jaxseq.reference.linear import linear


def convolution(
    x: np.ndarray, kernel: np.ndarray, bias: np.ndarray | None = None, *, stride: int = 1
) -> np.ndarray:
    """y_s = b + sum_k x_{stride s + k} W_k: x (B, T, D), kernel (K D, F), result (B, S, F)."""
    x = np.asarray(x, np.float64)
    batch, steps, width = x.shape
    size, features = len(kernel) // width, kernel.shape[1]
    y = np.zeros((batch, (steps - size) // stride + 1, features))
    for b, s in np.ndindex(y.shape[:2]):
        for k in range(size):
            y[b, s] += x[b, stride * s + k] @ kernel[k * width : (k + 1) * width]
        if bias is not None:
            y[b, s] += bias
    return y


def depthwise_convolution(
    x: np.ndarray, kernel: np.ndarray, bias: np.ndarray | None = None
) -> np.ndarray:
    """y_s = b + sum_k x_{s + k} * w_k: x (B, T, D), kernel (K, D), result (B, T - K + 1, D)."""
    x = np.asarray(x, np.float64)
    batch, steps, width = x.shape
    y = np.zeros((batch, steps - len(kernel) + 1, width))
    for b, s in np.ndindex(y.shape[:2]):
        for k, weights in enumerate(kernel):
            y[b, s] += x[b, s + k] * weights
        if bias is not None:
            y[b, s] += bias
    return y


def depthwise_layer(
    params: dict[str, np.ndarray], x: np.ndarray, lengths: np.ndarray, *, causal: bool
) -> np.ndarray:
    """`nn.convolution.DepthwiseConvolution`: y (B, T, D) of each row between zeros."""
    size = len(params["kernel"])
    before = size - 1 if causal else (size - 1) // 2
    return depthwise_convolution(_between_zeros(x, lengths, before, size - 1 - before), **params)


def strided_layer(
    params: dict[str, np.ndarray], x: np.ndarray, lengths: np.ndarray, *, causal: bool
) -> np.ndarray:
    """`nn.convolution.StridedConvolution` of 3 steps with stride 2: y (B, ceil(T / 2), F)."""
    before = 2 if causal else 1
    # A window that begins in the last step of x ends 2 behind it.
    return convolution(_between_zeros(x, lengths, before, 2 - before), **params, stride=2)


def subsampling(
    params: dict[str, Any], x: np.ndarray, lengths: np.ndarray, *, factor: int, causal: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(y, lengths): `factor` times fewer steps by convolutions with stride 2, then a linear map."""
    lengths = np.array(lengths)
    for i in range(int(np.log2(factor))):
        x = silu(strided_layer(params[f"layer_{i}"], x, lengths, causal=causal))
        lengths = (lengths + 1) // 2
    return linear(_between_zeros(x, lengths, 0, 0), **params["out"]), lengths


def _between_zeros(x: np.ndarray, lengths: np.ndarray, before: int, behind: int) -> np.ndarray:
    """Each row of x (B, T, D) up to its length, zeros behind it and around it."""
    batch, steps, width = x.shape
    y = np.zeros((batch, before + steps + behind, width))
    for b, length in enumerate(lengths):
        y[b, before : before + length] = x[b, :length]
    return y
