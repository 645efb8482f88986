"""The metrics of a whole split, and how sure they are."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from jaxseq.data.batches import Batch
from jaxseq.errors import UserError
from jaxseq.parallel.hosts import to_global
from jaxseq.parallel.mesh import Layout, one_device
from jaxseq.tasks.contract import Evaluator
from jaxseq.training.bootstrap import bootstrap_intervals
from jaxseq.training.run_directory import TrainedRun, check_corpus
from jaxseq.typing import PyTree, Shaped

SplitName = Literal["validation", "test"]

Contributions = dict[str, Shaped[np.ndarray, "B ..."]]


def evaluate(
    evaluator: Evaluator, params: PyTree, batches: Iterable[Batch], layout: Layout
) -> dict[str, Any]:
    """The sums over all examples of `batches` of what the evaluator finds, in float64."""
    totals: dict[str, Any] = {}
    for found in contributions(evaluator, params, batches, layout):
        for name, total in _sums(found).items():
            totals[name] = totals.get(name, 0.0) + total
    return totals


def contributions(
    evaluator: Evaluator, params: PyTree, batches: Iterable[Batch], layout: Layout
) -> Iterator[Contributions]:
    """What the examples of each batch contribute, on the host.

    They are fetched a batch late, so that the devices never wait and hold one batch of them.
    """
    pending = None
    for batch in batches:
        with layout.use():
            size = len(next(iter(batch.values())))
            found = evaluator(params, to_global(batch, layout.batch, size))
        found = jax.device_put(found, layout.replicated)  # every host gets the rows of all
        if pending is not None:
            yield jax.device_get(pending)
        pending = found
    if pending is not None:
        yield jax.device_get(pending)


def _sums(rows: Contributions) -> dict[str, Any]:
    sums = {name: array.sum(axis=0, dtype=np.float64) for name, array in rows.items()}
    return {name: total if total.ndim else float(total) for name, total in sums.items()}


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a split, each with what it may be by chance of the examples."""

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    """95 % bootstrap intervals; counts have none."""
    details: dict[str, Any]
    """What else the task has to say of the split: see `tasks.contract.Exhibitor`."""


def held_out(run: TrainedRun, run_dir: Path, split: SplitName) -> Any:
    """A split of a run's data; UserError where the data has changed, or has no such split."""
    corpus = run.experiment.data.load(run.tokenizer)
    check_corpus(run_dir, corpus)
    found = getattr(corpus, split)
    if found is None:
        raise UserError(f"the data of {run_dir} has no {split} split; leave --split out")
    return found


def evaluate_run(run: TrainedRun, examples: Any) -> Evaluation:
    """The metrics of a run on a whole split (`held_out`), with intervals.

    Host memory grows with what an example contributes: a few floats.
    """
    task, model, data = run.experiment.task, run.experiment.model, run.experiment.data
    parts = list(
        contributions(
            task.evaluator(model, run.tokenizer),
            run.params,
            data.evaluation_batches(examples),
            one_device(),
        )
    )
    rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    totals = _sums(rows)
    details = task.details(totals, run.tokenizer) if hasattr(task, "details") else {}
    return Evaluation(task.metrics(totals), bootstrap_intervals(task.metrics, rows), details)
