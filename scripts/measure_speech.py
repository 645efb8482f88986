"""Word error rates on strings of spoken digits: the official split, and speakers never heard.

    JAXSEQ_DATA=DIR python scripts/measure_speech.py [--models experiment] [--seeds 0 1 2]

Each is `experiments/recognise_speech.py`: trained on four speakers and tested on the official test
recordings, and trained on three of them and tested on all that the fourth says. A run directory
that already holds a run is not trained again.
"""

import dataclasses
import statistics
from pathlib import Path

import tyro
from measure import data_file, mean_and_spread, measure

SPEAKERS = ("george", "jackson", "lucas", "theo")


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains, evaluates and prints a table; see the head of this file."""

    models: tuple[str, ...] = ("experiment", "transformer")
    """Which of the file's experiments."""
    speakers: tuple[str, ...] = SPEAKERS
    """Who is held out, one run each, beside the run on the official split."""
    seeds: tuple[int, ...] = (0,)
    """One run each."""
    runs: Path = Path("runs") / "speech"
    """Where the run directories go."""


def measure_speech(options: Options) -> None:
    """Trains and evaluates every model on every split with every seed, and prints a row each."""
    data_file("speech/fsdd")  # ends the program where there is none: made-up digits are no measure
    print("| model | test | word errors, % | character errors, % | words | seeds | CPU minutes |")
    print("|---|---|---|---|---|---|---|")
    for model in options.models:
        unseen = [_row(options, model, speaker) for speaker in ("", *options.speakers)][1:]
        if unseen:
            mean = statistics.mean(unseen)
            print(f"| {model} | unseen speaker, mean | {mean:.2f} | | | | |", flush=True)


def _row(options: Options, model: str, speaker: str) -> float:
    """Prints the row of a model and a held-out speaker ("": the official split); its WER in %."""
    results = [
        measure(
            f"recognise_speech.py:{model}",
            options.runs / f"{model}-{speaker or 'official'}-{seed}",
            ["--seed", seed, *(["--data.held-out-speaker", speaker] if speaker else [])],
            split="test",
        )
        for seed in options.seeds
    ]
    words, characters = (
        [100 * result.metrics[f"{unit}_error_rate"] for result in results]
        for unit in ("word", "character")
    )
    each = ", ".join(f"{rate:.2f}" for rate in words)
    minutes = mean_and_spread([result.cpu_minutes for result in results], 1)
    print(
        f"| {model} | {f'unseen {speaker}' if speaker else 'official'} | "
        f"{mean_and_spread(words, 2)} | {mean_and_spread(characters, 2)} | "
        f"{results[0].metrics['words']} | {each} | {minutes} |",
        flush=True,
    )
    return statistics.mean(words)


if __name__ == "__main__":
    measure_speech(tyro.cli(Options))
