"""BLEU and chrF: equal to sacreBLEU on random cases and on what is easily got wrong."""

import random

import numpy as np
import pytest

from jaxseq.tasks.translation_metrics import (
    CHRF_SIGNATURE,
    SIGNATURE,
    bleu,
    bleu_counts,
    chrf,
    chrf_counts,
    words_13a,
)

WORDS = ["the", "cat", "sat", "on", "a", "mat", "l'été", "3.5", "1,000", "don't", "Ça", "va?", "-"]
ENDS = ["", ".", "!", " ?", "...", '"', ", etc.", " &amp; co", "  "]
TEXTS = [
    "", " ", "a", "Hello, world.", "3.5-4 km (about 2.5 miles)", "U.S. $5,000.00", "x&quot;y&lt;z",
    "well-known 10-year plan", "a/b\\c {d} [e] ~f `g` ^h", "tab\there", "«Bonjour» — dit-il…",
    "10.", ".5", "1.a", "a.1", "http://a.b/c?d=e", "日本語、テスト。",
]  # fmt: skip


def corpus(count: int, references: int, seed: int) -> tuple[list[str], list[list[str]]]:
    """Random outputs, and references that share some of their words."""
    draw = random.Random(seed)

    def text(base: list[str]) -> str:
        kept = [word if draw.random() < 0.7 else draw.choice(WORDS) for word in base]
        return " ".join(kept[draw.randrange(2) :]) + draw.choice(ENDS)

    bases = [draw.choices(WORDS, k=draw.randint(0, 12)) for _ in range(count)]
    return [text(base) for base in bases], [
        [text(base) for _ in range(references)] for base in bases
    ]


CASES = [(count, references) for count in (1, 2, 7) for references in (1, 3)]


def ours(outputs: list[str], references: list[list[str]]) -> tuple[float, float]:
    pairs = list(zip(outputs, references, strict=True))
    return (
        bleu(np.sum([bleu_counts(*pair) for pair in pairs], axis=0)),
        chrf(np.sum([chrf_counts(*pair) for pair in pairs], axis=0)),
    )


@pytest.mark.parametrize(("count", "references"), CASES)
def test_scores_equal_sacrebleu(count: int, references: int) -> None:
    """Over 200 random corpora in all."""
    metrics = pytest.importorskip("sacrebleu.metrics")
    above = 0
    for seed in range(35):
        outputs, wanted = corpus(count, references, seed)
        streams = [list(column) for column in zip(*wanted, strict=True)]
        found = ours(outputs, wanted)
        expected = (
            metrics.BLEU().corpus_score(outputs, streams).score,
            metrics.CHRF().corpus_score(outputs, streams).score,
        )
        assert found == pytest.approx(expected, abs=1e-9), (outputs, wanted)
        above += found[0] > 5
    assert above > 5


def test_words_and_signatures_are_sacrebleus() -> None:
    pytest.importorskip("sacrebleu")
    from sacrebleu.metrics import BLEU, CHRF
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    tokenizer = Tokenizer13a()
    for text in TEXTS:
        assert " ".join(words_13a(text)) == tokenizer(text.rstrip())
    for metric, signature in ((BLEU(), SIGNATURE), (CHRF(), CHRF_SIGNATURE)):
        metric.corpus_score(["a"], [["a"]])
        said = str(metric.get_signature())
        assert said.partition("|")[2].rpartition("|version")[0] == signature


def test_a_perfect_corpus_has_100_and_a_strange_one_0() -> None:
    sentences = ["the cat sat on a mat", "Ça va bien, merci beaucoup."]
    assert ours(sentences, [[s] for s in sentences]) == pytest.approx((100, 100))
    assert ours(["xyz w"] * 2, [["abc d"]] * 2) == (0, 0)
    assert ours([""], [[""]]) == (0, 0)


def test_without_a_reference_there_is_no_score() -> None:
    for counts in (bleu_counts, chrf_counts):
        with pytest.raises(ValueError, match="references is empty"):
            counts("a", [])
