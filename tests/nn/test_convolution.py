"""Layers that convolve over time: against their twins, over padding, and a part at a time."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close, assert_same, check_parity, float32, random_params

from jaxseq.nn.convolution import DepthwiseConvolution, StridedConvolution, Subsampling
from jaxseq.ops.padding import valid_steps
from jaxseq.reference import convolution as reference

X = np.random.default_rng(0).normal(size=(4, 7, 3))
LENGTHS = np.array([7, 6, 1, 0])
VALID = valid_steps(jnp.asarray(LENGTHS), 7)

LAYERS = {
    "depthwise": (DepthwiseConvolution(3), partial(reference.depthwise_layer, causal=False)),
    "even": (DepthwiseConvolution(4), partial(reference.depthwise_layer, causal=False)),
    "causal": (DepthwiseConvolution(4, True), partial(reference.depthwise_layer, causal=True)),
    "strided": (StridedConvolution(5), partial(reference.strided_layer, causal=False)),
    "strided, causal": (
        StridedConvolution(5, causal=True),
        partial(reference.strided_layer, causal=True),
    ),
    "2 times": (Subsampling(5, 2), partial(reference.subsampling, factor=2, causal=False)),
    "4 times": (Subsampling(5, 4), partial(reference.subsampling, factor=4, causal=False)),
    "4 times, causal": (
        Subsampling(5, 4, causal=True),
        partial(reference.subsampling, factor=4, causal=True),
    ),
}


def output(result) -> jax.Array:
    """The first of what a layer or twin gives, without what it makes of padding."""
    y = result[0] if isinstance(result, tuple) else result
    steps = y.shape[1]
    times = {7: 1, 4: 2, 2: 4}[steps]
    valid = np.arange(steps)[None] < -(-LENGTHS // times)[:, None]
    return y * valid[..., None]


@pytest.mark.parametrize("name", LAYERS)
def test_equals_twin(name: str) -> None:
    layer, twin = LAYERS[name]
    check_parity(
        lambda params, x: output(layer.apply({"params": params}, x, VALID)),
        lambda params, x: output(twin(params, x, LENGTHS)),
        random_params(layer, jnp.asarray(X), VALID),
        X,
        dtype="float64",
    )


@pytest.mark.parametrize("name", ["depthwise", "4 times"])
def test_padding_cannot_matter(name: str) -> None:
    layer, _ = LAYERS[name]
    params = float32(random_params(layer, jnp.asarray(X), VALID))

    @jax.jit
    def loss(params, x):
        return jax.value_and_grad(
            lambda *args: (output(layer.apply({"params": args[0]}, args[1], VALID)) ** 2).sum(),
            argnums=(0, 1),
        )(params, x)

    clean, *others = (
        loss(params, jnp.where(VALID[..., None], jnp.float32(X), junk)) for junk in (0.0, np.nan)
    )
    assert_same(others[0], clean)


def test_as_many_outputs_as_see_any_of_a_row() -> None:
    for factor in (2, 4):
        layer = Subsampling(5, factor)
        (_, valid, _), _ = jax.jit(layer.init_with_output)(jax.random.key(0), jnp.float32(X), VALID)
        np.testing.assert_array_equal(valid.sum(1), -(-LENGTHS // factor))


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_depthwise_in_parts_equals_at_once(steps: int) -> None:
    layer, _ = LAYERS["causal"]
    x = jnp.asarray(X[:, :6], jnp.float32)
    params = float32(random_params(layer, x, VALID[:, :6]))
    parts, before = [], jnp.zeros((4, 3, 3))
    for i in range(0, 6, steps):
        at = slice(i, i + steps)
        y, before = layer.apply({"params": params}, x[:, at], VALID[:, at], before)
        parts.append(y)
    whole, _ = layer.apply({"params": params}, x, VALID[:, :6])
    assert_close(jnp.concatenate(parts, axis=1), whole, "float32")


@pytest.mark.parametrize(("factor", "steps"), [(2, 2), (2, 4), (4, 4)])
def test_subsampling_in_parts_equals_at_once(factor: int, steps: int) -> None:
    layer = Subsampling(5, factor, causal=True)
    params = {"params": float32(random_params(layer, jnp.asarray(X), VALID))}
    whole, valid, _ = layer.apply(params, jnp.float32(X), VALID)
    # Each part ends with the last step that its last output sees, and so the first begins early.
    room = (0, 0), (factor - 1, 8)
    x = jnp.pad(jnp.float32(X), (*room, (0, 0)))
    inside = jnp.pad(VALID, room)
    parts, before = [], layer.start(4, 3)
    for i in range(0, 8, steps):
        at = slice(i, i + steps)
        y, is_there, before = layer.apply(params, x[:, at], inside[:, at], before)
        parts.append((y * is_there[..., None], is_there))
    y, is_there = (jnp.concatenate(part, axis=1) for part in zip(*parts, strict=True))
    assert_close(y[:, : whole.shape[1]], whole * valid[..., None], "float32")
    assert_same(is_there[:, : whole.shape[1]], valid)


def test_misuse_is_refused() -> None:
    x, valid = jnp.zeros((1, 4, 3)), jnp.ones((1, 4), bool)
    for layer, before in [
        (DepthwiseConvolution(3), jnp.zeros((1, 2, 3))),
        (StridedConvolution(3), jnp.zeros((1, 1, 3))),
    ]:
        params = float32(random_params(layer, x, valid))
        with pytest.raises(ValueError, match="before: a layer that sees what comes later"):
            layer.apply({"params": params}, x, valid, before)
    for factor in (0, 1, 6):
        with pytest.raises(ValueError, match=f"factor: {factor} is no power of 2"):
            Subsampling(5, factor).init(jax.random.key(0), x, valid)
