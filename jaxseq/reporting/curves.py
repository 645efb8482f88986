"""The curves of runs: which there are, and their points, few enough to draw."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

from jaxseq.reporting.figures import title_of
from jaxseq.reporting.runs import Run, number

Points = list[tuple[float, float]]
"""(step, value), by step; a value may not be finite."""

TRAINING = {
    "learning_rate": "Learning rate",
    "gradient_norm": "Gradient norm",
    "tokens_per_second": "Tokens per second",
    "mfu": "Model FLOPs utilisation",
}
"""What is drawn of training beside the loss."""

MOST = 300
"""Points of a line; a screen shows no more."""


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a chart."""

    run: int
    """Which of the report's runs."""
    name: str
    kind: Literal["raw", "mean", "measured"]
    """Each logged step; their running mean; a line through few points, each of them marked."""
    points: Points


@dataclasses.dataclass(frozen=True)
class Chart:
    """Lines over the steps of training."""

    title: str
    lines: list[Line]
    percent: bool = False
    """Values are shares, shown as per cent."""
    wide: bool = False
    """Values may differ by orders of magnitude."""


def charts(runs: Sequence[Run]) -> tuple[list[Chart], list[str]]:
    """(the charts that runs give, the titles of those that have no line of two points)."""
    losses = []
    for place, run in enumerate(runs):
        owner = f"{run.name}, " if len(runs) > 1 else ""
        losses += _training(run, place, "loss", f"{owner}training")
        losses += _measured(run, place, "loss", f"{owner}validation")
    found, empty = [], []
    for chart in [
        Chart("Loss", losses, wide=True),
        *(
            Chart(
                title,
                [
                    line
                    for place, run in enumerate(runs)
                    for line in _training(run, place, name, run.name)
                ],
                percent=name == "mfu",
                wide=name == "gradient_norm",
            )
            for name, title in TRAINING.items()
        ),
    ]:
        drawn = any(len(line.points) > 1 for line in chart.lines)
        (found if drawn else empty).append(chart)
    names = dict.fromkeys(
        name for run in runs for row in run.rows if row["split"] == "validation" for name in row
    )
    for name in names:
        if name in ("step", "split", "loss") or name.endswith("]"):  # of a single class
            continue
        lines = [
            line
            for place, run in enumerate(runs)
            for line in _measured(run, place, name, run.name)
            if len(line.points) > 1
        ]
        # Counts of what was evaluated are no result.
        if lines and any(value % 1 for line in lines for _, value in line.points):
            found.append(Chart(f"Validation: {title_of(name)}", lines))
    return found, [chart.title for chart in empty]


def _training(run: Run, place: int, metric: str, name: str) -> list[Line]:
    points = _points(run, "train", metric)
    if not points:
        return []
    mean = running_mean(points)
    if mean == points:
        return [Line(place, name, "mean", thin(points))]
    return [Line(place, name, "raw", thin(points)), Line(place, name, "mean", thin(mean))]


def _measured(run: Run, place: int, metric: str, name: str) -> list[Line]:
    points = _points(run, "validation", metric)
    return [Line(place, name, "measured", thin(points))] if points else []


def _points(run: Run, split: str, metric: str) -> Points:
    values = ((row["step"], number(row.get(metric))) for row in run.rows if row["split"] == split)
    return [(float(step), float(value)) for step, value in values if value is not None]


def running_mean(points: Points) -> Points:
    """The mean of each point and its neighbours, a fiftieth of all on either side.

    Near the beginning it is as few on either side as there are before: a mean of later losses would
    begin far below the first. Of few points, and of a curve that is smooth, as a learning rate is,
    it is the curve itself. What is not finite stays so.
    """
    width = len(points) // 50
    values = [value for _, value in points]
    turns = sum(
        (after - here) * (here - before) < 0
        for before, here, after in zip(values, values[1:], values[2:], strict=False)
    )
    if not width or turns < len(points) / 10:
        return points
    mean = []
    for place, (step, value) in enumerate(points):
        reach = min(width, place)
        near = values[place - reach : place + reach + 1]
        finite = [each for each in near if math.isfinite(each)]
        mean.append((step, sum(finite) / len(finite) if math.isfinite(value) else value))
    return mean


def thin(points: Points) -> Points:
    """At most about `MOST` of the points, with the extremes of what was left out still there."""
    if len(points) <= MOST:
        return points
    size = math.ceil(2 * len(points) / MOST)
    kept = []
    for begin in range(0, len(points), size):
        bucket = points[begin : begin + size]
        odd = [point for point in bucket if not math.isfinite(point[1])]
        ends = {min(bucket, key=lambda point: point[1]), max(bucket, key=lambda point: point[1])}
        kept += sorted({odd[0]} if odd else ends)
    return kept
