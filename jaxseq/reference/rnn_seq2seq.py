"""Twin of `models.rnn_seq2seq`, for the cells elman, lstm and gru."""

from typing import Any

import numpy as np

from jaxseq.reference.alignment import alignment_step
from jaxseq.reference.embedding import embedding
from jaxseq.reference.linear import linear
from jaxseq.reference.recurrent import recurrent_stack


def rnn_seq2seq(
    params: dict[str, Any],
    source: np.ndarray,
    source_lengths: np.ndarray,
    target_inputs: np.ndarray,
    config: Any,
) -> tuple[Any, np.ndarray]:
    """Logits (B, T, V) and alignments (B, T, S) of one target token after the other.

        m = encoder(E_x[x])
        h_0 = f(tanh(W_b [m_S forward; m_1 backward] + b_b), 0)
        h_t = f(E_y[y_{t-1}], h_{t-1})          or f([E_y[y_{t-1}]; c_{t-1}], h_{t-1}), c_0 = 0
        logits_t = W_o tanh(W_c [c_t; h_t] + b_c) + b_o

    With `copy` the pair of logits and the log odds of writing (B, T) in the place of logits:

        u_t = w_u^T [c_t; h_t; E_y[y_{t-1}]] + b_u

    `config` is a resolved RNNSeq2SeqConfig or any object with its fields; there is no dropout.
    """
    batch, width = len(source), config.width
    memory, _ = recurrent_stack(
        params["encoder"],
        embedding(params["source_embedding"], source),
        None,
        source_lengths,
        cell=config.cell,
        num_layers=config.encoder_layers,
        bidirectional=config.bidirectional,
    )
    summary = np.zeros((batch, width))
    for b, length in enumerate(source_lengths):
        if length > 0:
            summary[b] = memory[b, length - 1]
            if config.bidirectional:
                summary[b, width // 2 :] = memory[b, 0, width // 2 :]

    def read(x: np.ndarray, carry: tuple | None) -> tuple[np.ndarray, tuple]:
        y, carry = recurrent_stack(
            params["decoder"],
            x[:, None],
            carry,
            cell=config.cell,
            num_layers=config.decoder_layers,
        )
        return y[:, 0], carry

    _, carry = read(np.tanh(linear(summary, **params["bridge"])), None)
    context, past = np.zeros((batch, width)), np.zeros(source.shape)
    logits, gates, alignments = [], [], []
    for tokens in np.transpose(target_inputs):
        x = token = embedding(params["target_embedding"], tokens)
        if config.input_feeding:
            x = np.concatenate([x, context], axis=-1)
        hidden, carry = read(x, carry)
        context, weights, past = alignment_step(
            params.get("alignment", {}), hidden, memory, source_lengths, past, kind=config.attention
        )
        combined = np.tanh(linear(np.concatenate([context, hidden], axis=-1), **params["combine"]))
        logits.append(linear(combined, **params["output"]))
        alignments.append(weights)
        if config.copy:
            gate = linear(np.concatenate([context, hidden, token], axis=-1), **params["gate"])
            gates.append(gate[:, 0])
    scores = np.stack(logits, axis=1)
    if config.copy:
        scores = scores, np.stack(gates, axis=1)
    return scores, np.stack(alignments, axis=1)
