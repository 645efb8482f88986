"""SQuAD's files, windows of a question and its context, and where the answer is in them."""

import dataclasses
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
from small_subwords import CLASSIFY, SEPARATE, word_pieces

from jaxseq.config import from_tree, to_tree
from jaxseq.data.code_points import code_points, text_of
from jaxseq.data.made_up_questions import MadeUpQuestions, write_passage
from jaxseq.data.rows import BadRows
from jaxseq.data.squad import (
    QuestionCoder,
    QuestionWindows,
    SquadData,
    first_answer,
    token_span,
)
from jaxseq.data.squad_files import Answer, Question, read_squad
from jaxseq.data.subword_training import train_subwords
from jaxseq.data.subwords import load_subwords
from jaxseq.data.text import Document, read_documents
from jaxseq.data.tokenizers import load_tokenizer, save_tokenizer
from jaxseq.errors import UserError

PIECES = word_pieces("who", "sat", "?", *"abcdefgh", "##a", "##b", "##c", ".", "where", "so")
CODER = QuestionCoder(PIECES, max_length=10, max_question=3, stride=2)


def squad(*questions, context="a b c d e f g h") -> dict:
    """A file of one paragraph; a question is (id, answers as (text, start))."""
    qas = [
        {
            "id": name,
            "question": "who sat?",
            "answers": [{"text": text, "answer_start": start} for text, start in answers],
        }
        for name, answers in questions
    ]
    return {
        "version": "1.1",
        "data": [{"title": "t", "paragraphs": [{"context": context, "qas": qas}]}],
    }


def read(tree, policy="error") -> list[Question]:
    text = tree if isinstance(tree, str) else json.dumps(tree)
    return read_squad(Document("f.json", text), BadRows(policy))


def test_questions_and_all_their_answers():
    found = read(squad(("x", [("c d", 4), ("c", 4)]), ("y", [("h", 14)])))
    assert [question.place for question in found] == ["f.json, question x", "f.json, question y"]
    assert found[0].answers == (Answer("c d", 4), Answer("c", 4))
    impossible = squad(("z", [("c", 4)]))
    impossible["data"][0]["paragraphs"][0]["qas"][0]["is_impossible"] = True
    assert read(impossible)[0].answers == ()
    assert read(squad(("z", [])))[0].answers == ()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (("c d", 5), r"f.json, question bad: answer that is not in its context: 'c d' is not at "
                     r"answer_start 5; it stands at 4; .*--data.on-bad-row skip"),
        (("x", 0), "question bad: answer .* it is nowhere in it"),
        (("h", -1), "question bad: answer .* not at answer_start -1"),
        ((" ", 1), "question bad: empty answer"),
    ],
)  # fmt: skip
def test_an_answer_that_is_not_in_its_context_is_named_or_counted(answer, message):
    tree = squad(("good", [("c", 4)]), ("bad", [("c", 4), answer]))
    with pytest.raises(UserError, match=message):
        read(tree)
    bad_rows = BadRows("skip")
    found = read_squad(Document("f.json", json.dumps(tree)), bad_rows)
    assert [question.place for question in found] == ["f.json, question good"]
    assert bad_rows.reasons.total() == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"data": [\n}', r"f.json, line 2: not JSON"),
        ("[]", '"data" is missing'),
        ('{"data": [{"paragraphs": [{"qas": []}]}]}',
         'article 1, paragraph 1: "context" is missing'),
        ('{"data": [{"paragraphs": [{"context": "a", "qas": [{"id": 3}]}]}]}',
         'question 3: "question" is missing'),
        (json.dumps(squad(("x", [("c", "4")]))), 'question x, answer 1: "answer_start" is missing'),
        ('{"data": []}', "f.json has no question"),
    ],
)  # fmt: skip
def test_a_file_of_another_form_is_named_with_the_place(text, message):
    with pytest.raises(UserError, match=message):
        read(text)


# ---- windows -----------------------------------------------------------------------------------


