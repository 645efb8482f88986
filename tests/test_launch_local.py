"""scripts/launch_local.sh: what each process is told, what becomes of all when one fails."""

import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "launch_local.sh"


def launch(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", SCRIPT, *words], capture_output=True, text=True, timeout=60, check=False
    )


def test_a_dry_run_prints_the_commands(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    done = launch("2", "--devices", "4", "--port", "3000", "--dry-run", "--", "my run", "--x", "")
    head = (
        "env JAX_COORDINATOR_ADDRESS=localhost:3000 JAX_NUM_PROCESSES=2 JAX_PLATFORMS=cpu "
        "XLA_FLAGS=--xla_force_host_platform_device_count=4"
    )
    assert done.stdout.splitlines() == [
        f"{head} JAX_PROCESS_ID={number} 'my run' --x ''" for number in (0, 1)
    ]
    assert "XLA_FLAGS" not in launch("2", "--dry-run", "--", "x").stdout
    monkeypatch.setenv("XLA_FLAGS", "--given")
    line = launch("2", "--devices", "4", "--dry-run", "--", "x").stdout
    assert "XLA_FLAGS=--given --xla_force_host_platform_device_count=4" in line


def test_lines_begin_with_the_process_that_wrote_them():
    done = launch(
        "3", "--", "bash", "-c", 'echo "of $JAX_NUM_PROCESSES"; printf "%s\\n" "$0"', "a b"
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [
        f"[{number}] {said}" for number in range(3) for said in ("a b", "of 3")
    ]


def test_one_that_fails_ends_all_with_its_status(monkeypatch):
    monkeypatch.setenv("JAXSEQ_GRACE", "0")
    begin = time.monotonic()
    done = launch("2", "--", "bash", "-c", '[ "$JAX_PROCESS_ID" = 0 ] && exit 7; exec sleep 50')
    assert done.returncode == 7
    assert "1 of 2 processes still ran when another had failed, and are killed" in done.stderr
    assert time.monotonic() - begin < 30


def test_a_signal_reaches_all():
    wait = 'trap "echo bye; exit 3" TERM; echo here; while :; do sleep 0.1; done'
    process = subprocess.Popen(
        ["bash", SCRIPT, "2", "--", "bash", "-c", wait], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert sorted(process.stdout.readline() for _ in range(2)) == ["[0] here\n", "[1] here\n"]
    process.terminate()
    assert sorted(process.communicate(timeout=30)[0].splitlines()) == ["[0] bye", "[1] bye"]
    assert process.returncode == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["two", "--", "x"], "N is 'two'; it must be a number from 1 up"),
        (["2", "--devices", "0", "--", "x"], "--devices is '0'"),
        (["2", "--port"], "--port needs a value"),
        (["2", "x"], "unknown option 'x'; there are --devices --port --dry-run"),
        (["2", "--"], "name the command"),
    ],
)
def test_mistakes_are_named(words, message):
    done = launch(*words)
    assert done.returncode == 2
    assert message in done.stderr
