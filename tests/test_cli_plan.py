"""The verb `jaxseq plan`."""

import json

import pytest
from tiny import write_experiment

from jaxseq.cli_plan import plan
from jaxseq.errors import UserError
from jaxseq.parallel import chips
from jaxseq.parallel.chips import Chip


@pytest.fixture
def words(tmp_path, monkeypatch):
    # This machine's own speed need not be measured here.
    chip = Chip("chip", 1e12, 2**30, 1e11, 1e10, 1e9)
    monkeypatch.setattr(chips, "_measured", lambda device: chip)
    return [str(write_experiment(tmp_path)), "--model.vocab-size", "32", "--mesh.data", "2"]


def test_here(words, capsys):
    assert plan([*words, "--mesh.fsdp", "1", "--mesh.tensor", "4", "--steps", "train"]) == 0
    out = capsys.readouterr().out
    assert "8 x chip, mesh data 2 x tensor 4" in out
    assert "train: fits" in out
    assert "MFU = model FLOPs / (time x 8 chips x " in out


def test_as_json(words, capsys):
    assert plan([*words, "--mesh.tensor", "4", "--steps", "train", "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["mesh"]["tensor"] == 4
    memory = tree["steps"]["train"]["memory_bytes"]
    parts = ("parameters", "optimizer", "inputs", "outputs", "activations")
    assert memory["total"] == sum(memory[part] for part in parts)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--topology", "v5e:16x15"], "no topology v5e:16x15; near it are v5e:16x16"),
        (["--slices", "2"], "--slices is for a --topology by name"),
        (["--mesh.tensor", "3"], "6 places for 8 devices"),
        (["--topologie", "here"], "did you mean --topology"),
        (["--compile-best", "0"], "must be at least 1"),
    ],
)
def test_what_cannot_be_planned(words, more, message):
    with pytest.raises(UserError, match=message):
        plan([*words, *more])
