"""Twin of `nn.linear_recurrent`: x (B, T, D), a carry, and lengths (B,), one step after another.

Every cell here is called as `cell(params, x, carry, lengths, reverse=...)` and returns y (B, T, F)
and the carry after the last step read. A carry is the tuple, or the one array, that the layer has.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxseq.reference.linear import linear
from jaxseq.reference.matrix_memory import matrix_memory
from jaxseq.reference.normalization import rms_norm

Params = dict[str, Any]


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x))."""
    return 1 / (1 + np.exp(-x))


def mingru(
    params: Params, x: np.ndarray, carry: np.ndarray, lengths: np.ndarray, *, reverse: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """h_t = (1 - z_t) h_{t-1} + z_t c_t, with z_t = sigmoid(W_z x_t + b_z), c_t = W_h x_t + b_h."""

    def step(x: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        z = sigmoid(linear(x, **params["update"]))
        h = (1 - z) * h + z * linear(x, **params["candidate"])
        return h, h

    return _run(step, x, carry, lengths, reverse)


def minlstm(
    params: Params, x: np.ndarray, carry: np.ndarray, lengths: np.ndarray, *, reverse: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """h_t = (f_t h_{t-1} + i_t c_t) / (f_t + i_t), with c_t = W_h x_t + b_h."""

    def step(x: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        f = sigmoid(linear(x, **params["forget"]))
        i = sigmoid(linear(x, **params["input"]))
        h = (f * h + i * linear(x, **params["candidate"])) / (f + i)
        return h, h

    return _run(step, x, carry, lengths, reverse)


def lru(
    params: Params, x: np.ndarray, carry: np.ndarray, lengths: np.ndarray, *, reverse: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """h_t = lambda h_{t-1} + exp(gamma) (B x_t), y_t = Re(C h_t) + D x_t."""
    decay = np.exp(-np.exp(params["nu"]) + 1j * np.exp(params["theta"]))
    b = params["b_real"] + 1j * params["b_imag"]
    c = params["c_real"] + 1j * params["c_imag"]

    def step(x: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        h = decay * h + np.exp(params["gamma"]) * (x @ b)
        return (h @ c).real + x @ params["d"], h

    return _run(step, x, carry, lengths, reverse)


def rglru(
    params: Params,
    x: np.ndarray,
    carry: tuple[np.ndarray, np.ndarray],
    lengths: np.ndarray,
    *,
    reverse: bool = False,
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """h_t = a_t h_{t-1} + sqrt(1 - a_t^2) (i_t * u_t), with a_t = sigmoid(Lambda)^(8 r_t).

    u_t is the convolution of the last four W_in x + b_in, and r_t, i_t are gates of u_t. The carry
    is h and the last three W_in x + b_in (B, 3, F), oldest first.
    """

    def step(x: np.ndarray, carry: tuple) -> tuple[np.ndarray, tuple]:
        h, inputs = carry
        inputs = np.concatenate([inputs, linear(x, **params["in"])[None]])
        u = params["bias"] + sum(params["taps"][k] * inputs[k] for k in range(4))
        r = sigmoid(linear(u, **params["recurrence"]))
        i = sigmoid(linear(u, **params["gate"]))
        a = sigmoid(params["decay"]) ** (8 * r)
        h = a * h + np.sqrt(1 - a**2) * i * u
        return h, (h, inputs[1:])

    return _run(step, x, carry, lengths, reverse)


def matrix_memory_layer(
    params: Params,
    x: np.ndarray,
    carry: np.ndarray,
    lengths: np.ndarray,
    *,
    num_heads: int,
    reverse: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """y_t = W_out (rms_norm(o_t) * silu(W_gate x_t)), o read from the memory (B, N, H, H)."""

    def heads(name: str) -> np.ndarray:
        y = linear(x, **params[name])
        return y.reshape(*x.shape[:2], num_heads, -1)

    query = heads("query") / np.sqrt(heads("query").shape[-1])
    log_decay = np.log(sigmoid(linear(x, **params["decay"]))) / 16
    o, carry = matrix_memory(
        query, heads("key"), heads("value"), log_decay, carry, lengths, reverse=reverse
    )
    gate = linear(x, **params["gate"])
    o = rms_norm(o, **params["norm"]).reshape(gate.shape)
    return linear(o * gate * sigmoid(gate), **params["out"]), carry


def _run(
    step: Callable[[np.ndarray, Any], tuple[np.ndarray, Any]],
    x: np.ndarray,
    carry: Any,
    lengths: np.ndarray,
    reverse: bool,
) -> tuple[np.ndarray, Any]:
    """Each row by itself from its first valid step to its last, or backwards."""
    parts = carry if isinstance(carry, tuple) else (carry,)
    rows, ends = [], []
    for row in range(len(x)):
        state: Any = tuple(part[row] for part in parts)
        state = state if isinstance(carry, tuple) else state[0]
        outputs = {}
        steps = range(min(lengths[row], x.shape[1]))
        for t in reversed(steps) if reverse else steps:
            outputs[t], state = step(x[row, t], state)
        rows.append(outputs)
        ends.append(state)
    width = step(x[0, 0], ends[0])[0].shape
    y = np.zeros((*x.shape[:2], *width))
    for row, outputs in enumerate(rows):
        for t, output in outputs.items():
            y[row, t] = output
    if isinstance(carry, tuple):
        return y, tuple(np.stack(part) for part in zip(*ends, strict=True))
    return y, np.stack(ends)
