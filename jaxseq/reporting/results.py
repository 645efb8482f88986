"""The metrics of runs on whole splits, side by side."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any

from jaxseq.reporting.figures import better, command, figure, moment, title_of
from jaxseq.reporting.markup import Child, Markup, element, join
from jaxseq.reporting.parts import gap, run_name, table
from jaxseq.reporting.runs import Run, number

LONG = 200
"""Characters of a detail from which on it is folded."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """One metric of one run."""

    value: float | int
    interval: tuple[float, float] | None


def measured(evaluation: dict[str, Any]) -> dict[str, Measured]:
    """The metrics of an evaluation that are numbers."""
    found = {}
    intervals = evaluation.get("intervals")
    for name, given in evaluation["metrics"].items():
        value = number(given)
        if value is None:
            continue
        ends = intervals.get(name) if isinstance(intervals, dict) else None
        good = isinstance(ends, list) and len(ends) == 2 and None not in map(number, ends)
        found[name] = Measured(value, (float(ends[0]), float(ends[1])) if good else None)
    return found


def best(runs: Sequence[Run], metric: str, values: dict[int, Measured]) -> set[int]:
    """The places of the runs that are best by a metric; none where they cannot be compared.

    They can where the metric's name says what is better and all were trained on the same data.
    """
    direction = better(metric)
    data = {runs[place].corpus for place in values}
    counted = all(isinstance(each.value, int) for each in values.values())
    if len(values) < 2 or not direction or len(data) > 1 or counted:
        return set()
    top = max(direction * each.value for each in values.values())
    return {place for place, each in values.items() if direction * each.value == top}


def headline(runs: Sequence[Run]) -> str | None:
    """The first metric beside the loss that says what is better, of the best run, in a sentence."""
    for split in sorted(_splits(runs), key=lambda split: split != "test"):
        found = _of_split(runs, split)
        names = dict.fromkeys(name for values in found.values() for name in values)
        for name in sorted(names, key=lambda name: name in ("loss", "perplexity")):
            values = {place: each[name] for place, each in found.items() if name in each}
            chosen = best(runs, name, values) if len(runs) > 1 else set(values)
            if not better(name) or len(chosen) != 1:
                continue
            (place,) = chosen
            said = f"{title_of(name)} {figure(values[place].value)}"
            if values[place].interval:
                said += f" (95 %: {_interval(values[place])})"
            said += f" on the {title_of(split)} split"
            if len(runs) == 1:
                return f"{said[0].upper()}{said[1:]}."
            return f"Best of {len(values)}: {runs[place].name}, {said}."
    if len(runs) > 1 or not (row := _last_validation(runs[0])):
        return None
    loss = number(row.get("loss"))
    return f"Validation loss {figure(loss)} after step {row['step']:,}." if loss else None


def results_section(runs: Sequence[Run]) -> list[Markup]:
    """A table for each split that some run was evaluated on, and what was not evaluated."""
    parts: list[Markup] = []
    intervals = False
    for split in _splits(runs):
        found = _of_split(runs, split)
        intervals |= any(each.interval for values in found.values() for each in values.values())
        parts += [element("h3", f"{title_of(split).capitalize()} split"), _table(runs, found)]
        parts += _extras(runs, split)
        parts += [_sources(runs, split)]
        parts += gap(
            [run for place, run in enumerate(runs) if place not in found and split in run.held_out],
            f"metrics of the {split} split",
            split,
        )
    if intervals:
        parts.append(
            element(
                "p",
                "In brackets 95 % bootstrap intervals over the examples of the split: what another "
                "draw of examples might give. They say nothing of other seeds.",
                class_="note",
            )
        )
    if len(runs) > 1 and parts:
        same = len({run.corpus for run in runs if run.evaluations}) == 1
        says = (
            "In bold the best of a column whose name says what is better."
            if same
            else "No best is marked: the runs were trained on different data."
        )
        parts.append(element("p", says, class_="note"))
    without = [run for run in runs if not run.evaluations]
    if without:
        parts += _on_the_way(runs, without)
    if len(without) == len(runs):
        parts += gap(without, "metrics with intervals")
    return parts


def _splits(runs: Sequence[Run]) -> list[str]:
    return sorted({split for run in runs for split in run.evaluations})


def _of_split(runs: Sequence[Run], split: str) -> dict[int, dict[str, Measured]]:
    return {
        place: measured(run.evaluations[split])
        for place, run in enumerate(runs)
        if split in run.evaluations
    }


def _table(runs: Sequence[Run], found: dict[int, dict[str, Measured]]) -> Markup:
    """Runs as rows and metrics as columns; of one run the metrics as rows."""
    names = list(dict.fromkeys(name for values in found.values() for name in values))
    if len(runs) == 1:
        body: list[list[Child]] = [
            [title_of(name), _value(each), element("small", _direction(name))]
            for values in found.values()
            for name, each in values.items()
        ]
        return table(["metric", "value", ""], body, "results")
    columns = {}
    for name in names:
        values = {place: each[name] for place, each in found.items() if name in each}
        columns[name] = values, best(runs, name, values), _scale(values)
    body = []
    for place in found:
        cells: list[Child] = [run_name(place, runs[place].name)]
        for values, chosen, scale in columns.values():
            if place not in values:
                cells.append("\N{EM DASH}")
                continue
            value = _value(values[place])
            cells.append(
                join(
                    element("b", value, class_="best") if place in chosen else value,
                    _whisker(values[place], scale, place),
                )
            )
        body.append(cells)
    heads = [join(title_of(name), element("small", _direction(name) or " ")) for name in names]
    return table(["run", *heads], body, "results")


def _value(each: Measured) -> Markup:
    interval = element("small", f"[{_interval(each)}]") if each.interval else None
    return element("span", figure(each.value), interval, class_="value")


def _interval(each: Measured) -> str:
    assert each.interval is not None
    low, high = each.interval
    return f"{figure(low)} to {figure(high)}"


def _direction(name: str) -> str:
    return {-1: "less is better", 0: "", 1: "more is better"}[better(name)]


def _scale(values: dict[int, Measured]) -> tuple[float, float] | None:
    """What the intervals of a column lie within; None where there is none, or no room."""
    ends = [end for each in values.values() if each.interval for end in each.interval]
    ends += [float(each.value) for each in values.values() if each.interval]
    low, high = min(ends, default=0.0), max(ends, default=0.0)
    return (low, high) if low < high and len(values) > 1 else None


def _whisker(each: Measured, scale: tuple[float, float] | None, place: int) -> Markup | None:
    """The interval as a line and the value as a dot on the scale of its column."""
    if scale is None or each.interval is None:
        return None
    low, high, value = (
        2 + 96 * (end - scale[0]) / (scale[1] - scale[0])
        for end in (*each.interval, float(each.value))
    )
    course = {"vector_effect": "non-scaling-stroke"}
    return element(
        "svg",
        element("path", d=f"M{low:.1f} 5H{high:.1f}", class_=f"span run-{place}", **course),
        element("path", d=f"M{value:.1f} 5h0", class_=f"dots run-{place}", **course),
        viewBox="0 0 100 10",
        preserveAspectRatio="none",
        class_="whisker",
        aria_hidden="true",
    )


def _sources(runs: Sequence[Run], split: str) -> Markup:
    """Which checkpoint was evaluated, when, and by which code."""
    items = []
    for place, run in enumerate(runs):
        evaluation = run.evaluations.get(split)
        if evaluation is None:
            continue
        step = number(evaluation.get("step"))
        facts = [f"step {step:,.0f}" if step is not None else "step unknown"]
        facts += [f"checkpoint {evaluation['checkpoint']}"] if "checkpoint" in evaluation else []
        facts += [moment(evaluation["time"])] if evaluation.get("time") else []
        facts += [f"commit {evaluation['commit']}"] if evaluation.get("commit") else []
        late = step is not None and step < run.step
        items.append(
            element(
                "li",
                run_name(place, run.name),
                f": {', '.join(facts)}",
                f"; the run has gone on to step {run.step:,}" if late else None,
                join(" ", element("code", command(evaluation["command"])))
                if evaluation.get("command")
                else None,
            )
        )
    return element("details", element("summary", "How it was measured"), element("ul", *items))


def _extras(runs: Sequence[Run], split: str) -> list[Markup]:
    """What a task leaves beside its metrics: a signature in words, other things as JSON."""
    said: dict[tuple[str, str], list[int]] = {}
    evaluated = [place for place, run in enumerate(runs) if split in run.evaluations]
    for place in evaluated:
        details = runs[place].evaluations[split].get("details")
        for name, given in _named(details if isinstance(details, dict) else {}):
            value = number(given)
            words = figure(value) if value is not None else given
            if not isinstance(words, str):
                words = json.dumps(given, ensure_ascii=False)
            if name != "confusion":  # which has a section of its own
                said.setdefault((name, words), []).append(place)
    items = []
    for (name, words), places in said.items():
        # What all say alike is nobody's.
        owners = [run_name(place, runs[place].name) for place in places]
        owner = [] if places == evaluated else [part for each in owners for part in (each, ", ")]
        code = element("code", words)
        if len(words) > LONG:
            code = element("details", element("summary", f"{len(words):,} characters"), code)
        items.append(element("li", *owner, f"{title_of(name)}: ", code))
    return [element("ul", *items, class_="extras")] if items else []


def _on_the_way(runs: Sequence[Run], without: Sequence[Run]) -> list[Markup]:
    """For runs that were never evaluated, what their training measured last."""
    found = {}
    for place, run in enumerate(runs):
        row = _last_validation(run)
        if run in without and row:
            found[place] = measured({"metrics": row})
    if not found:
        return []
    return [
        element("h3", "Validation during training"),
        element(
            "p",
            "The last evaluation of the training itself. Before a run ends it looks at a part of "
            "the split alone.",
            class_="note",
        ),
        _table(runs, found),
    ]


def _last_validation(run: Run) -> dict[str, Any] | None:
    """What the training itself measured last."""
    rows = [row for row in run.rows if row["split"] == "validation"]
    return rows[-1] if rows else None


def _named(details: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Details by name; a few words or figures that have a name together are taken apart."""
    for name, given in details.items():
        if isinstance(given, dict) and all(
            isinstance(x, str | int | float) for x in given.values()
        ):
            yield from ((f"{name}, {key}", value) for key, value in given.items())
        else:
            yield name, given
