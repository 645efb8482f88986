"""The empty key/value cache that decoding starts from."""

import jax.numpy as jnp

from jaxseq.models.gpt import GPTConfig
from jaxseq.nn.attention import KVCache


def init_cache(config: GPTConfig, batch_size: int, slots: int | None = None) -> KVCache:
    """An empty cache for `GPT.decode`: keys and values of shape L B S K H, in the compute dtype.

    `config` must be resolved. `slots` (S) is how many positions it can hold, at most the context,
    which is the default; a short text in a large context is read faster from a short cache.

    Raises ValueError when `slots` is below 1 or above the context.
    """
    slots = config.context if slots is None else slots
    if not 1 <= slots <= config.context:
        raise ValueError(f"{slots} cache slots do not fit a context of {config.context}")
    head_size = config.width // config.num_heads
    shape = (config.num_layers, batch_size, slots, config.num_kv_heads, head_size)
    return KVCache(jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype))
