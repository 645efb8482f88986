"""Hugging Face checkpoints without transformers; test_huggingface_parity.py asks it too."""

import dataclasses
import json

import jax
import ml_dtypes
import numpy as np
import pytest
from compare import assert_same
from hub_checkpoints import HUB, draw_tensors, write_hub
from jax.sharding import PartitionSpec
from safetensors.numpy import load_file

from jaxseq.errors import UserError
from jaxseq.interop.huggingface import read_checkpoint, write_checkpoint
from jaxseq.interop.tensors import TensorReader
from jaxseq.nn.experts import Experts
from jaxseq.nn.parameters import flatten
from jaxseq.parallel.mesh import MeshConfig

SAID_OTHERWISE = {"n_inner", "label2id", "attention_dropout", "activation_function"}
"""Fields that transformers may leave open, has a second name for, or has apart where we have one
share of activations that are dropped."""


@pytest.mark.parametrize("name", HUB)
def test_what_the_hub_has_comes_back_bitwise(name, tmp_path):
    tensors = write_hub(tmp_path / "theirs", name)
    checkpoint = read_checkpoint(tmp_path / "theirs")
    assert checkpoint.fresh == ()
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(checkpoint.params))
    (file,) = write_checkpoint(tmp_path / "ours", checkpoint)
    assert_same(load_file(file), tensors)
    written = json.loads((tmp_path / "ours" / "config.json").read_text())
    theirs = HUB[name]["config"]
    shared = written.keys() & theirs.keys() - SAID_OTHERWISE
    assert {name: written[name] for name in shared} == {name: theirs[name] for name in shared}
    assert len(shared) >= 13


def test_each_layer_and_each_part_has_its_place(tmp_path):
    """Against the definition: layer l of a stack, and thirds of GPT-2's one map."""
    tensors = draw_tensors("gpt2")
    second = {
        name.replace(".h.0.", ".h.1."): tensor + 1
        for name, tensor in tensors.items()
        if ".h.0." in name
    }
    write_hub(tmp_path, "gpt2", tensors | second, n_layer=2)
    blocks = read_checkpoint(tmp_path).params["blocks"]
    for layer in (0, 1):
        fused = (tensors | second)[f"transformer.h.{layer}.attn.c_attn.weight"]
        for third, name in enumerate(("query", "key", "value")):
            kernel = blocks["attention"][name]["kernel"][layer]
            np.testing.assert_array_equal(kernel, fused[:, 16 * third : 16 * (third + 1)])


def test_transposed_maps_are_transposed(tmp_path):
    tensors = write_hub(tmp_path, "qwen2")
    params = read_checkpoint(tmp_path).params
    gate = tensors["model.layers.0.mlp.gate_proj.weight"]
    np.testing.assert_array_equal(params["blocks"]["mlp"]["gate"]["kernel"][0], gate.T)
    np.testing.assert_array_equal(params["output"]["kernel"], tensors["lm_head.weight"].T)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_precisions_become_float32(dtype, tmp_path):
    tensors = {name: tensor.astype(dtype) for name, tensor in draw_tensors("llama").items()}
    write_hub(tmp_path / "given", "llama", tensors)
    exact = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    write_hub(tmp_path / "exact", "llama", exact)
    found, expected = (read_checkpoint(tmp_path / name).params for name in ("given", "exact"))
    assert_same(found, expected)


def test_several_files_hold_the_same(tmp_path):
    tensors = write_hub(tmp_path / "theirs", "bert, labels")
    checkpoint = read_checkpoint(tmp_path / "theirs")
    files = write_checkpoint(tmp_path / "ours", checkpoint, max_file_bytes=3000)
    names = sorted(file.name for file in (tmp_path / "ours").iterdir())
    parts = [f"model-{n:05}-of-{len(files):05}.safetensors" for n in range(1, len(files) + 1)]
    assert names == sorted(["config.json", *parts, "model.safetensors.index.json"])
    assert [file.name for file in files] == parts
    assert len(files) > 2
    stored = {file.name: load_file(file) for file in files}
    largest = max(tensor.nbytes for tensor in tensors.values())
    for held in stored.values():
        assert sum(tensor.nbytes for tensor in held.values()) <= max(3000, largest)
    index = json.loads((tmp_path / "ours" / names[-1]).read_text())
    assert index["weight_map"] == {name: file for file in stored for name in stored[file]}
    assert index["metadata"] == {"total_size": sum(tensor.nbytes for tensor in tensors.values())}
    again = read_checkpoint(tmp_path / "ours")
    assert_same(again.params, checkpoint.params)
    assert dataclasses.replace(again, params={}) == dataclasses.replace(checkpoint, params={})


