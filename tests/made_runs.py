"""Run directories for tests of reports, written by hand: nothing is trained."""

import dataclasses
import json
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxseq.config import to_tree
from jaxseq.data.corpus import TextData
from jaxseq.models.gpt import GPTConfig
from jaxseq.tasks.language_model import LanguageModel
from jaxseq.training.experiment import Experiment

EXPERIMENT = Experiment(
    task=LanguageModel(),
    model=GPTConfig(num_layers=1, width=8, num_heads=2, vocab_size=16),
    data=TextData(path=Path("/somewhere/text.txt"), context=8, batch_size=2),
    num_steps=200,
)

START = {
    "time": "2026-11-22T02:38:07+00:00",
    "command": ["/there/jaxseq/cli.py", "train", "experiments/made_up.py", "--seed", "1"],
    "python": "3.11.7",
    "versions": {"jaxseq": "0.1.0", "jax": "0.10.2"},
    "devices": ["cpu:0"],
}


def write_run(
    folder: Path,
    *,
    seed: int = 0,
    steps: int = 200,
    corpus: str = "abc",
    held_out: Sequence[str] = ("validation", "test"),
) -> Path:
    """A run of `steps` of 200 steps with a row every second step, not evaluated."""
    folder.mkdir(parents=True)
    experiment = dataclasses.replace(EXPERIMENT, seed=seed)
    (folder / "config.json").write_text(json.dumps(to_tree(experiment)))
    described = {"corpus": corpus, "held_out": held_out, "starts": [START]}
    (folder / "run.json").write_text(json.dumps(described))
    rows = []
    for step in range(2, steps + 1, 2):
        loss = 3.0 * math.exp(-step / 80) + 0.2 * math.sin(step * (seed + 1)) + 1.0
        row = {"loss": loss, "gradient_norm": loss / 2, "learning_rate": 1e-3 * (1 - step / 400)}
        rows.append({"step": step, "split": "train", **row, "step_seconds": 0.5})
        if step % 50 == 0:
            rows.append({"step": step, "split": "validation", "loss": loss, "tokens": 400})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_evaluation(
    folder: Path, metrics: dict[str, Any], split: str = "test", **more: Any
) -> None:
    """What `jaxseq evaluate` leaves; of every float an interval of 0.1 on either side."""
    intervals = {name: [x - 0.1, x + 0.1] for name, x in metrics.items() if isinstance(x, float)}
    found = {"split": split, "step": 200, "checkpoint": "last", "metrics": metrics}
    found |= {"intervals": intervals, "details": {}, "commit": "abcdef", "command": ["jaxseq"]}
    (folder / f"evaluation-{split}.json").write_text(json.dumps(found | more))


def write_examples(folder: Path, rows: list[dict[str, Any]], split: str = "test") -> Path:
    """Rows of examples; returns the folder of their files."""
    (folder / f"examples-{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / f"examples-{split}").mkdir(exist_ok=True)
    return folder / f"examples-{split}"


def png() -> bytes:
    """A picture of one grey point."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    body = zlib.compress(b"\0\x80")
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


def wav() -> bytes:
    """Ten samples of silence at 8 kHz."""
    content = bytes(20)
    form = struct.pack("<HHIIHH", 1, 1, 8000, 16000, 2, 16)
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", 20) + content
    return b"RIFF" + struct.pack("<I", len(body)) + body
