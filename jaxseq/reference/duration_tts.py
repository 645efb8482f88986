"""Twin of `models.duration_tts`, without dropout."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from jaxseq.reference.embedding import embedding
from jaxseq.reference.length_regulator import (
    duration_predictor,
    places_in_tokens,
    regulate_length,
)
from jaxseq.reference.linear import linear
from jaxseq.reference.monotonic_alignment import diagonal_prior, monotonic_alignment_search
from jaxseq.reference.normalization import layer_norm
from jaxseq.reference.positions import sinusoidal
from jaxseq.reference.speech_aligner import speech_aligner
from jaxseq.reference.transformer import stack


def duration_tts(
    params: dict[str, Any],
    tokens: np.ndarray,
    token_lengths: np.ndarray,
    speakers: np.ndarray,
    log_mels: np.ndarray,
    mel_lengths: np.ndarray,
    config: Any,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Frames (B, T, M), predicted log(1 + d) (B, S), durations (B, S), scores (B, T, S).

    `config` is a resolved DurationTTSConfig or any object with its fields.
    """
    memory = read(params, tokens, token_lengths, speakers, config)
    num_frames = log_mels.shape[1]
    prior = diagonal_prior(mel_lengths, token_lengths, num_frames, tokens.shape[1])
    soft = speech_aligner(
        params["aligner"],
        params["embedding"]["table"],
        tokens,
        token_lengths,
        log_mels,
        mel_lengths,
        prior,
    )
    durations = monotonic_alignment_search(soft, mel_lengths, token_lengths)
    log_durations = duration_predictor(params["durations"], memory, token_lengths)
    return speak(params, memory, durations, num_frames, config), log_durations, durations, soft


def read(
    params: dict[str, Any],
    tokens: np.ndarray,
    token_lengths: np.ndarray,
    speakers: np.ndarray,
    config: Any,
) -> np.ndarray:
    """What decoder and predictor see of the tokens (B, S, D)."""
    x = embedding(params["embedding"], tokens)
    voice = embedding(params["speaker_embedding"], speakers)[:, None]
    y = _blocks(params, "encoder", x, token_lengths, config.encoder_layers, config)
    return y + voice


def speak(
    params: dict[str, Any],
    memory: np.ndarray,
    durations: np.ndarray,
    num_frames: int,
    config: Any,
) -> np.ndarray:
    """Frames (B, T, M) of tokens (B, S, D) that last `durations` each, 0 behind them."""
    x, lengths = regulate_length(memory, durations, num_frames)
    size = params["places"]["kernel"].shape[0] // 2
    places = [sinusoidal(p, size) for p in places_in_tokens(durations, num_frames)]
    x = x + linear(np.concatenate(places, axis=-1), **params["places"])
    x = _blocks(params, "decoder", x, lengths, config.decoder_layers, config)
    y = linear(x, **params["output"])
    for b, length in enumerate(lengths):
        y[b, length:] = 0
    return y


def _blocks(
    params: dict[str, Any],
    name: str,
    x: np.ndarray,
    lengths: np.ndarray,
    num_layers: int,
    config: Any,
) -> np.ndarray:
    positions = np.arange(x.shape[1])[None]
    y = stack(
        params[name],
        x,
        num_layers,
        num_heads=config.num_heads,
        num_kv_heads=config.num_heads,
        positions=positions,
        segments=(positions < np.asarray(lengths)[:, None]).astype(int),
        causal=False,
        rotary_config=SimpleNamespace(base=10_000.0, scaling="none"),
    )
    return layer_norm(y, **params[f"{name}_norm"])
