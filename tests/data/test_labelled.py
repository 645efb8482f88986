"""Labelled texts: read from rows, as numbers with and without markers, and what is wrong where."""

import dataclasses
import json
import logging
import os
import random
from pathlib import Path

import numpy as np
import pytest

from jaxseq.data.code_points import text_of
from jaxseq.data.labelled import ClassCoder, LabelledText, cut_longer
from jaxseq.data.made_up_names import LANGUAGES, MadeUpNames
from jaxseq.data.made_up_reviews import DENIALS, GOOD, MadeUpReviews, write_review
from jaxseq.data.rows import BadRows
from jaxseq.data.subwords import SubwordTokenizer, load_subwords
from jaxseq.data.tokenizers import (
    ByteTokenizer,
    CharTokenizer,
    WordTokenizer,
    load_tokenizer,
    save_tokenizer,
)
from jaxseq.errors import UserError

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "bad", "film", "very", "##s"]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    pytest.importorskip("tokenizers")
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("".join(piece + "\n" for piece in PIECES))
    return path


@pytest.fixture(scope="module")
def wordpiece(vocabulary) -> SubwordTokenizer:
    return load_subwords(vocabulary)


def spelt(example):
    return [PIECES[token] for token in example["tokens"]], example["types"].tolist()


def test_a_text_stands_between_its_markers(wordpiece):
    example = ClassCoder(wordpiece, ("neg", "pos")).example(["Good films"], "pos")
    assert spelt(example) == (["[CLS]", "good", "film", "##s", "[SEP]"], [0] * 5)
    assert example["lengths"] == 5
    assert example["labels"] == 1


def test_the_second_text_of_a_pair_is_of_another_type(wordpiece):
    coder = ClassCoder(wordpiece, ("neg", "pos"), pairs=True)
    tokens, types = spelt(coder.example(["a film", "very good"]))
    assert tokens == ["[CLS]", "a", "film", "[SEP]", "very", "good", "[SEP]"]
    assert types == [0, 0, 0, 0, 1, 1, 1]
    assert coder.example(["a", "film"])["labels"] == 0


def test_a_tokenizer_without_markers_gives_none():
    coder = ClassCoder(ByteTokenizer(), ("0", "1"), pairs=True)
    example = coder.example(["ab", "c"])
    assert example["tokens"].tolist() == [97, 98, 99]
    assert example["types"].tolist() == [0, 0, 1]
    assert example["lengths"] == 3


def test_what_is_too_long_is_cut_between_its_markers(wordpiece):
    single = ClassCoder(wordpiece, ("0", "1"), max_length=4)
    assert spelt(single.example(["a good film"]))[0] == ["[CLS]", "a", "good", "[SEP]"]
    pair = ClassCoder(wordpiece, ("0", "1"), pairs=True, max_length=6)
    tokens, types = spelt(pair.example(["a very good film", "bad"]))
    assert tokens == ["[CLS]", "a", "very", "[SEP]", "bad", "[SEP]"]
    assert types == [0, 0, 0, 0, 1, 1]


def test_of_two_the_longer_is_cut_first():
    """Like taking a token at a time off the longer one, the second where both are as long."""
    for room in range(12):
        for first in range(8):
            for second in range(8):
                a, b = first, second
                while a + b > room:
                    a, b = (a - 1, b) if a > b else (a, b - 1)
                if first < second and abs(a - b) == 1 and first > room // 2:
                    a, b = b, a  # the odd token stays with the one that was longer
                found = cut_longer([np.arange(first), np.arange(second)], room)
                assert [len(part) for part in found] == [a, b], (first, second, room)
    assert [len(part) for part in cut_longer([np.arange(5)], 3)] == [3]


def test_saved_and_loaded_is_equal(wordpiece, tmp_path):
    coder = ClassCoder(wordpiece, ("0", "1"), True, 9, 7, "train.tsv, line 3")
    save_tokenizer(coder, tmp_path / "tokenizer.json")
    assert load_tokenizer(tmp_path / "tokenizer.json") == coder
    assert load_subwords(tmp_path) == wordpiece  # what the next run starts from


