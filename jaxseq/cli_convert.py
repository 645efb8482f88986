"""The verb `jaxseq convert`: Hugging Face checkpoints to run directories, and runs to them."""

import contextlib
import shutil
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from jaxseq.errors import UserError
from jaxseq.option_checks import check_range
from jaxseq.parallel.mesh import Layout, MeshConfig, one_device

if TYPE_CHECKING:
    from jaxseq.data.subwords import SubwordTokenizer
    from jaxseq.interop.huggingface import Checkpoint
    from jaxseq.models.bert import Head


def convert(argv: list[str]) -> int:
    """A Hugging Face checkpoint to a run directory, or a run to a checkpoint.

    usage: jaxseq convert import HF_DIR RUN_DIR [--tokenizer PATH] [--mesh.fsdp 8] ...
           jaxseq convert export RUN_DIR HF_DIR [--checkpoint best] [--max-file-bytes N]
    """
    from jaxseq.cli_options import parse

    match argv[:1]:
        case ["import"]:
            return _import(parse(Import, argv[1:], prog="jaxseq convert import"))
        case ["export"]:
            return _export(parse(Export, argv[1:], prog="jaxseq convert export"))
        case [] | ["-h"] | ["--help"]:
            print(convert.__doc__, "\n`jaxseq convert import --help` lists its options.")
            return 0
    raise UserError(f"jaxseq convert does 'import' and 'export', not '{argv[0]}'")


