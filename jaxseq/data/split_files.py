"""Data in a file a split: where they are, and lines of two fields in them."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from jaxseq.data.files import absolute
from jaxseq.data.text import Document, read_documents
from jaxseq.errors import UserError

Files = TypeVar("Files", bound="SplitFiles")


@dataclass(frozen=True, kw_only=True)
class SplitFiles:
    """A file to train on, one to look at on the way, and perhaps one for the end (.gz too)."""

    train: Path
    """What is trained on. `~` and `$NAME` of the environment are filled in, here and below."""

    validation: Path
    """Held out, and looked at on the way."""

    test: Path | None = None
    """Held out, for `jaxseq evaluate --split test`."""

    def resolve(self: Files) -> Files:
        """The config with absolute paths, good in every working directory."""
        return dataclasses.replace(self, **{name: absolute(path) for name, path in self._paths()})

    def documents(self) -> dict[str, Document]:
        """The text of every split by its name; UserError for a path that is no file of text."""
        return {name: read_file(absolute(path)) for name, path in self._paths()}

    def _paths(self) -> list[tuple[str, Path]]:
        paths = (("train", self.train), ("validation", self.validation), ("test", self.test))
        return [(name, path) for name, path in paths if path is not None]


def read_file(path: Path) -> Document:
    """The text of one file; UserError for a directory and for a pattern of several."""
    if path.is_dir():
        raise UserError(f"{path} is a directory: name a file, a split has one")
    documents = read_documents(path)
    if len(documents) > 1:
        raise UserError(f"{path} matches {len(documents)} files: name one, a split has one")
    return documents[0]


def two_fields(document: Document, form: str) -> Iterator[tuple[int, tuple[str, str] | None]]:
    """Yield (number from 1, the two fields of the line with a tab between), None for an empty line.

    Raises UserError naming file and line for another number of fields or an empty one; `form` says
    what the line should be, and the mend.
    """
    for number, line in enumerate(document.text.split("\n"), start=1):
        line = line.rstrip("\r")
        if not line.strip():
            yield number, None
            continue
        fields = line.split("\t")
        if len(fields) != 2 or not all(field.strip() for field in fields):
            raise UserError(f"{document.name}, line {number}: {line!r} is not {form}")
        yield number, (fields[0], fields[1])
