"""BART and Marian checkpoints: one architecture, which differs in its positions."""

import re
from typing import Any

from jaxseq.interop.family import (
    ACTIVATIONS,
    Family,
    Fields,
    first_difference,
    linear,
    norm,
    their_activation,
)
from jaxseq.interop.weights import Weight
from jaxseq.models.encoder_decoder import EncoderDecoderConfig

UNUSED_POSITIONS = 2
"""BART's tables of positions begin with two rows that are never looked up."""


def _read_config(fields: Fields) -> EncoderDecoderConfig:
    bart = fields["model_type"] == "bart"
    size = fields["vocab_size"]
    fields.refuse(
        tie_word_embeddings=True,
        share_encoder_decoder_embeddings=True,
        decoder_vocab_size=size,
        encoder_attention_heads=fields["decoder_attention_heads"],
        encoder_ffn_dim=fields["decoder_ffn_dim"],
    )
    return EncoderDecoderConfig(
        source_vocab_size=size,
        target_vocab_size=size,
        context=fields["max_position_embeddings"],
        encoder_layers=fields["encoder_layers"],
        decoder_layers=fields["decoder_layers"],
        width=fields["d_model"],
        num_heads=fields["encoder_attention_heads"],
        mlp_hidden=fields["encoder_ffn_dim"],
        positions="learned" if bart else "sinusoidal",
        activation=fields.choose("activation_function", ACTIVATIONS, "gelu"),
        scale_embeddings=fields.get("scale_embedding", False),
        embedding_norm=bart,
        share_embeddings=True,
        output_bias=True,
        dropout=fields.get("dropout", 0.1),
    )


def _write_config(config: EncoderDecoderConfig) -> dict[str, Any]:
    bart = config.positions == "learned"
    written = {
        "model_type": "bart" if bart else "marian",
        "architectures": ["BartForConditionalGeneration" if bart else "MarianMTModel"],
        "vocab_size": config.source_vocab_size,
        "max_position_embeddings": config.context,
        "d_model": config.width,
        "activation_function": their_activation(config.activation),
        "scale_embedding": config.scale_embeddings,
        "tie_word_embeddings": True,
        "is_encoder_decoder": True,
        "dropout": config.dropout,
        "attention_dropout": config.dropout,
    }
    for side in ("encoder", "decoder"):
        written |= {
            f"{side}_layers": getattr(config, f"{side}_layers"),
            f"{side}_attention_heads": config.num_heads,
            f"{side}_ffn_dim": config.mlp_hidden,
        }
    if not bart:
        written |= {
            "decoder_vocab_size": config.target_vocab_size,
            "share_encoder_decoder_embeddings": True,
            "static_position_embeddings": True,
            # The start of a target, which Marian takes for its padding too.
            "pad_token_id": config.source_vocab_size - 1,
            "decoder_start_token_id": config.source_vocab_size - 1,
            "eos_token_id": 0,
            "forced_eos_token_id": 0,
        }
    return written


def _refusal(config: Any) -> str:
    if not isinstance(config, EncoderDecoderConfig):
        return f"{type(config).__name__} is no encoder-decoder"
    if config.positions == "relative":
        return "--model.positions is 'relative', which BART and Marian do not have"
    if config.activation in ("swiglu", "geglu"):
        return f"--model.activation is {config.activation!r}, which they do not have"
    return first_difference(
        config,
        norm="layer",
        norm_epsilon=1e-5,
        norm_position="post",
        use_bias=True,
        head_size=config.width // config.num_heads,
        scale_attention=True,
        embedding_norm=config.positions == "learned",
        share_embeddings=True,
        tie_embeddings=True,
        scale_logits=False,
        output_bias=True,
    )


def _weights(config: EncoderDecoderConfig, head: str) -> list[Weight]:
    copies = (
        "model.encoder.embed_tokens.weight",
        "model.decoder.embed_tokens.weight",
        "lm_head.weight",
    )
    weights = [
        Weight("target_embedding/table", "model.shared.weight", copies=copies),
        Weight("output_bias", "final_logits_bias", leading_one=True, optional=True),
    ]
    for side in ("encoder", "decoder"):
        layer = f"model.{side}.layers.{{layer}}"
        parts = [("attention", "attention_norm", "self_attn")]
        if side == "decoder":
            parts.append(("cross_attention", "cross_norm", "encoder_attn"))
        for ours, our_norm, theirs in parts:
            for name, tensor in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "out")):
                weights += linear(f"{side}/{ours}/{name}", f"{layer}.{theirs}.{tensor}_proj")
            weights += norm(f"{side}/{our_norm}", f"{layer}.{theirs}_layer_norm")
        weights += linear(f"{side}/mlp/in", f"{layer}.fc1")
        weights += linear(f"{side}/mlp/out", f"{layer}.fc2")
        weights += norm(f"{side}/mlp_norm", f"{layer}.final_layer_norm")
        if config.positions == "learned":
            table = f"model.{side}.embed_positions.weight"
            weights.append(Weight(f"{side}_positions/table", table, unused_rows=UNUSED_POSITIONS))
        if config.embedding_norm:
            weights += norm(f"{side}_embedding_norm", f"model.{side}.layernorm_embedding")
    return weights


BART = Family(
    model_types=("bart", "marian"),
    read_config=_read_config,
    write_config=_write_config,
    refusal=_refusal,
    weights=_weights,
    prefix="model.",
    unused=re.compile(r"model\.(encoder|decoder)\.embed_positions\.weight"),  # Marian's sinusoids
)
