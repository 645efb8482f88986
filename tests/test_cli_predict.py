"""Taggers and sequence-to-sequence models from the command line: train, evaluate, predict."""

import io
import json
import re

import pytest
from tiny import call, rows, write_experiment

from jaxseq.cli import main

TAGGER = '''"""A tiny tagger for tests."""

from pathlib import Path

from jaxseq.data.tagged import TaggedData
from jaxseq.models.tagger import TaggerConfig
from jaxseq.tasks.tag import Tag
from jaxseq.training.experiment import Experiment
from jaxseq.training.optimizers import Optimizer

here = Path(__file__).parent
experiment = Experiment(
    task=Tag(),
    model=TaggerConfig(encoder="features"),
    data=TaggedData(train=here / "t.tsv", validation=here / "t.tsv", batch_size=2, min_count=1),
    optimizer=Optimizer(learning_rate=1.0, warmup_steps=1),
    num_steps=6,
    checkpoint_every=3,
)
'''

DATES = '''"""A tiny sequence-to-sequence model for tests."""

from jaxseq.data.dates import DatesData
from jaxseq.models.rnn_seq2seq import RNNSeq2SeqConfig
from jaxseq.tasks.transduce import Transduce
from jaxseq.training.experiment import Experiment

experiment = Experiment(
    task=Transduce(beam_size=1),
    model=RNNSeq2SeqConfig(cell="gru", width=8, attention="dot", input_feeding=False),
    data=DatesData(num_train=40, num_held_out=9, batch_size=40),
    num_steps=2,
)
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Finished runs of a tagger in `tagger`, of dates in `dates`."""
    folder = tmp_path_factory.mktemp("predict")
    (folder / "t.tsv").write_text("the\tD\ncat\tN\nsat\tV\n\na\tD\ndog\tN\n\nsat\tV\n")
    for name, text in (("tagger", TAGGER), ("dates", DATES)):
        (folder / f"{name}.py").write_text(text)
        assert main(["train", str(folder / f"{name}.py"), "--run-dir", str(folder / name)]) == 0
    return folder


def test_a_tagger_learns_its_sentences_and_answers_a_file(folder, capsys):
    inputs = folder / "inputs.txt"
    inputs.write_text("the dog sat\n\n a  cat \r\nunseen\n", encoding="utf-8")
    status, out, _ = call(capsys, "predict", folder / "tagger", "--input", inputs)
    assert status == 0
    answers = [json.loads(line) for line in out.splitlines()]
    assert answers[:3] == [
        {"words": ["the", "dog", "sat"], "tags": ["D", "N", "V"]},
        {"words": [], "tags": []},
        {"words": ["a", "cat"], "tags": ["D", "N"]},
    ]
    assert answers[3]["words"] == ["unseen"]
    assert len(answers) == 4


def test_standard_input_is_answered_too(folder, capsys, monkeypatch):
    pipe = io.TextIOWrapper(io.BytesIO(b"the cat\nsat"))
    monkeypatch.setattr("sys.stdin", pipe)
    status, out, _ = call(capsys, "predict", folder / "tagger")
    assert status == 0
    assert [json.loads(line)["tags"] for line in out.splitlines()] == [["D", "N"], ["V"]]


@pytest.mark.parametrize(
    ("run", "line", "pattern"), [("tagger", "the cat", "D N"), ("dates", "May 3, 1979", ".*")]
)
def test_text_is_the_main_part_of_an_answer(folder, capsys, run, line, pattern):
    inputs = folder / "line.txt"
    inputs.write_text(f"{line}\n", encoding="utf-8")
    words = ["predict", folder / run, "--input", inputs, "--format", "text"]
    status, out, _ = call(capsys, *words)
    assert status == 0
    assert re.fullmatch(f"{pattern}\n", out)


def test_an_evaluation_is_kept_with_examples(folder, capsys):
    status, out, _ = call(capsys, "evaluate", folder / "dates", "--split", "test", "--json")
    assert status == 0
    kept = json.loads((folder / "dates" / "evaluation-test.json").read_text())
    printed = json.loads(out)
    assert kept["intervals"] == printed.pop("intervals")
    assert {"step": kept["step"]} | kept["metrics"] == printed
    assert kept["command"][0] == "jaxseq"
    lines = (folder / "dates" / "examples-test.jsonl").read_text(encoding="utf-8").splitlines()
    assert lines
    for row in map(json.loads, lines):
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", row["reference"])
        assert row["input"]
        picture = folder / "dates" / "examples-test" / row["files"]["attention"]
        assert picture.read_bytes()[:4] == b"\x89PNG"


def test_a_tagger_is_evaluated_on_its_validation_split(folder, capsys):
    status, out, _ = call(capsys, "evaluate", folder / "tagger", "--json")
    assert status == 0
    found = json.loads(out)
    assert found["accuracy"] == 1.0
    assert found["words"] == 6
    assert found["loss"] == pytest.approx(rows(folder / "tagger")[-1]["loss"], rel=1e-5)


def test_a_split_that_is_not_there_is_named(folder, capsys):
    status, out, err = call(capsys, "evaluate", folder / "tagger", "--split", "test")
    assert (status, out) == (2, "")
    assert "has no test split" in err


def test_dates_are_evaluated_on_their_test_split(folder, capsys):
    status, out, _ = call(capsys, "evaluate", folder / "dates", "--split", "test", "--json")
    assert status == 0
    assert json.loads(out)["pairs"] == 9
    assert (folder / "dates" / "attention.png").exists()


def test_dates_are_answered_in_order(folder, capsys):
    inputs = folder / "dates.txt"
    lines = ["May 3, 1979", "", "3.4.1980", "\u2603"]
    inputs.write_text("\n".join(lines), encoding="utf-8")
    status, out, _ = call(capsys, "predict", folder / "dates", "--input", inputs)
    assert status == 0
    answers = [json.loads(line) for line in out.splitlines()]
    assert [answer["input"] for answer in answers] == lines
    assert all(isinstance(answer["output"], str) for answer in answers)
    assert all(answer["score"] <= 0 for answer in answers)


def test_verbs_for_other_models_say_which_one_fits(folder, capsys):
    status, _, err = call(capsys, "sample", folder / "tagger")
    assert (status, "jaxseq predict" in err) == (2, True)
    write_experiment(folder)
    language_model = folder / "lm"
    words = ["train", folder / "tiny.py", "--run-dir", language_model, "--num-steps", "1"]
    assert call(capsys, *words, "--no-show")[0] == 0
    status, _, err = call(capsys, "predict", language_model)
    assert (status, "jaxseq sample" in err) == (2, True)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot read"), (b"ok\n\xff\n", "line 2"), ("directory", "is a directory")],
)
def test_inputs_that_cannot_be_read_are_named(folder, capsys, tmp_path, content, message):
    path = tmp_path / "inputs.txt"
    if content == "directory":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    status, out, err = call(capsys, "predict", folder / "tagger", "--input", path)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
