"""What is kept, what is restored, and what happens to damaged files."""

import dataclasses
import logging
import resource
from functools import partial

import jax
import numpy as np
import optax
import pytest

from jaxseq.errors import UserError
from jaxseq.models.gpt import GPTConfig
from jaxseq.parallel.mesh import MeshConfig, one_device
from jaxseq.tasks.language_model import LanguageModel
from jaxseq.training.checkpoints import Checkpoints
from jaxseq.training.optimizers import Optimizer
from jaxseq.training.state import abstract_params, abstract_state, create_state

MODEL = GPTConfig(num_layers=1, width=8, num_heads=2).resolve(vocab_size=16, context=4)
INIT = partial(LanguageModel().init, MODEL)
OPTIMIZER = Optimizer().build(10)


@pytest.fixture(scope="module")
def state():
    return create_state(INIT, OPTIMIZER, one_device(), jax.random.key(3))


def at(state, step):
    return state.replace(step=state.step + step)


def assert_same_state(actual, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), actual, expected
    )


def test_the_newest_and_the_best_are_kept(tmp_path, state):
    with Checkpoints(tmp_path, keep_last=2) as checkpoints:
        for step, loss in enumerate([3.0, 1.0, 2.0, None, 2.5, None], start=1):
            checkpoints.save(at(state, step), step, loss)
        checkpoints.wait()
        assert checkpoints.steps() == [2, 5, 6]
        assert checkpoints.best() == 2
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == [2, 5, 6]
        assert checkpoints.best() == 2


@pytest.mark.parametrize(
    "mesh", [MeshConfig(), MeshConfig(data=1, fsdp=4, tensor=2)], ids=["8 data", "4 fsdp x 2"]
)
def test_a_state_moves_to_another_mesh_bitwise(tmp_path, state, mesh):
    like = abstract_state(INIT, OPTIMIZER, mesh.build(8))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(at(state, 7), 7)
        checkpoints.wait()
        moved = checkpoints.restore(like)
    assert jax.tree.map(lambda a: a.sharding, moved) == jax.tree.map(lambda a: a.sharding, like)
    assert_same_state(moved, at(state, 7))


def test_parameters_are_read_alone(tmp_path, state):
    """Some of them or all, whatever optimizer wrote them; those that are not there are named."""
    mesh = MeshConfig(data=1, fsdp=4, tensor=2).build(8)
    like = abstract_params(INIT, mesh)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(at(state, 7), 7)
        checkpoints.wait()
        params = checkpoints.restore_params(like, 7)
        table = checkpoints.restore_params({"embedding": like["embedding"]}, 7)
        with pytest.raises(UserError, match="has no parameter other/table; choose another of 7"):
            checkpoints.restore_params({"other": like["embedding"]}, 7)
        leaf = like["embedding"]["table"]
        longer = {"table": jax.ShapeDtypeStruct((18, 8), leaf.dtype, sharding=leaf.sharding)}
        with pytest.raises(UserError, match=r"checkpoint 7 in .* cannot be read: .*\(18, 8\)"):
            checkpoints.restore_params({"embedding": longer}, 7)
    assert jax.tree.map(lambda a: a.sharding, params) == jax.tree.map(lambda a: a.sharding, like)
    assert_same_state(params, state.params)
    assert_same_state(table, {"embedding": state.params["embedding"]})


def test_checkpoints_have_names(tmp_path, state):
    with Checkpoints(tmp_path, keep_last=2) as checkpoints:
        with pytest.raises(UserError, match="holds no checkpoint yet"):
            checkpoints.named("last")
        for step, loss in ((1, 1.0), (2, 2.0)):
            checkpoints.save(at(state, step), step, loss)
        checkpoints.wait()
        assert [checkpoints.named(name) for name in ("last", "best", "2")] == [2, 1, 2]
        with pytest.raises(UserError, match=r"no checkpoint '3' in .*; it has last, best and 1, 2"):
            checkpoints.named("3")


# Orbax abandons its other reads of the damaged checkpoint, and says so after its loop is closed.
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_newest_checkpoint_is_said_and_the_one_before_it_used(tmp_path, state, caplog):
    like = abstract_state(INIT, OPTIMIZER, one_device())
    with Checkpoints(tmp_path, keep_last=2) as checkpoints:
        checkpoints.save(at(state, 1), 1)
        checkpoints.save(at(state, 2), 2)
    for file in sorted((tmp_path / "2").rglob("*")):
        if file.is_file() and "ocdbt" not in file.name and file.parent.name == "d":
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with Checkpoints(tmp_path, keep_last=2) as checkpoints, caplog.at_level(logging.WARNING):
        restored = checkpoints.restore(like)
        assert checkpoints.steps() == [1]
        checkpoints.save(at(state, 2), 2)
        checkpoints.wait()
        assert_same_state(checkpoints.restore(like), at(state, 2))
    assert (tmp_path / "2.damaged").is_dir()
    assert_same_state(restored, at(state, 1))
    assert "checkpoint 2" in caplog.text
    assert "cannot be read" in caplog.text


def test_a_crash_while_writing_leaves_the_checkpoints_before_it(tmp_path, state):
    """Orbax writes under a temporary name; what a crash leaves of that is not a checkpoint."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(at(state, 1), 1)
    (tmp_path / "2.orbax-checkpoint-tmp-0").mkdir()
    with Checkpoints(tmp_path, keep_last=2) as checkpoints:
        assert checkpoints.steps() == [1]
        checkpoints.save(at(state, 2), 2)
        checkpoints.wait()
        assert checkpoints.steps() == [1, 2]


def test_no_room_is_one_line_that_names_the_last_good_one(tmp_path, state, monkeypatch):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(at(state, 1), 1)
        checkpoints.wait()
        usage = type("Usage", (), {"free": 10})
        monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
        with pytest.raises(UserError, match=r"step 2 could not be written.*of step 1; make room"):
            checkpoints.save(at(state, 2), 2)
        assert checkpoints.steps() == [1]


def test_nothing_that_can_be_read_is_an_error(tmp_path):
    like = abstract_state(INIT, OPTIMIZER, one_device())
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match="can be read"):
        checkpoints.restore(like)


# As above: its other writes are abandoned.
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
def test_a_disk_that_fills_up_while_writing_leaves_the_checkpoint_before(tmp_path, state):
    """No file may grow beyond 1 kB; the write goes on beside the training and fails there."""
    like = abstract_state(INIT, OPTIMIZER, one_device())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(at(state, 1), 1)
        checkpoints.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            checkpoints.save(at(state, 2), 2)
            with pytest.raises(UserError, match=r"could not be written.*of step 1; make room"):
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]
        assert_same_state(checkpoints.restore(like), at(state, 1))


def test_a_checkpoint_of_another_model_is_left_alone_and_its_tensors_named(tmp_path, state):
    wider = dataclasses.replace(MODEL, width=12)
    like = abstract_state(partial(LanguageModel().init, wider), OPTIMIZER, one_device())
    plain = abstract_state(INIT, optax.sgd(0.1), one_device())
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(at(state, 1), 1)
        checkpoints.wait()
        first = r"params/blocks/attention/key/kernel is \(1, 8, 8\) there and \(1, 12, 8\) here; .*"
        with pytest.raises(UserError, match=f"checkpoint 1 in .*: {first} and [0-9]+ more; bring"):
            checkpoints.restore(like)
        with pytest.raises(UserError, match=r"opt_state/1/0/count is \(\) there and absent here"):
            checkpoints.restore(plain)
        assert checkpoints.steps() == [1]
