"""Text to token ids and back: UTF-8 bytes, characters or words."""

import codecs
import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from jaxseq.config import from_tree, read_json, to_tree, write_json
from jaxseq.data.vocabulary import Vocabulary
from jaxseq.errors import UserError
from jaxseq.typing import Int

UNKNOWN = "\ufffd"
"""U+FFFD, the replacement character: what a byte or an id that is no character decodes to."""


@runtime_checkable
class Tokenizer(Protocol):
    """What every tokenizer offers; V is `vocab_size`."""

    @property
    def vocab_size(self) -> int:
        """The number of ids, V."""
        ...

    @property
    def byte_lengths(self) -> Int[np.ndarray, " V"]:
        """The UTF-8 bytes that each id stands for: turns bits per token into bits per byte."""
        ...

    def encode(self, text: str) -> Int[np.ndarray, " tokens"]:
        """Return the int32 ids of `text`; never fails."""
        ...

    def decode(self, ids: ArrayLike) -> str:
        """Return the text of `ids` (ValueError for an id outside 0..V-1)."""
        ...

    def stream_decoder(self) -> "StreamDecoder":
        """Return a decoder for ids that arrive in pieces."""
        ...

    def unknown(self, text: str) -> list[str]:
        """Return the distinct pieces of `text`, in order, that `encode` cannot represent."""
        ...


class StreamDecoder:
    """Decodes ids that arrive in pieces, holding back the bytes of an unfinished character.

    The pieces joined are `tokenizer.decode` of all ids, however they were cut.
    """

    def __init__(self, to_bytes: Callable[[ArrayLike], bytes]):
        self._to_bytes = to_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def decode(self, ids: ArrayLike, final: bool = False) -> str:
        """Return the text that `ids` completes; `final` flushes half a character as U+FFFD."""
        return self._utf8.decode(self._to_bytes(ids), final)


@dataclass(frozen=True)
class ByteTokenizer:
    """One id a UTF-8 byte: V = 256, and every text can be written."""

    @property
    def vocab_size(self) -> int:
        """256."""
        return 256

    @functools.cached_property
    def byte_lengths(self) -> Int[np.ndarray, " V"]:
        """One byte an id."""
        return np.ones(256, np.int32)

    def encode(self, text: str) -> Int[np.ndarray, " tokens"]:
        """Return the UTF-8 bytes of `text` as int32."""
        # surrogatepass: an undecodable byte on the command line becomes a lone surrogate in
        # sys.argv, which strict UTF-8 refuses; here it decodes to U+FFFD instead.
        return np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8).astype(np.int32)

    def decode(self, ids: ArrayLike) -> str:
        """Return the text of `ids`; bytes that are not UTF-8 become U+FFFD."""
        return self._to_bytes(ids).decode("utf-8", "replace")

    def stream_decoder(self) -> StreamDecoder:
        """Return a decoder for ids that arrive in pieces."""
        return StreamDecoder(self._to_bytes)

    def unknown(self, text: str) -> list[str]:
        """Return []: bytes write every text."""
        return []

    def _to_bytes(self, ids: ArrayLike) -> bytes:
        return checked_ids(ids, self.vocab_size).astype(np.uint8).tobytes()


@dataclass(frozen=True)
class CharTokenizer:
    """One id a character: `characters[i]` has id i + 1, and id 0 is any other character.

    The unknown character decodes to U+FFFD. It counts 1 in `byte_lengths`, the least that it can
    have stood for, so that bits per byte are never flattered by it.
    """

    characters: str
    """The known characters, each once, without U+FFFD; they decide the order of the ids."""

    def __post_init__(self):
        known = self.characters
        if not isinstance(known, str) or UNKNOWN in known or len(set(known)) != len(known):
            raise ValueError("characters must be a string of distinct ones, without U+FFFD")

    @classmethod
    def train(cls, text: str) -> "CharTokenizer":
        """Return the tokenizer of the sorted set of characters in `text`."""
        return cls("".join(sorted(set(text) - {UNKNOWN})))

    @property
    def vocab_size(self) -> int:
        """The number of known characters, and one."""
        return 1 + len(self.characters)

    @functools.cached_property
    def byte_lengths(self) -> Int[np.ndarray, " V"]:
        """The UTF-8 bytes of each character, 1 to 4; 1 for the unknown one."""
        lengths = [len(character.encode("utf-8", "surrogatepass")) for character in self.characters]
        return np.array([1, *lengths], np.int32)

    def encode(self, text: str) -> Int[np.ndarray, " tokens"]:
        """Return one int32 id a character, 0 for one outside the vocabulary."""
        ids = self._id_of_code_point
        return ids[np.minimum(_code_points(text), ids.size - 1)]

    def decode(self, ids: ArrayLike) -> str:
        """Return the text of `ids`."""
        code_points = _code_points(UNKNOWN + self.characters)[checked_ids(ids, self.vocab_size)]
        return code_points.tobytes().decode("utf-32-le", "surrogatepass")

    def stream_decoder(self) -> StreamDecoder:
        """Return a decoder for ids that arrive in pieces (a character is never cut here)."""
        return StreamDecoder(lambda ids: self.decode(ids).encode("utf-8", "replace"))

    def unknown(self, text: str) -> list[str]:
        """Return the distinct characters of `text` outside the vocabulary, in order."""
        return [c for c in dict.fromkeys(text) if c not in self.characters]

    @functools.cached_property
    def _id_of_code_point(self) -> Int[np.ndarray, " code_points"]:
        """A dense table, at most 4.5 MB; its last entry is 0, for all code points beyond."""
        known = _code_points(self.characters)
        table = np.zeros(int(known.max(initial=0)) + 2, np.int32)
        table[known] = np.arange(1, self.vocab_size)
        return table


