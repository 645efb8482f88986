"""Error rates of transcripts against jiwer's, and alignments against the fewest edits."""

import random

import jiwer
import pytest

from jaxseq.tasks.edit_distance import edit_distance
from jaxseq.tasks.word_errors import alignment, count_errors

WORDS = ("one", "two", "ten", "tent", "a", "bee", "been")


def drawn(draw: random.Random, least: int) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(least, 7)))


def test_rates_are_those_of_jiwer():
    draw = random.Random(0)
    pairs = [(drawn(draw, 0), drawn(draw, 1)) for _ in range(200)]
    counts = [count_errors(written, reference) for written, reference in pairs]
    for count, (written, reference) in zip(counts, pairs, strict=True):
        assert count.word_edits / count.words == pytest.approx(jiwer.wer(reference, written))
        assert count.character_edits / count.characters == pytest.approx(
            jiwer.cer(reference, written)
        )
    words, word_edits, characters, character_edits = map(sum, zip(*counts, strict=True))
    written, references = ([pair[i] for pair in pairs] for i in (0, 1))
    assert word_edits / words == pytest.approx(jiwer.wer(references, written))
    assert character_edits / characters == pytest.approx(jiwer.cer(references, written))


def test_spaces_are_one_and_nothing_said_is_legal():
    assert count_errors(" one  two ", "one two") == (2, 0, 7, 0)
    assert count_errors("one", "") == (0, 1, 0, 3)
    assert count_errors("", "") == (0, 0, 0, 0)


def test_alignments_have_the_fewest_edits_and_every_place_once():
    draw = random.Random(1)
    for _ in range(100):
        written, reference = ([draw.randint(0, 2) for _ in range(draw.randint(0, 6))] for _ in "ab")
        pairs = alignment(written, reference)
        assert [i for i, _ in pairs if i is not None] == list(range(len(written)))
        assert [j for _, j in pairs if j is not None] == list(range(len(reference)))
        edits = sum(i is None or j is None or written[i] != reference[j] for i, j in pairs)
        assert edits == edit_distance(written, reference)
    assert alignment("ac", "abc") == [(0, 0), (None, 1), (1, 2)]
    assert alignment("x", "y") == [(0, 0)]
