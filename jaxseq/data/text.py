"""Documents from files, directories and the Python standard library, and their split."""

import codecs
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxseq.data.files import (
    SourceFile,
    as_path,
    as_url,
    counted,
    find_files,
    not_utf8,
    warn_of_skipped,
)
from jaxseq.errors import UserError

TEXT_SUFFIXES = (
    "", ".txt", ".text", ".md", ".rst", ".tex", ".html", ".xml", ".json", ".jsonl", ".csv", ".tsv",
    ".yaml", ".yml", ".toml", ".py", ".pyi", ".c", ".h", ".cc", ".cpp", ".cu", ".java", ".go",
    ".rs", ".js", ".ts", ".css", ".sh", ".sql", ".r", ".jl", ".m", ".f90", ".hs", ".ml", ".lua",
    ".pl", ".php", ".rb", ".s", ".log",
)  # fmt: skip
"""The files that `read_documents` takes from a directory, in either case, with `.gz` or without;
"" is a name without a suffix (LICENSE, wiki_00)."""


@dataclass(frozen=True)
class Document:
    """One text and where it came from."""

    name: str
    """The path below the directory that was read, with `/`; the file's name for a single file."""

    text: str
    """The text, line endings as they stand in the file."""


def read_documents(path: Path) -> list[Document]:
    """Return the text of a file, or of every text file below a directory, sorted by path.

    A file may have any name; `.gz` is decompressed. In a directory, hidden files and directories
    and empty files are passed over, links to directories are not followed, and files whose suffix
    is not in `TEXT_SUFFIXES` are skipped with one logged warning that counts them. A glob and a
    URL are taken too (see `find_files`).

    Raises UserError for a path that is missing, empty or unreadable, for text that is not UTF-8
    (with its line and byte) and for a damaged gzip file.
    """
    files, skipped = find_files(path, TEXT_SUFFIXES)
    documents = [Document(file.name, read_text(file)) for file in files]
    documents = [document for document in documents if document.text]
    if not documents:
        raise no_text(path, len(files), skipped)
    warn_of_skipped(path, skipped)
    return documents


def no_text(source: Path, empty: int, skipped: Counter[str]) -> UserError:
    """The error for a source of which `empty` files were read, and nothing found in them."""
    if empty == 1 and not skipped and as_url(source) is None and not as_path(source).is_dir():
        return UserError(f"{source} is empty: name a file with text in it")
    found = f"{empty} empty text files"
    if skipped:
        found += f", and skipped {counted(skipped)}"
    return UserError(
        f"no text in the directory {source} (found {found}): name a directory with "
        "non-empty text files (.txt, .md, .py, ..., or gzipped), or a single file of any name"
    )


def read_text(file: SourceFile) -> str:
    """Return the text of a file; UserError where it cannot be read and for text not UTF-8."""
    data = file.read()
    try:
        # bytes.decode, unlike open(), leaves \r\n alone
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise not_utf8(file.path, line, error.start) from error


def text_blocks(file: SourceFile) -> Iterator[str]:
    """Yield the text of a file in blocks of about a megabyte; raises as `read_text` does."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    consumed, lines = 0, 1
    with file.open() as data:
        while True:
            block = data.read(_BLOCK)
            # The bytes of a character that the last block began are still with the decoder.
            waiting = len(decoder.getstate()[0])
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                line = lines + error.object.count(b"\n", 0, error.start)
                raise not_utf8(file.path, line, consumed - waiting + error.start) from error
            consumed += len(block)
            lines += block.count(b"\n")
            if text:
                yield text
            if not block:
                return


_BLOCK = 1 << 20


def read_lines(path: Path | None) -> Iterator[str]:
    """Yield the lines of a UTF-8 file, or of standard input (None) as they come, without ends.

    Raises UserError for a file that is missing, unreadable or not UTF-8.
    """
    if path is None:
        for line in sys.stdin.buffer:
            yield line.decode("utf-8", "replace").rstrip("\r\n")
        return
    if path.is_dir():
        raise UserError(f"{path} is a directory: name a text file with one input a line")
    # Not splitlines(): it cuts at characters that are no line ends in a file.
    text = read_text(SourceFile(path.name, path))
    lines = text.split("\n")
    yield from (line.rstrip("\r") for line in (lines[:-1] if lines[-1] == "" else lines))


def standard_library() -> list[Document]:
    """Return the top-level modules of the running Python's standard library, sorted by name.

    About 160 files and 4.6 MB, on every machine. Modules that a distributor or the build added
    (sitecustomize, _sysconfigdata...) are left out, so that the same Python version gives the same
    text, as are files that are not UTF-8. Raises UserError where Python ships no sources.
    """
    directory = Path(sysconfig.get_path("stdlib"))
    documents = []
    for file in sorted(directory.glob("*.py"), key=lambda file: file.name):
        if file.stem not in sys.stdlib_module_names:
            continue
        try:
            documents.append(Document(file.name, file.read_bytes().decode("utf-8")))
        except UnicodeDecodeError:
            continue
    if not documents:
        raise UserError(f"this Python has no sources in {directory}: name a text with --data.path")
    return documents


def split_documents(
    documents: Sequence[Document], validation_fraction: float
) -> tuple[list[Document], list[Document]]:
    """Return (train, validation) documents, deterministically.

    Of n > 1 documents, round(n * validation_fraction) whole ones, at least 1 and at most n - 1,
    are held out, evenly spread over the list: no document is on both sides. Of a single one the
    last part is held out: train is `text[: int(n * (1 - validation_fraction))]` of its n
    characters, which for 0.1 is nanoGPT's split of tiny Shakespeare.
    """
    if len(documents) == 1:
        (document,) = documents
        boundary = kept_characters(len(document.text), validation_fraction)
        return (
            [Document(document.name, document.text[:boundary])],
            [Document(document.name, document.text[boundary:])],
        )
    validation = held_out(len(documents), validation_fraction)
    return (
        [document for i, document in enumerate(documents) if i not in validation],
        [document for i, document in enumerate(documents) if i in validation],
    )


def held_out(n: int, validation_fraction: float) -> set[int]:
    """Which of n > 1 documents are held out: the middle of each of equal stretches of the list."""
    held = min(max(1, round(n * validation_fraction)), n - 1)
    return {(2 * i + 1) * n // (2 * held) for i in range(held)}


def kept_characters(n: int, validation_fraction: float) -> int:
    """How many of the n characters of a single document are trained on."""
    return int(n * (1 - validation_fraction))
