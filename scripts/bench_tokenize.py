"""Tokenizing a file of 100 MB beside the tokenizers library alone.

    pip install -e ".[hf]" && JAXSEQ_DATA=... python scripts/bench_tokenize.py

The file is tiny Shakespeare again and again, with one word in twenty replaced by random letters,
so that no copy is like another. The tokenizers are GPT-2's and BERT's (vocab/ of the data). jaxseq
takes the text as `encode_many` of blocks of a megabyte, as the token cache does, and as `encode` of
all of it at once, and keeps the ids in arrays. The library gets the same text cut into the pieces
of 8,192 characters at which it is fastest, 512 at a time, hands back the ids as lists, and nothing
is kept of them. Before anything is timed, the ids are checked equal. ratio = the library's
seconds / ours in the same round, median and quartiles: above 1, ours is faster; the bar is 0.9.
"""

import resource
import string
from collections.abc import Callable
from typing import Literal

import numpy as np
import tyro
from bench import interleaved, machine, spread
from measure import data_file

from jaxseq.data.subwords import SubwordTokenizer, load_subwords

Vocabulary = Literal["gpt2", "bert"]
FILES = {"gpt2": "gpt2-vocab.json", "bert": "bert-base-uncased-vocab.txt"}
BLOCK = 1 << 20
PIECE = 8192


def bench_tokenize(
    megabytes: int = 100,
    vocabularies: tuple[Vocabulary, ...] = ("gpt2", "bert"),
    rounds: int = 5,
    seed: int = 0,
) -> None:
    """Times jaxseq beside the tokenizers library.

    Args:
        megabytes: Size of the text, in 10^6 bytes.
        vocabularies: Whose tokenizers.
        rounds: Turns of each side.
        seed: Seed of the changed words.
    """
    print(machine("tokenizers", "numpy"))
    text = changed_copies(megabytes * 1_000_000, seed)
    print(f"{len(text.encode()) / 1e6:.1f} MB, {len(text):,} characters")
    blocks = cut(text, BLOCK)
    batches = [cut(part, PIECE) for part in cut(text, 512 * PIECE)]
    for name in vocabularies:
        tokenizer = load_subwords(data_file(f"vocab/{FILES[name]}"))
        sides = sides_of(tokenizer, text, blocks, batches)
        tokens = check(tokenizer, text, blocks, batches)
        print(f"\n{name}: {tokens:,} tokens, the same on all sides")
        seconds = interleaved(sides, rounds)
        for side, taken in seconds.items():
            print(f"  {side:28} {len(text.encode()) / 1e6 / np.median(taken):6.1f} MB/s", end="")
            for peer in ("library encode_batch", "library encode_batch_fast"):
                print(f"   {peer.split()[1]} ratio {spread(seconds[peer] / taken)}", end="")
            print()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"\npeak memory of the process {peak / 1e6:.1f} GB")


def sides_of(
    tokenizer: SubwordTokenizer, text: str, blocks: list[str], batches: list[list[str]]
) -> dict[str, Callable[[], int]]:
    """Each side; a call tokenizes all of the text, and returns how many tokens it has."""
    library = tokenizer.library

    def alone(encode: Callable) -> int:
        return sum(
            len(encoding.ids)
            for batch in batches
            for encoding in encode(batch, add_special_tokens=False)
        )

    return {
        "jaxseq encode_many": lambda: sum(map(len, tokenizer.encode_many(blocks))),
        "jaxseq encode": lambda: len(tokenizer.encode(text)),
        "library encode_batch": lambda: alone(library.encode_batch),
        "library encode_batch_fast": lambda: alone(library.encode_batch_fast),
    }


def check(
    tokenizer: SubwordTokenizer, text: str, blocks: list[str], batches: list[list[str]]
) -> int:
    """The number of tokens; ends the program where the sides do not give the same ones."""
    whole = tokenizer.encode(text)
    start = 0
    for batch in batches:
        for encoding in tokenizer.library.encode_batch(batch, add_special_tokens=False):
            ids = np.array(encoding.ids, np.int32)
            if not np.array_equal(ids, whole[start : start + len(ids)]):
                raise SystemExit(f"jaxseq and the library differ behind token {start}")
            start += len(ids)
    if start != len(whole) or not np.array_equal(
        np.concatenate(tokenizer.encode_many(blocks)), whole
    ):
        raise SystemExit("encode_many and encode differ")
    return start


def changed_copies(num_bytes: int, seed: int) -> str:
    """Copies of tiny Shakespeare (ASCII), each with one word in twenty replaced."""
    words = data_file("lm/tinyshakespeare.txt").read_text(encoding="utf-8").split(" ")
    rng = np.random.default_rng(seed)
    letters = np.array(list(string.ascii_lowercase))
    copies, size = [], 0
    while size < num_bytes:
        changed = list(words)
        for place in rng.integers(len(words), size=len(words) // 20):
            changed[place] = "".join(rng.choice(letters, rng.integers(3, 9)))
        copies.append(" ".join(changed))
        size += len(copies[-1])
    return "".join(copies)[:num_bytes]


def cut(text: str, size: int) -> list[str]:
    """The text in parts of about `size` characters, cut between a letter and a space."""
    parts, start = [], 0
    while start < len(text):
        stop = start + size
        while stop < len(text) and not (text[stop] == " " and text[stop - 1].isalpha()):
            stop += 1
        parts.append(text[start:stop])
        start = stop
    return parts


if __name__ == "__main__":
    tyro.cli(bench_tokenize)
