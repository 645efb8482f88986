import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from jaxseq.data.corpus import TextData
from jaxseq.data.tokenizers import ByteTokenizer, CharTokenizer, WordTokenizer
from jaxseq.errors import UserError

TEXT = "The quick brown fox jumps over the lazy dog. " * 40


@pytest.fixture
def one_file(tmp_path):
    file = tmp_path / "fox.txt"
    file.write_text(TEXT)
    return file


@pytest.fixture
def directory(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(10):
        (folder / f"{i}.txt").write_text(f"{chr(ord('a') + i)}" * 100)
    return folder


def test_a_file_is_split_tokenized_and_cut(one_file):
    corpus = TextData(path=one_file, context=16).load()
    boundary = int(len(TEXT) * 0.9)
    assert corpus.tokenizer == CharTokenizer.train(TEXT[:boundary])
    assert corpus.tokenizer.decode(corpus.train.tokens) == TEXT[:boundary]
    assert corpus.tokenizer.decode(corpus.validation.tokens) == TEXT[boundary:]
    assert all(window["mask"].all() for window in corpus.train)
    counted = sum(int(window["mask"].sum()) for window in corpus.validation)
    assert counted == len(TEXT) - boundary - 1


def test_whole_files_are_held_out_and_the_tokenizer_never_sees_them(directory):
    corpus = TextData(path=directory, context=16).load()
    assert corpus.tokenizer == CharTokenizer("abcdeghij")  # 5.txt, of f, is held out
    assert corpus.validation.tokens.tolist() == [0] * 100
    assert corpus.train.tokens.size == 900


def test_a_given_tokenizer_is_used(one_file):
    saved = CharTokenizer.train("The fox, and # besides")
    assert TextData(path=one_file).load(saved).tokenizer is saved


def test_byte_tokenizer(one_file):
    assert TextData(path=one_file, tokenizer="byte").load().tokenizer == ByteTokenizer()
    words = TextData(path=one_file, tokenizer="word", context=4).load().tokenizer
    assert isinstance(words, WordTokenizer)
    assert words.vocab_size > 1


def test_separate_documents(directory):
    corpus = TextData(path=directory, context=64, separate_documents=True).load()
    assert corpus.train[1]["segments"].tolist() == [1] * 36 + [2] * 28
    assert "segments" in corpus.validation[0]
    assert "segments" not in TextData(path=directory).load().train[0]


def test_the_default_is_the_standard_library():
    corpus = TextData().load()
    assert len(corpus.train) > 30_000
    assert len(corpus.validation) > 2_000
    assert 100 < corpus.tokenizer.vocab_size < 1000
    assert "def __init__(self" in corpus.tokenizer.decode(corpus.validation.tokens)
    assert (corpus.validation.tokens == 0).mean() < 1e-3


def test_loading_twice_is_the_same(directory):
    one, other = (TextData(path=directory, context=16).load() for _ in range(2))
    assert one.fingerprint == other.fingerprint
    assert one.tokenizer == other.tokenizer
    np.testing.assert_array_equal(one.train.tokens, other.train.tokens)


def test_the_fingerprint_tells_names_and_contents_but_not_places_or_settings(directory, tmp_path):
    def fingerprint(path=directory, **fields):
        return TextData(path=path, **fields).load().fingerprint

    first = fingerprint()
    assert len(first) == 64
    assert fingerprint(context=8, tokenizer="byte", validation_fraction=0.3) == first
    moved = directory.rename(tmp_path / "moved")
    assert fingerprint(moved) == first
    (moved / "3.txt").write_text("d" * 99 + "e")
    assert fingerprint(moved) != first
    (moved / "3.txt").write_text("d" * 100)
    assert fingerprint(moved) == first
    (moved / "3.txt").rename(moved / "33.txt")
    assert fingerprint(moved) != first


def test_the_fingerprint_tells_where_one_document_ends(tmp_path):
    def fingerprint(**texts):
        folder = tmp_path / "x"
        folder.mkdir(exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text)
        return TextData(path=folder, context=1, validation_fraction=0.5).load().fingerprint

    assert fingerprint(a="11b2", b="33") != fingerprint(a="11", b="2b33")


@pytest.mark.parametrize("field", ["context", "batch_size"])
@pytest.mark.parametrize("value", [0, -3])
def test_numbers_below_one_are_named(one_file, field, value):
    data = dataclasses.replace(TextData(path=one_file), **{field: value})
    with pytest.raises(UserError, match=f"--data.{field.replace('_', '-')} is {value}"):
        data.load()


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_fraction_that_leaves_a_split_empty_is_named(one_file, fraction):
    with pytest.raises(UserError, match=r"--data\.validation-fraction is"):
        TextData(path=one_file, validation_fraction=fraction).load()


def test_a_split_shorter_than_a_window_is_named(one_file):
    with pytest.raises(UserError, match=r"validation split has 180 tokens, fewer than the 201"):
        TextData(path=one_file, context=200).load()
    with pytest.raises(UserError, match=r"train split has 1620 tokens, fewer than the 5001"):
        TextData(path=one_file, context=5000).load()


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.txt"):
        TextData(path=tmp_path / "absent.txt").load()


def test_a_home_directory_is_expanded(one_file, monkeypatch):
    monkeypatch.setenv("HOME", str(one_file.parent))
    assert len(TextData(path=Path("~/fox.txt")).load().train) > 0


def test_a_variable_of_the_environment_is_expanded_and_named_where_it_is_not_set(
    one_file, monkeypatch
):
    data = TextData(path=Path("$SOME_TEXTS/fox.txt"))
    monkeypatch.setenv("SOME_TEXTS", str(one_file.parent))
    assert len(data.load().train) > 0
    assert data.resolve().path == one_file.resolve()
    monkeypatch.delenv("SOME_TEXTS")
    with pytest.raises(UserError, match=r"SOME_TEXTS is not set; set it, or say with --data\.path"):
        data.load()


def test_tiny_shakespeare_has_nanogpts_split():
    if "JAXSEQ_DATA" not in os.environ:
        pytest.skip("JAXSEQ_DATA does not name the data directory")
    path = Path(os.environ["JAXSEQ_DATA"]) / "lm" / "tinyshakespeare.txt"
    corpus = TextData(path=path).load()
    assert (corpus.train.tokens.size, corpus.validation.tokens.size) == (1_003_854, 111_540)
    assert corpus.tokenizer.vocab_size == 65 + 1
