"""The Conformer: against its twin, over padding, and a chunk at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close, assert_same, check_parity, float32, random_params

from jaxseq.nn.attention import AttentionConfig, KVCache
from jaxseq.nn.conformer import (
    ConformerBlock,
    ConformerCache,
    ConformerConfig,
    ConformerInputs,
    chunk_mask,
    conformer,
)
from jaxseq.ops.padding import valid_steps
from jaxseq.ops.positions import Rotary
from jaxseq.reference import conformer as reference

X = np.random.default_rng(0).normal(size=(3, 6, 8))
LENGTHS = np.array([6, 4, 0])
VALID = valid_steps(jnp.asarray(LENGTHS), 6)
CHUNK, LEFT = 2, 1
MASK = chunk_mask(6, CHUNK, LEFT)
TWIN = {"num_heads": 2, "num_kv_heads": 2, "rotary_config": Rotary()}


def config(dtype: str | None = None, *, causal: bool = False) -> ConformerConfig:
    dtype = None if dtype is None else jnp.dtype(dtype)
    attention = AttentionConfig(2, 2, 4, causal=False, rotary=Rotary(), dtype=dtype)
    return ConformerConfig(attention, mlp_hidden=10, kernel=3, causal=causal, dtype=dtype)


def inputs(mask: jax.Array | None = None) -> ConformerInputs:
    return ConformerInputs(jnp.arange(6)[None], VALID, mask)


def shown(y: jax.Array) -> jax.Array:
    return y * np.asarray(VALID)[..., None]


@pytest.mark.parametrize(("dtype", "operands"), [("float64", None), ("float32", "bfloat16")])
def test_block_equals_twin(dtype: str, operands: str | None) -> None:
    block = ConformerBlock(config(operands))
    check_parity(
        lambda params, x: shown(block.apply({"params": params}, x, None, inputs())[0]),
        lambda params, x: shown(reference.conformer_block(params, x, LENGTHS, **TWIN)),
        random_params(block, jnp.asarray(X), None, inputs()),
        X,
        dtype=dtype,
        compute_dtype=operands,
    )


@pytest.fixture(scope="module")
def stack() -> tuple:
    """Two causal blocks that look at chunks, and their parameters."""
    module = conformer(config(causal=True), 2)
    return module, random_params(module, jnp.asarray(X), None, inputs(MASK))


def test_stack_with_chunks_equals_twin(stack: tuple) -> None:
    module, params = stack
    check_parity(
        lambda x: shown(module.apply({"params": float32(params)}, x, None, inputs(MASK))[0]),
        lambda x: shown(
            reference.conformer(params, x, LENGTHS, 2, causal=True, mask=np.asarray(MASK), **TWIN)
        ),
        X,
        dtype="float32",
    )


def test_chunk_mask_equals_twin() -> None:
    for sizes in [(6, 2, 1), (7, 3, 0), (5, 1, 2), (4, 9, 1), (0, 2, 1)]:
        assert_same(chunk_mask(*sizes), reference.chunk_mask(*sizes))


def test_padding_cannot_matter(stack: tuple) -> None:
    module, params = stack
    params = float32(params)

    @jax.jit
    def compute(params, x):
        def loss(params, x):
            y, _ = module.apply({"params": params}, x, None, inputs(MASK))
            return (shown(y) ** 2).sum()

        return jax.value_and_grad(loss, argnums=(0, 1))(params, x)

    clean = compute(params, jnp.where(VALID[..., None], jnp.float32(X), 0))
    assert_same(compute(params, jnp.where(VALID[..., None], jnp.float32(X), 1e3)), clean)
    assert not np.asarray(clean[1][1])[~np.asarray(VALID)].any()


def test_chunk_by_chunk_equals_at_once(stack: tuple) -> None:
    module, params = stack
    params, x = {"params": float32(params)}, jnp.float32(X)
    whole, _ = jax.jit(module.apply)(params, x, None, inputs(MASK))

    @jax.jit
    def step(x, cache, positions, valid, slots):
        where = ConformerInputs(positions, valid, slots=slots)
        return module.apply(params, x, cache, where)

    keys = jnp.zeros((2, 3, LEFT * CHUNK, 2, 4))
    cache = ConformerCache(KVCache(keys, keys), jnp.zeros((2, 3, 2, 8)))
    slots, parts = jnp.zeros((3, LEFT * CHUNK), bool), []
    for i in range(0, 6, CHUNK):
        at = slice(i, i + CHUNK)
        slots = jnp.concatenate([slots, VALID[:, at]], axis=1)
        y, cache = step(x[:, at], cache, jnp.arange(i, i + CHUNK)[None], VALID[:, at], slots)
        parts.append(y)
        slots = slots[:, CHUNK:]
    assert_close(shown(jnp.concatenate(parts, axis=1)), shown(whole), "float32")


def test_dropout_is_drawn_for_every_layer_and_step(stack: tuple) -> None:
    _, params = stack
    with_dropout = ConformerConfig(
        config().attention, mlp_hidden=10, kernel=3, causal=True, dropout_rate=0.5
    )
    module = conformer(with_dropout, 2, deterministic=False)

    @jax.jit
    def draw(key):
        rngs = {"dropout": key}
        return module.apply(
            {"params": float32(params)}, jnp.float32(X), None, inputs(MASK), rngs=rngs
        )[0]

    one, same, other = map(draw, map(jax.random.key, (0, 0, 1)))
    assert_same(one, same)
    assert np.all(np.any(np.asarray(one != other), axis=-1)[np.asarray(VALID)])
