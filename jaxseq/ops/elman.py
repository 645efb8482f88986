"""The simple recurrent network (Elman 1990, Finding structure in time)."""

from typing import Literal

import jax
import jax.numpy as jnp

from jaxseq.ops.recurrent import Cell, Direct, State, recur
from jaxseq.typing import Array, Float, Int

Activation = Literal["tanh", "relu", "sigmoid", "identity"]


def elman(
    x: Float[Array, "B T D"],
    kernel: Float[Array, "D F"],
    recurrent_kernel: Float[Array, "F F"],
    bias: Float[Array, "F"],
    carry: Float[Array, "B F"] | None = None,
    lengths: Int[Array, "B"] | None = None,
    *,
    activation: Activation = "tanh",
    state_mask: Float[Array, "B F"] | None = None,
    reverse: bool = False,
    dtype: jnp.dtype | None = None,
) -> tuple[Float[Array, "B T F"], Float[Array, "B F"]]:
    """Returns (h at every step, h after the last step read).

    h_t = sigma(x_t W + h_{t-1} U + b)

    `activation` names sigma. Lengths, carry, mask and dtype are as in `ops.lstm`.
    """
    y, (h,) = recur(
        *(_CELLS[activation], x, kernel, recurrent_kernel, bias, None),
        *(None if carry is None else (carry,), lengths, state_mask),
        num_states=1,
        reverse=reverse,
        dtype=dtype,
    )
    return y, h


def _cell(activation: Activation) -> Cell:
    # sigma, and its derivative as a function of sigma's value.
    sigma, slope = {
        "tanh": (jnp.tanh, lambda h: 1 - h * h),
        "relu": (jax.nn.relu, lambda h: (h > 0).astype(h.dtype)),
        "sigmoid": (jax.nn.sigmoid, lambda h: h * (1 - h)),
        "identity": (lambda z: z, jnp.ones_like),
    }[activation]

    def forward(x_gates: Array, h_gates: Array, state: State) -> tuple[State, Array]:
        h = sigma(x_gates + h_gates)
        return (h,), slope(h)

    def backward(dstate: State, slopes: Array) -> tuple[Array, None, Direct]:
        return dstate[0] * slopes, None, (None,)

    return Cell(forward, backward)


_CELLS: dict[str, Cell] = {name: _cell(name) for name in ("tanh", "relu", "sigmoid", "identity")}
