"""What can be read of a run directory is read, and what cannot is said."""

import json

import pytest
from made_runs import write_evaluation, write_examples, write_run

from jaxseq.errors import UserError
from jaxseq.reporting.figures import better, command, figure, moment, seconds
from jaxseq.reporting.options import ABSENT, compare, options
from jaxseq.reporting.runs import read_runs


def test_a_whole_run(tmp_path):
    write_evaluation(write_run(tmp_path / "run"), {"loss": 1.0})
    write_examples(tmp_path / "run", [{"output": "a"}])
    (run,) = read_runs([tmp_path / "run"])
    assert (run.name, run.step, run.num_steps, run.notes) == ("run", 200, 200, ())
    assert len(run.rows) == 104
    assert run.evaluations["test"]["metrics"] == {"loss": 1.0}
    assert run.examples == {"test": ({"output": "a"},)}


def test_a_run_that_was_killed_as_it_wrote(tmp_path):
    folder = write_run(tmp_path / "run", steps=20)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 22, "split": "train", "lo')
    (run,) = read_runs([folder])
    assert run.step == 20
    assert "metrics.jsonl: the last line is cut short" in run.notes[0]


def test_damage_is_said_and_the_rest_is_read(tmp_path):
    folder = write_run(tmp_path / "run", steps=20)
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    lines[1], lines[3] = "\x00\x00\n", '{"step": "two"}\n'
    (folder / "metrics.jsonl").write_text("".join(lines))
    (folder / "config.json").write_text("{")
    (folder / "run.json").unlink()
    (folder / "evaluation-test.json").write_text("[]")
    (folder / "evaluation-validation.json").write_text('{"metrics": 3}')
    (folder / "examples-test.jsonl").write_bytes(b"\xff\xfe\n" + b'{"output": "a"}\n')
    (run,) = read_runs([folder])
    said = "\n".join(run.notes)
    for part in (
        "config.json is damaged",
        "run.json cannot be read: No such file",
        "metrics.jsonl: damaged lines are left out: 2, 4",
        "evaluation-test.json is damaged",
        "evaluation-validation.json is damaged: it has no metrics",
        "examples-test.jsonl: damaged lines are left out: 1",
    ):
        assert part in said
    assert (len(run.rows), run.config, run.starts) == (8, None, ())
    assert run.examples["test"] == ({"output": "a"},)


def test_of_a_step_written_twice_the_later_row_counts(tmp_path):
    folder = write_run(tmp_path / "run", steps=4)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 2, "split": "train", "loss": 9.0}) + "\n")
    (run,) = read_runs([folder])
    assert [row["step"] for row in run.rows] == [2, 4]
    assert run.rows[0]["loss"] == 9.0


def test_names_tell_runs_apart(tmp_path):
    folders = [write_run(tmp_path / part / "run", steps=2) for part in ("a", "b")]
    assert [run.name for run in read_runs(folders)] == ["a/run", "b/run"]
    with pytest.raises(UserError, match="named twice"):
        read_runs([folders[0], folders[0] / ".." / "run"])


def test_what_is_no_run(tmp_path):
    with pytest.raises(UserError, match="there is no run directory"):
        read_runs([tmp_path / "nothing"])
    with pytest.raises(UserError, match=r"no run directory: it has no config\.json"):
        read_runs([tmp_path])
    with pytest.raises(UserError, match="name a run directory"):
        read_runs([])


def test_differences_come_by_option(tmp_path):
    folders = [write_run(tmp_path / str(seed), seed=seed, steps=2) for seed in (0, 1)]
    tree = json.loads((folders[1] / "config.json").read_text())
    tree["model"] = {"type": "models.Other", "width": 8, "depth": 3}
    (folders[1] / "config.json").write_text(json.dumps(tree))
    differing, shared = map(dict, compare(read_runs(folders)))
    assert differing["seed"] == ["0", "1"]
    assert differing["model"] == ["GPTConfig", "Other"]
    assert differing["model.depth"] == [ABSENT, "3"]
    assert "model.width" not in differing
    assert shared["model.width"] == ["8", "8"]
    assert shared["data.path"] == ["/somewhere/text.txt"] * 2
    (folders[1] / "config.json").unlink()
    differing, shared = map(dict, compare(read_runs(folders)))
    assert differing == {}
    assert shared["seed"] == ["0", "?"]


def test_options_are_named_as_they_are_typed():
    tree = {"type": "x.E", "num_steps": 3, "task": {"type": "x.Tag", "beam_size": [1, 2]}}
    assert options(tree) == {"task": "Tag", "task.beam-size": "1 2", "num-steps": "3"}


def test_which_way_a_metric_is_better():
    lower = ("loss", "word_error_rate", "perplexity", "bits_per_byte", "mel_cepstral_distortion")
    higher = ("accuracy", "f1_macro", "bleu", "chrf", "rouge1", "exact", "recall[0]", "token_f1")
    assert {better(name) for name in lower} == {-1}
    assert {better(name) for name in higher} == {1}
    assert {better(name) for name in ("tokens", "pairs", "words", "step")} == {0}


def test_figures():
    values = [0.23087, -0.0, 25147.0, 300, 95.076, 12.3456, 0.000123, float("nan")]
    said = ["0.2309", "0.0000", "25,147", "300", "95.076", "12.346", "0.000123", "not a number"]
    assert list(map(figure, values)) == said
    assert [seconds(t) for t in (0.5, 59.0, 61.0, 7261.0)] == [
        "0.5 s",
        "59 s",
        "1 min 1 s",
        "2 h 1 min",
    ]
    assert moment("2026-11-22T02:38:07+00:00") == "2026-11-22 02:38 UTC"
    assert moment("yesterday") == "yesterday"
    assert command(["/x/cli.py", "train", "a b"]) == "jaxseq train 'a b'"
