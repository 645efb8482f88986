"""The metrics of a whole split."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import jax
from jax.sharding import Sharding

from jaxseq.data.batches import Batch
from jaxseq.errors import UserError
from jaxseq.parallel.mesh import one_device_mesh
from jaxseq.parallel.sharding import batch_sharding
from jaxseq.tasks.contract import Evaluator
from jaxseq.training.run_directory import TrainedRun, check_corpus
from jaxseq.typing import PyTree


def evaluate(
    evaluator: Evaluator, params: PyTree, batches: Iterable[Batch], sharding: Sharding
) -> dict[str, float]:
    """The evaluator's sums over all `batches`.

    Sums of batches are added in float64 on the host; results are fetched once, at the end, so
    that the devices never wait.
    """
    found = [evaluator(params, jax.device_put(batch, sharding)) for batch in batches]
    totals: dict[str, float] = defaultdict(float)
    for sums in jax.device_get(found):
        for name, value in sums.items():
            totals[name] += float(value)
    return dict(totals)


def evaluate_run(
    run: TrainedRun, run_dir: Path, split: Literal["validation", "test"] = "validation"
) -> dict[str, float]:
    """The metrics of a run on a whole split; UserError where the data has changed."""
    task, model, data = run.experiment.task, run.experiment.model, run.experiment.data
    corpus = data.load(run.tokenizer)
    check_corpus(run_dir, corpus)
    held_out = getattr(corpus, split)
    if held_out is None:
        raise UserError(f"the data of {run_dir} has no {split} split; leave --split out")
    totals = evaluate(
        task.evaluator(model, run.tokenizer),
        run.params,
        data.evaluation_batches(held_out),
        batch_sharding(one_device_mesh()),
    )
    return task.metrics(totals)
