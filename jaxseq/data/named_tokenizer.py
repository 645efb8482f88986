"""The tokenizer that an option names, and what is common to all of them in encoding a corpus."""

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from jaxseq.data.files import absolute
from jaxseq.data.subwords import SubwordTokenizer, load_subwords
from jaxseq.data.tokenizers import ByteTokenizer, CharTokenizer, Tokenizer, WordTokenizer
from jaxseq.errors import UserError
from jaxseq.typing import Int

KINDS = ("char", "byte", "word")
"""What is no path; the first and the last are made from texts."""


def absolute_name(name: str) -> str:
    """The name good in every working directory: a path made absolute, a kind as it is."""
    return name if name in KINDS else str(absolute(Path(name)))


def made_tokenizer(name: str, texts: Iterable[str], kinds: Sequence[str] = KINDS) -> Tokenizer:
    """The tokenizer "byte", one made from `texts` ("char", "word"), or that of a path.

    Raises UserError for a path that is not there, or not that of a subword tokenizer; it names the
    `kinds` that could have been meant.
    """
    if name == "byte":
        return ByteTokenizer()
    if name == "char":
        characters = set[str]()
        for text in texts:
            characters.update(text)
        return CharTokenizer.train("".join(characters))
    if name == "word":
        return WordTokenizer.train(texts)
    path = absolute(Path(name))
    if not path.exists():
        near = difflib.get_close_matches(path.name, kinds, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise UserError(
            f"--data.tokenizer is {name}: that is none of {', '.join(kinds)}, and there is no such "
            f"file or directory{hint}"
        )
    return load_subwords(path)


def encode_all(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Int[np.ndarray, " n"]]:
    """The ids of each text, on all cores where the tokenizer can."""
    if isinstance(tokenizer, SubwordTokenizer):
        return tokenizer.encode_many(texts)
    return [tokenizer.encode(text) for text in texts]


def end_ids(tokenizer: Tokenizer, num_documents: int) -> Int[np.ndarray, " n"]:
    """What stands behind each document: a subword tokenizer's end token, where it has one.

    Nothing stands behind a single document, of which both splits are parts.
    """
    if num_documents > 1 and isinstance(tokenizer, SubwordTokenizer) and tokenizer.has("end"):
        return np.array([tokenizer.special("end")], np.int32)
    return np.zeros(0, np.int32)
