"""The loss of a whole split."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Sharding

from jaxseq.data.batches import Batch, evaluation_batches
from jaxseq.parallel.mesh import one_device_mesh
from jaxseq.parallel.sharding import batch_sharding
from jaxseq.training.run_directory import TrainedRun, check_corpus
from jaxseq.typing import Array, Float, PyTree


def evaluate(
    loss: Callable[[PyTree, dict[str, Array]], tuple[Float[Array, ""], Float[Array, ""]]],
    params: PyTree,
    batches: Iterable[Batch],
    byte_lengths: np.ndarray,
    sharding: Sharding,
) -> tuple[float, float, float]:
    """(sum of losses, tokens counted, bytes of text that they spell) over `batches`.

    Sums of batches are added in float64 on the host; results are fetched once, at the end, so
    that the devices never wait.
    """
    sums, text_bytes = [], 0
    for batch in batches:
        sums.append(loss(params, jax.device_put(batch, sharding)))
        text_bytes += int(byte_lengths[batch["targets"]][batch["mask"]].sum())
    totals = np.asarray(jax.device_get(sums), np.float64).sum(axis=0)
    return float(totals[0]), float(totals[1]), float(text_bytes)


def evaluate_run(run: TrainedRun, run_dir: Path) -> dict[str, float]:
    """The metrics of a run's whole validation split; UserError where the text has changed."""
    task, model, data = run.experiment.task, run.experiment.model, run.experiment.data
    corpus = data.load(run.tokenizer)
    check_corpus(run_dir, corpus)
    totals = evaluate(
        jax.jit(partial(task.loss, model)),
        run.params,
        evaluation_batches(corpus.validation, data.batch_size),
        run.tokenizer.byte_lengths,
        batch_sharding(one_device_mesh()),
    )
    return task.metrics(*totals)
