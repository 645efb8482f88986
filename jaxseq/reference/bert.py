"""Twin of `models.bert`, without dropout."""

from typing import Any

import numpy as np

from jaxseq.reference import activations
from jaxseq.reference.embedding import attend, embedding
from jaxseq.reference.linear import linear
from jaxseq.reference.normalization import layer_norm
from jaxseq.reference.transformer import stack


def bert(
    params: dict[str, Any],
    tokens: np.ndarray,
    config: Any,
    types: np.ndarray | None = None,
    segments: np.ndarray | None = None,
    positions: np.ndarray | None = None,
) -> np.ndarray:
    """Hidden states (B, T, D) of tokens (B, T).

        x = norm(E[tokens] + P[positions] + S[types])
        x = block_L( ... block_1(x))

    `config` is a resolved BertConfig or any object with its fields.
    """
    batch, length = np.shape(tokens)
    if positions is None:
        positions = np.arange(length)[None]
    positions = np.broadcast_to(positions, (batch, length))
    types = np.zeros((batch, length), int) if types is None else types
    x = embedding(params["embedding"], tokens)
    x = x + embedding(params["position_embedding"], positions)
    x = x + embedding(params["type_embedding"], types)
    x = layer_norm(x, **params["embedding_norm"], epsilon=config.norm_epsilon)
    return stack(
        params["blocks"],
        x,
        config.num_layers,
        norm_epsilon=config.norm_epsilon,
        norm_position="post",
        activation=config.activation,
        num_heads=config.num_heads,
        num_kv_heads=config.num_heads,
        causal=False,
        positions=positions,
        segments=segments,
    )


def pool(params: dict[str, Any], hidden: np.ndarray) -> np.ndarray:
    """tanh(W h_0 + b) for hidden states (B, T, D)."""
    return np.tanh(linear(hidden[:, 0], **params["pooler"]))


def pretraining(
    params: dict[str, Any],
    tokens: np.ndarray,
    masked_positions: np.ndarray,
    config: Any,
    **inputs: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Logits (B, M, V) of the tokens at masked_positions (B, M), and (B, 2) of the next text."""
    hidden = bert(params["encoder"], tokens, config, **inputs)
    head = params["head"]
    f = getattr(activations, config.activation)
    logits = np.zeros((*masked_positions.shape, config.vocab_size))
    for b, m in np.ndindex(masked_positions.shape):
        x = f(linear(hidden[b, masked_positions[b, m]], **head["map"]))
        x = layer_norm(x, **head["norm"], epsilon=config.norm_epsilon)
        logits[b, m] = attend(params["encoder"]["embedding"], x) + head["bias"]
    return logits, linear(pool(params["encoder"], hidden), **params["next_sentence"])


def labels(
    params: dict[str, Any], tokens: np.ndarray, config: Any, *, pooled: bool, **inputs: np.ndarray
) -> np.ndarray:
    """Logits of labels, of the pooled text (B, C) or of every token (B, T, C)."""
    hidden = bert(params["encoder"], tokens, config, **inputs)
    return linear(pool(params["encoder"], hidden) if pooled else hidden, **params["head"])
