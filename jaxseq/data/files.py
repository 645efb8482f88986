"""The files behind a path, a directory, a glob or a URL, and their bytes."""

import contextlib
import difflib
import glob
import gzip
import hashlib
import logging
import os
import re
import zlib
from collections import Counter
from collections.abc import Container, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from jaxseq.data.catalog import PREFIX, find
from jaxseq.errors import UserError

# At least two letters: C:/ is a drive. One slash is enough, because a Path folds :// into it.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)
_MAGIC = re.compile(r"[*?\[]")

_log = logging.getLogger(__name__)


def as_url(source: str | Path) -> str | None:
    """The URL that `source` is (`gs://bucket/file`, also out of a Path), None for a local path.

    `file://` is a local path.
    """
    found = _URL.fullmatch(str(source))
    if not found or found[1].lower() == "file":
        return None
    return f"{found[1].lower()}://{found[2]}"


def as_path(source: str | Path) -> Path:
    """The local path that `source` is, `file://` taken off."""
    found = _URL.fullmatch(str(source))
    return Path(f"/{found[2]}") if found else Path(source)


def absolute(path: Path) -> Path:
    """The absolute path, `~` and `$NAME` filled in; UserError for a variable that is not set.

    Of a URL only `$NAME` is filled in. `catalog:NAME/SPLIT` is fetched where it is not here (see
    `data.catalog`).
    """
    filled = os.path.expandvars(path)
    if filled.startswith(PREFIX):
        return find(filled)
    expanded = Path(filled) if as_url(filled) else as_path(filled).expanduser().resolve()
    unset = re.search(r"\$\{?(\w+)", str(expanded))
    if unset and not expanded.exists():
        raise UserError(
            f"cannot read {path}: the environment variable {unset[1]} is not set; set it, or say "
            "with --data.path where the text is"
        )
    return expanded


@dataclass(frozen=True)
class SourceFile:
    """One file, here or behind a URL."""

    name: str
    """Its path below the directory or the fixed part of the glob, with `/`; else its own name."""

    path: Path | str
    """A Path here, a string for a URL."""

    @property
    def suffix(self) -> str:
        """In lower case, `.gz` taken off."""
        return suffix_of(self.name)

    @property
    def compressed(self) -> bool:
        """Whether it is gzipped."""
        return self.name.lower().endswith(".gz")

    def size(self) -> int | None:
        """Its bytes as they lie there; None where a server does not say."""
        with _readable(self.path):
            if isinstance(self.path, Path):
                return self.path.stat().st_size
            system, path = _remote(self.path)
            return system.size(path)

    def version(self) -> str:
        """What changes with the content: SHA-256 here, the store's own mark behind a URL."""
        with _readable(self.path):
            if isinstance(self.path, Path):
                with self.path.open("rb") as stream:
                    return hashlib.file_digest(stream, "sha256").hexdigest()
            system, path = _remote(self.path)
            return str(system.ukey(path))

    def read(self) -> bytes:
        """All of it, decompressed; raises as `open` does."""
        if not isinstance(self.path, Path):
            with self.open() as data:
                return data.read()
        with _readable(self.path):
            data = self.path.read_bytes()
            return gzip.decompress(data) if self.compressed else data

    @contextlib.contextmanager
    def open(self) -> Generator[BinaryIO, None, None]:
        """The bytes, decompressed; UserError for what cannot be read and a damaged gzip file."""
        with _readable(self.path):
            if isinstance(self.path, Path):
                raw = self.path.open("rb")
            else:
                system, path = _remote(self.path)
                raw = system.open(path, "rb")
            with contextlib.closing(raw):
                yield cast(BinaryIO, gzip.GzipFile(fileobj=raw) if self.compressed else raw)


class Found(NamedTuple):
    """The files behind a source."""

    files: list[SourceFile]
    """Sorted by name."""

    skipped: Counter[str]
    """How many files of a directory were left out, by suffix."""


def counted(skipped: Counter[str]) -> str:
    """The most frequent of the skipped suffixes, for a message."""
    return ", ".join(f"{count} *{suffix}" for suffix, count in skipped.most_common(8))


def warn_of_skipped(source: str | Path, skipped: Counter[str]) -> None:
    """Log one warning that counts the files that were left out, if any."""
    if skipped:
        _log.warning(
            "%s: skipped %d files by suffix: %s", source, skipped.total(), counted(skipped)
        )


def find_files(source: str | Path, suffixes: Container[str]) -> Found:
    """The file `source`, those below a directory, or those that a glob (`*`, `?`, `[..]`) matches.

    A file that is named or matched may have any suffix; of a directory those in `suffixes`
    (`.gz` apart) are taken, without hidden files and directories. URLs go through fsspec.

    Raises UserError for a path that is missing (with the nearest name), unreadable or neither file
    nor directory, and for a glob that matches nothing.
    """
    url = as_url(source)
    if url is not None:
        return _find_remote(url, suffixes)
    path = as_path(source)
    try:
        # stat, because is_file() hides why a path cannot be looked at
        path.stat()
    except OSError as error:
        if _MAGIC.search(str(path)):
            return _matches(path)
        raise unreadable(path, error) from error
    if path.is_dir():
        return _walk(path, suffixes)
    if not path.is_file():
        raise UserError(f"{path} is neither a file nor a directory: name a text file")
    return Found([SourceFile(path.name, path)], Counter())


