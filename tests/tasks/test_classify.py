"""The classification task: loss, counts, answers; and from files to predictions with a model that
the library does not know."""

import dataclasses
import json
import math
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mean_pool import MeanPoolConfig
from tiny import call

from jaxseq.data.labelled import ClassCoder, LabelledText
from jaxseq.data.ragged import Ragged, ragged_evaluation_batches
from jaxseq.data.subwords import load_subwords
from jaxseq.data.tokenizers import ByteTokenizer
from jaxseq.errors import UserError
from jaxseq.models.bert import BertConfig
from jaxseq.parallel.mesh import MeshConfig, one_device
from jaxseq.tasks.classify import Classify, encoder_inputs
from jaxseq.training.evaluation import evaluate
from jaxseq.training.experiment import Experiment
from jaxseq.training.loop import train
from jaxseq.training.optimizers import Optimizer

TASK = Classify()
UNUSED = LabelledText(train=Path("a"), validation=Path("b"))
CODER = ClassCoder(ByteTokenizer(), ("neg", "pos", "so-so"), longest=5, longest_at="a, line 2")
TEXTS = [("good", "pos"), ("bad", "neg"), ("meh", "so-so"), ("fine", "pos"), ("awful", "neg")]


def batch_of(coder, texts, size):
    examples = [coder.example([text], label) for text, label in texts]
    (found,) = ragged_evaluation_batches(Ragged(examples, "tokens", size))
    return {name: jnp.asarray(array) for name, array in found.items()}


@pytest.fixture(scope="module")
def model():
    return TASK.resolve(MeanPoolConfig(), UNUSED, CODER)


def drawn(model):
    """Parameters of order 1, so that answers differ."""
    shapes = nn.unbox(jax.eval_shape(partial(TASK.init, model), jax.random.key(0)))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), shapes)


@pytest.fixture(scope="module")
def params(model):
    return drawn(model)


def probabilities(params, text):
    """Of a text, in float64 NumPy."""
    table, head = params["Embed_0"]["embedding"], params["Dense_0"]
    mean = np.asarray(table, np.float64)[list(text.encode())].mean(axis=0)
    logits = mean @ np.asarray(head["kernel"], np.float64) + np.asarray(head["bias"])
    return np.exp(logits) / np.exp(logits).sum()


def test_the_loss_is_minus_the_log_probability_of_the_labels(model, params):
    expected = -sum(
        math.log(probabilities(params, text)[CODER.labels.index(label)]) for text, label in TEXTS
    )
    loss, weight = jax.jit(partial(TASK.loss, model))(params, batch_of(CODER, TEXTS, 7))
    assert weight == 5  # two rows are filler
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_counts_are_those_of_the_likeliest_labels(model, params):
    each = TASK.evaluator(model, CODER)(params, batch_of(CODER, TEXTS, 7))
    assert {rows.shape for rows in each.values()} == {(7,), (7, 3), (7, 3, 3)}
    assert not any(rows[5:].any() for rows in each.values())  # filler rows
    guesses = [CODER.labels[probabilities(params, text).argmax()] for text, _ in TEXTS]
    assert len(set(guesses)) > 1
    for label in CODER.labels:
        pairs = [
            (guess == label, gold == label) for guess, (_, gold) in zip(guesses, TEXTS, strict=True)
        ]
        right, labelled, predicted = each[f"label[{label}]"].sum(axis=0).tolist()
        assert right == sum(a and b for a, b in pairs)
        assert (predicted, labelled) == tuple(map(sum, zip(*pairs, strict=True)))
    details = TASK.details({name: rows.sum(axis=0) for name, rows in each.items()}, CODER)
    assert details["confusion"]["labels"] == list(CODER.labels)
    pairs = [(label, guess) for guess, (_, label) in zip(guesses, TEXTS, strict=True)]
    for row, label in enumerate(CODER.labels):
        expected = [pairs.count((label, guess)) for guess in CODER.labels]
        assert details["confusion"]["counts"][row] == expected


def test_labels_too_many_to_be_looked_at_have_no_table(params):
    coder = dataclasses.replace(CODER, labels=tuple(map(str, range(65))))
    model = MeanPoolConfig(vocab_size=256, num_labels=65)
    each = TASK.evaluator(model, coder)(drawn(model), batch_of(coder, [("a", "7")], 1))
    assert "confusion" not in each
    assert TASK.details(each, coder) == {}


