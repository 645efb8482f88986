"""The run that a fine-tuned one starts from."""

import dataclasses
from pathlib import Path
from typing import Any

import jax

from jaxseq.data.tokenizers import load_tokenizer
from jaxseq.nn.parameters import flatten, unflatten
from jaxseq.parallel.mesh import Layout, one_device
from jaxseq.training.experiment import Experiment, read_experiment
from jaxseq.training.finetune import FineTune, Match, initializer, match
from jaxseq.training.lora import is_adapter, merge
from jaxseq.training.run_directory import TOKENIZER_FILE, open_checkpoints
from jaxseq.training.state import abstract_params, join
from jaxseq.typing import PyTree


@dataclasses.dataclass(frozen=True)
class SourceRun:
    """A run whose parameters another one may start with; none of them has been read yet."""

    run_dir: Path
    experiment: Experiment
    tokenizer: Any
    """The tokenizer alone, where the run's coder holds labels besides."""
    step: int

    def match(self, experiment: Experiment) -> Match:
        """Which of its parameters the (resolved) experiment's model can take; see `match`."""
        return match(
            _shapes(experiment),
            _shapes(self.experiment),
            same_task=type(experiment.task) is type(self.experiment.task),
        )

    def copy_into(self, params: PyTree, matched: Match, layout: Layout) -> PyTree:
        """`params` with the source's where they match, read straight onto their places in `layout`.

        A source with adapters gives kernels with these merged in.
        """
        wanted = {
            path: leaf
            for path, leaf in flatten(abstract_params(_init(self.experiment), layout)).items()
            if _kernel_of(path) in matched.copied
        }
        with open_checkpoints(self.run_dir) as checkpoints:
            found = checkpoints.restore_params(unflatten(wanted), self.step)
        if any(map(is_adapter, wanted)):
            homes = {path: wanted[path].sharding for path in matched.copied}
            found = jax.jit(merge, out_shardings=unflatten(homes))(found)
        return join(params, found)


def open_source(finetune: FineTune) -> SourceRun:
    """The run that `finetune` names; UserError where it or its checkpoint is missing."""
    assert finetune.from_run is not None
    run_dir = finetune.from_run
    experiment = read_experiment(run_dir)
    tokenizer = load_tokenizer(run_dir / TOKENIZER_FILE)
    with open_checkpoints(run_dir) as checkpoints:
        step = checkpoints.named(finetune.checkpoint)
    return SourceRun(run_dir, experiment, getattr(tokenizer, "tokenizer", tokenizer), step)


def _kernel_of(path: str) -> str:
    return f"{path.rsplit('/', 1)[0]}/kernel" if is_adapter(path) else path


def _shapes(experiment: Experiment) -> dict[str, tuple[int, ...]]:
    params = abstract_params(_init(experiment), one_device())
    return {path: leaf.shape for path, leaf in flatten(params).items() if not is_adapter(path)}


def _init(experiment: Experiment):
    return initializer(experiment.task, experiment.model, experiment.finetune)
