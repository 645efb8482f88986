"""Tiny GPTs that between them use every option of the architecture."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from compare import random_params

from jaxseq.models.gpt import GPT, GPTConfig

TOKENS = np.array([[3, 0, 7, 1, 5], [2, 2, 9, 0, 4]], np.int32)
SMALL = GPTConfig(
    vocab_size=11, context=8, num_layers=2, width=8, num_heads=2, num_kv_heads=2, mlp_hidden=12
)

CONFIGS = {
    "gpt-2": SMALL,
    "llama": dataclasses.replace(
        SMALL,
        positions="rotary",
        norm="rms",
        activation="swiglu",
        num_heads=4,
        use_bias=False,
        tie_embeddings=False,
    ),
    "post-norm": dataclasses.replace(
        SMALL, norm_position="post", num_kv_heads=1, activation="swiglu", tie_embeddings=False
    ),
    "normalised queries": dataclasses.replace(
        SMALL, qk_norm=True, positions="rotary", rotary_base=50.0, norm="rms"
    ),
}


def in_dtype(config: GPTConfig, dtype: str) -> GPTConfig:
    """The config computing in `dtype`; float64 is the tests' own and no option for users."""
    config = dataclasses.replace(config)
    object.__setattr__(config, "dtype", dtype)
    return config


def make_params(config: GPTConfig, dtype: str = "float32") -> dict[str, Any]:
    """Parameters of a GPT, every one of them drawn at random."""
    params = random_params(GPT(config), jnp.asarray(TOKENS))
    return jax.tree.map(lambda p: jnp.asarray(p, dtype), params)
