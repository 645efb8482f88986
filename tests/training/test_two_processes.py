"""Two processes of four devices train what one of eight does, through a signal and a death."""

import re
import signal

import numpy as np
from processes import ends, start_processes
from tiny import call, rows, when_at_step, write_experiment

from jaxseq.training.run_directory import read_run

STEPS = 40
OPTIONS = (
    *("--data.batch-size", 8, "--num-steps", STEPS, "--evaluate-every", 15),
    *("--checkpoint-every", 10, "--no-show", "--heartbeat-timeout", 10),
)


def losses(run_dir):
    return {(row["step"], row["split"]): row["loss"] for row in rows(run_dir)}


def test_two_processes_train_as_one_does_and_lose_nothing(tmp_path, capsys):
    """Stopped by a signal to one of them, killed, and taken to its end by a single process."""
    file, run_dir = write_experiment(tmp_path), tmp_path / "run"

    # SIGTERM at one stops both after the same step, which is saved.
    train = ("-m", "jaxseq.cli", "train", file, "--run-dir", run_dir, *OPTIONS)
    processes = start_processes(*train)
    when_at_step(processes[1], run_dir, 8, signal.SIGTERM)
    outcome = ends(processes)
    for number, (status, output) in enumerate(outcome):
        assert status == 128 + signal.SIGTERM, output
        # One of them talks.
        assert ("8 of 8 cpu devices in 2 processes" in output) == (number == 0), output
    said = [re.search(r"stopped by SIGTERM after step (\d+), state saved", o) for _, o in outcome]
    (step,) = {int(found[1]) for found in said if found}
    assert read_run(run_dir).step == max(losses(run_dir))[0] == step < STEPS - 10

    # The death of one ends the other, with a line that says so.
    processes = start_processes(*train)
    when_at_step(processes[1], run_dir, max(step, 10) + 2, signal.SIGKILL)
    (status, output), (killed, _) = ends(processes)
    assert killed == -signal.SIGKILL
    assert status == 75, output
    assert f"resumes {run_dir} at step {step}" in output
    assert re.search(r"process 1 \(.*\) gave no sign of life and is taken for lost; to go", output)

    # One process of eight devices goes on.
    status, _, err = call(capsys, *train[2:])
    assert status == 0, err
    assert f"resumes {run_dir} at step" in err
    alone = tmp_path / "alone"
    status, _, err = call(capsys, "train", file, "--run-dir", alone, *OPTIONS)
    assert status == 0, err
    found, expected = losses(run_dir), losses(alone)
    assert found.keys() == expected.keys()
    for key, loss in expected.items():
        np.testing.assert_allclose(found[key], loss, rtol=1e-5, err_msg=str(key))
