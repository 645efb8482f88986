"""Which labels were taken for which."""

import math
from collections.abc import Sequence
from typing import Any

from jaxseq.reporting.markup import Child, Markup, element
from jaxseq.reporting.parts import run_name
from jaxseq.reporting.runs import Run

Counts = list[list[int | float]]
"""A row for each label of the reference, a column for each that was predicted."""

LISTED = 8
"""The most frequent confusions that are named."""


def confusion_section(runs: Sequence[Run]) -> list[Markup]:
    """A matrix for each run and split whose evaluation has one; all but the first are folded."""
    parts: list[Markup] = []
    for place, run in enumerate(runs):
        for split, evaluation in run.evaluations.items():
            found = matrix(evaluation)
            if found is None:
                continue
            heading = element("summary", run_name(place, run.name), f", {split} split")
            parts.append(
                element("details", heading, *_pairs(*found), _heat(*found), open=not parts)
            )
    if parts:
        parts.insert(
            0,
            element(
                "p",
                "Rows are the labels of the reference, columns those predicted. Blue is right, red "
                "is not; the depth is the square root of a field's share of its row.",
                class_="note",
            ),
        )
    return parts


def matrix(evaluation: dict[str, Any]) -> tuple[list[str], Counts] | None:
    """(labels, counts) of an evaluation, None where it has none that is square."""
    details = evaluation.get("details")
    found = details.get("confusion") if isinstance(details, dict) else None
    if not isinstance(found, dict):
        return None
    labels, counts = found.get("labels"), found.get("counts")
    if not (isinstance(labels, list) and isinstance(counts, list) and labels):
        return None
    rows = [row for row in counts if isinstance(row, list) and len(row) == len(labels)]
    square = len(rows) == len(counts) == len(labels)
    good = all(
        isinstance(count, int | float) and 0 <= count < 2**63 for row in rows for count in row
    )
    if not square or not good:
        return None
    return list(map(str, labels)), rows


def _pairs(labels: list[str], counts: Counts) -> list[Markup]:
    """The most frequent confusions in words."""
    wrong = sorted(
        (
            (count, i, j)
            for i, row in enumerate(counts)
            for j, count in enumerate(row)
            if i != j and count
        ),
        reverse=True,
    )
    if not wrong:
        return [element("p", "No label was taken for another.")]
    items = [
        element(
            "li",
            element("b", labels[i]),
            " taken for ",
            element("b", labels[j]),
            f": {count:,.0f} of {sum(counts[i]):,.0f} ({_share(count, sum(counts[i]))})",
        )
        for count, i, j in wrong[:LISTED]
    ]
    return [element("ol", *items, class_="pairs")]


def _heat(labels: list[str], counts: Counts) -> Markup:
    """The matrix as a table, with the recall of each row and the precision of each column."""
    size = range(len(labels))
    columns = [sum(counts[i][j] for i in size) for j in size]
    body = []
    for i in size:
        total = sum(counts[i])
        cells = [
            element(
                "td",
                f"{count:,.0f}" if count else "\N{MIDDLE DOT}",
                style=f"--depth:{math.sqrt(count / total):.3f}" if count > 0 else None,
                class_="hit" if i == j else None,
                title=f"{labels[i]} as {labels[j]}: {count:,.0f}",
            )
            for j, count in enumerate(counts[i])
        ]
        recall = element("td", _share(counts[i][i], total), class_="edge")
        body.append(element("tr", element("th", labels[i], scope="row"), *cells, recall))
    precisions = [element("td", _share(counts[j][j], columns[j]), class_="edge") for j in size]
    last = element("th", "precision", scope="row")
    body.append(element("tr", last, *precisions, element("td"), class_="edge"))
    head: list[Child] = [element("th"), *(element("th", label, scope="col") for label in labels)]
    whole = element(
        "table",
        element("thead", element("tr", *head, element("th", "recall", scope="col"))),
        element("tbody", *body),
        class_="heat",
    )
    return element("div", whole, class_="wide", tabindex="0")


def _share(part: int | float, whole: int | float) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "\N{EM DASH}"