def test_windows_move_over_the_context_and_see_all_of_it():
    context = "a b c d e f g h"
    windows = CODER.windows("who sat?", context, Answer("d e", 6))
    # [CLS] who sat ? [SEP] and [SEP] leave room for four tokens; windows begin at 0, 2, 4.
    assert [w["lengths"] for w in windows] == [10, 10, 10]
    expected = [PIECES.encode(part).tolist() for part in ("a b c d", "c d e f", "e f g h")]
    for window, part in zip(windows, expected, strict=True):
        question = [CLASSIFY, *PIECES.encode("who sat?").tolist(), SEPARATE]
        assert window["tokens"].tolist() == [*question, *part, SEPARATE]
        assert window["types"].tolist() == [0] * 5 + [1] * 5
    # Only the second has all of the answer; the others point at [CLS].
    assert [(int(w["starts"]), int(w["ends"])) for w in windows] == [(0, 0), (6, 7), (0, 0)]
    spelled = context[windows[1]["begins"][6] : windows[1]["stops"][7]]
    assert spelled == "d e"


def test_what_stands_in_the_question_too_is_of_a_type_of_its_own():
    coder = dataclasses.replace(CODER, matches=True)
    window = coder.windows("a c sat", "a b c d e f g h")[0]
    # [CLS] a c sat [SEP] a b c d [SEP]
    assert window["types"].tolist() == [0] * 5 + [2, 1, 2, 1, 1]
    plain = CODER.windows("a c sat", "a b c d e f g h")[0]
    assert plain["types"].tolist() == [0] * 5 + [1] * 5


def test_a_short_context_is_one_window_and_a_long_question_is_cut():
    (window,) = CODER.windows("who sat where so a b?", "c.", None)
    tokens = [CLASSIFY, *PIECES.encode("who sat where").tolist(), SEPARATE]
    assert window["tokens"].tolist() == [*tokens, *PIECES.encode("c.").tolist(), SEPARATE]
    assert (window["starts"], window["ends"]) == (0, 0)
    (empty,) = CODER.windows("who", "")
    assert empty["tokens"].tolist() == [
        CLASSIFY,
        *PIECES.encode("who").tolist(),
        SEPARATE,
        SEPARATE,
    ]


@pytest.mark.parametrize("length", range(1, 30))
def test_every_token_of_the_context_is_in_a_window(length):
    context = " ".join("abcdefgh"[i % 8] for i in range(length))
    windows = CODER.windows("who?", context)
    seen = {
        (int(b), int(s))
        for window in windows
        for b, s in zip(window["begins"], window["stops"], strict=True)
        if s
    }
    assert len(seen) == length
    # The last one is needed: without it the end would not be seen.
    assert len(windows) == 1 or int(windows[-2]["stops"].max()) < len(context)


def test_an_answer_inside_a_token_takes_the_whole_token():
    ids, offsets = PIECES.encode_with_offsets("abc d")
    assert len(ids) == 4
    assert token_span(offsets, Answer("b", 1)) == (1, 1)
    assert token_span(offsets, Answer("c d", 2)) == (2, 3)
    (window,) = CODER.windows("who?", "so where", Answer("o w", 1))
    text = "so where"[window["begins"][window["starts"]] : window["stops"][window["ends"]]]
    assert text == "so where"


def test_code_points_and_back():
    for text in ("", "caf\u00e9 \U0001f600\n", "a\ud800b"):
        padded = np.pad(code_points(text), (0, 3))
        assert text_of(padded) == text
        assert text_of(code_points(text)) == text


def test_batches_hold_all_windows_of_a_question():
    contexts = ["a b c d e f g h", "a b", "a b c d e f", "h"]
    questions = [
        Question(
            f"q{i}", "who?", context, (Answer(context[0], 0), Answer(context[-1], len(context) - 1))
        )
        for i, context in enumerate(contexts)
    ]
    split = QuestionWindows(CODER, questions, batch_size=2)
    assert [len(windows) for windows in split.windows] == [3, 1, 2, 1]
    assert split.batch_rows == 4  # two batch sizes
    split = QuestionWindows(dataclasses.replace(CODER, max_length=8, stride=1), questions, 2)
    assert [len(windows) for windows in split.windows] == [6, 1, 4, 1]
    assert split.batch_rows == 6  # the longest needs as many
    batches = list(split.batches(range(4)))
    found = []
    for batch in batches:
        assert {len(array) for array in batch.values()} == {6}
        for q in range(batch["question"].max() + 1):
            of_q = batch["question"] == q
            text = text_of(batch["context"][q])
            assert text_of(batch["asked"][q]) == "who?"
            assert of_q.sum() == batch["num_windows"][q]
            number = contexts.index(text)
            found.append(number)
            assert of_q.sum() == len(split.windows[number])
            assert [text_of(row) for row in batch["references"][q]][:2] == [text[0], text[-1]]
        filler = batch["question"] == -1
        assert not batch["lengths"][filler].any()
        assert batch["lengths"][~filler].all()
    assert sorted(found) == [0, 1, 2, 3]


