"""Gated recurrent unit (Cho et al. 2014, arXiv:1406.1078), reset gate after the product."""

import jax.numpy as jnp

from jaxseq.ops.recurrent import Cell, Direct, State, recur
from jaxseq.typing import Array, Float, Int


def gru(
    x: Float[Array, "B T D"],
    kernel: Float[Array, "D G"],
    recurrent_kernel: Float[Array, "F G"],
    bias: Float[Array, "G"],
    recurrent_bias: Float[Array, "F"],
    carry: Float[Array, "B F"] | None = None,
    lengths: Int[Array, "B"] | None = None,
    *,
    state_mask: Float[Array, "B F"] | None = None,
    reverse: bool = False,
    dtype: jnp.dtype | None = None,
) -> tuple[Float[Array, "B T F"], Float[Array, "B F"]]:
    """Returns (h at every step, h after the last step read).

    (x^r, x^z, x^n)_t = x_t W + b        (h^r, h^z, h^n)_t = h_{t-1} U, each F wide: G = 3F

    r_t = sigmoid(x^r_t + h^r_t)         z_t = sigmoid(x^z_t + h^z_t)
    n_t = tanh(x^n_t + r_t * (h^n_t + b_n))
    h_t = (1 - z_t) * n_t + z_t * h_{t-1}

    This is the variant of torch and cuDNN, with torch's order of gates; b_n is `recurrent_bias`.
    Lengths, carry, mask and dtype are as in `ops.lstm`.
    """
    unused = jnp.zeros(2 * recurrent_kernel.shape[0], recurrent_bias.dtype)
    y, (h,) = recur(
        *(_CELL, x, kernel, recurrent_kernel, bias, jnp.concatenate([unused, recurrent_bias])),
        *(None if carry is None else (carry,), lengths, state_mask),
        num_states=1,
        reverse=reverse,
        dtype=dtype,
    )
    return y, h


def _forward(x_gates: Array, h_gates: Array, state: State) -> tuple[State, tuple]:
    features = state[0].shape[-1]
    # sigmoid(z) = (1 + tanh(z / 2)) / 2: on CPUs XLA's tanh is a third faster than its logistic.
    rz = 0.5 * jnp.tanh(0.5 * (x_gates[:, : 2 * features] + h_gates[:, : 2 * features])) + 0.5
    r, z = jnp.split(rz, 2, axis=-1)
    h_n = h_gates[:, 2 * features :]
    n = jnp.tanh(x_gates[:, 2 * features :] + r * h_n)
    dn = (1 - z) * (1 - n * n)
    slopes = jnp.concatenate([dn * h_n * r * (1 - r), (state[0] - n) * z * (1 - z), dn * r], -1)
    return (n + z * (state[0] - n),), (slopes, dn, z)


def _backward(dstate: State, slopes: tuple) -> tuple[Array, Array, Direct]:
    (dh,) = dstate
    dgates_of, dn, z = slopes
    dh_gates = dgates_of * jnp.concatenate([dh, dh, dh], axis=-1)
    dx_gates = jnp.concatenate([dh_gates[:, : 2 * dh.shape[-1]], dh * dn], axis=-1)
    return dx_gates, dh_gates, (dh * z,)


_CELL = Cell(_forward, _backward)
