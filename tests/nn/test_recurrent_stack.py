"""Stacks of recurrent layers: parity, both directions, streaming, carried state, dropout."""

from functools import partial
from typing import Any, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close, assert_same, check_parity, random_params
from jax import lax

from jaxseq.nn.recurrent import CellName, RecurrentStack
from jaxseq.reference.recurrent import recurrent_stack

B, T, D, F = 3, 4, 3, 4
X = np.random.default_rng(0).normal(size=(B, T, D))
LENGTHS = np.array([T, 0, 2])
KEY = jax.random.key(0)
ALL_DROPOUT = {
    "dropout_rate": 0.3,
    "variational_dropout_rate": 0.3,
    "state_dropout_rate": 0.3,
    "deterministic": False,
}


def draw_params(stack: nn.Module) -> dict[str, Any]:
    x = jnp.asarray(X, jnp.float32)
    stack = stack.clone(deterministic=True)
    return jax.tree.map(partial(jnp.asarray, dtype="float32"), random_params(stack, x))


@pytest.mark.parametrize(
    ("cell", "fields"),
    [
        ("elman", {"num_layers": 2}),
        ("lstm", {"num_layers": 2, "bidirectional": True, "layer_norm": True}),
        ("gru", {"num_layers": 3, "residual": True, "layer_norm": True}),
        ("lstm", {"num_layers": 2, "bidirectional": True, "residual": True}),
    ],
)
def test_equals_twin(cell: str, fields: dict[str, Any]) -> None:
    stack = RecurrentStack(cell, F, **fields)
    twin = {name: value for name, value in fields.items() if name != "layer_norm"}
    carry = jax.tree.map(lambda s: np.full(s.shape, 0.3), stack.zero_carry(B))

    def ours(params, x, carry):
        return stack.apply({"params": params}, x, carry, jnp.asarray(LENGTHS))

    def theirs(params, x, carry):
        return recurrent_stack(params, x, carry, LENGTHS, cell=cell, **twin)

    check_parity(ours, theirs, random_params(stack, jnp.asarray(X)), X, carry, dtype="float64")


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", get_args(CellName))
def test_every_cell_has_the_same_shapes(cell: CellName, bidirectional: bool) -> None:
    fields = {"residual": True, "layer_norm": True, "bidirectional": bidirectional}
    stack = RecurrentStack(cell, F, num_layers=2, **fields)

    def call(x):
        (y, carry), params = stack.init_with_output(KEY, x, None, jnp.asarray(LENGTHS))
        again = stack.apply(params, x, carry)
        return y, carry, again

    y, carry, again = jax.eval_shape(call, jax.ShapeDtypeStruct((B, T, D), jnp.float32))
    assert y.shape == (B, T, 2 * F if bidirectional else F)
    assert jax.eval_shape(lambda: stack.zero_carry(B)) == carry
    assert again == (y, carry)


@pytest.mark.parametrize("cell", ["elman", "lstm", "gru"])
def test_padding_matters_to_nothing(cell: CellName) -> None:
    fields = {"bidirectional": True, "residual": True, "layer_norm": True, **ALL_DROPOUT}
    stack = RecurrentStack(cell, F, num_layers=2, **fields)
    params, x, lengths = draw_params(stack), jnp.asarray(X, jnp.float32), jnp.asarray(LENGTHS)
    padding = jnp.arange(T)[None, :, None] >= lengths[:, None, None]

    @jax.jit
    def run(params, x):
        def function(params, x):
            return stack.apply({"params": params}, x, None, lengths, rngs={"dropout": KEY})

        output, pullback = jax.vjp(function, params, x)
        return output, pullback(jax.tree.map(jnp.ones_like, output))

    clean = run(params, jnp.where(padding, 0, x))
    for junk in (jnp.nan, -jnp.inf):
        assert_same(run(params, jnp.where(padding, junk, x)), clean)
    assert not np.any(clean[0][0], where=np.asarray(padding))
    assert not np.any(clean[1][1], where=np.asarray(padding))


