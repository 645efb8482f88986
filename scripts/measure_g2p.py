"""Phoneme error rate of `experiments/g2p.py` on CMUdict's test words, over seeds.

    JAXSEQ_DATA=DIR python scripts/measure_g2p.py [--seeds 0]

Error rate: edits per phoneme of the reference; word accuracy: the share without an edit; both
with stress marks and without. A run directory that already holds a run is not trained again.
"""

import dataclasses
from pathlib import Path

import tyro
from measure import mean_and_spread, measure


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains, evaluates and prints a table; see the head of this file."""

    seeds: tuple[int, ...] = (0,)
    """One run each."""
    runs: Path = Path("runs") / "g2p"
    """Where the run directories go."""


def measure_g2p(options: Options) -> None:
    """Trains and evaluates with every seed, and prints the mean."""
    results = [
        measure("g2p.py", options.runs / f"seed-{seed}", ["--seed", seed], split="test")
        for seed in options.seeds
    ]
    print(f"{results[0].parameters:,} parameters, seeds {options.seeds}")
    for name, words in (
        ("token_error_rate_ignoring", "phoneme error rate without stress, %"),
        ("token_error_rate", "phoneme error rate with stress, %"),
        ("exact_ignoring", "word accuracy without stress, %"),
        ("exact", "word accuracy with stress, %"),
    ):
        values = [100 * result.metrics[name] for result in results]
        print(f"{words:38} {mean_and_spread(values, 2)}")
    print(f"{'CPU minutes':38} {mean_and_spread([r.cpu_minutes for r in results], 1)}")


if __name__ == "__main__":
    measure_g2p(tyro.cli(Options))
