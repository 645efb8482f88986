"""Small subword tokenizers of every kind, trained once for all tests, and the published ones."""

import functools
import json
import os
from pathlib import Path

import pytest

from jaxseq.data.subword_training import Kind, train_subwords
from jaxseq.data.subwords import SubwordTokenizer, load_subwords

TEXT = (
    "The cat sat on the mat, and the other cats sat there too; it's 12 o'clock.\n"
    "Nobody knows what they're waiting for: a naïve café owner, perhaps? 1234 times!\n\n"
    "Wait for it... waiting, waited, waits. Catlike  sitting at the café, cat by cat.\n"
)
KINDS: tuple[Kind, ...] = ("bpe", "byte-bpe", "wordpiece", "unigram")


@functools.cache
def trained(kind: Kind) -> SubwordTokenizer:
    vocab_size = {"bpe": 120, "byte-bpe": 320, "wordpiece": 160, "unigram": 90}[kind]
    special_tokens = ("<mask>",) if kind != "wordpiece" else ()
    return train_subwords(kind, [TEXT], vocab_size, special_tokens=special_tokens)


def vocabulary(name: str) -> Path:
    """A published vocabulary of the real data."""
    folder = os.environ.get("JAXSEQ_DATA")
    if folder is None:
        pytest.skip("JAXSEQ_DATA does not say where the real data is")
    return Path(folder) / "vocab" / name


@functools.cache
def published(name: str) -> SubwordTokenizer:
    return load_subwords(vocabulary(name))


# ---- other people's kinds, with these vocabularies ----

LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def changed(kind, **steps):
    """A trained tokenizer with other steps."""
    tree = json.loads(trained(kind).definition)
    return SubwordTokenizer(json.dumps(tree | steps))


def sentencepiece_bpe():
    """As Llama 2's: no pre-tokenizer, bytes for what is unknown."""
    tree = json.loads(trained("bpe").definition)
    vocab = tree["model"]["vocab"]
    size = len(vocab)
    vocab |= {f"<0x{byte:02X}>": size + byte for byte in range(256)}
    tree["model"] |= {"byte_fallback": True, "fuse_unk": True}
    tree["normalizer"] = {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ],
    }
    tree["pre_tokenizer"] = None
    tree["decoder"] = {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ],
    }
    return SubwordTokenizer(json.dumps(tree))


def ends_of_words():
    """As GPT-1's: a mark ends every word, and a space goes behind it, but for the last."""
    merges = [["c", "a"], ["ca", "t</w>"]]
    pieces = ["<unk>", "a", "c", "t", "a</w>", "c</w>", "t</w>", "ca", "cat</w>"]
    model = {
        "type": "BPE",
        "unk_token": "<unk>",
        "end_of_word_suffix": "</w>",
        "vocab": {piece: i for i, piece in enumerate(pieces)},
        "merges": merges,
    }
    tree = {"version": "1.0", "model": model, "added_tokens": []}
    tree |= {"truncation": None, "padding": None, "post_processor": None, "normalizer": None}
    tree["pre_tokenizer"] = {"type": "WhitespaceSplit"}
    tree["decoder"] = {"type": "BPEDecoder", "suffix": "</w>"}
    return SubwordTokenizer(json.dumps(tree))


def with_merges_of_spaces(**steps):
    """Byte-level, with pieces of which a cut in a wrong place shows."""
    model = json.loads(trained("byte-bpe").definition)["model"]
    for first, second in [(".", "Ċ"), ("Ċ", "Ċ"), ("Ġ", "Ġ"), ("Ġ", "Ċ"), ("Ċ", "Ġ")]:
        if first + second not in model["vocab"]:
            model["vocab"][first + second] = len(model["vocab"])
            model["merges"].append([first, second])
    return changed("byte-bpe", model=model, **steps)


def llama_like():
    split = {"type": "Split", "pattern": {"Regex": LLAMA}, "behavior": "Isolated", "invert": False}
    to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    steps = [split, to_bytes | {"use_regex": False}]
    return with_merges_of_spaces(pre_tokenizer={"type": "Sequence", "pretokenizers": steps})


def roberta_like():
    steps = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    return with_merges_of_spaces(pre_tokenizer=steps)


def stripped():
    ends = {"type": "Strip", "strip_left": True, "strip_right": True}
    return with_merges_of_spaces(normalizer=ends)


VARIANTS = {kind: lambda kind=kind: trained(kind) for kind in KINDS} | {
    "gpt2": with_merges_of_spaces,
    "llama": llama_like,
    "roberta": roberta_like,
    "sentencepiece": sentencepiece_bpe,
    "ends-of-words": ends_of_words,
}
