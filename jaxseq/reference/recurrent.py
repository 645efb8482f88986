"""Twin of `ops.elman`, `ops.lstm`, `ops.gru`, `nn.recurrent` and `nn.concat_elman`.

Every function reads one row after the other and in each one step after the other.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxseq.reference.linear import linear
from jaxseq.reference.normalization import layer_norm

Step = Callable[[np.ndarray, tuple], tuple]


def sigmoid(z: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-z))."""
    return 1 / (1 + np.exp(-z))


ACTIVATIONS = {
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0),
    "sigmoid": sigmoid,
    "identity": lambda z: z,
}


def read(
    step: Step,
    x: np.ndarray,
    carry: tuple[np.ndarray, ...],
    lengths: np.ndarray | None = None,
    reverse: bool = False,
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """(y (B, T, F), carry): each row from its first to its last valid step, or backwards.

    step(x_t (D,), state of one row) -> state after it, whose first array (F,) is y_t.
    """
    batch, steps, _ = x.shape
    y = np.zeros((batch, steps, carry[0].shape[1]))
    after = tuple(np.array(s, np.float64) for s in carry)
    for b in range(batch):
        length = steps if lengths is None else min(int(lengths[b]), steps)
        state = tuple(s[b] for s in carry)
        for t in reversed(range(length)) if reverse else range(length):
            state = step(x[b, t], state)
            y[b, t] = state[0]
        for s, value in zip(after, state, strict=True):
            s[b] = value
    return y, after


def zeros(x: np.ndarray, recurrent_kernel: np.ndarray) -> np.ndarray:
    """The state before the first step."""
    return np.zeros((x.shape[0], recurrent_kernel.shape[0]))


def elman(
    x: np.ndarray,
    kernel: np.ndarray,
    recurrent_kernel: np.ndarray,
    bias: np.ndarray,
    carry: np.ndarray | None = None,
    lengths: np.ndarray | None = None,
    *,
    activation: str = "tanh",
    reverse: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """(h at every step, last h): h_t = sigma(x_t W + h_{t-1} U + b)."""

    def step(x_t: np.ndarray, state: tuple) -> tuple:
        (h,) = state
        return (ACTIVATIONS[activation](x_t @ kernel + h @ recurrent_kernel + bias),)

    first = zeros(x, recurrent_kernel) if carry is None else carry
    y, (h,) = read(step, x, (first,), lengths, reverse)
    return y, h


def lstm(
    x: np.ndarray,
    kernel: np.ndarray,
    recurrent_kernel: np.ndarray,
    bias: np.ndarray,
    carry: tuple[np.ndarray, np.ndarray] | None = None,
    lengths: np.ndarray | None = None,
    *,
    reverse: bool = False,
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """(h at every step, last (h, c)): h_t = o * tanh(c_t), c_t = f * c_{t-1} + i * g."""

    def step(x_t: np.ndarray, state: tuple) -> tuple:
        h, c = state
        i, f, g, o = np.split(x_t @ kernel + h @ recurrent_kernel + bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c

    first = (zeros(x, recurrent_kernel),) * 2 if carry is None else carry
    return read(step, x, first, lengths, reverse)


def gru(
    x: np.ndarray,
    kernel: np.ndarray,
    recurrent_kernel: np.ndarray,
    bias: np.ndarray,
    recurrent_bias: np.ndarray,
    carry: np.ndarray | None = None,
    lengths: np.ndarray | None = None,
    *,
    reverse: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """(h at every step, last h): h_t = (1 - z) * n + z * h_{t-1}, reset after the product."""

    def step(x_t: np.ndarray, state: tuple) -> tuple:
        (h,) = state
        x_r, x_z, x_n = np.split(x_t @ kernel + bias, 3)
        h_r, h_z, h_n = np.split(h @ recurrent_kernel, 3)
        r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
        n = np.tanh(x_n + r * (h_n + recurrent_bias))
        return ((1 - z) * n + z * h,)

    first = zeros(x, recurrent_kernel) if carry is None else carry
    y, (h,) = read(step, x, (first,), lengths, reverse)
    return y, h


def elman_with_output(
    params: dict[str, np.ndarray],
    x: np.ndarray,
    carry: np.ndarray | None = None,
    lengths: np.ndarray | None = None,
    *,
    activation: str = "tanh",
    reverse: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """(y at every step, last h): y_t = h_t W_y + b_y, and 0 in the padding."""
    gates = params["kernel"], params["recurrent_kernel"], params["bias"]
    h, last = elman(x, *gates, carry, lengths, activation=activation, reverse=reverse)
    y = linear(h, params["output_kernel"], params["output_bias"])
    return zero_padding(y, lengths), last


def concat_elman(
    params: dict[str, np.ndarray],
    x: np.ndarray,
    carry: np.ndarray | None = None,
    lengths: np.ndarray | None = None,
    *,
    activation: str = "tanh",
    reverse: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """(y at every step, last h): both from [x_t, h_{t-1}], y by log-softmax."""
    batch, classes = x.shape[0], len(params["output_bias"])
    if carry is None:
        carry = np.zeros((batch, len(params["hidden_bias"])))

    def step(x_t: np.ndarray, state: tuple) -> tuple:
        _, h = state
        both = np.concatenate([x_t, h])
        logits = both @ params["output_kernel"] + params["output_bias"]
        h = ACTIVATIONS[activation](both @ params["hidden_kernel"] + params["hidden_bias"])
        return logits - np.log(np.sum(np.exp(logits))), h

    y, (_, h) = read(step, x, (np.zeros((batch, classes)), carry), lengths, reverse)
    return y, h


CELLS = {"elman": elman, "lstm": lstm, "gru": gru}


def recurrent_stack(
    params: dict[str, Any],
    x: np.ndarray,
    carry: tuple | None = None,
    lengths: np.ndarray | None = None,
    *,
    cell: str,
    num_layers: int,
    bidirectional: bool = False,
    residual: bool = False,
) -> tuple[np.ndarray, tuple]:
    """(y, carries): layers in a row, normalised first where `params` has a norm for them."""
    after = []
    x = zero_padding(x, lengths)
    for layer in range(num_layers):
        first = None if carry is None else carry[layer]
        u = layer_norm(x, **params[f"norm_{layer}"]) if f"norm_{layer}" in params else x
        if bidirectional:
            first, last = (None, None) if first is None else first
            y, forward = CELLS[cell](u, **params[f"layer_{layer}"], carry=first, lengths=lengths)
            back, backward = CELLS[cell](
                u, **params[f"layer_{layer}_reverse"], carry=last, lengths=lengths, reverse=True
            )
            y, state = np.concatenate([y, back], axis=-1), (forward, backward)
        else:
            y, state = CELLS[cell](u, **params[f"layer_{layer}"], carry=first, lengths=lengths)
        x = x + y if residual and x.shape == y.shape else y
        after.append(state)
    return x, tuple(after)


def zero_padding(x: np.ndarray, lengths: np.ndarray | None) -> np.ndarray:
    """x (B, T, D) with zeros from step lengths[b] on."""
    x = np.array(x, np.float64)
    if lengths is not None:
        for b, length in enumerate(lengths):
            x[b, length:] = 0
    return x
