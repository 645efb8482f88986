"""Runs that start from other runs: what they take, what they leave, and how fast layers move."""

import dataclasses
import json
import re
import shutil
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import call, rows, write_experiment

from jaxseq.cli_options import load_module
from jaxseq.data.labelled import ClassCoder, LabelledText
from jaxseq.data.tokenizers import WordTokenizer
from jaxseq.errors import UserError
from jaxseq.models.bert import BertConfig
from jaxseq.models.gpt import GPTConfig
from jaxseq.models.rnn_lm import RNNLMConfig
from jaxseq.nn.parameters import flatten
from jaxseq.parallel.mesh import MeshConfig, one_device
from jaxseq.tasks.classify import Classify
from jaxseq.tasks.language_model import LanguageModel
from jaxseq.training.experiment import Experiment
from jaxseq.training.finetune import FineTune, frozen_parameters, match, with_layer_rates
from jaxseq.training.loop import train
from jaxseq.training.lora import merge
from jaxseq.training.optimizers import Optimizer
from jaxseq.training.run_directory import read_run, write_params_run
from jaxseq.training.source_run import open_source
from jaxseq.training.state import abstract_params, split

OTHER = "a cat on a mat under the mat and the cat slept sat the under on " * 40
STANDING_STILL = Optimizer(learning_rate=0.0, warmup_steps=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The tiny experiment, its run in `source`, and another text."""
    folder = tmp_path_factory.mktemp("finetune")
    experiment = load_module(write_experiment(folder)).experiment
    (folder / "other.txt").write_text(OTHER, encoding="utf-8")
    train(dataclasses.replace(experiment, num_steps=40, evaluate_every=99), folder / "source")
    return folder


def tuned(folder: Path, **changes) -> Experiment:
    """The experiment of fine-tuning on the other text; another width is asked for, in vain."""
    experiment = load_module(folder / "tiny.py").experiment
    data = dataclasses.replace(experiment.data, path=folder / "other.txt")
    model = GPTConfig(num_layers=3, width=32, num_heads=4, dropout=0.2)
    changes = {"finetune": FineTune(folder / "source"), "num_steps": 1} | changes
    return dataclasses.replace(experiment, **{"data": data, "model": model} | changes)


def copied(folder: Path, run_dir: Path, mesh):
    """The parameters that a run on `mesh` starts with when it starts from `run_dir`."""
    experiment = read_run(folder / "source").experiment
    like = abstract_params(partial(experiment.task.init, experiment.model), mesh)
    nothing = jax.tree.map(lambda leaf: np.full(leaf.shape, np.nan), like)
    source = open_source(FineTune(run_dir))
    params = source.copy_into(nothing, source.match(experiment), mesh)
    assert jax.tree.map(lambda a: a.sharding, params) == jax.tree.map(lambda a: a.sharding, like)
    return params


def test_it_starts_where_the_source_ended_and_learns_from_there(folder, capsys):
    still = folder / "still"
    before = train(tuned(folder, optimizer=STANDING_STILL), still)
    said = capsys.readouterr().err
    start = re.escape(f"trains in {still} from {folder / 'source'}, step 40 ")
    assert re.search(start + r"\((\d+) of \1 parameters copied\): ", said)
    run, source = read_run(still), read_run(folder / "source")
    jax.tree.map(np.testing.assert_array_equal, run.params, source.params)
    assert run.tokenizer == source.tokenizer
    assert run.experiment.model == dataclasses.replace(source.experiment.model, dropout=0.2)
    after = train(tuned(folder, num_steps=10), folder / "moved")
    uniform = np.log(run.tokenizer.vocab_size)
    assert after["loss"] < before["loss"] - 0.1 < uniform - 0.3


def test_resumed_is_uninterrupted_and_does_not_need_the_source(folder, capsys):
    """With adapters, frozen parameters and layer rates, bitwise."""
    shutil.copytree(folder / "source", folder / "gone")
    options = [
        *("--data.path", folder / "other.txt", "--finetune.from-run", folder / "gone"),
        *("--finetune.lora-rank", 2, "--finetune.lora-targets", "query", "mlp/*"),
        *("--finetune.freeze", "embedding", "*/bias", "--finetune.layer-decay", 0.5),
        *("--optimizer.schedule", "constant", "--optimizer.warmup-steps", 0, "--no-show"),
        *("--log-every", 1, "--evaluate-every", 99),
    ]

    def run(name, num_steps):
        words = ("train", folder / "tiny.py", "--run-dir", folder / name, "--num-steps", num_steps)
        status, _, err = call(capsys, *words, *options)
        assert status == 0, err
        return err

    assert "of which" in run("whole", 4)
    run("parts", 2)
    shutil.rmtree(folder / "gone")
    assert "at step 2: " in run("parts", 4)

    def losses(name):
        written = rows(folder / name)
        return {row["step"]: row["loss"] for row in written if row["split"] == "train"}

    assert losses("parts") == losses("whole")
    here, there = read_run(folder / "parts").params, read_run(folder / "whole").params
    jax.tree.map(np.testing.assert_array_equal, here, there)
    source = flatten(read_run(folder / "source").params)
    for path, leaf in flatten(here).items():
        if path in source:
            np.testing.assert_array_equal(leaf, source[path], err_msg=path)
    assert np.any(here["blocks"]["mlp"]["in"]["lora_up"] != 0)

    status, out, _ = call(capsys, "evaluate", folder / "parts", "--json")
    assert status == 0
    assert json.loads(out)["loss"] == pytest.approx(rows(folder / "parts")[-1]["loss"], rel=1e-6)
    assert call(capsys, "sample", folder / "parts", "--max-new-tokens", 3)[0] == 0

    # A run with adapters is a source like any other: they are merged into their kernels.
    after = copied(folder, folder / "parts", one_device())
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-7), after, merge(here))


def test_the_source_is_read_onto_the_mesh(folder):
    params = copied(folder, folder / "source", MeshConfig(data=2, fsdp=2, tensor=2).build(4))
    jax.tree.map(np.testing.assert_array_equal, params, read_run(folder / "source").params)


def test_a_run_from_given_parameters_is_a_run(folder, capsys):
    """As an import from elsewhere makes it."""
    source, run_dir = read_run(folder / "source"), folder / "imported"
    write_params_run(run_dir, source.experiment, source.tokenizer, source.params)
    for verb in (["evaluate", "--json"], ["sample", "--max-new-tokens", 5]):
        status, out, _ = call(capsys, verb[0], run_dir, *verb[1:])
        assert status == 0
        theirs = call(capsys, verb[0], folder / "source", *verb[1:])[1]
        assert out.replace('"step": 0', '"step": 40') == theirs
    params = copied(folder, run_dir, one_device())
    jax.tree.map(np.testing.assert_array_equal, params, source.params)

    with pytest.raises(UserError, match="no training to go on with; start from them with --fine"):
        train(source.experiment, run_dir)
    with pytest.raises(UserError, match="is there already"):
        write_params_run(run_dir, source.experiment, source.tokenizer, source.params)
    fewer, _ = split(source.params, ["embedding/table"])
    with pytest.raises(ValueError, match=r"params differ from the model's .*embedding/table"):
        write_params_run(folder / "never", source.experiment, source.tokenizer, fewer)
    assert not (folder / "never").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"from_run": Path("nowhere")}, "there is no run directory"),
        ({"checkpoint": "7"}, "no checkpoint '7'.*it has last, best and 35, 40"),
        ({"freeze": ("blokcs/mlp",)}, "no parameter 'blokcs/mlp'; did you mean 'blocks/mlp'"),
        ({"freeze": ("zzz",)}, "no parameter 'zzz'; there are blocks, embedding, final_norm, pos"),
        ({"freeze": ("*",)}, r"--finetune.freeze \* leaves no parameter to train"),
        ({"layer_decay": 0.0}, "--finetune.layer-decay is 0.0; it must be above 0 and at most 1"),
        ({"layer_decay": 1.5}, "--finetune.layer-decay is 1.5"),
        ({"lora_rank": -1}, "--finetune.lora-rank is -1"),
        ({"lora_rank": 2, "from_run": None}, "nothing is there to adapt; say with --finetune.from"),
        ({"lora_rank": 2, "lora_alpha": 0.0}, "--finetune.lora-alpha is 0.0"),
        ({"lora_rank": 2, "lora_targets": ()}, "--finetune.lora-targets is empty"),
        ({"lora_rank": 2, "lora_targets": ("querry",)}, "did you mean 'query'"),
    ],
)
def test_options_that_cannot_work(folder, changes, message):
    finetune = FineTune(**{"from_run": folder / "source"} | changes)
    with pytest.raises(UserError, match=message):
        train(tuned(folder, finetune=finetune), folder / "never")
    assert not (folder / "never").exists()


def test_a_source_that_does_not_fit(folder):
    rnn = RNNLMConfig()
    with pytest.raises(UserError, match="holds a GPTConfig and the experiment asks for a RNNLMCon"):
        train(tuned(folder, model=rnn), folder / "never")
    longer = dataclasses.replace(tuned(folder).data, context=64)
    with pytest.raises(UserError, match=r"64.*\(the architecture is that of .*source, whatever"):
        train(tuned(folder, data=longer), folder / "never")
    assert not (folder / "never").exists()


def test_what_is_resumed_is_the_same_fine_tuning(folder):
    with pytest.raises(UserError, match=r"finetune.layer_decay is 1.0 there and 0.5 here"):
        train(
            dataclasses.replace(
                read_run(folder / "source").experiment, finetune=FineTune(layer_decay=0.5)
            ),
            folder / "source",
        )


ENCODER = {"encoder/table": (9, 4), "encoder/blocks/kernel": (2, 4, 4)}


@pytest.mark.parametrize(
    ("head", "other", "same_task", "copied"),
    [
        ({"head/kernel": (4, 2)}, {"head/kernel": (4, 2)}, True, True),
        ({"head/kernel": (4, 2)}, {"head/kernel": (4, 2)}, False, False),
        ({"head/kernel": (4, 2)}, {"head/kernel": (4, 3)}, True, False),
        ({"head/kernel": (4, 2), "head/bias": (2,)}, {"head/kernel": (4, 2)}, True, False),
        ({"head/kernel": (4, 2)}, {}, False, False),
        ({}, {"head/kernel": (4, 2)}, False, False),
    ],
)
def test_a_head_is_copied_as_a_whole_for_the_same_task(head, other, same_task, copied):
    found = match(ENCODER | head, ENCODER | other, same_task)
    assert set(found.copied) == set(ENCODER | head if copied else ENCODER)
    assert set(found.fresh) == (set() if copied else set(head))
    assert set(found.unused) == (set() if copied else set(other))


def test_the_heads_of_an_encoder_share_the_encoder():
    config = BertConfig(num_layers=1, width=8, num_heads=2).resolve(
        vocab_size=16, context=4, num_labels=3
    )
    tokens = jnp.zeros((1, 1), jnp.int32)

    def shapes(head, *more):
        build = partial(config.build(head).init, jax.random.key(0), tokens, *more)
        leaves = flatten(nn.unbox(jax.eval_shape(build))["params"])
        return {path: leaf.shape for path, leaf in leaves.items()}

    found = match(shapes("classification"), shapes("pretraining", tokens), same_task=False)
    assert found.fresh == ("head/bias", "head/kernel")
    assert all(path.startswith(("head/", "next_sentence/")) for path in found.unused)
    assert "encoder/pooler/kernel" in found.copied


def test_a_new_head_trains_with_the_adapters_and_after_a_resume_too(tmp_path, capsys):
    """A classifier of two labels from one of three; which parameters were fresh is remembered."""
    for name in ("train", "validation"):
        (tmp_path / f"{name}.tsv").write_text("good\ta fine day\nbad\ta grey day\n" * 4)
    coder = ClassCoder(WordTokenizer.train("a fine grey day " * 2), ("x", "y", "z"))
    old = Experiment(
        task=Classify(),
        model=BertConfig(num_layers=1, width=8, num_heads=2).resolve(
            vocab_size=coder.tokenizer.vocab_size, context=16, num_labels=3
        ),
        data=LabelledText(train=tmp_path / "train.tsv", validation=tmp_path / "validation.tsv"),
    )
    init = partial(old.task.init, old.model)
    params = jax.jit(lambda key: nn.unbox(init(key)))(jax.random.key(5))
    write_params_run(tmp_path / "old", old, coder, params)
    new = dataclasses.replace(
        old,
        model=BertConfig(),
        data=dataclasses.replace(old.data, batch_size=4),
        optimizer=Optimizer(warmup_steps=0, schedule="constant"),
        finetune=FineTune(tmp_path / "old", lora_rank=1),
    )
    train(dataclasses.replace(new, num_steps=1), tmp_path / "new")
    assert "fresh: head/bias, head/kernel; not used: head/bias, head/kernel" in (
        capsys.readouterr().err
    )
    first = read_run(tmp_path / "new")
    assert first.tokenizer.tokenizer == coder.tokenizer
    assert first.tokenizer.labels == ("bad", "good")
    shutil.rmtree(tmp_path / "old")
    train(dataclasses.replace(new, num_steps=2), tmp_path / "new")
    before, after = flatten(first.params), flatten(read_run(tmp_path / "new").params)
    moved = {path for path in after if np.any(before[path] != after[path])}
    layers = ("encoder/blocks/attention/query", "encoder/blocks/attention/value")
    adapters = {f"{layer}/{name}" for layer in layers for name in ("lora_down", "lora_up")}
    assert moved == adapters | {"head/bias", "head/kernel"}
    for path in set(after) - moved:
        if "lora" not in path:
            np.testing.assert_array_equal(after[path], flatten(params)[path])


def test_what_was_copied_is_said():
    found = match(ENCODER | {"head/bias": (2,)}, ENCODER | {"next/kernel": (4, 2)}, False)
    assert found.describe() == "2 of 3 parameters copied; fresh: head/bias; not used: next/kernel"


def test_sources_that_share_nothing_or_differ_in_shape():
    with pytest.raises(UserError, match=r"encoder/table \(8, 4\) there, \(9, 4\) here"):
        match(ENCODER, ENCODER | {"encoder/table": (8, 4)}, True)
    with pytest.raises(UserError, match="holds nothing that this model has: there are a, and here"):
        match(ENCODER, {"a": (2,)}, True)


PATHS = [
    "encoder/blocks/query/kernel", "encoder/blocks/query/lora_down",
    "encoder/blocks/query/lora_scale", "encoder/blocks/query/lora_up", "encoder/blocks_norm/bias",
    "encoder/table", "head/bias", "head/kernel",
]  # fmt: skip


@pytest.mark.parametrize(
    ("finetune", "expected"),
    [
        (FineTune(freeze=("encoder/blocks",)), {0, 2}),
        (FineTune(freeze=("encoder/",)), {0, 2, 4, 5}),
        (FineTune(freeze=("*/bias", "encoder/table")), {2, 4, 5, 6}),
        (FineTune(lora_rank=1), {0, 2, 4, 5}),
        (FineTune(lora_rank=1, freeze=("head/bias",)), {0, 2, 4, 5, 6}),
    ],
)
def test_what_is_frozen(finetune, expected):
    found = frozen_parameters(finetune, PATHS, fresh=("head/bias", "head/kernel"))
    assert found == {PATHS[number] for number in expected}


def test_lower_layers_move_slower():
    """Decay of the weights included; and the rates are those of ELECTRA."""
    model = GPTConfig(num_layers=3, width=8, num_heads=2).resolve(vocab_size=16, context=4)
    boxed = jax.eval_shape(partial(LanguageModel().init, model), jax.random.key(0))
    base = Optimizer("sgd", weight_decay=0.5, warmup_steps=0, clip_norm=0.0).build(2)
    # What is frozen is not among the parameters that an optimizer sees.
    params, _ = split(
        jax.tree.map(lambda a: jnp.ones(a.shape), nn.unbox(boxed)), ["final_norm/bias"]
    )

    def updates(optimizer):
        return flatten(optimizer.update(params, optimizer.init(params), params)[0])

    paced, plain = updates(with_layer_rates(base, 0.5, boxed)), updates(base)
    assert np.unique(plain["embedding/table"]) != np.unique(plain["final_norm/scale"])
    for path, update in paced.items():
        share = np.asarray(update / plain[path])
        if path.startswith("blocks/"):
            expected = np.array([0.125, 0.25, 0.5]).reshape(3, *[1] * (share.ndim - 1))
        else:
            expected = 0.0625 if "embedding" in path else 1.0
        np.testing.assert_array_equal(share, np.broadcast_to(expected, share.shape), err_msg=path)
    rnn = jax.eval_shape(lambda _: {"cell": jnp.ones(3)}, jax.random.key(0))
    with pytest.raises(UserError, match="has no stack of layers whose rates could differ"):
        with_layer_rates(base, 0.5, rnn)
