"""Recognising speech from end to end: the experiment's offline default, small."""

import math
from functools import partial

import jax
import pytest
from applications import train_offline
from tiny import REPOSITORY

from jaxseq.cli_options import load_module
from jaxseq.data.made_up_speech import MadeUpDigits
from jaxseq.training.run_directory import read_run

FILE = REPOSITORY / "experiments" / "recognise_speech.py"
SMALL = (
    *("--data.takes", 8, "--data.rounds", 1, "--data.batch-size", 16, "--data.max-digits", 1),
    *("--data.max-pause", 0.05, "--data.no-noise", "--data.channel", 0, "--data.speed", 0),
    *("--model.width", 64, "--model.num-layers", 1, "--model.front-end.num-mels", 20),
    *("--model.dropout", 0, "--model.spec-augment.time-masks", 0),
    *("--model.spec-augment.mel-masks", 0, "--optimizer.warmup-steps", 10),
    *("--optimizer.learning-rate", 1e-2, "--num-steps", 140, "--evaluate-every", 140),
)


@pytest.mark.parametrize("name", ["experiment", "transformer", "streaming"])
def test_every_model_of_the_file_fits_the_data(name, monkeypatch):
    monkeypatch.delenv("JAXSEQ_DATA", raising=False)
    found = getattr(load_module(FILE), name)
    corpus = MadeUpDigits(takes=8).load()
    model = found.task.resolve(found.model, found.data, corpus.tokenizer)
    shapes = jax.eval_shape(partial(found.task.init, model), jax.random.key(0))
    sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)]
    assert 200_000 < sum(sizes) < 1_000_000


def test_learns_to_hear_digits(tmp_path, capsys, monkeypatch):
    row, run_dir = train_offline(FILE.name, SMALL, tmp_path, capsys, monkeypatch)
    # One of ten digits at random is wrong nine times in ten, and nothing heard always.
    assert row["word_error_rate"] < 0.4
    run = read_run(run_dir)
    answers = run.predict(run.inputs)
    assert len(answers) == 3
    assert {type(answer["text"]) for answer in answers} == {str}
