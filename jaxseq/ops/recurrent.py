"""The scan over time that the Elman, LSTM and GRU ops share, with a gradient rule of its own.

One step adds the products of the state and of the input, and hands them to a cell:

    (s_t, slopes_t) = cell.forward(x_t W + b, h_{t-1} U + b_h, s_{t-1})        s = (h, ...)

The input's product is made before the scan, for all steps in one matmul. Slopes are all that the
derivative of a step needs, computed while its gates are in the cache: a step of the gradient is
then a few multiplications and one product with U. The kernels' gradients are one matmul each
after that walk:

    dU = sum over t of h_{t-1}^T dz_t        dW = sum over t of x_t^T dx_t

where dz_t and dx_t are the gradients of the two arguments of the cell. Inside, arrays are
"T B features" and the state is float32 or wider.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxseq.ops.linear import linear
from jaxseq.ops.padding import valid_steps, zero_padding
from jaxseq.ops.precision import accumulator
from jaxseq.parallel.rules import constrain
from jaxseq.typing import Array, Float, Int

State = tuple[Array, ...]
Direct = tuple[Array | None, ...]

UNROLL = 4
"""Steps laid out per iteration of the loop: it moves the state less often. On two CPU cores that
made GRU and LSTM 1.1 to 1.6 times faster."""


class Cell(NamedTuple):
    """The equations of one step and their derivative.

    forward(x_gates, h_gates, state) -> (new state, slopes); the hidden state stands first.
    backward(dstate, slopes) -> (dx_gates, dh_gates, direct), where dh_gates is None if it equals
    dx_gates, and `direct` is the gradient of the state before, but for its way through the
    recurrent product: None for 0.
    """

    forward: Callable[[Array, Array, State], tuple[State, Any]]
    backward: Callable[[State, Any], tuple[Array, Array | None, Direct]]


class Rule(NamedTuple):
    """What is fixed when the op is traced."""

    cell: Cell
    reverse: bool
    dtype: jnp.dtype


def recur(
    cell: Cell,
    x: Float[Array, "B T D"],
    kernel: Float[Array, "D G"],
    recurrent_kernel: Float[Array, "F G"],
    bias: Float[Array, "G"],
    recurrent_bias: Float[Array, "G"] | None,
    carry: State | None,
    lengths: Int[Array, "B"] | None,
    state_mask: Float[Array, "B F"] | None,
    *,
    num_states: int,
    reverse: bool,
    dtype: jnp.dtype | None,
) -> tuple[Float[Array, "B T F"], State]:
    """(h at every step, state after the last step read); see `ops.lstm` for the conventions."""
    batch, steps, _ = x.shape
    wide = accumulator(x.dtype)
    if carry is None:
        carry = (jnp.zeros((batch, recurrent_kernel.shape[0]), wide),) * num_states
    valid = None
    if lengths is not None:
        valid = valid_steps(lengths, steps).T
        x = zero_padding(x, lengths)
    rule = Rule(cell, reverse, jnp.dtype(dtype or x.dtype))
    x_gates = linear(x.swapaxes(0, 1).astype(wide), kernel.astype(wide), dtype=rule.dtype)
    if recurrent_bias is not None:
        recurrent_bias = recurrent_bias.astype(wide)
    if state_mask is not None:
        state_mask = lax.stop_gradient(state_mask.astype(wide))
    # Gathered over `fsdp` here, once, and not at each step.
    recurrent_kernel = constrain(recurrent_kernel.astype(wide), None, "mlp")
    hidden, carry = _scan(
        x_gates,
        recurrent_kernel,
        bias.astype(wide),
        recurrent_bias,
        tuple(s.astype(wide) for s in carry),
        valid,
        state_mask,
        rule,
    )
    y = hidden.swapaxes(0, 1)
    if valid is not None:
        y = jnp.where(valid.T[:, :, None], y, 0)
    return y.astype(x.dtype), carry


@partial(jax.custom_vjp, nondiff_argnums=(7,))
def _scan(
    x_gates: Array,
    recurrent_kernel: Array,
    bias: Array,
    recurrent_bias: Array | None,
    carry: State,
    valid: Array | None,
    state_mask: Array | None,
    rule: Rule,
) -> tuple[Array, State]:
    """(h after every step, held in the padding; state after the last step)."""
    arguments = (x_gates, recurrent_kernel, bias, recurrent_bias, carry, valid, state_mask)
    hidden, last, _ = _walk(*arguments, rule=rule, keep=False)
    return hidden, last


def _scan_forward(
    x_gates: Array,
    recurrent_kernel: Array,
    bias: Array,
    recurrent_bias: Array | None,
    carry: State,
    valid: Array | None,
    state_mask: Array | None,
    rule: Rule,
) -> tuple[tuple[Array, State], tuple]:
    arguments = (x_gates, recurrent_kernel, bias, recurrent_bias, carry, valid, state_mask)
    hidden, last, slopes = _walk(*arguments, rule=rule, keep=True)
    has_bias = recurrent_bias is not None
    saved = (recurrent_kernel, has_bias, carry[0], hidden, slopes, valid, state_mask)
    return (hidden, last), saved


def _walk(
    x_gates: Array,
    recurrent_kernel: Array,
    bias: Array,
    recurrent_bias: Array | None,
    carry: State,
    valid: Array | None,
    state_mask: Array | None,
    *,
    rule: Rule,
    keep: bool,
) -> tuple[Array, State, Any]:
    low, wide = recurrent_kernel.astype(rule.dtype), x_gates.dtype

    def step(state: State, at: tuple) -> tuple[State, tuple]:
        x_t, valid_t = at
        h = state[0] if state_mask is None else state[0] * state_mask
        h_gates = jnp.matmul(h.astype(rule.dtype), low, preferred_element_type=wide)
        if recurrent_bias is not None:
            h_gates = h_gates + recurrent_bias[None]
        new, slopes = rule.cell.forward(x_t + bias[None], h_gates, state)
        new = _choose(valid_t, new, state)
        return new, (new[0], slopes if keep else None)

    steps = (x_gates, valid)
    last, (hidden, slopes) = lax.scan(step, carry, steps, reverse=rule.reverse, unroll=UNROLL)
    return hidden, last, slopes


def _scan_backward(rule: Rule, saved: tuple, doutput: tuple[Array, State]) -> tuple:
    recurrent_kernel, has_recurrent_bias, first, hidden, slopes, valid, state_mask = saved
    dhidden, dlast = doutput
    wide = dhidden.dtype
    # One copy in the order that the products want, or XLA's CPU products read a strided operand.
    transposed = lax.optimization_barrier(recurrent_kernel.astype(rule.dtype).T)

    def step(dstate: State, at: tuple) -> tuple[State, tuple]:
        dhidden_t, slopes_t, valid_t = at
        dstate = (dstate[0] + dhidden_t, *dstate[1:])
        zeros = tuple(jnp.zeros_like(d) for d in dstate)
        dx, dh, direct = rule.cell.backward(_choose(valid_t, dstate, zeros), slopes_t)
        low = (dx if dh is None else dh).astype(rule.dtype)
        through = jnp.matmul(low, transposed, preferred_element_type=wide)
        if state_mask is not None:
            through = through * state_mask
        direct = tuple(z if d is None else d for d, z in zip(direct, zeros, strict=True))
        direct = _choose(valid_t, direct, dstate)
        return (direct[0] + through, *direct[1:]), (dx, dh)

    steps, backwards = (dhidden, slopes, valid), not rule.reverse
    dcarry, (dx, dh) = lax.scan(step, dlast, steps, reverse=backwards, unroll=UNROLL)
    dh = dx if dh is None else dh
    before = _shift(hidden, first, rule.reverse)
    if state_mask is not None:
        before = before * state_mask[None]
    _, pull = jax.vjp(lambda kernel: linear(before, kernel, dtype=rule.dtype), recurrent_kernel)
    drecurrent_bias = dh.sum(axis=(0, 1)) if has_recurrent_bias else None
    return dx, *pull(dh), dx.sum(axis=(0, 1)), drecurrent_bias, dcarry, None, None


_scan.defvjp(_scan_forward, _scan_backward)


def _choose(valid: Array | None, new: State, old: State) -> State:
    """`new` where this step is valid, `old` in the padding."""
    if valid is None:
        return new
    return tuple(jnp.where(valid[:, None], n, o) for n, o in zip(new, old, strict=True))


def _shift(hidden: Array, first: Array, reverse: bool) -> Array:
    """h before every step, out of h after every step."""
    if reverse:
        return jnp.concatenate([hidden, first[None]])[1:]
    return jnp.concatenate([first[None], hidden])[:-1]
