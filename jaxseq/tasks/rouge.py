"""ROUGE: how much of a reference stands in what was written (Lin 2004, ACL workshop W04-1013).

Texts are compared by their runs of a-z and 0-9 in lower case, without stemming, as the package
rouge-score does by default. All scores are F1 = 2 P R / (P + R), from 0 to 1.
"""

from collections import Counter
from collections.abc import Sequence

from jaxseq.data.extracts import ngram_f1, words

METRICS = ("rouge_1", "rouge_2", "rouge_l", "rouge_lsum")


def rouge(written: str, references: Sequence[str]) -> dict[str, float]:
    """Each of `METRICS`, by itself the most over the references.

    So does rouge-score's `score_multi`; SciTLDR's own script takes all from the reference with the
    largest ROUGE-1, which is the same or a little less. A text's lines are its sentences, which
    ROUGE-Lsum alone asks for.
    """
    scores = [_scores(written, reference) for reference in references]
    return {name: max(score[name] for score in scores) for name in METRICS}


def _scores(written: str, reference: str) -> dict[str, float]:
    found, wanted = words(written), words(reference)
    return {
        "rouge_1": ngram_f1(found, wanted, 1),
        "rouge_2": ngram_f1(found, wanted, 2),
        "rouge_l": _f1(_table(wanted, found)[-1][-1], len(found), len(wanted)),
        "rouge_lsum": summary_f1(*(list(map(words, x.split("\n"))) for x in (written, reference))),
    }


def summary_f1(written: Sequence[Sequence[str]], reference: Sequence[Sequence[str]]) -> float:
    """F1 over the words that a common subsequence with any written sentence has.

    For each sentence of the reference: the union of the places in a longest common subsequence
    with each written sentence. Of a word no more is counted than both texts have of it.
    """
    left_written, left_reference = (
        Counter(word for sentence in text for word in sentence) for text in (written, reference)
    )
    sizes = left_written.total(), left_reference.total()
    hits = 0
    for sentence in reference:
        places: set[int] = set()
        for other in written:
            places |= _common_places(sentence, other)
        for word in (sentence[place] for place in sorted(places)):
            if left_written[word] > 0 and left_reference[word] > 0:
                left_written[word] -= 1
                left_reference[word] -= 1
                hits += 1
    return _f1(hits, *sizes)


def _f1(hits: int, found: int, wanted: int) -> float:
    return 2 * hits / (found + wanted) if hits else 0.0


def _table(reference: Sequence[str], written: Sequence[str]) -> list[list[int]]:
    """[i][j]: the longest common subsequence of the first i and the first j words."""
    rows = [[0] * (len(written) + 1)]
    for word in reference:
        above, row = rows[-1], [0]
        for j, other in enumerate(written):
            row.append(above[j] + 1 if word == other else max(above[j + 1], row[-1]))
        rows.append(row)
    return rows


def _common_places(reference: Sequence[str], written: Sequence[str]) -> set[int]:
    """The places in `reference` of one longest common subsequence, the one rouge-score takes."""
    table = _table(reference, written)
    i, j, places = len(reference), len(written), set()
    while i and j:
        if reference[i - 1] == written[j - 1]:
            i, j = i - 1, j - 1
            places.add(i)
        elif table[i][j - 1] > table[i - 1][j]:
            j -= 1
        else:
            i -= 1
    return places
