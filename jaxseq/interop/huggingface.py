"""Hugging Face checkpoints in and out: config.json and safetensors, nothing unpickled."""

import dataclasses
import json
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxseq.errors import UserError
from jaxseq.interop.bart import BART
from jaxseq.interop.bert import BERT, HEADS
from jaxseq.interop.family import CONFIG_FILE, Fields
from jaxseq.interop.gpt2 import GPT2
from jaxseq.interop.llama import LLAMA
from jaxseq.interop.t5 import T5
from jaxseq.interop.tensors import MAX_FILE_BYTES, TensorReader, write_tensor_files
from jaxseq.interop.weights import by_path, nested, read_parameters, write_tensors
from jaxseq.models.bert import BertConfig
from jaxseq.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from jaxseq.models.gpt import GPT, GPTConfig
from jaxseq.parallel.mesh import one_device_mesh
from jaxseq.parallel.sharding import parameter_shardings
from jaxseq.typing import PyTree

FAMILIES = (GPT2, LLAMA, BERT, T5, BART)

ModelConfig = GPTConfig | BertConfig | EncoderDecoderConfig


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A model read from a checkpoint."""

    config: ModelConfig
    params: PyTree
    head: str = ""
    """Which head a BERT has: "pretraining", "classification", "tagging" or "spans"."""
    labels: tuple[str, ...] = ()
    """What a head tells apart."""


def read_checkpoint(path: Path, mesh: Mesh | None = None) -> Checkpoint:
    """The model in a directory with config.json and model.safetensors (or several, with an index).

    GPT-2, Llama, Mistral, Qwen2, Qwen3, BERT, T5, BART and Marian. Parameters become float32.
    Each is read straight onto the devices of `mesh` (the first device alone) where the sharding
    rules want it, and no more than its share there is read at a time.

    Raises UserError naming the file, field or tensor: a damaged or truncated file, an
    architecture or option that jaxseq does not have, a tensor that is missing, left over or has
    another shape than config.json says.
    """
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
            labels = tuple(numbered[number] for number in sorted(numbered, key=int))
    config = _resolved(family.read_config(fields))
    if labels and isinstance(config, BertConfig):
        config = dataclasses.replace(config, num_labels=len(labels))
    boxed = _shapes(config, head)
    shapes, shardings = (
        by_path(tree)
        for tree in (nn.unbox(boxed), parameter_shardings(boxed, mesh or one_device_mesh()))
    )
    reader = TensorReader(path, family.prefix)
    params = read_parameters(
        reader,
        family.weights(config, head),
        shapes,
        shardings,
        lambda name: family.unused.fullmatch(name) is not None,
    )
    return Checkpoint(config, nested(params), head, labels)


def write_checkpoint(
    path: Path, checkpoint: Checkpoint, max_file_bytes: int = MAX_FILE_BYTES
) -> None:
    """Writes what `read_checkpoint` and transformers read, float32, one file's tensors at a time.

    Raises UserError for an architecture that transformers has no name for, and where `path`
    exists and is not empty.
    """
    config = checkpoint.config
    reasons = {family: family.refusal(config) for family in FAMILIES}
    fitting = [family for family, reason in reasons.items() if not reason]
    if not fitting:
        said = "; ".join(f"{'/'.join(f.model_types)}: {reason}" for f, reason in reasons.items())
        raise UserError(f"no family of transformers has this architecture ({said})")
    family = fitting[0]
    written = family.write_config(config)
    if family is BERT:
        names = {head: name for name, head in reversed(HEADS.items())}
        written["architectures"] = [names[checkpoint.head]]
        if checkpoint.labels:
            written["id2label"] = dict(enumerate(checkpoint.labels))
            written["label2id"] = {label: i for i, label in enumerate(checkpoint.labels)}
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} is there already; choose another directory")
    path.mkdir(parents=True, exist_ok=True)
    weights = family.weights(config, checkpoint.head)
    write_tensor_files(path, write_tensors(weights, by_path(checkpoint.params)), max_file_bytes)
    written |= {"dtype": "float32"}
    (path / CONFIG_FILE).write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


def _resolved(config: ModelConfig) -> ModelConfig:
    if isinstance(config, EncoderDecoderConfig):
        return config.resolve(
            source_vocab_size=config.source_vocab_size, target_vocab_size=config.target_vocab_size
        )
    return config.resolve(vocab_size=config.vocab_size, context=config.context)


def _shapes(config: ModelConfig, head: str) -> PyTree:
    """The parameters of the model without any array, in their boxes of axis names."""
    one = jnp.ones((1, 1), jnp.int32)
    if isinstance(config, BertConfig):
        more = (one,) if head == "pretraining" else ()
        module, inputs = config.build(head), (one, *more)
    elif isinstance(config, EncoderDecoderConfig):
        module, inputs = EncoderDecoder(config), (one, one[0], one, one[0])
    else:
        module, inputs = GPT(config), (one,)
    return jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs))["params"]
