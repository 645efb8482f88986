"""Extractive question answering: the best span, its loss, scores over windows, answers to lines."""

import dataclasses
import json
import math
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_subwords import word_pieces

from jaxseq.data.ragged import Ragged, RaggedBatches
from jaxseq.data.squad import QuestionCoder, QuestionWindows, SquadData, first_answer
from jaxseq.data.squad_files import Answer, Question
from jaxseq.errors import UserError
from jaxseq.models.bert import BertConfig
from jaxseq.tasks.answer_spans import Spans, best_answer, best_span, context_tokens
from jaxseq.tasks.extractive_qa import THRESHOLDS, ExtractiveQA, read_question
from jaxseq.tasks.squad_metrics import best_scores

PIECES = word_pieces("who", "what", "?", *"abcdefgh", "red", "blue")
CODER = QuestionCoder(PIECES, max_length=12, max_question=3, stride=3)
TASK = ExtractiveQA(longest_answer=2)
UNUSED = SquadData(train=Path("a"), validation=Path("b"), tokenizer="unused")
MODEL = TASK.resolve(BertConfig(num_layers=1, width=16, num_heads=2, dropout=0.0), UNUSED, CODER)


def questions() -> list[Question]:
    """ "who?" asks for the letter behind red, "what?" for the two behind blue."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(48):
        letters = list(rng.choice(list("abcdefgh"), int(rng.integers(6, 10))))
        red, blue = sorted(rng.choice(len(letters) - 2, 2, replace=False))
        letters[red], letters[blue] = "red", "blue"
        word, length = ("who", 1) if i % 2 else ("what", 2)
        place = (red if i % 2 else blue) + 1
        text = " ".join(letters[place : place + length])
        start = len(" ".join(letters[:place])) + 1
        if "red" in text or "blue" in text:
            continue
        found.append(Question(f"q{i}", f"{word}?", " ".join(letters), (Answer(text, start),)))
    return found


QUESTIONS = questions()


def windows() -> list[dict[str, np.ndarray]]:
    return [
        {name: array for name, array in window.items() if name not in ("begins", "stops")}
        for question in QUESTIONS
        for window in CODER.windows(question.question, question.context, first_answer(question))
    ]


loss = jax.jit(TASK.loss, static_argnums=0)


@pytest.fixture(scope="module")
def params():
    fresh = nn.unbox(TASK.init(MODEL, jax.random.key(0)))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: x + 0.3 * jnp.asarray(rng.normal(size=x.shape), x.dtype), fresh)


@pytest.fixture(scope="module")
def batch():
    found = Ragged(windows(), "tokens", 8).batch(0, np.arange(6))
    return {name: jnp.asarray(array) for name, array in found.items()}


@pytest.mark.parametrize("longest", [1, 3, 9])
def test_the_best_span_is_that_of_enumeration(longest):
    rng = np.random.default_rng(longest)
    start, end = rng.normal(size=(2, 20, 7)).astype(np.float32)
    context = rng.random((20, 7)) < 0.7
    context[0] = False
    found = best_span(jnp.asarray(start), jnp.asarray(end), jnp.asarray(context), longest)
    for row in range(20):
        scores = {
            (i, j): start[row, i] + end[row, j]
            for i in range(7)
            for j in range(i, min(i + longest, 7))
            if context[row, i] and context[row, j]
        }
        assert found.none_scores[row] == start[row, 0] + end[row, 0]
        if not scores:
            assert found.scores[row] == -math.inf
            continue
        best = max(scores, key=scores.__getitem__)
        assert (found.starts[row], found.ends[row]) == best
        assert found.scores[row] == scores[best]


def test_an_answer_is_of_the_context_alone():
    """Neither the question nor the last [SEP] nor padding."""
    types = jnp.asarray([[0, 0, 2, 1, 1, 0], [0, 0, 1, 2, 1, 1], [0] * 6], jnp.int32)
    found = context_tokens({"types": types, "lengths": jnp.asarray([5, 6, 0])})
    expected = [[0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 1, 0], [0] * 6]
    np.testing.assert_array_equal(found, np.array(expected, bool))


def test_the_loss_is_that_of_both_ends_over_the_tokens_of_the_window(params, batch):
    inside = np.arange(12)[None] < batch["lengths"][:, None]
    apply = jax.jit(MODEL.build("spans").apply)
    logits = apply(
        {"params": params},
        batch["tokens"],
        types=batch["types"],
        segments=jnp.asarray(inside, jnp.int32),
    )
    expected = 0.0
    for logit, target in zip(map(np.asarray, logits), ("starts", "ends"), strict=True):
        for row in range(6):
            valid = logit[row][: batch["lengths"][row]].astype(np.float64)
            expected -= valid[batch[target][row]] - np.log(np.exp(valid).sum())
    found, weight = loss(MODEL, params, batch)
    assert weight == 6  # of eight rows two are filler
    assert float(found) == pytest.approx(expected / 2, rel=1e-5)


def test_padding_changes_nothing(params, batch):
    junk = {name: np.array(array) for name, array in batch.items()}
    padding = np.arange(12)[None] >= junk["lengths"][:, None]
    assert padding[:6].any()
    junk["tokens"][padding] = 99_999
    junk["types"][padding] = 5
    junk["starts"][6:] = -3
    junk = jax.tree.map(jnp.asarray, junk)
    gradient = jax.jit(jax.grad(lambda params, batch: TASK.loss(MODEL, params, batch)[0]))
    assert loss(MODEL, params, junk) == loss(MODEL, params, batch)
    one, other = gradient(params, junk), gradient(params, batch)
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(one))


@pytest.fixture(scope="module")
def trained():
    """A model that answers the questions that it was trained on."""
    batches = RaggedBatches(Ragged(windows(), "tokens", 32), seed=0)
    params = nn.unbox(TASK.init(MODEL, jax.random.key(0)))
    optimizer = optax.adam(5e-3)

    @jax.jit
    def step(params, state, batch):
        def mean(params):
            total, weight = TASK.loss(MODEL, params, batch)
            return total / weight

        value, gradients = jax.value_and_grad(mean)(params)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state, value

    state = optimizer.init(params)
    for k in range(400):
        params, state, value = step(params, state, jax.tree.map(jnp.asarray, batches[k]))
    assert float(value) < 0.2
    return params


def evaluate(params, coder, some):
    """The contributions of all questions, and their sums."""
    evaluator = TASK.evaluator(MODEL, coder)
    rows = []
    for batch in QuestionWindows(coder, some, 16).batches(range(len(some))):
        rows.append(evaluator(params, jax.tree.map(jnp.asarray, batch)))
        assert {len(array) for array in rows[-1].values()} == {16}
    found = {name: np.concatenate([part[name] for part in rows]) for name in rows[0]}
    return found, {name: float(array.sum()) for name, array in found.items() if array.ndim == 1}


def test_questions_are_scored_once_over_all_their_windows(trained):
    rows, totals = evaluate(trained, CODER, QUESTIONS)
    count = len(QUESTIONS)
    assert totals["questions"] == count
    assert totals["windows"] == len(windows()) > count
    found = TASK.metrics(totals)
    assert found["questions"] == count
    assert found["exact_match"] > 0.9
    assert found["f1"] >= found["exact_match"]
    assert found["loss"] < 0.3
    assert not any(array[rows["questions"] == 0].any() for array in rows.values())
    # The questions are what predict answers, scored one by one.
    lines = [f"{question.question}\t{question.context}" for question in QUESTIONS]
    answers = list(TASK.predict(MODEL, trained, CODER, lines))
    right = sum(a["answer"] == q.answers[0].text for a, q in zip(answers, QUESTIONS, strict=True))
    assert right == totals["exact_match"]


def test_references_count_by_the_best_of_them(trained):
    question = QUESTIONS[1]
    wrong = question._replace(answers=(Answer("red", question.context.index("red")),))
    both = question._replace(answers=(*wrong.answers, *question.answers))
    rows, _ = evaluate(trained, CODER, [question, wrong, both])
    assert sorted(rows["exact_match"][:3]) == [0, 1, 1]


def test_lines_are_answered_in_order_with_places_in_the_context(trained):
    question = QUESTIONS[0]
    lines = [
        json.dumps({"question": question.question, "context": question.context}),
        f"{question.question}\t{question.context}",
        "who?\t" + " ".join("abcdefgh" * 4),  # more windows than others
        *(f"{q.question}\t{q.context}" for q in QUESTIONS),
    ]
    answers = list(TASK.predict(MODEL, trained, CODER, lines))
    assert len(answers) == len(lines)
    assert answers[0] == answers[1] == answers[3]
    for line, answer in zip(lines[3:], answers[3:], strict=True):
        context = line.split("\t")[1]
        assert context[answer["start"] : answer["end"]] == answer["answer"]
    assert answers[0]["answer"] == question.answers[0].text
    assert answers[0]["start"] == question.answers[0].start
    assert json.loads(json.dumps(answers[0])) == answers[0]


@pytest.mark.parametrize(
    ("scores", "nones", "always", "perhaps", "rarely"),
    [
        ([1.0, 3.0], [2.0, 5.0], "c", "c", "c"),  # one window's [CLS] is worse than the best span
        ([1.0, 3.0], [4.0, 5.0], "c", "", "c"),
        ([1.0, 3.0], [6.0, 5.0], "c", "", ""),
        ([3.0, 1.0], [3.0, 9.0], "a b", "a b", "a b"),  # a tie
        ([-math.inf, -math.inf], [0.0, 0.0], "", "", ""),  # no token of a context
    ],
)
def test_no_answer_is_given_where_it_is_better_by_more_than_the_threshold(
    scores, nones, always, perhaps, rarely
):
    """Windows of "a b" and of "c", in which the spans are the whole."""
    spans = np.array([2, 1]), np.array([3, 1]), np.array(scores), np.array(nones)
    begins = np.array([[0, 0, 0, 2], [0, 4, 0, 0]])
    stops = np.array([[0, 0, 1, 3], [0, 5, 0, 0]])
    for threshold, expected in ((math.inf, always), (0.0, perhaps), (1.5, rarely)):
        found = best_answer(Spans(*spans), begins, stops, "a b c", threshold)
        assert found.text == expected
        assert found.score == (max(scores) if expected else min(nones))
        assert (found.start is None) == (found.end is None) == (not expected)
        if found.start is not None:
            assert "a b c"[found.start : found.end] == expected


def test_the_best_threshold_is_that_of_trying_all(trained):
    """Every third question loses its answer; the model has never seen one without."""
    some = [
        question._replace(answers=()) if number % 3 == 0 else question
        for number, question in enumerate(QUESTIONS)
    ]
    coder = dataclasses.replace(CODER, unanswerable=True)
    rows, _ = evaluate(trained, coder, some)
    assert rows["f1_at"].shape == (len(rows["f1"]), len(THRESHOLDS))
    found = TASK.metrics({name: array.sum(axis=0) for name, array in rows.items()})
    lines = [f"{question.question}\t{question.context}" for question in some]

    def f1(threshold: float) -> float:
        task = ExtractiveQA(longest_answer=2, no_answer_threshold=threshold)
        answers = task.predict(MODEL, trained, coder, lines)
        scores = [
            best_scores(answer["answer"], [reference.text for reference in question.answers])[1]
            for answer, question in zip(answers, some, strict=True)
        ]
        return sum(scores) / len(scores)

    assert found["f1"] == pytest.approx(f1(0.0))
    assert found["best_f1"] == pytest.approx(f1(found["best_f1_threshold"]))
    assert found["best_f1"] >= max(f1(-16.0), f1(16.0), found["f1"])
    assert found["best_exact_match"] >= found["exact_match"]
    plain, _ = evaluate(trained, CODER, some)
    assert "f1_at" not in plain


def test_examples_are_whole_questions_with_all_references(trained, tmp_path):
    question = QUESTIONS[1]
    other = Answer("red", question.context.index("red"))
    some = [question._replace(answers=(*question.answers, other)), *QUESTIONS[2:8]]
    split = QuestionWindows(CODER, some, 16)
    (batch, *_) = split.batches(range(len(some)))
    rows = TASK.examples(MODEL, trained, CODER, batch, tmp_path)
    asked = {f"{q.question}\n{q.context}": [a.text for a in q.answers] for q in some}
    assert len(rows) == batch["question"].max() + 1
    for row in rows:
        assert row["reference"] == asked[row["input"]]
        assert row["f1"] == best_scores(row["output"], row["reference"])[1]
    # What `jaxseq evaluate` gives: the first rows, zeros behind them.
    first = {name: np.where(np.arange(16).reshape(-1, *[1] * (x.ndim - 1)) < 4, x, 0)
             for name, x in batch.items()}  # fmt: skip
    kept = TASK.examples(MODEL, trained, CODER, first, tmp_path)
    whole = int(np.sum(np.cumsum(batch["num_windows"][: len(rows)]) <= 4))
    assert kept == rows[:whole]
    assert 0 < whole < len(rows)


def test_show_prints_questions_with_answers(trained, capsys, tmp_path):
    question = QUESTIONS[0]
    TASK.show(MODEL, trained, CODER, (f"{question.question}\t{question.context}",), tmp_path)
    expected = f"{question.question}  ->  {question.answers[0].text}\n"
    assert capsys.readouterr().out == expected
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "line", ["", "who?", "who?\t ", '{"question": "who?"}', '{"question', "{}"]
)
def test_a_line_of_another_form_is_named(line):
    with pytest.raises(UserError, match=r"line 3 is neither"):
        read_question(line, 3)
    assert read_question("who?\ta\tb", 1) == ("who?", "a\tb")


def test_options_out_of_range_are_named():
    with pytest.raises(UserError, match=r"--task.longest-answer is 0"):
        ExtractiveQA(0).resolve(BertConfig(), UNUSED, CODER)
    with pytest.raises(UserError, match=r"up to 12 tokens.*say --data.max-length 8"):
        TASK.resolve(BertConfig(context=8), UNUSED, CODER)
    with pytest.raises(UserError, match=r"--model.num-types is 2, and --data.matches"):
        TASK.resolve(BertConfig(), UNUSED, dataclasses.replace(CODER, matches=True))
    assert (MODEL.context, MODEL.vocab_size) == (12, PIECES.vocab_size)
