"""The table of results: made of what runs have left, and of nothing else."""

import json
import subprocess
import sys
from pathlib import Path

from made_runs import write_run
from tiny import REPOSITORY


def evaluated(folder: Path, seed: int, accuracy: float, minutes: float) -> None:
    write_run(folder, seed=seed)
    found = {
        "split": "test",
        "metrics": {
            "loss": 1.0,
            "accuracy": accuracy,
            "f1_micro": 0.3,
            "f1[a]": 1.0,
            "examples": 7,
        },
        "intervals": {"accuracy": [accuracy - 0.1, accuracy + 0.1]},
        "time": "2026-11-22T12:24:58+00:00",
        "commit": "abcdef123456",
    }
    (folder / "evaluation-test.json").write_text(json.dumps(found))
    (folder / "cost.json").write_text(json.dumps({"cpu_minutes": minutes}))


def table(runs: Path, output: Path) -> list[str]:
    script = REPOSITORY / "scripts" / "results.py"
    command = [sys.executable, script, "--runs", runs, "--output", output]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    return output.read_text().splitlines()


def test_seeds_share_a_row_and_a_single_run_has_its_interval(tmp_path):
    runs = tmp_path / "runs"
    for seed, accuracy in enumerate((0.70, 0.74)):
        evaluated(runs / f"two-{seed}", seed, accuracy, 2.0 + seed)
    other = runs / "peer"
    other.mkdir()
    found = {
        "experiment": "made_up.py",
        "model": "a peer",
        "split": "test",
        "metrics": {"accuracy": 0.6},
        "intervals": {"accuracy": [0.5, 0.7]},
        "command": ["peer.py"],
    }
    (other / "evaluation-test.json").write_text(json.dumps(found))
    extra = {"title": "baselines", "figures": {"chance": 0.1}, "command": ["b.py"]}
    (runs / "two-0" / "figures-baseline.json").write_text(json.dumps(extra))
    lines = table(runs, tmp_path / "R.md")
    assert "## made_up.py" in lines
    (row,) = (line for line in lines if line.startswith("| `experiment`: GPT"))
    assert "| 0.72 +- 0.028 | 2 | 2.5 | 2026-11-22 | abcdef123456 |" in row
    (peer,) = (line for line in lines if line.startswith("| a peer"))
    assert "| 0.6 (0.5 to 0.7) | 1 |" in peer
    assert "- baselines, measured with `experiment`: GPT: chance 0.1" in lines
    # Counts and the loss are no results, and nothing names this machine.
    columns = [line for line in lines if line.startswith("| model")]
    assert columns == [
        "| model | options | split | accuracy | seeds | CPU minutes | date | commit |"
    ]
    assert not any("/there/" in line or str(tmp_path) in line for line in lines)


def test_a_run_without_a_test_split_shows_its_validation(tmp_path):
    folder = tmp_path / "runs" / "one"
    evaluated(folder, 0, 0.5, 1.0)
    found = json.loads((folder / "evaluation-test.json").read_text()) | {"split": "validation"}
    (folder / "evaluation-test.json").unlink()
    (folder / "evaluation-validation.json").write_text(json.dumps(found))
    known = json.loads((folder / "run.json").read_text())
    known["starts"][0]["command"] += ["--run-dir", "/there/one", "--data.path", "/there/a.txt"]
    (folder / "run.json").write_text(json.dumps(known))
    lines = table(tmp_path / "runs", tmp_path / "R.md")
    (row,) = (line for line in lines if line.startswith("| `experiment`: GPT"))
    assert "| `--data.path a.txt` | validation | 0.5 (0.4 to 0.6) | 1 | 1.0 |" in row
