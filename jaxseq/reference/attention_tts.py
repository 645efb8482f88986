"""Twin of `models.attention_tts`, without dropout: one row after the other, without padding."""

from typing import Any

import numpy as np

from jaxseq.reference.activations import gelu
from jaxseq.reference.alignment import alignment_step
from jaxseq.reference.convolution_stack import convolution_stack
from jaxseq.reference.embedding import embedding
from jaxseq.reference.linear import linear
from jaxseq.reference.recurrent import lstm, recurrent_stack

Row = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def attention_tts(
    params: dict[str, Any],
    tokens: np.ndarray,
    token_lengths: np.ndarray,
    speakers: np.ndarray,
    log_mels: np.ndarray,
    mel_lengths: np.ndarray,
    config: Any,
) -> Row:
    """before, after (B, T, M), stop logits (B, T) and alignments (B, T, S), given true frames.

    `config` is a resolved AttentionTTSConfig or any object with its fields.
    """
    before, after = np.zeros(log_mels.shape), np.zeros(log_mels.shape)
    stop_logits = np.zeros(log_mels.shape[:2])
    alignments = np.zeros((*log_mels.shape[:2], tokens.shape[1]))
    for b, speaker in enumerate(map(int, speakers)):
        read, heard = int(token_lengths[b]), int(mel_lengths[b])
        row = speak_row(params, tokens[b, :read], speaker, heard, config, log_mels[b, :heard])
        before[b, :heard], after[b, :heard], stop_logits[b, :heard] = row[:3]
        alignments[b, :heard, :read] = row[3]
    return before, after, stop_logits, alignments


def speak_row(
    params: dict[str, Any],
    tokens: np.ndarray,
    speaker: int,
    max_frames: int,
    config: Any,
    true: np.ndarray | None = None,
) -> Row:
    """before, after (T, M), stop logits (T,), alignments (T, S) of one row.

    The frames are told, or where `true` is None the model's own, up to the first with a stop
    logit above 0; `max_frames` at most.
    """
    together, mels, width = config.frames_per_step, config.front_end.num_mels, config.width
    x = convolution_stack(params["convolutions"], embedding(params["embedding"], tokens[None]))
    memory, _ = recurrent_stack(params["encoder"], x, cell="lstm", num_layers=1, bidirectional=True)
    memory = memory + params["speaker_embedding"]["table"][speaker]
    lengths = np.array([len(tokens)])

    state, upper = None, None
    context, past, last = np.zeros((1, width)), np.zeros((1, len(tokens))), np.zeros((1, mels))
    frames, stop_logits, alignments = [], [], []
    while len(frames) < max_frames and not (true is None and any(y > 0 for y in stop_logits)):
        p = last
        for name in ("prenet_in", "prenet_out"):
            p = gelu(linear(p, **params[name]))
        x = np.concatenate([p, context], axis=-1)[:, None]
        h, (hidden, cell) = lstm(x, **params["attention_cell"], carry=state)
        state = hidden, cell
        context, weights, past = alignment_step(
            params["alignment"], h[:, 0], memory, lengths, past, kind="location"
        )
        seen = np.concatenate([h[:, 0], context], axis=-1)[:, None]
        layers = config.decoder_layers
        d, upper = recurrent_stack(params["decoder"], seen, upper, cell="lstm", num_layers=layers)
        y = linear(np.concatenate([d[:, 0], context], axis=-1), **params["frames"])
        for spoken in y.reshape(together, mels + 1):
            frames.append(spoken[:-1])
            stop_logits.append(spoken[-1])
            alignments.append(weights[0])
        last = np.array(frames[-1:] if true is None else true[len(frames) - 1 : len(frames)])

    length = min(len(frames), max_frames)
    if true is None:
        ends = [t + 1 for t in range(length) if stop_logits[t] > 0]
        length = min([length, *ends])
    before = np.array(frames).reshape(-1, mels)[:length]
    mended = linear(convolution_stack(params["postnet"], before[None]), **params["postnet_output"])
    alignments = np.array(alignments).reshape(len(frames), len(tokens))[:length]
    return before, before + mended[0], np.array(stop_logits[:length]), alignments
