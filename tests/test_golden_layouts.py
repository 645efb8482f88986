"""Where every parameter of every model lives on three meshes: in git, so that a change is seen.

After a change that is meant: python tests/test_golden_layouts.py > tests/golden/layouts.txt
"""

from pathlib import Path
from typing import Any, get_args

import flax.linen as nn
import jax
from tiny import REPOSITORY

from jaxseq.cli_options import load_module
from jaxseq.models.bert import BertConfig
from jaxseq.models.encoder_decoder import EncoderDecoderConfig
from jaxseq.models.gpt import GPTConfig
from jaxseq.models.rnn_lm import RNNLMConfig
from jaxseq.models.rnn_seq2seq import RNNSeq2SeqConfig
from jaxseq.models.tagger import TaggerConfig
from jaxseq.nn.experts import Experts
from jaxseq.nn.parameters import flatten
from jaxseq.nn.recurrent import CellName
from jaxseq.parallel.mesh import MeshConfig
from jaxseq.parallel.rules import spec
from jaxseq.tasks.classify import Classify
from jaxseq.tasks.extractive_qa import ExtractiveQA
from jaxseq.tasks.language_model import LanguageModel
from jaxseq.tasks.masked_lm import MaskedLM
from jaxseq.tasks.tag import Tag
from jaxseq.tasks.tag_tokens import TagTokens
from jaxseq.tasks.transduce import Transduce

GOLDEN = Path(__file__).parent / "golden" / "layouts.txt"
MESHES = {
    "8 fsdp": MeshConfig(data=1, fsdp=8),
    "4 fsdp x 2 tensor": MeshConfig(data=1, fsdp=4, tensor=2),
    "2 stage x 2 expert x 2 tensor": MeshConfig(data=1, stage=2, expert=2, tensor=2),
}


def models() -> dict[str, tuple[Any, Any]]:
    """(task, resolved model) by name."""
    text = {"vocab_size": 64, "context": 16}
    pairs = {"source_vocab_size": 64, "target_vocab_size": 64}
    bert, labelled = BertConfig(), text | {"num_labels": 8}
    mixture = GPTConfig(experts=Experts(count=4), activation="swiglu", use_bias=False)
    tags = tuple(f"tag-{i}" for i in range(8))
    tagger = TaggerConfig(width=32, word_width=32, character_width=16)
    sizes = {"num_words": 64, "num_characters": 64, "num_features": 64}
    found: dict[str, tuple[Any, Any]] = {
        "GPT, mixture of experts": (LanguageModel(), mixture.resolve(**text)),
        "BERT, pretraining": (MaskedLM(), bert.resolve(**text)),
        "BERT, classification": (Classify(), bert.resolve(**labelled)),
        "BERT, tagging": (TagTokens(), bert.resolve(**labelled)),
        "BERT, spans": (ExtractiveQA(), bert.resolve(**text)),
        "encoder-decoder, 2017": (Transduce(), EncoderDecoderConfig().resolve(**pairs)),
        "recurrent sequence to sequence": (Transduce(), RNNSeq2SeqConfig().resolve(**pairs)),
        "tagger": (Tag(), tagger.resolve(tags, **sizes)),
    }
    for cell in get_args(CellName):
        found[f"recurrent language model, {cell}"] = (
            LanguageModel(),
            RNNLMConfig(cell=cell).resolve(**text),
        )
    for name in ("gpt2_124m", "llama_1b", "llama_70b"):
        experiment = load_module(REPOSITORY / "experiments" / f"{name}.py").experiment
        model, context = experiment.model, experiment.data.context
        resolved = model.resolve(vocab_size=model.vocab_size, context=context)
        found[f"experiments/{name}.py"] = (experiment.task, resolved)
    return found


def table() -> str:
    """One line a parameter: its path, shape, and the mesh axes of its axes on each mesh."""
    meshes = [config.build(8).mesh for config in MESHES.values()]
    lines = []
    for name, (task, model) in sorted(models().items()):
        lines += ["", f"## {name}: {', '.join(MESHES)}"]
        boxed = jax.eval_shape(lambda key, t=task, m=model: t.init(m, key), jax.random.key(0))
        for path, box in sorted(flatten(boxed).items()):
            assert isinstance(box, nn.LogicallyPartitioned), f"{path} has no axis names"
            shape = box.value.shape
            places = [_written(spec(box.names, shape, mesh), mesh) for mesh in meshes]
            lines.append(f"{path} {'x'.join(map(str, shape))}: {' | '.join(places)}")
    return "\n".join(lines[1:]) + "\n"


def _written(placed: jax.sharding.PartitionSpec, mesh: jax.sharding.Mesh) -> str:
    """The axes that divide something; a dash is an axis that is whole."""
    return " ".join(str(axis) if axis and mesh.shape[axis] > 1 else "-" for axis in placed)


def test_every_parameter_lives_where_it_did() -> None:
    rewrite = f"python {Path(__file__).relative_to(REPOSITORY)} > {GOLDEN.relative_to(REPOSITORY)}"
    assert table() == GOLDEN.read_text(), f"where it is meant: {rewrite}"


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    print(table(), end="")
