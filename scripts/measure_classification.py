"""Film reviews and names by language: `experiments/classify.py` beside logistic regression.

    JAXSEQ_DATA=DIR python scripts/measure_classification.py [--seeds 0] [--sets sentiment]

The regression sees bags of words, of names bags of one to four letters; everything is trained on
the same rows and scored on the same test split. What it reaches goes to figures-linear.json in the
first run of each set. A run directory that already holds the finished run is not trained again.
Needs scikit-learn.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any, Literal

import tyro
from bag_of_words import linear_scores
from measure import Result, measure, score_row, write_figures

from jaxseq.data.labelled import LabelledText
from jaxseq.data.rows import BadRows
from jaxseq.training.experiment import read_experiment

SetName = Literal["sentiment", "names"]
VARIANTS: dict[SetName, tuple[str, ...]] = {
    "sentiment": ("experiment", "recurrent"),
    "names": ("names", "names_recurrent"),
}
METRICS = ("accuracy", "f1_macro")


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains, evaluates and prints a table a set; see the head of this file."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """One run each of each model."""
    sets: tuple[SetName, ...] = ("sentiment", "names")
    """What is classified."""
    runs: Path = Path("runs") / "classify"
    """Where the run directories go."""


def measure_classification(options: Options) -> None:
    """Trains and evaluates every model with every seed, and prints a row each."""
    for name in options.sets:
        print(
            f"\n| {name} | accuracy, % | macro F1, % | accuracy of each seed, 95 % | CPU minutes |"
        )
        print("|---|---|---|---|---|")
        first = options.runs / f"{VARIANTS[name][0]}-{options.seeds[0]}"
        rows: dict[str, list[Result]] = {}
        for variant in VARIANTS[name]:
            rows[variant] = [
                measure(
                    f"classify.py:{variant}",
                    options.runs / f"{variant}-{seed}",
                    ["--seed", seed],
                    split="test",
                )
                for seed in options.seeds
            ]
            print(score_row(variant, rows[variant], METRICS, "accuracy"), flush=True)
        linear = _linear(first, letters=name == "names")
        scores = " | ".join(f"{100 * linear[metric]:.2f}" for metric in METRICS)
        print(f"| logistic regression | {scores} | | |", flush=True)


def _linear(run_dir: Path, letters: bool) -> dict[str, float]:
    """What the regression reaches on the data of a run, which is written there too."""
    data: Any = read_experiment(run_dir).data
    if not isinstance(data, LabelledText):
        sys.exit("set JAXSEQ_DATA to the directory of the real data: there is only made-up data")
    rows = {
        name: [(row.texts[0], row.label) for row in found]
        for name, found in data.splits(BadRows()).items()
    }
    scores = linear_scores(rows["train"], rows["test"], letters)
    kind = "bags of 1 to 4 letters" if letters else "bags of words"
    write_figures(run_dir, "linear", f"logistic regression on {kind}", scores)
    return scores


if __name__ == "__main__":
    measure_classification(tyro.cli(Options))
