"""The self-attention layer against its twin, and its cache."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close, check_parity, random_params

from jaxseq.nn.attention import AttentionConfig, KVCache, SelfAttention
from jaxseq.ops.positions import Rotary
from jaxseq.reference.attention import self_attention

X = np.random.default_rng(0).normal(size=(2, 5, 8))
POSITIONS = np.array([[0, 1, 2, 0, 1], [0, 1, 2, 3, 4]], np.int32)
SEGMENTS = np.array([[1, 1, 1, 2, 2], [1, 1, 1, 1, 0]], np.int32)

# Layer, and whether the rows are packed.
CASES = {
    "causal": ({"num_heads": 4, "num_kv_heads": 4}, False),
    "both directions": ({"causal": False}, False),
    "grouped-query, rotary": (
        {"num_heads": 4, "rotary": Rotary(base=100.0), "qkv_bias": False, "out_bias": False},
        False,
    ),
    "normalised, packed": (
        {"num_kv_heads": 1, "qk_norm": True, "rotary": Rotary(base=100.0)},
        True,
    ),
    "heads of their own size": ({"head_size": 6, "qkv_bias": True, "out_bias": False}, False),
}


def self_attention_layer(deterministic: bool = True, **fields) -> SelfAttention:
    fields = {"num_heads": 2, "num_kv_heads": 2} | fields
    fields.setdefault("head_size", 8 // fields["num_heads"])
    return SelfAttention(AttentionConfig(**fields), deterministic)


def check(case: str, **options) -> None:
    fields, packed = CASES[case]
    layer = self_attention_layer(**fields)
    segments = SEGMENTS if packed else None
    arrays = {"positions": jnp.asarray(POSITIONS)}
    if packed:
        arrays["segments"] = jnp.asarray(SEGMENTS)
    params = random_params(layer, jnp.asarray(X), **arrays)
    if "compute_dtype" in options:
        layer = self_attention_layer(**fields, dtype=jnp.dtype(options["compute_dtype"]))
    check_parity(
        lambda params, x: layer.apply({"params": params}, x, **arrays)[0],
        lambda params, x: self_attention(
            params,
            x,
            num_heads=layer.config.num_heads,
            num_kv_heads=layer.config.num_kv_heads,
            positions=POSITIONS,
            segments=segments,
            causal=layer.config.causal,
            rotary_config=layer.config.rotary,
            qk_norm=layer.config.qk_norm,
        ),
        params,
        X,
        **options,
    )


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", CASES)
def test_equals_twin(case: str, dtype: str) -> None:
    check(case, dtype=dtype)


@pytest.mark.parametrize("case", ["causal", "normalised, packed"])
def test_bfloat16_operands_equal_twin(case: str) -> None:
    check(case, dtype="float32", compute_dtype="bfloat16")


def test_dropout_needs_a_rate_and_a_key() -> None:
    x, positions = jnp.asarray(X, jnp.float32), jnp.asarray(POSITIONS)
    params = {"params": random_params(self_attention_layer(), x, positions=positions)}
    params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), params)

    def run(layer, seed):
        rngs = {"dropout": jax.random.key(seed)}
        return np.asarray(jax.jit(layer.apply)(params, x, positions=positions, rngs=rngs)[0])

    plain = run(self_attention_layer(), 0)
    np.testing.assert_array_equal(run(self_attention_layer(dropout_rate=0.5), 0), plain)
    dropping = self_attention_layer(dropout_rate=0.5, deterministic=False)
    np.testing.assert_array_equal(run(dropping, 1), run(dropping, 1))
    assert np.any(run(dropping, 1) != run(dropping, 2))
    assert np.any(run(dropping, 1) != plain)


def test_cache_write_touches_its_slots_alone() -> None:
    rng = np.random.default_rng(0)
    old = KVCache(*(jnp.asarray(rng.normal(size=(2, 6, 1, 3)), jnp.float32) for _ in range(2)))
    key, value = (jnp.asarray(rng.normal(size=(2, 2, 1, 3)), jnp.float32) for _ in range(2))
    new = old.write(key, value, jnp.asarray(3))
    for before, written, after in ((old.key, key, new.key), (old.value, value, new.value)):
        expected = np.array(before)
        expected[:, 3:5] = written
        np.testing.assert_array_equal(after, expected)


def test_cache_keeps_its_own_dtype() -> None:
    zeros = jnp.zeros((1, 4, 1, 2), jnp.bfloat16)
    ones = jnp.ones((1, 1, 1, 2))
    assert KVCache(zeros, zeros).write(ones, ones, jnp.asarray(0)).key.dtype == jnp.bfloat16


def test_cached_steps_equal_the_whole_sequence() -> None:
    layer = self_attention_layer(num_heads=4, num_kv_heads=2, rotary=Rotary(base=100.0))
    x, positions = jnp.asarray(X, jnp.float32), jnp.arange(5)[None]
    params = random_params(layer, x, positions=positions)
    params = {"params": jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), params)}
    full, no_cache = jax.jit(layer.apply)(params, x, positions=positions)
    assert no_cache is None

    @jax.jit
    def step(x, cache, length):
        positions = length + jnp.arange(x.shape[1])[None]
        return layer.apply(params, x, positions=positions, cache=cache, cache_length=length)

    # What stands in slots not yet written cannot matter.
    junk = jnp.full((2, 7, 2, 2), jnp.nan)
    cache = KVCache(junk, junk)
    for at in range(5):
        y, cache = step(x[:, at : at + 1], cache, jnp.asarray(at))
        assert_close(y, full[:, at : at + 1], "float32", f"step {at}")
