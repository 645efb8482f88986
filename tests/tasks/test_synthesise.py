"""The synthesis task: its loss and counts, what it speaks and what it refuses."""

import dataclasses
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.data.audio import read_audio
from jaxseq.data.ragged import collate, room
from jaxseq.data.speech import SpeechCoder, clip_to_line
from jaxseq.errors import UserError
from jaxseq.models.attention_tts import AttentionTTSConfig
from jaxseq.models.duration_tts import DurationTTSConfig
from jaxseq.ops.spectral import FrontEnd, log_mel, mel_cepstra
from jaxseq.tasks.speech_metrics import mel_cepstral_distortion
from jaxseq.tasks.synthesise import Synthesise
from jaxseq.tasks.utterances import between_silences, read_request

TEXTS = ("one two", "two two one", "one")
SPEAKERS = (0, 1, 1)
CODER = SpeechCoder.of(TEXTS, "word", 800, ("ann", "bob"))
FRONT_END = FrontEnd(rate=800, window=20, hop=8, fft_size=32, num_mels=5, floor=1e-3)
MODELS = {
    "recurrent": AttentionTTSConfig(
        front_end=FRONT_END, width=8, encoder_convolutions=1, prenet_width=4, attention_width=4,
        location_width=3, location_channels=2, postnet_layers=1, kernel=3, dropout=0.0,
    ),
    "transformer": DurationTTSConfig(
        front_end=FRONT_END, width=8, encoder_layers=1, decoder_layers=1, num_heads=2,
        mlp_hidden=8, aligner_width=4, dropout=0.0,
    ),
}  # fmt: skip
TASK = Synthesise(max_frames_per_token=6, griffin_lim_steps=2)


def batch_of(rows: int = 5) -> dict[str, jax.Array]:
    """The three utterances, and filler rows."""
    rng = np.random.default_rng(0)
    examples = [
        CODER.example(rng.normal(size=size).astype(np.float32), text, speaker)
        for size, text, speaker in zip((160, 200, 90), TEXTS, SPEAKERS, strict=True)
    ]
    return jax.tree.map(jnp.asarray, collate(examples, rows, room(examples)))


@pytest.fixture(scope="module", params=MODELS)
def trained(request):
    """A model with weights that matter, and a recurrent one that does not end at once."""
    model = TASK.resolve(MODELS[request.param], None, CODER)
    shapes = nn.unbox(jax.eval_shape(partial(TASK.init, model), jax.random.key(0)))
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.4, jnp.float32), shapes
    )
    if "frames" in params:  # of the recurrent one: mels and the logit of the end, twice
        params["frames"]["bias"] = params["frames"]["bias"].at[jnp.array([5, 11])].set(-4.0)
    return model, params


@pytest.fixture(scope="module")
def found(trained):
    model, params = trained
    return TASK.evaluator(model, CODER)(params, batch_of())


@pytest.fixture(scope="module")
def answers(trained, tmp_path_factory):
    model, params = trained
    folder = tmp_path_factory.mktemp("spoken") / "deeper"
    lines = ["one 2", "bob: 221", "bob:one", clip_to_line(np.ones(9), 800, "one two", "ann")]
    return list(TASK.predict(model, params, CODER, lines, folder))