def test_training_alone_smooths_labels_and_hides_words(model, params):
    batch = batch_of(CODER, TEXTS, 5)
    share = 0.3
    task = Classify(label_smoothing=share)
    probability = np.stack([probabilities(params, text) for text, _ in TEXTS])
    right = probability[range(5), [CODER.labels.index(label) for _, label in TEXTS]]
    expected = -np.sum((1 - share) * np.log(right) + share * np.log(probability).mean(axis=1))
    assert float(task.loss(model, params, batch)[0]) == pytest.approx(expected, rel=1e-5)
    plain = TASK.evaluator(model, CODER)(params, batch)["loss"]
    np.testing.assert_array_equal(task.evaluator(model, CODER)(params, batch)["loss"], plain)
    hides = Classify(hidden_words=0.999)
    loss, _ = hides.loss(model, params, batch, jax.random.key(0))
    zero = probabilities(params, "\0")  # a text of token 0 alone
    expected = -sum(math.log(zero[CODER.labels.index(label)]) for _, label in TEXTS)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert float(hides.loss(model, params, batch)[0]) == pytest.approx(float(plain.sum()), rel=1e-5)
    for option in ("label_smoothing", "hidden_words"):
        with pytest.raises(UserError, match=f"--task.{option.replace('_', '-')} is 1.0"):
            Classify(**{option: 1.0}).resolve(MeanPoolConfig(), UNUSED, CODER)


def test_metrics_are_their_formulas():
    """neg: one of two found, and one more predicted; pos: one of two found."""
    totals = {"loss": 8.0, "examples": 4.0}
    totals |= {"label[neg]": np.array([1.0, 2.0, 2.0]), "label[pos]": np.array([1.0, 2.0, 2.0])}
    found = TASK.metrics(totals)
    assert (found["loss"], found["accuracy"], found["examples"]) == (2.0, 0.5, 4)
    assert found["f1_macro"] == found["f1[neg]"] == 0.5
    assert isinstance(found["examples"], int)  # a count, which gets no interval


def test_answers_come_in_order_with_their_probabilities(model, params):
    lines = [TEXTS[i % 5][0] for i in range(40)] + [""]
    answers = list(TASK.predict(model, params, CODER, lines))
    assert [answer["text"] for answer in answers] == lines
    for (text, _), answer in zip(TEXTS, answers[:5], strict=True):
        expected = probabilities(params, text)
        assert list(answer["probabilities"].values()) == pytest.approx(expected, abs=1e-5)
        assert answer["label"] == CODER.labels[expected.argmax()]
    assert answers[:5] == answers[35:40]


def test_a_pair_is_two_texts_with_a_tab_between(model, params):
    coder = dataclasses.replace(CODER, pairs=True)
    (answer,) = TASK.predict(model, params, coder, ["go\tod"])
    assert answer["text"] == "go\tod"
    assert list(answer["probabilities"].values()) == pytest.approx(
        probabilities(params, "good"), abs=1e-5
    )
    with pytest.raises(UserError, match=r"line 2 of the input: 'one text' is not TEXT TAB TEXT"):
        list(TASK.predict(model, params, coder, ["a\tb", "one text"]))


def test_the_model_is_completed_by_the_data(model):
    assert (model.vocab_size, model.num_labels) == (256, 3)
    with pytest.raises(UserError, match=r"--model.num-labels is 2, but the data has 3"):
        TASK.resolve(MeanPoolConfig(num_labels=2), UNUSED, CODER)
    small = BertConfig(num_layers=1, width=8, num_heads=1)
    # Room for the longest input, or for what inputs are cut to.
    assert TASK.resolve(small, UNUSED, CODER).context == 8
    cut = dataclasses.replace(CODER, max_length=5)
    assert TASK.resolve(small, UNUSED, cut).context == 5
    fixed = dataclasses.replace(small, context=5)
    assert TASK.resolve(fixed, UNUSED, CODER).context == 5


def test_an_input_longer_than_the_positions_is_named_with_its_line(params):
    short = BertConfig(num_layers=1, width=8, num_heads=1, context=4)
    with pytest.raises(UserError, match=r"a, line 2: 5 tokens, but the model has 4 positions.* 4"):
        TASK.resolve(short, UNUSED, CODER)
    short = dataclasses.replace(short, vocab_size=256, num_labels=3)
    with pytest.raises(UserError, match=r"line 2 of the input: 5 tokens"):
        list(TASK.predict(short, {}, CODER, ["fine", "awful"]))


# ---- BERT -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """(model with as many positions as the longest input has, coder, its parameters)."""
    pytest.importorskip("tokenizers")
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\ngood\nbad\nmeh\n")
    coder = ClassCoder(load_subwords(path), ("neg", "pos"), longest=5, longest_at="a, line 1")
    tiny = BertConfig(num_layers=1, width=8, num_heads=2, context=5)
    model = TASK.resolve(tiny, UNUSED, coder)
    return model, coder, drawn(model)


