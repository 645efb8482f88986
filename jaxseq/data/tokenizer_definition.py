"""What a tokenizer.json says: whether it is whole, what each id spells, where a text may be cut."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxseq.data.tokenizers import UNKNOWN

if TYPE_CHECKING:
    import tokenizers

Tree = Mapping[str, Any]


@dataclass(frozen=True)
class Structure:
    """A tokenizer.json without its vocabulary: the steps by name, and the unknown token."""

    normalizers: tuple[Tree, ...]
    pre_tokenizers: tuple[Tree, ...]
    decoders: tuple[Tree, ...]
    unknown: str | None
    """What the model writes for a piece that it does not know; None where it drops it."""


def structure(tree: Any) -> Structure:
    """The structure of a parsed tokenizer.json.

    Raises ValueError for a vocabulary, a merge or an unknown token that is not as it must be: the
    library would fail on those in the middle of a text, or abort.
    """
    model = tree.get("model") if isinstance(tree, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict | list):
        raise ValueError("it has no model with a vocabulary")
    steps = [tuple(_steps(tree.get(name))) for name in ("normalizer", "pre_tokenizer", "decoder")]
    vocab = model["vocab"]
    if isinstance(vocab, list):
        unknown = _check_unigram(model)
    else:
        unknown = model.get("unk_token")
        _check_vocabulary(vocab)
        if "merges" in model:
            for number, merge in enumerate(model["merges"], start=1):
                check_merge(merge, vocab, model.get("continuing_subword_prefix") or "", number)
        elif unknown not in vocab:
            raise ValueError(f"its vocabulary lacks the unknown token {unknown!r}")
        if unknown is not None and unknown not in vocab:
            raise ValueError(f"its vocabulary lacks the unknown token {unknown!r}")
    found = Structure(*steps, unknown)
    odd = {step["type"] for step in found.decoders} - _DECODERS
    if odd:
        raise ValueError(f"its decoder {sorted(odd)[0]} is not one that jaxseq knows")
    return found


def _steps(step: Any) -> Iterator[Tree]:
    """The parts of a normalizer, pre-tokenizer or decoder, sequences unrolled."""
    if step is None:
        return
    if not isinstance(step, dict) or "type" not in step:
        raise ValueError("one of its steps has no type")
    if step["type"] != "Sequence":
        yield step
        return
    for name in ("normalizers", "pretokenizers", "decoders"):
        for part in step.get(name, ()):
            yield from _steps(part)


def _check_unigram(model: Tree) -> str | None:
    pairs = model["vocab"]
    for number, pair in enumerate(pairs):
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)):
            raise ValueError(f"entry {number} of its vocabulary is not a piece and its score")
    unknown = model.get("unk_id")
    if unknown is None and model.get("byte_fallback"):
        return None
    if not isinstance(unknown, int) or not 0 <= unknown < len(pairs):
        raise ValueError(f"its vocabulary of {len(pairs)} pieces has no unknown piece {unknown}")
    return pairs[unknown][0]


def _check_vocabulary(vocab: Tree) -> None:
    pieces: dict[int, str] = {}
    for piece, number in vocab.items():
        if not isinstance(number, int) or number < 0:
            raise ValueError(f"the id of {piece!r} is {number!r}, not an integer from 0 up")
        if pieces.setdefault(number, piece) != piece:
            raise ValueError(f"{pieces[number]!r} and {piece!r} have the same id {number}")


def check_merge(merge: Any, vocab: Tree, prefix: str, number: int) -> tuple[str, str]:
    """The two pieces of merge `number`; ValueError where they do not make one of the vocabulary."""
    pair = merge.split(" ") if isinstance(merge, str) else merge
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise ValueError(f"merge {number} is {merge!r}, not two pieces")
    first, second = pair
    for piece in (first, second, first + second.removeprefix(prefix)):
        if piece not in vocab:
            raise ValueError(
                f"merge {number} ({first} {second}) needs the piece {piece!r}, which the "
                "vocabulary lacks"
            )
    return first, second


# ---- what an id spells ----------------------------------------------------------------------

_DECODERS = {
    "ByteLevel", "WordPiece", "Metaspace", "BPEDecoder", "ByteFallback", "Fuse", "Strip", "Replace",
}  # fmt: skip
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def byte_symbols() -> dict[str, int]:
    """The character by which byte-level vocabularies write each byte (GPT-2's encoder.py).

    Printable bytes of Latin-1 are written as themselves, the others by U+0100 and on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + i): byte for i, byte in enumerate(others)
    }


