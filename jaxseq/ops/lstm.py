"""Long short-term memory (Hochreiter and Schmidhuber 1997; forget gate: Gers et al. 2000)."""

import jax.numpy as jnp

from jaxseq.ops.recurrent import Cell, Direct, State, recur
from jaxseq.typing import Array, Float, Int


def lstm(
    x: Float[Array, "B T D"],
    kernel: Float[Array, "D G"],
    recurrent_kernel: Float[Array, "F G"],
    bias: Float[Array, "G"],
    carry: tuple[Float[Array, "B F"], Float[Array, "B F"]] | None = None,
    lengths: Int[Array, "B"] | None = None,
    *,
    state_mask: Float[Array, "B F"] | None = None,
    reverse: bool = False,
    dtype: jnp.dtype | None = None,
) -> tuple[Float[Array, "B T F"], tuple[Float[Array, "B F"], Float[Array, "B F"]]]:
    """Returns (h at every step, (h, c) after the last step read).

    (i, f, g, o)_t = x_t W + h_{t-1} U + b, each F wide: G = 4F, in torch's order

    c_t = sigmoid(f_t) * c_{t-1} + sigmoid(i_t) * tanh(g_t)        h_t = sigmoid(o_t) * tanh(c_t)

    Row b is read from step 0 to step lengths[b] - 1, or backwards if `reverse`; h stays at the
    position of its input. In the padding behind, h is 0, and no input matters. `carry` is the
    (h, c) before the first step read, 0 by default, and is float32 or wider, as is the state.
    `state_mask` multiplies h_{t-1} before U at every step (dropout); it gets no gradient.
    Operands of the products are cast to `dtype` (None keeps x's) and summed in float32 or wider.
    """
    y, (h, c) = recur(
        *(_CELL, x, kernel, recurrent_kernel, bias, None, carry, lengths, state_mask),
        num_states=2,
        reverse=reverse,
        dtype=dtype,
    )
    return y, (h, c)


def _forward(x_gates: Array, h_gates: Array, state: State) -> tuple[State, tuple]:
    # All four activations are one loop: sigmoid(z) = (1 + tanh(z / 2)) / 2.
    width = x_gates.shape[-1]
    is_tanh = jnp.arange(width)[None] // (width // 4) == 2
    scale = jnp.where(is_tanh, 1, 0.5).astype(x_gates.dtype)
    shift = 1 - scale
    gates = scale * jnp.tanh(scale * (x_gates + h_gates)) + shift
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    c = f * state[1] + i * g
    tanh_c = jnp.tanh(c)
    # d sigmoid = s (1 - s) and d tanh = 1 - t^2 are one loop too.
    slopes = (scale * scale - jnp.square(gates - shift)) * jnp.concatenate(
        [g, state[1], i, tanh_c], axis=-1
    )
    return (o * tanh_c, c), (slopes, o * (1 - tanh_c * tanh_c), f)


def _backward(dstate: State, slopes: tuple) -> tuple[Array, None, Direct]:
    dh, dc = dstate
    dgates_of, dc_of_dh, f = slopes
    dc = dc + dh * dc_of_dh
    return dgates_of * jnp.concatenate([dc, dc, dc, dh], axis=-1), None, (None, dc * f)


_CELL = Cell(_forward, _backward)
