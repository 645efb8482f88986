"""Hugging Face checkpoints in and out: config.json and safetensors, nothing unpickled."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseq.errors import UserError
from jaxseq.interop.bart import BART
from jaxseq.interop.bert import BERT, HEADS
from jaxseq.interop.family import CONFIG_FILE, Family, Fields
from jaxseq.interop.gpt2 import GPT2
from jaxseq.interop.llama import LLAMA
from jaxseq.interop.t5 import T5
from jaxseq.interop.tensors import MAX_FILE_BYTES, TensorReader, write_tensor_files
from jaxseq.interop.weights import read_parameters, tensors_of
from jaxseq.models.bert import BertConfig, Head
from jaxseq.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from jaxseq.models.gpt import GPT, GPTConfig
from jaxseq.nn.parameters import flatten, unflatten
from jaxseq.parallel.mesh import Layout, one_device
from jaxseq.typing import PyTree

FAMILIES = (GPT2, LLAMA, BERT, T5, BART)

ModelConfig = GPTConfig | BertConfig | EncoderDecoderConfig

TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
"""What config.json says of the tokenizer; `generate` of transformers starts and ends by it."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A model as it stands in a checkpoint."""

    config: ModelConfig
    params: PyTree
    head: Head | Literal[""] = ""
    """Which head a BERT has."""
    labels: tuple[str, ...] = ()
    """What a head tells apart."""
    token_ids: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Those of `TOKEN_IDS` that are said."""
    fresh: tuple[str, ...] = ()
    """Paths of the parameters that were not in the files and are as new."""


def read_checkpoint(path: Path, layout: Layout | None = None) -> Checkpoint:
    """The model in a directory with config.json and model.safetensors (or several, with an index).

    GPT-2, Llama, Mistral, Qwen2, Qwen3, BERT, T5, BART and Marian. Parameters become float32.
    Each is read straight onto the devices of `layout` (the first device alone) where the sharding
    rules want it, and no more than its share there is read at a time.

    Raises UserError naming the file, field or tensor: a damaged or truncated file, an
    architecture or option that jaxseq does not have, a tensor that is missing, left over or has
    another shape than config.json says.
    """
    family, checkpoint = _described(path)
    config, head = checkpoint.config, checkpoint.head
    boxed = _parameters(config, head)
    with TensorReader(path, family.prefix, family.renamed) as reader:
        params, fresh = read_parameters(
            reader,
            family.weights(config, head),
            _shapes(nn.unbox(boxed)),
            flatten((layout or one_device()).parameters(boxed)),
            family.unused.fullmatch,
        )
    return dataclasses.replace(checkpoint, params=unflatten(params), fresh=fresh)


def read_description(path: Path) -> Checkpoint:
    """What config.json says: the checkpoint without its parameters; UserError as above."""
    return _described(path)[1]


def _described(path: Path) -> tuple[Family, Checkpoint]:
    fields = Fields.read(path)
    kind = fields["model_type"]
    known = {name: family for family in FAMILIES for name in family.model_types}
    if kind not in known:
        raise UserError(
            f"{fields.path}: there is no model for model_type {kind!r}; jaxseq reads "
            f"{', '.join(sorted(known))}"
        )
    family, head, labels = known[kind], "", ()
    if family is BERT:
        head = fields.choose("architectures", HEADS, "BertModel")
        if head in ("classification", "tagging"):
            numbered = fields.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})
            labels = tuple(str(numbered[number]) for number in sorted(numbered, key=int))
    config = _resolved(family.read_config(fields))
    if labels and isinstance(config, BertConfig):
        config = dataclasses.replace(config, num_labels=len(labels))
    token_ids = {name: found for name in TOKEN_IDS if (found := fields.get(name)) is not None}
    return family, Checkpoint(config, {}, head, labels, token_ids)


def write_checkpoint(
    path: Path, checkpoint: Checkpoint, max_file_bytes: int = MAX_FILE_BYTES
) -> list[Path]:
    """Write what `read_checkpoint` and transformers read, in float32; return the tensors' files.

    No more than about `max_file_bytes` of tensors are held at a time. Raises UserError for an
    architecture that transformers has no name for, and where `path` exists and is not empty;
    ValueError where the parameters are not those of the config.
    """
    config = checkpoint.config
    reasons = [(family, family.refusal(config)) for family in FAMILIES]
    fitting = [family for family, reason in reasons if not reason]
    if not fitting:
        said = "; ".join(f"{'/'.join(f.model_types)}: {reason}" for f, reason in reasons)
        raise UserError(f"no family of transformers has this architecture ({said})")
    family, params = fitting[0], flatten(checkpoint.params)
    expected = _shapes(nn.unbox(_parameters(config, checkpoint.head)))
    given = {name: tuple(leaf.shape) for name, leaf in params.items()}
    if given != expected:
        differing = sorted({name for name, _ in given.items() ^ expected.items()})
        raise ValueError(
            f"checkpoint.params differ from the config's in name or shape: {differing}"
        )
    written = family.write_config(config) | dict(checkpoint.token_ids) | {"dtype": "float32"}
    if family is BERT:
        names = {head: name for name, head in reversed(HEADS.items())}
        written["architectures"] = [names[checkpoint.head]]
        if checkpoint.labels:
            written["id2label"] = dict(enumerate(checkpoint.labels))
            written["label2id"] = {label: i for i, label in enumerate(checkpoint.labels)}
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} is there already; choose another directory")
    path.mkdir(parents=True, exist_ok=True)
    tensors = tensors_of(family.weights(config, checkpoint.head), params)
    files = write_tensor_files(path, tensors, max_file_bytes)
    # Last: without it nothing is taken for a checkpoint.
    (path / CONFIG_FILE).write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    return files


def _resolved(config: ModelConfig) -> ModelConfig:
    if isinstance(config, EncoderDecoderConfig):
        return config.resolve(
            source_vocab_size=config.source_vocab_size, target_vocab_size=config.target_vocab_size
        )
    return config.resolve(vocab_size=config.vocab_size, context=config.context)


def _parameters(config: ModelConfig, head: Head | Literal[""]) -> PyTree:
    """The parameters of the model without any array, in their boxes of axis names."""
    one = jnp.ones((1, 1), jnp.int32)
    if isinstance(config, BertConfig):
        assert head != "", "a BERT has a head"
        more = (one,) if head == "pretraining" else ()
        module, inputs = config.build(head), (one, *more)
    elif isinstance(config, EncoderDecoderConfig):
        module, inputs = EncoderDecoder(config), (one, one[0], one, one[0])
    else:
        module, inputs = GPT(config), (one,)
    return jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs))["params"]


def _shapes(params: PyTree) -> dict[str, tuple[int, ...]]:
    return {name: tuple(leaf.shape) for name, leaf in flatten(params).items()}
