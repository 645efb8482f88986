"""Digits of `experiments/synthesise_speech.py`, read back by our own recogniser.

    JAXSEQ_DATA=DIR python scripts/measure_synthesis.py --recogniser RUN_DIR [--models recurrent]

RUN_DIR is a run of `experiments/recognise_speech.py` on the official split, whose training does
not hear the test's recordings. What these say is synthesised, in the voices that say it, and the
recogniser writes down: the recordings; what Griffin-Lim makes of their own log-mel frames (copy
synthesis, the best that a synthesiser of such frames can do); and what each model makes of the
texts. Digit error: edits per digit. The figures go to figures-readback.json in the run directory of
each model. A run directory that already holds a run is not trained again.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from measure import measure, write_figures

from jaxseq.data.speech import clip_to_line
from jaxseq.ops.spectral import log_mel, mel_cepstra
from jaxseq.tasks.lines import GROUP, grouped
from jaxseq.tasks.speech_metrics import mel_cepstral_distortion
from jaxseq.tasks.synthesise import vocode
from jaxseq.tasks.utterances import Request
from jaxseq.tasks.word_errors import count_errors
from jaxseq.training.bootstrap import bootstrap_intervals
from jaxseq.training.run_directory import TrainedRun, read_run
from jaxseq.typing import Float


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains, evaluates, reads back and prints a table; see the head of this file."""

    recogniser: Path
    """A run of `experiments/recognise_speech.py`."""
    models: tuple[str, ...] = ("experiment", "recurrent")
    """Which experiments of the file: the Transformer, the recurrent network."""
    runs: Path = Path("runs") / "synthesis"
    """Where the run directories go."""


class Clip(NamedTuple):
    """A recording of the test split, and what it says."""

    samples: Float[np.ndarray, " n"]
    request: Request
    speaker: str


@dataclasses.dataclass(frozen=True)
class Heard:
    """How many of the digits that were said the recogniser got wrong."""

    digit_error: float
    interval: tuple[float, float]
    """95 % bootstrap interval, over strings."""
    by_speaker: dict[str, float]
    digits: int


def measure_synthesis(options: Options) -> None:
    """Trains every model, and prints a row for each way in which the test's texts are heard."""
    recogniser = read_run(options.recogniser)
    print("| what is heard | digit error, % | 95 % | MCD, dB | diagonality | CPU minutes |")
    print("|---|---|---|---|---|---|")
    for number, name in enumerate(options.models):
        run_dir = options.runs / name
        result = measure(f"synthesise_speech.py:{name}", run_dir, split="test")
        run = read_run(run_dir)
        clips = test_clips(run)
        copies, distortion = copy_synthesis(run, clips)
        task, model = run.experiment.task, run.experiment.model
        said = task.utterances(model, run.params, grouped(clip.request for clip in clips))
        heard = {
            "recordings": [clip.samples for clip in clips],
            "copy synthesis": copies,
            "synthesised": [utterance.samples for _, utterance in said],
        }
        errors = {how: read_back(recogniser, clips, sounds) for how, sounds in heard.items()}
        title = f"digits that a recogniser ({options.recogniser.name}) hears as others"
        write_figures(run_dir, "readback", title, summary(errors, distortion))
        if not number:
            print_row("the recordings", errors["recordings"])
            print_row("copy synthesis", errors["copy synthesis"], f"{distortion:.2f}")
        metrics = result.metrics
        figures = (f"{metrics['mel_cepstral_distortion']:.2f}", f"{metrics['diagonality']:.3f}")
        print_row(name, errors["synthesised"], *figures, f"{result.cpu_minutes:.1f}")
        for speaker, rate in errors["synthesised"].by_speaker.items():
            print(f"|   {speaker} | {100 * rate:.1f} | | | | |", flush=True)


