"""Documents from files, directories and the Python standard library, and their split."""

import gzip
import logging
import os
import sys
import sysconfig
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxseq.errors import UserError

TEXT_SUFFIXES = (
    "", ".txt", ".text", ".md", ".rst", ".tex", ".html", ".xml", ".json", ".jsonl", ".csv", ".tsv",
    ".yaml", ".yml", ".toml", ".py", ".pyi", ".c", ".h", ".cc", ".cpp", ".cu", ".java", ".go",
    ".rs", ".js", ".ts", ".css", ".sh", ".sql", ".r", ".jl", ".m", ".f90", ".hs", ".ml", ".lua",
    ".pl", ".php", ".rb", ".s", ".log",
)  # fmt: skip
"""The files that `read_documents` takes from a directory, in either case, with `.gz` or without;
"" is a name without a suffix (LICENSE, wiki_00)."""

_log = logging.getLogger(__name__)


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
    is not in `TEXT_SUFFIXES` are skipped with one logged warning that counts them.

    Raises UserError for a path that is missing, empty or unreadable, for text that is not UTF-8
    (with its line and byte) and for a damaged gzip file.
    """
    try:
        # stat, because is_file() hides why a path cannot be looked at
        path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    if path.is_dir():
        return _read_directory(path)
    if not path.is_file():
        raise UserError(f"{path} is neither a file nor a directory: name a text file")
    document = Document(path.name, _read_text(path))
    if not document.text:
        raise UserError(f"{path} is empty: name a file with text in it")
    return [document]


def _read_directory(directory: Path) -> list[Document]:
    chosen: list[Path] = []
    skipped: Counter[str] = Counter()

    def stop(error: OSError) -> None:
        raise _unreadable(Path(error.filename), error) from error

    for folder, subfolders, names in os.walk(directory, onerror=stop):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in names:
            suffix = Path(name.lower().removesuffix(".gz")).suffix
            if name.startswith("."):
                continue
            if suffix in TEXT_SUFFIXES:
                chosen.append(Path(folder, name))
            else:
                skipped[suffix] += 1
    by_name = {file.relative_to(directory).as_posix(): file for file in chosen}
    documents = [Document(name, _read_text(by_name[name])) for name in sorted(by_name)]
    documents = [document for document in documents if document.text]

    counts = ", ".join(f"{count} *{suffix}" for suffix, count in skipped.most_common(8))
    if not documents:
        found = f"{len(chosen)} empty text files" + (f", and skipped {counts}" if counts else "")
        raise UserError(
            f"no text in the directory {directory} (found {found}): name a directory with "
            "non-empty text files (.txt, .md, .py, ..., or gzipped), or a single file of any name"
        )
    if skipped:
        _log.warning("%s: skipped %d files by suffix: %s", directory, skipped.total(), counts)
    return documents


def _read_text(file: Path) -> str:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise _unreadable(file, error) from error
    if file.suffix.lower() == ".gz":
        try:
            data = gzip.decompress(data)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UserError(
                f"{file} is not a whole gzip file ({error}): fetch it again, or drop its .gz"
            ) from error
    try:
        # bytes.decode, unlike open(), leaves \r\n alone
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{file}, line {line} (byte {error.start}): not UTF-8 text; convert it (for example "
            "with iconv -t utf-8) or leave it out"
        ) from error


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
    text = _read_text(path)
    lines = text.split("\n")
    yield from (line.rstrip("\r") for line in (lines[:-1] if lines[-1] == "" else lines))


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot read {path}: {error.strerror}; check the path and its permissions")


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
        boundary = int(len(document.text) * (1 - validation_fraction))
        return (
            [Document(document.name, document.text[:boundary])],
            [Document(document.name, document.text[boundary:])],
        )
    n = len(documents)
    held = min(max(1, round(n * validation_fraction)), n - 1)
    # The middle of each of `held` equal stretches of the list.
    validation = {(2 * i + 1) * n // (2 * held) for i in range(held)}
    return (
        [document for i, document in enumerate(documents) if i not in validation],
        [document for i, document in enumerate(documents) if i in validation],
    )
