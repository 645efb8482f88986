"""Metrics of a run as files: one JSON a line, and TensorBoard."""

import contextlib
import json
import time
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2, summary_pb2

from jaxseq.errors import UserError

METRICS_FILE = "metrics.jsonl"

_events: Any = event_pb2  # generated as they are imported: no type checker sees their classes
_summaries: Any = summary_pb2


class MetricsLog:
    """Appends rows of numbers to `metrics.jsonl` and to TensorBoard files in the run directory.

    A row is {"step": steps done, "split": "train" or "validation", name: number, ...}. A resumed
    run starts at `start`: rows of later steps, from the part of the run that was lost, go.
    """

    def __init__(self, run_dir: Path, start: int):
        """Opens the files, keeping the rows up to step `start`; UserError as for `write`."""
        path, board = run_dir / METRICS_FILE, run_dir / "tensorboard"
        kept = [row for row in read_metrics(run_dir) if row["step"] <= start]
        unfinished = path.with_name(path.name + ".tmp")
        try:
            unfinished.write_text("".join(json.dumps(row) + "\n" for row in kept), "utf-8")
        except OSError as error:
            raise _not_written(path, start, error) from error
        unfinished.replace(path)
        # Unbuffered: a row is on disk when it is written, or the error is raised there and then.
        self._file = path.open("ab", buffering=0)
        board.mkdir(exist_ok=True)
        # Not the SummaryWriter around it, whose thread dies of a full disk: we would wait for it.
        self._board = EventsWriter(str(board / "events"))
        if kept:  # TensorBoard then forgets what it has seen of later steps
            status = _events.SessionLog(status=_events.SessionLog.START)
            self._board.write_event(
                _events.Event(wall_time=time.time(), step=start + 1, session_log=status)
            )

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        with contextlib.suppress(OSError):  # the row before has said so
            self._board.close()

    def write(self, step: int, split: str, values: dict[str, float]) -> None:
        """Adds one row; UserError where the disk takes no more."""
        row = json.dumps({"step": step, "split": split} | values) + "\n"
        scalar = _summaries.Summary.Value
        shown = [scalar(tag=f"{split}/{name}", simple_value=values[name]) for name in values]
        summary = _summaries.Summary(value=shown)
        event = _events.Event(wall_time=time.time(), step=step, summary=summary)
        try:
            self._file.write(row.encode())
            self._board.write_event(event)
            self._board.flush()
        except OSError as error:
            raise _not_written(Path(self._file.name), step, error) from error


def _not_written(path: Path, step: int, error: OSError) -> UserError:
    return UserError(
        f"cannot write {path} at step {step}: {error.strerror}; make room and run the same command "
        "again: it goes on from the last checkpoint"
    )


def read_metrics(run_dir: Path) -> list[dict]:
    """The rows written so far; a last line that a crash cut short is passed over."""
    path = run_dir / METRICS_FILE
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            rows.append(json.loads(line))
    return rows
