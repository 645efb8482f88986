import dataclasses
import gzip
import itertools
import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxseq.data.corpus import TextData
from jaxseq.data.large_corpus import pieces
from jaxseq.data.subword_training import train_subwords
from jaxseq.data.tokenizers import save_tokenizer
from jaxseq.errors import UserError

WORDS = (
    "The caf\u00e9's two doors, \u4e2d\u6587 and \U0001f600, stood\topen.\r\n\nIt was 1984  then"
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEQ_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


@pytest.fixture
def on_disk(monkeypatch):
    """Makes the smallest corpus a large one, in blocks and pieces of a few characters."""

    def begin():
        monkeypatch.setattr("jaxseq.data.corpus._IN_MEMORY", 0)
        monkeypatch.setattr("jaxseq.data.text._BLOCK", 7)
        monkeypatch.setattr("jaxseq.data.large_corpus._PIECE", 40)
        monkeypatch.setattr("jaxseq.data.large_corpus._AT_ONCE", 64)

    return begin


@pytest.fixture(scope="session")
def subwords(tmp_path_factory):
    """The path of a byte-level BPE tokenizer, and it itself."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer = train_subwords("byte-bpe", [WORDS * 3], 300)
    save_tokenizer(tokenizer, path)
    return path, tokenizer


def _text(seed, words=60):
    return " ".join(np.random.default_rng(seed).permutation(WORDS.split(" ") * 9)[:words])


def _one_file(folder):
    (folder / "a.txt").write_text(_text(0, 90), newline="")
    return folder / "a.txt"


def _directory(folder):
    for i in range(5):
        (folder / f"{i}.txt.gz").write_bytes(gzip.compress(_text(i).encode()))
    (folder / "empty.md").touch()
    (folder / "model.bin").touch()
    return folder


def _rows(folder):
    for name in ("a", "b"):
        rows = [json.dumps({"text": _text(i, 9 * i), "id": i}) for i in range(8)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    return folder


SOURCES = [_one_file, _directory, _rows]


@pytest.mark.parametrize("tokenizer", ["char", "byte", "word", "subwords"])
@pytest.mark.parametrize("source", SOURCES)
def test_a_corpus_on_disk_is_the_corpus_in_memory(tmp_path, on_disk, source, tokenizer, subwords):
    folder = tmp_path / "texts"
    folder.mkdir()
    name = str(subwords[0]) if tokenizer == "subwords" else tokenizer
    data = TextData(path=source(folder), tokenizer=name, context=9, separate_documents=True)
    small = data.load()
    on_disk()
    large = data.load()
    assert large.tokenizer == small.tokenizer
    assert large.fingerprint == small.fingerprint
    for one, other in ((large.train, small.train), (large.validation, small.validation)):
        assert isinstance(one.tokens.base, np.memmap)
        np.testing.assert_array_equal(one.tokens, other.tokens)
        assert len(one) == len(other)
        for i in range(len(one)):
            np.testing.assert_equal(one[i], other[i])
            assert {k: v.dtype for k, v in one[i].items()} == {
                k: v.dtype for k, v in other[i].items()
            }
    resumed = data.load(small.tokenizer)
    np.testing.assert_array_equal(resumed.train.tokens, small.train.tokens)


def _decoded(tokenizer, split):
    return tokenizer.decode(split.tokens.astype(np.int32))


def _entries(cache):
    return {path.name for path in cache.iterdir() if path.is_dir()}


def test_tokens_are_made_anew_where_the_content_the_tokenizer_or_the_split_is_another(
    tmp_path, on_disk, cache, caplog
):
    on_disk()
    file = tmp_path / "a.txt"
    file.write_text("abc " * 99)
    data = TextData(path=file, tokenizer="byte", context=4)
    data.load()
    (first,) = _entries(cache)
    assert "preparing the tokens of 0 MB, once for this text and tokenizer" in caplog.text
    caplog.clear()
    dataclasses.replace(data, context=8, batch_size=3, separate_documents=True).load()
    data.load()
    assert (_entries(cache), caplog.text) == ({first}, "")
    dataclasses.replace(data, tokenizer="char").load()
    dataclasses.replace(data, validation_fraction=0.2).load()
    assert len(_entries(cache)) == 3
    times = file.stat()
    file.write_text("abd " * 99)  # as long as it was
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    corpus = data.load()
    assert len(_entries(cache)) == 4
    assert _decoded(corpus.tokenizer, corpus.train).startswith("abd ")
    file.write_text("abc " * 99)
    data.load()
    assert len(_entries(cache)) == 4


def test_a_text_that_changes_while_it_is_read_is_no_entry(tmp_path, on_disk, cache, monkeypatch):
    on_disk()
    file = tmp_path / "a.txt"
    file.write_text("abc " * 99)

    def encode_all(tokenizer, texts):
        file.write_text("abd " * 99)
        return [tokenizer.encode(text) for text in texts]

    monkeypatch.setattr("jaxseq.data.large_corpus.encode_all", encode_all)
    with pytest.raises(UserError, match="changed while its tokens were made"):
        TextData(path=file, tokenizer="byte", context=4).load()
    assert _entries(cache) == set()


def test_bad_rows_are_skipped_and_reported_whether_tokens_are_cached_or_not(
    tmp_path, on_disk, caplog
):
    file = tmp_path / "a.jsonl"
    rows = ['{"text": "some words"}'] * 9
    file.write_text("\n".join([*rows, "x", '{"txt": 1}', '{"text": 5}', '{"text": "\\ud800"}']))
    data = TextData(path=file, tokenizer="byte", context=4)
    skipping = dataclasses.replace(data, on_bad_row="skip")
    said = "1 bad JSON, 1 missing column, 1 no text in the column, 1 not UTF-8 text"
    for _ in range(2):
        with pytest.raises(UserError, match=r"a\.jsonl, line 10: bad JSON"):
            data.load()
        assert skipping.load().train.tokens.size == 80
        assert said in caplog.text
        on_disk()
        caplog.clear()
    for _ in range(2):
        assert skipping.load().train.tokens.size == 80
        assert caplog.text.count("left out") == 1
        assert said in caplog.text
        caplog.clear()


def test_a_subword_tokenizer_ends_documents_with_its_end_token(tmp_path, subwords):
    path, tokenizer = subwords
    end = tokenizer.special("end")
    for i in range(4):
        (tmp_path / f"{i}.txt").write_text("two doors")
    corpus = TextData(path=tmp_path, tokenizer=str(path), context=2).load()
    document = [*tokenizer.encode("two doors").tolist(), end]
    assert corpus.train.tokens.tolist() == document * 3
    assert corpus.validation.tokens.tolist() == document
    alone = TextData(path=_one_file(tmp_path), tokenizer=str(path), context=2).load()
    assert end not in alone.train.tokens
    assert end not in alone.validation.tokens


def test_a_tokenizer_that_is_not_there(tmp_path):
    file = _one_file(tmp_path)
    with pytest.raises(UserError, match=r"--data\.tokenizer is chr: .*did you mean 'char'\?"):
        TextData(path=file, tokenizer="chr").load()


def test_a_config_is_good_in_every_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = TextData(path=Path("texts/*.txt"), tokenizer="subwords").resolve()
    assert (data.path, data.tokenizer) == (tmp_path / "texts/*.txt", str(tmp_path / "subwords"))
    assert TextData(tokenizer="byte").resolve() == TextData(tokenizer="byte")


def test_rows_are_documents_and_other_files_are_whole(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": ""}\n{"text": "two"}\n')
    (tmp_path / "b.tsv").write_text("id\ttext\n1\tthree\n")
    (tmp_path / "c.tsv").write_text("no\theader\n")
    (tmp_path / "d.json").write_text('{"name": "a package"}')
    corpus = TextData(path=tmp_path, context=2, tokenizer="byte", validation_fraction=0.01).load()
    train = corpus.tokenizer.decode(corpus.train.tokens)
    held = corpus.tokenizer.decode(corpus.validation.tokens)
    assert (train, held) == ('onetwono\theader\n{"name": "a package"}', "three")
    only = TextData(path=tmp_path / "*.jsonl", context=2, tokenizer="byte").load()
    assert only.tokenizer.decode(only.train.tokens) == "one"


def test_no_row_with_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"txt": "one two"}\n')
    data = TextData(path=tmp_path / "a.jsonl", on_bad_row="skip")
    with pytest.raises(UserError, match=r"no row with text in 'text'; 1 missing column"):
        data.load()
    assert dataclasses.replace(data, column="txt", context=1, validation_fraction=0.4).load()


def test_urls_are_corpora(on_disk):
    memory = pytest.importorskip("fsspec").filesystem("memory")
    memory.pipe("/corpus/a.txt", _text(0).encode())
    memory.pipe("/corpus/b.txt.gz", gzip.compress(_text(1).encode()))
    data = TextData(path=Path("memory://corpus"), context=4).resolve()
    assert data.path == Path("memory://corpus")
    small = data.load()
    on_disk()
    large = data.load()
    assert large.fingerprint == small.fingerprint
    np.testing.assert_array_equal(large.train.tokens, small.train.tokens)


def test_text_that_is_not_utf8_names_line_and_byte_across_blocks(tmp_path, on_disk):
    on_disk()
    file = tmp_path / "a.txt"
    file.write_bytes("caf\u00e9\n\u4e2d\u6587\u4e2d\nab".encode() + b"\xff\xff\nmore" * 9)
    with pytest.raises(UserError, match=r"a\.txt, line 3 \(byte 18\): not UTF-8 text"):
        TextData(path=file, context=2).load()
    file.write_bytes(b"abcdef\xe4\xb8")  # ends in half a character
    with pytest.raises(UserError, match=r"a\.txt, line 1 \(byte 6\): not UTF-8 text"):
        TextData(path=file, context=2).load()


def test_a_corpus_is_never_whole_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxseq.data.large_corpus._AT_ONCE", 1 << 16)
    monkeypatch.setattr("jaxseq.data.large_corpus._PIECE", 1 << 14)
    monkeypatch.setattr("jaxseq.data.text._BLOCK", 1 << 16)
    file = tmp_path / "a.txt"
    file.write_bytes(b"all work and no play makes Jack a dull boy\n" * (1 << 19))  # 22 MB
    data = TextData(path=file, tokenizer="byte", separate_documents=True)
    tracemalloc.start()
    corpus = data.load()
    window = corpus.train[len(corpus.train) // 2]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert window["segments"].tolist() == [1] * 64
    assert peak < 4e6


blocks = st.lists(st.text("ab\u00e9\u4e2d \n", max_size=30), max_size=9)


@given(blocks, st.integers(1, 9))
def test_pieces_do_not_depend_on_blocks(blocks, size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxseq.data.large_corpus._PIECE", size)
        text = "".join(blocks)
        found = list(pieces(blocks))
        assert "".join(found) == text
        assert found == list(pieces([text]))
        assert all(size <= len(piece) <= 2 * size for piece in found[:-1])
        for before, after in itertools.pairwise(found):
            assert len(before) == 2 * size or (before[-1].isalnum() and after[0].isspace())