# ---- import ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Import:
    """A run directory made of a checkpoint: config.json, model.safetensors (or several with an
    index) and the tokenizer's files.

    GPT-2, Llama, Mistral, Qwen2, Qwen3, BERT with its heads, T5, BART and Marian. `sample`,
    `predict` and --finetune.from-run take the run as they take a trained one. Pickles are never
    read.
    """

    hf_dir: Positional[Path]
    """The directory of a model, as downloaded from the Hugging Face hub."""
    run_dir: Positional[Path]
    """The run directory to make."""
    tokenizer: Path | None = None
    """The tokenizer, where it is not in HF_DIR: a tokenizer.json, a vocab.txt, a vocab.json with
    merges beside it, or a directory with one of them."""
    pairs: bool = False
    """A classifier's inputs are two texts, with a tab between them."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    """The devices that hold the parameters on their way; a model larger than one device needs
    --mesh.fsdp or --mesh.tensor."""


def _import(options: Import) -> int:
    from jaxseq.data.no_data import NoData
    from jaxseq.interop.family import Fields
    from jaxseq.interop.huggingface import read_checkpoint, read_description
    from jaxseq.training.experiment import Experiment
    from jaxseq.training.run_directory import write_params_run

    # What can be wrong is found before gigabytes are read.
    fields = Fields.read(options.hf_dir)
    described = read_description(options.hf_dir)
    tokenizer = _tokenizer(options, fields["vocab_size"])
    task, coder = _task(described, tokenizer, options)
    with _written_whole(options.run_dir) as unfinished:
        checkpoint = read_checkpoint(options.hf_dir, _layout(options.mesh))
        data = NoData(str(options.hf_dir.resolve()))
        experiment = Experiment(task=task, model=checkpoint.config, data=data)
        write_params_run(unfinished, experiment, coder, checkpoint.params)
    print(
        f"{options.run_dir}: {fields['model_type']} of {_num_parameters(checkpoint.params):,} "
        f"parameters, {tokenizer.vocab_size:,} tokens"
    )
    if checkpoint.fresh:
        print(f"not in {options.hf_dir}, and fresh: {', '.join(checkpoint.fresh)}")
    print(f"try: jaxseq {'sample' if hasattr(task, 'write') else 'predict'} {options.run_dir}")
    return 0


def _tokenizer(options: Import, vocab_size: int) -> "SubwordTokenizer":
    from jaxseq.data.subwords import load_subwords

    if options.tokenizer is not None:
        tokenizer = load_subwords(options.tokenizer)
    else:
        try:
            tokenizer = load_subwords(options.hf_dir)
        except UserError as error:
            raise UserError(f"{error}; or name another with --tokenizer") from error
    if tokenizer.vocab_size > vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size:,} tokens, and the model of {options.hf_dir} "
            f"knows {vocab_size:,}; name the tokenizer that it was trained with: --tokenizer"
        )
    return tokenizer


def _layout(asked: MeshConfig) -> Layout:
    if asked == MeshConfig():
        return one_device()  # copies would be of no use
    return asked.build(batch_size=0)  # there is no batch


def _task(
    checkpoint: "Checkpoint", tokenizer: "SubwordTokenizer", options: Import
) -> tuple[Any, Any]:
    """The task that a model like this is trained for, and its coder."""
    from jaxseq.models.bert import BertConfig
    from jaxseq.models.gpt import GPTConfig
    from jaxseq.tasks.language_model import LanguageModel

    if options.pairs and checkpoint.head != "classification":
        raise UserError(f"--pairs is for classifiers, and {options.hf_dir} is none; leave it out")
    if len(checkpoint.labels) == 1:
        raise UserError(
            f"{options.hf_dir} tells one label apart, as a regression does, and jaxseq has no task "
            "for that; classifiers have two labels or more"
        )
    if isinstance(checkpoint.config, BertConfig):
        return _bert_task(checkpoint, tokenizer, options.pairs)
    if isinstance(checkpoint.config, GPTConfig):
        return LanguageModel(), tokenizer
    return _pair_task(checkpoint, tokenizer, options.hf_dir)


def _bert_task(
    checkpoint: "Checkpoint", tokenizer: "SubwordTokenizer", pairs: bool
) -> tuple[Any, Any]:
    """The task of a BERT's head, and its coder."""
    from jaxseq.data.labelled import ClassCoder
    from jaxseq.data.squad import QuestionCoder, SquadData
    from jaxseq.data.tagged_subwords import SubwordTagCoder
    from jaxseq.tasks.classify import Classify
    from jaxseq.tasks.extractive_qa import ExtractiveQA
    from jaxseq.tasks.masked_lm import MaskedLM
    from jaxseq.tasks.tag_tokens import TagTokens

    labels, context = checkpoint.labels, checkpoint.config.context
    for role in ("classify", "separate"):
        tokenizer.special(role)  # UserError where there is none
    match checkpoint.head:
        case "classification":
            return Classify(), ClassCoder(tokenizer, labels, pairs)
        case "tagging":
            # Sentences with more words than the model reads at once are read in pieces.
            return TagTokens(), SubwordTagCoder(tokenizer, labels, max_length=context)
        case "spans":
            length = min(SquadData.max_length, context)
            question = min(SquadData.max_question, length // 4)
            stride = min(SquadData.stride, length - question - 3)
            return ExtractiveQA(), QuestionCoder(tokenizer, length, question, stride)
    tokenizer.special("mask")
    return MaskedLM(), tokenizer


def _pair_task(
    checkpoint: "Checkpoint", tokenizer: "SubwordTokenizer", hf_dir: Path
) -> tuple[Any, Any]:
    """The task of an encoder-decoder, and its coder."""
    from jaxseq.data.pair_tokenizers import SubwordPairTokenizer
    from jaxseq.tasks.transduce import Transduce

    match dict(checkpoint.token_ids):
        case {"decoder_start_token_id": int(start), "eos_token_id": int(end)}:
            pass
        case _:
            raise UserError(
                f"{hf_dir}/config.json must say one decoder_start_token_id and one eos_token_id, "
                "which targets begin and end with; they may stand in generation_config.json: copy "
                "them"
            )
    # What the tokenizer puts around a text that is read: </s> behind it, perhaps <s> before it.
    text = tokenizer.library.encode("a", add_special_tokens=False).ids
    marked = tokenizer.library.encode("a").ids
    first = next(i for i in range(len(marked)) if marked[i : i + len(text)] == text)
    return Transduce(), SubwordPairTokenizer(
        tokenizer,
        start,
        end,
        before_source=tuple(marked[:first]),
        behind_source=tuple(marked[first + len(text) :]) or (end,),
    )


def _num_parameters(params: Any) -> int:
    import jax

    return sum(leaf.size for leaf in jax.tree.leaves(params))


# ---- export ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Export:
    """A checkpoint that transformers reads, made of a run: config.json, safetensors, tokenizer.

    GPTs as GPT-2, Llama, Mistral, Qwen2 or Qwen3, BERTs, and encoder-decoders as T5, BART or
    Marian, whichever has the architecture. Adapters are merged into what they adapt.
    """

    run_dir: Positional[Path]
    """A run directory."""
    hf_dir: Positional[Path]
    """The directory to make."""
    checkpoint: str = "last"
    """"last", "best" (by validation loss on the way), or the step of one that was kept."""
    max_file_bytes: int = 5_000_000_000
    """Tensors of more bytes go into several files, with an index."""


def _export(options: Export) -> int:
    from jaxseq.data.subwords import SubwordTokenizer
    from jaxseq.data.tokenizer_export import write_huggingface_tokenizer
    from jaxseq.interop.huggingface import Checkpoint, ModelConfig, write_checkpoint
    from jaxseq.models.bert import BertConfig
    from jaxseq.training.lora import merge
    from jaxseq.training.run_directory import read_run

    check_range("", options, "max_file_bytes", least=1)
    with _written_whole(options.hf_dir) as unfinished:
        run = read_run(options.run_dir, options.checkpoint)
        model = run.experiment.model
        if not isinstance(model, ModelConfig):
            raise UserError(
                f"{options.run_dir} holds a {type(model).__name__}, which transformers has no "
                "model for; GPTs, BERTs and encoder-decoders are exported"
            )
        tokenizer = getattr(run.tokenizer, "tokenizer", run.tokenizer)
        checkpoint = Checkpoint(
            model,
            merge(run.params),
            head=_head(run.experiment.task),
            labels=getattr(run.tokenizer, "labels", getattr(run.tokenizer, "tags", ())),
            token_ids=_token_ids(run.tokenizer),
        )
        files = write_checkpoint(unfinished, checkpoint, options.max_file_bytes)
        if isinstance(tokenizer, SubwordTokenizer):
            write_huggingface_tokenizer(
                tokenizer,
                unfinished,
                context=getattr(model, "context", 0),
                has_types=isinstance(model, BertConfig),
            )
    print(
        f"{options.hf_dir}: step {run.step} of {options.run_dir}, "
        f"{_num_parameters(checkpoint.params):,} parameters in {len(files)} file(s)"
    )
    if not isinstance(tokenizer, SubwordTokenizer):
        print(
            f"its {type(tokenizer).__name__} stays behind: transformers reads subword tokenizers "
            "alone"
        )
    return 0


def _token_ids(coder: Any) -> dict[str, int]:
    """What a checkpoint's config.json says of the tokenizer."""
    from jaxseq.data.pair_tokenizers import SubwordPairTokenizer
    from jaxseq.data.subwords import SubwordTokenizer
    from jaxseq.data.tokenizer_export import special_tokens

    tokenizer = getattr(coder, "tokenizer", coder)
    if not isinstance(tokenizer, SubwordTokenizer):
        return {}
    names = {"start": "bos_token_id", "end": "eos_token_id", "pad": "pad_token_id"}
    found = {
        names[role]: tokenizer.special(role) for role in special_tokens(tokenizer) if role in names
    }
    if isinstance(coder, SubwordPairTokenizer):
        found |= {"decoder_start_token_id": coder.start, "eos_token_id": coder.end}
    return found


def _head(task: Any) -> 'Head | Literal[""]':
    """The head that a BERT has for a task; "" for other tasks."""
    from jaxseq.tasks.classify import Classify
    from jaxseq.tasks.extractive_qa import ExtractiveQA
    from jaxseq.tasks.masked_lm import MaskedLM
    from jaxseq.tasks.tag_tokens import TagTokens

    heads: dict[type, Head] = {
        MaskedLM: "pretraining",
        Classify: "classification",
        TagTokens: "tagging",
        ExtractiveQA: "spans",
    }
    return heads.get(type(task), "")


@contextlib.contextmanager
def _written_whole(directory: Path) -> Generator[Path, None, None]:
    """A directory to fill, which gets its name when all is in it: a crash leaves no half one.

    Raises UserError, before, where something is in the way or it cannot be made.
    """
    directory = directory.resolve()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{directory} is there already; choose another directory")
    unfinished = directory.with_name(f"{directory.name}.unfinished")
    try:
        unfinished.mkdir(parents=True)
    except FileExistsError as error:
        raise UserError(
            f"{unfinished} was left by a conversion that was cut short; remove it"
        ) from error
    except OSError as error:
        raise UserError(
            f"cannot make {unfinished}: {error.strerror}; choose another directory"
        ) from error
    try:
        yield unfinished
        unfinished.replace(directory)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