# ---- the config --------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    save_tokenizer(PIECES, tmp_path / "tokenizer.json")
    (tmp_path / "train.json").write_text(
        json.dumps(squad(("x", [("c d", 4)]), ("y", [("h", 14)]), ("z", [("a", 0)])))
    )
    (tmp_path / "dev.json").write_text(json.dumps(squad(("v", [("b", 2), ("b c", 2)]))))
    return tmp_path


def config(folder: Path, **fields) -> SquadData:
    paths = {"train": folder / "train.json", "validation": folder / "dev.json"}
    sizes = {"max_length": 10, "max_question": 3, "stride": 2, "batch_size": 2}
    return SquadData(**{**paths, "tokenizer": str(folder / "tokenizer.json"), **sizes, **fields})


def test_load_gives_windows_to_train_on_and_questions_to_evaluate(folder):
    data = config(folder).resolve()
    assert from_tree(to_tree(data)) == data
    corpus = data.load()
    assert corpus.tokenizer == CODER
    save_tokenizer(corpus.tokenizer, folder / "coder.json")
    assert load_tokenizer(folder / "coder.json") == corpus.tokenizer
    assert len(corpus.train) == 9  # three windows each
    assert len(corpus.validation) == 1
    assert corpus.inputs == ("who sat?\ta b c d e f g h",)
    batch = data.train_batches(corpus, 0)[0]
    assert set(batch) == {"tokens", "types", "lengths", "starts", "ends"}
    assert batch["tokens"].shape == (2, 12)
    (held_out,) = data.evaluation_batches(corpus.validation)
    assert [text_of(row) for row in held_out["references"][0]][:2] == ["b", "b c"]
    assert "9 windows" in data.describe(corpus)


def test_questions_without_an_answer_in_training_are_remembered(folder):
    (folder / "train.json").write_text(json.dumps(squad(("x", [("c", 4)]), ("none", []))))
    corpus = config(folder).load(PIECES)  # a bare tokenizer, as fine-tuning gives
    assert corpus.tokenizer == dataclasses.replace(CODER, unanswerable=True)
    none = [e for e in corpus.train.examples if not e["starts"] and not e["ends"]]
    assert len(none) == 3 + 1  # all windows of the second question, the last one of the first
    again = config(folder, max_length=100, max_question=5).load(corpus.tokenizer)
    assert again.tokenizer == corpus.tokenizer


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stride": 0}, r"--data.stride is 0"),
        ({"stride": 5}, r"--data.stride is 5: .* has room for 4"),
        ({"max_question": 0}, r"--data.max-question is 0"),
        ({"batch_size": 0}, r"--data.batch-size is 0"),
        ({"tokenizer": "word"}, r"tokenizer 'word' lacks .*\[CLS\], \[SEP\]"),
        ({"train": Path("nowhere.json")}, "nowhere.json"),
    ],
)
def test_mistakes_are_named(folder, fields, message):
    with pytest.raises(UserError, match=message):
        config(folder, **fields).load()


def test_a_split_may_be_several_files_and_the_tokenizer_be_made_of_it(folder):
    (folder / "train2.json").write_text(
        json.dumps(squad(("x", [("zebra", 2)]), context="a zebra b"))
    )
    made = config(
        folder, train=folder / "train*.json", tokenizer="wordpiece", vocab_size=60
    ).resolve()
    assert made.tokenizer == "wordpiece"
    corpus = made.load()
    assert len(corpus.train) == 9 + 3
    assert corpus.tokenizer.tokenizer.tokens("zebra") == ["z", "##e", "##b", "##r", "##a"]
    assert corpus.fingerprint != config(folder).load().fingerprint


