"""Classifying from end to end: the experiment's offline defaults, small, and its files by name."""

import json
import os

import pytest
from applications import train_offline
from tiny import REPOSITORY, call

from jaxseq.cli_options import load_module
from jaxseq.training.run_directory import read_run

FILE = REPOSITORY / "experiments" / "classify.py"
QUICK = ("--evaluation-batches", 1, "--optimizer.warmup-steps", 20)


def test_a_review_is_read_and_not_only_its_words_counted(tmp_path, capsys, monkeypatch):
    """Good and bad words stand in good and bad reviews nearly alike."""
    options = (
        *QUICK, "--num-steps", 350, "--evaluate-every", 350,
        "--model.width", 32, "--model.embedding-width", 16, "--model.dropout", 0.0,
        "--task.hidden-words", 0.0, "--data.vocab-size", 200, "--data.num-train", 1500,
        "--data.num-held-out", 100, "--optimizer.learning-rate", 0.02,
    )  # fmt: skip
    _, run_dir = train_offline("classify.py:recurrent", options, tmp_path, capsys, monkeypatch)
    status, out, err = call(capsys, "evaluate", run_dir, "--split", "test", "--json")
    assert status == 0, err
    assert json.loads(out)["accuracy"] > 0.85
    counts = json.loads((run_dir / "evaluation-test.json").read_text())["details"]["confusion"]
    assert sum(map(sum, counts["counts"])) == 100
    bad, good = read_run(run_dir).predict(
        ["the film is not clever", "although the plot is dull , the film is far from dull"]
    )
    assert (bad["label"], good["label"]) == ("negative", "positive")


def test_names_have_their_language(tmp_path, capsys, monkeypatch):
    options = (
        *QUICK, "--num-steps", 80, "--evaluate-every", 80,
        "--model.num-layers", 1, "--model.width", 32, "--model.num-heads", 2,
        "--model.dropout", 0.0, "--model.unroll-layers", 1, "--data.num-train", 600,
        "--data.num-held-out", 100, "--data.batch-size", 32, "--optimizer.learning-rate", 0.01,
    )  # fmt: skip
    found, _ = train_offline("classify.py:names", options, tmp_path, capsys, monkeypatch)
    assert found["accuracy"] > 0.6  # one of six by chance
    assert found["f1_macro"] > 0.5


@pytest.mark.skipif("JAXSEQ_DATA" not in os.environ, reason="JAXSEQ_DATA does not name the data")
def test_no_name_is_in_two_splits():
    data = load_module(FILE).names.data
    corpus = data.resolve().load()
    assert len(corpus.tokenizer.labels) == 18
    sizes = [len(split) for split in (corpus.train, corpus.validation, corpus.test)]
    assert sizes == [15937, 2103, 2010]
