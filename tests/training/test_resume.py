"""A run that is killed, stopped or starved goes on as if nothing had happened."""

import random
import re
import shutil
import signal

import jax
import numpy as np
import pytest
from tiny import call, rows, start_training, when_at_step, write_experiment

from jaxseq.training.monitor import MEASURED
from jaxseq.training.run_directory import read_run
from jaxseq.training.signals import StopRequest

# The corpus has about 230 training batches, so that 300 steps cross into a second epoch.
STEPS = ("--num-steps", "300", "--evaluate-every", "40", "--checkpoint-every", "20")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_experiment(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def uninterrupted(file):
    process = start_training(file, file.parent / "uninterrupted", *STEPS)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    return file.parent / "uninterrupted"


def without_clock(row):
    return {key: value for key, value in row.items() if key not in MEASURED}


def assert_same_run(run_dir, expected):
    """Bitwise the same losses at every step, and the same parameters at the end."""
    assert list(map(without_clock, rows(run_dir))) == list(map(without_clock, rows(expected)))
    here, there = read_run(run_dir), read_run(expected)
    assert here.step == there.step == 300
    jax.tree.map(np.testing.assert_array_equal, here.params, there.params)


def test_the_run_crosses_an_epoch(file, uninterrupted):
    experiment = read_run(uninterrupted).experiment
    windows = len(experiment.data.load().train)
    assert windows < 300 * experiment.data.batch_size < 2 * windows


def test_stopped_where_it_would_evaluate_it_does_so_after_the_resume(file, capsys, monkeypatch):
    """There may be seconds left, which the state has to be saved in."""
    words = ("train", file, "--no-show", "--run-dir")  # evaluates after steps 5 and 10 of 12
    assert call(capsys, *words, file.parent / "through")[0] == 0
    run_dir = file.parent / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "agreed", lambda _, step: signal.SIGTERM if step == 5 else None)
        status, _, err = call(capsys, *words, run_dir)
    assert status == 128 + signal.SIGTERM
    assert "validation loss" not in err
    assert call(capsys, *words, run_dir)[0] == 0
    assert [row["split"] for row in rows(run_dir)].count("validation") == 3
    for row, same in zip(rows(run_dir), rows(file.parent / "through"), strict=True):
        assert without_clock(row) == without_clock(same)


def test_interrupted_again_and_again_it_is_the_same_run(file, uninterrupted):
    """Ctrl-C, SIGTERM and twice kill -9, each in what the one before it left."""
    run_dir, draw = file.parent / "interrupted", random.Random(0)
    stops = {
        30: signal.SIGINT,
        draw.randrange(61, 120): signal.SIGKILL,
        150: signal.SIGTERM,
        draw.randrange(181, 280): signal.SIGKILL,
    }
    for step, number in stops.items():
        process = start_training(file, run_dir, *STEPS)
        when_at_step(process, run_dir, step, number)
        output = process.communicate(timeout=120)[0]
        if number == signal.SIGKILL:
            assert process.returncode == -signal.SIGKILL
            last = read_run(run_dir).step
            assert last % 20 == 0
        else:
            assert process.returncode == 128 + number, output
            last = rows(run_dir)[-1]["step"]
            assert f"stopped by {number.name} after step {last}, state saved" in output
            assert f"--run-dir {run_dir}" in output
            assert read_run(run_dir).step == last
        begun = f"resumes {run_dir} at step" if step > 30 else f"trains in {run_dir}"
        assert begun in output
    resumed = start_training(file, run_dir, *STEPS)
    output = resumed.communicate(timeout=300)[0]
    assert resumed.returncode == 0, output
    assert f"resumes {run_dir} at step {last}" in output
    assert_same_run(run_dir, uninterrupted)


@pytest.fixture(scope="module")
def begun(file):
    """The first 20 steps."""
    steps = ("--num-steps", "20", "--log-every", "20")
    process = start_training(file, file.parent / "begun", *STEPS[2:], *steps)
    output = process.communicate(timeout=240)[0]
    assert process.returncode == 0, output
    return file.parent / "begun"


@pytest.mark.parametrize(
    ("log_every", "message"),
    [("20", "the checkpoint of step .* the last one kept is of step 20"), ("1", "metrics.jsonl")],
)
def test_a_full_disk_is_said_and_keeps_what_was_saved(file, begun, log_every, message):
    """No file may grow beyond 6 kB, which is how a full disk looks to those who write."""
    run_dir = shutil.copytree(begun, file.parent / f"full-{log_every}")
    options = ("--log-every", log_every, *STEPS)
    process = start_training(file, run_dir, *options, limit="ulimit -f 6")
    output = process.communicate(timeout=240)[0]
    assert process.returncode == 2, output
    (line,) = [line for line in output.splitlines() if line.startswith("jaxseq: ")]
    assert re.search(message, line)
    assert "make room and run the same command again" in line
    assert read_run(run_dir).step == 20
