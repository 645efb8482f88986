"""Token classification: loss at first subwords, counts of tags or of spans, answers in order; and
from files to predictions with a model that the library does not know."""

import json
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mean_pool import MeanPoolConfig
from tiny import call

from jaxseq.data.ragged import Ragged, ragged_evaluation_batches
from jaxseq.data.tagged_subwords import SubwordTagCoder, TaggedSubwords
from jaxseq.data.tokenizers import ByteTokenizer
from jaxseq.errors import UserError
from jaxseq.models.bert import BertConfig
from jaxseq.tasks.tag_tokens import TagTokens
from jaxseq.training.experiment import Experiment
from jaxseq.training.loop import train
from jaxseq.training.optimizers import Optimizer

TASK = TagTokens()
UNUSED = TaggedSubwords(train=Path("a"), validation=Path("b"))
CODER = SubwordTagCoder(ByteTokenizer(), ("B-P", "I-P", "O"), longest=9, longest_at="a, line 4")
SENTENCES = [("Al Bo is in", "B-P I-P O O"), ("so", "O"), ("Ed", "B-P")]


@pytest.fixture(scope="module")
def model():
    return TASK.resolve(MeanPoolConfig(), UNUSED, CODER)


@pytest.fixture(scope="module")
def params(model):
    """Parameters of order 1, so that answers differ."""
    shapes = nn.unbox(jax.eval_shape(partial(TASK.init, model), jax.random.key(0)))
    rng = np.random.default_rng(3)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), shapes)


@pytest.fixture(scope="module")
def batch():
    """The sentences, and two filler rows behind them."""
    examples = []
    for words, tags in SENTENCES:
        (piece,) = CODER.pieces(words.split(), tags.split())
        examples.append(piece.example)
    (found,) = ragged_evaluation_batches(Ragged(examples, "tokens", 5))
    return {name: jnp.asarray(array) for name, array in found.items()}


def logits_of(params, word):
    """The model sees each token by itself: a word's tag is decided by its first byte."""
    table, head = params["Embed_0"]["embedding"], params["Dense_0"]
    hidden = np.asarray(table, np.float64)[ord(word[0])]
    return hidden @ np.asarray(head["kernel"], np.float64) + np.asarray(head["bias"])


def best_tags(params, words):
    return [CODER.tags[logits_of(params, word).argmax()] for word in words]


def test_the_loss_is_minus_the_log_probability_of_the_tags(model, params, batch):
    expected = 0.0
    for words, tags in SENTENCES:
        for word, tag in zip(words.split(), tags.split(), strict=True):
            logits = logits_of(params, word)
            expected -= logits[CODER.tags.index(tag)] - np.log(np.exp(logits).sum())
    loss, weight = jax.jit(partial(TASK.loss, model))(params, batch)
    assert weight == 6  # words, not tokens
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_what_stands_in_the_padding_changes_nothing(model, params, batch):
    evaluator = TASK.evaluator(model, CODER)
    clean, dirty = evaluator(params, batch), dict(batch)
    for name, count, junk in (
        ("tokens", "lengths", 77),
        ("tags", "words", 1),
        ("firsts", "words", 3),
    ):
        behind = jnp.arange(batch[name].shape[1])[None] >= batch[count][:, None]
        dirty[name] = jnp.where(behind, junk, batch[name])
    for name, rows in evaluator(params, dirty).items():
        np.testing.assert_array_equal(rows, clean[name])
        assert not rows[3:].any()  # filler rows


def test_counts_are_of_words_and_of_spans(model, params, batch):
    found = {
        name: rows.sum(axis=0) for name, rows in TASK.evaluator(model, CODER)(params, batch).items()
    }
    guesses = [best_tags(params, words.split()) for words, _ in SENTENCES]
    pairs = [
        (guess, gold)
        for row, (_, tags) in zip(guesses, SENTENCES, strict=True)
        for guess, gold in zip(row, tags.split(), strict=True)
    ]
    assert found["words"] == 6
    assert found["right"] == sum(guess == gold for guess, gold in pairs)
    assert found["span[P]"][1] == 2
    assert set(found) == {"loss", "words", "right", "span[P]"}


