"""The key/value cache of a GPT: empty, or with the beginning of a text in it."""

from typing import Any

import jax.numpy as jnp

from jaxseq.models.gpt import GPT, GPTConfig
from jaxseq.nn.attention import KVCache
from jaxseq.nn.transformer import BlockCache, unstack
from jaxseq.typing import Array, Int, PyTree


def init_cache(config: GPTConfig, batch_size: int, slots: int | None = None) -> BlockCache:
    """An empty cache for `GPT.decode`: keys and values of shape L B S K H, in the compute dtype.

    `config` must be resolved. `slots` (S) is how many positions it can hold, at most the context,
    which is the default; a short text in a large context is read faster from a short cache.

    Raises ValueError when `slots` is below 1 or above the context.
    """
    slots = config.context if slots is None else slots
    if not 1 <= slots <= config.context:
        raise ValueError(f"{slots} cache slots do not fit a context of {config.context}")
    shape = (config.num_layers, batch_size, slots, config.num_kv_heads, config.head_size)
    return BlockCache(KVCache(jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype)))


def read_ahead(
    model: GPT,
    params: PyTree,
    tokens: Int[Array, "B T"],
    slots: int,
    first_slot: Int[Array, "B"] | None = None,
) -> tuple[BlockCache, ...]:
    """The caches, one for each layer, of a text that begins with T >= 0 tokens.

    Rows begin in their `first_slot` (0). Call it under `jit`: the logits are then not computed.
    """
    cache = init_cache(model.config, tokens.shape[0], slots)
    if tokens.shape[1]:
        start = jnp.int32(0)
        _, cache = model.apply(
            {"params": params}, tokens, cache, start, first_slot, method="decode"
        )
    return unstack(cache)


def layer_by_layer(model: Any, params: PyTree) -> tuple[Any, PyTree]:
    """The same model with its layers apart (`nn.transformer.Layers`), and its parameters so.

    For loops that write token by token: the layers are cut apart here, once, and not in every
    step.
    """
    apart = {
        name: {f"layer_{i}": layer for i, layer in enumerate(unstack(params[name]))}
        for name in ("blocks", "encoder", "decoder")
        if name in params
    }
    return model.clone(scan_layers=False), {**params, **apart}


def left_padded(
    prompt: Int[Array, "B P"], prompt_lengths: Int[Array, "B"]
) -> tuple[Int[Array, "B P"], Int[Array, "B"]]:
    """Right-padded rows shifted so that all end in the last column, and where each begins."""
    first = prompt.shape[1] - prompt_lengths
    columns = (jnp.arange(prompt.shape[1])[None] - first[:, None]) % prompt.shape[1]
    return jnp.take_along_axis(prompt, columns, axis=1), first
