"""Tagged words as subwords: where each word begins, pieces of long sentences, and bad files."""

import numpy as np
import pytest

from jaxseq.data.subwords import load_subwords
from jaxseq.data.tagged_subwords import SubwordTagCoder, TaggedSubwords
from jaxseq.data.tokenizers import ByteTokenizer, CharTokenizer, load_tokenizer, save_tokenizer
from jaxseq.errors import UserError

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "good", "film", "very", "##s", "##ly"]
TAGS = ("B-P", "I-P", "O")


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    pytest.importorskip("tokenizers")
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("".join(piece + "\n" for piece in PIECES))
    return path


@pytest.fixture(scope="module")
def coder(vocabulary) -> SubwordTagCoder:
    return SubwordTagCoder(load_subwords(vocabulary), TAGS)


def spelt(example):
    return " ".join(PIECES[token] for token in example["tokens"])


def test_each_word_is_where_its_first_subword_is(coder):
    (piece,) = coder.pieces(["films", "good", "Goodly", "?", "a"], ["O", "B-P", "I-P", "O", "O"])
    example = piece.example
    assert spelt(example) == "[CLS] film ##s good good ##ly [UNK] a [SEP]"
    assert example["firsts"].tolist() == [1, 3, 4, 6, 7]
    assert example["tags"].tolist() == [2, 0, 1, 2, 2]
    assert (example["words"], example["lengths"]) == (5, 9)
    assert not example["types"].any()


def test_a_word_that_the_tokenizer_drops_is_unknown(coder):
    (piece,) = coder.pieces(["a", "\u200b", "film"])
    assert spelt(piece.example) == "[CLS] a [UNK] film [SEP]"
    assert piece.example["firsts"].tolist() == [1, 2, 3]


def test_a_long_sentence_is_read_in_pieces_of_whole_words(coder):
    short = SubwordTagCoder(coder.tokenizer, TAGS, max_length=5)
    words = ["a", "films", "goodly", "a", "a", "a", "goodlyss"]
    pieces = short.pieces(words, ["O", "B-P", "I-P", "O", "O", "O", "B-P"])
    assert [(piece.start, piece.stop) for piece in pieces] == [(0, 2), (2, 4), (4, 6), (6, 7)]
    assert [spelt(piece.example) for piece in pieces] == [
        "[CLS] a film ##s [SEP]",
        "[CLS] good ##ly a [SEP]",
        "[CLS] a a [SEP]",
        "[CLS] good ##ly ##s [SEP]",
    ]
    tags = np.concatenate([piece.example["tags"] for piece in pieces])
    assert tags.tolist() == [2, 0, 1, 2, 2, 2, 0]


def test_a_sentence_without_words_has_its_markers_alone(coder):
    (piece,) = coder.pieces([])
    assert spelt(piece.example) == "[CLS] [SEP]"
    assert piece.example["words"] == 0
    (bare,) = SubwordTagCoder(ByteTokenizer(), TAGS).pieces([])
    assert bare.example["lengths"] == 0


def test_tokenizers_without_markers_spell_each_word():
    (piece,) = SubwordTagCoder(ByteTokenizer(), TAGS).pieces(["ab", "c"])
    assert piece.example["tokens"].tolist() == [97, 98, 99]
    assert piece.example["firsts"].tolist() == [0, 2]


def test_saved_and_loaded_is_equal(coder, tmp_path):
    save_tokenizer(coder, tmp_path / "tokenizer.json")
    assert load_tokenizer(tmp_path / "tokenizer.json") == coder


# ---- files ----------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    (tmp_path / "train.tsv").write_text("a\tO\ngood\tB-P\nfilm\tI-P\n\nvery\tO\n")
    (tmp_path / "dev.tsv").write_text("films\tB-P\n\na\tO\nvery\tO\nfilm\tB-P\n")
    return tmp_path


def data(folder, **fields) -> TaggedSubwords:
    paths = {"train": folder / "train.tsv", "validation": folder / "dev.tsv"}
    return TaggedSubwords(**{**paths, "batch_size": 2, **fields})


def test_load_reads_words_and_tags(files):
    corpus = data(files).load()
    coder = corpus.tokenizer
    assert isinstance(coder.tokenizer, CharTokenizer)
    assert coder.tokenizer.unknown("films") == ["s"]  # made from training alone
    assert coder.tags == TAGS
    assert (coder.longest, coder.longest_at) == (9, "train.tsv, line 1")
    assert [len(corpus.train), len(corpus.validation)] == [2, 2]
    assert corpus.inputs == ("films",)
    batch = next(data(files).evaluation_batches(data(files, batch_size=4).load().validation))
    assert batch["words"].tolist() == [1, 3, 0, 0]  # filler rows
    assert data(files).describe(corpus) == "4 words with 3 tags"


def test_pieces_are_examples_and_the_longest_is_named_with_its_line(files, vocabulary):
    options = {"tokenizer": str(vocabulary), "max_length": 4}
    corpus = data(files, **options).load()
    assert [int(example["words"]) for example in corpus.train.examples] == [2, 1, 1]
    assert (corpus.tokenizer.longest, corpus.tokenizer.max_length) == (4, 4)
    (files / "dev.tsv").write_text("a\tO\ngoodlys\tO\n")
    dev = {"train": files / "dev.tsv", "max_length": 5}
    later = data(files, **options | dev).load()
    assert later.tokenizer.longest_at == "dev.tsv, line 2"


def test_a_bare_tokenizer_gets_a_new_coder_and_a_coder_stays(files):
    fresh = data(files).load(ByteTokenizer()).tokenizer
    assert (fresh.tokenizer, fresh.tags) == (ByteTokenizer(), TAGS)
    kept = SubwordTagCoder(ByteTokenizer(), (*TAGS, "X"), max_length=50)
    found = data(files).load(kept).tokenizer
    assert (found.tags, found.max_length) == (kept.tags, 50)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("train", "a\tO\nb\n", r"train\.tsv, line 2"),
        ("dev", "a\tO\n\nb\tX\n", r"dev\.tsv, line 3: the tag 'X' does not occur"),
        ("dev", "\n", r"dev\.tsv has no sentence"),
    ],
)
def test_a_bad_file_is_named_with_its_line(files, name, text, message):
    (files / f"{name}.tsv").write_text(text)
    with pytest.raises(UserError, match=message):
        data(files).load()


def test_options_out_of_range_are_named(files, vocabulary):
    with pytest.raises(UserError, match=r"--data.batch-size is 0"):
        data(files, batch_size=0).load()
    with pytest.raises(UserError, match=r"--data.max-length is 2: a word takes 3"):
        data(files, max_length=2, tokenizer=str(vocabulary)).load()
