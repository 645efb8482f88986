"""Blocks and stacks of them against their twins."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import check_parity, random_params

from jaxseq.nn.attention import AttentionConfig
from jaxseq.nn.experts import Experts
from jaxseq.nn.transformer import Block, BlockConfig, StackInputs, stack
from jaxseq.ops.positions import Rotary
from jaxseq.reference import transformer as reference

X = np.random.default_rng(0).normal(size=(2, 4, 8))
POSITIONS = np.arange(4, dtype=np.int32)[None]
WHERE = (None, None, StackInputs(jnp.asarray(POSITIONS)))
SIZES = {"num_heads": 2, "num_kv_heads": 1}

# Fields of the block, and of its attention.
CASES = {
    "pre, layer norm, gelu": ({}, {}),
    "post, layer norm, swiglu": ({"norm_position": "post", "activation": "swiglu"}, {}),
    "pre, rms norm, both directions": (
        {"norm": "rms", "use_bias": False, "activation": "gelu_exact"},
        {"causal": False, "qkv_bias": False, "out_bias": False},
    ),
    "post, rms norm, rotary": (
        {"norm": "rms", "norm_position": "post", "activation": "relu", "norm_epsilon": 0.1},
        {"rotary": Rotary(base=100.0), "qk_norm": True, "norm_epsilon": 0.1},
    ),
    # All experts are taken: where another one would be, the loss has a step and no slope.
    "pre, window, soft cap, experts": (
        {"experts": Experts(count=3, per_token=3), "activation": "geglu"},
        {"window": 2, "soft_cap": 2.0, "scale": 0.7},
    ),
}


def block_config(case: str, **changes) -> BlockConfig:
    fields, attend = CASES[case]
    attention = AttentionConfig(**SIZES, head_size=4, **attend)
    fields = fields | {"mlp_hidden": 10} | changes
    if "dtype" in changes:
        attention = dataclasses.replace(attention, dtype=changes["dtype"])
    return BlockConfig(attention, **fields)


def twin_fields(case: str) -> dict:
    fields, attend = CASES[case]
    names = {"norm": "norm_kind", "rotary": "rotary_config"}
    merged = {names.get(name, name): value for name, value in (fields | attend).items()}
    for name in ("use_bias", "qkv_bias", "out_bias"):
        merged.pop(name, None)
    return merged | SIZES | {"positions": POSITIONS}


@pytest.mark.parametrize(
    ("case", "dtype"),
    [(case, "float64") for case in CASES]
    + [("pre, layer norm, gelu", "float32"), ("post, rms norm, rotary", "float32")],
)
def test_block_equals_twin(case: str, dtype: str) -> None:
    block = Block(block_config(case))
    check_parity(
        lambda params, x: block.apply({"params": params}, x, *WHERE)[0],
        lambda params, x: reference.block(params, x, **twin_fields(case)),
        random_params(block, jnp.asarray(X), *WHERE),
        X,
        dtype=dtype,
    )


def test_bfloat16_operands_equal_twin() -> None:
    case = "pre, layer norm, gelu"
    block = Block(block_config(case, dtype=jnp.dtype("bfloat16")))
    check_parity(
        lambda params, x: block.apply({"params": params}, x, *WHERE)[0],
        lambda params, x: reference.block(params, x, **twin_fields("pre, layer norm, gelu")),
        random_params(block, jnp.asarray(X), *WHERE),
        X,
        dtype="float32",
        compute_dtype="bfloat16",
    )


@pytest.mark.parametrize(("num_layers", "unroll"), [(1, 1), (3, 1), (3, 2)])
def test_stack_equals_twin(num_layers: int, unroll: int) -> None:
    case = "pre, layer norm, gelu"
    blocks = stack(block_config(case), num_layers, unroll=unroll)
    params = random_params(blocks, jnp.asarray(X), *WHERE)
    assert all(leaf.shape[0] == num_layers for leaf in jax.tree.leaves(params))
    check_parity(
        lambda params, x: blocks.apply({"params": params}, x, *WHERE)[0],
        lambda params, x: reference.stack(params, x, num_layers, **twin_fields(case)),
        params,
        X,
        dtype="float64",
    )


def test_layers_start_different() -> None:
    blocks = stack(block_config("pre, layer norm, gelu"), 3)
    x = jnp.asarray(X, jnp.float32)
    params = jax.jit(lambda key: blocks.init(key, x, *WHERE))(jax.random.key(0))["params"]
    kernel = np.asarray(params["mlp"]["in"]["kernel"].value)
    assert np.any(kernel[0] != kernel[1])
    assert np.any(kernel[1] != kernel[2])


def test_dropout_differs_by_layer_and_follows_the_key() -> None:
    x = jnp.ones((1, 2, 8))
    where = (None, None, StackInputs(jnp.arange(2)[None]))
    config = block_config("pre, layer norm, gelu", dropout_rate=0.5)
    dropping = stack(config, 2, deterministic=False)
    params = random_params(dropping, x, *where)
    params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), params)

    @jax.jit
    def run(params, seed):
        rngs = {"dropout": jax.random.key(seed)}
        return dropping.apply({"params": params}, x, *where, rngs=rngs)[0]

    np.testing.assert_array_equal(run(params, 0), run(params, 0))
    assert np.any(run(params, 0) != run(params, 1))

    # The same weights in both layers, each adding a constant alone: with the same dropout in both
    # layers every element would move by 0 or twice the constant, and never by the constant itself.
    constant = jax.tree.map(jnp.zeros_like, params)
    constant["mlp"]["out"]["bias"] += 1.0
    moves = set(np.unique(np.asarray(run(constant, 0) - x)))
    assert moves == {0.0, 2.0, 4.0}


def test_block_with_a_memory_equals_twin() -> None:
    config = block_config("post, layer norm, swiglu", cross_attention=True)
    block = Block(config)
    memory = np.random.default_rng(1).normal(size=(2, 3, 8))
    mask = np.array([[True, True, True], [True, False, False]])
    junk = np.where(mask[..., None], memory, np.nan)

    def inputs(memory):
        return StackInputs(jnp.asarray(POSITIONS), memory=memory, memory_mask=jnp.asarray(mask))

    def run(params, x, memory):
        memory = jnp.where(mask[..., None], memory, jnp.nan)
        return block.apply({"params": params}, x, None, None, inputs(memory))[0]

    def twin(params, x, memory):
        fields = twin_fields("post, layer norm, swiglu")
        memory = np.where(mask[..., None], memory, 0.0)
        return reference.block(params, x, **fields, memory=memory, memory_mask=mask)

    params = random_params(block, jnp.asarray(X), None, None, inputs(jnp.asarray(junk)))
    check_parity(run, twin, params, X, memory, dtype="float64")


def test_layers_may_differ_in_their_window() -> None:
    case = "pre, layer norm, gelu"
    blocks = stack(block_config(case), 2)
    where = (None, jnp.asarray([2, 2**30]), StackInputs(jnp.asarray(POSITIONS)))
    check_parity(
        lambda params, x: blocks.apply({"params": params}, x, *where)[0],
        lambda params, x: reference.stack(params, x, 2, windows=[2, None], **twin_fields(case)),
        random_params(blocks, jnp.asarray(X), *where),
        X,
        dtype="float64",
    )
