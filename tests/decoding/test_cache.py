import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close, in_dtype
from small_gpt import CONFIGS, SMALL, TOKENS, make_params

from jaxseq.decoding.cache import init_cache
from jaxseq.models.gpt import GPT
from jaxseq.nn.transformer import unstack

BATCH, LENGTH = TOKENS.shape


def layered(params):
    layers = {f"layer_{i}": layer for i, layer in enumerate(unstack(params["blocks"]))}
    return {**params, "blocks": layers}


@pytest.mark.parametrize("scan_layers", [True, False], ids=["scanned", "layer by layer"])
@pytest.mark.parametrize("name", CONFIGS)
def test_token_by_token_equals_full_forward(name, scan_layers):
    """For other ways to split a text see tests/models/test_gpt_decode.py."""
    config, params = CONFIGS[name], make_params(CONFIGS[name])
    full = jax.jit(GPT(config).apply)({"params": params}, jnp.asarray(TOKENS))
    cache = init_cache(config, BATCH)
    if not scan_layers:
        params, cache = layered(params), unstack(cache)
    model = GPT(config, scan_layers=scan_layers)
    step = jax.jit(lambda *args: model.apply({"params": params}, *args, method="decode"))
    logits = []
    for read in range(LENGTH):
        out, cache = step(jnp.asarray(TOKENS[:, read : read + 1]), cache, jnp.int32(read))
        logits.append(np.asarray(out))
    assert_close(np.concatenate(logits, axis=1), full, "float32")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_cache_has_the_shape_and_dtype_of_keys(dtype):
    config = in_dtype(CONFIGS["post-norm"], dtype)
    cache = init_cache(config, batch_size=3, slots=5).own
    assert cache.key.shape == cache.value.shape == (2, 3, 5, 1, 4)
    assert cache.key.dtype == cache.value.dtype == jnp.dtype(dtype)
    assert init_cache(config, 3).own.key.shape[2] == config.context


@pytest.mark.parametrize("slots", [0, SMALL.context + 1])
def test_slots_outside_the_context(slots):
    with pytest.raises(ValueError, match=f"{slots} cache slots do not fit a context of 8"):
        init_cache(SMALL, 1, slots)
