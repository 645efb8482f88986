"""Answering from end to end: the experiment's offline default, small; and the baseline's scores."""

import json
import sys

import pytest
from applications import train_offline
from tiny import REPOSITORY, call

from jaxseq.training.run_directory import read_run

SMALL = (
    *("--num-steps", 150, "--evaluate-every", 150, "--evaluation-batches", 1),
    *("--model.width", 64, "--model.embedding-width", 32, "--model.dropout", 0.0),
    *("--data.vocab-size", 600, "--data.num-train", 600, "--data.num-held-out", 30),
    *("--optimizer.learning-rate", 1e-2, "--optimizer.warmup-steps", 20),
)


def test_questions_about_unknown_towns_are_answered(tmp_path, capsys, monkeypatch):
    _, run_dir = train_offline("qa.py:recurrent", SMALL, tmp_path, capsys, monkeypatch)
    status, out, err = call(capsys, "evaluate", run_dir, "--split", "test", "--json")
    assert status == 0, err
    found = json.loads(out)
    assert found["questions"] == 90
    assert found["best_f1"] >= found["f1"] > 0.8  # no answer to any is right for a fifth
    context = "In 1650 a fire burnt down its mill. Tofum was founded by Bal Kirus in 1201."
    when, other = read_run(run_dir).predict(
        [f"When was the fire in Tofum?\t{context}", f"When was Tofum founded?\t{context}"]
    )
    assert (when["answer"], other["answer"]) == ("1650", "1201")
    rows = (run_dir / "examples-test.jsonl").read_text().splitlines()
    assert all(json.loads(row)["reference"] for row in rows)
    assert rows


@pytest.fixture(scope="module")
def window():
    """The module of the baseline."""
    sys.path.insert(0, str(REPOSITORY / "scripts"))
    import sliding_window

    sys.path.pop(0)
    return sliding_window


def test_the_sliding_window_scores_by_hand(window):
    """Counts: a 2, b 1, c 1, d 1; two words of {a, d} in a row weigh log 1.5 + log 2 at the end."""
    from math import log

    passage = ["a", "b", "c", "d", "a"]
    assert window.window_score(passage, {"a", "d"}) == pytest.approx(log(2) + log(1.5))
    assert window.window_score(passage, {"b", "d", "x"}) == pytest.approx(2 * log(2))
    assert window.distance_score(passage, {"b"}, ["d", "a"]) == 1 / 4
    assert window.distance_score(passage, {"x"}, ["d"]) == 1.0


def test_the_sliding_window_answers_from_the_sentence_that_is_asked_for(window):
    context = "Rome is on the Tiber. Paris is on the Seine, and Lyon on the Rhone."
    assert window.sliding_window("Which river is Rome on?", context) == "Tiber"
    assert window.sliding_window("Which river is Paris on?", context) == "Seine"
    # As far as the window can tell these are equal: the nearer one it is.
    assert window.sliding_window("Which is by Lyon?", "Rhone or the Seine by Lyon.") == "Seine"
    assert window.sliding_window("who?", "is it") == ""
