"""The linear recurrence: every form against the twin, padding, pieces, time over devices."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close, assert_same, check_parity
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxseq.ops.recurrence import linear_recurrence
from jaxseq.reference import recurrence as reference

METHODS = ("scan", "associative", "chunked")
LENGTHS = np.array([7, 0, 1, 5], np.int32)


def draw(batch: int = 4, num_steps: int = 7, features: int = 3) -> tuple[np.ndarray, ...]:
    """a in [-1, 1] with exact zeros and ones in it, b, h0."""
    rng = np.random.default_rng(num_steps)
    a = rng.uniform(-1, 1, (batch, num_steps, features))
    a[:, :, 0] = rng.integers(0, 2, (batch, num_steps))
    return a, rng.normal(size=a.shape), rng.normal(size=(batch, features))


def check(method: str, reverse: bool, dtype: str, lengths: np.ndarray | None = LENGTHS) -> None:
    check_parity(
        lambda a, b, h0: linear_recurrence(
            a,
            b,
            h0,
            None if lengths is None else jnp.asarray(lengths),
            method=method,
            reverse=reverse,
        ),
        lambda a, b, h0: reference.linear_recurrence(a, b, h0, lengths, reverse=reverse),
        *draw(),
        dtype=dtype,
    )


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_every_form_equals_twin(method: str, reverse: bool) -> None:
    check(method, reverse, "float64")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["auto", "associative"])
def test_lower_precision_equals_twin(method: str, dtype: str) -> None:
    check(method, False, dtype)


def test_without_lengths_equals_twin() -> None:
    check("auto", True, "float64", lengths=None)


def test_lengths_beyond_the_end_count_as_the_end() -> None:
    check("auto", True, "float32", lengths=np.array([9, 7, 100, 2], np.int32))


@pytest.mark.parametrize(("method", "reverse"), [("scan", True), ("associative", False)])
def test_complex_equals_twin(method: str, reverse: bool) -> None:
    def parts(outputs):
        return [(x.real, x.imag) for x in outputs]

    def function(*pairs):
        arrays = [lax.complex(*pair) for pair in pairs]
        lengths = jnp.asarray(LENGTHS)
        return parts(linear_recurrence(*arrays, lengths, method=method, reverse=reverse))

    def twin(*pairs):
        arrays = [real + 1j * imag for real, imag in pairs]
        return parts(reference.linear_recurrence(*arrays, LENGTHS, reverse=reverse))

    check_parity(function, twin, *zip(draw(), draw(), strict=True), dtype="float64")


@pytest.mark.parametrize("num_steps", [0, 1, 2, 3, 10])
@pytest.mark.parametrize("method", METHODS)
def test_any_number_of_steps(method: str, num_steps: int) -> None:
    arguments = [jnp.asarray(x, jnp.float32) for x in draw(num_steps=num_steps)]
    for reverse in (False, True):
        function = jax.jit(partial(linear_recurrence, method=method, reverse=reverse))
        expected = reference.linear_recurrence(*map(np.asarray, arguments), reverse=reverse)
        assert_close(function(*arguments), expected, "float32")


def test_no_steps_have_gradients() -> None:
    a, b, h0 = (jnp.asarray(x, jnp.float32) for x in draw(num_steps=0))
    gradient = jax.grad(lambda a, b, h0: linear_recurrence(a, b, h0)[1].sum(), (0, 1, 2))
    assert_same(gradient(a, b, h0), (a, b, jnp.ones_like(h0)))


@pytest.mark.parametrize("reverse", [False, True])
def test_padding_matters_to_nothing(reverse: bool) -> None:
    a, b, h0 = (jnp.asarray(x, jnp.float32) for x in draw())
    valid = (np.arange(7) < LENGTHS[:, None])[..., None]

    @jax.jit
    def value_and_gradient(a, b, h0):
        def function(a, b, h0):
            return linear_recurrence(a, b, h0, jnp.asarray(LENGTHS), reverse=reverse)

        outputs, pullback = jax.vjp(function, a, b, h0)
        return outputs, pullback(jax.tree.map(jnp.ones_like, outputs))

    expected = value_and_gradient(a, b, h0)
    for junk in (np.nan, np.inf):
        spoiled = (jnp.where(valid, x, junk) for x in (a, b))
        assert_same(value_and_gradient(*spoiled, h0), expected)
    (h, _), (da, db, _) = expected
    for x in (h, da, db):
        assert not np.any(np.where(valid, 0, x))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_two_pieces_are_the_whole(dtype: str) -> None:
    a, b, h0 = (jnp.asarray(x, dtype) for x in draw())
    whole, end = linear_recurrence(a, b, h0)
    first, between = linear_recurrence(a[:, :3], b[:, :3], h0)
    second, last = linear_recurrence(a[:, 3:], b[:, 3:], between)
    assert end.dtype == between.dtype == jnp.float32
    assert_same(jnp.concatenate([first, second], axis=1), whole)
    assert_same(last, end)


def test_the_loop_copies_no_array_at_any_step() -> None:
    """A loop that writes in place costs T small steps; one misplaced read and it costs T copies."""
    a, b, h0 = (jnp.asarray(x, jnp.float32) for x in draw(2, 24, 5))

    def loss(a, b, h0):
        h, last = linear_recurrence(jax.nn.sigmoid(a), jnp.sin(b), h0)
        return jnp.sum(jnp.square(h)) + jnp.sum(last)

    text = jax.jit(jax.grad(loss, (0, 1, 2))).lower(a, b, h0).compile().as_text()
    bodies = [part for part in text.split("\n\n") if not part.lstrip().startswith("ENTRY")]
    assert sum("while(" in line for line in text.splitlines()) == 2
    assert not [part for part in bodies if re.search(r"= f32\[2,24,5\]\S* copy\(", part)]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("axes", [{"context": 8}, {"data": 2, "context": 2, "tensor": 2}])
def test_time_over_devices_is_time_on_one(axes: dict[str, int], reverse: bool) -> None:
    a, b, h0 = (jnp.asarray(x, jnp.float32) for x in draw(4, 16))
    lengths = None if reverse else jnp.array([16, 0, 3, 9])
    mesh = jax.make_mesh(tuple(axes.values()), tuple(axes), (AxisType.Auto,) * len(axes))

    def value_and_gradient(a, b, h0, method):
        def function(a, b, h0):
            return linear_recurrence(a, b, h0, lengths, method=method, reverse=reverse)

        outputs, pullback = jax.vjp(function, a, b, h0)
        return outputs, pullback(jax.tree.map(jnp.cos, outputs))

    run = jax.jit(value_and_gradient, static_argnums=3)
    in_time = NamedSharding(mesh, PartitionSpec("data" if "data" in axes else None, "context"))
    with jax.set_mesh(mesh):
        arrays = [jax.device_put(x, in_time) for x in (a, b)]
        compiled = run.lower(*arrays, h0, "auto").compile()
    assert_close(compiled(*arrays, h0), run(a, b, h0, "scan"), "float32")
    # One state a device is sent to all, not all states.
    assert all(",16,3]" not in line for line in compiled.as_text().splitlines())
