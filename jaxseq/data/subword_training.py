"""Training of subword tokenizers: the same texts give the same tokenizer."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jaxseq.data.subwords import SubwordTokenizer, tokenizers_library
from jaxseq.data.tokenizer_files import WORDPIECE_SPECIALS, wordpiece
from jaxseq.errors import UserError

if TYPE_CHECKING:
    import tokenizers

Kind = Literal["bpe", "byte-bpe", "wordpiece", "unigram"]

SPECIALS: dict[Kind, tuple[str, ...]] = {
    "bpe": ("<pad>", "</s>", "<unk>"),
    "byte-bpe": ("<|endoftext|>",),
    "wordpiece": WORDPIECE_SPECIALS,
    "unigram": ("<pad>", "</s>", "<unk>"),
}
"""The special tokens of each kind: ids 0 and on, with those that are asked for behind them."""

_MIN_COUNT = 2
"""A pair of pieces that occurs less often is not merged."""
_CHUNK = 1 << 16
"""Characters that the library is given at once."""
_DIGITS = 4
"""Of a Unigram score: the library sums in no fixed order, which shows in the last bits."""


def train_subwords(
    kind: Kind,
    texts: Iterable[str],
    vocab_size: int,
    *,
    lowercase: bool = False,
    alphabet: int = 1000,
    special_tokens: Sequence[str] = (),
    sentinels: int = 0,
) -> SubwordTokenizer:
    """Return a tokenizer of at most `vocab_size` tokens, special ones included, made from `texts`.

    "bpe": byte-pair encoding over characters, spaces written as U+2581 (Sennrich et al. 2016,
    arXiv:1508.07909). "byte-bpe": over UTF-8 bytes, as GPT-2; writes every text. "wordpiece": as
    BERT (arXiv:1810.04805); does not keep spaces. "unigram": the likeliest pieces under a unigram
    model (Kudo 2018, arXiv:1804.10959), spaces written as with "bpe". "bpe" and "unigram" normalize
    to NFKC.

    The `alphabet` most frequent characters are known, others become the unknown token; "byte-bpe"
    knows all. `special_tokens` are further ones than `SPECIALS`; `sentinels` are T5's
    <extra_id_0> and on. `texts` are gone through twice: an iterator is kept in memory.

    Raises UserError where there is no text, or too little room for the alphabet.
    """
    texts = list(texts) if isinstance(texts, Iterator) else texts
    named = dict.fromkeys((*SPECIALS[kind], *special_tokens))
    specials = [*named, *(f"<extra_id_{i}>" for i in range(sentinels))]
    tokenizer = _untrained(kind, lowercase)
    library = tokenizers_library()
    counts = _counts(texts)
    if not counts:
        raise UserError("there is no text to train a tokenizer on; name one with --data.path")
    options: dict[str, Any] = {"vocab_size": vocab_size, "show_progress": False}
    rare: list[str] = []
    continuations: list[str] = []
    if kind == "byte-bpe":
        known = library.pre_tokenizers.ByteLevel.alphabet()
        options["initial_alphabet"] = known
    else:
        known, rare = _alphabet(counts, tokenizer, alphabet)
        if kind == "wordpiece":
            # The library numbers these as it meets them, in no fixed order, unless it knows them.
            continuations = [f"##{x}" for x in known if _continues_a_word(x, tokenizer)]
    needed = len(specials) + len(known) + len(continuations)
    if vocab_size < needed:
        raise UserError(
            f"--vocab-size is {vocab_size}: special tokens and single characters alone are "
            f"{needed}; ask for more"
            + ("" if kind == "byte-bpe" else ", or for fewer characters with --alphabet")
        )
    chunks = _chunks(texts, rare)
    special = [*specials, *continuations]
    if kind == "unigram":
        trainer = library.trainers.UnigramTrainer(
            special_tokens=special, unk_token="<unk>", **options
        )
    else:
        make = (
            library.trainers.WordPieceTrainer
            if kind == "wordpiece"
            else (library.trainers.BpeTrainer)
        )
        trainer = make(special_tokens=special, min_frequency=_MIN_COUNT, **options)
    tokenizer.train_from_iterator(chunks, trainer)
    tree = json.loads(tokenizer.to_str())
    if kind == "wordpiece":
        trained = wordpiece(tree["model"]["vocab"], lowercase)
        trained.add_special_tokens(specials)
        return SubwordTokenizer(trained.to_str())
    if kind == "unigram":
        tree["model"]["vocab"] = _in_fixed_order(tree["model"]["vocab"], len(specials))
    definition = json.dumps(tree, ensure_ascii=False, separators=(",", ":"))
    return SubwordTokenizer(definition)


def _untrained(kind: Kind, lowercase: bool) -> "tokenizers.Tokenizer":
    library = tokenizers_library()
    models, split, normal = library.models, library.pre_tokenizers, library.normalizers
    if kind == "wordpiece":
        return wordpiece({"[UNK]": 0}, lowercase)
    steps = [] if kind == "byte-bpe" else [normal.NFKC()]
    steps += [normal.Lowercase()] if lowercase else []
    if kind == "byte-bpe":
        tokenizer = library.Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = split.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = library.decoders.ByteLevel()
        tokenizer.post_processor = library.processors.ByteLevel(trim_offsets=False)
    else:
        model = models.BPE(unk_token="<unk>") if kind == "bpe" else models.Unigram()
        tokenizer = library.Tokenizer(model)
        # "first": no space before each line but the text's own
        spaces = split.Metaspace(prepend_scheme="first")
        tokenizer.pre_tokenizer = split.Sequence([split.Split("\n", "isolated"), spaces])
        tokenizer.decoder = library.decoders.Metaspace(prepend_scheme="first")
        tokenizer.post_processor = library.processors.TemplateProcessing(
            single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
        )
    if steps:
        tokenizer.normalizer = normal.Sequence(steps)
    return tokenizer


def _counts(texts: Iterable[str]) -> Counter[str]:
    """How often each character occurs."""
    found: Counter[str] = Counter()
    for block in _blocks(texts):
        points = np.frombuffer(block.encode("utf-32-le"), "<u4")
        for point, count in zip(*np.unique(points, return_counts=True), strict=True):
            found[chr(point)] += int(count)
    return found


def _blocks(texts: Iterable[str]) -> Iterator[str]:
    """The texts, many short ones joined."""
    waiting, size = [], 0
    for text in texts:
        waiting.append(text)
        size += len(text)
        if size >= _CHUNK:
            yield "".join(waiting)
            waiting, size = [], 0
    yield "".join(waiting)


def _alphabet(
    counts: Counter[str], tokenizer: "tokenizers.Tokenizer", limit: int
) -> tuple[list[str], list[str]]:
    """The `limit` most frequent characters as the tokenizer normalizes them, and what is rarer.

    Both sorted, so that they do not depend on the order of the texts; spaces are not counted.
    """
    forms = {x: set(tokenizer.normalizer.normalize_str(x)) - {" "} for x in counts}
    normal: Counter[str] = Counter()
    for character, form in forms.items():
        for part in form:
            normal[part] += counts[character]
    known = sorted(normal, key=lambda x: (-normal[x], x))[:limit]
    chosen = set(known)
    rare = [character for character, form in forms.items() if not form <= chosen]
    return sorted(known), sorted(rare)


def _continues_a_word(character: str, tokenizer: "tokenizers.Tokenizer") -> bool:
    text = tokenizer.normalizer.normalize_str(f"a{character}")
    return len(tokenizer.pre_tokenizer.pre_tokenize_str(text)) == 1


def _chunks(texts: Iterable[str], rare: Sequence[str]) -> Iterator[str]:
    """The texts, cut at spaces, without rare characters."""
    end = re.compile(r"\S(?=\s)")
    left_out = re.compile(f"[{re.escape(''.join(rare))}]+") if rare else None
    for text in texts:
        start = 0
        while start < len(text):
            found = end.search(text, start + _CHUNK)
            stop = found.end() if found else len(text)
            chunk = text[start:stop]
            yield left_out.sub(" ", chunk) if left_out else chunk
            start = stop


def _in_fixed_order(vocab: list[list[Any]], specials: int) -> list[list[Any]]:
    """Unigram's pieces and scores, without the traces of the order in which the library sums.

    Single characters that are rarer than every longer piece come with scores in no fixed order:
    all get the lowest.
    """
    pieces = [(piece, round(score, _DIGITS)) for piece, score in vocab[specials:]]
    least = min((score for piece, score in pieces if len(piece) > 1), default=0.0)
    lowest = min((score for _, score in pieces), default=0.0)
    scores = {
        piece: lowest if len(piece) == 1 and score < least else score for piece, score in pieces
    }
    ordered = sorted(scores, key=lambda piece: (-scores[piece], piece))
    return vocab[:specials] + [[piece, scores[piece]] for piece in ordered]