@dataclass(frozen=True)
class Spelling:
    """How ids become text: their bytes joined, but for a space at the beginning or the end."""

    pieces: list[bytes]
    """The UTF-8 bytes of each id in the middle of a text; none for special tokens."""

    lengths: list[int]
    """The bytes of text that each id stands for: without spaces that no token spells."""

    drops_first_space: bool
    """The space before the first piece is none of the text."""

    drops_last_space: bool
    """The space behind the last piece is none of the text."""


def spelling(parts: Structure, library: "tokenizers.Tokenizer", vocab_size: int) -> Spelling:
    """The spelling of ids 0 to `vocab_size` - 1 under the decoder of `parts`."""
    types = {step["type"] for step in parts.decoders}
    in_text = _byte_level if "ByteLevel" in types else _Middle(library, "ByteFallback" in types)
    # The decoder puts these spaces between the pieces; no vocabulary entry holds them.
    puts_spaces = not types or not types.isdisjoint({"WordPiece", "BPEDecoder"})
    added = library.get_added_tokens_decoder()
    pieces, lengths = [], []
    for number in range(vocab_size):
        token = library.id_to_token(number)
        if token is not None and token == parts.unknown:
            pieces.append(in_text(UNKNOWN))
            lengths.append(1)  # the least that it can have stood for
            continue
        special = number in added and added[number].special
        piece = b"" if token is None or special else in_text(token)
        pieces.append(piece)
        lengths.append(len(piece.strip(b" ") if puts_spaces else piece))
    return Spelling(
        pieces,
        lengths,
        drops_first_space=not types or "WordPiece" in types or any(map(_strips, parts.decoders)),
        drops_last_space="BPEDecoder" in types,
    )


def _strips(step: Tree) -> bool:
    if step["type"] == "Metaspace":
        return step.get("prepend_scheme", "always") != "never"
    return step["type"] == "Strip" and step.get("content") == " " and step.get("start", 0) > 0


_BYTES = byte_symbols()


def _byte_level(token: str) -> bytes:
    try:
        return bytes([_BYTES[symbol] for symbol in token])
    except KeyError:  # an added token is written as it is
        return token.encode()


class _Middle:
    """The bytes of a token between two others, as the library's decoder writes it."""

    def __init__(self, library: "tokenizers.Tokenizer", byte_tokens: bool):
        self._decode = library.decoder.decode if library.decoder else " ".join
        self._byte_tokens = byte_tokens
        # "a" before, and what an "a" behind it adds: the frame that is taken off again.
        self._behind = len(self._decode(["a", "a"])) - 1

    def __call__(self, token: str) -> bytes:
        byte = _BYTE_TOKEN.fullmatch(token) if self._byte_tokens else None
        if byte:
            return bytes([int(byte[1], 16)])
        return self._decode(["a", token, "a"])[1 : -self._behind].encode()


# ---- where a text may be cut ----------------------------------------------------------------

_LOCAL_NORMALIZERS = {
    "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "BertNormalizer", "Precompiled",
    "Nmt",
}  # fmt: skip
_SPLIT_AT_SPACES = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
_LOCAL_SPLITS = {"Punctuation", "Digits"}
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_KNOWN_PATTERNS = {
    _CONTRACTIONS + r"\p{N}{1,3}" + _REST,  # Llama 3
    _CONTRACTIONS + r"\p{N}" + _REST,  # Qwen 2 and 3
}


def cut(parts: Structure, library: "tokenizers.Tokenizer") -> re.Pattern[str] | None:
    """The letter behind which a text may be cut so that its parts have the tokens of the whole.

    The cut lies between a letter or digit and a space (or a line's end), where no piece goes across
    and no rule looks back. None where that is not known of one of the tokenizer's steps.
    """
    if not {step["type"] for step in parts.normalizers} <= _LOCAL_NORMALIZERS:
        return None
    tokens = library.get_added_tokens_decoder().values()
    for token in tokens:  # special tokens are never found in a text
        if not token.special and (token.rstrip or re.search(r"\s", token.content)):
            return None
    splits, prefixes = False, False
    for step in parts.pre_tokenizers:
        kind = step["type"]
        if kind == "Split" and _known_split(step):
            splits |= "Regex" in step["pattern"]
        elif kind == "ByteLevel":
            splits |= step.get("use_regex", True)
            prefixes |= step.get("add_prefix_space", True)
        elif kind == "Metaspace":
            splits |= step.get("split", True)
            prefixes = True
        elif kind in _SPLIT_AT_SPACES:
            splits = True
        elif kind not in _LOCAL_SPLITS:
            return None
    # A space that is put before every text is not put where there is one.
    return re.compile(r"[^\W_](?= )" if prefixes else r"[^\W_](?=[ \n])") if splits else None


def _known_split(step: Tree) -> bool:
    return step["pattern"] == {"String": "\n"} or step["pattern"].get("Regex") in _KNOWN_PATTERNS
