"""Lines of input in groups that a device takes at once."""

import itertools
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


GROUP = 32
"""Lines that are answered at once. Batches have this many rows whatever is in them, so that a
last, smaller group compiles nothing anew."""


def grouped(items: Iterable[T]) -> Iterator[list[T]]:
    """The items in order, `GROUP` at a time; the last group holds the rest."""
    rest = iter(items)
    while group := list(itertools.islice(rest, GROUP)):
        yield group