def test_streaming_is_the_sequence() -> None:
    stack = RecurrentStack("gru", F, num_layers=2, residual=True, layer_norm=True)
    params, x = {"params": draw_params(stack)}, jnp.asarray(X, jnp.float32)
    y, last = jax.jit(stack.apply)(params, x)
    step = jax.jit(partial(stack.apply, method="step"))
    carry = stack.zero_carry(B)
    for t in range(T):
        y_t, carry = step(params, x[:, t], carry)
        assert_close(y_t, y[:, t], "float32")
    assert_close(carry, last, "float32")


def test_truncated_backpropagation_carries_the_state() -> None:
    """The outputs are the long sequence's, and a piece's gradient stops at its start."""
    stack = RecurrentStack("lstm", F, num_layers=2)
    params, x = draw_params(stack), jnp.asarray(X, jnp.float32)

    @jax.jit
    def whole(params, x):
        return stack.apply({"params": params}, x)

    @jax.jit
    def in_pieces(params, x):
        y_0, carry = stack.apply({"params": params}, x[:, :2])
        y_1, carry = stack.apply({"params": params}, x[:, 2:], lax.stop_gradient(carry))
        return jnp.concatenate([y_0, y_1], axis=1), carry

    assert_close(in_pieces(params, x), whole(params, x), "float32")
    gradient = jax.grad(lambda x: in_pieces(params, x)[0][:, 2:].sum())(x)
    assert not np.any(gradient[:, :2])
    assert np.all(np.any(gradient[:, 2:], axis=-1))


def test_variational_dropout_is_constant_over_time() -> None:
    """With an identity cell, what comes out is the mask; dropout between layers varies."""
    ones, identity = jnp.ones((2, 6, 64)), jnp.eye(64)
    params = {"kernel": identity, "recurrent_kernel": 0 * identity, "bias": jnp.zeros(64)}
    fields = {"features": 64, "deterministic": False}

    def run(num_layers: int, **rates: float) -> np.ndarray:
        stack = RecurrentStack("elman", num_layers=num_layers, **fields, **rates)
        layers = {"params": {f"layer_{i}": params for i in range(num_layers)}}
        return np.asarray(stack.apply(layers, ones, rngs={"dropout": KEY})[0])

    fixed = run(1, variational_dropout_rate=0.5)
    np.testing.assert_array_equal(fixed, np.broadcast_to(fixed[:, :1], fixed.shape))
    assert 0.3 < np.mean(fixed == 0) < 0.7
    assert np.any(fixed[0] != fixed[1])
    kept = fixed[fixed != 0]
    assert_close(kept, np.full_like(kept, np.tanh(2)), "float32")

    varying = run(2, dropout_rate=0.5)
    assert np.any(varying[:, 0] != varying[:, 1])
    assert_same(run(1, dropout_rate=0.5), np.tanh(np.asarray(ones)))


def test_dropout_is_off_by_default_and_needs_a_key_when_on() -> None:
    stack = RecurrentStack("gru", F, **{**ALL_DROPOUT, "deterministic": True})
    params, x = {"params": draw_params(stack)}, jnp.asarray(X, jnp.float32)
    assert_same(stack.apply(params, x), RecurrentStack("gru", F).apply(params, x))


def test_what_cannot_be_is_refused() -> None:
    stack = RecurrentStack("lstm", F, num_layers=2, bidirectional=True)
    params, x = {"params": draw_params(stack)}, jnp.asarray(X, jnp.float32)
    with pytest.raises(ValueError, match="bidirectional"):
        stack.apply(params, x[:, 0], stack.zero_carry(B), method="step")
    with pytest.raises(ValueError, match="1 entries for 2 layers"):
        stack.apply(params, x, stack.zero_carry(B)[:1])
    with pytest.raises(ValueError, match="state_dropout_rate"):
        RecurrentStack("mingru", F, state_dropout_rate=0.1).zero_carry(B)
