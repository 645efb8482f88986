"""FLOPs of a model are those of its equations, whatever form a platform computes."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import pallas as pl
from jax.sharding import PartitionSpec

from jaxseq.models.gpt import GPTConfig
from jaxseq.nn.experts import Experts
from jaxseq.nn.parameters import flatten
from jaxseq.parallel.mesh import MeshConfig
from jaxseq.tasks.language_model import LanguageModel
from jaxseq.training.flops import matmul_flops, training_flops

SQUARE = jax.ShapeDtypeStruct((8, 8), jnp.float32)
PRODUCT = 2 * 8**3


def array(*shape: int, dtype=jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


@jax.custom_vjp
def own_gradient(x, w):
    return x @ w


own_gradient.defvjp(lambda x, w: (x @ w, (x, w)), lambda saved, dy: saved)


def kernel(x, w, out):
    out[...] = x[...] @ w[...]


def by_rows(x, w):
    """A kernel that goes over x in two blocks of rows."""
    rows, whole = pl.BlockSpec((4, 8), lambda i: (i, 0)), pl.BlockSpec((8, 8), lambda i: (0, 0))
    specs = {"in_specs": [rows, whole], "out_specs": rows}
    return pl.pallas_call(kernel, jax.ShapeDtypeStruct(x.shape, x.dtype), grid=(2,), **specs)(x, w)


@pytest.mark.parametrize(
    ("function", "products"),
    [
        (lambda x, w: jnp.tanh(x @ w) + x, 1),
        (jax.jit(jax.checkpoint(lambda x, w: x @ w)), 1),
        (own_gradient, 1),
        (lambda x, w: lax.scan(lambda h, _: (h @ w, None), x, length=5)[0], 5),
        (lambda x, w: lax.fori_loop(0, 5, lambda _, h: h @ w, x), 5),
        (lambda x, w: lax.while_loop(lambda h: h.sum() > 0, lambda h: h @ w, x), 1),
        (lambda x, w: lax.cond(x.sum() > 0, lambda: x @ w @ w, lambda: x @ w), 2),
        (
            lambda x, w: lax.platform_dependent(
                x, w, cpu=lambda x, w: x @ w @ w, default=lambda x, w: x @ w
            ),
            1,
        ),
        (by_rows, 1),
    ],
    ids=[
        "product",
        "remat",
        "custom_vjp",
        "scan",
        "fori_loop",
        "while",
        "cond",
        "platform",
        "pallas",
    ],
)
def test_programs_are_counted_as_they_run(function, products):
    assert matmul_flops(function, SQUARE, SQUARE) == products * PRODUCT


def test_products_of_every_kind():
    heads = array(3, 5, 2, 4), array(3, 7, 2, 4)
    scores = partial(jnp.einsum, "BTNH,BSNH->BNTS")
    assert matmul_flops(scores, *heads) == 2 * 3 * 2 * 5 * 7 * 4
    # Rows meet the matrix of their own group alone.
    groups = array(6, dtype=jnp.int32)
    assert matmul_flops(lax.ragged_dot, array(20, 3), array(6, 3, 5), groups) == 2 * 20 * 3 * 5
    # 16 positions, 3 taps, 4 of 8 channels in, 6 out; stretched by two, every other tap meets a 0.
    convolve = partial(
        lax.conv_general_dilated,
        padding=((1, 1),),
        dimension_numbers=("NTC", "TIO", "NTC"),
        feature_group_count=2,
    )
    arrays = array(1, 16, 8), array(3, 4, 6)
    assert matmul_flops(partial(convolve, window_strides=(1,)), *arrays) == 2 * 16 * 6 * 3 * 4
    stretched = partial(convolve, window_strides=(1,), lhs_dilation=(2,))
    assert matmul_flops(stretched, *arrays) == 2 * 31 * 6 * 3 * 4 // 2


def test_a_divided_program_counts_on_every_device():
    mesh = MeshConfig(data=4, tensor=2).build(4).mesh
    rows = PartitionSpec("data")
    divided = jax.shard_map(
        lambda x, w: x @ w, mesh=mesh, in_specs=(rows, PartitionSpec()), out_specs=rows
    )
    # Over "tensor" every product is computed twice, and that is counted.
    assert matmul_flops(divided, SQUARE, SQUARE) == 2 * PRODUCT


def shapes(model: GPTConfig, batch_size: int = 2):
    """(parameters, batch), without any array."""
    params = nn.unbox(jax.eval_shape(partial(LanguageModel().init, model), jax.random.key(0)))
    tokens = array(batch_size, model.context, dtype=jnp.int32)
    mask = array(batch_size, model.context, dtype=jnp.bool_)
    return params, {"inputs": tokens, "targets": tokens, "mask": mask}


TINY = GPTConfig(num_layers=3, width=16, num_heads=2)


def palm(tokens: int, context: int) -> int:
    """6 N + 12 L D T a token; N counts the matrices, of which the embedding is the output's too."""
    matrices = 3 * 12 * 16**2 + 50 * 16
    return tokens * (6 * matrices + 12 * 3 * 16 * context)


