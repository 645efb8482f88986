"""What each run is, in which options they differ, and how to run them again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxseq.reporting.figures import command, moment, option, seconds
from jaxseq.reporting.markup import Child, Markup, element, join
from jaxseq.reporting.options import ABSENT, PARTS, Row, compare
from jaxseq.reporting.parameters import count_parameters
from jaxseq.reporting.parts import option_name, run_name, table
from jaxseq.reporting.runs import Run, number

FIRST = 12
"""Differences that are not folded."""


def runs_section(runs: Sequence[Run]) -> list[Markup]:
    """What each run is, what is wrong with its files, and in what they differ."""
    facts = [_facts(run) for run in runs]
    body: list[list[Child]] = []
    for name in dict.fromkeys(name for each in facts for name in each):
        values = [each.get(name, ABSENT) for each in facts]
        body.append([name, *(values if len(set(values)) > 1 else values[:1])])
    parts = [_by_run(runs, body, "facts")]
    for place, run in enumerate(runs):
        for note in run.notes:
            parts.append(element("p", run_name(place, run.name), f": {note}.", class_="alarm"))
    if len(runs) > 1:
        differing, _ = compare(runs)
        parts.append(element("h3", "Options in which they differ"))
        # What one kind of model alone has is of less interest than what all have.
        order = sorted(differing, key=lambda row: (ABSENT in row[1], row[0] not in PARTS))
        rows = _options(order)
        if differing:
            parts.append(_by_run(runs, rows[:FIRST], "options"))
        if rows[FIRST:]:
            rest = element("summary", f"{len(rows) - FIRST} more")
            parts.append(element("details", rest, _by_run(runs, rows[FIRST:], "options")))
        if not differing:
            parts.append(element("p", "None: the runs have one config.", class_="note"))
    return parts


def config_section(runs: Sequence[Run]) -> list[Markup]:
    """All options: of one run, or those that several share."""
    if not any(run.config for run in runs):
        return [element("p", "No run has a config that can be read.", class_="gap")]
    _, shared = compare(runs)
    groups: dict[str, list[list[Child]]] = {}
    for name, values in shared:
        value = next(v for v, run in zip(values, runs, strict=True) if run.config)
        part = name.partition(".")[0]
        in_part = "." in name or any(other.startswith(f"{part}.") for other, _ in shared)
        groups.setdefault(part if in_part else "run", []).append(
            [option_name(name) if "." in name or not in_part else name, value]
        )
    tables = [
        element(
            "details",
            element("summary", part, element("small", f" {len(rows)} options")),
            table([], rows, "options"),
            open=len(runs) == 1 and part in ("task", "model"),
        )
        for part, rows in groups.items()
    ]
    note = []
    if len(runs) > 1:
        note = [
            element("p", "The options that all runs share; the others stand above.", class_="note")
        ]
    return [*note, *tables]


def reproduction_section(runs: Sequence[Run]) -> list[Markup]:
    """Every start of every run: when, with what command, versions and devices."""
    parts = []
    for place, run in enumerate(runs):
        if len(runs) > 1:
            parts.append(element("h3", run_name(place, run.name)))
        if not run.starts:
            parts.append(
                element("p", "What started this run is not known: run.json has it.", class_="gap")
            )
        for start in run.starts:
            lines = [moment(start.get("time", "at an unknown time"))]
            if start.get("commit"):
                lines.append(f"commit {start['commit']}")
            lines.append(_versions(start))
            lines.append(_devices(start))
            parts.append(
                element(
                    "div",
                    element("p", "; ".join(line for line in lines if line)),
                    element("pre", element("code", command(start.get("command", "?")))),
                    class_="start",
                )
            )
        if run.corpus:
            parts.append(
                element("p", "SHA-256 of the data: ", element("code", run.corpus), class_="note")
            )
        where = element("code", str(run.folder.resolve()))
        parts.append(element("p", "Run directory: ", where, class_="note"))
    return parts


def experiment_name(run: Run) -> str | None:
    """The experiment file that a run was started from, without its suffix."""
    for start in run.starts[::-1]:
        words = start.get("command")
        if isinstance(words, list):
            for word in map(str, words[1:]):
                file = word.partition(":")[0]
                if file.endswith(".py"):
                    return Path(file).stem
    return None


def _by_run(runs: Sequence[Run], body: Sequence[Sequence[Child]], kind: str) -> Markup:
    """A table with a column for each run, which of one alone needs no head."""
    names = ["", *(run_name(place, run.name) for place, run in enumerate(runs))]
    return table(names if len(runs) > 1 else [], body, kind)


def _options(rows: Sequence[Row]) -> list[list[Child]]:
    """Options by name as one types them; a part itself bears its name alone."""
    parts = {name.partition(".")[0] for name, _ in rows if "." in name}
    return [[name if name in parts else option_name(name), *values] for name, values in rows]


def _facts(run: Run) -> dict[str, Child]:
    """What a run is, name by name; what is not known is left out, or said."""
    facts: dict[str, Child] = {"State": _state(run)}
    name = experiment_name(run)
    if name:
        facts["Experiment"] = name
    config = run.config or {}
    for part in ("task", "model"):
        facts[part.capitalize()] = _type(config.get(part)) or "unknown"
    count = count_parameters(run.folder) if config else None
    facts["Parameters"] = "unknown" if count is None else f"{count:,}"
    facts["Data"] = _data(config.get("data"))
    if run.starts:
        first, again = moment(run.starts[0].get("time", "unknown")), len(run.starts) - 1
        facts["Started"] = f"{first}, and {again} times again" if again else first
        facts["Devices"] = _devices(run.starts[-1]) or "unknown"
        facts["Versions"] = _versions(run.starts[-1]) or "unknown"
    if run.written:
        facts["Last written"] = moment(run.written)
    trained = _trained(run)
    if trained:
        facts["Steps took"] = seconds(trained)
    return facts


def _state(run: Run) -> Child:
    total = run.num_steps
    if total is None:
        return f"step {run.step:,}"
    if run.step >= total:
        return f"finished, {total:,} steps"
    return join(f"unfinished: step {run.step:,} of {total:,}")


def _type(tree: Any) -> str:
    return str(tree.get("type", "")).rpartition(".")[2] if isinstance(tree, dict) else ""


def _data(tree: Any) -> Child:
    """The kind of the data and the files that it names."""
    if not isinstance(tree, dict):
        return "unknown"
    files = [
        option(value)
        for value in tree.values()
        if isinstance(value, dict) and value.get("type") == "path"
    ]
    listed = [element("small", Path(file).name, title=file) for file in files]
    return join(_type(tree), *listed)


def _versions(start: dict[str, Any]) -> str:
    versions = start.get("versions")
    listed = [f"{name} {version}" for name, version in versions.items()] if versions else []
    if start.get("python"):
        listed.append(f"Python {start['python']}")
    return ", ".join(listed)


def _devices(start: dict[str, Any]) -> str:
    devices = start.get("devices")
    if not isinstance(devices, list) or not devices:
        return ""
    return str(devices[0]) if len(devices) == 1 else f"{len(devices)}: {devices[0]} and so on"


def _trained(run: Run) -> float:
    """The seconds that training steps took, as far as rows say."""
    total, before = 0.0, 0
    for row in run.rows:
        if row["split"] != "train":
            continue
        total += (row["step"] - before) * (number(row.get("step_seconds")) or 0.0)
        before = row["step"]
    return total