# ---- files ----------------------------------------------------------------------------------

TRAIN = "pos\tgood film\nneg\tbad film\npos\tvery very good\n"
DEV = "neg\tvery bad!\n"


@pytest.fixture
def files(tmp_path):
    (tmp_path / "train.tsv").write_text(TRAIN)
    (tmp_path / "dev.tsv").write_text(DEV)
    return tmp_path


def data(folder: Path, **fields) -> LabelledText:
    paths = {"train": folder / "train.tsv", "validation": folder / "dev.tsv"}
    return LabelledText(**{**paths, "batch_size": 2, "tokenizer": "byte", **fields})


def test_load_reads_labels_and_texts(files):
    corpus = data(files).load()
    coder = corpus.tokenizer
    assert coder.labels == ("neg", "pos")
    assert (coder.longest, coder.longest_at) == (14, f"{files / 'train.tsv'}, line 3")
    assert not coder.pairs
    assert [len(corpus.train), len(corpus.validation), corpus.test] == [3, 1, None]
    assert [int(example["labels"]) for example in corpus.train.examples] == [1, 0, 1]
    assert corpus.inputs == ("very bad!",)
    batch = next(data(files).evaluation_batches(corpus.validation))
    assert batch["lengths"].tolist() == [9, 0]  # a filler row
    assert text_of(batch["text"][0]) == "very bad!"
    assert "text" not in corpus.train.examples[0]
    batches = data(files).train_batches(corpus, 0)
    assert {batches[step]["tokens"].shape for step in range(len(batches))} == {(2, 12), (2, 16)}
    assert data(files).describe(corpus) == "3 texts with 2 labels"


def test_what_is_not_named_is_held_out_by_a_hash(files):
    """Equal texts are in one split, whatever their case, spaces and label."""
    rows = [(f"text {number}", "a" if number % 3 else "b") for number in range(300)]
    rows += [(f"Text  {number}", "c") for number in range(0, 300, 2)]
    (files / "all.tsv").write_text("".join(f"{label}\t{text}\n" for text, label in rows))
    whole = data(files, train=files / "all.tsv", validation=None)
    splits = whole.splits(BadRows())
    assert list(splits) == ["train", "validation", "test"]
    assert sorted(row.place for found in splits.values() for row in found) == sorted(
        f"{files / 'all.tsv'}, line {number}" for number in range(1, 451)
    )
    texts = [
        {" ".join(row.texts[0].casefold().split()) for row in found} for found in splits.values()
    ]
    assert not texts[0] & texts[1] | texts[0] & texts[2] | texts[1] & texts[2]
    assert all(30 <= len(found) <= 60 for found in list(splits.values())[1:])
    more = dataclasses.replace(whole, held_out=0.2).splits(BadRows())
    assert 60 <= len(more["validation"]) <= 120
    # A test split that is named takes no share.
    named = dataclasses.replace(whole, test=files / "dev.tsv").splits(BadRows())
    assert named["validation"] == splits["validation"]
    assert [row.texts for row in named["test"]] == [("very bad!",)]
    assert len(named["train"]) == len(splits["train"]) + len(splits["test"])
    few = data(files, validation=None, held_out=0.01)
    with pytest.raises(
        UserError, match=r"3 rows left to train on and none for validation and test"
    ):
        few.load()


def test_subwords_are_made_from_training(files):
    pytest.importorskip("tokenizers")
    made = data(files, tokenizer="wordpiece", vocab_size=60).resolve()
    assert made.tokenizer == "wordpiece"
    coder = made.load().tokenizer
    assert coder.tokenizer.tokens("good film") == ["good", "film"]
    assert coder.tokenizer.unknown("very bad!") == ["!"]
    assert len(coder.example(["good"])["tokens"]) == 3  # [CLS] good [SEP]


