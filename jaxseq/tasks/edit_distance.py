"""How far what was written is from what should have been."""

from collections.abc import Hashable, Sequence


def edit_distance(written: Sequence[Hashable], reference: Sequence[Hashable]) -> int:
    """The fewest insertions, deletions and substitutions that turn one into the other
    (Levenshtein 1966)."""
    above = list(range(len(reference) + 1))
    for i, symbol in enumerate(written, start=1):
        row = [i]
        for j, other in enumerate(reference, start=1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (symbol != other)))
        above = row
    return above[-1]
