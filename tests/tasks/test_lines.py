"""Lines in groups: whole ones from a file, and what has come from somebody who types."""

import threading

import pytest

from jaxseq.tasks.lines import GROUP, Arriving, grouped, numbered_groups


def test_groups_are_whole_but_for_the_last():
    sizes = [len(group) for group in grouped(range(2 * GROUP + 3))]
    assert sizes == [GROUP, GROUP, 3]
    assert list(grouped([])) == []


def test_numbers_go_on_from_group_to_group():
    lines = [str(number) for number in range(1, GROUP + 3)]
    found = [pair for group in numbered_groups(lines) for pair in group]
    assert found == [(int(line), line) for line in lines]


def test_a_line_is_answered_before_the_next_has_come():
    answered = threading.Event()

    def typing():
        yield "one"
        assert answered.wait(60), "the first line was not answered on its own"
        yield "two"

    groups = grouped(Arriving(typing()))
    assert next(groups) == ["one"]
    answered.set()
    assert list(groups) == [["two"]]


def test_lines_that_are_there_go_together():
    lines = Arriving(map(str, range(GROUP + 1)))
    while lines._found.qsize() < GROUP + 2:  # and the end
        pass
    assert [len(group) for group in grouped(lines)] == [GROUP, 1]
    assert list(lines) == []  # the end stays the end


def test_what_goes_wrong_in_reading_is_raised_behind_what_came_before():
    def torn():
        yield "one"
        raise OSError("gone")

    groups = grouped(Arriving(torn()))
    assert next(groups) == ["one"]
    with pytest.raises(OSError, match="gone"):
        next(groups)
