"""Seconds from SIGTERM to a complete checkpoint, and the steps that are lost by it.

    python scripts/measure_preemption.py [--processes 2] [--experiment experiments/gpt_char.py]

Trains the experiment until it has logged a step, sends SIGTERM (to the last process), and waits
for the checkpoint to lie under its final name. Steps lost: those that the run had finished, by its
metrics, and the checkpoint has not.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tyro
from bench import machine

REPOSITORY = Path(__file__).parent.parent


def measure_preemption(
    experiment: Path = REPOSITORY / "experiments" / "gpt_char.py",
    processes: int = 1,
    at_step: int = 50,
    rounds: int = 3,
) -> None:
    """Stops runs of an experiment by SIGTERM.

    Args:
        experiment: What is trained.
        processes: How many train it together, each with one CPU device.
        at_step: The step after which the signal is sent.
        rounds: How often.
    """
    print(machine("jax", "orbax-checkpoint"))
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            run_dir = Path(folder) / "run"
            seconds, ended, done, saved = stopped_run(experiment, processes, at_step, run_dir)
        print(
            f"{experiment.stem}, {processes} processes: checkpoint of step {saved} complete "
            f"{seconds:.2f} s after SIGTERM, process ended after {ended:.2f} s, {done - saved} "
            "steps lost"
        )


def stopped_run(
    experiment: Path, processes: int, at_step: int, run_dir: Path
) -> tuple[float, float, int, int]:
    """(seconds to the checkpoint, to the end, last step done, step of the checkpoint)."""
    options = ("--checkpoint-every", "1000000", "--log-every", "1", "--no-show")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    hosts = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": str(processes)}
    train = [sys.executable, "-m", "jaxseq.cli", "train", experiment, "--run-dir", run_dir]
    with run_dir.with_suffix(".log").open("w+") as log:
        running = [
            subprocess.Popen(
                [*train, *options],
                env={**os.environ, **hosts, "JAX_PROCESS_ID": str(number)},
                cwd=REPOSITORY,
                stdout=log,
                stderr=log,
            )
            for number in range(processes)
        ]
        try:
            while last_step(run_dir) < at_step:
                if running[0].poll() is not None:
                    log.seek(0)
                    raise SystemExit(f"the run ended by itself:\n{log.read()}")
                time.sleep(0.01)
            begin = time.perf_counter()
            running[-1].send_signal(signal.SIGTERM)
            while not (found := complete(run_dir)) and running[0].poll() is None:
                time.sleep(0.001)
            seconds = time.perf_counter() - begin
            for process in running:
                process.wait(60)
            ended = time.perf_counter() - begin
        finally:
            for process in running:
                process.kill()
    found = found or complete(run_dir)
    if not found:
        raise SystemExit("no checkpoint was saved")
    return seconds, ended, last_step(run_dir), found[-1]


def last_step(run_dir: Path) -> int:
    """The last step in the metrics; 0 before the first."""
    file = run_dir / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return max((json.loads(x)["step"] for x in lines if x.endswith("\n")), default=0)


def complete(run_dir: Path) -> list[int]:
    """The steps whose checkpoints have their final names."""
    folder = run_dir / "checkpoints"
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(int(entry.name) for entry in found if entry.name.isdigit())


if __name__ == "__main__":
    tyro.cli(measure_preemption)