@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_onto_a_mesh_each_device_reads_its_share(name, tmp_path, monkeypatch):
    vocabulary = {"gpt2": "transformer.wte.weight", "qwen3": "model.embed_tokens.weight"}[name]
    tensors = draw_tensors(name)
    for tensor in {vocabulary, "lm_head.weight"} & tensors.keys():
        tensors[tensor] = tensors[tensor][:36]  # 37 does not divide
    write_hub(tmp_path, name, tensors, vocab_size=36)
    expected = read_checkpoint(tmp_path).params
    read = []

    def counted(self, tensor, index, original=TensorReader.read):
        found = original(self, tensor, index)
        read.append((tensor, found.nbytes))
        return found

    monkeypatch.setattr(TensorReader, "read", counted)
    mesh = MeshConfig(fsdp=4, tensor=2).build(4)
    params = flatten(read_checkpoint(tmp_path, mesh).params)
    assert_same(params, flatten(expected))
    divided = {
        "embedding/table": PartitionSpec("tensor", "fsdp"),
        "blocks/attention/query/kernel": PartitionSpec("stage", "fsdp", "tensor"),
        "blocks/attention/out/kernel": PartitionSpec("stage", "tensor", "fsdp"),
        "blocks/mlp/in/kernel": PartitionSpec("stage", "fsdp", "tensor"),
        "blocks/mlp/out/kernel": PartitionSpec("stage", "tensor", "fsdp"),
    }
    for path, spec in divided.items():
        assert params[path].sharding.spec == spec
        assert {s.data.size for s in params[path].addressable_shards} == {params[path].size // 8}
    # Every matrix is read once, in eighths (in GPT-2's fused map an eighth of a third).
    for tensor, array in tensors.items():
        parts = [size for named, size in read if named == tensor]
        if array.ndim == 2 and not tensor.endswith("wpe.weight"):
            assert sum(parts) == array.nbytes
            assert max(parts) == array.nbytes / (24 if "c_attn" in tensor else 8)
        else:
            assert max(parts) <= array.nbytes


# ---- checkpoints that differ from what transformers writes today ----------------------------


def test_old_names_of_norms_are_read(tmp_path):
    """As google-bert/bert-base-uncased still has them."""
    tensors = draw_tensors("bert")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("Norm.bias", "Norm.beta"): x
        for name, x in tensors.items()
    }
    assert old.keys() != tensors.keys()
    write_hub(tmp_path / "old", "bert", old)
    write_hub(tmp_path / "new", "bert", tensors)
    assert_same(read_checkpoint(tmp_path / "old").params, read_checkpoint(tmp_path / "new").params)


def test_a_bare_bert_gets_a_fresh_head(tmp_path):
    tensors = {
        name.removeprefix("bert."): tensor
        for name, tensor in draw_tensors("bert").items()
        if name.startswith("bert.")
    }
    write_hub(tmp_path, "bert", tensors, architectures=["BertModel"])
    checkpoint = read_checkpoint(tmp_path)
    head = {path for path in flatten(checkpoint.params) if not path.startswith("encoder/")}
    assert set(checkpoint.fresh) == head
    assert head >= {"head/bias", "head/map/kernel", "next_sentence/kernel"}
    np.testing.assert_array_equal(checkpoint.params["head"]["norm"]["scale"], np.ones(16))
    np.testing.assert_array_equal(checkpoint.params["head"]["bias"], np.zeros(37))
    assert 0.01 < float(checkpoint.params["head"]["map"]["kernel"].std()) < 0.03
    table = checkpoint.params["encoder"]["embedding"]["table"]
    np.testing.assert_array_equal(table, tensors["embeddings.word_embeddings.weight"])


def test_a_bare_gpt2_with_its_masks_is_read(tmp_path):
    """As openai-community/gpt2 has it."""
    tensors = {
        name.removeprefix("transformer."): tensor for name, tensor in draw_tensors("gpt2").items()
    }
    mask = np.tri(32, dtype=np.float32)[None, None]
    write_hub(tmp_path, "gpt2", tensors | {"h.0.attn.bias": mask})
    params = read_checkpoint(tmp_path).params
    np.testing.assert_array_equal(params["position_embedding"]["table"], tensors["wpe.weight"])


def test_a_tied_matrix_may_be_there_under_its_other_name_alone(tmp_path):
    tensors = draw_tensors("llama")
    write_hub(tmp_path / "theirs", "llama", tensors)
    table = tensors.pop("model.embed_tokens.weight")
    write_hub(tmp_path / "other", "llama", tensors | {"lm_head.weight": table})
    found, expected = (read_checkpoint(tmp_path / name).params for name in ("other", "theirs"))
    assert_same(found, expected)


