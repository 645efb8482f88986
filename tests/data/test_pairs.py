"""Pairs of source and target: from files, made-up dates, and as numbers."""

import dataclasses
import datetime
import os
import random
import re
from pathlib import Path

import numpy as np
import pytest

from jaxseq.data.code_points import text_of
from jaxseq.data.dates import MONTHS, DatesData, write_date
from jaxseq.data.made_up_translations import LARGEST, MadeUpTranslations, in_english, in_french
from jaxseq.data.pair_tokenizers import PairTokenizer, SubwordPairTokenizer
from jaxseq.data.pairs import PairData, read_pairs
from jaxseq.data.text import Document, read_documents
from jaxseq.data.tokenizers import load_tokenizer, save_tokenizer
from jaxseq.errors import UserError

PAIRS = [("cab", "K AE1 B"), ("ab", "AE1 B")]


def tokenizer():
    return PairTokenizer.train(PAIRS, "character", "word")


def test_pairs_of_a_file():
    text = "cab\tK AE1 B\n\nab\tAE1 B\r\n"
    assert read_pairs(Document("a.tsv", text)) == PAIRS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tb\nc\n", "p.tsv, line 2: 'c' is not SOURCE TAB TARGET"),
        ("a\tb\tc\n", "line 1"),
        ("a\t\n", "line 1"),
        ("\n", "p.tsv has no pair"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(text, message):
    with pytest.raises(UserError, match=message):
        read_pairs(Document("p.tsv", text))


def test_inputs_are_the_target_behind_its_start_and_targets_end_with_its_end():
    example = tokenizer().example("bacz", "B AE1")
    assert tokenizer().source.decode(example["source"]) == ["b", "a", "c", "<unk>"]
    assert example["source_lengths"] == 4
    assert tokenizer().target.decode(example["inputs"]) == ["<s>", "B", "AE1"]
    assert tokenizer().target.decode(example["targets"]) == ["B", "AE1", "</s>"]
    assert example["target_lengths"] == 3


def test_what_a_model_wrote_is_read_up_to_its_end():
    numbers = tokenizer().target.encode(["AE1", "B", "</s>", "K"])
    assert tokenizer().target_units(numbers) == ["AE1", "B"]
    assert tokenizer().join(["AE1", "B"]) == "AE1 B"
    letters = PairTokenizer.train([("a", "xy")], "word", "character")
    assert letters.join(letters.target_units(letters.target.encode("yx"))) == "yx"
    assert letters.source_units("two words") == ["two", "words"]


def test_saved_and_loaded_is_equal(tmp_path):
    save_tokenizer(tokenizer(), tmp_path / "tokenizer.json")
    assert load_tokenizer(tmp_path / "tokenizer.json") == tokenizer()


def test_load_splits_and_batches(tmp_path):
    text = "cab\tK AE1 B\nab\tAE1 B\n"
    (tmp_path / "train.tsv").write_text(text)
    for name in ("dev", "test"):
        (tmp_path / f"{name}.tsv").write_text(text + "zz\tQ\n")
    data = PairData(
        train=tmp_path / "train.tsv",
        validation=tmp_path / "dev.tsv",
        test=tmp_path / "test.tsv",
        batch_size=2,
    )
    corpus = data.resolve().load()
    assert corpus.tokenizer == dataclasses.replace(tokenizer(), longest=4)
    assert corpus.inputs == ("cab", "ab", "zz")
    assert [len(split) for split in (corpus.train, corpus.validation, corpus.test)] == [2, 3, 3]
    batch = data.train_batches(corpus, 0)[0]
    assert batch["source"].shape == batch["targets"].shape == (2, 8)
    assert data.load(corpus.tokenizer).tokenizer == corpus.tokenizer
    with pytest.raises(UserError, match="is a directory"):
        PairData(train=tmp_path, validation=data.validation).load()
    with pytest.raises(UserError, match=r"--data.batch-size is 0"):
        PairData(train=data.train, validation=data.validation, batch_size=0).load()


def test_pairs_of_one_source_are_one_example_with_several_references(tmp_path):
    (tmp_path / "train.tsv").write_text("go\tva\nrun\tcours\n" * 30)
    held = "go\tva\nrun\tcours\ngo\tallez-y\n"
    (tmp_path / "dev.tsv").write_text(held, encoding="utf-8")
    data = PairData(
        train=tmp_path / "train.tsv",
        validation=tmp_path / "dev.tsv",
        subwords=20,
        references=True,
        batch_size=2,
    )
    corpus = data.load()
    assert isinstance(corpus.tokenizer, SubwordPairTokenizer)
    assert corpus.tokenizer.sizes[0] <= 20
    assert "references" not in data.train_batches(corpus, 0)[0]
    (batch,) = data.evaluation_batches(corpus.validation)
    texts = [[text_of(row) for row in rows if row.any()] for rows in batch["references"]]
    assert texts == [["va", "allez-y"], ["cours"]]
    text, units = corpus.tokenizer.read_source(batch["source"][0][: batch["source_lengths"][0]])
    assert text == "go"
    assert units == corpus.tokenizer.source_units("go")
    both = dataclasses.replace(data, tokenizer=str(tmp_path))
    with pytest.raises(UserError, match=r"--data.tokenizer .* --data.subwords"):
        both.load()


@pytest.mark.parametrize(
    ("number", "english", "french"),
    [
        (0, "zero", "zéro"),
        (21, "twenty-one", "vingt et un"),
        (71, "seventy-one", "soixante et onze"),
        (80, "eighty", "quatre-vingts"),
        (81, "eighty-one", "quatre-vingt-un"),
        (99, "ninety-nine", "quatre-vingt-dix-neuf"),
        (100, "one hundred", "cent"),
        (200, "two hundred", "deux cents"),
        (1_016, "one thousand and sixteen", "mille seize"),
        (80_500, "eighty thousand five hundred", "quatre-vingt mille cinq cents"),
        (
            280_080,
            "two hundred and eighty thousand and eighty",
            "deux cent quatre-vingt mille quatre-vingts",
        ),
    ],
)
def test_numbers_in_words(number, english, french):
    assert (in_english(number), in_french(number)) == (english, french)


def test_made_up_translations_have_references_and_no_number_twice():
    corpus = MadeUpTranslations(num_train=50, num_held_out=10, batch_size=10).load()
    numbers = [in_french(number) for number in range(LARGEST // 100)]
    assert len(set(numbers)) == len(numbers)
    splits = (corpus.train, corpus.validation, corpus.test)
    assert [len(split) for split in splits] == [50, 10, 10]
    first = corpus.validation.examples[0]
    # References are the texts themselves, rare words too, which are unknown as numbers.
    words = corpus.tokenizer.target_units(first["targets"])
    reference = text_of(first["references"][0]).split()
    assert "<unk>" not in reference
    assert all(word in (other, "<unk>") for word, other in zip(words, reference, strict=True))


def test_dates_are_the_same_for_a_seed_and_no_day_is_in_two_splits():
    one, other = (DatesData(num_train=200, num_held_out=50, seed=1).load() for _ in range(2))
    assert one.fingerprint == other.fingerprint
    assert DatesData(num_train=200, num_held_out=50, seed=2).load().fingerprint != one.fingerprint
    read = one.tokenizer
    days = {
        name: {read.join(read.target_units(example["targets"])) for example in split.examples}
        for name, split in (("train", one.train), ("held", one.validation), ("test", one.test))
    }
    assert [len(found) for found in days.values()] == [200, 50, 50]
    assert len(set().union(*days.values())) == 300


def test_every_date_says_its_day():
    """Parsed by the rules of the docstring, by other means than it was written with."""
    draw = random.Random(0)
    for _ in range(2000):
        day = datetime.date.fromordinal(draw.randrange(585_000, 800_000))
        written = write_date(day, draw).lower()
        written = re.sub(r"^(mon|tue|wed|thu|fri|sat|sun)\w*,? ", "", written)
        names = [month.lower()[:3] for month in MONTHS]
        numbers = [int(found) for found in re.findall(r"\d+", written)]
        if found := re.search("|".join(names), written):
            month = names.index(found[0]) + 1
            date, year = numbers if numbers[0] <= 31 and written[-8:-5] != "the" else numbers[::-1]
            if ", the " in written:
                year, date = numbers
        elif "/" in written and numbers[0] > 31:
            year, month, date = numbers
        else:
            month, date, year = numbers
        if year < 100:
            year += 1900 if year >= 50 else 2000
        assert (year, month, date) == (day.year, day.month, day.day), written


@pytest.mark.parametrize("option", ["num_train", "num_held_out", "batch_size"])
def test_counts_out_of_range_are_named(option):
    with pytest.raises(UserError, match=f"--data.{option.replace('_', '-')} is 0"):
        DatesData(**{option: 0}).load()


def test_batches_of_dates_hold_them_whole():
    data = DatesData(num_train=100, num_held_out=10, batch_size=16)
    corpus = data.load()
    batches = data.train_batches(corpus, 0)
    lengths = np.concatenate([batches[i]["target_lengths"] for i in range(len(batches))])
    assert set(lengths.tolist()) == {0, 11}  # ten characters and the end, or an empty row
    assert (lengths == 11).sum() == 100


def test_cmudict_reads_whole():
    if "JAXSEQ_DATA" not in os.environ:
        pytest.skip("JAXSEQ_DATA does not name the data directory")
    folder = Path(os.environ["JAXSEQ_DATA"]) / "g2p"
    found = read_pairs(read_documents(folder / "cmudict.dev.tsv")[0])
    assert len(found) == 2500
    read = PairTokenizer.train(found, "character", "word")
    assert len(read.target) == 69 + 3
    for source, target in found[:50]:
        example = read.example(source, target)
        assert read.join(read.target_units(example["targets"])) == target
