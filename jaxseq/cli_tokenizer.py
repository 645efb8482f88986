"""The verb `jaxseq tokenizer`: a subword tokenizer trained on text."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from jaxseq.data.documents import Documents
from jaxseq.data.files import absolute
from jaxseq.data.rows import BadRows, OnBadRow
from jaxseq.data.subword_training import Kind, train_subwords
from jaxseq.data.tokenizers import save_tokenizer
from jaxseq.errors import UserError
from jaxseq.option_checks import check_range


@dataclass(frozen=True)
class Texts:
    """Files of text, read anew each time that they are gone through."""

    path: str = ""
    """A text file, a directory or a pattern such as 'texts/*.txt', perhaps gzipped, or a URL; rows
    of .jsonl, .parquet, .tsv and .csv too."""
    column: str = "text"
    """The column of rows that holds the text."""
    on_bad_row: OnBadRow = "error"
    """skip leaves rows out that cannot be read, and says how many."""

    def __iter__(self) -> Iterator[str]:
        return self.read(BadRows(self.on_bad_row))

    def read(self, bad_rows: BadRows) -> Iterator[str]:
        """Yield the text in blocks; UserError for what cannot be read."""
        for document in Documents(absolute(Path(self.path)), self.column).streamed(bad_rows):
            yield from document.blocks


@dataclass(frozen=True)
class TrainTokenizer:
    """A subword tokenizer trained on text, written to OUT_DIR/tokenizer.json."""

    out_dir: tyro.conf.Positional[Path]
    """Where tokenizer.json is written; what --data.tokenizer of an experiment may name."""
    data: Texts = field(default_factory=Texts)
    kind: Kind = "byte-bpe"
    """byte-bpe as GPT-2 (writes every text), wordpiece as BERT, bpe or unigram over characters."""
    vocab_size: int = 8000
    """Tokens at most, special ones included."""
    lowercase: bool = False
    """Lower the case first; wordpiece strips accents too."""
    alphabet: int = 1000
    """Characters that are known, the most frequent; the rest is unknown (byte-bpe knows all)."""
    special_tokens: tuple[str, ...] = ()
    """Further special tokens than the kind's own, such as '<mask>'."""
    sentinels: int = 0
    """T5's <extra_id_0> and on: how many."""


def tokenizer(argv: list[str]) -> int:
    """A subword tokenizer trained on text."""
    from jaxseq.cli_options import parse

    options = parse(TrainTokenizer, argv, prog="jaxseq tokenizer")
    if not options.data.path:
        raise UserError("name the text to train on with --data.path")
    check_range("", options, "vocab_size", "alphabet", least=1)
    check_range("", options, "sentinels", least=0)
    chosen = {f.name: getattr(options, f.name) for f in dataclasses.fields(options)}
    out_dir, texts = chosen.pop("out_dir"), chosen.pop("data")
    trained = train_subwords(texts=texts, **chosen)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {out_dir}: {error.strerror}; choose another") from error
    file = out_dir / "tokenizer.json"
    save_tokenizer(trained, file)
    characters = tokens = 0
    bad_rows = BadRows(texts.on_bad_row)
    for text in texts.read(bad_rows):
        characters += len(text)
        tokens += trained.encode(text).size
    bad_rows.report()
    print(
        f"{file}: {trained.vocab_size:,} tokens; {characters / max(tokens, 1):.2f} characters a "
        f"token on the {characters:,} characters of {texts.path}"
    )
    return 0
