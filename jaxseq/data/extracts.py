"""Summaries of whole sentences of a text: to be measured against, and to learn from.

Texts are compared by their runs of a-z and 0-9 in lower case, without stemming, as the package
rouge-score does by default; see `tasks.rouge` for the metrics.
"""

import re
from collections import Counter
from collections.abc import Sequence


def words(text: str) -> list[str]:
    """What of a text is compared."""
    return re.findall("[a-z0-9]+", text.lower())


def ngram_f1(written: Sequence[str], reference: Sequence[str], n: int) -> float:
    """F1 over the n words in a row of both, as bags: 2 x in both / (in one + in the other)."""
    found, wanted = (
        Counter(tuple(text[i : i + n]) for i in range(len(text) - n + 1))
        for text in (written, reference)
    )
    common = (found & wanted).total()
    return 2 * common / (found.total() + wanted.total()) if common else 0.0


def lead(sentences: Sequence[str], k: int) -> str:
    """The first k sentences, a line each."""
    return "\n".join(sentences[:k])


def extractive_oracle(sentences: Sequence[str], references: Sequence[str], most: int = 3) -> str:
    """Sentences chosen with the references in sight, a line each: what extracting could reach.

    Greedily, from nothing, the sentence that raises ROUGE-1 + ROUGE-2 (F1, the most over the
    references of their sum) by most is added, until none does or there are `most` (Nallapati et al.
    2017, arXiv:1611.04230, section 3.1). They stand in the order of the text; where none has a word
    of a reference, it is empty. Greedy is not the best choice of all: another may score higher.
    """
    wanted = [words(reference) for reference in references]
    texts = [words(sentence) for sentence in sentences]

    def score(numbers: Sequence[int]) -> float:
        found = [word for number in sorted(numbers) for word in texts[number]]
        return max(ngram_f1(found, each, 1) + ngram_f1(found, each, 2) for each in wanted)

    chosen: list[int] = []
    best = 0.0
    while len(chosen) < most:
        scores = {n: score([*chosen, n]) for n in range(len(texts)) if n not in chosen}
        number = max(scores, key=lambda n: scores[n], default=None)
        if number is None or scores[number] <= best:
            break
        chosen, best = [*chosen, number], scores[number]
    return "\n".join(sentences[number] for number in sorted(chosen))
