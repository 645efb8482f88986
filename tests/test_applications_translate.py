"""Translating from end to end: the experiment's offline default, small."""

from applications import train_offline

from jaxseq.training.run_directory import read_run

SMALL = (
    *("--num-steps", 300, "--data.num-train", 4000, "--data.num-held-out", 40),
    *("--data.batch-size", 32, "--model.width", 64, "--model.dropout", 0.0),
    *("--model.embedding-width", 32, "--optimizer.learning-rate", 1e-2),
    *("--optimizer.warmup-steps", 20, "--task.label-smoothing", 0.0, "--task.beam-size", 1),
)


def test_learns_numbers_in_french(tmp_path, capsys, monkeypatch):
    row, run_dir = train_offline("translate.py:attention", SMALL, tmp_path, capsys, monkeypatch)
    # An output that says the commonest words whatever the number has less than 5.
    assert row["bleu"] > 20
    run = read_run(run_dir)
    answers = run.predict(run.inputs)
    assert [answer["input"] for answer in answers] == list(run.inputs)
    assert any("mille" in answer["output"] for answer in answers)