def test_clips(run: TrainedRun) -> list[Clip]:
    """The recordings of a run's test split."""
    data, coder = run.experiment.data, run.tokenizer
    clips = []
    for batch in data.evaluation_batches(data.load(coder).test):
        for row in np.flatnonzero(batch["lengths"]):
            labels = batch["labels"][row][: batch["label_lengths"][row]]
            speaker = int(batch["speakers"][row])
            request = Request(coder.text(labels), speaker, labels)
            samples = batch["samples"][row][: batch["lengths"][row]]
            clips.append(Clip(samples, request, coder.speakers[speaker]))
    return clips


def copy_synthesis(
    run: TrainedRun, clips: Sequence[Clip]
) -> tuple[list[Float[np.ndarray, " n"]], float]:
    """Waveforms of the recordings' own log-mel frames, and their distortion in dB."""
    front_end = run.experiment.model.front_end
    features = jax.jit(partial(log_mel, front_end=front_end))
    steps = run.experiment.task.griffin_lim_steps
    sound = jax.jit(partial(vocode, front_end=front_end, steps=steps))
    longest = max(len(clip.samples) for clip in clips)
    copies, distortion, path = [], 0.0, 0
    for group in grouped(clips):
        samples, lengths = np.zeros((GROUP, longest), np.float32), np.zeros(GROUP, np.int32)
        for row, clip in enumerate(group):
            samples[row, : len(clip.samples)], lengths[row] = clip.samples, len(clip.samples)
        mels, frames = features(jnp.asarray(samples), jnp.asarray(lengths))
        found, sizes = sound(mels, frames)
        again, frames_again = features(found, sizes)
        for row in range(len(group)):
            copies.append(np.asarray(found[row, : sizes[row]]))
            total, steps_of_path = mel_cepstral_distortion(
                np.asarray(mel_cepstra(again)[row, : frames_again[row]]),
                np.asarray(mel_cepstra(mels)[row, : frames[row]]),
            )
            distortion, path = distortion + total, path + steps_of_path
    return copies, distortion / path


def read_back(
    recogniser: TrainedRun, clips: Sequence[Clip], sounds: Sequence[Float[np.ndarray, " n"]]
) -> Heard:
    """What the recogniser hears in `sounds`, which ought to say what the clips say."""
    rate = recogniser.tokenizer.rate
    lines = [
        clip_to_line(samples, rate, clip.request.text, clip.speaker)
        for clip, samples in zip(clips, sounds, strict=True)
    ]
    counts = [
        count_errors(answer["text"], clip.request.text)
        for clip, answer in zip(clips, recogniser.predict(lines), strict=True)
    ]
    rows = {
        "edits": np.array([count.word_edits for count in counts], np.float64),
        "digits": np.array([count.words for count in counts], np.float64),
    }

    def error(totals: dict[str, float]) -> dict[str, float]:
        return {"digit_error": totals["edits"] / totals["digits"]}

    def of(chosen: np.ndarray) -> float:
        return float(rows["edits"][chosen].sum() / rows["digits"][chosen].sum())

    speakers = np.array([clip.speaker for clip in clips])
    return Heard(
        of(np.full(len(clips), True)),
        bootstrap_intervals(error, rows)["digit_error"],
        {str(name): of(speakers == name) for name in np.unique(speakers)},
        int(rows["digits"].sum()),
    )


def summary(errors: dict[str, Heard], distortion: float) -> dict[str, float]:
    """What figures-readback.json says of a run."""
    said = errors["synthesised"]
    return {
        **{f"share of {how}": heard.digit_error for how, heard in errors.items()},
        "95 % from": said.interval[0],
        "to": said.interval[1],
        **{f"of {speaker}'s voice": rate for speaker, rate in said.by_speaker.items()},
        "digits": said.digits,
        "distortion of copy synthesis, dB": distortion,
    }


def print_row(name: str, heard: Heard, *figures: str) -> None:
    """A row of the table, with empty cells behind the figures that there are."""
    low, high = heard.interval
    cells = [name, f"{100 * heard.digit_error:.1f}", f"{100 * low:.1f} to {100 * high:.1f}"]
    cells += figures
    print(f"| {' | '.join([*cells, *[''] * (6 - len(cells))])} |", flush=True)


if __name__ == "__main__":
    measure_synthesis(tyro.cli(Options))