def test_tags_that_mark_no_spans_are_counted_by_tag(model, params, batch):
    coder = SubwordTagCoder(ByteTokenizer(), ("DET", "NOUN", "VERB"))
    found = {
        name: rows.sum(axis=0) for name, rows in TASK.evaluator(model, coder)(params, batch).items()
    }
    assert [int(found[f"tag[{tag}]"][1]) for tag in coder.tags] == [2, 1, 3]
    metrics = TASK.metrics({name: np.asarray(x, np.float64) for name, x in found.items()})
    assert {"loss", "accuracy", "f1_macro", "f1[NOUN]", "matthews", "words"} <= set(metrics)
    assert "span_f1" not in metrics


def test_metrics_are_their_formulas():
    totals = {"loss": 8.0, "words": 4.0, "right": 3.0, "span[P]": np.array([1.0, 2.0, 2.0])}
    found = TASK.metrics(totals)
    assert (found["loss"], found["accuracy"], found["span_f1"], found["words"]) == (
        2.0,
        0.75,
        0.5,
        4,
    )
    assert "f1_macro" not in found
    assert isinstance(found["words"], int)  # a count, which gets no interval


def test_lines_are_answered_in_order_whole_or_in_pieces(model, params):
    lines = [["Al Bo is in", "", "so", "Ed  Al \t is"][i % 4] for i in range(37)]
    cut = SubwordTagCoder(ByteTokenizer(), CODER.tags, max_length=4)
    for coder in (CODER, cut):
        answers = list(TASK.predict(model, params, coder, lines))
        assert [answer["words"] for answer in answers] == [line.split() for line in lines]
        assert [answer["tags"] for answer in answers] == [
            best_tags(params, line.split()) for line in lines
        ]


def test_a_sentence_longer_than_the_positions_is_named_with_its_line():
    short = BertConfig(num_layers=1, width=8, num_heads=1, context=4)
    with pytest.raises(UserError, match=r"a, line 4: 9 tokens, but the model has 4 positions"):
        TASK.resolve(short, UNUSED, CODER)
    with pytest.raises(UserError, match=r"line 2 of the input: 5 tokens"):
        list(TASK.predict(short, {}, CODER, ["is", "Al Bob"]))


# ---- from files to predictions --------------------------------------------------------------


def test_a_separable_set_is_learned_from_files(tmp_path, capsys):
    """Who begins with a capital is a person, which one token tells."""
    rng = np.random.default_rng(0)
    for name, count in (("train", 40), ("dev", 10)):
        sentences = []
        for _ in range(count):
            words = rng.choice(["Al", "Bo", "Ed", "is", "in", "so"], size=rng.integers(1, 5))
            tags = ["B-P" if word[0].isupper() else "O" for word in words]
            sentences.append("".join(f"{w}\t{t}\n" for w, t in zip(words, tags, strict=True)))
        (tmp_path / f"{name}.tsv").write_text("\n".join(sentences))
    data = TaggedSubwords(
        train=tmp_path / "train.tsv", validation=tmp_path / "dev.tsv", batch_size=40
    )
    optimizer = Optimizer(learning_rate=0.1, warmup_steps=1)
    train(Experiment(TASK, MeanPoolConfig(), data, optimizer, num_steps=30), tmp_path / "run")
    status, out, _ = call(capsys, "evaluate", tmp_path / "run", "--json")
    assert status == 0
    found = json.loads(out)
    assert found["accuracy"] == found["span_f1"] == found["span_f1[P]"] == 1.0
    assert found["intervals"]["span_f1"] == [1.0, 1.0]
    (tmp_path / "inputs.txt").write_text("Bo is in Al\n")
    status, out, _ = call(capsys, "predict", tmp_path / "run", "--input", tmp_path / "inputs.txt")
    assert json.loads(out) == {"words": ["Bo", "is", "in", "Al"], "tags": ["B-P", "O", "O", "B-P"]}
