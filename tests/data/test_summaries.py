"""Texts and summaries: as numbers that can be copied, from files, and made up."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest

from jaxseq.data.code_points import text_of
from jaxseq.data.made_up_summaries import MadeUpSummaries
from jaxseq.data.rows import BadRows
from jaxseq.data.summaries import SummaryData, read_summaries
from jaxseq.data.summary_coders import WordSummaryCoder, split_sentences
from jaxseq.data.tokenizers import load_tokenizer, save_tokenizer
from jaxseq.data.vocabulary import Vocabulary
from jaxseq.errors import UserError

CODER = WordSummaryCoder(Vocabulary(("<s>", "</s>", "<unk>", "the", "cat", ".", "\n")))
SOURCE = "The Zuk saw\nthe zuk."


def test_unknown_words_have_the_number_of_their_first_place() -> None:
    example = CODER.example(SOURCE, "Zuk the dog saw")
    # the zuk saw \n the zuk .      with V = 7, zuk first at place 1 and saw at place 2
    assert example["source"].tolist() == [3, 2, 2, 6, 3, 2, 5]
    assert example["copies"].tolist() == [3, 8, 9, 6, 3, 8, 5]
    assert example["inputs"].tolist() == [0, 2, 3, 2, 2]
    assert example["targets"].tolist() == [8, 3, 2, 9, 1]
    assert (example["source_lengths"], example["target_lengths"]) == (7, 5)
    units = CODER.written_units(example["targets"], SOURCE)
    assert units == ["zuk", "the", "<unk>", "saw"]
    short = dataclasses.replace(CODER, max_source=2, max_target=1).example(SOURCE, "saw zuk")
    assert short["copies"].tolist() == [3, 8]
    assert short["targets"].tolist() == [2, 1]


def test_units_are_joined_as_people_write_them() -> None:
    text = "state-of-the-art ( f1 4.5 , don't ) : it\nworks ."
    units = CODER.source_units(text)
    assert "state-of-the-art" in units
    assert "4.5" in units
    assert CODER.join(units) == "state-of-the-art (f1 4.5, don't): it\nworks."


def test_sentences() -> None:
    text = 'It is 4.5 m. We (i.e. two) saw it!  "So?" Yes\n\n3 of them.'
    assert split_sentences(text) == ["It is 4.5 m.", "We (i.e. two) saw it!", '"So?', "Yes",
                                     "3 of them."]  # fmt: skip


def test_the_vocabulary_has_the_words_of_most_texts_and_none_of_one_alone() -> None:
    texts = ["a a a once once", "b a", "b c a", "c d"]
    found = WordSummaryCoder.train(texts, 5, lowercase=True)
    assert found.vocabulary.entries[3:] == ("a", "b")
    assert WordSummaryCoder.train(texts, 99, lowercase=True).vocabulary.entries[3:] == (
        "a", "b", "c",
    )  # fmt: skip


ROWS = [
    {
        "id": n,
        "source": [f"Study {n} is  old.", "", f"We find wug{n}."],
        "target": [f"Wug{n}.", "x"],
    }
    for n in range(12)
]


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_files_are_read_split_and_batched(tmp_path: Path) -> None:
    train, test = write(tmp_path / "train.jsonl", ROWS), write(tmp_path / "test.jsonl", ROWS[:3])
    data = SummaryData(train=train, test=test, batch_size=2).resolve()
    corpus = data.load()
    # Every tenth text is held out; each of the two summaries of the others is learned.
    assert [len(x) for x in (corpus.train, corpus.validation, corpus.test)] == [20, 2, 3]
    assert "references" not in corpus.train.examples[0]
    held_out = corpus.validation.examples[1]
    assert text_of(held_out["text"]) == "Study 10 is old.\nWe find wug10."
    assert [text_of(each) for each in held_out["references"]] == ["Wug10.", "x"]
    assert "wug3" not in corpus.tokenizer.vocabulary
    batch = data.train_batches(corpus, 0)[0]
    assert batch["source"].shape == batch["copies"].shape
    again = data.load(corpus.tokenizer)
    assert again.tokenizer == corpus.tokenizer
    assert again.fingerprint == corpus.fingerprint
    with_extracts = dataclasses.replace(data, extracts=True).load()
    assert len(with_extracts.train) == 30
    last = with_extracts.train.examples[-1]
    written = corpus.tokenizer.written_units(last["targets"], "Study 11 is old.\nWe find wug11.")
    assert written == ["we", "find", "wug11", "."]


def test_cnn_dailymail_columns(tmp_path: Path) -> None:
    row = {"article": "One thing. Another thing.", "highlights": "First line .\n\nSecond one .",
           "id": "1"}  # fmt: skip
    (found,) = read_summaries(write(tmp_path / "a.jsonl", [row]), ("article", "highlights"))
    assert found.sentences == ("One thing.", "Another thing.")
    assert found.summaries == ("First line .\nSecond one .",)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target": []}, "empty summary: target"),
        ({"target": ["good", " \n"]}, "empty summary: target"),
        ({"target": ""}, "empty summary: target"),
        ({"source": ["", " "]}, "empty text: source"),
        ({"source": "  "}, "empty text: source"),
        ({"source": [1]}, "neither a text nor a list of texts: source"),
        ({"target": {"a": 1}}, "neither a text nor a list of texts: target"),
    ],
    ids=str,
)
def test_bad_rows_are_named_with_file_and_line(fields: dict, message: str, tmp_path: Path) -> None:
    file = write(tmp_path / "bad.jsonl", [ROWS[0], ROWS[1] | fields])
    with pytest.raises(UserError, match=rf"bad\.jsonl, line 2: {message}"):
        read_summaries(file, ("source", "target"))
    skipping = BadRows("skip")
    assert len(read_summaries(file, ("source", "target"), skipping)) == 1
    assert skipping.reasons.total() == 1


def test_options_out_of_range_are_named(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", ROWS[:1])
    with pytest.raises(UserError, match=r"--data\.max-source is 0"):
        SummaryData(train=train, max_source=0).load()
    with pytest.raises(UserError, match=r"one row, and none to hold out; name --data\.validation"):
        SummaryData(train=train).load()
    with pytest.raises(UserError, match=r"--data\.num-train is 0"):
        MadeUpSummaries(num_train=0).load()


def test_subwords_need_no_numbers_beyond_the_vocabulary(tmp_path: Path) -> None:
    data = MadeUpSummaries(num_train=50, num_held_out=5, subwords=True, vocab_size=120)
    corpus = data.load()
    example = corpus.validation.examples[0]
    np.testing.assert_array_equal(example["copies"], example["source"])
    text, coder = text_of(example["text"]), corpus.tokenizer
    assert max(example["targets"]) < coder.size <= 120
    reference = text_of(example["references"][0]).lower()
    assert coder.join(coder.written_units(example["targets"], text)) == reference
    save_tokenizer(coder, tmp_path / "tokenizer.json")
    assert load_tokenizer(tmp_path / "tokenizer.json") == coder


def test_made_up_reports_are_the_same_for_a_seed_and_name_what_no_vocabulary_has() -> None:
    one, other = (MadeUpSummaries(num_train=60, num_held_out=10).load() for _ in range(2))
    assert one.fingerprint == other.fingerprint
    size = one.tokenizer.size
    for example in one.test.examples:
        targets = example["targets"]
        assert (targets >= size).sum() == 1  # the name, which stands in the text
        assert not (targets == 2).any()


def test_scitldr_reads_whole() -> None:
    if "JAXSEQ_DATA" not in os.environ:
        pytest.skip("JAXSEQ_DATA does not name the data directory")
    folder = Path(os.environ["JAXSEQ_DATA"]) / "summarisation"
    found = read_summaries(folder / "scitldr_a.dev.jsonl", ("source", "target"))
    assert len(found) == 300
    assert sum(len(each.summaries) for each in found) == 775