@pytest.mark.parametrize(
    ("name", "kind"), [("char", CharTokenizer), ("word", WordTokenizer), ("byte", ByteTokenizer)]
)
def test_the_tokenizer_is_made_from_training_alone(files, name, kind):
    tokenizer = data(files, tokenizer=name).load().tokenizer.tokenizer
    assert isinstance(tokenizer, kind)
    if name == "char":
        assert tokenizer.unknown("very bad films!") == ["s", "!"]


def test_a_path_names_a_subword_tokenizer(files, vocabulary, wordpiece):
    assert data(files, tokenizer=str(vocabulary)).load().tokenizer.tokenizer == wordpiece


def test_a_bare_tokenizer_gets_a_new_coder_and_a_coder_stays(files):
    tokenizer = CharTokenizer.train("abc")
    fresh = data(files).load(tokenizer).tokenizer
    assert (fresh.tokenizer, fresh.labels) == (tokenizer, ("neg", "pos"))
    kept = ClassCoder(tokenizer, ("neg", "pos", "so-so"), max_length=5)
    found = data(files).load(kept).tokenizer
    assert (found.tokenizer, found.labels, found.max_length) == (tokenizer, kept.labels, 5)
    assert found.longest == 5


def test_pairs_with_a_header_and_in_json_lines(files):
    (files / "train.tsv").write_text("id\ta\tb\tlabel\n7\tone\ttwo\tyes\n8\tthree\tfour\tno\n")
    rows = [{"label": True, "b": "2\t2", "a": "1"}, {"label": 0, "a": "3", "b": "4"}]
    (files / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = data(files, columns=("a", "b", "label"), validation=files / "train.tsv")
    corpus = pairs.load()
    assert corpus.tokenizer.pairs
    assert corpus.tokenizer.labels == ("no", "yes")
    assert bytes(corpus.train.examples[0]["tokens"].astype(np.uint8)) == b"onetwo"
    assert corpus.inputs == ("one\ttwo",)
    lines = data(
        files,
        columns=("a", "b", "label"),
        train=files / "dev.jsonl",
        validation=files / "dev.jsonl",
    )
    assert lines.load().tokenizer.labels == ("0", "True")


def test_the_fingerprint_tells_other_rows(files, tmp_path_factory):
    before = data(files).load().fingerprint
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for name in ("train.tsv", "dev.tsv"):
        (elsewhere / name).write_text((files / name).read_text())
    assert data(elsewhere).load().fingerprint == before
    (files / "dev.tsv").write_text("pos\tvery bad!\n")
    assert data(files).load().fingerprint != before


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("train", b"pos\ta\nneg\n", r"train\.tsv, line 2"),
        ("train", b"pos\ta\nneg\tb\tc\n", r"train\.tsv, line 2"),
        ("train", b"pos\ta\nneg\t \n", r"train\.tsv, line 2: empty text"),
        ("train", b"pos\ta\n \tb\n", r"train\.tsv, line 2: label that is neither"),
        ("train", b"pos\ta\nneg\t\xff\n", r"train\.tsv, line 2"),
        ("train", b"", r"train\.tsv"),
        ("train", b"pos\ta\npos\tb\n", r"train\.tsv: every row has the label 'pos'"),
        ("dev", b"pos\ta\n\nso-so\tb\n", r"dev\.tsv, line 3: unknown label: 'so-so'.* neg, pos;"),
        ("dev", b"", r"dev\.tsv"),
    ],
)
def test_a_bad_file_is_named_with_its_line(files, name, text, message):
    (files / f"{name}.tsv").write_bytes(text)
    with pytest.raises(UserError, match=message):
        data(files).load()


def test_a_misspelt_kind_of_tokenizer_is_recognised(files):
    with pytest.raises(UserError, match="did you mean 'wordpiece'"):
        data(files, tokenizer="wordpeice").resolve().load()


