"""Llama, Mistral, Qwen2 and Qwen3 checkpoints: one architecture, which differs in a few options."""

import re
from typing import Any

from jaxseq.errors import UserError
from jaxseq.interop.family import Family, Fields, first_difference, linear, norm
from jaxseq.interop.weights import Weight
from jaxseq.models.gpt import GPTConfig
from jaxseq.ops.positions import Rotary

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


def _read_config(fields: Fields) -> GPTConfig:
    kind = fields["model_type"]
    fields.refuse(hidden_act="silu", attention_bias=False, mlp_bias=False)
    return GPTConfig(
        vocab_size=fields["vocab_size"],
        context=fields["max_position_embeddings"],
        num_layers=fields["num_hidden_layers"],
        width=fields["hidden_size"],
        num_heads=fields["num_attention_heads"],
        num_kv_heads=fields.get("num_key_value_heads", fields["num_attention_heads"]),
        head_size=fields.get("head_dim", 0),
        mlp_hidden=fields["intermediate_size"],
        positions="rotary",
        rotary=_read_rotary(fields),
        windows=_read_windows(fields),
        norm="rms",
        norm_epsilon=fields.get("rms_norm_eps", 1e-6),
        activation="swiglu",
        qk_norm=kind == "qwen3",
        use_bias=False,
        qkv_bias=kind == "qwen2",
        tie_embeddings=fields.get("tie_word_embeddings", False),
        dropout=fields.get("attention_dropout", 0.0),
    )


def _read_rotary(fields: Fields) -> Rotary:
    # transformers 5 has all of it in rope_parameters, earlier ones the base beside rope_scaling.
    given = Fields(fields.path, fields.get("rope_parameters") or fields.get("rope_scaling") or {})
    base = float(given.get("rope_theta", fields.get("rope_theta", 10_000.0)))
    kind = given.get("rope_type", given.get("type", "default"))
    match kind:
        case "default":
            return Rotary(base=base)
        case "linear":
            return Rotary(base=base, scaling="linear", factor=float(given["factor"]))
        case "llama3":
            return Rotary(
                base=base,
                scaling="llama3",
                factor=float(given["factor"]),
                original_context=int(given["original_max_position_embeddings"]),
                low_frequency_factor=float(given["low_freq_factor"]),
                high_frequency_factor=float(given["high_freq_factor"]),
            )
    raise UserError(
        f"{fields.path}: rotary positions of type {kind!r}; jaxseq reads 'default', 'linear' and "
        "'llama3'"
    )


def _read_windows(fields: Fields) -> tuple[int, ...]:
    window = fields.get("sliding_window")
    kind, layers = fields["model_type"], fields["num_hidden_layers"]
    if window is None or kind == "llama":
        return ()
    if kind == "mistral":
        return (window,)
    if not fields.get("use_sliding_window", False):
        return ()
    whole = fields.get("max_window_layers", 28)
    types = fields.get(
        "layer_types",
        ["full_attention" if i < whole else "sliding_attention" for i in range(layers)],
    )
    windows = tuple(window if kind == "sliding_attention" else 0 for kind in types)
    return windows if any(windows) else ()


def _kind(config: GPTConfig) -> str:
    if config.qk_norm:
        return "qwen3"
    if config.qkv_bias:
        return "qwen2"
    return "mistral" if config.windows else "llama"


def _write_config(config: GPTConfig) -> dict[str, Any]:
    kind = _kind(config)
    rotary = config.rotary
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": rotary.base}
    if rotary.scaling != "none":
        rope |= {"rope_type": rotary.scaling, "factor": rotary.factor}
    if rotary.scaling == "llama3":
        rope |= {
            "original_max_position_embeddings": rotary.original_context,
            "low_freq_factor": rotary.low_frequency_factor,
            "high_freq_factor": rotary.high_frequency_factor,
        }
    written = {
        "model_type": kind,
        # Theirs may lie beyond this vocabulary; the checkpoint's own come on top.
        **dict.fromkeys(("bos_token_id", "eos_token_id")),
        "architectures": [ARCHITECTURES[kind]],
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context,
        "num_hidden_layers": config.num_layers,
        "hidden_size": config.width,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_size,
        "intermediate_size": config.mlp_hidden,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_epsilon,
        "tie_word_embeddings": config.tie_embeddings,
        "attention_dropout": config.dropout,
        "attention_bias": False,
        "rope_parameters": rope,
        # For readers older than transformers 5.
        "rope_theta": rotary.base,
        "rope_scaling": rope if rotary.scaling != "none" else None,
    }
    if config.windows:
        repeated = config.layer_windows()
        written["sliding_window"] = max(repeated)
        if kind != "mistral":
            types = ["sliding_attention" if window else "full_attention" for window in repeated]
            written |= {
                "use_sliding_window": True,
                "layer_types": types,
                "max_window_layers": types.index("sliding_attention"),
            }
    elif kind == "mistral":
        written["sliding_window"] = None
    return written


def _refusal(config: Any) -> str:
    if not isinstance(config, GPTConfig):
        return f"{type(config).__name__} is no GPT"
    if config.experts.count:
        return f"--model.experts.count is {config.experts.count}"
    if config.rotary.scaling == "ntk":
        return "--model.rotary.scaling is 'ntk', which their config.json cannot say"
    if len({window for window in config.windows if window}) > 1:
        return f"--model.windows {config.windows} has several sizes"
    if _kind(config) == "mistral" and 0 in config.windows:
        return f"--model.windows {config.windows}: Mistral has the same in every layer"
    if config.qk_norm and config.qkv_bias:
        return "--model.qk-norm and --model.qkv-bias are on, of which Qwen3 and Qwen2 have one each"
    return first_difference(
        config,
        positions="rotary",
        norm="rms",
        norm_position="pre",
        activation="swiglu",
        use_bias=False,
        soft_cap=0.0,
        final_soft_cap=0.0,
    )


def _weights(config: GPTConfig, head: str) -> list[Weight]:
    layer = "model.layers.{layer}"
    tied = ("lm_head.weight",) if config.tie_embeddings else ()
    weights = [
        Weight("embedding/table", "model.embed_tokens.weight", copies=tied),
        *norm("final_norm", "model.norm", bias=False),
        *norm("blocks/attention_norm", f"{layer}.input_layernorm", bias=False),
        *norm("blocks/mlp_norm", f"{layer}.post_attention_layernorm", bias=False),
        *linear("blocks/attention/out", f"{layer}.self_attn.o_proj", bias=False),
    ]
    for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v")):
        name = f"{layer}.self_attn.{theirs}_proj"
        weights += linear(f"blocks/attention/{ours}", name, bias=config.qkv_bias)
    if config.qk_norm:
        for ours, theirs in (("query", "q"), ("key", "k")):
            name = f"{layer}.self_attn.{theirs}_norm"
            weights += norm(f"blocks/attention/{ours}_norm", name, bias=False)
    for ours, theirs in (("gate", "gate"), ("in", "up"), ("out", "down")):
        weights += linear(f"blocks/mlp/{ours}", f"{layer}.mlp.{theirs}_proj", bias=False)
    if not config.tie_embeddings:
        weights += linear("output", "lm_head", bias=False)
    return weights


LLAMA = Family(
    model_types=tuple(ARCHITECTURES),
    read_config=_read_config,
    write_config=_write_config,
    refusal=_refusal,
    weights=_weights,
    prefix="model.",
    unused=re.compile(r".*\.rotary_emb\.inv_freq"),
)
