"""Twin of `models.gpt`."""

from typing import Any

import numpy as np

from jaxseq.reference.embedding import attend, embedding
from jaxseq.reference.linear import linear
from jaxseq.reference.transformer import norm, stack


def gpt(
    params: dict[str, Any],
    tokens: np.ndarray,
    config: Any,
    positions: np.ndarray | None = None,
    segments: np.ndarray | None = None,
) -> np.ndarray:
    """Next-token logits (B, T, V) of tokens (B, T), without dropout.

        x = E[tokens] (+ P[positions])
        x = block_L( ... block_1(x))
        logits = norm(x) E^T        (or an output matrix of its own)

    `config` is a resolved GPTConfig or any object with its fields.
    """
    batch, length = np.shape(tokens)
    if positions is None:
        positions = np.arange(length)[None]
    positions = np.broadcast_to(positions, (batch, length))
    x = embedding(params["embedding"], tokens)
    if config.positions == "learned":
        x = x + embedding(params["position_embedding"], positions)
    windows = None
    if config.windows:
        repeated = [config.windows[i % len(config.windows)] for i in range(config.num_layers)]
        windows = [window or None for window in repeated]
    x = stack(
        params["blocks"],
        x,
        config.num_layers,
        norm_kind=config.norm,
        norm_position=config.norm_position,
        activation=config.activation,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        norm_epsilon=config.norm_epsilon,
        experts=config.experts,
        rotary_config=config.rotary if config.positions == "rotary" else None,
        qk_norm=config.qk_norm,
        windows=windows,
        soft_cap=config.soft_cap or None,
        positions=positions,
        segments=segments,
    )
    if config.norm_position == "pre":
        x = norm(params["final_norm"], x, config.norm, config.norm_epsilon)
    if config.tie_embeddings:
        logits = attend(params["embedding"], x)
    else:
        logits = linear(x, **params["output"])
    cap = config.final_soft_cap
    return cap * np.tanh(logits / cap) if cap else logits