@pytest.mark.parametrize("context", [24, 1024], ids=["dense", "chunked by itself"])
def test_a_gpt_is_the_formula_of_palm(context):
    model = TINY.resolve(vocab_size=50, context=context)
    params, batch = shapes(model)
    expected = palm(2 * context, context)
    assert training_flops(LanguageModel(), model, params, batch) == expected
    # Neither layers that are no scan nor memory saved by computing again or in parts change that.
    other, task = (
        dataclasses.replace(model, unroll_layers=3, remat="full"),
        LanguageModel(loss_chunk=8),
    )
    assert training_flops(task, other, params, batch) == expected


def test_experts_count_for_the_tokens_that_they_see():
    """On every mesh: what goes to other devices, or is computed on several, counts once."""
    model = dataclasses.replace(TINY, experts=Experts(count=8, per_token=2))
    model = model.resolve(vocab_size=50, context=24)
    params, batch = shapes(model, batch_size=4)
    router, second_expert = 16 * 8, 16 * 64 + 64 * 16
    expected = palm(96, 24) + 96 * 6 * 3 * (router + second_expert)
    assert training_flops(LanguageModel(), model, params, batch) == expected
    with MeshConfig(data=2, expert=2, tensor=2).build(4).use():
        assert training_flops(LanguageModel(), model, params, batch) == expected


def test_what_is_frozen_has_no_gradient():
    model = TINY.resolve(vocab_size=50, context=24)
    params, batch = shapes(model)
    forward = matmul_flops(lambda p, b: LanguageModel().loss(model, p, b, None), params, batch)
    tokens, output = 48, 2 * 16 * 50
    cost = partial(training_flops, LanguageModel(), model, params, batch)
    assert cost() == 3 * forward
    everything = flatten(params)
    assert cost(frozen=everything) == forward
    # The last norm alone: of the products, the output's alone passes a gradient back, to its input.
    assert cost(frozen=[p for p in everything if "final_norm" not in p]) == (
        forward + tokens * output
    )
    # Without the embedding: that product has no gradient for its matrix, which is the embedding.
    # What the first layer reads is varied all the same, by the positions.
    assert cost(frozen=["embedding/table"]) == 3 * forward - tokens * output


def test_gradients_reach_what_a_loop_carries():
    """What trains enters the carry in the first turn; a scan does in all turns what it does in one.

    In each: h W, with no gradient, and c P, with one for each. Then a product with no gradient,
    because one factor never meets P and that of the other is stopped, and one with two.
    """

    class Loop:
        def loss(self, model, params, batch, key):
            def turn(carry, _):
                h, c = carry
                return (h @ batch, c @ params["p"]), None

            (h, c), _ = lax.scan(turn, (batch, batch), length=4)
            return (lax.stop_gradient(c) @ h + c @ c).sum(), 1

    expected = 4 * (1 + 3) + 1 + 3
    assert training_flops(Loop(), None, {"p": SQUARE}, SQUARE) == expected * PRODUCT


def test_xla_counts_as_much():
    """Its own count of a compiled gradient that holds little but products."""

    class Quadratic:
        def loss(self, model, params, batch, key):
            return jnp.sum((batch @ params["a"] @ params["b"]) ** 2), 1

    def loss(params, x):
        return Quadratic().loss(None, params, x, None)[0]

    params, x = {"a": array(64, 128), "b": array(128, 64)}, array(32, 64)
    found = training_flops(Quadratic(), None, params, x)
    # x is data: the first product has one gradient alone.
    assert found == 2 * 32 * 128 * 64 * (2 + 3)
    compiled = jax.jit(jax.grad(loss)).lower(params, x).compile()
    np.testing.assert_allclose(compiled.cost_analysis()["flops"], found, rtol=0.01)
