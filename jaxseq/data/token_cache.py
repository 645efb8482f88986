"""Tokens on disk, made once and mapped into memory.

An entry is a directory `tokens/KEY` in the cache: for each split the tokens of its documents one
behind another (`SPLIT.tokens`) and where each document begins (`SPLIT.starts`, int64), and
`entry.json`, which says what they are. It is written under a temporary name and renamed when it is
whole. Entries are never changed, and may be deleted at any time.
"""

import contextlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from jaxseq.cache_folder import cache_folder
from jaxseq.data.packing import TokenStream
from jaxseq.errors import UserError
from jaxseq.typing import Int

_FORMAT = "jaxseq tokens 1"
_ENTRY = "entry.json"

_log = logging.getLogger(__name__)


class Cached(NamedTuple):
    """What an entry holds."""

    streams: dict[str, TokenStream]
    """The tokens of each split, mapped."""

    facts: dict[str, Any]
    """What the maker said about them, JSON values."""


class TokenWriter:
    """Writes the tokens of a split, document by document."""

    def __init__(self, tokens: BinaryIO, starts: BinaryIO, vocab_size: int):
        """Write to two open files."""
        # Two bytes do for most vocabularies; the order is fixed, for a shared file system.
        self.dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<i4")
        self.num_tokens = 0
        self.num_documents = 0
        self._tokens = tokens
        self._starts = starts
        self._begins = True

    def write(self, ids: Int[np.ndarray, " n"]) -> None:
        """Append tokens to the document."""
        if not len(ids):
            return
        if self._begins:
            self._starts.write(np.array(self.num_tokens, "<i8").tobytes())
            self.num_documents += 1
            self._begins = False
        self._tokens.write(ids.astype(self.dtype).tobytes())
        self.num_tokens += len(ids)

    def end_document(self) -> None:
        """What is written next begins another document."""
        self._begins = True

    def sync(self) -> None:
        """Have all of it on the disk, where a power cut leaves it."""
        for file in (self._tokens, self._starts):
            file.flush()
            os.fsync(file.fileno())


def cached_tokens(
    key: str,
    splits: Sequence[str],
    vocab_size: int,
    make: Callable[[Mapping[str, TokenWriter]], dict[str, Any]],
) -> Cached:
    """The entry of `key`, which names the content of all that goes into it.

    Where there is none, `make` writes the tokens, a writer for each of `splits`, and returns the
    facts. Several processes that ask for one key make it once: the others wait. An entry that is
    not whole, or not one of ours, is made anew, with a warning.

    Raises UserError where the cache cannot be written, and what `make` raises.
    """
    folder = cache_folder() / "tokens" / key
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not _damage(folder, key):
            return _read(folder, key)
        with _alone(folder.with_name(f"{key}.lock")) as alone:
            damage = _damage(folder, key)  # another process may have made it by now
            if damage:
                if os.path.lexists(folder):
                    _log.warning("%s is damaged or foreign (%s): making it anew", folder, damage)
                if alone:
                    for stale in folder.parent.glob(f"{key}.*.tmp"):  # of a process that was killed
                        shutil.rmtree(stale, ignore_errors=True)
                _make(folder, key, splits, vocab_size, make)
            return _read(folder, key)
    except OSError as error:
        raise UserError(
            f"cannot keep tokens in {folder}: {error.strerror}; make room, or name a directory "
            "that has it in the environment variable JAXSEQ_CACHE"
        ) from error


def _make(
    folder: Path,
    key: str,
    splits: Sequence[str],
    vocab_size: int,
    make: Callable[[Mapping[str, TokenWriter]], dict[str, Any]],
) -> None:
    unfinished = folder.with_name(f"{key}.{secrets.token_hex(8)}.tmp")
    unfinished.mkdir()
    try:
        with contextlib.ExitStack() as files:

            def writer(split: str) -> TokenWriter:
                tokens, starts = (
                    files.enter_context((unfinished / f"{split}.{kind}").open("wb"))
                    for kind in ("tokens", "starts")
                )
                return TokenWriter(tokens, starts, vocab_size)

            writers = {split: writer(split) for split in splits}
            facts = make(writers)
            for each in writers.values():
                each.sync()
        counts = {
            split: {"tokens": w.num_tokens, "documents": w.num_documents, "dtype": w.dtype.str}
            for split, w in writers.items()
        }
        entry = {"format": _FORMAT, "key": key, "splits": counts, "facts": facts}
        with (unfinished / _ENTRY).open("w", encoding="utf-8") as file:
            json.dump(entry, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        if not _damage(folder, key):
            return  # made by a process that could not be locked out, and perhaps mapped by now
        if folder.is_dir() and not folder.is_symlink():
            shutil.rmtree(folder)
        else:
            folder.unlink(missing_ok=True)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _damage(folder: Path, key: str) -> str:
    """What keeps the entry from being used, "" where nothing does."""
    try:
        _read(folder, key)
    except (OSError, ValueError, TypeError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _read(folder: Path, key: str) -> Cached:
    """The entry in `folder`; OSError, ValueError, TypeError or KeyError where it is not whole."""
    entry = json.loads((folder / _ENTRY).read_text(encoding="utf-8"))
    if (entry["format"], entry["key"]) != (_FORMAT, key):
        raise ValueError(f"{_ENTRY} is that of {entry['format']} {entry['key']}")
    streams = {}
    for split, said in entry["splits"].items():
        streams[split] = TokenStream(
            _map(folder / f"{split}.tokens", np.dtype(said["dtype"]), said["tokens"]),
            _map(folder / f"{split}.starts", np.dtype("<i8"), said["documents"]),
        )
    return Cached(streams, entry["facts"])


def _map(file: Path, dtype: np.dtype, count: int) -> np.ndarray:
    size = file.stat().st_size
    if size != count * dtype.itemsize:
        raise ValueError(f"{file.name} has {size:,} bytes, and not {count * dtype.itemsize:,}")
    if count == 0:  # which cannot be mapped
        return np.zeros(0, dtype)
    return np.asarray(np.memmap(file, dtype, mode="r"))


@contextlib.contextmanager
def _alone(lock: Path) -> Generator[bool, None, None]:
    """Keep other processes out, and tell whether it works; the lock of one that dies is free."""
    import fcntl  # Unix has it: elsewhere small corpora work

    with lock.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.warning("another process is preparing the same tokens: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a file system without locks: each process makes its own, one stays
            yield False
            return
        yield True
