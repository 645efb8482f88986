"""BERT checkpoints, with each of its heads."""

import re
from typing import Any

from jaxseq.interop.family import (
    ACTIVATIONS,
    Family,
    Fields,
    linear,
    norm,
    their_activation,
)
from jaxseq.interop.weights import Weight
from jaxseq.models.bert import BertConfig

HEADS = {
    "BertForPreTraining": "pretraining",
    "BertForMaskedLM": "pretraining",
    "BertModel": "pretraining",
    "BertForSequenceClassification": "classification",
    "BertForTokenClassification": "tagging",
    "BertForQuestionAnswering": "spans",
}
"""Our head for each of theirs; what a smaller one lacks is fresh."""


def _read_config(fields: Fields) -> BertConfig:
    fields.refuse(
        position_embedding_type="absolute",
        is_decoder=False,
        add_cross_attention=False,
        tie_word_embeddings=True,
        problem_type="single_label_classification",
    )
    return BertConfig(
        vocab_size=fields["vocab_size"],
        context=fields["max_position_embeddings"],
        num_layers=fields["num_hidden_layers"],
        width=fields["hidden_size"],
        num_heads=fields["num_attention_heads"],
        mlp_hidden=fields["intermediate_size"],
        num_types=fields.get("type_vocab_size", 2),
        activation=fields.choose("hidden_act", ACTIVATIONS, "gelu"),
        norm_epsilon=fields.get("layer_norm_eps", 1e-12),
        dropout=fields.get("hidden_dropout_prob", 0.1),
    )


def _write_config(config: BertConfig) -> dict[str, Any]:
    return {
        "model_type": "bert",
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context,
        "num_hidden_layers": config.num_layers,
        "hidden_size": config.width,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.mlp_hidden,
        "type_vocab_size": config.num_types,
        "hidden_act": their_activation(config.activation),
        "layer_norm_eps": config.norm_epsilon,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.dropout,
        "tie_word_embeddings": True,
    }


def _refusal(config: Any) -> str:
    return "" if isinstance(config, BertConfig) else f"{type(config).__name__} is no BERT"


def _weights(config: BertConfig, head: str) -> list[Weight]:
    layer = "bert.encoder.layer.{layer}"
    words = Weight(
        "encoder/embedding/table",
        "bert.embeddings.word_embeddings.weight",
        copies=("cls.predictions.decoder.weight",),
    )
    weights = [
        words,
        Weight("encoder/position_embedding/table", "bert.embeddings.position_embeddings.weight"),
        Weight("encoder/type_embedding/table", "bert.embeddings.token_type_embeddings.weight"),
        *norm("encoder/embedding_norm", "bert.embeddings.LayerNorm"),
        *linear("encoder/blocks/attention/out", f"{layer}.attention.output.dense"),
        *norm("encoder/blocks/attention_norm", f"{layer}.attention.output.LayerNorm"),
        *linear("encoder/blocks/mlp/in", f"{layer}.intermediate.dense"),
        *linear("encoder/blocks/mlp/out", f"{layer}.output.dense"),
        *norm("encoder/blocks/mlp_norm", f"{layer}.output.LayerNorm"),
    ]
    for name in ("query", "key", "value"):
        theirs = f"{layer}.attention.self.{name}"
        weights += linear(f"encoder/blocks/attention/{name}", theirs)
    if head in ("pretraining", "classification"):
        optional = head == "pretraining"
        weights += linear("encoder/pooler", "bert.pooler.dense", optional=optional)
    match head:
        case "pretraining":
            predictions = "cls.predictions"
            weights += [
                *linear("head/map", f"{predictions}.transform.dense", optional=True),
                *norm("head/norm", f"{predictions}.transform.LayerNorm", optional=True),
                Weight(
                    "head/bias",
                    f"{predictions}.bias",
                    copies=(f"{predictions}.decoder.bias",),
                    optional=True,
                ),
                *linear("next_sentence", "cls.seq_relationship", optional=True),
            ]
        case "spans":
            weights += linear("head", "qa_outputs")
        case _:
            weights += linear("head", "classifier")
    return weights


BERT = Family(
    model_types=("bert",),
    read_config=_read_config,
    write_config=_write_config,
    refusal=_refusal,
    weights=_weights,
    prefix="bert.",
    renamed=(("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")),
    # Numbers 0, 1, ...; and a pooler under heads that do not use it.
    unused=re.compile(r".*\.position_ids|bert\.pooler\.dense\.(weight|bias)"),
)
