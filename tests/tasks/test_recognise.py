"""The recognition task: its loss, its counts, what it answers and what it refuses."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.data.audio import write_wav
from jaxseq.data.ragged import collate, room
from jaxseq.data.speech import SpeechCoder, clip_to_line
from jaxseq.data.wav import encode_wav
from jaxseq.errors import UserError
from jaxseq.models.speech_recognizer import SpeechRecognizerConfig
from jaxseq.ops.ctc import ctc_loss
from jaxseq.ops.spectral import FrontEnd
from jaxseq.tasks.recognise import Recognise

CODER = SpeechCoder.of(["one two", "two two one", "one"], "word", 800, ("ann", "bob"))
MODEL = SpeechRecognizerConfig(
    front_end=FrontEnd(rate=800, window=20, hop=8, fft_size=32, num_mels=5),
    width=8,
    num_layers=1,
    num_heads=2,
    subsampling=2,
    decoder="attention",
    dropout=0.0,
)
TEXTS = ("one two", "two two one", "", "two")
SIZES = (160, 200, 90, 16)


def utterances() -> list:
    rng = np.random.default_rng(0)
    return [
        CODER.example(rng.normal(size=size).astype(np.float32), text, number % 2)
        for number, (size, text) in enumerate(zip(SIZES, TEXTS, strict=True))
    ]


def batch_of(examples, size=5):
    return {name: jnp.asarray(x) for name, x in collate(examples, size, room(examples)).items()}


@pytest.fixture(scope="module")
def trained():
    """A model with weights that matter, with an attention decoder."""
    task = Recognise(decoding="attention", ctc_weight=0.25, beam_size=3)
    model = task.resolve(MODEL, None, CODER)
    shapes = nn.unbox(jax.eval_shape(partial(task.init, model), jax.random.key(0)))
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.7, jnp.float32), shapes
    )
    return task, model, params


@pytest.fixture(scope="module")
def outputs(trained):
    """What the model says of each utterance alone, with the right labels before each label."""
    _, model, params = trained
    apply = jax.jit(model.build().apply)
    found = []
    for example in utterances():
        batch = batch_of([example], 1)
        inputs = jnp.pad(batch["labels"], ((0, 0), (1, 0)))
        sizes = batch["label_lengths"] + 1
        found.append(apply({"params": params}, batch["samples"], batch["lengths"], inputs, sizes))
    return found


def expected_losses(outputs, weight):
    losses = []
    for example, output in zip(utterances(), outputs, strict=True):
        labels = jnp.asarray(example["labels"])[None]
        nats, feasible = ctc_loss(
            output.logits, output.lengths, labels, jnp.asarray(example["label_lengths"])[None]
        )
        scores = jax.nn.log_softmax(output.target_logits[0])
        targets = [*example["labels"].tolist(), 0]
        written = -sum(scores[place, label] for place, label in enumerate(targets))
        losses.append(float(weight * nats[0] + (1 - weight) * written) if feasible[0] else None)
    return losses


def test_the_loss_is_of_both_heads_and_of_utterances_alone(trained, outputs):
    task, model, params = trained
    expected = expected_losses(outputs, 0.25)
    assert expected[3] is not None
    total, weight = jax.jit(partial(task.loss, model))(params, batch_of(utterances()))
    assert weight == 4  # the fifth row is none
    assert float(total) == pytest.approx(sum(expected), rel=1e-4)
    by_ctc = dataclasses.replace(task, ctc_weight=1.0)
    total, _ = jax.jit(partial(by_ctc.loss, model))(params, batch_of(utterances()))
    assert float(total) == pytest.approx(sum(expected_losses(outputs, 1.0)), rel=1e-4)


def test_a_fresh_model_mostly_says_nothing():
    model = Recognise().resolve(dataclasses.replace(MODEL, decoder="none"), None, CODER)
    params = nn.unbox(jax.jit(partial(Recognise().init, model))(jax.random.key(0)))
    assert params["output"]["bias"].tolist() == [4, 0, 0]


def test_utterances_too_short_for_their_labels_are_left_out_and_counted(trained, outputs):
    task, model, params = trained
    short = CODER.example(np.ones(16, np.float32), "two two two")  # 2 frames, 5 are needed
    batch = batch_of([*utterances(), short], 6)
    (total, weight), gradient = jax.jit(
        jax.value_and_grad(partial(task.loss, model), has_aux=True)
    )(params, batch)
    assert weight == 4
    assert float(total) == pytest.approx(sum(expected_losses(outputs, 0.25)), rel=1e-4)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    greedy = dataclasses.replace(task, decoding="greedy")
    found = greedy.evaluator(model, CODER)(params, batch)
    assert found["infeasible"].tolist() == [0, 0, 0, 0, 1, 0]
    assert found["utterances"].tolist() == [1, 1, 1, 1, 1, 0]
    assert found["words"].tolist() == [2, 3, 0, 1, 3, 0]
    totals = {name: np.asarray(rows).sum(axis=0) for name, rows in found.items()}
    metrics = greedy.metrics(totals)
    assert metrics["loss"] == pytest.approx(float(total) / 4, rel=1e-4)
    assert metrics["word_error_rate"] == totals["word_edits"] / 9
    assert (metrics["infeasible"], metrics["utterances"], metrics["words"]) == (1, 5, 9)
    confusion = greedy.details(totals, CODER)["confusion"]
    assert confusion["labels"] == ["nothing", "one", "two"]
    counts = np.array(confusion["counts"])
    assert counts[1:].sum(axis=1).tolist() == [2, 7]  # every word that was said, once
    assert counts.sum() - np.trace(counts) == totals["word_edits"]


@pytest.mark.parametrize(
    "options",
    [
        {"decoding": "greedy"},
        {"decoding": "beam", "beam_size": 4, "language_model_order": 2},
        {"decoding": "attention"},
    ],
    ids=lambda options: options["decoding"],
)
def test_answers_are_those_of_the_evaluation(trained, options, tmp_path):
    task, model, params = trained
    task = dataclasses.replace(task, **options)
    examples = utterances()
    lines = [
        clip_to_line(example["samples"] * 0.5, 800, text, "ann")
        for example, text in zip(examples, TEXTS, strict=True)
    ]
    path = tmp_path / "a.wav"
    write_wav(path, examples[1]["samples"] * 0.5, 800)
    answers = list(task.predict(model, params, CODER, [*lines, str(path)]))
    assert [answer["file"] for answer in answers] == [
        *(f"ann: {text}" for text in TEXTS),
        str(path),
    ]
    assert answers[1]["text"] == answers[4]["text"]
    found = task.evaluator(model, CODER)(params, batch_of(examples))
    for answer, text, edits in zip(answers, TEXTS, found["word_edits"], strict=False):
        assert set(answer["text"].split()) <= {"one", "two"}
        assert (edits == 0) == (answer["text"] == text)
        assert answer["score"] < 0
    assert {answer["text"] for answer in answers} != {""}


def test_examples_and_what_is_shown_have_sound_and_pictures(trained, tmp_path, capsys):
    task, model, params = trained
    task = dataclasses.replace(task, decoding="greedy")
    found = task.examples(model, params, CODER, batch_of(utterances()), tmp_path / "examples")
    assert [row["reference"] for row in found] == list(TEXTS)
    assert found[1]["input"] == "bob, 0.2 s"
    for row in found:
        assert isinstance(row["output"], str)
        for name in row["files"].values():
            assert (tmp_path / "examples" / name).stat().st_size > 50
    line = clip_to_line(utterances()[0]["samples"], 800, "one two", "ann")
    task.show(model, params, CODER, (line,), tmp_path)
    assert "ann: one two  ->  " in capsys.readouterr().out
    assert (tmp_path / "spectrograms.png").stat().st_size > 1000


def test_a_bad_file_is_named(trained, tmp_path):
    task, model, params = trained
    path = tmp_path / "bad.wav"
    path.write_bytes(encode_wav(np.zeros(100, np.float32), 800)[:60])
    with pytest.raises(UserError, match=r"bad.wav: it is cut off"):
        list(task.predict(model, params, CODER, [str(path)]))


@pytest.mark.parametrize(
    ("task", "model", "message"),
    [
        ({"beam_size": 0}, {}, "--task.beam-size is 0"),
        ({"language_model_order": -1}, {}, "--task.language-model-order is -1"),
        ({"language_model_order": 20}, {}, "--task.language-model-order 20 of 3 labels takes too"),
        ({"language_model_weight": -1.0}, {}, "--task.language-model-weight is -1.0"),
        ({"ctc_weight": 1.5}, {}, "--task.ctc-weight is 1.5"),
        ({"decoding": "attention"}, {"decoder": "none"}, "give --model.decoder attention"),
        ({}, {"front_end": FrontEnd()}, "--model.front-end.rate is 8000 and the data is at 800 Hz"),
    ],
)
def test_options_that_do_not_fit_are_named(task, model, message):
    with pytest.raises(UserError, match=message):
        Recognise(**task).resolve(dataclasses.replace(MODEL, **model), None, CODER)
