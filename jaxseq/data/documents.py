"""The documents behind a path, whole or in blocks: text files, and rows with a column of text."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from jaxseq.data.files import SourceFile, as_url, find_files, warn_of_skipped
from jaxseq.data.rows import BadRows, Row
from jaxseq.data.sources import complete, file_rows
from jaxseq.data.tables import dataset_rows
from jaxseq.data.text import TEXT_SUFFIXES, Document, no_text, read_text, text_blocks
from jaxseq.errors import UserError

_ROWS = (".jsonl", ".parquet", ".arrayrecord")
_PERHAPS_ROWS = {".tsv": "\t", ".csv": ","}


class Streamed(NamedTuple):
    """A document that need not be in memory as a whole."""

    name: str
    """See `Document.name`; that of a row ends in `, line N`."""

    blocks: Iterator[str]
    """Its text; to be read before the next document is asked for."""

    num_bytes: Callable[[], int]
    """Counts the bytes of its text as UTF-8."""


class Documents:
    """The documents behind a path, read anew each time they are asked for, always in one order.

    Each row of a `.jsonl`, `.parquet` or `.arrayrecord` file and of an `hf://` dataset is a
    document, its text in `column`; so is each row of a `.tsv` or `.csv` whose first line names
    that column. Any other file is one document. Documents without text are passed over.
    """

    def __init__(self, source: Path, column: str):
        """Look up the files, and log which are skipped by suffix; raises as `find_files` does."""
        self._source = source
        self.column = column
        url = as_url(source)
        self._dataset = url if url is not None and url.startswith("hf://") else None
        self._files: list[SourceFile] = []
        if self._dataset is None:
            self._files, self._skipped = find_files(source, (*TEXT_SUFFIXES, *_ROWS))
            warn_of_skipped(source, self._skipped)

    def num_bytes(self) -> int | None:
        """The bytes of the files as they lie there, None where that is not known."""
        sizes = [file.size() for file in self._files]
        return None if self._dataset or None in sizes else sum(size or 0 for size in sizes)

    def versions(self) -> list[tuple[str, str]] | None:
        """The name of each file and what changes with its content; None for a dataset."""
        return None if self._dataset else [(file.name, file.version()) for file in self._files]

    def whole(self, bad_rows: BadRows) -> Iterator[Document]:
        """Yield the documents.

        Raises UserError for what cannot be read, for bad rows, and where there is no text at all.
        """
        for document in self._filled(bad_rows, lambda file: iter([read_text(file)])):
            yield Document(document.name, "".join(document.blocks))

    def streamed(self, bad_rows: BadRows) -> Iterator[Streamed]:
        """Yield the same documents in blocks, for texts larger than memory; raises the same."""
        return self._filled(bad_rows, text_blocks)

    def _filled(
        self, bad_rows: BadRows, blocks_of: Callable[[SourceFile], Iterator[str]]
    ) -> Iterator[Streamed]:
        empty = True
        for document in self._all(bad_rows, blocks_of):
            first = next(document.blocks, "")
            if first:
                empty = False
                blocks = itertools.chain([first], document.blocks)
                yield document._replace(blocks=blocks)
        if not empty:
            return
        if self._dataset or bad_rows.reasons:
            bad = "".join(f"; {count:,} {name}" for name, count in bad_rows.reasons.items())
            raise UserError(f"{self._source} has no row with text in '{self.column}'{bad}")
        raise no_text(self._source, len(self._files), self._skipped)

    def _all(
        self, bad_rows: BadRows, blocks_of: Callable[[SourceFile], Iterator[str]]
    ) -> Iterator[Streamed]:
        columns = (self.column,)
        if self._dataset:
            yield from self._rows(dataset_rows(self._dataset, columns), "", bad_rows)
            return
        for file in self._files:
            if self._has_rows(file):
                rows = file_rows(file, columns, bad_rows)
                yield from self._rows(rows, str(file.path), bad_rows, file.name)
            else:
                yield Streamed(file.name, blocks_of(file), lambda file=file: _text_bytes(file))

    def _has_rows(self, file: SourceFile) -> bool:
        if file.suffix in _PERHAPS_ROWS:
            with file.open() as data:
                first = data.readline().decode("utf-8-sig", "replace").rstrip("\r\n")
            fields = first.split(_PERHAPS_ROWS[file.suffix])
            return self.column in [field.strip('"') for field in fields]
        return file.suffix in _ROWS

    def _rows(
        self, rows: Iterator[Row], path: str, bad_rows: BadRows, name: str = ""
    ) -> Iterator[Streamed]:
        """The rows as documents; their names have `name` where their places have `path`."""
        for place, fields in complete(rows, (self.column,), bad_rows):
            text = fields[self.column]
            if not isinstance(text, str):
                bad_rows.add(place, "no text in the column", repr(text)[:40])
                continue
            try:
                size = len(text.encode("utf-8"))
            except UnicodeEncodeError:  # JSON can spell half a character
                bad_rows.add(place, "not UTF-8 text", "half a surrogate pair")
                continue
            yield Streamed(name + place.removeprefix(path), iter([text]), lambda size=size: size)


def _text_bytes(file: SourceFile) -> int:
    size = None if file.compressed else file.size()
    return sum(len(block.encode("utf-8")) for block in text_blocks(file)) if size is None else size
