"""Twin of `models.encoder_decoder`, without dropout."""

from typing import Any

import numpy as np

from jaxseq.reference import alignment
from jaxseq.reference.embedding import attend, embedding
from jaxseq.reference.linear import linear
from jaxseq.reference.normalization import layer_norm
from jaxseq.reference.position_bias import RelativeBias
from jaxseq.reference.positions import sinusoidal
from jaxseq.reference.transformer import norm, stack


def encoder_decoder(
    params: dict[str, Any],
    source: np.ndarray,
    source_lengths: np.ndarray,
    inputs: np.ndarray,
    target_lengths: np.ndarray,
    config: Any,
) -> Any:
    """Logits (B, T, V) of the token after each of inputs (B, T), given source (B, S).

    With `copy` ((logits, the log odds of writing (B, T)), where the pointer looks (B, T, S)):

        a_t = softmax over valid s of (W_q h_t) . (W_k m_s) / sqrt(D)        c_t = sum_s a_ts m_s
        u_t = w_u^T [c_t; h_t] + b_u

    `config` is a resolved EncoderDecoderConfig or any object with its fields.
    """
    memory = _side("encoder", params, source, source_lengths, config)
    mask = np.arange(source.shape[1])[None] < source_lengths[:, None]
    x = _side("decoder", params, inputs, target_lengths, config, memory=memory, memory_mask=mask)
    if config.scale_logits:
        x = x * config.width**-0.5
    table = params["target_embedding"]
    logits = attend(table, x) if config.tie_embeddings else linear(x, **params["output"])
    logits = logits + params["output_bias"] if config.output_bias else logits
    if not config.copy:
        return logits
    query = linear(x, **params["pointer_query"]) / np.sqrt(config.width)
    scores = alignment.dot_scores(query, linear(memory, **params["pointer_key"]))
    context, weights = alignment.attend(scores, memory, mask)
    gate = linear(np.concatenate([context, x], axis=-1), **params["gate"])[..., 0]
    return (logits, gate), weights


def _side(
    side: str,
    params: dict[str, Any],
    tokens: np.ndarray,
    lengths: np.ndarray,
    config: Any,
    **memory: Any,
) -> np.ndarray:
    valid = np.arange(tokens.shape[1])[None] < lengths[:, None]
    positions = np.broadcast_to(np.arange(tokens.shape[1])[None], tokens.shape)
    separate = side == "encoder" and not config.share_embeddings
    table = params["source_embedding" if separate else "target_embedding"]
    x, bias = embedding(table, np.where(valid, tokens, 0)), None
    if config.scale_embeddings:
        x = x * config.width**0.5
    if config.positions == "sinusoidal":
        x = x + sinusoidal(positions, config.width)
    elif config.positions == "learned":
        x = x + embedding(params[f"{side}_positions"], positions)
    else:
        table = params[f"{side}_bias"]["table"]
        bias = RelativeBias(table, side == "encoder", config.relative_distance)
    if config.embedding_norm:
        x = layer_norm(x, **params[f"{side}_embedding_norm"], epsilon=config.norm_epsilon)
    x = stack(
        params[side],
        x,
        config.decoder_layers if side == "decoder" else config.encoder_layers,
        norm_kind=config.norm,
        norm_epsilon=config.norm_epsilon,
        norm_position=config.norm_position,
        activation=config.activation,
        num_heads=config.num_heads,
        num_kv_heads=config.num_heads,
        causal=side == "decoder",
        segments=valid.astype(int),
        bias=bias,
        scale=None if config.scale_attention else 1.0,
        **memory,
    )
    if config.norm_position == "pre":
        x = norm(params[f"{side}_norm"], x, config.norm, config.norm_epsilon)
    return x
