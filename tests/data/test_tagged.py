"""Tagged sentences: read from files, as numbers, and what is wrong with a file by its line."""

import os
from pathlib import Path

import numpy as np
import pytest

from jaxseq.data.tagged import (
    LONGEST_WORD,
    NUM_FEATURES,
    TaggedData,
    TagTokenizer,
    read_tagged,
    word_features,
)
from jaxseq.data.text import Document
from jaxseq.data.tokenizers import load_tokenizer, save_tokenizer
from jaxseq.errors import UserError

TEXT = "The\tDET\ncat\tNOUN\n\n\nthe\tDET\nX9\tPROPN\r\n\ncat\tVERB"


def tokenizer(min_count=1):
    return TagTokenizer.train(read_tagged(Document("a.tsv", TEXT)), min_count)


def test_sentences_and_the_lines_they_start_on():
    found = read_tagged(Document("a.tsv", TEXT))
    assert [sentence.words for sentence in found] == [("The", "cat"), ("the", "X9"), ("cat",)]
    assert [sentence.tags for sentence in found] == [("DET", "NOUN"), ("DET", "PROPN"), ("VERB",)]
    assert [sentence.line for sentence in found] == [1, 5, 8]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tX\nb\n", "b.tsv, line 2: 'b' is not FORM TAB TAG"),
        ("a\tX\tY\n", "line 1"),
        ("a\tX\n\n\tX\n", "line 3"),
        ("a\t \n", "line 1"),
        ("\n\n", "b.tsv has no sentence"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(text, message):
    with pytest.raises(UserError, match=message):
        read_tagged(Document("b.tsv", text))


def test_numbers_of_a_sentence():
    example = tokenizer().example(["THE", "dog"], ["DET", "NOUN"])
    words = tokenizer().words
    assert example["words"].tolist() == [words.encode(["the"])[0], 0]
    assert tokenizer().tags.decode(example["tags"]) == ["DET", "NOUN"]
    assert example["lengths"] == 2
    assert example["features"].shape == (2, NUM_FEATURES)
    # Characters are counted from 1: 0 ends a word, 1 is one that training did not have.
    assert example["characters"].shape == (2, 3)
    assert example["characters"].min() == 1


def test_rare_words_are_unknown_and_frequent_ones_come_first():
    # "the" and "cat" occur twice, "x9" once.
    assert tokenizer(1).words.entries == ("<unk>", "cat", "the", "x9")
    assert tokenizer(2).words.entries == ("<unk>", "cat", "the")


def test_a_long_word_keeps_both_ends():
    letters = "The" + "cat" * 20 + "X9"
    (row,) = tokenizer().example([letters])["characters"]
    spelt = tokenizer().characters.decode(row - 1)
    assert "".join(spelt) == letters[: LONGEST_WORD // 2] + letters[-LONGEST_WORD // 2 :]


def test_features_say_form_shape_and_ends():
    assert word_features("McDonald's-80s") == (
        "word:mcdonald's-80s",
        "form:McDonald's-80s",
        "shape:XxXx'x-9x",
        *("1<m", "2<mc", "3<mcd"),
        *("1>s", "2>0s", "3>80s", "4>-80s"),
    )


def test_an_empty_sentence_has_no_words():
    example = tokenizer().example([])
    assert example["words"].shape == (0,)
    assert example["features"].shape == (0, NUM_FEATURES)
    assert example["lengths"] == 0


def test_saved_and_loaded_is_equal(tmp_path):
    save_tokenizer(tokenizer(), tmp_path / "tokenizer.json")
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert loaded == tokenizer()
    np.testing.assert_array_equal(
        loaded.example(["The", "cat"])["features"], tokenizer().example(["The", "cat"])["features"]
    )


@pytest.fixture
def files(tmp_path):
    for name, text in (("train", TEXT), ("dev", "a\tDET\n"), ("test", "cat\tNOUN\n\nb\tNOUN\n")):
        (tmp_path / f"{name}.tsv").write_text(text)
    return tmp_path


def data(folder: Path, **fields) -> TaggedData:
    paths = {"train": folder / "train.tsv", "validation": folder / "dev.tsv"}
    return TaggedData(**{**paths, "test": folder / "test.tsv", "batch_size": 2, **fields})


def test_load_makes_the_tokenizer_from_training_alone(files):
    corpus = data(files, min_count=1).load()
    assert corpus.tokenizer == tokenizer()
    assert [len(split) for split in (corpus.train, corpus.validation, corpus.test)] == [3, 1, 2]
    assert corpus.inputs == ("a",)
    batch = data(files).train_batches(corpus, 0)[0]
    assert batch["words"].shape == batch["tags"].shape == (2, 8)
    assert data(files, test=None).load().test is None


def test_the_fingerprint_tells_another_file(files):
    before = data(files).load().fingerprint
    assert data(files).load().fingerprint == before
    (files / "dev.tsv").write_text("b\tDET\n")
    assert data(files).load().fingerprint != before


def test_a_tag_that_training_does_not_have_is_named_with_its_line(files):
    (files / "dev.tsv").write_text("a\tDET\n\nb\tDET\nc\tADJ\n")
    with pytest.raises(UserError, match=r"dev.tsv, line 4: the tag 'ADJ' does not occur"):
        data(files).load()


@pytest.mark.parametrize("option", ["batch_size", "min_count"])
def test_options_out_of_range_are_named(files, option):
    with pytest.raises(UserError, match=f"--data.{option.replace('_', '-')} is 0"):
        data(files, **{option: 0}).load()


def test_a_missing_or_a_wrong_path_is_named(files, monkeypatch):
    with pytest.raises(UserError, match=r"nowhere\.tsv"):
        data(files, train=files / "nowhere.tsv").load()
    with pytest.raises(UserError, match="is a directory"):
        data(files, validation=files).load()
    monkeypatch.delenv("UNSET", raising=False)
    with pytest.raises(UserError, match="UNSET is not set"):
        data(files, test=Path("$UNSET/test.tsv")).resolve()


def test_english_ewt_has_its_published_sizes():
    if "JAXSEQ_DATA" not in os.environ:
        pytest.skip("JAXSEQ_DATA does not name the data directory")
    folder = Path(os.environ["JAXSEQ_DATA"]) / "tagging"
    corpus = TaggedData(
        train=folder / "en_ewt.train.tsv", validation=folder / "en_ewt.dev.tsv"
    ).load()
    assert len(corpus.train) == 12_544
    assert sum(int(example["lengths"]) for example in corpus.train.examples) == 204_577
    assert len(corpus.validation) == 2_001
    assert len(corpus.tokenizer.tags) == 17
