"""What several sections of a report are made of."""

import shlex
from collections.abc import Iterable, Sequence

from jaxseq.reporting.markup import Child, Markup, element
from jaxseq.reporting.runs import Run


def section(name: str, title: str, content: Iterable[Markup]) -> Markup:
    """A part of the report that its table of contents leads to."""
    return element("section", element("h2", title), *content, id=name)


def run_name(place: int, name: str) -> Markup:
    """The name of a run behind a spot of its colour."""
    return element("span", element("i", class_="spot"), name, class_=f"name run-{place}")


def option_name(name: str) -> Markup:
    """An option as it is typed; where there is no room, it goes on in a new line behind a dot."""
    words = f"--{name}".replace(".", ". ").split()
    parts = [part for word in words for part in (element("wbr"), element("span", word))]
    return element("code", *parts[1:], class_="option")


def table(head: Sequence[Child], body: Sequence[Sequence[Child]], kind: str) -> Markup:
    """Rows below a head, if there is one; the first column names them. A wide table scrolls.

    The last cell of a short row goes on to the right end: it holds for all columns from there on.
    """
    rows = []
    for row in body:
        cells = [element("th", row[0], scope="row"), *(element("td", cell) for cell in row[1:])]
        if len(row) < len(head):
            cells[-1] = element("td", row[-1], colspan=len(head) - len(row) + 1)
        rows.append(element("tr", *cells))
    heads = element("tr", *(element("th", cell, scope="col") for cell in head))
    above = element("thead", heads) if head else None
    whole = element("table", above, element("tbody", *rows), class_=kind)
    return element("div", whole, class_="wide", tabindex="0")


def gap(runs: Sequence[Run], what: str, split: str | None = None) -> list[Markup]:
    """What is not there, and the commands that make it; nothing where no run lacks it.

    Without `split`, it is the last that each run's data holds out.
    """
    if not runs:
        return []
    commands = [
        element(
            "code",
            f"jaxseq evaluate {shlex.quote(str(run.folder))} --split {split or run.held_out[-1]}",
        )
        for run in runs
    ]
    who = f"{runs[0].name} has" if len(runs) == 1 else f"{len(runs)} runs have"
    listed = [part for command in commands for part in (element("br"), command)]
    return [element("p", f"{who} no {what} yet. To make them:", *listed, class_="gap")]
