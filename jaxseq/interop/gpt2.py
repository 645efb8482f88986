"""GPT-2 checkpoints."""

import re
from typing import Any

from jaxseq.interop.family import (
    ACTIVATIONS,
    Family,
    Fields,
    first_difference,
    norm,
    their_activation,
)
from jaxseq.interop.weights import Weight
from jaxseq.models.gpt import GPTConfig


def _read_config(fields: Fields) -> GPTConfig:
    fields.refuse(
        scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False,
        add_cross_attention=False,
        tie_word_embeddings=True,
    )
    return GPTConfig(
        vocab_size=fields["vocab_size"],
        context=fields["n_positions"],
        num_layers=fields["n_layer"],
        width=fields["n_embd"],
        num_heads=fields["n_head"],
        mlp_hidden=fields.get("n_inner", 0),
        activation=fields.choose("activation_function", ACTIVATIONS, "gelu_new"),
        norm_epsilon=fields.get("layer_norm_epsilon", 1e-5),
        dropout=fields.get("resid_pdrop", 0.1),
    )


def _write_config(config: GPTConfig) -> dict[str, Any]:
    return {
        "model_type": "gpt2",
        # Theirs may lie beyond this vocabulary; the checkpoint's own come on top.
        **dict.fromkeys(("bos_token_id", "eos_token_id")),
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": config.vocab_size,
        "n_positions": config.context,
        "n_layer": config.num_layers,
        "n_embd": config.width,
        "n_head": config.num_heads,
        "n_inner": config.mlp_hidden,
        "activation_function": their_activation(config.activation),
        "layer_norm_epsilon": config.norm_epsilon,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "tie_word_embeddings": True,
    }


def _refusal(config: Any) -> str:
    if not isinstance(config, GPTConfig):
        return f"{type(config).__name__} is no GPT"
    if config.experts.count:
        return f"--model.experts.count is {config.experts.count}"
    if config.activation in ("swiglu", "geglu"):
        return f"--model.activation is {config.activation!r}, which GPT-2 does not have"
    return first_difference(
        config,
        positions="learned",
        norm="layer",
        norm_position="pre",
        use_bias=True,
        tie_embeddings=True,
        qk_norm=False,
        num_kv_heads=config.num_heads,
        head_size=config.width // config.num_heads,
        windows=(),
        soft_cap=0.0,
        final_soft_cap=0.0,
    )


def _weights(config: GPTConfig, head: str) -> list[Weight]:
    layer = "transformer.h.{layer}"
    weights = [
        Weight("embedding/table", "transformer.wte.weight", copies=("lm_head.weight",)),
        Weight("position_embedding/table", "transformer.wpe.weight"),
        *norm("final_norm", "transformer.ln_f"),
        *norm("blocks/attention_norm", f"{layer}.ln_1"),
        *norm("blocks/mlp_norm", f"{layer}.ln_2"),
    ]
    parts = [(name, "attn.c_attn", (i, 3)) for i, name in enumerate(("query", "key", "value"))]
    maps = [(f"attention/{name}", theirs, part) for name, theirs, part in parts]
    maps.append(("attention/out", "attn.c_proj", (0, 1)))
    maps += [("mlp/in", "mlp.c_fc", (0, 1)), ("mlp/out", "mlp.c_proj", (0, 1))]
    for ours, theirs, part in maps:
        # Its layers are written (in, out), like ours.
        for leaf, tensor in (("kernel", "weight"), ("bias", "bias")):
            weights.append(Weight(f"blocks/{ours}/{leaf}", f"{layer}.{theirs}.{tensor}", part=part))
    return weights


GPT2 = Family(
    model_types=("gpt2",),
    read_config=_read_config,
    write_config=_write_config,
    refusal=_refusal,
    weights=_weights,
    prefix="transformer.",
    unused=re.compile(r".*\.attn\.(masked_)?bias"),  # the causal mask, in old checkpoints
)
