"""ROUGE of `experiments/summarise.py` on SciTLDR, beside the lead and the extractive oracle.

    JAXSEQ_DATA=DIR python scripts/measure_summaries.py [--seeds 0 1 2]

The shared data has no test split of SciTLDR: its dev split is the test split here, and every tenth
record of train is held out for validation. Scores are F1 x 100 without stemming, each the most over
a text's references. A run directory that already holds a run is not trained again. What leads and
oracles reach goes to figures-*.json in the first run.
"""

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import tyro
from measure import data_file, mean_and_spread, measure, write_figures

from jaxseq.data.extracts import extractive_oracle, lead
from jaxseq.data.summaries import Summarised, read_summaries
from jaxseq.tasks.rouge import METRICS, rouge

LEADS = (1, 2, 3)
MODELS = {"Transformer with copying": "summarise.py", "LSTM with copying": "summarise.py:recurrent"}


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains, evaluates and prints a table; see the head of this file."""

    seeds: tuple[int, ...] = (0,)
    """One run each of each model."""
    runs: Path = Path("runs") / "summarise"
    """Where the run directories go."""


def measure_summaries(options: Options) -> None:
    """Trains and evaluates both models with every seed, and prints them beside the baselines."""
    texts = read_summaries(
        data_file("summarisation/scitldr_a.dev.jsonl"), columns=("source", "target")
    )
    table = {f"lead-{k}": _scores(texts, lambda x, k=k: lead(x.sentences, k)) for k in LEADS}
    for most, name in ((1, "best sentence (oracle)"), (3, "up to 3 sentences (oracle)")):
        table[name] = _scores(texts, lambda x, most=most: extractive_oracle(*x, most=most))
    for name, experiment in MODELS.items():
        results = [
            measure(
                experiment,
                options.runs / f"{experiment.partition(':')[2] or 'transformer'}-{seed}",
                ["--seed", seed],
                split="test",
            )
            for seed in options.seeds
        ]
        table[name] = {
            metric: [100 * result.metrics[metric] for result in results] for metric in METRICS
        }
        table[name]["CPU minutes"] = [result.cpu_minutes for result in results]
        table[name]["parameters"] = [float(result.parameters) for result in results]
    first = options.runs / f"transformer-{options.seeds[0]}"
    for number, name in enumerate(name for name in table if name not in MODELS):
        scores = {metric: table[name][metric][0] / 100 for metric in METRICS}
        write_figures(first, f"extract-{number}", name, scores)

    print(f"{len(texts)} texts, seeds {options.seeds}")
    print(f"{'':28}" + "".join(f"{metric:>16}" for metric in METRICS))
    for name, row in table.items():
        print(f"{name:28}" + "".join(f"{mean_and_spread(row[m], 2):>16}" for m in METRICS))
    for name in MODELS:
        row = table[name]
        print(
            f"{name}: {mean_and_spread(row['CPU minutes'], 1)} CPU minutes; {_beaten(table, name)}"
        )


def _scores(texts: Sequence[Summarised], write: Callable[[Summarised], str]) -> dict[str, list]:
    found = [rouge(write(text), text.summaries) for text in texts]
    return {metric: [100 * statistics.mean(x[metric] for x in found)] for metric in METRICS}


def _beaten(table: dict[str, dict[str, list[float]]], name: str) -> str:
    """Whether a model is above every lead, metric by metric."""
    above, below = [], []
    for metric in METRICS:
        bar = max(table[f"lead-{k}"][metric][0] for k in LEADS)
        (above if statistics.mean(table[name][metric]) > bar else below).append(metric)
    parts = [("beats every lead in", above), ("does not in", below)]
    return ", ".join(f"{words} {', '.join(metrics)}" for words, metrics in parts if metrics)


if __name__ == "__main__":
    measure_summaries(tyro.cli(Options))
