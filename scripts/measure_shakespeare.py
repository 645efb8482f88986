"""Loss of `experiments/gpt_shakespeare.py` over three seeds, beside nanoGPT's.

    python scripts/measure_shakespeare.py [--data.path FILE]

Trains one run a seed through the command line, one after another, and evaluates each over the
whole validation split. Options that it does not know go to `jaxseq train`. A run directory that
already holds a run is not trained again, an unfinished one is finished; minutes are those that
training took this time.
"""

import dataclasses
import json
import math
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jax
import tyro

from jaxseq.training.experiment import read_experiment

EXPERIMENT = Path(__file__).resolve().parent.parent / "experiments" / "gpt_shakespeare.py"
NANOGPT_LOSS = 1.898
"""nanoGPT's laptop configuration after the same tokens, over the same split."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains one run a seed, evaluates them and prints a table; see the head of this file."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """One run each."""
    runs: Path = Path("runs") / "shakespeare"
    """Where the run directories go: seed-0, seed-1, ..."""


def measure_shakespeare(options: Options, train_options: list[str]) -> None:
    """Trains, evaluates and prints a row a seed, then the mean."""
    losses = []
    for seed in options.seeds:
        run_dir = options.runs / f"seed-{seed}"
        train = ["train", EXPERIMENT, "--run-dir", run_dir, "--seed", seed, "--sample-tokens", 0]
        begin = time.perf_counter()
        jaxseq([*train, *train_options])
        minutes = (time.perf_counter() - begin) / 60
        metrics = json.loads(jaxseq(["evaluate", run_dir, "--json"]))
        if not losses:
            print(budget(run_dir))
            print("\nseed    loss  bits/byte  minutes")
        losses.append(metrics["loss"])
        row = f"{seed:4}  {metrics['loss']:.4f}  {metrics['bits_per_byte']:9.4f}  {minutes:7.1f}"
        print(row, flush=True)
    mean = statistics.mean(losses)
    spread = f", standard deviation {statistics.stdev(losses):.4f}" if len(losses) > 1 else ""
    print(f"\nmean {mean:.4f}{spread}; nanoGPT {NANOGPT_LOSS}")


def jaxseq(words: list[object]) -> str:
    """What a jaxseq command prints; where it fails, it has said why, and this program ends too."""
    command = [sys.executable, "-m", "jaxseq.cli", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


def budget(run_dir: Path) -> str:
    """The parameters and the tokens that a run was given."""
    experiment = read_experiment(run_dir)
    shapes = jax.eval_shape(partial(experiment.task.init, experiment.model), jax.random.key(0))
    size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    data, steps = experiment.data, experiment.num_steps
    return (
        f"{size:,} parameters, {steps} steps x {data.batch_size} x {data.context} = "
        f"{steps * data.batch_size * data.context:,} tokens"
    )


if __name__ == "__main__":
    measure_shakespeare(*tyro.cli(Options, return_unknown_args=True))