def test_the_loss_is_that_of_every_utterance_over_its_frames(trained, found):
    model, params = trained
    loss = jax.jit(partial(TASK.loss, model))
    batch = batch_of()
    total, weight = loss(params, batch)
    frames = [1 + size // FRONT_END.hop for size in (160, 200, 90)]
    assert weight == sum(frames)
    assert found["frames"].tolist() == [*frames, 0, 0]
    assert float(total) == pytest.approx(float(found["loss"].sum()), rel=1e-5)
    assert found["loss"][3:].tolist() == [0, 0]
    # A row's loss is its own, whatever stands beside it.
    shuffled = jax.tree.map(lambda rows: rows[jnp.array([4, 2, 2, 2, 0])], batch)
    total, _ = loss(params, shuffled)
    assert float(total) == pytest.approx(float(3 * found["loss"][2] + found["loss"][0]), rel=1e-5)


def test_what_is_spoken_is_compared_with_the_recording(trained, found):
    model, params = trained
    batch = batch_of()
    spoken = jax.jit(partial(TASK._speak, model))(params, batch)
    mels, frames = log_mel(batch["samples"], batch["lengths"], FRONT_END)
    for row in range(3):
        total, path = mel_cepstral_distortion(
            np.asarray(mel_cepstra(spoken.log_mels)[row, : spoken.lengths[row]]),
            np.asarray(mel_cepstra(mels)[row, : frames[row]]),
        )
        assert found["path"][row] == path
        assert found["distortion"][row] == pytest.approx(total, rel=1e-4)
    assert found["spoken_frames"].tolist() == spoken.lengths.tolist()
    assert found["spoken_frames"][3:].tolist() == [0, 0]
    totals = {name: float(np.asarray(rows).sum()) for name, rows in found.items()}
    metrics = TASK.metrics(totals)
    assert metrics["utterances"] == 3
    assert metrics["mel_cepstral_distortion"] == totals["distortion"] / totals["path"]
    assert metrics["length_ratio"] == int(spoken.lengths.sum()) / int(frames.sum())
    assert 0 <= metrics["diagonality"] <= 1


def test_lines_are_spoken_into_files(trained, answers):
    model, params = trained
    assert [(answer["speaker"], answer["text"]) for answer in answers] == [
        ("ann", "one two"), ("bob", "two two one"), ("bob", "one"), ("ann", "one two"),
    ]  # fmt: skip
    sounds = []
    spoken = jax.jit(partial(TASK._speak, model))(params, batch_of())
    for answer, frames in zip(answers[:3], spoken.lengths[:3].tolist(), strict=True):
        samples, rate = read_audio(Path(answer["file"]))
        assert rate == 800
        assert len(samples) == round(answer["seconds"] * rate) == (frames - 1) * FRONT_END.hop
        assert np.abs(samples).max() > 1e-3
        sounds.append(samples)
    assert answers[1]["file"].endswith("deeper/0002-two-two-one.wav")
    np.testing.assert_array_equal(sounds[0], read_audio(Path(answers[3]["file"]))[0])


def test_examples_and_what_is_shown_have_sound_and_pictures(trained, tmp_path, capsys):
    model, params = trained
    batch = jax.device_get(batch_of())
    rows = TASK.examples(model, params, CODER, batch, tmp_path / "examples")
    assert [row["input"] for row in rows] == ["ann: one two", "bob: two two one", "bob: one"]
    for row in rows:
        assert set(row["files"]) == {
            "audio", "spectrogram", "alignment", "reference_audio", "reference_spectrogram",
        }  # fmt: skip
        assert row["mel_cepstral_distortion"] > 0
        for name in row["files"].values():
            assert (tmp_path / "examples" / name).stat().st_size > 60
    samples, _ = read_audio(tmp_path / "examples" / rows[2]["files"]["reference_audio"])
    np.testing.assert_allclose(samples, batch["samples"][2, :90], atol=1e-4)
    TASK.show(model, params, CODER, (clip_to_line(samples, 800, "one", "bob"),), tmp_path)
    assert "one  ->  " in capsys.readouterr().out
    assert (tmp_path / "speech" / "0001.wav").stat().st_size > 60


def test_silences_stand_at_both_ends():
    labels = jnp.array([[3, 4, 9], [5, 9, 9], [9, 9, 9]])
    tokens, lengths = between_silences(labels, jnp.array([2, 1, 0]))
    assert tokens.tolist() == [[0, 3, 4, 0, 0], [0, 5, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert lengths.tolist() == [4, 3, 0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("eve: one", "line 7: there is no speaker 'eve'; the run knows ann, bob"),
        ("ann: one three", "line 7: the word 'three' is not in the alphabet"),
        ("3", "line 7: the word 'three' is not in the alphabet"),
        ("  ", "line 7 has no text to speak"),
        ("bob: ", "line 7 has no text to speak"),
    ],
)
def test_a_line_that_cannot_be_spoken_is_named(line, message):
    with pytest.raises(UserError, match=message):
        read_request(line, CODER, "line 7")


def test_colons_of_a_text_may_be_spoken():
    coder = SpeechCoder.of(["a: b"], "character", 800)
    assert read_request("b: a", coder, "").text == "b: a"


@pytest.mark.parametrize(
    ("task", "model", "message"),
    [
        ({"guide": -1.0}, {}, "--task.guide is -1.0; it must be at least 0"),
        ({"stop_weight": float("nan")}, {}, "--task.stop-weight is nan"),
        ({"mel_scale": 0.0}, {}, "--task.mel-scale is 0.0; it must be above 0"),
        ({"max_frames_per_token": 0}, {}, "--task.max-frames-per-token is 0; it must be at least"),
        ({"griffin_lim_steps": 0}, {}, "--task.griffin-lim-steps is 0"),
        ({}, {"front_end": FrontEnd()}, "--model.front-end.rate is 8000 and the data has 800"),
    ],
)
def test_options_that_do_not_fit_are_named(task, model, message):
    chosen = dataclasses.replace(MODELS["recurrent"], **model)
    with pytest.raises(UserError, match=message):
        Synthesise(**task).resolve(chosen, None, CODER)
