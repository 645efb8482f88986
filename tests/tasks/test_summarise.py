"""The summarising task: its loss, its counts, its answers and its pictures."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.data.code_points import text_of
from jaxseq.data.made_up_summaries import MadeUpSummaries
from jaxseq.data.ragged import ragged_evaluation_batches
from jaxseq.errors import UserError
from jaxseq.models.encoder_decoder import EncoderDecoderConfig
from jaxseq.models.rnn_seq2seq import RNNSeq2SeqConfig
from jaxseq.ops.copying import mixture_log_probs
from jaxseq.ops.losses import softmax_cross_entropy
from jaxseq.tasks.rouge import METRICS, rouge
from jaxseq.tasks.summarise import Summarise, looked_at

DATA = MadeUpSummaries(num_train=30, num_held_out=3, batch_size=5)
CORPUS = DATA.load()
CODER = CORPUS.tokenizer
TASK = Summarise(beam_size=2, max_length=8)
MODEL = TASK.resolve(RNNSeq2SeqConfig(cell="gru", width=8, copy=True), DATA, CODER)
NAMES = ("source", "source_lengths", "inputs", "target_lengths")


@pytest.fixture(scope="module")
def params():
    found = nn.unbox(jax.jit(partial(TASK.init, MODEL))(jax.random.key(0)))
    # Fresh parameters would write one word alike everywhere.
    return jax.tree.map(lambda x: 8 * x, found)


@pytest.fixture(scope="module")
def batch():
    """Three reports, and two empty rows behind them."""
    (found,) = ragged_evaluation_batches(CORPUS.validation)
    return found


def test_the_loss_is_minus_the_log_probability_of_the_targets(params, batch):
    arrays = jax.tree.map(jnp.asarray, batch)
    found = jax.jit(MODEL.build().apply)({"params": params}, *(arrays[name] for name in NAMES))
    size = CODER.size + batch["source"].shape[1]
    log_probs = jax.jit(mixture_log_probs, static_argnums=3)(*found, arrays["copies"], size)
    log_probs = np.asarray(log_probs)
    expected, count = 0.0, 0
    for row, length in enumerate(batch["target_lengths"]):
        targets = batch["targets"][row, :length]
        expected -= log_probs[row, np.arange(length), targets].sum()
        count += int(length)
    loss, weight = jax.jit(partial(TASK.loss, MODEL))(params, arrays)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert weight == count
    covering = dataclasses.replace(TASK, coverage=0.5)
    more, _ = jax.jit(partial(covering.loss, MODEL))(params, arrays)
    assert float(more) > float(loss) + 1e-3


def test_without_copying_what_no_vocabulary_has_is_the_unknown_word(batch):
    model = dataclasses.replace(MODEL, copy=False)
    params = nn.unbox(jax.jit(partial(TASK.init, model))(jax.random.key(0)))
    arrays = jax.tree.map(jnp.asarray, batch)
    logits, _ = jax.jit(model.build().apply)({"params": params}, *(arrays[name] for name in NAMES))
    targets = np.where(batch["targets"] < CODER.size, batch["targets"], CODER.unknown)
    assert (targets != batch["targets"]).sum() == 3  # the name of each report
    mask = np.arange(targets.shape[1])[None] < batch["target_lengths"][:, None]
    expected, _ = jax.jit(softmax_cross_entropy)(logits, jnp.asarray(targets), jnp.asarray(mask))
    loss, _ = jax.jit(partial(TASK.loss, model))(params, arrays)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_contributions_are_those_of_the_written_summaries(params, batch, tmp_path):
    each = TASK.evaluator(MODEL, CODER)(params, jax.tree.map(jnp.asarray, batch))
    assert {rows.shape for rows in each.values()} == {(5,)}
    assert not any(rows[3:].any() for rows in each.values())  # filler rows
    texts = [text_of(each) for each in batch["text"][:3]]
    answers = list(TASK.predict(MODEL, params, CODER, [text.replace("\n", " ") for text in texts]))
    assert [answer["text"] for answer in answers] == [text.replace("\n", " ") for text in texts]
    assert len({answer["summary"] for answer in answers}) > 1
    scores = [
        rouge(answer["summary"], [text_of(reference[0])])
        for answer, reference in zip(answers, batch["references"], strict=False)
    ]
    metrics = TASK.metrics({name: float(rows.sum()) for name, rows in each.items()})
    for name in METRICS:
        assert metrics[name] == pytest.approx(np.mean([score[name] for score in scores]), abs=1e-6)
    assert metrics["summaries"] == 3
    assert isinstance(metrics["summaries"], int)

    rows = TASK.examples(MODEL, params, CODER, batch, tmp_path / "examples")
    assert [row["output"] for row in rows] == [answer["summary"] for answer in answers]
    assert [row["input"] for row in rows] == texts
    assert rows[1]["reference"] == [text_of(batch["references"][1, 0])]
    assert rows[1]["rouge_1"] == pytest.approx(scores[1]["rouge_1"], abs=1e-4)
    picture = tmp_path / "examples" / rows[2]["files"]["attention"]
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_show_prints_each_summary_and_draws_where_the_model_looked(params, capsys, tmp_path):
    TASK.show(MODEL, params, CODER, CORPUS.inputs[:2], tmp_path)
    assert capsys.readouterr().out.count("->") == 2
    assert (tmp_path / "attention.png").read_bytes()[:4] == b"\x89PNG"


def test_words_that_nothing_looked_at_are_left_out_of_pictures():
    weights = np.array([[0.95, 0.05, 0.0], [0.0, 0.09, 0.91]])
    sources, units, kept = looked_at(["a", "b", "c"], ["x"], weights)
    assert (sources, units) == (["a", "c"], ["x"])
    np.testing.assert_array_equal(kept, weights[:, [0, 2]])
    assert looked_at(["a"], [], np.zeros((1, 1)))[0] == ["a"]


TRANSFORMER = EncoderDecoderConfig(width=8, num_heads=2, positions="learned", context=400)


@pytest.mark.parametrize(
    ("task", "model", "message"),
    [
        ({"beam_size": 0}, MODEL, r"--task\.beam-size is 0"),
        ({"no_repeat": -1}, MODEL, r"--task\.no-repeat is -1"),
        ({"length_penalty": -1.0}, MODEL, r"--task\.length-penalty is -1\.0"),
        ({"coverage": 1.0}, TRANSFORMER, r"--task\.coverage needs .* --model\.copy"),
        ({"max_length": 500}, TRANSFORMER, r"--model\.context is 400.* 500 tokens"),
        (
            {},
            dataclasses.replace(MODEL, target_vocab_size=CODER.size + 1),
            r"--model\.target-vocab-size are .* leave both at 0",
        ),
    ],
)
def test_what_does_not_fit_is_named(task, model, message):
    with pytest.raises(UserError, match=message):
        Summarise(**task).resolve(model, DATA, CODER)