def test_padding_and_filler_rows_count_nothing(bert):
    """A row in company, padded beyond the model's positions, contributes what it does alone."""
    model, coder, params = bert
    texts = [("good bad meh", "pos"), ("bad", "neg"), ("good", "pos")]
    evaluator = TASK.evaluator(model, coder)
    together = batch_of(coder, texts, 4)
    assert together["tokens"].shape == (4, 8)
    assert {x.shape for x in encoder_inputs(5, together).values()} == {(4, 5)}
    junk = jnp.arange(8)[None] >= together["lengths"][:, None]
    for name in ("tokens", "types"):
        together[name] = jnp.where(junk, 5 if name == "tokens" else 1, together[name])
    together["labels"] = together["labels"].at[3].set(-1)
    found = evaluator(params, together)
    for row, text in enumerate(texts):
        alone = evaluator(params, batch_of(coder, [text], 4))
        for name, value in alone.items():
            np.testing.assert_allclose(found[name][row], value[0], rtol=1e-5, atol=1e-6)
    assert not any(rows[3].any() for rows in found.values())


def test_eight_devices_find_what_one_does(model, params):
    batches = [{name: np.asarray(x) for name, x in batch_of(CODER, TEXTS, 8).items()}] * 2
    evaluator = TASK.evaluator(model, CODER)
    one, eight = (
        evaluate(evaluator, params, batches, mesh) for mesh in (one_device(), MeshConfig().build(8))
    )
    assert one["examples"] == 10
    for name, value in one.items():
        np.testing.assert_allclose(eight[name], value, rtol=1e-6)


# ---- from files to predictions --------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run in `run`, which learned that good and fine films are "pos"."""
    folder = tmp_path_factory.mktemp("classify")
    rng = np.random.default_rng(0)
    for name, count in (("train", 64), ("dev", 24), ("test", 16)):
        rows = []
        for _ in range(count):
            label = str(rng.choice(["neg", "pos"]))
            words = list(rng.choice(["a", "film", "it", "is"], size=rng.integers(1, 5)))
            words.insert(
                0, str(rng.choice(["bad", "dull"] if label == "neg" else ["good", "fine"]))
            )
            rows.append(f"{label}\t{' '.join(words)}\n")
        (folder / f"{name}.tsv").write_text("".join(rows))
    (folder / "dev.tsv").write_text((folder / "dev.tsv").read_text() + "pos\tbad\n")
    data = LabelledText(
        train=folder / "train.tsv",
        validation=folder / "dev.tsv",
        test=folder / "test.tsv",
        batch_size=16,
    )
    optimizer = Optimizer(learning_rate=0.1, warmup_steps=1)
    experiment = Experiment(TASK, MeanPoolConfig(), data, optimizer, num_steps=40)
    train(experiment, folder / "run")
    return folder


def test_a_separable_set_is_learned(folder, capsys):
    status, out, _ = call(capsys, "evaluate", folder / "run", "--split", "test", "--json")
    assert status == 0
    found = json.loads(out)
    assert found["accuracy"] == found["f1_macro"] == found["f1[neg]"] == found["matthews"] == 1.0
    assert found["examples"] == 16
    assert found["intervals"]["accuracy"] == [1.0, 1.0]
    low, high = found["intervals"]["loss"]
    assert 0 < low < found["loss"] < high < 0.3
    assert not {"examples", "step"} & set(found["intervals"])
    details = json.loads((folder / "run" / "evaluation-test.json").read_text())["details"]
    (right, wrong), (other, also_right) = details["confusion"]["counts"]
    assert (right + also_right, wrong, other) == (16, 0, 0)
    lines = (folder / "run" / "examples-test.jsonl").read_text().splitlines()
    texts = [line.split("\t")[::-1] for line in (folder / "test.tsv").read_text().splitlines()]
    shown = list(map(json.loads, lines))
    assert shown
    for row in shown:
        assert [row["input"], row["reference"]] in texts
        assert row["output"] == row["reference"]
        assert 0.5 < row["probability"] <= 1
        assert row["unit"] == "word"


def test_intervals_say_what_one_wrong_label_in_25_may_mean(folder, capsys):
    status, out, _ = call(capsys, "evaluate", folder / "run")
    assert status == 0
    (line,) = [line for line in out.splitlines() if line.startswith("accuracy ")]
    assert line.split() == ["accuracy", "0.9600", "(95", "%:", "0.8800", "to", "1)"]


def test_lines_are_answered_with_labels(folder, capsys):
    (folder / "inputs.txt").write_text("a good film\nit is dull\n")
    status, out, _ = call(capsys, "predict", folder / "run", "--input", folder / "inputs.txt")
    assert status == 0
    first, second = (json.loads(line) for line in out.splitlines())
    assert (first["text"], first["label"], second["label"]) == ("a good film", "pos", "neg")
    assert sum(first["probabilities"].values()) == pytest.approx(1.0, abs=1e-5)


def test_show_prints_texts_with_labels(folder, capsys, tmp_path):
    from jaxseq.training.run_directory import read_run

    run = read_run(folder / "run")
    TASK.show(run.experiment.model, run.params, run.tokenizer, ("fine film",), tmp_path)
    assert capsys.readouterr().out.startswith("pos (")
