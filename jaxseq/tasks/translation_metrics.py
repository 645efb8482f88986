"""BLEU and chrF from counts that each sentence adds, equal to sacreBLEU's defaults.

Both are ratios of sums over a corpus, so that a sentence's counts are all that is kept of it, and
an interval comes from drawing sentences anew.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from jaxseq.typing import Float

ORDERS = 4
"""BLEU counts runs of 1 to 4 words."""
CHARACTER_ORDERS = 6
"""chrF counts runs of 1 to 6 characters."""
BETA = 2
"""How many times as much recall weighs in chrF as precision."""
SIGNATURE = "case:mixed|eff:no|tok:13a|smooth:exp"
"""What sacreBLEU would say of these options; `nrefs` is the data's."""
CHRF_SIGNATURE = "case:mixed|eff:yes|nc:6|nw:0|space:no"

_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
_RULES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"([{-~[-` -&(-+:-@/])", r" \1 "),  # ASCII symbols, but . , - and '
        (r"([^0-9])([.,])", r"\1 \2 "),  # a point or comma with no digit before it
        (r"([.,])([^0-9])", r" \1 \2"),  # or none behind it
        (r"([0-9])(-)", r"\1 \2 "),
    )
]


def words_13a(text: str) -> list[str]:
    """The words of NIST's mteval-v13a, which BLEU scores are given in."""
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    text = f" {text.rstrip()} ".replace("\n", " ")
    for rule, replacement in _RULES:
        text = rule.sub(replacement, text)
    return text.split()


def bleu_counts(output: str, references: Sequence[str]) -> Float[np.ndarray, "10"]:
    """What one sentence adds to BLEU: matches and runs of each order, its length, the reference's.

    A run matches as often as the reference that has it most often has it. The reference's length is
    the nearest to the output's, of two the shorter. Raises ValueError without a reference.
    """
    if not references:
        raise ValueError("references is empty; BLEU needs one at least")
    words, wanted = words_13a(output), [words_13a(reference) for reference in references]
    matches, totals = [], []
    for order in range(1, ORDERS + 1):
        runs = _runs(words, order)
        most = Counter[Sequence[str]]()
        for reference in wanted:
            most |= _runs(reference, order)
        matches.append((runs & most).total())
        totals.append(runs.total())
    nearest = min(map(len, wanted), key=lambda length: (abs(length - len(words)), length))
    return np.array([*matches, *totals, len(words), nearest], np.float64)


def bleu(counts: Float[np.ndarray, "10"]) -> float:
    """BLEU, 0 to 100, of counts summed over a corpus (Papineni et al. 2002).

        100 exp(min(0, 1 - r / c)) (p_1 p_2 p_3 p_4)^(1/4),    p_n = matches_n / totals_n

    with the k-th p_n that has no match replaced by 1 / (2^k totals_n) (exponential smoothing). 0
    where nothing matches or no output has four words. Post 2018, arXiv:1804.08771, says what there
    is to agree on.
    """
    matches, totals = counts[:ORDERS], counts[ORDERS : 2 * ORDERS]
    length, wanted = counts[2 * ORDERS :]
    if not matches.any() or not totals.all():
        return 0.0
    without, logs = 0, 0.0
    for match, total in zip(matches, totals, strict=True):
        without += match == 0
        logs += math.log(match / total if match else 1 / (2**without * total))
    return 100 * math.exp(min(0.0, 1 - wanted / length) + logs / ORDERS)


def chrf_counts(output: str, references: Sequence[str]) -> Float[np.ndarray, "3 6"]:
    """What one sentence adds to chrF: runs of its output, of its reference, and matches, by order.

    White space is left out. Of several references the one counts that gives the sentence the best
    score. Raises ValueError without a reference.
    """
    if not references:
        raise ValueError("references is empty; chrF needs one at least")
    runs = _character_runs(output)
    best, best_score = np.zeros((3, CHARACTER_ORDERS)), -1.0
    for reference in references:
        wanted = _character_runs(reference)
        counts = np.array(
            [
                # Orders that the reference is too short for are not held against the output.
                [mine.total() if others else 0 for mine, others in zip(runs, wanted, strict=True)],
                [others.total() for others in wanted],
                [(mine & others).total() for mine, others in zip(runs, wanted, strict=True)],
            ],
            np.float64,
        )
        score = chrf(counts)
        if score > best_score:
            best, best_score = counts, score
    return best


def chrf(counts: Float[np.ndarray, "3 6"]) -> float:
    """chrF2, 0 to 100, of counts summed over a corpus (Popovic 2015).

        100 (1 + b^2) P R / (b^2 P + R),    b = 2

    P and R are the means of precision and recall over the orders that both sides have runs of.
    """
    outputs, references, matches = counts
    both = (outputs > 0) & (references > 0)
    if not matches.any():
        return 0.0
    precision = float(np.mean(matches[both] / outputs[both]))
    recall = float(np.mean(matches[both] / references[both]))
    return 100 * (1 + BETA**2) * precision * recall / (BETA**2 * precision + recall)


def _runs(words: Sequence[str], order: int) -> Counter[Sequence[str]]:
    return Counter(tuple(words[i : i + order]) for i in range(len(words) - order + 1))


def _character_runs(text: str) -> list[Counter[str]]:
    text = "".join(text.split())
    return [
        Counter(text[i : i + order] for i in range(len(text) - order + 1))
        for order in range(1, CHARACTER_ORDERS + 1)
    ]
