"""Summarising from end to end: the experiment's offline default, small."""

from applications import train_offline

from jaxseq.data.code_points import text_of
from jaxseq.data.extracts import lead
from jaxseq.tasks.rouge import rouge
from jaxseq.training.run_directory import read_run

SMALL = (
    *("--num-steps", 120, "--data.num-train", 800, "--data.num-held-out", 48),
    *("--data.batch-size", 16, "--model.width", 64, "--model.num-heads", 2),
    *("--model.encoder-layers", 1, "--model.decoder-layers", 1, "--task.max-length", 16),
    *("--model.dropout", 0.1, "--optimizer.learning-rate", 4e-3, "--optimizer.warmup-steps", 20),
    *("--evaluate-every", 120, "--evaluation-batches", 1),
)


def test_learns_to_find_what_is_new_and_to_copy_its_name(tmp_path, capsys, monkeypatch):
    row, run_dir = train_offline("summarise.py", SMALL, tmp_path, capsys, monkeypatch)
    run = read_run(run_dir)
    held_out = run.experiment.data.load(run.tokenizer).validation.examples
    texts = [(text_of(x["text"]), text_of(x["references"][0])) for x in held_out]
    leads = [rouge(lead(text.split("\n"), 1), [summary])["rouge_1"] for text, summary in texts]
    assert row["rouge_1"] > sum(leads) / len(leads) + 0.3
    # The name is the first word of the summary, and in no vocabulary.
    (answer,) = run.predict([texts[0][0].replace("\n", " ")])
    name = texts[0][1].split()[0].lower()
    assert name not in run.tokenizer.vocabulary
    assert answer["summary"].split()[0] == name
