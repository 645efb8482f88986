"""Checkpoints of every family read from transformers and back: the logits agree to 1e-4.

The models are small and drawn at random from their config classes. Needs PyTorch and
transformers (the `bench` extra); test_huggingface.py does without.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hub_checkpoints import HUB
from safetensors.numpy import load_file, save_file

from jaxseq.interop.huggingface import read_checkpoint, write_checkpoint
from jaxseq.models.bert import BertConfig
from jaxseq.models.encoder_decoder import EncoderDecoder
from jaxseq.models.gpt import GPT

torch = pytest.importorskip("torch", reason="PyTorch is not installed; the bench extra has it")
transformers = pytest.importorskip("transformers", reason="the bench extra has transformers")

LLAMA_SIZES = {
    "vocab_size": 37,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
BERT_SIZES = {
    "vocab_size": 37,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}
T5_SIZES = {
    "vocab_size": 37,
    "d_model": 16,
    "d_kv": 5,
    "d_ff": 24,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
}
BART_SIZES = {
    "vocab_size": 37,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 32,
    "pad_token_id": 36,
    "eos_token_id": 0,
    "bos_token_id": 1,
    "decoder_start_token_id": 36,
    "forced_eos_token_id": 0,
}

# Name: (config class, model class, fields).
CASES = {
    "gpt2": (
        "GPT2Config",
        "GPT2LMHeadModel",
        {"vocab_size": 37, "n_positions": 32, "n_embd": 16, "n_layer": 3, "n_head": 4},
    ),
    "llama": ("LlamaConfig", "LlamaForCausalLM", LLAMA_SIZES | {"tie_word_embeddings": True}),
    "llama 3": (
        "LlamaConfig",
        "LlamaForCausalLM",
        LLAMA_SIZES
        | {
            "head_dim": 6,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            },
        },
    ),
    "llama, linear": (
        "LlamaConfig",
        "LlamaForCausalLM",
        LLAMA_SIZES
        | {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 100.0}},
    ),
    "mistral": ("MistralConfig", "MistralForCausalLM", LLAMA_SIZES | {"sliding_window": 5}),
    "qwen2": (
        "Qwen2Config",
        "Qwen2ForCausalLM",
        LLAMA_SIZES | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", LLAMA_SIZES | {"head_dim": 6}),
    "bert": ("BertConfig", "BertForPreTraining", BERT_SIZES),
    "bert, labels": (
        "BertConfig",
        "BertForSequenceClassification",
        BERT_SIZES | {"id2label": {0: "bad", 1: "good", 2: "both"}, "hidden_act": "relu"},
    ),
    "bert, tags": ("BertConfig", "BertForTokenClassification", BERT_SIZES),
    "bert, spans": ("BertConfig", "BertForQuestionAnswering", BERT_SIZES),
    "t5": ("T5Config", "T5ForConditionalGeneration", T5_SIZES),
    "t5, gated": (
        "T5Config",
        "T5ForConditionalGeneration",
        T5_SIZES | {"feed_forward_proj": "gated-gelu"},
    ),
    "bart": ("BartConfig", "BartForConditionalGeneration", BART_SIZES),
    "marian": (
        "MarianConfig",
        "MarianMTModel",
        BART_SIZES | {"activation_function": "swish", "scale_embedding": True},
    ),
}


def draw(name: str):
    """A model of transformers with every parameter at random, vectors too."""
    config_class, model_class, fields = CASES[name]
    torch.manual_seed(0)
    model = getattr(transformers, model_class)(getattr(transformers, config_class)(**fields))
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if name == "marian" and "embed_positions" in path:
                continue  # sinusoids, which are not trained
            parameter.add_(0.3 * torch.randn(parameter.shape))
        for path, buffer in model.named_buffers():
            if path == "final_logits_bias":
                buffer.add_(torch.randn(buffer.shape))
    return model.eval()


DRAW = np.random.default_rng(0)
TOKENS = DRAW.integers(2, 36, (2, 20))
TARGETS = DRAW.integers(2, 36, (2, 11))
LENGTHS = np.array([20, 13])
TYPES = (np.arange(20)[None] >= np.array([[8], [5]])).astype(np.int64)


def theirs(model) -> list[np.ndarray]:
    """Logits of the model; those of the padding cut off."""
    tokens, targets = torch.tensor(TOKENS), torch.tensor(TARGETS)
    mask = torch.tensor(np.arange(20)[None] < LENGTHS[:, None])
    with torch.no_grad():
        kind = model.config.model_type
        if kind == "bert":
            found = model(tokens, attention_mask=mask, token_type_ids=torch.tensor(TYPES))
            names = ("prediction_logits", "seq_relationship_logits", "logits", "start_logits",
                     "end_logits")  # fmt: skip
            return [found[name].numpy() for name in names if name in found]
        if model.config.is_encoder_decoder:
            return [model(tokens, mask, decoder_input_ids=targets).logits.numpy()]
        return [model(tokens).logits.numpy()]


def ours(checkpoint) -> list[np.ndarray]:
    params, tokens = {"params": checkpoint.params}, jnp.asarray(TOKENS, jnp.int32)
    lengths = jnp.asarray(LENGTHS, jnp.int32)
    if isinstance(checkpoint.config, BertConfig):
        segments = (jnp.arange(20)[None] < lengths[:, None]).astype(jnp.int32)
        everywhere = jnp.broadcast_to(jnp.arange(20)[None], tokens.shape)
        more = (everywhere,) if checkpoint.head == "pretraining" else ()
        module = checkpoint.config.build(checkpoint.head)
        types = jnp.asarray(TYPES, jnp.int32)
        found = module.apply(params, tokens, *more, types=types, segments=segments)
        return list(found) if isinstance(found, tuple) else [found]
    if hasattr(checkpoint.config, "encoder_layers"):
        targets = jnp.asarray(TARGETS, jnp.int32)
        module = EncoderDecoder(checkpoint.config)
        return [module.apply(params, tokens, lengths, targets, jnp.array([11, 11]))[0]]
    return [GPT(checkpoint.config).apply(params, tokens)]


def assert_logits_agree(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        one, other = np.asarray(one), np.asarray(other)
        assert one.shape == other.shape
        if one.ndim > 1 and one.shape[1] == 20:  # what stands in the padding means nothing
            if one.shape == TOKENS.shape:
                one, other = one[..., None], other[..., None]
            valid = np.arange(20)[None, :, None] < LENGTHS[:, None, None]
            one, other = np.where(valid, one, 0), np.where(valid, other, 0)
        assert np.abs(other).max() > 0.1
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_logits_agree_both_ways(name: str, tmp_path) -> None:
    model = draw(name)
    model.save_pretrained(tmp_path / "theirs")
    checkpoint = read_checkpoint(tmp_path / "theirs")
    expected = theirs(model)
    assert_logits_agree(ours(checkpoint), expected)

    write_checkpoint(tmp_path / "ours", checkpoint)
    again, report = type(model).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert_logits_agree(theirs(again.eval()), expected)
    assert read_checkpoint(tmp_path / "ours").config == checkpoint.config


def test_untied_t5_keeps_its_output_matrix(tmp_path) -> None:
    """As T5 1.1 has it on the hub; transformers 5 ties what is not in the file."""
    model = draw("t5, gated")
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = DRAW.normal(size=(37, 16)).astype(np.float32)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    fields = json.loads((tmp_path / "config.json").read_text())
    del fields["scale_decoder_outputs"]
    (tmp_path / "config.json").write_text(json.dumps(fields | {"tie_word_embeddings": False}))
    checkpoint = read_checkpoint(tmp_path)
    assert not checkpoint.config.tie_embeddings
    again = type(model).from_pretrained(tmp_path).eval()
    assert_logits_agree(ours(checkpoint), theirs(again))


def test_bare_and_masked_models_are_read_with_a_fresh_head(tmp_path) -> None:
    config = transformers.BertConfig(**BERT_SIZES)
    for name in ("BertModel", "BertForMaskedLM"):
        model = getattr(transformers, name)(config).eval()
        model.save_pretrained(tmp_path / name)
        checkpoint = read_checkpoint(tmp_path / name)
        assert checkpoint.head == "pretraining"
        module = checkpoint.config.build("pretraining")
        logits, _ = module.apply(
            {"params": checkpoint.params},
            jnp.asarray(TOKENS, jnp.int32),
            jnp.broadcast_to(jnp.arange(20)[None], TOKENS.shape),
        )
        if name == "BertForMaskedLM":
            with torch.no_grad():
                expected = model(torch.tensor(TOKENS)).logits.numpy()
            np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


def test_bfloat16_files_in_pieces_are_read(tmp_path) -> None:
    model = draw("llama").to(torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size="5KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    checkpoint = read_checkpoint(tmp_path)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(checkpoint.params))
    again = type(model).from_pretrained(tmp_path, dtype=torch.float32)
    assert_logits_agree(ours(checkpoint), theirs(again.eval()))


@pytest.mark.parametrize("name", HUB)
def test_what_the_tests_without_torch_read_is_what_transformers_writes(name, tmp_path) -> None:
    """Where this fails, hub_checkpoints.json is to hold what is found here."""
    config_class, model_class, fields = CASES[name]
    counts = ("n_layer", "num_hidden_layers", "num_layers", "num_decoder_layers")
    counts += ("encoder_layers", "decoder_layers")
    fields = fields | {count: 1 for count in counts if count in fields}
    if "max_window_layers" in fields:
        fields["max_window_layers"] = 0
    model = getattr(transformers, model_class)(getattr(transformers, config_class)(**fields))
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["transformers_version"]
    tensors = load_file(tmp_path / "model.safetensors")
    shapes = {tensor: list(array.shape) for tensor, array in tensors.items()}
    assert {"config": config, "tensors": shapes} == HUB[name]
