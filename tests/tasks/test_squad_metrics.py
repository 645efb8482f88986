"""Exact match and F1 of answers against cases by hand and the official script, written plainly."""

import collections
import random
import re
import string

import pytest

from jaxseq.tasks.squad_metrics import best_scores, exact_match, normalize, token_f1


def official_normalize(s):
    """evaluate-v2.0.py of SQuAD, its steps one by one."""
    s = s.lower()
    s = "".join(ch for ch in s if ch not in set(string.punctuation))
    s = re.sub(re.compile(r"\b(a|an|the)\b", re.UNICODE), " ", s)
    return " ".join(s.split())


def official_f1(a_gold, a_pred):
    gold_toks, pred_toks = official_normalize(a_gold).split(), official_normalize(a_pred).split()
    num_same = 0
    remaining = collections.Counter(gold_toks)
    for token in pred_toks:
        if remaining[token] > 0:
            remaining[token] -= 1
            num_same += 1
    if len(gold_toks) == 0 or len(pred_toks) == 0:
        return int(gold_toks == pred_toks)
    if num_same == 0:
        return 0
    precision, recall = num_same / len(pred_toks), num_same / len(gold_toks)
    return (2 * precision * recall) / (precision + recall)


def official_scores(answer, references):
    gold_answers = [a for a in references if official_normalize(a)]
    if not gold_answers:
        gold_answers = [""]
    exact = max(int(official_normalize(a) == official_normalize(answer)) for a in gold_answers)
    return exact, max(official_f1(a, answer) for a in gold_answers)


WORDS = [
    "the",
    "The",
    "a",
    "an",
    "cat",
    "Cat.",
    "cats",
    "(dog)",
    "U.S.",
    "theory",
    "1,000",
    "\u201cx\u201d",
    "-",
    "",
]


def test_scores_are_those_of_the_official_script():
    draw = random.Random(0)

    def answer() -> str:
        return draw.choice([" ", "  ", "\t"]).join(draw.choices(WORDS, k=draw.randrange(5)))

    partial = 0
    for _ in range(200):
        given, references = answer(), [answer() for _ in range(draw.randrange(4))]
        assert normalize(given) == official_normalize(given)
        found = best_scores(given, references)
        assert found == pytest.approx(official_scores(given, references))
        partial += 0 < found[1] < 1
    assert partial > 20  # the cases are not all trivial


@pytest.mark.parametrize(
    ("answer", "reference", "exact", "f1"),
    [
        ("the Cat!", "cat", 1, 1),
        ("in a cat", "cat", 0, 2 / 3),
        ("cat cat", "cat", 0, 2 / 3),
        ("cat cat dog", "cat cat", 0, 0.8),
        ("dog", "cat", 0, 0),
        ("an", "the", 1, 1),  # both are nothing
        ("", "cat", 0, 0),
        ("theory", "the ory", 0, 0),
    ],
)
def test_cases_by_hand(answer, reference, exact, f1):
    assert exact_match(answer, reference) == exact
    assert token_f1(answer, reference) == pytest.approx(f1)


def test_the_best_reference_counts_and_none_means_no_answer():
    assert best_scores("black cat", ["dog", "cat", "black cat dog"]) == (0.0, pytest.approx(0.8))
    assert best_scores("", []) == (1.0, 1.0)
    assert best_scores("cat", []) == (0.0, 0.0)
    assert best_scores("", ["the", "cat"]) == (0.0, 0.0)  # "the" is passed over
