"""The linear recurrent cells: parallel = step by step = twin, padding, pieces, both directions."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close, assert_same, check_parity, random_params
from jax.sharding import AxisType

from jaxseq.nn.linear_recurrent import LRU, RGLRU, MatrixMemory, MinGRU, MinLSTM, RGLRUCarry
from jaxseq.parallel.sharding import parameter_shardings
from jaxseq.reference import linear_recurrent as reference

RNG = np.random.default_rng(0)
LENGTHS = np.array([6, 0, 4], np.int32)
X = RNG.normal(size=(3, 6, 5))

CELLS = {
    "mingru": (MinGRU(4), reference.mingru),
    "minlstm": (MinLSTM(4), reference.minlstm),
    "lru": (LRU(4), reference.lru),
    "rglru": (RGLRU(4), reference.rglru),
    "matrix": (MatrixMemory(8, num_heads=2), partial(reference.matrix_memory_layer, num_heads=2)),
}
every_cell = pytest.mark.parametrize("name", CELLS)


def parts(carry):
    """A carry as real arrays, which is what can be compared and differentiated on both sides."""
    if isinstance(carry, RGLRUCarry):
        return carry.state, carry.inputs
    if not isinstance(carry, tuple) and np.iscomplexobj(carry):
        return carry.real, carry.imag
    return carry


def draw(cell: nn.Module) -> tuple:
    """Parameters and a carry that is not zero, in `parts`."""
    carry = jax.tree.map(lambda z: RNG.normal(size=z.shape), parts(cell.zero_carry(3)))
    return random_params(cell, jnp.asarray(X)), carry


def apply(cell: nn.Module, params, x, carry, lengths=None, **options):
    """The cell with carries in `parts`."""
    if isinstance(cell, RGLRU):
        carry = RGLRUCarry(*carry)
    if isinstance(cell, LRU):
        carry = jax.lax.complex(*carry)
    arguments = (x, carry) if options.get("method") == "step" else (x, carry, lengths)
    y, carry = cell.apply({"params": params}, *arguments, **options)
    return y, parts(carry)


def as_float32(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def check(
    name: str, *, reverse: bool = False, dtype: str, compute_dtype: str | None = None
) -> None:
    cell, twin = CELLS[name]
    params, carry = draw(cell)
    cell = cell.clone(dtype=compute_dtype and jnp.dtype(compute_dtype))

    def twin_in_parts(params, x, carry):
        if name == "lru":
            carry = carry[0] + 1j * carry[1]
        y, carry = twin(params, x, carry, LENGTHS, reverse=reverse)
        return y, parts(carry)

    check_parity(
        lambda *arrays: apply(cell, *arrays, jnp.asarray(LENGTHS), reverse=reverse),
        twin_in_parts,
        *(params, X, carry),
        dtype=dtype,
        compute_dtype=compute_dtype,
    )


@pytest.mark.parametrize("reverse", [False, True])
@every_cell
def test_equals_twin(name: str, reverse: bool) -> None:
    check(name, reverse=reverse, dtype="float64")


@every_cell
def test_float32_equals_twin(name: str) -> None:
    check(name, dtype="float32")


@every_cell
def test_bfloat16_operands_equal_twin(name: str) -> None:
    check(name, dtype="float32", compute_dtype="bfloat16")


@every_cell
def test_step_by_step_is_the_call_and_so_are_two_pieces(name: str) -> None:
    cell, (params, carry), x = CELLS[name][0], as_float32(draw(CELLS[name][0])), as_float32(X)
    call = jax.jit(partial(apply, cell))
    expected, end = call(params, x, carry)

    step = jax.jit(partial(apply, cell, method="step"))
    outputs, at = [], carry
    for t in range(x.shape[1]):
        y, at = step(params, x[:, t], at)
        outputs.append(y)
    assert_close((jnp.stack(outputs, axis=1), at), (expected, end), "float32")

    first, between = call(params, x[:, :2], carry)
    second, last = call(params, x[:, 2:], between)
    assert_close((jnp.concatenate([first, second], axis=1), last), (expected, end), "float32")


@pytest.mark.parametrize(
    ("name", "reverse"), [*((name, False) for name in CELLS), ("rglru", True), ("matrix", True)]
)
def test_padding_matters_to_nothing(name: str, reverse: bool) -> None:
    cell, (params, carry), x = CELLS[name][0], as_float32(draw(CELLS[name][0])), as_float32(X)
    valid = (np.arange(6) < LENGTHS[:, None])[..., None]

    @jax.jit
    def value_and_gradient(*arrays):
        def function(*arrays):
            return apply(cell, *arrays, jnp.asarray(LENGTHS), reverse=reverse)

        outputs, pullback = jax.vjp(function, *arrays)
        return outputs, pullback(jax.tree.map(jnp.ones_like, outputs))

    expected = value_and_gradient(params, x, carry)
    for junk in (np.nan, np.inf):
        assert_same(value_and_gradient(params, jnp.where(valid, x, junk), carry), expected)
    (y, _), (_, dx, _) = expected
    assert not np.any(np.where(valid, 0, y))
    assert not np.any(np.where(valid, 0, dx))


@every_cell
def test_carries(name: str) -> None:
    cell, x = CELLS[name][0], as_float32(X)
    zero = cell.zero_carry(3)
    params = {"params": as_float32(draw(cell)[0])}
    call = jax.jit(cell.apply)
    fresh = call(params, x)
    assert_same(parts(fresh[1]), parts(call(params, x, zero)[1]))
    assert jax.tree.map(jnp.shape, fresh[1]) == jax.tree.map(jnp.shape, zero)
    dtype = jnp.dtype("complex64" if name == "lru" else "float32")
    assert {z.dtype for z in jax.tree.leaves((zero, fresh[1]))} == {dtype}
    low, _ = jax.eval_shape(cell.apply, params, x.astype(jnp.bfloat16), zero)
    assert low.dtype == jnp.bfloat16


@every_cell
def test_saturated_gates_have_finite_gradients(name: str) -> None:
    cell, (params, carry) = CELLS[name][0], as_float32(draw(CELLS[name][0]))
    x = 1e4 * as_float32(X)
    loss = jax.jit(jax.grad(lambda *arrays: apply(cell, *arrays)[0].sum(), (0, 1, 2)))
    for leaf in jax.tree.leaves(loss(params, x, carry)):
        assert np.all(np.isfinite(leaf))


@every_cell
def test_parameters_have_a_place_on_every_mesh(name: str) -> None:
    cell = CELLS[name][0].clone(features=8)
    mesh = jax.make_mesh((1, 4, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    boxed = jax.eval_shape(cell.init, jax.random.key(0), jnp.zeros((1, 2, 8)))
    boxes = jax.tree.leaves(boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))
    assert all(isinstance(box, nn.LogicallyPartitioned) for box in boxes)
    parameter_shardings(boxed, mesh)


def test_initial_decays_are_slow() -> None:
    def initial(cell, *names):
        def draw(key):
            params = nn.unbox(cell.init(key, jnp.zeros((1, 1, 3))))["params"]
            return [params[name] for name in names]

        return (np.asarray(x, np.float64) for x in jax.jit(draw)(jax.random.key(0)))

    nu, theta, gamma = initial(LRU(200), "nu", "theta", "gamma")
    radius, phase = np.exp(-np.exp(nu)), np.exp(theta)
    assert 0.9 <= radius.min() < 0.91
    assert 0.99 < radius.max() <= 0.999
    assert 0 < phase.min() < 0.2
    assert 6.1 < phase.max() < 2 * np.pi
    np.testing.assert_allclose(np.exp(gamma), np.sqrt(1 - radius**2), rtol=1e-3)
    (decay,) = initial(RGLRU(200), "decay")
    power = (1 / (1 + np.exp(-decay))) ** 8
    assert 0.9 <= power.min() < 0.91
    assert 0.99 < power.max() < 0.9991


def test_heads_that_do_not_divide_the_features_raise() -> None:
    with pytest.raises(ValueError, match="3 heads do not divide 4 features"):
        random_params(MatrixMemory(4, num_heads=3), jnp.asarray(X))


@pytest.mark.parametrize("name", ["rglru", "matrix"])
def test_time_divided_over_devices_is_time_on_one(name: str) -> None:
    cell, lengths = CELLS[name][0], jnp.array([12, 0, 7])
    mesh = jax.make_mesh((4,), ("context",), axis_types=(AxisType.Auto,))
    arrays = draw(cell)

    def value_and_gradient(*arrays):
        outputs, pullback = jax.vjp(lambda *a: apply(cell, *a, lengths), *arrays)
        return outputs, pullback(jax.tree.map(jnp.cos, outputs))

    with jax.enable_x64(True):
        params, carry = jax.tree.map(jnp.asarray, arrays)
        arrays = params, jnp.asarray(np.tile(X, (1, 2, 1))), carry
        expected = jax.jit(value_and_gradient)(*arrays)
        with jax.set_mesh(mesh):
            lowered = jax.jit(value_and_gradient).lower(*arrays)
        assert "manual_computation" in lowered.as_text()  # each device on its own stretch
        assert_close(lowered.compile()(*arrays), expected, "float64")
