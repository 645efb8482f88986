"""Error rates of transcripts, in words and in characters."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

from jaxseq.tasks.edit_distance import edit_distance


class ErrorCounts(NamedTuple):
    """What one transcript adds to the error rates of many.

        word error rate = sum of word_edits / sum of words,  characters likewise

    Edits are insertions, deletions and substitutions; the rate is of all transcripts together, as
    jiwer's, not a mean of rates.
    """

    words: int
    """Of the reference, between spaces."""
    word_edits: int
    characters: int
    """Of the reference, with one space between words."""
    character_edits: int


def count_errors(written: str, reference: str) -> ErrorCounts:
    """The edits between a transcript and its reference; case and punctuation count."""
    words, right = written.split(), reference.split()
    line, right_line = " ".join(words), " ".join(right)
    return ErrorCounts(
        len(right),
        edit_distance(words, right),
        len(right_line),
        edit_distance(line, right_line),
    )


def alignment(
    written: Sequence[Hashable], reference: Sequence[Hashable]
) -> list[tuple[int | None, int | None]]:
    """Pairs of places (of `written`, of `reference`) with the fewest edits, from first to last.

    A pair without the first is a deletion, without the second an insertion. Among alignments with
    as many edits the one with most substitutions is taken.
    """
    costs = [[j for j in range(len(reference) + 1)]]
    for i, symbol in enumerate(written, start=1):
        above, row = costs[-1], [i]
        for j, other in enumerate(reference, start=1):
            row.append(min(above[j - 1] + (symbol != other), above[j] + 1, row[-1] + 1))
        costs.append(row)
    pairs: list[tuple[int | None, int | None]] = []
    i, j = len(written), len(reference)
    while i or j:
        both = i and j and costs[i - 1][j - 1] + (written[i - 1] != reference[j - 1])
        if i and j and costs[i][j] == both:
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif i and costs[i][j] == costs[i - 1][j] + 1:
            i -= 1
            pairs.append((i, None))
        else:
            j -= 1
            pairs.append((None, j))
    return pairs[::-1]
