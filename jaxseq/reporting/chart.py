"""A chart as inline SVG, with its scale as text beside it.

The drawing stretches to the room there is; text and the thickness of lines keep their size.
"""

import json
import math
from collections.abc import Callable

from jaxseq.reporting.curves import Chart, Line
from jaxseq.reporting.figures import tick
from jaxseq.reporting.markup import Markup, element

LOGARITHMIC = 50.0
"""From this ratio of the largest to the smallest value on, a scale may be logarithmic."""

SIZE = 1000
"""The drawing's own width and height, of whatever it is stretched to."""


def draw(chart: Chart) -> Markup:
    """A figure with title, lines and both scales; a script makes it tell its values."""
    points = [point for line in chart.lines for point in line.points if math.isfinite(point[1])]
    lost = sorted(
        {step for line in chart.lines for step, value in line.points if not math.isfinite(value)}
    )
    notes = [element("p", f"Not finite at step {lost[0]:,.0f}.", class_="alarm")] if lost else []
    if not points:
        return element("figure", element("figcaption", chart.title), *notes, class_="chart")
    values = [value for _, value in points]
    logarithmic = chart.wide and min(values) > 0 and max(values) / min(values) >= LOGARITHMIC
    low, high = _bounds(values, logarithmic)
    first, last = min(step for step, _ in points), max(step for step, _ in points)
    first = 0.0 if first < last / 4 else first
    last = last if last > first else first + 1.0

    def across(step: float) -> float:
        return (step - first) / (last - first)

    def down(value: float) -> float:
        if logarithmic:
            return (math.log(high) - math.log(value)) / (math.log(high) - math.log(low))
        return (high - value) / (high - low)

    heights = log_ticks(low, high) if logarithmic else ticks(low, high)
    widths = ticks(first, last, whole=True)
    rules = [_path(f"M0 {SIZE * down(value):.1f}H{SIZE}", class_="rule") for value in heights]
    drawn = [
        mark
        for line in sorted(chart.lines, key=lambda line: line.kind != "raw")
        for mark in _drawn(line, across, down)
    ]
    picture = element(
        "svg",
        *rules,
        *drawn,
        viewBox=f"0 0 {SIZE} {SIZE}",
        preserveAspectRatio="none",
        role="img",
        aria_label=_said(chart),
    )
    told = [
        {"run": line.run, "name": line.name, "points": _rounded(line.points)}
        for line in chart.lines
        if line.kind != "raw"
    ]
    return element(
        "figure",
        element("figcaption", chart.title, element("small", "log scale") if logarithmic else None),
        element(
            "div",
            element("div", picture, class_="drawing"),
            *(
                element(
                    "span",
                    tick(value, chart.percent),
                    class_="height",
                    style=f"top:{100 * down(value):.2f}%",
                )
                for value in heights
            ),
            *(
                element("span", tick(step), class_="width", style=f"left:{100 * across(step):.2f}%")
                for step in widths
            ),
            class_="plot",
            tabindex="0",
            data_first=first,
            data_last=last,
            data_percent="1" if chart.percent else None,
            data_lines=json.dumps(told, separators=(",", ":")),
        ),
        *notes,
        class_="chart",
    )


def _drawn(
    line: Line, across: Callable[[float], float], down: Callable[[float], float]
) -> list[Markup]:
    """The line, and marks on points that were measured; a gap where a value is not finite."""
    places, pen = [], "M"
    for step, value in line.points:
        if not math.isfinite(value):
            pen = "M"
            continue
        places.append(f"{pen}{SIZE * across(step):.1f} {SIZE * down(value):.1f}")
        pen = "L"
    owner = {"class_": f"{line.kind} run-{line.run}", "data_run": line.run}
    found = [_path("".join(places), **owner)]
    if line.kind == "measured" or len(places) == 1:
        # A dot is a line of no length with round ends: it stays round however it is stretched.
        dots = "".join(f"M{place[1:]}h0" for place in places)
        found.append(_path(dots, class_=f"dots run-{line.run}", data_run=line.run))
    return found


def _path(course: str, **attributes: str | int) -> Markup:
    return element("path", d=course, vector_effect="non-scaling-stroke", **attributes)


def _rounded(points: list[tuple[float, float]]) -> list[tuple[int, float]]:
    """Five digits of each, none of what is not finite: JSON has no word for it."""
    return [(int(step), float(f"{value:.5g}")) for step, value in points if math.isfinite(value)]


def _said(chart: Chart) -> str:
    """What a person hears who does not see the picture."""
    parts = []
    for line in chart.lines:
        finite = [value for _, value in line.points if math.isfinite(value)]
        if line.kind != "raw" and finite:
            begin, end = (tick(value, chart.percent) for value in (finite[0], finite[-1]))
            parts.append(f"{line.name}: from {begin} to {end}")
    return f"{chart.title} over steps. {'; '.join(parts)}"


def _bounds(values: list[float], logarithmic: bool) -> tuple[float, float]:
    """A little more than the range of the values."""
    low, high = min(values), max(values)
    if logarithmic:
        return low / 1.1, high * 1.1
    if low == high:
        return low - (abs(low) or 1.0) / 10, high + (abs(high) or 1.0) / 10
    room = (high - low) / 20
    return (0.0 if 0 <= low <= (high - low) / 3 else low - room), high + room


def ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Four to seven round values within a range, which is not empty; of `whole` ones maybe less."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * size for size in (1, 2, 5, 10) if power * size >= rough * 0.99)
    if whole:
        step = max(1.0, step)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [place * step for place in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within a range, and their double and fivefold where these are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    sizes = (1, 2, 5) if high / low < 30 else (1,)
    skip = max(1, (last - first) // 6)
    found = [10.0**power * size for power in range(first, last + 1, skip) for size in sizes]
    return [value for value in found if low <= value <= high]
