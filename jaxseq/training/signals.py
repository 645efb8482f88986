"""Ctrl-C and SIGTERM as a request that the loop answers between two steps."""

import signal
from types import FrameType


class StopRequest:
    """While entered, notes the first SIGINT or SIGTERM instead of dying of it.

    `number` is that signal, or None. A second one has its usual effect at once.
    """

    number: int | None = None

    def __enter__(self) -> "StopRequest":
        self._usual = {
            number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._usual.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        for each, handler in self._usual.items():
            signal.signal(each, handler)
