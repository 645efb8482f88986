"""Numbers, names and dates as a person reads them."""

import datetime
import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LOWER = {"bits", "distortion", "edits", "error", "errors", "infeasible", "loss", "perplexity"}
"""Words in the name of a metric of which less is better."""

HIGHER = {
    "accuracy", "bleu", "chrf", "diagonality", "exact", "f1", "match", "matthews", "precision",
    "recall", "right", "rouge", "rouge1", "rouge2", "rougel", "rougelsum",
}  # fmt: skip
"""Words in the name of a metric of which more is better."""


def better(metric: str) -> int:
    """1 where more of a metric is better, -1 where less is, and 0 where its name does not say."""
    words = set(re.split(r"[^a-z0-9]+", metric.lower()))
    if words & LOWER:
        return -1
    return 1 if words & HIGHER else 0


def title_of(metric: str) -> str:
    """The name of a metric in words."""
    return metric.replace("_", " ")


def figure(value: float | int) -> str:
    """A measured figure, to four digits; a count, or a large one, in full."""
    if not math.isfinite(value):
        return {math.inf: "\N{INFINITY}", -math.inf: "-\N{INFINITY}"}.get(value, "not a number")
    size = abs(value)
    if isinstance(value, int) or size >= 10_000 or (size >= 100 and value.is_integer()):
        return f"{value:,.0f}"
    if 0 < size < 0.001:
        return f"{value:.3g}"
    digits = 2 if size >= 100 else 3 if size >= 10 else 4
    return f"{value + 0.0:,.{digits}f}"  # -0.0 + 0.0 is 0.0


def tick(value: float, percent: bool = False) -> str:
    """A figure beside an axis: 0.25, 2.5k, 30 %."""
    if percent:
        return f"{100 * value:.4g} %"
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{suffix}"
    return f"{value:.4g}"


def seconds(count: float) -> str:
    """A time in the two largest of its units."""
    if count < 60:
        return f"{count:.0f} s" if count >= 10 else f"{count:.1f} s"
    minutes, rest = divmod(round(count), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def moment(when: Any) -> str:
    """A date and time of a run's files; what is none stays as it is."""
    if isinstance(when, str):
        try:
            when = datetime.datetime.fromisoformat(when)
        except ValueError:
            return when
    if not isinstance(when, datetime.datetime):
        return str(when)
    zone = " UTC" if when.utcoffset() == datetime.timedelta() else ""
    return f"{when:%Y-%m-%d %H:%M}{zone}"


def command(words: Any) -> str:
    """A command as it is typed; a run's files hold it as it was started."""
    if not isinstance(words, Sequence) or isinstance(words, str):
        return str(words)
    typed = [str(word) for word in words]
    if typed and Path(typed[0]).name in ("cli.py", "jaxseq", "__main__.py"):
        typed[0] = "jaxseq"
    return shlex.join(typed)


def option(value: Any) -> str:
    """The value of an option as it is typed."""
    if isinstance(value, dict) and value.get("type") == "path":
        return str(value.get("path"))
    if isinstance(value, list):
        return " ".join(map(option, value)) or "()"
    return "(empty)" if value == "" else str(value)
