import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jaxseq.decoding.stop_strings import StopStrings
from jaxseq.errors import UserError


def expected(text: str, stop: tuple[str, ...]) -> str:
    """Character by character: the text before the stop string that is complete first."""
    for n in range(1, len(text) + 1):
        complete = [s for s in stop if text[:n].endswith(s)]
        if complete:
            return text[: n - max(map(len, complete))]
    return text


@given(
    pieces=st.lists(st.text("ab\n", max_size=4), max_size=8),
    stop=st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3).map(tuple),
)
@example(pieces=["abc", "d"], stop=("abcd", "bc"))
@example(pieces=["aa", "ab"], stop=("aab",))
@example(pieces=["ab", "ab"], stop=("abab", "b"))
def test_however_the_text_is_cut_it_ends_at_what_is_complete_first(pieces, stop):
    text = StopStrings(stop)
    shown = "".join(text.feed(piece) for piece in pieces)
    stopped = text.stopped
    shown += text.feed("", final=True)
    whole = "".join(pieces)
    assert shown == expected(whole, stop)
    assert stopped == any(s in whole for s in stop)


def test_what_may_be_a_beginning_is_held_back_and_nothing_else():
    text = StopStrings(("\n\n", "END"))
    assert text.feed("one\n") == "one"
    assert text.feed("two E") == "\ntwo "
    assert text.feed("N") == ""
    assert text.feed("G") == "ENG"
    assert text.feed("EN", final=True) == "EN"
    assert not text.stopped


def test_nothing_comes_after_the_stop():
    text = StopStrings(("b",))
    assert text.feed("abc") == "a"
    assert text.stopped
    assert text.feed("d") == text.feed("e", final=True) == ""


def test_an_empty_string_is_a_mistake():
    with pytest.raises(UserError, match="--stop holds an empty string"):
        StopStrings(("a", ""))
