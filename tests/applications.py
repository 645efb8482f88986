"""What the tests of applications share: an experiment's offline default, trained small."""

import json
from pathlib import Path
from typing import Any

from tiny import REPOSITORY, call


def train_offline(
    name: str, options: tuple[object, ...], tmp_path: Path, capsys: Any, monkeypatch: Any
) -> tuple[dict[str, Any], Path]:
    """(metrics of the whole validation split, run directory) of experiments/NAME.

    NAME is FILE.py or FILE.py:EXPERIMENT. Nothing of the catalog's data is there.
    """
    monkeypatch.delenv("JAXSEQ_DATA", raising=False)
    monkeypatch.setenv("JAXSEQ_CACHE", str(tmp_path / "cache"))
    run_dir = tmp_path / "run"
    words = ["train", REPOSITORY / "experiments" / name, "--run-dir", run_dir, "--no-show"]
    status, _, err = call(capsys, *words, *options)
    assert status == 0, err
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["split"] == "validation"][-1], run_dir