def test_made_up_answers_stand_in_their_passages_or_are_left_out():
    draw = random.Random(0)
    questions = [q for _ in range(50) for q in write_passage(draw, "p", 4, 0.3)]
    without = [q for q in questions if not q.answers]
    assert 0.2 < len(without) / len(questions) < 0.4
    for question in questions:
        for text, start in question.answers:
            assert question.context.startswith(text, start)
    assert {q.question.split()[0] for q in without} <= {q.question.split()[0] for q in questions}
    pytest.importorskip("tokenizers")
    made = MadeUpQuestions(num_train=8, num_held_out=3, vocab_size=300, max_length=96, stride=31)
    made = dataclasses.replace(made, max_question=16)
    corpus = made.load()
    assert corpus.tokenizer.unanswerable
    assert (len(corpus.validation), len(corpus.test)) == (9, 9)
    assert made.load().fingerprint == corpus.fingerprint
    for fields, option in (
        ({"num_train": 0}, "num-train"),
        ({"unanswerable": 1.0}, "unanswerable"),
    ):
        with pytest.raises(UserError, match=f"--data.{option} is"):
            dataclasses.replace(made, **fields).load()


def test_bad_questions_are_skipped_where_asked(folder, caplog):
    (folder / "train.json").write_text(json.dumps(squad(("x", [("c", 5)]), ("y", [("c", 4)]))))
    with pytest.raises(UserError, match=r"train.json, question x"):
        config(folder).load()
    corpus = config(folder, on_bad_row="skip").load()
    assert len(corpus.train) == 3
    assert "1 answer that is not in its context" in caplog.text


# ---- the real data -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real():
    if "JAXSEQ_DATA" not in os.environ:
        pytest.skip("JAXSEQ_DATA does not name the data directory")
    folder = Path(os.environ["JAXSEQ_DATA"])
    files = [folder / "qa" / f"squad11.{name}.json" for name in ("dev", "train", "train-slice")]
    return folder, [
        question
        for file in files
        for document in read_documents(file)
        for question in read_squad(document, BadRows())
    ]


def test_spans_of_all_real_questions_spell_their_answers(real):
    """Exactly, but where people marked half a token; by bytes, exactly everywhere."""
    folder, questions = real
    assert len(questions) == 957 + 3078 + 2442
    pieces = load_subwords(folder / "vocab" / "bert-base-uncased-vocab.txt")
    texts = list(dict.fromkeys(question.context for question in questions))
    by_bytes = train_subwords("byte-bpe", texts[:1], 260)
    for tokenizer, whole in ((pieces, False), (by_bytes, True)):
        offsets = {text: tokenizer.encode_with_offsets(text)[1] for text in texts}
        exact = total = 0
        for question in questions:
            places, text = offsets[question.context], question.context
            for answer in question.answers:
                span = token_span(places, answer)
                assert span is not None
                begin, end = places[span[0], 0], places[span[1], 1]
                stop = answer.start + len(answer.text)
                # No token too many or too few on either side.
                assert begin <= answer.start < places[span[0], 1]
                assert places[span[1], 0] < stop <= end
                exact += text[begin:end] == answer.text
                total += 1
        assert total == 16112
        assert exact == total if whole else exact > 0.997 * total


def test_windows_of_real_questions_hold_their_answers(real):
    folder, questions = real
    pieces = load_subwords(folder / "vocab" / "bert-base-uncased-vocab.txt")
    coder = QuestionCoder(pieces, max_length=128, max_question=32, stride=48)
    held = 0
    for question in questions[:957]:
        answer = first_answer(question)
        assert answer is not None
        windows = coder.windows(question.question, question.context, answer)
        spans = [w for w in windows if w["ends"]]
        held += bool(spans)
        for window in spans:
            begin, stop = window["begins"][window["starts"]], window["stops"][window["ends"]]
            assert answer.text in question.context[begin:stop]
            assert stop - begin < len(answer.text) + 12
        assert {int(w["begins"][w["types"] == 1].min()) for w in windows[:1]} == {0}
    assert held > 0.99 * 957