def test_a_bart_without_the_bias_of_its_logits_is_read(tmp_path):
    """As facebook/bart-base has it, whose bare names lack model. too."""
    tensors = draw_tensors("bart")
    del tensors["final_logits_bias"]
    bare = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    write_hub(tmp_path, "bart", bare, architectures=["BartModel"])
    checkpoint = read_checkpoint(tmp_path)
    assert checkpoint.fresh == ("output_bias",)
    np.testing.assert_array_equal(checkpoint.params["output_bias"], np.zeros(37))


# ---- what cannot be read or written ---------------------------------------------------------


def test_all_that_does_not_fit_is_listed(tmp_path):
    tensors = draw_tensors("gpt2")
    del tensors["transformer.h.0.ln_1.bias"]
    tensors["transformer.wpe.weight"] = np.zeros((31, 16), np.float32)
    tensors["transformer.extra"] = np.zeros(3, np.float32)
    quantised = tensors["transformer.h.0.mlp.c_fc.weight"].astype(np.int8)
    tensors["transformer.h.0.mlp.c_fc.weight"] = quantised
    write_hub(tmp_path, "gpt2", tensors)
    with pytest.raises(UserError) as error:
        read_checkpoint(tmp_path)
    for line in (
        "transformer.h.0.ln_1.bias is missing",
        "transformer.wpe.weight is (31, 16) and not (32, 16)",
        "transformer.extra is left over",
        "transformer.h.0.mlp.c_fc.weight is quantised (I8)",
    ):
        assert line in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_a_long_list_is_cut(tmp_path):
    write_hub(tmp_path, "gpt2", n_layer=3)
    with pytest.raises(UserError, match=r"h\.1\.ln_1\.weight is missing; .*; and 4 more$"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("gpt2", {"model_type": "mamba"}, "no model for model_type 'mamba'; jaxseq reads bart, be"),
        ("gpt2", {"model_type": None}, "no 'model_type'"),
        ("gpt2", {"n_head": None}, "no 'n_head'"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is T"),
        ("gpt2", {"activation_function": "tanh"}, "activation_function is 'tanh'"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "type 'yarn'"),
        ("llama", {"rope_parameters": {"rope_type": "linear"}}, "no 'factor'"),
        ("llama", {"attention_bias": True}, "attention_bias is True"),
        ("bert", {"architectures": ["BertForMultipleChoice"]}, "is 'BertForMultipleChoice'"),
        ("bert, labels", {"problem_type": "regression"}, "problem_type is 'regression'"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ("gpt2", {"n_head": 3}, "16"),
    ],
)
def test_what_there_is_no_model_for_is_named(name, fields, said, tmp_path):
    write_hub(tmp_path, name, **fields)
    with pytest.raises(UserError) as error:
        read_checkpoint(tmp_path)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"), [("{", "is damaged"), ("[]", "no JSON object"), (None, "cannot read")]
)
def test_a_bad_config_is_named(text, said, tmp_path):
    write_hub(tmp_path, "gpt2")
    config = tmp_path / "config.json"
    config.unlink() if text is None else config.write_text(text)
    with pytest.raises(UserError, match=f"config.json.*{said}|{said}.*config.json"):
        read_checkpoint(tmp_path)


def test_what_transformers_has_no_name_for_is_not_written(tmp_path):
    write_hub(tmp_path / "theirs", "gpt2")
    checkpoint = read_checkpoint(tmp_path / "theirs")
    for change, said in (
        ({"soft_cap": 2.0}, r"gpt2: --model\.soft-cap is 2\.0"),
        ({"experts": Experts(count=2)}, r"--model\.experts\.count is 2"),
        ({"positions": "rotary"}, "llama/mistral/qwen2/qwen3: --model.norm is 'layer'"),
    ):
        config = dataclasses.replace(checkpoint.config, **change)
        with pytest.raises(UserError, match=said):
            write_checkpoint(tmp_path / "no", dataclasses.replace(checkpoint, config=config))
    config = dataclasses.replace(checkpoint.config, mlp_hidden=8)
    with pytest.raises(ValueError, match=r"\['blocks/mlp/in/bias', .*, 'blocks/mlp/out/kernel'\]"):
        write_checkpoint(tmp_path / "no", dataclasses.replace(checkpoint, config=config))
    adapted = checkpoint.params | {"lora_up": np.zeros(2)}
    with pytest.raises(ValueError, match="lora_up"):
        write_checkpoint(tmp_path / "no", dataclasses.replace(checkpoint, params=adapted))
    assert not (tmp_path / "no").exists()
    with pytest.raises(UserError, match="is there already"):
        write_checkpoint(tmp_path / "theirs", checkpoint)
