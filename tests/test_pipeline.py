"""The pipeline of a language model end to end, each step a command on what the one before left.

tokenizer -> pretraining -> fine-tuning -> evaluate -> predict, with the experiments as they stand
at a size that takes seconds; after each step, that it changed what it should and nothing else.
"""

import json
import random

import jax
import numpy as np
import pytest
from tiny import REPOSITORY, call, rows

import jaxseq

GOOD = ["wonderful", "moving", "brilliant", "gentle"]
BAD = ["dreadful", "boring", "clumsy", "noisy"]
PLAIN = ["the", "film", "plot", "actor", "a", "story", "and", "music", "was", "is", "with"]
SMALL = ["--model.num-layers", "1", "--model.width", "32", "--model.num-heads", "2"]
QUICK = ["--no-show", "--optimizer.warmup-steps", "5", "--optimizer.learning-rate"]


def sentence(draw: random.Random, label: str) -> str:
    words = draw.choices(PLAIN, k=draw.randint(2, 6))
    words.insert(draw.randrange(len(words)), draw.choice(GOOD if label == "good" else BAD))
    return " ".join(words)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Text to pretrain on, and labelled sentences."""
    path, draw = tmp_path_factory.mktemp("pipeline"), random.Random(0)
    both = ["good", "bad"]
    text = [
        "\n".join(sentence(draw, draw.choice(both)) + "." for _ in range(4)) for _ in range(150)
    ]
    (path / "text.txt").write_text("\n\n".join(text), encoding="utf-8")
    for split, count in (("train", 200), ("dev", 40), ("test", 40)):
        labels = [draw.choice(both) for _ in range(count)]
        lines = [f"{label}\t{sentence(draw, label)}" for label in labels]
        (path / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def encoder(run_dir) -> dict:
    return jax.tree.map(np.asarray, jaxseq.load(run_dir).params["encoder"])


def same(one: dict, other: dict) -> list[bool]:
    return jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), one, other))


def test_from_a_text_to_answers(folder, capsys):
    def succeed(*words) -> str:
        status, out, err = call(capsys, *words)
        assert status == 0, err
        return out + err

    # 1. A tokenizer trained on the text.
    succeed("tokenizer", folder / "tokenizer", "--data.path", folder / "text.txt",
            "--kind", "wordpiece", "--vocab-size", 120, "--lowercase")  # fmt: skip
    named = ["--data.tokenizer", folder / "tokenizer"]

    # 2. Pretraining: masked tokens are predicted better and better.
    experiments = REPOSITORY / "experiments"
    data = ["--data.path", folder / "text.txt", "--data.context", 24, "--data.batch-size", 16]
    pretrained = folder / "pretrained"
    succeed("train", experiments / "bert_pretrain.py", *data, *named, *SMALL, *QUICK, 0.003,
            "--data.sentences", "line", "--num-steps", 100, "--run-dir", pretrained)  # fmt: skip
    losses = [row["loss"] for row in rows(pretrained) if "loss" in row]
    assert losses[-1] < losses[0] - 0.3
    metrics = json.loads(succeed("evaluate", pretrained, "--json"))
    assert metrics["masked_accuracy"] > 0.1
    assert 0.3 < metrics["next_sentence_accuracy"] <= 1

    # 3. Fine-tuning: first of the head alone, which leaves the encoder as it was.
    files = [f"--data.{name}={folder / file}" for name, file in
             (("train", "train.tsv"), ("validation", "dev.tsv"), ("test", "test.tsv"))]  # fmt: skip
    start = ["--finetune.from-run", pretrained, "--model.dropout", 0, *QUICK, 0.003]
    said = succeed("train", experiments / "classify.py", *files, *start, "--finetune.freeze",
                   "encoder", "--num-steps", 3, "--run-dir", folder / "head")  # fmt: skip
    assert "head" in said
    assert all(same(encoder(folder / "head"), encoder(pretrained)))
    # Then of all of it.
    tuned = folder / "tuned"
    succeed("train", experiments / "classify.py", *files, *start, "--num-steps", 100,
            "--run-dir", tuned)  # fmt: skip
    assert not any(same(encoder(tuned), encoder(pretrained)))

    # 4. and 5. What it is worth, and what it answers, from the run directory alone.
    metrics = json.loads(succeed("evaluate", tuned, "--split", "test", "--json"))
    low, high = metrics["intervals"]["accuracy"]
    assert low <= metrics["accuracy"] <= high
    assert metrics["accuracy"] > 0.8
    (folder / "lines.txt").write_text("a wonderful story\nthe music was dreadful\n")
    out = succeed("predict", tuned, "--input", folder / "lines.txt")
    answers = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert [answer["label"] for answer in answers] == ["good", "bad"]
    run = jaxseq.load(tuned)
    assert run.predict(["a wonderful story", "the music was dreadful"]) == answers