def test_bad_rows_are_left_out_and_counted_where_asked(files, caplog):
    (files / "train.tsv").write_bytes(TRAIN.encode() + b"neg\npos\t \nneg\t\xff\n")
    (files / "dev.tsv").write_text(DEV + "so-so\tfilm\n")
    with caplog.at_level(logging.WARNING):
        corpus = data(files, on_bad_row="skip").load()
    assert [len(corpus.train), len(corpus.validation)] == [3, 1]
    (record,) = caplog.records
    for words in ("1 too few columns", "1 unknown label", "1 empty text", "1 not UTF-8"):
        assert words in record.getMessage()
    (files / "dev.tsv").write_text("so-so\tfilm\n")
    with pytest.raises(UserError, match=r"dev\.tsv: no row can be used"):
        data(files, on_bad_row="skip").load()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": 0}, "--data.batch-size is 0"),
        ({"columns": ("label",)}, "--data.columns is label:"),
        ({"columns": ("label", "a", "b", "c")}, "--data.columns is label a b c"),
        ({"columns": ("label", "label")}, "--data.columns"),
        ({"label": "class"}, "--data.label is class"),
        ({"held_out": 0.5}, "--data.held-out is 0.5"),
        ({"tokenizer": "nowhere.json"}, "nowhere.json"),
    ],
)
def test_options_out_of_range_are_named(files, fields, message):
    with pytest.raises(UserError, match=message):
        data(files, **fields).load()


def test_a_cut_leaves_room_for_a_token_of_each_text(files, vocabulary):
    with pytest.raises(UserError, match=r"--data.max-length is 2: an input takes 3"):
        data(files, tokenizer=str(vocabulary), max_length=2).load()
    corpus = data(files, tokenizer=str(vocabulary), max_length=3).load()
    assert {int(example["lengths"]) for example in corpus.train.examples} == {3}


# ---- made-up texts --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "labels"),
    [
        (MadeUpReviews(num_train=60, num_held_out=300), ("negative", "positive")),
        (MadeUpNames(num_train=60, num_held_out=300, tokenizer="char"), tuple(sorted(LANGUAGES))),
    ],
)
def test_made_up_texts_are_in_one_split_each_and_the_same_again(made, labels):
    corpus = made.load()
    assert corpus.tokenizer.labels == labels
    texts = [text_of(e["text"]) for s in (corpus.validation, corpus.test) for e in s.examples]
    assert len(set(texts)) == len(texts) == 600
    assert len(corpus.train) == 60
    assert made.load().fingerprint == corpus.fingerprint
    assert dataclasses.replace(made, seed=1).load().fingerprint != corpus.fingerprint
    with pytest.raises(UserError, match=r"--data.num-held-out is 0"):
        dataclasses.replace(made, num_held_out=0).load()


def test_what_a_made_up_review_denies_or_concedes_does_not_count():
    draw = random.Random(1)
    for _ in range(200):
        text, label = write_review(draw)
        verdict = text.rpartition(" , ")[2] if "although" in text else text.partition(" , ")[0]
        good = any(word in GOOD for word in verdict.split())
        denied = any(f"is {denial}" in verdict for denial in DENIALS)
        assert label == ("positive" if good != denied else "negative"), text


def test_movie_reviews_have_their_published_sizes():
    if "JAXSEQ_DATA" not in os.environ:
        pytest.skip("JAXSEQ_DATA does not name the data directory")
    folder = Path(os.environ["JAXSEQ_DATA"]) / "sentiment"
    corpus = LabelledText(
        train=folder / "rt_polarity.train.tsv",
        validation=folder / "rt_polarity.dev.tsv",
        test=folder / "rt_polarity.test.tsv",
    ).load()
    assert corpus.test is not None
    sizes = [len(split) for split in (corpus.train, corpus.validation, corpus.test)]
    assert sizes == [8530, 1066, 1066]
    assert corpus.tokenizer.labels == ("0", "1")
    assert sum(int(example["labels"]) for example in corpus.train.examples) == 4223
