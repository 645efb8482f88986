"""Twin of `models.rnn_encoder`, without dropout."""

from typing import Any

import numpy as np

from jaxseq.reference.embedding import embedding
from jaxseq.reference.linear import linear
from jaxseq.reference.recurrent import recurrent_stack


def rnn_encoder(
    params: dict[str, Any],
    tokens: np.ndarray,
    types: np.ndarray,
    lengths: np.ndarray,
    config: Any,
) -> np.ndarray:
    """Outputs (B, T, D) of tokens (B, T):  y = rnn(E[tokens] + S[types]), 0 from `lengths` on."""
    x = embedding(params["embedding"], tokens) + embedding(params["type_embedding"], types)
    y, _ = recurrent_stack(
        params["layers"],
        x,
        None,
        lengths,
        cell=config.cell,
        num_layers=config.num_layers,
        bidirectional=config.bidirectional,
    )
    return y


def label_logits(
    params: dict[str, Any],
    tokens: np.ndarray,
    types: np.ndarray,
    lengths: np.ndarray,
    config: Any,
) -> np.ndarray:
    """Logits (B, C) of the labels of whole texts."""
    y = rnn_encoder(params["encoder"], tokens, types, lengths, config)
    pooled = np.zeros((len(y), y.shape[2]))
    for b, length in enumerate(lengths):
        if length > 0:
            seen = y[b, :length]
            pooled[b] = seen.max(axis=0) if config.pooling == "max" else seen.mean(axis=0)
    return linear(pooled, **params["head"])
