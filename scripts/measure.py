"""What the measuring scripts share: train an experiment from the command line, and evaluate it."""

import dataclasses
import json
import math
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax

from jaxseq.training.experiment import read_experiment

EXPERIMENTS = Path(__file__).resolve().parent.parent / "experiments"
COST_FILE = "cost.json"


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished run: its metrics, and the processor minutes that training it took."""

    metrics: dict[str, Any]
    cpu_minutes: float
    parameters: int


def measure(
    experiment: str,
    run_dir: Path,
    options: Sequence[object] = (),
    split: str = "validation",
) -> Result:
    """Trains `experiment` in `run_dir` and evaluates it on all of `split`.

    A run directory that already holds the finished run is not trained again. Processor minutes
    are those of all cores, compilation included.
    """
    cost = run_dir / COST_FILE
    train = ["train", EXPERIMENTS / experiment, "--run-dir", run_dir, "--no-show", *options]
    before = _children_seconds()
    jaxseq(train)
    if not cost.exists():
        cost.write_text(json.dumps({"cpu_minutes": (_children_seconds() - before) / 60}))
    metrics = json.loads(jaxseq(["evaluate", run_dir, "--json", "--split", split]))
    return Result(metrics, json.loads(cost.read_text())["cpu_minutes"], num_parameters(run_dir))


def write_figures(run_dir: Path, name: str, title: str, figures: dict[str, float]) -> None:
    """What a script has measured beside a run goes to figures-NAME.json, for scripts/results.py."""
    found = {"title": title, "figures": figures, "command": sys.argv}
    text = json.dumps(found, indent=2) + "\n"
    (run_dir / f"figures-{name}.json").write_text(text, encoding="utf-8")


def jaxseq(words: Sequence[object]) -> str:
    """What a jaxseq command prints; where it fails, it has said why, and this program ends too."""
    command = [sys.executable, "-m", "jaxseq.cli", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


def num_parameters(run_dir: Path) -> int:
    """The parameters of a run's model."""
    experiment = read_experiment(run_dir)
    shapes = jax.eval_shape(partial(experiment.task.init, experiment.model), jax.random.key(0))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def mean_and_spread(values: Sequence[float], digits: int) -> str:
    """The mean of a figure over seeds, and their standard deviation where there are several."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} +- {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def score_row(name: str, results: Sequence[Result], metrics: Sequence[str], bounded: str) -> str:
    """A table's row: metrics in %, the 95 % interval of `bounded` of each seed, CPU minutes."""
    scores = [
        mean_and_spread([100 * result.metrics[metric] for result in results], 2)
        for metric in metrics
    ]
    bounds = [result.metrics["intervals"][bounded] for result in results]
    each = ", ".join(f"{100 * low:.1f} to {100 * high:.1f}" for low, high in bounds)
    minutes = mean_and_spread([result.cpu_minutes for result in results], 1)
    return f"| {name} | {' | '.join(scores)} | {each} | {minutes} |"


def data_file(name: str) -> Path:
    """A file of the real data; ends the program where JAXSEQ_DATA does not say where that is."""
    folder = os.environ.get("JAXSEQ_DATA")
    if folder is None:
        sys.exit("set JAXSEQ_DATA to the directory of the real data")
    return Path(folder) / name


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
