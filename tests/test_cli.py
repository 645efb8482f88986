"""The command line from end to end, and every mistake as one line and exit status 2."""

import gzip
import json

import pytest
from tiny import call, rows, write_experiment

from jaxseq.cli import main
from jaxseq.config import read_json


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the tiny experiment, and a finished run of it in `run`."""
    folder = tmp_path_factory.mktemp("cli")
    file = write_experiment(folder)
    assert main(["train", str(file), "--run-dir", str(folder / "run")]) == 0
    return folder


def mistake(capsys, *words) -> str:
    """The one line that a mistake gets."""
    status, out, err = call(capsys, *words)
    assert status == 2
    assert out == ""
    assert err.startswith("jaxseq: ")
    assert err.count("\n") == 1
    return err


def test_a_run_directory_is_self_contained(folder):
    run_dir = folder / "run"
    names = {path.name for path in run_dir.iterdir()}
    assert names == {
        "config.json", "tokenizer.json", "run.json", "checkpoints", "metrics.jsonl", "tensorboard"
    }  # fmt: skip
    config = read_json(run_dir / "config.json")
    assert config["model"]["vocab_size"] > 0
    assert config["data"]["path"] == {"type": "path", "path": str(folder / "text.txt")}
    written = rows(run_dir)
    assert [row["step"] for row in written if row["split"] == "train"] == list(range(1, 13))
    assert [row["step"] for row in written if row["split"] == "validation"] == [5, 10, 12]
    assert written[-2]["loss"] < written[0]["loss"]
    assert any((run_dir / "tensorboard").iterdir())
    (start,) = read_json(run_dir / "run.json")["starts"]
    assert start["versions"]["jax"]


def test_evaluate_repeats_what_training_found(folder, capsys):
    status, out, _ = call(capsys, "evaluate", folder / "run", "--json")
    assert status == 0
    found, final = json.loads(out), rows(folder / "run")[-1]
    assert found["step"] == final["step"] == 12
    for name in ("loss", "perplexity", "bits_per_byte"):
        assert found[name] == pytest.approx(final[name], rel=1e-6)
    # The text has a two-byte character, so that bytes and characters differ.
    assert found["bits_per_byte"] < found["loss"] / 0.6931


def test_evaluate_prints_a_table(folder, capsys):
    status, out, _ = call(capsys, "evaluate", folder / "run", "--checkpoint", "best")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == [
        "step", "loss", "perplexity", "bits_per_byte", "tokens"
    ]  # fmt: skip


def test_sample_follows_the_prompt_and_the_seed(folder, capsys):
    words = ("sample", folder / "run", "--prompt", "the cat", "--max-new-tokens", "20")
    status, first, _ = call(capsys, *words, "--seed", "1")
    assert status == 0
    assert first.startswith("the cat")
    assert len(first) == len("the cat") + 20 + 1
    assert call(capsys, *words, "--seed", "1")[1] == first
    assert call(capsys, *words, "--seed", "2")[1] != first
    greedy = call(capsys, *words, "--temperature", "0")[1]
    assert call(capsys, *words, "--temperature", "0", "--seed", "5")[1] == greedy
    assert call(capsys, *words, "--top-k", "1")[1] == greedy


def test_every_line_of_a_file_is_gone_on_from(folder, capsys):
    (folder / "prompts.txt").write_text("the cat\na mat\n")
    words = ("sample", folder / "run", "--max-new-tokens", "20", "--seed", "1")
    both = call(capsys, *words, "--input", folder / "prompts.txt")[1]
    alone = [
        call(capsys, *words[:-1], str(seed), "--prompt", prompt)[1]
        for seed, prompt in ((1, "the cat"), (2, "a mat"))
    ]
    assert both == "".join(alone)


def test_a_finished_run_says_so_and_stays_as_it_is(folder, capsys):
    before = rows(folder / "run")
    words = ("train", folder / "tiny.py", "--run-dir", folder / "run", "--no-show")
    status, out, err = call(capsys, *words)
    assert status == 0
    assert "is already at step 12 of 12, nothing to train" in err
    assert "validation: loss" in out
    assert rows(folder / "run") == before


def test_a_run_can_be_made_longer(folder, capsys):
    words = ("train", folder / "tiny.py", "--run-dir", folder / "longer", "--no-show")
    assert call(capsys, *words, "--num-steps", "3")[0] == 0
    status, _, err = call(capsys, *words, "--num-steps", "6")
    assert status == 0
    assert "at step 3" in err
    assert rows(folder / "longer")[-1]["step"] == 6


def test_options_reach_the_model(folder, capsys):
    words = ("train", folder / "tiny.py", "--run-dir", folder / "options", "--no-show")
    status, _, _ = call(
        capsys, *words, "--num-steps", "1", "--model.num-layers", "2",
        "--model.positions", "rotary", "--data.tokenizer", "byte", "--optimizer.name", "sgd",
        "--data.separate-documents",
    )  # fmt: skip
    assert status == 0
    config = read_json(folder / "options" / "config.json")
    assert config["model"]["num_layers"] == 2
    assert config["model"]["positions"] == "rotary"
    assert config["model"]["vocab_size"] == 256


def test_help_is_made_from_the_types(folder, capsys):
    for words in (["train", str(folder / "tiny.py"), "--help"], ["sample", "--help"]):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code in (0, None)
    out = capsys.readouterr().out
    assert "A tiny experiment for tests." in out
    assert "--model.num-layers INT" in out
    assert "--top-p FLOAT" in out
    for words in ([], ["--help"], ["train"]):
        assert call(capsys, *words)[0] == 0


# ---- mistakes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.num-layer", "2"], "did you mean --model.num-layers?"),
        (["--model.num-layers", "two"], "--model.num-layers"),
        (["--optimizer.name", "adam"], "'adamw'"),
        (["--num-steps"], "--num-steps"),
        (["--model.num-heads", "3"], "--model.num-heads 3 does not divide --model.width 16"),
        (["--model.context", "4"], "--model.context 4 is shorter than --data.context 8"),
        (["--model.vocab-size", "3"], "--model.vocab-size 3 is smaller"),
        (["--num-steps", "0"], "--num-steps is 0"),
        (["--seed", "-1"], "--seed is -1"),
        (["--data.context", "100000"], "shorter --data.context or more text"),
        (["--data.batch-size", "0"], "--data.batch-size is 0"),
        (["--mesh.data", "3"], "3 places for 8 devices"),
        (["--optimizer.learning-rate", "-1"], "--optimizer.learning-rate is -1.0"),
        (["--model.width", "6", "--model.num-heads", "2", "--model.positions", "rotary"], "even"),
    ],
)
def test_options_that_cannot_work(folder, capsys, options, message):
    run_dir = folder / "never"
    words = ["train", folder / "tiny.py", "--run-dir", run_dir, *options]
    assert message in mistake(capsys, *words)
    assert not run_dir.exists()


def texts(folder):
    (folder / "empty.txt").write_bytes(b"")
    (folder / "latin.txt").write_bytes(b"fine\n" * 50 + b"caf\xe9\n")
    (folder / "short.txt").write_text("abc")
    (folder / "cut.txt.gz").write_bytes(gzip.compress(b"text " * 100)[:-10])
    (folder / "bare").mkdir(exist_ok=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.txt", "cannot read"),
        ("empty.txt", "is empty"),
        ("latin.txt", "line 51"),
        ("short.txt", "fewer than the 9"),
        ("cut.txt.gz", "not a whole gzip"),
        ("bare", "no text in the directory"),
    ],
)
def test_text_that_cannot_work(folder, capsys, name, message):
    texts(folder)
    run_dir = folder / "never"
    words = ["train", folder / "tiny.py", "--run-dir", run_dir, "--data.path", folder / name]
    line = mistake(capsys, *words)
    assert message in line
    assert name in line or name == "short.txt"
    assert not run_dir.exists()


def test_a_run_directory_of_another_experiment(folder, capsys):
    words = ["train", folder / "tiny.py", "--run-dir", folder / "run", "--model.num-layers", "2"]
    line = mistake(capsys, *words)
    assert "holds another experiment: model.num_layers is 1 there and 2 here" in line


def test_a_text_that_changed_since(folder, capsys, tmp_path):
    file = write_experiment(tmp_path)
    words = ["train", file, "--run-dir", tmp_path / "run", "--no-show"]
    assert call(capsys, *words, "--num-steps", "2")[0] == 0
    with (tmp_path / "text.txt").open("a") as text:
        text.write(" the")
    assert "the text has changed" in mistake(capsys, *words, "--num-steps", "4")
    assert "the text has changed" in mistake(capsys, "evaluate", tmp_path / "run")


@pytest.mark.parametrize("verb", ["evaluate", "sample"])
def test_a_directory_that_is_no_run(folder, capsys, tmp_path, verb):
    assert "there is no run directory" in mistake(capsys, verb, tmp_path / "nowhere")
    assert "is this a run directory?" in mistake(capsys, verb, tmp_path)
    assert "no checkpoint 'first'" in mistake(capsys, verb, folder / "run", "--checkpoint", "first")


def test_training_does_not_spread_over_a_directory_with_other_files(folder, capsys, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    line = mistake(capsys, "train", folder / "tiny.py", "--run-dir", tmp_path)
    assert "holds files but no run" in line
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("place", ["/proc/jaxseq/run", "text.txt/run"])
def test_a_run_directory_that_cannot_be_written(folder, capsys, place):
    line = mistake(capsys, "train", folder / "tiny.py", "--run-dir", folder / place)
    assert "cannot write the run directory" in line
    assert "--run-dir" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", "the cat sat on"], "14 tokens long and the model's context 8"),
        (["--prompt", ""], "the prompt is empty"),
        (["--prompt", "the ☃"], "never saw: '☃'"),
        (["--max-new-tokens", "0"], "--max-new-tokens is 0"),
        (["--temperature", "-1"], "--temperature is -1.0"),
        (["--top-p", "0"], "--top-p is 0.0"),
        (["--topk", "1"], "--top-k"),
    ],
)
def test_samples_that_cannot_be(folder, capsys, options, message):
    assert message in mistake(capsys, "sample", folder / "run", *options)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian", "x.py"], "unknown verb 'trian'; did you mean 'train'?"),
        (["train", "tinny.py"], "there is no file tinny.py"),
        (["sample"], "Missing from jaxseq sample: PATH A run directory."),
    ],
)
def test_verbs_and_files_that_do_not_exist(capsys, words, message):
    assert message in mistake(capsys, *words)


def test_a_file_may_hold_several_experiments(capsys, tmp_path):
    file = write_experiment(tmp_path)
    with file.open("a") as text:
        text.write("import dataclasses\nwide = dataclasses.replace(experiment, seed=7)\n")
    words = ["--num-steps", 1, "--no-show", "--run-dir", tmp_path / "run"]
    assert call(capsys, "train", f"{file}:wide", *words)[0] == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["seed"] == 7
    status, _, err = call(capsys, "train", f"{file}:wid", *words)
    assert status == 2
    assert "tiny.py has no experiment 'wid'; did you mean 'wide'?" in err


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\n", "has no `experiment = Experiment(...)`"),
        ("x = \n", "line 1: invalid syntax"),
    ],
)
def test_files_that_are_no_experiment(capsys, tmp_path, source, message):
    file = tmp_path / "wrong.py"
    file.write_text(source)
    assert message in mistake(capsys, "train", file)


def test_a_loss_that_is_not_finite_stops_the_run(folder, capsys):
    run_dir = folder / "diverged"
    words = ["train", folder / "tiny.py", "--run-dir", run_dir, "--optimizer.learning-rate", "1e30"]
    status, _, err = call(
        capsys, *words, "--optimizer.clip-norm", "0", "--optimizer.warmup-steps", "0"
    )
    assert status == 2
    line = err.splitlines()[-1]
    assert "loss nan" in line or "loss inf" in line
    assert "(batch " in line
    assert "checkpoint" in line
    assert "--optimizer.learning-rate" in line
