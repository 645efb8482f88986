"""Elman, LSTM and GRU against their twins, and in pieces, backwards and in the padding."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import DTYPES, assert_close, assert_same, check_parity
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxseq.ops.elman import elman
from jaxseq.ops.gru import gru
from jaxseq.ops.lstm import lstm
from jaxseq.reference import recurrent as reference

B, T, D, F = 4, 5, 3, 4
LENGTHS = np.array([T, 2, 0, 1])
CELLS = {
    "elman": (elman, reference.elman, 1),
    "relu": (
        partial(elman, activation="relu"),
        partial(reference.elman, activation="relu"),
        1,
    ),
    "sigmoid": (
        partial(elman, activation="sigmoid"),
        partial(reference.elman, activation="sigmoid"),
        1,
    ),
    "lstm": (lstm, reference.lstm, 4),
    "gru": (gru, reference.gru, 3),
}
MAIN = ("elman", "lstm", "gru")


def draw(cell: str, steps: int = T) -> tuple[np.ndarray, tuple[np.ndarray, ...], Any]:
    """(x, parameters, carry)."""
    normal = np.random.default_rng(3).normal
    width = CELLS[cell][2] * F
    parameters = (normal(size=(D, width)), 0.6 * normal(size=(F, width)), normal(size=width))
    if cell == "gru":
        parameters += (normal(size=F),)
    carry = normal(size=(2, B, F))
    return normal(size=(B, steps, D)), parameters, tuple(carry) if cell == "lstm" else carry[0]


def single(cell: str, steps: int = T) -> tuple:
    return jax.tree.map(partial(jnp.asarray, dtype="float32"), draw(cell, steps))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_equals_twin(cell: str, dtype: str) -> None:
    op, twin, _ = CELLS[cell]
    x, parameters, carry = draw(cell)

    def ours(x, carry, *parameters):
        y, after = op(x, *parameters, carry, jnp.asarray(LENGTHS))
        assert y.dtype == dtype
        return y, after

    def theirs(x, carry, *parameters):
        return twin(x, *parameters, carry, LENGTHS)

    check_parity(ours, theirs, x, carry, *parameters, dtype=dtype)


@pytest.mark.parametrize("cell", MAIN)
def test_backwards_equals_twin(cell: str) -> None:
    op, twin, _ = CELLS[cell]
    x, parameters, carry = draw(cell)

    def backwards(function: Callable, lengths: Any) -> Callable:
        return lambda x, carry, *parameters: function(x, *parameters, carry, lengths, reverse=True)

    sides = backwards(op, jnp.asarray(LENGTHS)), backwards(twin, LENGTHS)
    check_parity(*sides, x, carry, *parameters, dtype="float64")


@pytest.mark.parametrize("cell", MAIN)
def test_bfloat16_operands_keep_float32_around_them(cell: str) -> None:
    op, twin, _ = CELLS[cell]

    def low(x, *parameters):
        y, carry = op(x, *parameters, dtype=jnp.dtype("bfloat16"))
        assert {array.dtype for array in jax.tree.leaves((y, carry))} == {jnp.dtype("float32")}
        return y, carry

    x, parameters, _ = draw(cell)
    check_parity(low, twin, x, *parameters, dtype="float32", compute_dtype="bfloat16")


@pytest.mark.parametrize("cell", MAIN)
def test_state_mask_multiplies_the_state_before_its_product(cell: str) -> None:
    op, twin, _ = CELLS[cell]
    mask = np.random.default_rng(0).integers(0, 3, (B, F)) / 2

    def masked_by_hand(x, kernel, recurrent_kernel, *rest):
        rows = []
        for b in range(B):
            y, _ = twin(x[b : b + 1], kernel, mask[b][:, None] * recurrent_kernel, *rest)
            rows.append(y[0])
        return np.stack(rows)

    def ours(x, *parameters):
        return op(x, *parameters, state_mask=jnp.asarray(mask, x.dtype))[0]

    x, parameters, _ = draw(cell)
    check_parity(ours, masked_by_hand, x, *parameters, dtype="float64")


@pytest.mark.parametrize("cell", MAIN)
@pytest.mark.parametrize("reverse", [False, True])
def test_padding_matters_to_nothing(cell: str, reverse: bool) -> None:
    x, parameters, carry = single(cell)
    lengths = jnp.asarray(LENGTHS)
    padding = jnp.arange(T)[None, :, None] >= lengths[:, None, None]

    @jax.jit
    def run(x, parameters, carry):
        def function(x, parameters, carry):
            return CELLS[cell][0](x, *parameters, carry, lengths, reverse=reverse)

        # What y holds in the padding may not matter either.
        (y, after), pullback = jax.vjp(function, x, parameters, carry)
        return y, after, pullback((jnp.where(padding, jnp.nan, y + 1), after))

    y, after, gradients = run(x, parameters, carry)
    for junk in (0.0, jnp.nan, jnp.inf):
        assert_same(run(jnp.where(padding, junk, x), parameters, carry), (y, after, gradients))
    assert not np.any(y, where=np.asarray(padding))
    assert not np.any(gradients[0], where=np.asarray(padding))
    assert_same(jax.tree.map(lambda s: s[2], after), jax.tree.map(lambda s: s[2], carry))
    assert_close(after if cell != "lstm" else after[0], last_valid(y, carry, reverse), "float32")


def last_valid(y: jax.Array, carry: Any, reverse: bool) -> jax.Array:
    first = carry[0] if isinstance(carry, tuple) else carry
    rows = [y[b, 0 if reverse else n - 1] if n else first[b] for b, n in enumerate(LENGTHS)]
    return jnp.stack(rows)


@pytest.mark.parametrize("cell", MAIN)
def test_backwards_is_each_row_alone_turned_round(cell: str) -> None:
    op = jax.jit(CELLS[cell][0], static_argnames="reverse")
    x, parameters, _ = single(cell)
    y, carry = op(x, *parameters, lengths=jnp.asarray(LENGTHS), reverse=True)
    for b, length in enumerate(LENGTHS):
        row = jnp.zeros_like(x[:1]).at[0, :length].set(x[b, :length][::-1])
        alone, after = op(row, *parameters, lengths=jnp.asarray(LENGTHS[b : b + 1]))
        assert_close(y[b, :length], alone[0, :length][::-1], "float32")
        assert_close(jax.tree.map(lambda s, b=b: s[b : b + 1], carry), after, "float32")


@pytest.mark.parametrize("cell", MAIN)
def test_pieces_with_carried_state_are_the_whole(cell: str) -> None:
    op = jax.jit(CELLS[cell][0])
    x, parameters, carry = single(cell)
    whole, last = op(x, *parameters, carry)
    pieces = []
    for piece in (x[:, :2], x[:, 2:3], x[:, 3:3], x[:, 3:]):
        y, carry = op(piece, *parameters, carry)
        pieces.append(y)
    assert_close((jnp.concatenate(pieces, axis=1), carry), (whole, last), "float32")


def test_lengths_beyond_the_end_are_the_end() -> None:
    x, parameters, carry = single("lstm")
    op = jax.jit(lstm)
    beyond = op(x, *parameters, carry, jnp.full(B, T + 3))
    assert_same(beyond, op(x, *parameters, carry, jnp.full(B, T)))


@pytest.mark.parametrize("cell", MAIN)
def test_saturated_gates_give_finite_gradients(cell: str) -> None:
    x, parameters, carry = single(cell)
    op = CELLS[cell][0]
    gradient = jax.jit(jax.grad(lambda x: op(1e4 * x, *parameters, carry)[0].sum()))(x)
    assert np.isfinite(gradient).all()


def test_on_a_mesh_nothing_is_sent_at_each_step() -> None:
    axes = {"data": 2, "fsdp": 2, "context": 2}
    mesh = jax.make_mesh(tuple(axes.values()), tuple(axes), (AxisType.Auto,) * 3)
    normal = np.random.default_rng(0).normal
    shapes = (4, 32, 16), (16, 64), (16, 64), (64,)
    arrays = [jnp.asarray(normal(size=shape) / 4, jnp.float32) for shape in shapes]

    def step(*arrays):
        y, pull = jax.vjp(lambda *a: lstm(*a)[0], *arrays)
        return y, pull(jnp.cos(y))

    specs = (("data", "fsdp"), "context"), (None, None), ("fsdp", None), (None,)
    homes = tuple(NamedSharding(mesh, PartitionSpec(*spec)) for spec in specs)
    jitted = jax.jit(step, in_shardings=homes, out_shardings=(homes[0], homes))
    with jax.set_mesh(mesh):
        compiled = jitted.lower(*arrays).compile()
    assert_close(compiled(*arrays), jax.jit(step)(*arrays), "float32")
    loops = [part for part in compiled.as_text().split("\n\n") if "ENTRY" not in part]
    sent = ("all-gather", "all-reduce", "collective-permute", "all-to-all")
    assert not any(name in loop for loop in loops for name in sent)
