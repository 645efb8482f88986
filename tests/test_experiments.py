"""The pod-sized experiments: their sizes as published, and a rehearsal of each on a laptop."""

import json
import math
import os
import re

import jax
import pytest
from tiny import REPOSITORY, call

from jaxseq.cli_options import load_module

SIZES = {"gpt2_124m.py": 124_475_904, "llama_1b.py": 1_235_814_400, "llama_70b.py": 70_553_706_496}


def parameters(name: str) -> dict:
    """The shapes of a model's parameters, without any array."""
    experiment = load_module(REPOSITORY / "experiments" / name).experiment
    model = experiment.model.resolve(vocab_size=50257, context=experiment.data.context)
    return jax.eval_shape(lambda key: experiment.task.init(model, key), jax.random.key(0))


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_those_published(name):
    sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(parameters(name))]
    assert sum(sizes) == SIZES[name]


@pytest.mark.skipif("JAXSEQ_DATA" not in os.environ, reason="JAXSEQ_DATA does not name the data")
@pytest.mark.parametrize("name", SIZES)
def test_the_rehearsal_in_the_docstring_runs(name, tmp_path, capsys):
    file = REPOSITORY / "experiments" / name
    text = file.read_text(encoding="utf-8")
    rehearsal = text[text.index("a rehearsal on a laptop:") : text.index("Data:")]
    options = re.findall(r"--\S+ \S+", rehearsal)
    words = [word for option in options for word in option.split()]
    status, _, err = call(
        capsys, "train", file, *words, "--run-dir", tmp_path / "run", "--no-show",
        "--evaluation-batches", 1, "--log-every", 1, "--data.validation-fraction", 0.001,
    )  # fmt: skip
    assert status == 0, err
    rows = [
        json.loads(row) for row in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [row["step"] for row in rows if row["split"] == "train"] == [1, 2, 3, 4, 5]
