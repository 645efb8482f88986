"""An experiment: everything that decides a run, in one typed value."""

import dataclasses
from pathlib import Path
from typing import Generic, Literal, TypeVar

from jaxseq.config import differences, from_tree, read_json, to_tree
from jaxseq.errors import UserError
from jaxseq.option_checks import check_range
from jaxseq.parallel.mesh import MeshConfig
from jaxseq.training.finetune import FineTune
from jaxseq.training.optimizers import Optimizer
from jaxseq.training.profiler import traced_steps

Task = TypeVar("Task")
Model = TypeVar("Model")
Data = TypeVar("Data")


@dataclasses.dataclass(frozen=True)
class Experiment(Generic[Task, Model, Data]):
    """Task, model, data and optimizer, and how long and how often."""

    task: Task
    model: Model
    data: Data
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    finetune: FineTune = dataclasses.field(default_factory=FineTune)
    driver: Literal["jit", "pmap"] = "jit"
    """Who divides a step over devices: XLA, by the layout of the arrays, or jax.pmap, where each
    device runs the step on its share of the batch and sums are written out. --mesh.data alone."""
    num_steps: int = 2000
    """Training steps, one batch each."""
    accumulate: int = 1
    """Parts of a batch that are computed one after the other, to save memory."""
    seed: int = 0
    """Decides initial parameters, order of the data and dropout."""
    log_every: int = 10
    """Steps between rows in metrics.jsonl and log lines."""
    evaluate_every: int = 250
    """Steps between evaluations on held-out data."""
    evaluation_batches: int = 40
    """Batches, spread over the validation split, in evaluations on the way; the last has all."""
    checkpoint_every: int = 250
    """Steps between checkpoints."""
    keep_last: int = 2
    """Checkpoints kept, the newest ones; the best by validation loss is kept besides."""
    profile_steps: str = ""
    """Steps to trace for the profiler, into the run directory: `10:13` traces 10, 11 and 12."""

    def check(self) -> None:
        """Raises UserError naming the option for a count out of range."""
        counts = ("num_steps", "accumulate", "log_every", "evaluate_every", "evaluation_batches")
        check_range("", self, *counts, "checkpoint_every", "keep_last", least=1)
        check_range("", self, "seed", least=0, below=2**32)
        traced_steps(self.profile_steps)
        self.finetune.check()


CONFIG_FILE = "config.json"

FREE_ON_RESUME = (
    "num_steps",
    "driver",
    "accumulate",
    "profile_steps",
    "log_every",
    "evaluate_every",
    "evaluation_batches",
    "checkpoint_every",
    "keep_last",
)
"""Options that a resumed run may change; `mesh` too: a run may move to other devices."""


def read_experiment(run_dir: Path) -> Experiment:
    """The resolved experiment of a run directory; UserError where there is none."""
    if not run_dir.is_dir():
        raise UserError(f"there is no run directory {run_dir}; `jaxseq train` makes one")
    return from_tree(read_json(run_dir / CONFIG_FILE), str(run_dir / CONFIG_FILE))


def check_same(run_dir: Path, saved: Experiment, asked: Experiment) -> None:
    """Raises UserError where `asked` is not the experiment that `run_dir` holds."""
    changed = differences(to_tree(saved), to_tree(asked))
    fatal = {
        name: pair
        for name, pair in changed.items()
        if name not in FREE_ON_RESUME and not name.startswith("mesh.")
    }
    if fatal:
        listed = ", ".join(f"{name} is {a} there and {b} here" for name, (a, b) in fatal.items())
        raise UserError(
            f"{run_dir} holds another experiment: {listed}; choose another --run-dir, or the "
            "options it was started with"
        )
