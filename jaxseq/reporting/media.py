"""Pictures and sounds inside the file, as many as it has room for."""

import base64
from pathlib import Path

from jaxseq.reporting.markup import Markup, element

BUDGET = 20_000_000
"""Bytes of pictures and sounds that a report holds: more than that is slow to send and to open."""

KINDS = {"image/png": b"\x89PNG\r\n\x1a\n", "audio/wav": b"RIFF"}
"""What is embedded, and how such files begin."""


class Media:
    """Embeds files of runs until the budget is spent; remembers what it left out."""

    def __init__(self):
        """With all of the budget."""
        self._left = BUDGET
        self.left_out: list[str] = []
        """Paths of the files that were too large for what was left."""

    def embed(self, folder: Path, name: object, caption: str) -> Markup:
        """A picture or a sound with its caption, or a line that says why it is not there.

        `name` stands in a file of the run: it may name no file outside `folder`.
        """
        return element(
            "figure", self._content(folder, name, caption), element("figcaption", caption)
        )

    def _content(self, folder: Path, name: object, caption: str) -> Markup:
        path = folder / str(name)
        try:
            if not path.resolve().is_relative_to(folder.resolve()):
                return _absent(f"{name} lies outside of {folder.name}: not shown")
            size = path.stat().st_size
            if size > self._left:
                self.left_out.append(str(path))
                return _absent(f"{path} is left out: the report has no room for it")
            content = path.read_bytes()
        except (OSError, ValueError):  # a name with a zero byte is a ValueError
            return _absent(f"{name} is missing")
        kind = next((kind for kind, start in KINDS.items() if content.startswith(start)), None)
        if kind is None:
            return _absent(f"{name} is damaged: neither a PNG picture nor a WAV sound")
        self._left -= size
        address = f"data:{kind};base64,{base64.b64encode(content).decode()}"
        if kind == "audio/wav":
            return element("audio", controls=True, preload="metadata", src=address)
        return element("img", src=address, alt=caption, loading="lazy")


def _absent(why: str) -> Markup:
    return element("p", why, class_="gap")
