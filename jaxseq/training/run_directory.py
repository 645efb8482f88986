"""A run directory: all that a resume, an evaluation or a sample needs.

config.json       the resolved experiment
tokenizer.json    the tokenizer
run.json          command, versions and devices of every start; what tells the data; which
                  parameters of a fine-tuned run were fresh
checkpoints/      Orbax checkpoints
metrics.jsonl     one row of metrics a line
tensorboard/      the same for TensorBoard
"""

import dataclasses
import datetime
import importlib.metadata
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxseq
from jaxseq.config import read_json, to_tree, write_json
from jaxseq.data.corpus import Corpus
from jaxseq.data.tokenizers import load_tokenizer, save_tokenizer
from jaxseq.errors import UserError
from jaxseq.nn.parameters import flatten
from jaxseq.parallel.mesh import one_device
from jaxseq.training.checkpoints import Checkpoints
from jaxseq.training.experiment import CONFIG_FILE, Experiment, read_experiment
from jaxseq.training.finetune import frozen_parameters, initializer
from jaxseq.training.state import TrainState, abstract_params, join, split
from jaxseq.typing import PyTree

TOKENIZER_FILE = "tokenizer.json"
RUN_FILE = "run.json"
CHECKPOINTS = "checkpoints"


def write_run_files(
    run_dir: Path,
    experiment: Experiment,
    tokenizer: Any,
    corpus: Corpus | None,
    fresh: Sequence[str] = (),
) -> None:
    """Makes a run directory without a checkpoint, or notes another start in it.

    `corpus` is None where the parameters come from elsewhere; `fresh` names parameters that the
    source of a fine-tuned run does not have. Raises UserError where it cannot be written.
    """
    starts = []
    if (run_dir / RUN_FILE).exists():
        starts = read_json(run_dir / RUN_FILE)["starts"]
    start = {
        **provenance(),
        "command": sys.argv,
        "python": platform.python_version(),
        "versions": {
            "jaxseq": jaxseq.__version__,
            **{name: importlib.metadata.version(name) for name in ("jax", "flax", "optax")},
        },
        "devices": [str(device) for device in jax.devices()],
    }
    has_test = corpus is not None and corpus.test is not None
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        save_tokenizer(tokenizer, run_dir / TOKENIZER_FILE)
        write_json(
            run_dir / RUN_FILE,
            {
                "corpus": corpus.fingerprint if corpus else None,
                "held_out": ["validation", "test"] if has_test else ["validation"],
                "inputs": corpus.inputs if corpus else (),
                "fresh": fresh,
                "starts": [*starts, start],
            },
        )
        write_json(run_dir / CONFIG_FILE, to_tree(experiment))
    except OSError as error:
        raise UserError(
            f"cannot write the run directory {run_dir}: {error.strerror}; "
            "choose another with --run-dir"
        ) from error


def provenance() -> dict[str, str]:
    """When something is made, and by which commit: {"time", "commit"}."""
    now = datetime.datetime.now(datetime.UTC)
    return {"time": now.isoformat(timespec="seconds"), "commit": commit()}


def commit() -> str:
    """The commit of jaxseq's checkout, "-dirty" behind it where files have changed; else ""."""
    git = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(
            git, cwd=Path(jaxseq.__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):  # no git, or no checkout
        return ""
    return done.stdout.strip()


def write_params_run(run_dir: Path, experiment: Experiment, tokenizer: Any, params: PyTree) -> None:
    """A run directory with given parameters, as of step 0, for parameters from elsewhere.

    The experiment's configs are resolved. `sample`, `evaluate`, `predict` and fine-tuning take it
    as they take a trained run. Raises UserError where `run_dir` holds something, and ValueError
    where `params` are not those of the experiment's model.
    """
    init = initializer(experiment.task, experiment.model, experiment.finetune)
    expected, given = (
        {path: tuple(leaf.shape) for path, leaf in flatten(tree).items()}
        for tree in (abstract_params(init, one_device()), params)
    )
    if given != expected:
        differing = sorted(path for path, _ in expected.items() ^ given.items())
        raise ValueError(f"params differ from the model's in name or shape: {set(differing)}")
    if run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
        raise UserError(f"{run_dir} is there already; choose another directory")
    write_run_files(run_dir, experiment, tokenizer, corpus=None)
    with Checkpoints(run_dir / CHECKPOINTS) as checkpoints:
        checkpoints.save(TrainState(np.zeros((), np.int32), params, opt_state=()), 0)
        checkpoints.wait()


def check_corpus(run_dir: Path, corpus: Corpus) -> None:
    """Raises UserError where `corpus` is not the text that `run_dir` was trained on."""
    trained_on = read_json(run_dir / RUN_FILE)["corpus"]
    if trained_on is None:  # parameters from elsewhere may be tried on any text
        return
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

    def predict(
        self, lines: Iterable[str], output: Path = Path("predictions")
    ) -> list[dict[str, Any]]:
        """The answers to lines of text, as `jaxseq predict` prints them.

        Answers that are files go to the folder `output`. Raises UserError for a language model,
        which writes and does not answer.
        """
        return list(self.answers(lines, output))

    def answers(
        self, lines: Iterable[str], output: Path = Path("predictions")
    ) -> Iterator[dict[str, Any]]:
        """`predict`, one answer after the other as they come."""
        task = self.experiment.task
        if not hasattr(task, "predict"):
            raise UserError("the run is a language model; try: jaxseq sample")
        where = {"folder": output} if getattr(task, "writes_files", False) else {}
        return task.predict(self.experiment.model, self.params, self.tokenizer, lines, **where)


def read_run(run_dir: Path, checkpoint: str = "last") -> TrainedRun:
    """Reads the parameters of the "last" or the "best" checkpoint, or of the step named.

    Raises UserError where there is no run, no checkpoint, or not that one.
    """
    experiment = read_experiment(run_dir)
    tokenizer = load_tokenizer(run_dir / TOKENIZER_FILE)
    init = initializer(experiment.task, experiment.model, experiment.finetune)
    like = abstract_params(init, one_device())  # enough to look at a model
    described = read_json(run_dir / RUN_FILE)
    with open_checkpoints(run_dir) as checkpoints:
        step = checkpoints.named(checkpoint)
        params = checkpoints.restore_params(like, step)
        if experiment.optimizer.ema_decay:
            trained, _ = split(like, frozen_paths(experiment, described["fresh"]))
            params = join(params, checkpoints.restore_params(trained, step, "average"))
    inputs = tuple(described["inputs"])
    return TrainedRun(experiment, tokenizer, params, step, inputs)


def frozen_paths(experiment: Experiment, fresh: Sequence[str]) -> frozenset[str]:
    """The parameters of a resolved experiment that stay as they are.

    `fresh` are those that the source of a fine-tuned run does not have.
    """
    finetune = experiment.finetune
    if not (finetune.freeze or finetune.lora_rank):
        return frozenset()
    init = initializer(experiment.task, experiment.model, finetune)
    return frozen_parameters(finetune, flatten(abstract_params(init, one_device())), tuple(fresh))


def open_checkpoints(run_dir: Path) -> Checkpoints:
    """The checkpoints of a run, to be read alone; UserError where there are none."""
    if not (run_dir / CHECKPOINTS).is_dir():
        raise UserError(f"{run_dir} holds no checkpoint yet; train it first")
    return Checkpoints(run_dir / CHECKPOINTS, read_only=True)
