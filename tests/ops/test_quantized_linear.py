"""Products of 8 bits against their twin, where they are, and what a device without them gets."""

import dataclasses
from functools import partial
from types import SimpleNamespace

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close
from small_gpt import SMALL, TOKENS, make_params

from jaxseq.errors import UserError
from jaxseq.models.gpt import GPT, GPTConfig
from jaxseq.nn.experts import Experts
from jaxseq.ops.quantized_linear import check_quantize, quantized_linear
from jaxseq.reference import quantized_linear as reference

pytest.importorskip("qwix")

FORMS = {"int8": ("int8", "int8"), "fp8": ("e4m3", "e5m2")}


@pytest.mark.parametrize("quantize", FORMS)
def test_equals_twin(quantize):
    rng = np.random.default_rng(0)
    x, kernel, bias, dy = (rng.normal(size=s) for s in ((2, 3, 8), (8, 5), (5,), (2, 3, 5)))
    # The largest of a row is on the edge of being rounded past it; of int8, only below zero there
    # is a number. Which way it goes is up to the last bit of the scale: keep the largest above.
    x, kernel, dy = (np.where(a < 0, a / 4, a) for a in (x, kernel, dy))
    x[0, 1] = 0  # a row without a scale
    x[1] *= 1000  # that must not drown the others

    @jax.jit
    def value_and_gradients(x, kernel, bias, dy):
        y, pull = jax.vjp(partial(quantized_linear, quantize=quantize), x, kernel, bias)
        return y, *pull(dy)

    with jax.enable_x64(True):
        found = value_and_gradients(*map(jnp.asarray, (x, kernel, bias, dy)))
    forward, backward = FORMS[quantize]
    rows, drows = x.reshape(6, 8), dy.reshape(6, 5)
    expected = (
        reference.quantized_linear(rows, kernel, bias, forward).reshape(dy.shape),
        reference.product(drows, kernel.T, backward, forward).reshape(x.shape),
        rows.T @ drows,
        drows.sum(axis=0),
    )
    # The int32 and float32 in which qwix sums hold these sums to 24 bits.
    for name, a, b in zip(("y", "dx", "dkernel", "dbias"), found, expected, strict=True):
        assert_close(a, b, "float32", name)


def loss_and_gradients(config, params):
    model = GPT(config)

    def loss(params):
        return jnp.mean(model.apply({"params": params}, jnp.asarray(TOKENS))[..., ::2])

    lowered = jax.jit(jax.value_and_grad(loss)).lower(params)
    return lowered.compile()(params), lowered.as_text()


def test_two_of_three_products_of_each_matrix_have_operands_of_8_bits():
    params = make_params(SMALL)
    (loss, gradients), _ = loss_and_gradients(SMALL, params)
    changed = dataclasses.replace(SMALL, quantize="int8")
    (low, low_gradients), text = loss_and_gradients(changed, params)
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    # query, key, value, out and the two of the MLP: each forward and for its input's gradient.
    assert sum("xi8>" in line for line in products) == 2 * 6
    assert low != loss
    near, exact = (jax.flatten_util.ravel_pytree(g)[0] for g in (low_gradients, gradients))
    assert np.linalg.norm(near - exact) < 0.05 * np.linalg.norm(exact)


@pytest.mark.parametrize(
    ("platform", "kind", "capability", "can"),
    [
        ("tpu", "TPU v5 lite", None, {"int8"}),
        ("tpu", "TPU v4", None, set()),
        ("tpu", "TPU7x", None, {"fp8"}),
        ("gpu", "NVIDIA A100-SXM4-80GB", "8.0", {"int8"}),
        ("gpu", "NVIDIA H200", "9.0", {"int8", "fp8"}),
        ("gpu", "Tesla V100", "7.0", set()),
        ("cpu", "cpu", None, {"int8", "fp8"}),
    ],
)
def test_a_device_without_such_products_is_named(platform, kind, capability, can):
    device = SimpleNamespace(platform=platform, device_kind=kind, compute_capability=capability)
    check_quantize("none", device)
    for quantize in ("int8", "fp8"):
        if quantize in can:
            check_quantize(quantize, device)
        else:
            with pytest.raises(UserError, match=f"--model.quantize {quantize}: {kind}"):
                check_quantize(quantize, device)


def test_experts_are_not_quantized_and_that_is_said():
    config = GPTConfig(quantize="int8", experts=Experts(count=4, per_token=2))
    with pytest.raises(UserError, match="drop it, or the experts"):
        config.resolve(vocab_size=8, context=8)
