"""Decoding with a cache gives what the whole forward pass gives, however the text is split."""

import functools
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close
from small_gpt import CONFIGS, make_params

from jaxseq.models.gpt import GPT
from jaxseq.nn.attention import KVCache
from jaxseq.nn.transformer import BlockCache

TOKENS = jnp.array([[3, 0, 7, 1, 5], [2, 2, 9, 0, 4]])
LENGTH = TOKENS.shape[1]


def empty_cache(config, slots: int) -> BlockCache:
    # NaN in what is not yet written must never be read.
    shape = (config.num_layers, TOKENS.shape[0], slots, config.num_kv_heads, config.head_size)
    return BlockCache(KVCache(jnp.full(shape, jnp.nan), jnp.full(shape, jnp.nan)))


@functools.cache
def compiled(name: str):
    """The whole forward pass of a config on TOKENS, and its compiled decode."""
    model = GPT(CONFIGS[name])
    params = {"params": make_params(CONFIGS[name])}
    decode = jax.jit(functools.partial(model.apply, params, method="decode"))
    return jax.jit(model.apply)(params, TOKENS), decode


@pytest.mark.parametrize("name", ["gpt-2", "llama", "post-norm"])
def test_prefill_then_single_steps_equal_the_full_forward(name: str) -> None:
    full, decode = compiled(name)
    # One prefill of each length, then one token at a time; 0 is no prefill at all.
    for prefill in range(LENGTH):
        cache, parts = empty_cache(CONFIGS[name], 8), []
        edges = [0, *range(max(prefill, 1), LENGTH + 1)]
        for start, stop in pairwise(edges):
            logits, cache = decode(TOKENS[:, start:stop], cache, jnp.asarray(start))
            parts.append(np.asarray(logits))
        assert_close(np.concatenate(parts, axis=1), full, "float32", f"prefill of {prefill}")


@pytest.mark.parametrize("name", ["gpt-2", "llama", "post-norm"])
def test_prefill_then_a_chunk_equals_the_full_forward(name: str) -> None:
    full, decode = compiled(name)
    for prefill in range(1, LENGTH + 1):
        cache = empty_cache(CONFIGS[name], 8)
        first, cache = decode(TOKENS[:, :prefill], cache, jnp.asarray(0))
        parts = [np.asarray(first)]
        if prefill < LENGTH:
            rest, cache = decode(TOKENS[:, prefill:], cache, jnp.asarray(prefill))
            parts.append(np.asarray(rest))
        assert_close(np.concatenate(parts, axis=1), full, "float32", f"prefill of {prefill}")


def test_a_cache_just_long_enough_is_enough() -> None:
    full, decode = compiled("llama")
    cache = empty_cache(CONFIGS["llama"], LENGTH)
    _, cache = decode(TOKENS[:, :-1], cache, jnp.asarray(0))
    last, _ = decode(TOKENS[:, -1:], cache, jnp.asarray(LENGTH - 1))
    assert_close(last, full[:, -1:], "float32")
