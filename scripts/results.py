"""The table of the applications: experiments/RESULTS.md, made from what runs have left.

    python scripts/results.py [--runs runs] [--output experiments/RESULTS.md]

A row is a group of runs that differ in their seed alone. Every figure comes from the files of a run
directory: `evaluation-test.json` (or that of the validation split where there is no test split),
`cost.json` of the measuring scripts, and `figures-*.json`, where a script has measured more (its
baselines, digits read back). Nothing is typed in by hand.
"""

import dataclasses
import json
import re
import shlex
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tyro

LEFT_OUT = re.compile(r"^(loss|step)$|_micro$|\[")
"""Metrics that are no result, that say accuracy again, and those of single labels."""

BY_THE_WAY = {"--run-dir": 1, "--no-show": 0, "--seed": 1}
"""Options that make no other model, and the values that follow them."""
HEAD = """# What the applications reach

Written by `scripts/results.py` from the files of the runs: do not edit. One run has a 95 %
bootstrap interval over the examples of the split; several, which differ in their seed, have mean +-
standard deviation. Minutes are those of all processors in training, compilation included.
"""


@dataclasses.dataclass(frozen=True)
class Options:
    """Writes the table; see the head of this file."""

    runs: tuple[Path, ...] = (Path("runs"),)
    """Folders of run directories."""
    output: Path = Path("experiments") / "RESULTS.md"
    """Where the table goes."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What is known of a run directory."""

    folder: Path
    experiment: str
    """The file in experiments/."""
    model: str
    seed: int | None
    same: str
    """The config without its seed, by which runs are grouped."""
    evaluation: dict[str, Any]
    minutes: float | None
    figures: list[dict[str, Any]]


def read_runs(folders: Sequence[Path]) -> Iterator[Run]:
    """The runs under `folders` that have been evaluated on a held-out split."""
    for file in sorted(f for folder in folders for f in folder.rglob("evaluation-*.json")):
        folder = file.parent
        if file.name != "evaluation-test.json" and (folder / "evaluation-test.json").exists():
            continue
        found, config = _read(file), _read(folder / "config.json")
        experiment, _, name = _experiment(folder, found).partition(":")
        seed = config.pop("seed", None)
        model = found.get("model") or _model(name, config)
        cost = _read(folder / "cost.json").get("cpu_minutes")
        figures = [_read(extra) for extra in sorted(folder.glob("figures-*.json"))]
        same = json.dumps([experiment, model, config], sort_keys=True)
        yield Run(folder, experiment, model, seed, same, found, cost, figures)


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _experiment(folder: Path, found: dict[str, Any]) -> str:
    """FILE.py or FILE.py:NAME, as the run was first started."""
    if "experiment" in found:
        return found["experiment"]
    for word in _read(folder / "run.json")["starts"][0]["command"]:
        if ".py" in word and "experiments" in word:
            return Path(word).name
    return folder.name


def _model(name: str, config: dict[str, Any]) -> str:
    kind = config["model"]["type"].rpartition(".")[2].removesuffix("Config")
    return f"`{name or 'experiment'}`: {kind}"


def write_results(options: Options) -> None:
    """Writes the file, a section an experiment."""
    groups: dict[str, dict[str, list[Run]]] = {}
    for run in read_runs(options.runs):
        groups.setdefault(run.experiment, {}).setdefault(run.same, []).append(run)
    sections = [_section(name, list(rows.values())) for name, rows in sorted(groups.items())]
    options.output.write_text("\n".join([HEAD, *sections]), encoding="utf-8")
    print(f"{options.output}: {sum(map(len, groups.values()))} rows")


def _section(experiment: str, groups: list[list[Run]]) -> str:
    names = list(
        dict.fromkeys(
            name
            for runs in groups
            for name, value in runs[0].evaluation["metrics"].items()
            if not LEFT_OUT.search(name) and not isinstance(value, int)
        )
    )
    columns = ["model", "options", "split", *names, "seeds", "CPU minutes", "date", "commit"]
    lines = [f"## {experiment}", "", _row(columns), _row(["---"] * len(columns))]
    for runs in groups:
        found = runs[0].evaluation
        lines.append(
            _row(
                [
                    runs[0].model,
                    _options(runs[0]),
                    found["split"],
                    *(_figure(name, runs) for name in names),
                    str(len(runs)),
                    _mean([run.minutes for run in runs if run.minutes is not None], 1),
                    found.get("time", "")[:10],
                    found.get("commit", ""),
                ]
            )
        )
    lines.append("")
    for runs in groups:
        for run in runs:
            for extra in run.figures:
                figures = ", ".join(f"{k} {_short(v)}" for k, v in extra["figures"].items())
                lines.append(f"- {extra['title']}, measured with {runs[0].model}: {figures}")
    commands = {_command(run) for runs in groups for run in runs}
    lines += ["", *(f"    {command}" for command in sorted(commands)), ""]
    return "\n".join(lines)


def _words(run: Run) -> list[str]:
    """The command that first started the run, or whatever else made its figures."""
    starts = _read(run.folder / "run.json").get("starts")
    return starts[0]["command"] if starts else run.evaluation["command"]


def _options(run: Run) -> str:
    """What the experiment was trained with that its file does not say."""
    words = iter(_words(run))
    kept = []
    if any("experiments" in word and ".py" in word for word in words):
        for word in words:  # those behind the experiment
            if word in BY_THE_WAY:
                for _ in range(BY_THE_WAY[word]):
                    next(words)
            else:
                kept.append(_portable(word))
    return f"`{shlex.join(kept)}`" if kept else ""


def _command(run: Run) -> str:
    program, *words = _words(run)
    name = Path(program).name
    return shlex.join(["jaxseq" if name == "cli.py" else name, *map(_portable, words)])


def _portable(word: str) -> str:
    """A word of a command without this machine's folders."""
    name = Path(word).name
    if "experiments/" in word:
        return f"experiments/{name}"
    return name if word.startswith("/") else word


def _figure(name: str, runs: list[Run]) -> str:
    values = [run.evaluation["metrics"].get(name) for run in runs]
    if None in values:
        return ""
    if len(values) > 1:
        return f"{statistics.mean(values):.4g} +- {statistics.stdev(values):.2g}"
    interval = runs[0].evaluation.get("intervals", {}).get(name)
    spread = f" ({_short(interval[0])} to {_short(interval[1])})" if interval else ""
    return f"{_short(values[0])}{spread}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _mean(values: list[float], digits: int) -> str:
    return f"{statistics.mean(values):.{digits}f}" if values else ""


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    write_results(tyro.cli(Options))
