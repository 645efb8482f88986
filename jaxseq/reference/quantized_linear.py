"""Twin of `ops.quantized_linear`."""

import numpy as np

FLOATS = {"e4m3": (3, -6, 448.0), "e5m2": (2, -14, 57344.0)}
"""Bits behind the point, least exponent, largest number."""


def quantized_linear(
    x: np.ndarray, kernel: np.ndarray, bias: np.ndarray | None, form: str
) -> np.ndarray:
    """Q(x) Q(W) + b for x (T, D) and W (D, F); `product` says what has a scale of its own."""
    y = product(x, kernel, form, form)
    return y if bias is None else y + bias


def product(a: np.ndarray, b: np.ndarray, form_a: str, form_b: str) -> np.ndarray:
    """Q(a) Q(b), with a scale for each row of a (T, D) and each column of b (D, F)."""
    rows = np.stack([quantized(row, form_a) for row in np.asarray(a, np.float64)])
    columns = np.stack([quantized(column, form_b) for column in np.asarray(b, np.float64).T])
    return rows @ columns.T


def quantized(x: np.ndarray, form: str) -> np.ndarray:
    """The vector x after rounding to 8 bits and back: "int8", "e4m3" or "e5m2"."""
    largest = np.max(np.abs(x))
    if largest == 0:
        return x
    if form == "int8":
        # Half a step more than 127: so much rounds to 127 still.
        scale = largest / 127.5
        return scale * np.clip(np.rint(x / scale), -128, 127)
    bits, least, most = FLOATS[form]
    scale = largest / most
    exponents = np.floor(np.log2(np.maximum(np.abs(x / scale), 1e-300)))
    step = 2.0 ** (np.maximum(exponents, least) - bits)
    return scale * step * np.rint(x / scale / step)
