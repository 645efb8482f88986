"""Configs survive the way through JSON, and say what is wrong with a file by its place."""

import dataclasses
import json
from pathlib import Path

import pytest

from jaxseq.config import differences, from_tree, read_json, to_tree, write_json
from jaxseq.data.corpus import TextData
from jaxseq.errors import UserError
from jaxseq.models.gpt import GPTConfig
from jaxseq.tasks.language_model import LanguageModel
from jaxseq.training.experiment import Experiment, check_same
from jaxseq.training.optimizers import Optimizer

EXPERIMENT = Experiment(
    task=LanguageModel(),
    model=GPTConfig(num_layers=3, positions="rotary"),
    data=TextData(path=Path("some/where.txt")),
    optimizer=Optimizer(name="muon", learning_rate=0.02),
)


def test_an_experiment_survives_the_way_through_json(tmp_path):
    write_json(tmp_path / "config.json", to_tree(EXPERIMENT))
    assert from_tree(read_json(tmp_path / "config.json")) == EXPERIMENT


def test_a_field_that_does_not_exist_is_named_with_its_place_and_the_nearest_name():
    tree = to_tree(EXPERIMENT)
    tree["model"]["num_layer"] = 3
    with pytest.raises(UserError, match=r"config\.model: .*'num_layer'; did you mean 'num_layers'"):
        from_tree(tree)


@pytest.mark.parametrize("name", ["jaxseq.models.gpt.GPTX", "nowhere.Config", "Config", ""])
def test_a_type_that_cannot_be_found_is_named(name):
    with pytest.raises(UserError, match="cannot find the type"):
        from_tree({"type": name})


def test_only_dataclasses_are_made_from_a_file():
    with pytest.raises(UserError, match="not a config dataclass"):
        from_tree({"type": "os.system"})


def test_a_config_of_a_local_class_is_refused_before_it_is_written():
    @dataclasses.dataclass(frozen=True)
    class Local:
        x: int = 1

    with pytest.raises(UserError, match="importable"):
        to_tree(Local())


def test_differences_are_named_by_their_dotted_path():
    other = dataclasses.replace(EXPERIMENT, model=GPTConfig(num_layers=2, positions="rotary"))
    assert differences(to_tree(EXPERIMENT), to_tree(other)) == {"model.num_layers": (3, 2)}


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"type": ')
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        read_json(tmp_path / "config.json")


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "config.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_a_resume_may_change_how_long_and_how_often_but_not_what():
    longer = dataclasses.replace(EXPERIMENT, num_steps=9, log_every=1, checkpoint_every=3)
    check_same(Path("run"), EXPERIMENT, longer)
    with pytest.raises(UserError, match=r"run holds another experiment: seed is 0 there and 1"):
        check_same(Path("run"), EXPERIMENT, dataclasses.replace(EXPERIMENT, seed=1))
