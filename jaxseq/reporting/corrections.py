"""Where what a model wrote differs from what it should have written."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

Kind = Literal["same", "wrong", "missing"]

MOST = 1_000_000
"""Pairs of units that are compared: of two texts of a thousand words, all."""


class Piece(NamedTuple):
    """A stretch of text: right, written and not in the reference, or the other way round."""

    kind: Kind
    text: str


def nearest(output: str, references: Sequence[str], unit: str) -> tuple[int, list[Piece]] | None:
    """(the reference with the fewest edits, the corrections that turn `output` into it).

    `unit` is "character" or, for anything else, the word, as spaces part them. None where the texts
    are too long to compare, or there is no reference.
    """
    separator = "" if unit == "character" else " "
    written = _units(output, unit)
    best: tuple[int, int, list[Piece]] | None = None
    for place, reference in enumerate(references):
        other = _units(reference, unit)
        if len(written) * len(other) > MOST:
            return None
        edits, pieces = corrections(written, other, separator)
        if best is None or edits < best[0]:
            best = edits, place, pieces
    return best[1:] if best else None


def _units(text: str, unit: str) -> list[str]:
    return list(text) if unit == "character" else text.split()


def corrections(
    written: Sequence[str], reference: Sequence[str], separator: str
) -> tuple[int, list[Piece]]:
    """(the fewest insertions, deletions and substitutions, the pieces of the two texts in order).

    A substitution is a wrong piece and a missing one behind it (Levenshtein 1966).
    """
    # Most texts are nearly right: what they begin and end with alike needs no table.
    begin, end, shorter = 0, 0, min(len(written), len(reference))
    while begin < shorter and written[begin] == reference[begin]:
        begin += 1
    while end < shorter - begin and written[-1 - end] == reference[-1 - end]:
        end += 1
    middle = written[begin : len(written) - end]
    other = reference[begin : len(reference) - end]
    steps: list[tuple[Kind, str]] = [("same", unit) for unit in written[:begin]]
    edits, changed = _table(middle, other)
    steps += [*changed, *(("same", unit) for unit in written[len(written) - end :])]
    return edits, _stretches(steps, separator)


def _table(written: Sequence[str], reference: Sequence[str]) -> tuple[int, list[tuple[Kind, str]]]:
    rows = [list(range(len(reference) + 1))]
    for i, symbol in enumerate(written, start=1):
        above, row = rows[-1], [i]
        for j, other in enumerate(reference, start=1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (symbol != other)))
        rows.append(row)
    i, j = len(written), len(reference)
    steps: list[tuple[Kind, str]] = []  # from the end
    while i or j:
        here = rows[i][j]
        if i and j and here == rows[i - 1][j - 1] + (written[i - 1] != reference[j - 1]):
            i, j = i - 1, j - 1
            if written[i] == reference[j]:
                steps.append(("same", written[i]))
            else:
                steps += [("missing", reference[j]), ("wrong", written[i])]
        elif i and here == rows[i - 1][j] + 1:
            i -= 1
            steps.append(("wrong", written[i]))
        else:
            j -= 1
            steps.append(("missing", reference[j]))
    return rows[-1][-1], steps[::-1]


def _stretches(steps: Sequence[tuple[Kind, str]], separator: str) -> list[Piece]:
    """Neighbours of a kind joined; of a stretch of errors first the wrong, then the missing."""
    pieces: list[Piece] = []
    wrong: list[str] = []
    missing: list[str] = []
    same: list[str] = []

    def close(units: list[str], kind: Kind) -> None:
        if units:
            pieces.append(Piece(kind, separator.join(units)))
            units.clear()

    for kind, unit in steps:
        if kind == "same":
            close(wrong, "wrong")
            close(missing, "missing")
            same.append(unit)
        else:
            close(same, "same")
            (wrong if kind == "wrong" else missing).append(unit)
    close(same, "same")
    close(wrong, "wrong")
    close(missing, "missing")
    return pieces
