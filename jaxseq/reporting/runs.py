"""A run directory read for a report: all that can be read, and a note of all that cannot.

A run may still be going on, may have been killed as it wrote, or may have lost files.
"""

import dataclasses
import datetime
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxseq.errors import UserError
from jaxseq.training.experiment import CONFIG_FILE
from jaxseq.training.metrics import METRICS_FILE
from jaxseq.training.run_directory import RUN_FILE

Tree = dict[str, Any]

EVALUATION, EXAMPLES = "evaluation-", "examples-"
"""How the names of the files begin that `jaxseq evaluate` leaves, followed by the split."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run directory holds."""

    folder: Path
    name: str
    """Tells the run from the others of the report."""
    config: Tree | None
    """The resolved experiment, as `config.to_tree` writes it."""
    starts: tuple[Tree, ...]
    """Command, versions and devices of every start."""
    corpus: str | None
    """What tells the data of training."""
    held_out: tuple[str, ...]
    """The splits to evaluate on; the last is for the end."""
    rows: tuple[Tree, ...]
    """The rows of metrics, by step; of two of one step and split the later one."""
    written: datetime.datetime | None
    """When the last row was written."""
    evaluations: dict[str, Tree]
    """What `jaxseq evaluate` found, by split."""
    examples: dict[str, tuple[Tree, ...]]
    """What the model made of some examples, by split."""
    notes: tuple[str, ...]
    """What is missing or damaged."""

    @property
    def step(self) -> int:
        """Steps done when the last row was written."""
        return max((row["step"] for row in self.rows), default=0)

    @property
    def num_steps(self) -> int | None:
        """Steps that the run is to have; None where its config does not say."""
        steps = (self.config or {}).get("num_steps")
        return steps if isinstance(steps, int) else None


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs of some directories; UserError for one that holds no run."""
    if not folders:
        raise UserError("name a run directory; `jaxseq train` makes one")
    names = _names([folder.resolve() for folder in folders])
    return [_read(folder, name) for folder, name in zip(folders, names, strict=True)]


def _names(folders: list[Path]) -> list[str]:
    """The last part of each path, and as many before it as tell the paths apart."""
    repeated = [folder for folder in folders if folders.count(folder) > 1]
    if repeated:
        raise UserError(f"{repeated[0]} is named twice; name each run once")
    parts = 1
    while len({folder.parts[-parts:] for folder in folders}) < len(folders):
        parts += 1
    return ["/".join(folder.parts[-parts:]) for folder in folders]


def _read(folder: Path, name: str) -> Run:
    if not folder.is_dir():
        raise UserError(f"there is no run directory {folder}; `jaxseq train` makes one")
    if not any((folder / file).exists() for file in (CONFIG_FILE, RUN_FILE, METRICS_FILE)):
        raise UserError(f"{folder} is no run directory: it has no {CONFIG_FILE}; name another")
    notes: list[str] = []
    config = _tree(folder / CONFIG_FILE, notes)
    described = _tree(folder / RUN_FILE, notes) or {}
    starts = described.get("starts")
    corpus = described.get("corpus")
    held_out = described.get("held_out")
    metrics = folder / METRICS_FILE
    rows = {}
    for row in _lines(metrics, notes, _is_metrics_row):
        rows[row["step"], row["split"]] = row
    if not rows:
        notes.append(f"{METRICS_FILE} has no row yet")
    evaluations, examples = {}, {}
    for path in sorted(folder.glob(f"{EVALUATION}*.json")):
        found = _tree(path, notes)
        if found is not None and isinstance(found.get("metrics"), dict):
            evaluations[path.stem.removeprefix(EVALUATION)] = found
        elif found is not None:
            notes.append(f"{path.name} is damaged: it has no metrics; evaluate again")
    for path in sorted(folder.glob(f"{EXAMPLES}*.jsonl")):
        examples[path.stem.removeprefix(EXAMPLES)] = tuple(_lines(path, notes, lambda row: True))
    return Run(
        folder=folder,
        name=name,
        config=config,
        starts=tuple(start for start in starts if isinstance(start, dict))
        if isinstance(starts, list)
        else (),
        corpus=corpus if isinstance(corpus, str) else None,
        held_out=tuple(map(str, held_out))
        if isinstance(held_out, list) and held_out
        else ("validation",),
        rows=tuple(rows[key] for key in sorted(rows)),
        written=_written(metrics) if rows else None,
        evaluations=evaluations,
        examples=examples,
        notes=tuple(notes),
    )


def _tree(path: Path, notes: list[str]) -> Tree | None:
    """A JSON object; None, and a note, where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        notes.append(f"{path.name} cannot be read: {error.strerror}")
        return None
    except ValueError as error:
        notes.append(f"{path.name} is damaged: {error}")
        return None
    if not isinstance(found, dict):
        notes.append(f"{path.name} is damaged: it holds no object")
        return None
    return found


def _lines(path: Path, notes: list[str], good: Callable[[Tree], bool]) -> Iterator[Tree]:
    """The objects of a file with one a line; a note of those that are none."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return  # a run that has just begun has no row
    except OSError as error:
        notes.append(f"{path.name} cannot be read: {error.strerror}")
        return
    if lines[-1]:  # each line ends with a newline, so this one was being written
        notes.append(
            f"{path.name}: the last line is cut short, as a run that is killed leaves it; it is "
            "left out"
        )
    damaged = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            row = json.loads(line.decode())
        except ValueError:
            damaged.append(number)
            continue
        if isinstance(row, dict) and good(row):
            yield row
        else:
            damaged.append(number)
    if damaged:
        more = f" and {len(damaged) - 3} more" if len(damaged) > 3 else ""
        listed = ", ".join(map(str, damaged[:3])) + more
        notes.append(f"{path.name}: damaged lines are left out: {listed}")


def _is_metrics_row(row: Tree) -> bool:
    return isinstance(number(row.get("step")), int) and isinstance(row.get("split"), str)


def _written(path: Path) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(os.stat(path).st_mtime, datetime.UTC)


def number(value: Any) -> float | int | None:
    """A number of a JSON file that a computer has; None for anything else."""
    if isinstance(value, bool) or (isinstance(value, int) and abs(value) >= 2**63):
        return None
    return value if isinstance(value, int | float) else None
