"""Twin of `nn.embedding`. Parameters: {"table": (count, D)}."""

from typing import Any

import numpy as np

from jaxseq.reference.linear import linear


def embedding(params: dict[str, Any], numbers: np.ndarray) -> np.ndarray:
    """The table's rows at `numbers` (...), as (..., D); NaN for a number outside the table."""
    table, numbers = np.asarray(params["table"], np.float64), np.asarray(numbers)
    count, features = table.shape
    y = np.full((*numbers.shape, features), np.nan)
    for at in np.ndindex(numbers.shape):
        if 0 <= numbers[at] < count:
            y[at] = table[numbers[at]]
    return y


def attend(params: dict[str, Any], x: np.ndarray) -> np.ndarray:
    """Logits of x (..., D) against every row of the table: x E^T."""
    return linear(x, np.asarray(params["table"]).T)
