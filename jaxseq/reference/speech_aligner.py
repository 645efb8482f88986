"""Twin of `nn.speech_aligner`."""

from typing import Any

import numpy as np

from jaxseq.reference.convolution_stack import convolution_stack
from jaxseq.reference.linear import linear


def speech_aligner(
    params: dict[str, Any],
    table: np.ndarray,
    tokens: np.ndarray,
    token_lengths: np.ndarray,
    log_mels: np.ndarray,
    mel_lengths: np.ndarray,
    log_prior: np.ndarray,
) -> np.ndarray:
    """log softmax over v of -|q_t - k_v|^2 / A, at the token s, + log prior_ts; (B, T, S).

    -1e9 in the padding. `table` (V, D) has the vectors of the vocabulary.
    """
    keys = linear(table, **params["key"])
    queries = convolution_stack(params["frames"], log_mels, mel_lengths)
    queries = linear(queries, **params["query"])
    scores = np.full(log_prior.shape, -1e9)
    for b in range(len(tokens)):
        for t in range(mel_lengths[b]):
            nearness = -np.sum((queries[b, t] - keys) ** 2, axis=-1) / keys.shape[-1]
            log_sum = nearness.max() + np.log(np.exp(nearness - nearness.max()).sum())
            for s in range(token_lengths[b]):
                scores[b, t, s] = nearness[tokens[b, s]] - log_sum + log_prior[b, t, s]
    return scores
