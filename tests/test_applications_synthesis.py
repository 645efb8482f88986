"""Speech synthesis from end to end: the experiment's offline default, small."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from applications import train_offline

from jaxseq.data.audio import read_audio
from jaxseq.data.digit_batches import WORDS
from jaxseq.data.speech import at_level
from jaxseq.ops.spectral import log_mel, mel_cepstra
from jaxseq.tasks.speech_metrics import mel_cepstral_distortion
from jaxseq.training.run_directory import read_run

SMALL = (
    *("--data.takes", 8, "--data.rounds", 1, "--data.batch-size", 40, "--data.max-digits", 1),
    *("--data.max-pause", 0.02, "--data.unit", "word", "--model.front-end.num-mels", 20),
    *("--model.width", 64, "--model.mlp-hidden", 64, "--model.dropout", 0.0),
    *("--model.encoder-layers", 1, "--model.decoder-layers", 1, "--task.griffin-lim-steps", 8),
    *("--optimizer.learning-rate", 1e-2, "--optimizer.warmup-steps", 5, "--num-steps", 120),
    *("--evaluate-every", 120, "--task.max-frames-per-token", 8),
)


def test_learns_to_say_digits(tmp_path, capsys, monkeypatch):
    _, run_dir = train_offline("synthesise_speech.py", SMALL, tmp_path, capsys, monkeypatch)
    run = read_run(run_dir)
    recordings = run.experiment.data.load(run.tokenizer).train.recordings
    known = {(sound.speaker, sound.digit): sound.samples for sound in recordings}
    asked = list(known)
    answers = run.predict([f"{name}: {WORDS[digit]}" for name, digit in asked], tmp_path / "said")
    said = [at_level(read_audio(Path(answer["file"]))[0]) for answer in answers]
    sounds = cepstra([*said, *known.values()], run.experiment.model.front_end)
    heard = dict(zip(asked, sounds[len(said) :], strict=True))
    right = 0
    for (speaker, digit), spoken in zip(asked, sounds, strict=False):
        distortions = []
        for other in range(10):
            total, path = mel_cepstral_distortion(spoken, heard[speaker, other])
            distortions.append(total / path)
        right += int(np.argmin(distortions)) == digit
    # What sounds most like what was asked for, of ten words: 4 of 40 by chance, and more than 11
    # once in 2,600 times.
    assert right >= 12


def cepstra(sounds, front_end) -> list[np.ndarray]:
    """The cepstra of sounds of a second at most."""
    samples = np.zeros((len(sounds), front_end.rate), np.float32)
    for row, sound in zip(samples, sounds, strict=True):
        row[: len(sound)] = sound
    mels, frames = jax.jit(partial(log_mel, front_end=front_end))(
        jnp.asarray(samples), jnp.array([len(sound) for sound in sounds])
    )
    return [x[:t] for x, t in zip(np.asarray(mel_cepstra(mels)), frames, strict=True)]
