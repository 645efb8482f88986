"""Twin of `ops.activations`."""

import math

import numpy as np


def gelu(x: np.ndarray) -> np.ndarray:
    """y = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."""
    x = np.asarray(x, np.float64)
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def gelu_exact(x: np.ndarray) -> np.ndarray:
    """y = x/2 (1 + erf(x / sqrt(2)))."""
    x = np.asarray(x, np.float64)
    return x / 2 * (1 + np.vectorize(math.erf, otypes=[float])(x / np.sqrt(2)))


def relu(x: np.ndarray) -> np.ndarray:
    """y = max(x, 0)."""
    return np.maximum(np.asarray(x, np.float64), 0)


def silu(x: np.ndarray) -> np.ndarray:
    """y = x * sigmoid(x)."""
    return swiglu(x, np.ones_like(x, np.float64))


def geglu(gate: np.ndarray, x: np.ndarray) -> np.ndarray:
    """y = gelu(gate) * x."""
    return gelu(gate) * np.asarray(x, np.float64)


def swiglu(gate: np.ndarray, x: np.ndarray) -> np.ndarray:
    """y = gate * sigmoid(gate) * x."""
    gate, x = np.asarray(gate, np.float64), np.asarray(x, np.float64)
    sigmoid = (1 + np.tanh(gate / 2)) / 2
    return gate * sigmoid * x