@dataclass(frozen=True)
class WordTokenizer:
    """One id a word, a run of spaces or any other character: `entries[i]` has id i + 1.

    Id 0 is what training had less than `min_count` times. It decodes to U+FFFD and counts 1 in
    `byte_lengths`, the least that it can have stood for. The text is otherwise kept whole.
    """

    entries: tuple[str, ...]
    """The known pieces, each once, the most frequent first."""

    @classmethod
    def train(cls, texts: str | Iterable[str], min_count: int = 2) -> "WordTokenizer":
        """Return the tokenizer of the pieces that occur `min_count` times in a text or several."""
        counts = Counter[str]()
        for text in [texts] if isinstance(texts, str) else texts:
            counts.update(_PIECES.findall(text))
        return cls(Vocabulary.build(counts, (), min_count).entries)

    @property
    def vocab_size(self) -> int:
        """The number of known pieces, and one."""
        return 1 + len(self.entries)

    @functools.cached_property
    def byte_lengths(self) -> Int[np.ndarray, " V"]:
        """The UTF-8 bytes of each piece; 1 for the unknown one."""
        return np.array([1, *(len(_utf8(entry)) for entry in self.entries)], np.int32)

    def encode(self, text: str) -> Int[np.ndarray, " tokens"]:
        """Return one int32 id a piece, 0 for one outside the vocabulary."""
        ids = self._ids
        return np.array([ids.get(piece, 0) for piece in _PIECES.findall(text)], np.int32)

    def decode(self, ids: ArrayLike) -> str:
        """Return the text of `ids`."""
        pieces = (UNKNOWN, *self.entries)
        return "".join(pieces[i] for i in checked_ids(ids, self.vocab_size).tolist())

    def stream_decoder(self) -> StreamDecoder:
        """Return a decoder for ids that arrive in pieces (a character is never cut here)."""
        return StreamDecoder(lambda ids: self.decode(ids).encode("utf-8", "replace"))

    def unknown(self, text: str) -> list[str]:
        """Return the distinct pieces of `text` outside the vocabulary, in order."""
        return [piece for piece in dict.fromkeys(_PIECES.findall(text)) if piece not in self._ids]

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {entry: number for number, entry in enumerate(self.entries, start=1)}


_PIECES = re.compile(r"\w+|[ \t]+|.", re.DOTALL)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _code_points(text: str) -> Int[np.ndarray, " characters"]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<i4")


def checked_ids(ids: ArrayLike, vocab_size: int) -> Int[np.ndarray, " tokens"]:
    """Return `ids` as an array; ValueError for one outside 0..vocab_size - 1."""
    array = np.asarray(ids)
    if array.size == 0:  # np.asarray([]) is float64
        return np.zeros(0, np.int32)
    array = np.atleast_1d(array)
    if array.min() < 0 or array.max() >= vocab_size:
        raise ValueError(
            f"token ids must be 0 to {vocab_size - 1}, got {array.min()} to {array.max()}"
        )
    return array


def save_tokenizer(tokenizer: Any, path: Path) -> None:
    """Write a tokenizer, which is a frozen dataclass, to `path` as JSON, whole or not at all.

    Raises UserError where the file cannot be written.
    """
    try:
        write_json(path, to_tree(tokenizer))
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; choose another run directory"
        ) from error


def load_tokenizer(path: Path) -> Any:
    """Return the tokenizer that `save_tokenizer` wrote; UserError for a damaged file."""
    try:
        tokenizer = from_tree(read_json(path), str(path))
    except (TypeError, ValueError) as error:  # a field is missing, or holds what it must not
        (what, *_) = str(error).splitlines()
        raise UserError(f"{path} is damaged ({what}); restore it from a copy") from error
    if not is_dataclass(tokenizer):
        raise UserError(f"{path} is damaged (it names no type); restore it from a copy")
    return tokenizer
