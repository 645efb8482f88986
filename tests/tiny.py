"""A small experiment that trains in seconds, as a file like those in experiments/."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from jaxseq.cli import main

REPOSITORY = Path(__file__).parent.parent

EXPERIMENT = '''"""A tiny experiment for tests."""

from pathlib import Path

from jaxseq.data.corpus import TextData
from jaxseq.models.gpt import GPTConfig
from jaxseq.tasks.language_model import LanguageModel
from jaxseq.training.experiment import Experiment
from jaxseq.training.optimizers import Optimizer

experiment = Experiment(
    task=LanguageModel(),
    model=GPTConfig(num_layers=1, width=16, num_heads=2, dropout=0.1),
    data=TextData(path=Path(__file__).with_name("text.txt"), context=8, batch_size=2),
    optimizer=Optimizer(learning_rate=1e-2, warmup_steps=2),
    num_steps=12,
    log_every=1,
    evaluate_every=5,
    evaluation_batches=2,
    checkpoint_every=5,
)
'''


def write_experiment(folder: Path) -> Path:
    """The experiment and its text (about 500 windows), in `folder`; returns the file's path."""
    draw = random.Random(0)
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "slept", "under", "Caf\u00e9", "\n"]
    text = " ".join(draw.choice(words) for _ in range(1100))
    (folder / "text.txt").write_text(text, encoding="utf-8")
    (folder / "tiny.py").write_text(EXPERIMENT, encoding="utf-8")
    return folder / "tiny.py"


def call(capsys, *words) -> tuple[int, str, str]:
    """(status, standard output, standard error) of a `jaxseq` command in this process."""
    capsys.readouterr()
    status = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return status, out, err


def start_training(
    file: Path, run_dir: Path, *options: str, limit: str = "true"
) -> subprocess.Popen:
    """`jaxseq train` in a process of its own, on one device, after the shell command `limit`."""
    shell = ["bash", "-c", f'{limit} && exec "$@"', "bash"]
    train = [sys.executable, "-m", "jaxseq.cli", "train", file, "--run-dir", run_dir]
    return subprocess.Popen(
        [*shell, *train, "--no-show", *options],
        cwd=REPOSITORY,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def rows(run_dir: Path) -> list[dict]:
    """The metrics written so far."""
    path = run_dir / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(True) if line.endswith("\n")]


def when_at_step(process: subprocess.Popen, run_dir: Path, step: int, number: signal.Signals):
    """Sends signal `number` as soon as the run has written the metrics of `step`."""
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        written = rows(run_dir)
        if written and written[-1]["step"] >= step:
            process.send_signal(number)
            return
        time.sleep(0.002)
    output = process.communicate()[0]
    raise AssertionError(f"the run never reached step {step}: {output}")
