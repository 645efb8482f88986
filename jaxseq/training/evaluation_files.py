"""What an evaluation leaves in the run directory, for reports and tables of results.

evaluation-SPLIT.json    metrics, intervals and details, and what they were found with
examples-SPLIT.jsonl     what the model makes of some examples, a JSON object each
examples-SPLIT/          the pictures and sounds that these name
"""

import importlib.metadata
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

import jaxseq
from jaxseq.config import write_json
from jaxseq.data.batches import Batch
from jaxseq.training.evaluation import Evaluation, SplitName
from jaxseq.training.run_directory import TrainedRun, provenance

_PARTS = 3
"""Batches, spread over the split, that examples are taken from."""
_ROWS = 4
"""Examples of a batch."""


def write_evaluation(
    run_dir: Path, split: SplitName, run: TrainedRun, checkpoint: str, found: Evaluation
) -> None:
    """Writes evaluation-SPLIT.json, whole or not at all."""
    packages = ("jax", "flax", "optax", "numpy")
    described = {
        "split": split,
        "step": run.step,
        "checkpoint": checkpoint,
        "metrics": found.metrics,
        "intervals": found.intervals,
        "details": found.details,
        **provenance(),
        "command": ["jaxseq", *sys.argv[1:]],
        "versions": {
            "jaxseq": jaxseq.__version__,
            **{name: importlib.metadata.version(name) for name in packages},
        },
    }
    write_json(run_dir / f"evaluation-{split}.json", described)


def write_examples(run_dir: Path, split: SplitName, run: TrainedRun, examples: Any) -> None:
    """Writes examples-SPLIT.jsonl and its folder, where the task shows examples."""
    task, model, data = run.experiment.task, run.experiment.model, run.experiment.data
    if not hasattr(task, "examples"):
        return
    folder = run_dir / f"examples-{split}"
    shutil.rmtree(folder, ignore_errors=True)
    rows: list[dict[str, Any]] = []
    batches = list(data.evaluation_batches(examples, _PARTS))
    for part, batch in enumerate(batches[:: max(len(batches) // _PARTS, 1)][:_PARTS]):
        own = folder / str(part)
        own.mkdir(parents=True)
        found = task.examples(model, run.params, run.tokenizer, _first_rows(batch), own)[:_ROWS]
        for row in found:
            files = row.get("files", {})
            rows.append(row | {"files": {kind: f"{part}/{name}" for kind, name in files.items()}})
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    file = run_dir / f"examples-{split}.jsonl"
    file.with_suffix(".part").write_text(lines, encoding="utf-8")
    os.replace(file.with_suffix(".part"), file)


def _first_rows(batch: Batch) -> Batch:
    """The batch with its first examples, and filler rows in the place of the others.

    Its shapes stay, so that nothing compiles anew. One whose rows are not one an example stays
    whole.
    """
    if len({len(array) for array in batch.values()}) > 1:
        return batch
    first = {name: np.zeros_like(array) for name, array in batch.items()}
    for name, array in batch.items():
        first[name][:_ROWS] = array[:_ROWS]
    return first
