"""Subword tokenizers: BPE, byte-level BPE, WordPiece and Unigram, by the `tokenizers` library.

`load_subwords` reads those of others, `subword_training.train_subwords` makes new ones.
"""

import functools
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike

from jaxseq.data.tokenizer_definition import Spelling, Structure, cut, spelling, structure
from jaxseq.data.tokenizers import StreamDecoder, checked_ids
from jaxseq.errors import UserError
from jaxseq.typing import Int

if TYPE_CHECKING:
    import tokenizers

Role = Literal["start", "end", "pad", "unknown", "classify", "separate", "mask"]

ROLE_TOKENS: dict[Role, tuple[str, ...]] = {
    "start": ("<s>", "<bos>", "[BOS]", "<|begin_of_text|>", "<|startoftext|>", "<|endoftext|>"),
    "end": ("</s>", "<eos>", "[EOS]", "<|end_of_text|>", "<|endoftext|>"),
    "pad": ("[PAD]", "<pad>", "<|pad|>"),
    "unknown": ("[UNK]", "<unk>"),
    "classify": ("[CLS]", "<cls>", "<s>"),
    "separate": ("[SEP]", "<sep>", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}
"""The names under which the published vocabularies have each role, the first found is taken."""

_PIECE = 8192
"""Characters of a long text that are encoded in one go, where it may be cut."""
_BATCH = 1 << 22
"""Characters that are handed to the library at once: bounds the memory, about 100 bytes a token."""
_ITEM = 32
"""What a text costs beside its characters, in characters."""


@dataclass(frozen=True, repr=False)
class SubwordTokenizer:
    """A tokenizer of the `tokenizers` library, as a value: equal where the definitions are.

    Special tokens are never found in a text: a text that spells "</s>" is encoded as those four
    characters (by a vocabulary that does not hold it as a piece), and special ids spell no text in
    `decode`. Text as long as memory allows is encoded in parts, where the tokens of the parts are
    certain to be those of the whole (`tokenizer_definition.cut`), and else in one go.

    Raises ValueError for a definition that is no whole tokenizer.
    """

    definition: str
    """The text of a tokenizer.json."""

    roles: tuple[tuple[str, str], ...] = ()
    """(role, token) where the files of the tokenizer say it; else `ROLE_TOKENS` decides."""

    def __post_init__(self):
        _ = self._structure, self.library  # so that a damaged one is known at once

    def __repr__(self) -> str:
        """Return a short form: definitions are megabytes."""
        return f"SubwordTokenizer({type(self.library.model).__name__}, {self.vocab_size} tokens)"

    def __reduce__(self):
        """Pickle without what the library holds."""
        return SubwordTokenizer, (self.definition, self.roles)

    # ---- the Tokenizer protocol ----

    @functools.cached_property
    def vocab_size(self) -> int:
        """The largest id, and one."""
        return 1 + max(self.library.get_vocab().values())

    @functools.cached_property
    def byte_lengths(self) -> Int[np.ndarray, " V"]:
        """The UTF-8 bytes of text that each id spells.

        0 for special tokens; 1 for the unknown one, the least that it can have stood for. A
        byte-level vocabulary spells every byte of a text, spaces too. WordPiece spells no spaces,
        and of a text that is lowercased or stripped of accents only what is left is counted: bits
        per byte are a little too high, never flattered. Where the tokenizer puts a space before
        each text (Metaspace), that counts as one byte.
        """
        return np.array(self._spelling.lengths, np.int32)

    def encode(self, text: str) -> Int[np.ndarray, " tokens"]:
        """Return the int32 ids of `text`, without special tokens; never fails."""
        if len(text) > _PIECE:
            return self.encode_many([text])[0]
        return _ids(self._encode(text))

    def decode(self, ids: ArrayLike) -> str:
        """Return the text of `ids`: special tokens are left out, unknown ones are U+FFFD.

        The first piece's leading space is dropped where the tokenizer puts one before each text,
        and bytes that are not UTF-8 become U+FFFD.
        """
        return self.stream_decoder().decode(ids, final=True)

    def stream_decoder(self) -> StreamDecoder:
        """Return a decoder for ids that arrive in pieces."""
        return StreamDecoder(_Joiner(self._spelling, self.vocab_size))

    def unknown(self, text: str) -> list[str]:
        """Return the distinct pieces of `text`, in order, that `encode` cannot represent.

        With WordPiece a word is unknown as a whole.
        """
        found: dict[str, None] = {}
        known = self._structure.unknown
        if known is not None:
            number = self.library.token_to_id(known)
            for part in self._parts(text):
                encoding = self._encode(part)
                for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
                    if token == number:
                        found.setdefault(part[start:end])
        else:  # what it does not know it drops, as it drops what is no character
            nothing = self._encode("\U0010ffff").ids
            for character in dict.fromkeys(text):
                if not character.isspace() and self._encode(character).ids == nothing:
                    found.setdefault(character)
        return list(found)

    # ---- beyond the protocol ----

    def encode_many(self, texts: Iterable[str]) -> list[Int[np.ndarray, " tokens"]]:
        """Return `encode` of each text, computed on all cores."""
        parts: list[list[Int[np.ndarray, " tokens"]]] = []
        for batch in _batches((i, part) for i, x in enumerate(texts) for part in self._parts(x)):
            numbers, strings = zip(*batch, strict=True)
            for number, encoding in zip(numbers, self._encode_batch(strings), strict=True):
                if number == len(parts):
                    parts.append([])
                parts[number].append(_ids(encoding))
        return [part[0] if len(part) == 1 else np.concatenate(part) for part in parts]

    def encode_with_offsets(
        self, text: str
    ) -> tuple[Int[np.ndarray, " tokens"], Int[np.ndarray, "tokens 2"]]:
        """Return the ids, and (start, end) of each in the characters of `text`.

        White space before a token is none of its characters. A character that is spelled by
        several tokens belongs to each.
        """
        encoding = self._encode(text)
        offsets = []
        for start, end in encoding.offsets:
            while start < end and text[start].isspace():
                start += 1
            offsets.append((start, end))
        return _ids(encoding), np.array(offsets, np.int32).reshape(-1, 2)

    def encode_words(
        self, words: Sequence[str]
    ) -> tuple[Int[np.ndarray, " tokens"], Int[np.ndarray, " tokens"]]:
        """Return the ids of words with spaces between them, and the word's number for each.

        A word that comes to nothing (the empty one, say) has the unknown id, if there is one.
        """
        spaced = [self._word_space * (i > 0 and word != "") + word for i, word in enumerate(words)]
        encodings = self._encode_batch(spaced)
        unknown = self._structure.unknown
        nothing = [] if unknown is None else [self.library.token_to_id(unknown)]
        ids = [encoding.ids or nothing for encoding in encodings]
        numbers = np.repeat(np.arange(len(ids), dtype=np.int32), [len(word) for word in ids])
        return np.array(list(itertools.chain.from_iterable(ids)), np.int32), numbers

    @functools.cached_property
    def before_text(self) -> Int[np.ndarray, " n"]:
        """What a model of this tokenizer expects in front of a text that it goes on with.

        Llama's tokenizers say so, GPT-2's do not. What stands on both sides, as [CLS] and [SEP]
        do, marks an input to be read and is none.
        """
        ids = _ids(self.library.encode("", add_special_tokens=True))
        start = self._special("start")
        return ids if len(ids) == 1 and ids[0] == start else ids[:0]

    def tokens(self, text: str) -> list[str]:
        """Return the pieces of `text` as the vocabulary writes them."""
        return self._encode(text).tokens

    def special(self, role: Role) -> int:
        """Return the id of the special token with a role; UserError where there is none."""
        number = self._special(role)
        if number is None:
            names = ", ".join(ROLE_TOKENS[role])
            raise UserError(
                f"the tokenizer has no special token for '{role}' ({names}); take one that has, or "
                "train one: jaxseq tokenizer --special-tokens adds any"
            )
        return number

    def has(self, role: Role) -> bool:
        """Return whether there is a special token with that role."""
        return self._special(role) is not None

    def _special(self, role: Role) -> int | None:
        said = dict(self.roles).get(role)
        if said is None and role == "unknown":
            said = self._structure.unknown
        for name in ROLE_TOKENS[role] if said is None else (said,):
            number = self.library.token_to_id(name)
            if number is not None:
                return number
        return None

    # ---- what the library does ----

    @functools.cached_property
    def _structure(self) -> Structure:
        return structure(json.loads(self.definition))

    @functools.cached_property
    def library(self) -> "tokenizers.Tokenizer":
        """The library's own object, which finds no special tokens in a text."""
        library = from_definition(self.definition)
        library.encode_special_tokens = True  # as text
        library.no_truncation()
        library.no_padding()
        return library

    @functools.cached_property
    def _spelling(self) -> Spelling:
        return spelling(self._structure, self.library, self.vocab_size)

    @functools.cached_property
    def _cut(self) -> re.Pattern[str] | None:
        return cut(self._structure, self.library)

    @functools.cached_property
    def _word_space(self) -> str:
        """What must stand before a word, as there is one before it, to be encoded as in a text."""
        alone = self._encode("a").ids
        return "" if self._encode("a a").ids == 2 * alone else " "

    def _parts(self, text: str) -> Iterator[str]:
        """The text, cut where that changes none of its tokens."""
        start = 0
        while self._cut is not None and len(text) - start > _PIECE:
            found = self._cut.search(text, start + _PIECE)
            if found is None:
                break
            yield text[start : found.end()]
            start = found.end()
        yield text[start:] if start else text

    def _encode(self, text: str) -> "tokenizers.Encoding":
        try:
            return self.library.encode(text, add_special_tokens=False)
        except TypeError:  # half a surrogate pair
            return self.library.encode(_without_surrogates(text), add_special_tokens=False)

    def _encode_batch(self, texts: Sequence[str]) -> "list[tokenizers.Encoding]":
        """Ids without offsets, which takes the library less time."""
        try:
            return self.library.encode_batch_fast(texts, add_special_tokens=False)
        except TypeError:
            clean = [_without_surrogates(text) for text in texts]
            return self.library.encode_batch_fast(clean, add_special_tokens=False)


class _Joiner:
    """The bytes of ids, without the spaces at both ends of the text that are none of it."""

    def __init__(self, spelled: Spelling, vocab_size: int):
        self._spelled = spelled
        self._vocab_size = vocab_size
        self._begins = spelled.drops_first_space
        self._held = b""

    def __call__(self, ids: ArrayLike) -> bytes:
        pieces = self._spelled.pieces
        numbers = checked_ids(ids, self._vocab_size).tolist()
        data = self._held + b"".join([pieces[number] for number in numbers])
        if self._begins and data:
            data = data.removeprefix(b" ")
            self._begins = False
        if self._spelled.drops_last_space:  # it may be the last: the next call brings it, if any
            self._held = b" " if data.endswith(b" ") else b""
            data = data.removesuffix(b" ")
        return data


def load_subwords(path: Path | str, lowercase: bool | None = None) -> SubwordTokenizer:
    """Return the tokenizer of a file or directory.

    `path` is a tokenizer.json, a vocab.txt (BERT), the vocab.json or encoder.json of GPT-2 with its
    merges beside it (merges.txt, vocab.bpe, or the same name with merges.txt for vocab.json), a
    directory that holds one of these, such as a Hugging Face one, or a run directory.

    `lowercase` is for vocab.txt, which does not say it: None asks the tokenizer_config.json beside
    it, and takes True without one.

    Raises UserError for a file that is missing, damaged or of another kind.
    """
    from jaxseq.data.tokenizer_files import read_definition
    from jaxseq.data.tokenizers import load_tokenizer

    path = Path(path).expanduser()
    read = read_definition(path, lowercase)
    if isinstance(read, Path):
        coder = load_tokenizer(read)
        tokenizer = getattr(coder, "tokenizer", coder)
        if not isinstance(tokenizer, SubwordTokenizer):
            raise UserError(
                f"{read} holds a {type(tokenizer).__name__}, not a subword tokenizer; name another"
            )
        return tokenizer
    try:
        return SubwordTokenizer(read.definition, read.roles)
    except ValueError as error:
        raise UserError(f"{read.file} is damaged ({error}); restore it from a copy") from error


def from_definition(definition: str) -> "tokenizers.Tokenizer":
    """Return the library's object for a tokenizer.json; ValueError for a damaged one."""
    library = tokenizers_library()
    try:
        return library.Tokenizer.from_str(definition)
    except Exception as error:  # the library raises nothing narrower
        (what, *_) = str(error).splitlines() or [""]
        raise ValueError(what) from error


def tokenizers_library() -> ModuleType:
    """Return the module `tokenizers`; UserError where it is not installed."""
    try:
        import tokenizers
    except ImportError as error:
        raise UserError(
            "subword tokenizers need the package tokenizers: pip install jaxseq"
        ) from error
    return tokenizers


def _ids(encoding: "tokenizers.Encoding") -> Int[np.ndarray, " tokens"]:
    return np.array(encoding.ids, np.int32)


def _without_surrogates(text: str) -> str:
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def _batches(parts: Iterable[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    """Lists of parts, of about `_BATCH` characters each."""
    batch, size = [], 0
    for part in parts:
        batch.append(part)
        size += len(part[1]) + _ITEM
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
