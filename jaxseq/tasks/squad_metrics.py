"""Exact match and token F1 of answers, as SQuAD's official script counts them (version 2.0)."""

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(answer: str) -> str:
    """Lower case, without ASCII punctuation, the articles a, an, the, and extra white space."""
    without = _ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION))
    return " ".join(without.split())


def exact_match(answer: str, reference: str) -> float:
    """1 where the two are equal when normalized, else 0."""
    return float(normalize(answer) == normalize(reference))


def token_f1(answer: str, reference: str) -> float:
    """Harmonic mean of precision and recall over the words of both, as bags, when normalized.

    Where one has no words: 1 if both have none, else 0.
    """
    found, wanted = normalize(answer).split(), normalize(reference).split()
    if not found or not wanted:
        return float(found == wanted)
    common = sum((Counter(found) & Counter(wanted)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(found), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


def best_scores(answer: str, references: Sequence[str]) -> tuple[float, float]:
    """(exact match, token F1), each the most over the references.

    References that normalize to nothing are passed over; without one left, the empty answer is
    right. That is the official script's rule for questions without an answer.
    """
    wanted = [reference for reference in references if normalize(reference)] or [""]
    return (
        max(exact_match(answer, reference) for reference in wanted),
        max(token_f1(answer, reference) for reference in wanted),
    )
