"""Lines of input in groups that a device takes at once."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


GROUP = 32
"""Lines that are answered at once. Batches have this many rows whatever is in them, so that a
last, smaller group compiles nothing anew."""


class Arriving(Iterator[str]):
    """Lines that somebody may still be typing, read ahead by a thread.

    `grouped` does not wait for more of them than have come, so that each line is answered at once
    where they come slowly, and many together where they come fast.
    """

    def __init__(self, lines: Iterable[str]):
        """Start to read `lines`; what goes wrong there is raised where the lines are taken."""
        self._found: queue.Queue[tuple[str | None, BaseException | None]] = queue.Queue(4 * GROUP)
        threading.Thread(target=self._read, args=(lines,), daemon=True).start()

    def __next__(self) -> str:
        line, error = self._found.get()
        if line is not None:
            return line
        self._found.put((None, None))  # whoever asks again is told the same
        raise error or StopIteration

    def waiting(self) -> bool:
        """Whether another line is there; the end is none, nor is what went wrong."""
        return not self._found.empty() and self._found.queue[0][0] is not None

    def _read(self, lines: Iterable[str]) -> None:
        error = None
        try:
            for line in lines:
                self._found.put((line, None))
        except Exception as raised:  # whatever it is: it is raised where lines are taken
            error = raised
        self._found.put((None, error))


def grouped(items: Iterable[T]) -> Iterator[list[T]]:
    """The items in order, `GROUP` at a time; the last group holds the rest.

    Of `Arriving` lines a group is what has come: one at least.
    """
    rest = iter(items)
    group: list[T] = []
    for item in rest:
        group.append(item)
        if len(group) == GROUP or (isinstance(rest, Arriving) and not rest.waiting()):
            yield group
            group = []
    if group:
        yield group


def numbered_groups(lines: Iterable[str]) -> Iterator[list[tuple[int, str]]]:
    """`grouped` lines, each with its number from 1, for errors to name."""
    number = 0
    for group in grouped(lines):
        yield list(enumerate(group, start=number + 1))
        number += len(group)
