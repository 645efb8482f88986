"""A corpus that need not fit into memory: read in blocks, its tokens prepared in the cache."""

import functools
import hashlib
import itertools
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from jaxseq.config import to_tree
from jaxseq.data.documents import Documents
from jaxseq.data.named_tokenizer import encode_all, end_ids, made_tokenizer
from jaxseq.data.packing import TokenStream
from jaxseq.data.rows import BadRows, OnBadRow
from jaxseq.data.text import held_out, kept_characters
from jaxseq.data.token_cache import TokenWriter, cached_tokens
from jaxseq.data.tokenizers import Tokenizer
from jaxseq.errors import UserError

_PIECE = 1 << 20
"""Characters of a document that are encoded together, about."""

_AT_ONCE = 1 << 24
"""Characters that are in memory together."""

_log = logging.getLogger(__name__)


class Prepared(NamedTuple):
    """A corpus on disk."""

    tokenizer: Tokenizer
    train: TokenStream
    validation: TokenStream
    fingerprint: str
    """See `corpus.fingerprint`."""


class _Scan(NamedTuple):
    """What only reading all of a corpus tells."""

    num_documents: int
    num_characters: int
    fingerprint: str


class LargeCorpus:
    """The split and the tokens of documents, without ever having all of them in memory."""

    def __init__(self, documents: Documents, validation_fraction: float, on_bad_row: OnBadRow):
        """The split is that of `split_documents`, with the same share held out."""
        self._documents = documents
        self._validation_fraction = validation_fraction
        self._on_bad_row: OnBadRow = on_bad_row
        self._versions = documents.versions()

    def prepare(self, tokenizer: Tokenizer | None, name: str) -> Prepared:
        """The tokens, from the cache where they are there already.

        The key of the cache is the content of the sources and of the tokenizer. Without one, the
        tokenizer is what `name` says, made from the training split alone. Bad rows are reported
        each time. Raises UserError as `Documents.streamed` and `cached_tokens` do.
        """
        if tokenizer is None:
            tokenizer = made_tokenizer(name, self._training_text())
        streams, facts = cached_tokens(
            self._key(tokenizer),
            ("train", "validation"),
            tokenizer.vocab_size,
            functools.partial(self._write, tokenizer),
        )
        bad_rows = BadRows("skip")
        bad_rows.reasons.update(facts["bad_rows"])
        bad_rows.report()
        return Prepared(tokenizer, streams["train"], streams["validation"], facts["fingerprint"])

    def _key(self, tokenizer: Tokenizer) -> str:
        content = self._versions or self._scan.fingerprint
        how = [self._documents.column, self._validation_fraction, self._on_bad_row]
        data = json.dumps([content, to_tree(tokenizer), how]).encode("utf-8", "surrogatepass")
        return hashlib.sha256(data).hexdigest()[:32]

    def _write(self, tokenizer: Tokenizer, writers: Mapping[str, TokenWriter]) -> dict[str, Any]:
        size = self._documents.num_bytes()
        much = "a dataset" if size is None else f"{size / 1e6:,.0f} MB"
        _log.warning("preparing the tokens of %s, once for this text and tokenizer", much)
        end = end_ids(tokenizer, self._scan.num_documents)
        for batch in _batches(self._parts()):
            encoded = encode_all(tokenizer, [piece.text for piece in batch])
            for (split, ends, _), ids in zip(batch, encoded, strict=True):
                writers[split].write(ids)
                if ends:
                    writers[split].write(end)
                    writers[split].end_document()
        if self._documents.versions() != self._versions:
            raise UserError("the text changed while its tokens were made: start again")
        bad_rows = dict(self._bad_rows.reasons)
        return {"fingerprint": self._scan.fingerprint, "bad_rows": bad_rows}

    @functools.cached_property
    def _scan(self) -> _Scan:
        digest = hashlib.sha256()
        documents = characters = 0
        self._bad_rows = BadRows(self._on_bad_row)
        for name, blocks, num_bytes in self._documents.streamed(self._bad_rows):
            documents += 1
            # As corpus.fingerprint has it, which has the documents whole.
            encoded = name.encode("utf-8", "surrogateescape")
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
            digest.update(num_bytes().to_bytes(8, "little"))
            for block in blocks:
                characters += len(block)
                digest.update(block.encode("utf-8"))
        return _Scan(documents, characters, digest.hexdigest())

    def _training_text(self) -> Iterator[str]:
        """The training split in one, as a tokenizer is made from it in memory too."""
        parts = (blocks for split, _, blocks in self._parts() if split == "train")
        return pieces(itertools.chain.from_iterable(parts))

    def _parts(self) -> Iterator[tuple[str, bool, Iterator[str]]]:
        """(split, whether a document ends here, blocks) of what is in each split, in order."""
        n, characters, _ = self._scan
        documents = self._documents.streamed(BadRows(self._on_bad_row))
        if n == 1:
            document = next(documents)
            kept = kept_characters(characters, self._validation_fraction)
            first, rest = _cut(document.blocks, kept)
            yield "train", False, first
            yield "validation", True, rest
            return
        held = held_out(n, self._validation_fraction)
        for number, document in enumerate(documents):
            yield "validation" if number in held else "train", True, document.blocks


def _cut(blocks: Iterator[str], characters: int) -> tuple[Iterator[str], Iterator[str]]:
    """The first `characters` of a text, and the rest, to be read in this order."""
    behind: list[str] = []

    def first() -> Iterator[str]:
        left = characters
        for block in blocks:
            yield block[:left]
            if len(block) >= left:
                behind.append(block[left:])
                return
            left -= len(block)

    def rest() -> Iterator[str]:
        yield from behind
        yield from blocks

    return first(), rest()


_BOUNDARY = re.compile(r"(?<=\w)\s")


def pieces(blocks: Iterable[str]) -> Iterator[str]:
    """The text of `blocks` in pieces of one to two million characters, whatever the blocks were.

    Each is cut before white space that follows a letter or digit: where bytes, characters, words
    and the published subword tokenizers begin a new token anyway. A stretch of a million
    characters without such a place is cut anywhere.
    """
    text, start = "", 0
    for block in blocks:
        text, start = text[start:] + block, 0
        while len(text) - start > 2 * _PIECE:
            found = _BOUNDARY.search(text, start + _PIECE, start + 2 * _PIECE)
            end = found.start() if found else start + 2 * _PIECE
            yield text[start:end]
            start = end
    yield text[start:]


class _Piece(NamedTuple):
    split: str
    ends: bool
    """Whether a document ends with it."""
    text: str


def _batches(parts: Iterable[tuple[str, bool, Iterator[str]]]) -> Iterator[list[_Piece]]:
    """Lists of pieces, each of about as many characters as may be in memory."""
    batch: list[_Piece] = []
    size = 0
    for split, ends, blocks in parts:
        last = ""
        for text in pieces(blocks):
            if last:
                batch.append(_Piece(split, False, last))
            if size >= _AT_ONCE:
                yield batch
                batch, size = [], 0
            size += len(text)
            last = text
        batch.append(_Piece(split, ends, last))
    yield batch
