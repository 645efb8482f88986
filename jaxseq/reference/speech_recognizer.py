"""Twin of `models.speech_recognizer` and `nn.speech_features`, without dropout and SpecAugment."""

from typing import Any

import numpy as np

from jaxseq.reference.conformer import chunk_mask, conformer
from jaxseq.reference.convolution import subsampling
from jaxseq.reference.embedding import embedding
from jaxseq.reference.frame_normalization import standardise_running, standardise_utterances
from jaxseq.reference.linear import linear
from jaxseq.reference.normalization import layer_norm
from jaxseq.reference.recurrent import recurrent_stack, zero_padding
from jaxseq.reference.spectral import deltas
from jaxseq.reference.transformer import stack


def speech_recognizer(
    params: dict[str, Any],
    log_mels: np.ndarray,
    frames: np.ndarray,
    config: Any,
    target_inputs: np.ndarray | None = None,
    target_lengths: np.ndarray | None = None,
) -> tuple[np.ndarray, ...]:
    """Logits (B, T', V) for CTC and, given inputs (B, N), target logits (B, N, V).

    `log_mels` (B, T, M) and their lengths `frames` are those of `reference.spectral`; of them, and
    not of the waveform, so that they need not be computed again for every choice of parameters.
    `config` is a resolved SpeechRecognizerConfig or any object with its fields.
    """
    x, lengths = speech_features(params["features"]["convolutions"], log_mels, frames, config)
    heads = {"num_heads": config.num_heads, "num_kv_heads": config.num_heads}
    rotary: dict[str, Any] = {"rotary_config": Rotary}
    if config.encoder == "conformer":
        mask = None
        if config.chunk:
            mask = chunk_mask(x.shape[1], config.chunk, config.left_chunks)
        memory = conformer(
            params["conformer"],
            x,
            lengths,
            config.num_layers,
            causal=config.chunk > 0,
            mask=mask,
            **heads,
            **rotary,
        )
    else:
        memory, _ = recurrent_stack(
            params["recurrent"],
            x,
            None,
            lengths,
            cell="lstm",
            num_layers=config.num_layers,
            bidirectional=config.encoder == "bilstm",
        )
    logits = zero_padding(linear(memory, **params["output"]), lengths)
    if target_inputs is None or target_lengths is None:
        return (logits,)

    steps = target_inputs.shape[1]
    valid = np.arange(steps)[None] < target_lengths[:, None]
    y = stack(
        params["decoder"],
        embedding(params["target_embedding"], np.where(valid, target_inputs, 0)),
        config.decoder_layers,
        positions=np.arange(steps)[None],
        segments=valid.astype(int),
        memory=memory,
        memory_mask=np.arange(memory.shape[1])[None] < lengths[:, None],
        **heads,
        **rotary,
    )
    y = layer_norm(y, **params["decoder_norm"])
    return logits, zero_padding(linear(y, **params["target_output"]), target_lengths)


class Rotary:
    """The plain rotary positions of `ops.positions`."""

    base, scaling = 10_000.0, "none"


def speech_features(
    params: dict[str, Any], log_mels: np.ndarray, frames: np.ndarray, config: Any
) -> tuple[np.ndarray, np.ndarray]:
    """(x (B, T', D), lengths): normalised, with differences beside, made sparse in time."""
    x = log_mels
    if config.normalise == "utterance":
        x = standardise_utterances(x, frames)
    elif config.normalise == "running":
        x = standardise_running(x, frames)
    if config.deltas:
        first = deltas(x, frames)
        x = np.concatenate([x, first, deltas(first, frames)], axis=-1)
    factor, causal = config.subsampling, config.chunk > 0
    return subsampling(params, x, frames, factor=factor, causal=causal)
