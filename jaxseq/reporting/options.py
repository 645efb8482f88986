"""The options of runs, and those in which they differ."""

from collections.abc import Sequence
from typing import Any

from jaxseq.reporting.figures import option
from jaxseq.reporting.runs import Run

PARTS = ("task", "model", "data", "optimizer", "finetune", "mesh")
"""Parts of an experiment, those first that decide most."""

ABSENT = "\N{EM DASH}"
"""Stands for an option that a run does not have."""

Row = tuple[str, list[str]]
"""The name of something, and what it is in each run."""


def options(config: dict[str, Any]) -> dict[str, str]:
    """The leaves of a config by their names on the command line, as they are typed.

    The type of a part bears the part's name: {"model": "GPTConfig", "model.width": "128", ...}.
    """
    found = {}
    for part in (*(part for part in PARTS if part in config), *(p for p in config if p != "type")):
        if part not in found:
            _leaves(config[part], part.replace("_", "-"), found)
    return found


def _leaves(tree: Any, name: str, found: dict[str, str]) -> None:
    if not isinstance(tree, dict) or tree.get("type") == "path":
        found[name] = option(tree)
        return
    found[name] = str(tree.get("type", "")).rpartition(".")[2]
    for key, value in tree.items():
        if key != "type":
            _leaves(value, f"{name}.{key.replace('_', '-')}", found)


def compare(runs: Sequence[Run]) -> tuple[list[Row], list[Row]]:
    """(options in which runs differ, options that they share), for those with a config.

    Where runs have parts of different types, what only one type has is among the differences.
    """
    all_options = [options(run.config) if run.config else None for run in runs]
    known = [each for each in all_options if each is not None]
    names = dict.fromkeys(name for each in known for name in each)
    ranks = {part: rank for rank, part in enumerate(PARTS)}
    differing, shared = [], []
    for name in sorted(names, key=lambda name: ranks.get(name.partition(".")[0], -1)):
        values = ["?" if each is None else each.get(name, ABSENT) for each in all_options]
        same = len({each.get(name) for each in known}) == 1
        (shared if same else differing).append((name, values))
    return differing, shared