def _walk(directory: Path, suffixes: Container[str]) -> Found:
    found = []
    for folder, subfolders, names in os.walk(directory, onerror=_stop):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [Path(folder, name) for name in names]
    return _chosen({file.relative_to(directory).as_posix(): file for file in found}, suffixes)


def _stop(error: OSError) -> None:
    raise unreadable(Path(error.filename), error) from error


def _chosen(by_name: dict[str, Any], suffixes: Container[str]) -> Found:
    files, skipped = [], Counter[str]()
    for name in sorted(by_name):
        suffix = suffix_of(name)
        if any(part.startswith(".") for part in name.split("/")):
            continue
        if suffix in suffixes:
            files.append(SourceFile(name, by_name[name]))
        else:
            skipped[suffix] += 1
    return Found(files, skipped)


def _matches(pattern: Path) -> Found:
    fixed = Path(*_fixed_parts(pattern.parts))
    paths = [Path(name) for name in glob.glob(str(pattern), recursive=True)]
    by_name = {path.relative_to(fixed).as_posix(): path for path in paths if path.is_file()}
    if not by_name:
        if not fixed.exists():
            raise UserError(f"the glob {pattern} matches no file: there is no {fixed}")
        raise UserError(f"the glob {pattern} matches no file in {fixed}: mend the pattern")
    return Found([SourceFile(name, by_name[name]) for name in sorted(by_name)], Counter())


def _fixed_parts(parts: tuple[str, ...]) -> tuple[str, ...]:
    return parts[: next(i for i, part in enumerate(parts) if _MAGIC.search(part))]


def _find_remote(url: str, suffixes: Container[str]) -> Found:
    with _readable(url):
        system, path = _remote(url)
        if _MAGIC.search(path):
            fixed = "/".join(_fixed_parts(tuple(path.split("/"))))
            found = [match for match in system.glob(path) if system.isfile(match)]
            if not found:
                raise UserError(f"the glob {url} matches no file: mend the pattern")
            by_name = {name.removeprefix(fixed).lstrip("/"): name for name in found}
            files = [
                SourceFile(name, system.unstrip_protocol(by_name[name])) for name in sorted(by_name)
            ]
            return Found(files, Counter())
        if system.isdir(path):
            found = system.find(path)
            return _chosen(
                {
                    name.removeprefix(path).lstrip("/"): system.unstrip_protocol(name)
                    for name in found
                },
                suffixes,
            )
        if not system.exists(path):
            parent, _, name = path.rpartition("/")
            names = system.ls(parent, detail=False) if system.isdir(parent) else []
            near = difflib.get_close_matches(name, [n.rpartition("/")[2] for n in names], n=1)
            hint = f"did you mean '{near[0]}'?" if near else "check the URL"
            raise UserError(f"there is no {url}; {hint}")
        return Found([SourceFile(path.rpartition("/")[2], url)], Counter())


def file_system(url: str, doing: str, otherwise: str) -> tuple[Any, str]:
    """The file system of a URL, or of a local path, and the path in it.

    Raises UserError "cannot DOING URL" where the package for it is missing, with what to do
    `otherwise`.
    """
    try:
        from fsspec.core import url_to_fs

        return url_to_fs(url)
    except (ImportError, ValueError) as error:  # the protocol's package is missing or unknown
        (what, *_) = str(error).splitlines() or [type(error).__name__]
        raise UserError(
            f"cannot {doing} {url}: {what}; pip install what it names, or {otherwise}"
        ) from error


def _remote(url: str) -> tuple[Any, str]:
    return file_system(url, "read", "copy the data to a local directory")


@contextlib.contextmanager
def _readable(path: Path | str) -> Generator[None, None, None]:
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(
            f"{path} is not a whole gzip file ({error}): fetch it again, or drop its .gz"
        ) from error
    except OSError as error:
        if isinstance(path, Path):
            raise unreadable(path, error) from error
        raise UserError(
            f"cannot read {path}: {error or type(error).__name__}; check the URL, the network and "
            "your permissions"
        ) from error


def suffix_of(name: str) -> str:
    """The suffix of a file's name in lower case, `.gz` taken off."""
    return Path(name.lower().removesuffix(".gz")).suffix


def unreadable(path: Path, error: OSError) -> UserError:
    """The error for a path that cannot be read, with the nearest name where it is missing."""
    near: list[str] = []
    if isinstance(error, FileNotFoundError) and path.parent.is_dir():
        near = difflib.get_close_matches(path.name, os.listdir(path.parent), n=1)
    hint = f"did you mean '{near[0]}'? Else " if near else ""
    return UserError(
        f"cannot read {path}: {error.strerror or error}; {hint}check the path and its permissions"
    )


def not_utf8(path: Path | str, line: int, byte: int) -> UserError:
    """The error for bytes that are no text."""
    return UserError(
        f"{path}, line {line} (byte {byte}): not UTF-8 text; convert it (for example "
        "with iconv -t utf-8) or leave it out"
    )
