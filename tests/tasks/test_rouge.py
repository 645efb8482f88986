"""ROUGE against the package of its authors' successors, and by hand."""

import random

import pytest

from jaxseq.tasks.rouge import METRICS, rouge


def test_by_hand() -> None:
    found = rouge("The cat sat on the mat.", ["the mat, on the cat"])
    # Words: 6 against 5, all 5 in both; pairs: "on the", "the mat", "the cat" of 5 and 4; the
    # longest common subsequence: "the on the".
    assert found["rouge_1"] == pytest.approx(10 / 11)
    assert found["rouge_2"] == pytest.approx(6 / 9)
    assert found["rouge_l"] == pytest.approx(6 / 11)


def test_each_metric_is_the_most_over_the_references() -> None:
    references = ["a b c d e f", "c b x a d"]
    one, other = (rouge("c b a d", [reference]) for reference in references)
    assert one["rouge_1"] < other["rouge_1"]
    both = rouge("c b a d", [*references, "nothing of it"])
    assert both == {name: max(one[name], other[name]) for name in METRICS}


@pytest.mark.parametrize(
    ("written", "reference"), [("", "a"), ("a", "?"), ("\n", "\n"), ("b", "a")]
)
def test_nothing_in_common_is_0(written: str, reference: str) -> None:
    assert rouge(written, [reference]) == dict.fromkeys(METRICS, 0.0)


def test_equals_rouge_score() -> None:
    scorer_module = pytest.importorskip("rouge_score.rouge_scorer", reason="no rouge-score")
    names = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
    names["rouge_lsum"] = "rougeLsum"
    scorer = scorer_module.RougeScorer(list(names.values()))
    draw = random.Random(0)
    pieces = [
        "the",
        "The",
        "cat",
        "cats",
        "sat",
        "on",
        "mat-like",
        "4.5",
        "caf\u00e9",
        "x's",
        ",",
        "\n",
    ]

    def text() -> str:
        return " ".join(draw.choices(pieces, k=draw.randint(0, 14)))

    for _ in range(200):
        written, references = text(), [text() for _ in range(draw.randint(1, 3))]
        found = rouge(written, references)
        expected = scorer.score_multi(references, written)
        for ours, theirs in names.items():
            assert found[ours] == pytest.approx(expected[theirs].fmeasure, abs=1e-12), written
