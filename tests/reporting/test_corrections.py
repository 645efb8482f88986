"""Corrections: the fewest there are, and both texts can be read from them."""

import itertools
import random

from jaxseq.reporting.corrections import Piece, corrections, nearest
from jaxseq.tasks.edit_distance import edit_distance


def test_both_texts_come_back_with_the_fewest_edits():
    draw = random.Random(0)
    for _ in range(100):
        written, reference = (
            [draw.choice("ab c") for _ in range(draw.randrange(8))] for _ in range(2)
        )
        edits, pieces = corrections(written, reference, "")
        assert edits == edit_distance(written, reference)
        assert "".join(p.text for p in pieces if p.kind != "missing") == "".join(written)
        assert "".join(p.text for p in pieces if p.kind != "wrong") == "".join(reference)
        kinds = [piece.kind for piece in pieces]
        assert all(one != other for one, other in itertools.pairwise(kinds))


def test_words_and_characters():
    same, wrong, missing = (lambda text, kind=kind: Piece(kind, text) for kind in KINDS)
    found = nearest("the cat sat down", ["the dog sat"], "word")
    expected = [same("the"), wrong("cat"), missing("dog"), same("sat"), wrong("down")]
    assert found == (0, expected)
    found = nearest("1999-05-14", ["1999-05-04"], "character")
    assert found == (0, [same("1999-05-"), wrong("1"), missing("0"), same("4")])


KINDS = ("same", "wrong", "missing")


def test_the_nearest_reference():
    assert nearest("a b", ["x y z", "a c", "b"], "word")[0] == 1
    assert nearest("", ["", "a"], "word") == (0, [])
    assert nearest("a", [], "word") is None
    assert nearest("a " * 1100, ["b " * 1100], "word") is None  # too long to look at
