"""The verb `jaxseq report`."""

import re

import pytest
from made_runs import write_run
from tiny import call, write_experiment


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run directory of a real training, and what the training said."""
    folder = tmp_path_factory.mktemp("report")
    file = write_experiment(folder)
    return file, folder / "run"


def test_a_real_run(trained, tmp_path, capsys):
    file, run = trained
    words = ("train", file, "--run-dir", run, "--no-show")
    status, _, err = call(capsys, *words)
    assert status == 0
    parameters = re.search(r"([\d,]+) parameters", err)[1]
    page = tmp_path / "page.html"
    assert call(capsys, "report", run, "--output", page)[:1] == (0,)
    html = page.read_text()
    assert f"<td>{parameters}</td>" in html
    assert "<td>finished, 12 steps</td>" in html
    for title in ("Loss", "Learning rate", "Gradient norm", "Tokens per second"):
        assert f"<figcaption>{title}" in html
    assert "Validation loss" in html
    # Its data has no test split, and what is proposed can be done.
    proposed = ("evaluate", str(run), "--split", "validation")
    assert " ".join(("jaxseq", *proposed)) in html
    assert call(capsys, *proposed)[0] == 0


def test_the_file_is_replaced_whole(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = write_run(tmp_path / "run", steps=4)
    (tmp_path / "report.html").write_text("old")
    status, out, _ = call(capsys, "report", run)
    assert (status, out) == (0, "report.html (0.0 MB); open it in a browser\n")
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "name a run directory"),
        (("nothing",), "there is no run directory nothing"),
        (("run", "run"), "is named twice"),
        (("run", "--output", "gone/page.html"), "cannot write gone/page.html: No such file"),
        (("run", "--outptu", "x"), "did you mean --output"),
    ],
)
def test_mistakes(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "run", steps=4)
    status, out, err = call(capsys, "report", *words)
    assert (status, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
