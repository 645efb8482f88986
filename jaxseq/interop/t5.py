"""T5 checkpoints: 1.0 (ReLU, tied) and 1.1 (gated GELU, untied)."""

import re
from typing import Any

from jaxseq.interop.family import Family, Fields, first_difference, linear, norm
from jaxseq.interop.weights import Weight
from jaxseq.models.encoder_decoder import EncoderDecoderConfig

FEED_FORWARD = {"relu": "relu", "gated-gelu": "geglu", "gated-silu": "swiglu"}


def _read_config(fields: Fields) -> EncoderDecoderConfig:
    # transformers 5 writes tie_word_embeddings true always, and the scale that goes with it apart.
    tied = fields.get("scale_decoder_outputs", fields.get("tie_word_embeddings", True))
    return EncoderDecoderConfig(
        source_vocab_size=fields["vocab_size"],
        target_vocab_size=fields["vocab_size"],
        encoder_layers=fields["num_layers"],
        decoder_layers=fields.get("num_decoder_layers", fields["num_layers"]),
        width=fields["d_model"],
        num_heads=fields["num_heads"],
        head_size=fields["d_kv"],
        mlp_hidden=fields["d_ff"],
        positions="relative",
        relative_buckets=fields.get("relative_attention_num_buckets", 32),
        relative_distance=fields.get("relative_attention_max_distance", 128),
        norm="rms",
        norm_epsilon=fields.get("layer_norm_epsilon", 1e-6),
        norm_position="pre",
        activation=fields.choose("feed_forward_proj", FEED_FORWARD, "relu"),
        use_bias=False,
        scale_embeddings=False,
        scale_attention=False,
        share_embeddings=True,
        tie_embeddings=tied,
        scale_logits=tied,
        dropout=fields.get("dropout_rate", 0.1),
    )


def _write_config(config: EncoderDecoderConfig) -> dict[str, Any]:
    (feed_forward,) = (name for name, ours in FEED_FORWARD.items() if ours == config.activation)
    return {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "vocab_size": config.source_vocab_size,
        "num_layers": config.encoder_layers,
        "num_decoder_layers": config.decoder_layers,
        "d_model": config.width,
        "num_heads": config.num_heads,
        "d_kv": config.head_size,
        "d_ff": config.mlp_hidden,
        "relative_attention_num_buckets": config.relative_buckets,
        "relative_attention_max_distance": config.relative_distance,
        "layer_norm_epsilon": config.norm_epsilon,
        "feed_forward_proj": feed_forward,
        "tie_word_embeddings": config.tie_embeddings,
        "dropout_rate": config.dropout,
        "is_encoder_decoder": True,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }


def _refusal(config: Any) -> str:
    if not isinstance(config, EncoderDecoderConfig):
        return f"{type(config).__name__} is no encoder-decoder"
    if config.activation not in FEED_FORWARD.values():
        return f"--model.activation is {config.activation!r}, which T5 does not have"
    return first_difference(
        config,
        positions="relative",
        norm="rms",
        norm_position="pre",
        use_bias=False,
        scale_embeddings=False,
        scale_attention=False,
        embedding_norm=False,
        share_embeddings=True,
        output_bias=False,
        scale_logits=config.tie_embeddings,
    )


def _weights(config: EncoderDecoderConfig, head: str) -> list[Weight]:
    copies = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
    if config.tie_embeddings:
        copies.append("lm_head.weight")
    weights = [Weight("target_embedding/table", "shared.weight", copies=tuple(copies))]
    gated = config.activation != "relu"
    maps = [("gate", "wi_0"), ("in", "wi_1")] if gated else [("in", "wi")]
    for side in ("encoder", "decoder"):
        block = f"{side}.block.{{layer}}.layer"
        parts = [("attention", "attention_norm", "SelfAttention")]
        if side == "decoder":
            parts.append(("cross_attention", "cross_norm", "EncDecAttention"))
        for number, (ours, our_norm, theirs) in enumerate(parts):
            for name in ("query", "key", "value", "out"):
                tensor = f"{block}.{number}.{theirs}.{name[0]}"
                weights += linear(f"{side}/{ours}/{name}", tensor, bias=False)
            weights += norm(f"{side}/{our_norm}", f"{block}.{number}.layer_norm", bias=False)
        last = f"{block}.{len(parts)}"
        weights += norm(f"{side}/mlp_norm", f"{last}.layer_norm", bias=False)
        for ours, theirs in [*maps, ("out", "wo")]:
            weights += linear(f"{side}/mlp/{ours}", f"{last}.DenseReluDense.{theirs}", bias=False)
        weights += norm(f"{side}_norm", f"{side}.final_layer_norm", bias=False)
        # The first block's table serves them all.
        table = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        weights.append(Weight(f"{side}_bias/table", table))
    if not config.tie_embeddings:
        weights += linear("output", "lm_head", bias=False)
    return weights


T5 = Family(
    model_types=("t5",),
    read_config=_read_config,
    write_config=_write_config,
    refusal=_refusal,
    weights=_weights,
    prefix="",
    # A table that early checkpoints have and no model uses.
    unused=re.compile(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias.*"),
)
