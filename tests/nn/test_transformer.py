"""Blocks and stacks of them against their twins."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import check_parity, random_params

from jaxseq.nn.transformer import Block, stack
from jaxseq.reference import transformer as reference

X = np.random.default_rng(0).normal(size=(2, 4, 8))
POSITIONS = np.arange(4, dtype=np.int32)[None]
WHERE = (None, jnp.asarray(POSITIONS), None, None)

CASES = {
    "pre, layer norm, gelu": {},
    "post, layer norm, swiglu": {"norm_position": "post", "activation": "swiglu"},
    "pre, rms norm, both directions": {"norm": "rms", "causal": False, "use_bias": False},
    "post, rms norm, rotary": {"norm": "rms", "norm_position": "post", "rotary_base": 100.0},
}
SIZES = {"num_heads": 2, "num_kv_heads": 1, "mlp_hidden": 10}


def twin_fields(fields: dict) -> dict:
    names = {"norm": "norm_kind"}
    kept = {names.get(name, name): value for name, value in fields.items() if name != "use_bias"}
    return kept | {"num_heads": 2, "num_kv_heads": 1, "positions": POSITIONS}


@pytest.mark.parametrize(
    ("case", "dtype"),
    [(case, "float64") for case in CASES]
    + [("pre, layer norm, gelu", "float32"), ("post, rms norm, rotary", "float32")],
)
def test_block_equals_twin(case: str, dtype: str) -> None:
    fields = CASES[case]
    block = Block(**SIZES, **fields)
    check_parity(
        lambda params, x: block.apply({"params": params}, x, *WHERE)[0],
        lambda params, x: reference.block(params, x, **twin_fields(fields)),
        random_params(block, jnp.asarray(X), *WHERE),
        X,
        dtype=dtype,
    )


def test_bfloat16_operands_equal_twin() -> None:
    block = Block(**SIZES, dtype=jnp.dtype("bfloat16"))
    check_parity(
        lambda params, x: block.apply({"params": params}, x, *WHERE)[0],
        lambda params, x: reference.block(params, x, **twin_fields({})),
        random_params(block, jnp.asarray(X), *WHERE),
        X,
        dtype="float32",
        compute_dtype="bfloat16",
    )


@pytest.mark.parametrize(("num_layers", "unroll"), [(1, 1), (3, 1), (3, 2)])
def test_stack_equals_twin(num_layers: int, unroll: int) -> None:
    blocks = stack(Block, num_layers, unroll=unroll, **SIZES)
    params = random_params(blocks, jnp.asarray(X), *WHERE)
    assert all(leaf.shape[0] == num_layers for leaf in jax.tree.leaves(params))
    check_parity(
        lambda params, x: blocks.apply({"params": params}, x, *WHERE)[0],
        lambda params, x: reference.stack(params, x, num_layers, **twin_fields({})),
        params,
        X,
        dtype="float64",
    )


def test_layers_start_different() -> None:
    blocks = stack(Block, 3, **SIZES)
    x = jnp.asarray(X, jnp.float32)
    params = jax.jit(lambda key: blocks.init(key, x, *WHERE))(jax.random.key(0))["params"]
    kernel = np.asarray(params["mlp"]["in"]["kernel"].value)
    assert np.any(kernel[0] != kernel[1])
    assert np.any(kernel[1] != kernel[2])


def test_dropout_differs_by_layer_and_follows_the_key() -> None:
    x = jnp.ones((1, 2, 8))
    where = (None, jnp.arange(2)[None], None, None)
    dropping = stack(Block, 2, **SIZES, dropout_rate=0.5, deterministic=False)
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
