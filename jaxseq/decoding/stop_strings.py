"""Text that comes in pieces, up to the first of some strings."""

from jaxseq.errors import UserError


class StopStrings:
    """Lets text through until one of `stop` has come, and holds back what may be its beginning.

    The string that is complete first ends the text (the longest of those complete at once), and
    is no part of it; so it does not matter how the text was cut into pieces. Raises UserError for
    an empty string.
    """

    def __init__(self, stop: tuple[str, ...]):
        if "" in stop:
            raise UserError("--stop holds an empty string; give it text to stop at, or drop it")
        self._stop = stop
        self._held = ""
        self.stopped = False

    def feed(self, piece: str, final: bool = False) -> str:
        """The text that is sure after one more piece; with `final`, all that was held back too."""
        if self.stopped:
            return ""
        text = self._held + piece
        ends = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if ends:
            self.stopped, self._held = True, ""
            return text[: min(ends)[1]]
        held = 0 if final else max((_overlap(text, stop) for stop in self._stop), default=0)
        sure = len(text) - held
        self._held = text[sure:]
        return text[:sure]


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that `stop` may begin with, without being it."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
