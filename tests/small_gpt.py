"""Tiny GPTs that between them use every option of the architecture."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from compare import random_params

from jaxseq.models.gpt import GPT, GPTConfig
from jaxseq.nn.experts import Experts
from jaxseq.ops.positions import Rotary

TOKENS = np.array([[3, 0, 7, 1, 5], [2, 2, 9, 0, 4]], np.int32)
SMALL = GPTConfig(
    vocab_size=11,
    context=8,
    num_layers=2,
    width=8,
    num_heads=2,
    num_kv_heads=2,
    head_size=4,
    mlp_hidden=12,
)

CONFIGS = {
    "gpt-2": SMALL,
    "llama": dataclasses.replace(
        SMALL,
        positions="rotary",
        norm="rms",
        activation="swiglu",
        num_heads=4,
        head_size=2,
        use_bias=False,
        tie_embeddings=False,
    ),
    "post-norm": dataclasses.replace(
        SMALL, norm_position="post", num_kv_heads=1, activation="swiglu", tie_embeddings=False
    ),
    "qwen": dataclasses.replace(
        SMALL,
        positions="rotary",
        rotary=Rotary(base=50.0, scaling="llama3", factor=4.0, original_context=4),
        norm="rms",
        norm_epsilon=1e-2,
        activation="geglu",
        head_size=6,
        use_bias=False,
        qkv_bias=True,
        windows=(2, 0),
        soft_cap=1.5,
        final_soft_cap=3.0,
    ),
    "mixture": dataclasses.replace(
        SMALL, windows=(3,), experts=Experts(count=4, per_token=2), activation="swiglu"
    ),
    "normalised queries": dataclasses.replace(
        SMALL, qk_norm=True, positions="rotary", rotary=Rotary(base=50.0), norm="rms"
    ),
}


def make_params(config: GPTConfig, dtype: str = "float32") -> dict[str, Any]:
    """Parameters of a GPT, every one of them drawn at random."""
    params = random_params(GPT(config), jnp.asarray(TOKENS))
    return jax.tree.map(lambda p: jnp.asarray(p, dtype), params)
