"""A run directory: all that a resume, an evaluation or a sample needs.

config.json       the resolved experiment
tokenizer.json    the tokenizer
run.json          command, versions and devices of every start; what tells the data
checkpoints/      Orbax checkpoints
metrics.jsonl     one row of metrics a line
tensorboard/      the same for TensorBoard
"""

import dataclasses
import datetime
import importlib.metadata
import platform
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax

import jaxseq
from jaxseq.config import read_json, to_tree, write_json
from jaxseq.data.corpus import Corpus
from jaxseq.data.tokenizers import load_tokenizer, save_tokenizer
from jaxseq.errors import UserError
from jaxseq.parallel.mesh import one_device_mesh
from jaxseq.training.checkpoints import Checkpoints
from jaxseq.training.experiment import CONFIG_FILE, Experiment, check_same, read_experiment
from jaxseq.training.state import abstract_state
from jaxseq.typing import PyTree

TOKENIZER_FILE = "tokenizer.json"
RUN_FILE = "run.json"
CHECKPOINTS = "checkpoints"


@dataclasses.dataclass(frozen=True)
class OpenedRun:
    """An experiment completed by its data, not yet written anywhere."""

    experiment: Experiment
    corpus: Corpus
    run_dir: Path

    def write(self) -> None:
        """Makes the run directory, or notes another start in it; UserError where it cannot."""
        starts = []
        if (self.run_dir / RUN_FILE).exists():
            starts = read_json(self.run_dir / RUN_FILE)["starts"]
        start = {
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": sys.argv,
            "python": platform.python_version(),
            "versions": {
                "jaxseq": jaxseq.__version__,
                **{name: importlib.metadata.version(name) for name in ("jax", "flax", "optax")},
            },
            "devices": [str(device) for device in jax.devices()],
        }
        try:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            save_tokenizer(self.corpus.tokenizer, self.run_dir / TOKENIZER_FILE)
            write_json(
                self.run_dir / RUN_FILE,
                {
                    "corpus": self.corpus.fingerprint,
                    "inputs": self.corpus.inputs,
                    "starts": [*starts, start],
                },
            )
            write_json(self.run_dir / CONFIG_FILE, to_tree(self.experiment))
        except OSError as error:
            raise UserError(
                f"cannot write the run directory {self.run_dir}: {error.strerror}; "
                "choose another with --run-dir"
            ) from error


def open_run_directory(experiment: Experiment, run_dir: Path) -> OpenedRun:
    """Loads the data of an experiment that is to start or to go on in `run_dir`.

    Raises UserError where `run_dir` holds something else: another experiment with checkpoints, a
    corpus that has changed since, or files that are no run's.
    """
    resuming = (run_dir / CHECKPOINTS).is_dir() and any((run_dir / CHECKPOINTS).iterdir())
    if run_dir.exists() and not run_dir.is_dir():
        raise UserError(f"{run_dir} is a file; choose another --run-dir")
    if run_dir.is_dir() and any(run_dir.iterdir()) and not (run_dir / CONFIG_FILE).exists():
        raise UserError(
            f"{run_dir} holds files but no run ({CONFIG_FILE} is missing); choose another --run-dir"
        )
    data = experiment.data.resolve()
    tokenizer = load_tokenizer(run_dir / TOKENIZER_FILE) if resuming else None
    corpus = data.load(tokenizer)
    model = experiment.task.resolve(experiment.model, data, corpus.tokenizer)
    experiment = dataclasses.replace(experiment, model=model, data=data)
    if resuming:
        check_same(run_dir, read_experiment(run_dir), experiment)
        check_corpus(run_dir, corpus)
    return OpenedRun(experiment, corpus, run_dir)


def check_corpus(run_dir: Path, corpus: Corpus) -> None:
    """Raises UserError where `corpus` is not the text that `run_dir` was trained on."""
    trained_on = read_json(run_dir / RUN_FILE)["corpus"]
    if corpus.fingerprint != trained_on:
        raise UserError(
            f"the text has changed since {run_dir} was started (its SHA-256 was "
            f"{trained_on[:12]}, now {corpus.fingerprint[:12]}); bring the old text back, or train "
            "into another --run-dir (the standard library's text differs between Python versions)"
        )


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A run read back: its experiment, its tokenizer and the parameters of one checkpoint."""

    experiment: Experiment
    tokenizer: Any
    """The kind that the experiment's data makes."""
    params: PyTree
    step: int
    inputs: tuple[str, ...]
    """Held-out inputs to show the model on."""


def read_run(run_dir: Path, checkpoint: str = "last") -> TrainedRun:
    """Reads the parameters of the "last" or the "best" checkpoint, or of the step named.

    Raises UserError where there is no run, no checkpoint, or not that one.
    """
    experiment = read_experiment(run_dir)
    tokenizer = load_tokenizer(run_dir / TOKENIZER_FILE)
    directory = run_dir / CHECKPOINTS
    if not directory.is_dir():
        raise UserError(f"{run_dir} holds no checkpoint yet; train it first")
    like = abstract_state(
        partial(experiment.task.init, experiment.model),
        experiment.optimizer.build(experiment.num_steps),
        one_device_mesh(),  # enough to look at a model
    )
    with Checkpoints(directory, read_only=True) as checkpoints:
        steps = checkpoints.steps()
        if not steps:
            raise UserError(f"{run_dir} holds no checkpoint yet; train it first")
        choices = {"last": steps[-1], "best": checkpoints.best(), **{str(s): s for s in steps}}
        step = choices.get(checkpoint)
        if step is None:
            raise UserError(
                f"{run_dir} has no checkpoint '{checkpoint}'; it has last, best and "
                f"{', '.join(map(str, steps))}"
            )
        state = checkpoints.restore(like, step)
    inputs = tuple(read_json(run_dir / RUN_FILE)["inputs"])
    return TrainedRun(experiment, tokenizer, state.params, step, inputs)
