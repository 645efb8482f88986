"""Copies of a run: when a checkpoint counts, what goes, what comes back, what a failure does."""

import json
import logging
import shutil
import time
from pathlib import Path

import jax.numpy as jnp
import pytest
from compare import assert_same

from jaxseq.errors import UserError
from jaxseq.training.checkpoints import Checkpoints
from jaxseq.training.mirror import Mirror, restore_run
from jaxseq.training.state import TrainState

fsspec = pytest.importorskip("fsspec")


@pytest.fixture(params=["bucket", "directory"])
def destination(request, tmp_path):
    """A place for copies, as a URL of a store without directories, and as a local path."""
    if request.param == "directory":
        yield str(tmp_path / "elsewhere" / "copy")
    else:
        yield "memory://bucket/my run"
        fsspec.filesystem("memory").store.clear()


@pytest.fixture
def run_dir(tmp_path):
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "tensorboard").mkdir()
    (folder / "run.json").write_text(json.dumps({"starts": [{"time": "noon"}]}))
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    (folder / "config.json.tmp").write_text("half")
    (folder / "tensorboard" / "events").write_text("e")
    return folder


def write_checkpoint(run_dir: Path, step: int) -> None:
    folder = run_dir / "checkpoints" / str(step)
    (folder / "default" / "d").mkdir(parents=True)
    (folder / "_METADATA").write_text("m")
    (folder / "default" / "d" / f"data of {step}").write_bytes(bytes(step))


def files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths if p.suffix != ".tmp"}


def names(destination: str) -> set[str]:
    """Everything in the copy."""
    system, root = fsspec.core.url_to_fs(destination)
    return {path.removeprefix(f"{root}/") for path in system.find(root)}


def restored(destination: str, folder: Path) -> tuple[int | None, dict[str, bytes]]:
    shutil.rmtree(folder, ignore_errors=True)
    return restore_run(folder, destination), files(folder)


def test_what_is_copied_comes_back(tmp_path, run_dir, destination, monkeypatch):
    back = tmp_path / "back"
    assert restored(destination, back) == (None, {})
    mirror = Mirror(run_dir, destination)
    mirror.copy()
    assert restored(destination, back) == (None, {}), "no checkpoint: the run is new"
    for step in (5, 10):
        write_checkpoint(run_dir, step)
    mirror.copy()
    assert restored(destination, back) == (10, files(run_dir))
    assert mirror.describe().endswith("holds a copy, up to checkpoint 10")

    # The run goes on: a file grows, a checkpoint comes, another one goes.
    (run_dir / "metrics.jsonl").write_text('{"step": 1}\n{"step": 15}\n')
    write_checkpoint(run_dir, 15)
    shutil.rmtree(run_dir / "checkpoints" / "5")
    mirror.copy()
    assert restored(destination, back) == (15, files(run_dir))
    assert names(destination) == files(run_dir).keys() | {"complete/10.json", "complete/15.json"}

    # Another process goes on with the same run, and copies nothing twice.
    again = Mirror(run_dir, destination)
    monkeypatch.setattr(again._copy, "put_checkpoint", lambda *_: 1 / 0)
    again.copy()
    monkeypatch.setattr(again._copy, "put_file", lambda *_: 1 / 0)
    again.copy()
    assert restore_run(run_dir, destination) is None


def test_a_checkpoint_counts_when_all_of_it_is_there(tmp_path, run_dir, destination, monkeypatch):
    write_checkpoint(run_dir, 5)
    Mirror(run_dir, destination).copy()
    write_checkpoint(run_dir, 10)
    mirror = Mirror(run_dir, destination)
    put_list = mirror._copy.put_list
    monkeypatch.setattr(mirror._copy, "put_list", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # the machine goes away just before the end
        mirror.copy()
    shutil.rmtree(run_dir / "checkpoints" / "5")
    back = tmp_path / "back"
    assert restored(destination, back)[0] == 5
    with pytest.raises(ZeroDivisionError):
        mirror.copy()
    assert restored(destination, back)[0] == 5, "the older one stays until the newer one counts"
    monkeypatch.setattr(mirror._copy, "put_list", put_list)
    mirror.copy()
    assert restored(destination, back) == (10, files(run_dir))


def test_a_checkpoint_that_goes_while_it_is_copied_is_no_failure(tmp_path, run_dir, monkeypatch):
    write_checkpoint(run_dir, 5)
    write_checkpoint(run_dir, 10)
    mirror = Mirror(run_dir, str(tmp_path / "copy"))
    put = mirror._copy.put_checkpoint

    def put_while_the_run_removes(folder, step, files):
        put(folder, step, files)
        if step == 5:
            (folder / "_METADATA").unlink()

    monkeypatch.setattr(mirror._copy, "put_checkpoint", put_while_the_run_removes)
    mirror.copy()
    # What stands for it in the copy stays until something newer does.
    shutil.rmtree(run_dir / "checkpoints")
    monkeypatch.setattr(mirror._copy, "put_checkpoint", lambda folder, *_: shutil.rmtree(folder))
    write_checkpoint(run_dir, 15)
    mirror.copy()
    assert restored(str(tmp_path / "copy"), tmp_path / "back")[0] == 10


def test_the_state_of_training_survives_the_machine(tmp_path, destination):
    """Real checkpoints, copied by the thread as they are saved, read by Orbax from what is back."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    params = {"kernel": jnp.arange(6.0).reshape(2, 3)}
    with (
        Mirror(run_dir, destination, seconds=0.01) as mirror,
        Checkpoints(run_dir / "checkpoints") as checkpoints,
    ):
        checkpoints.save(TrainState(jnp.int32(3), params, opt_state=()), 3, 1.5)
    assert mirror.describe().endswith("up to checkpoint 3")
    shutil.rmtree(run_dir)
    assert restore_run(run_dir, destination) == 3
    with Checkpoints(run_dir / "checkpoints") as checkpoints:
        assert checkpoints.steps() == [3]
        assert checkpoints.best() == 3
        assert_same(checkpoints.restore_params(params, 3), params)


def test_failures_are_told_and_stop_nothing(tmp_path, run_dir, caplog, monkeypatch):
    class StoreError(Exception):
        """As the packages of some stores have it: no OSError."""

    write_checkpoint(run_dir, 5)
    mirror = Mirror(run_dir, str(tmp_path / "copy"), seconds=0.001)
    tried = []

    def refuse(*_):
        tried.append(1)
        raise StoreError("quota exceeded\nand a page of details")

    monkeypatch.setattr(mirror._copy, "put_checkpoint", refuse)
    with caplog.at_level(logging.WARNING), mirror:
        while len(tried) < 3:
            time.sleep(0.001)
    begun, ended = caplog.messages
    assert begun.startswith(f"cannot copy {run_dir} to ")
    assert "(StoreError: quota exceeded); the run goes on" in begun
    assert "is not whole, without a checkpoint: StoreError: quota exceeded; " in ended

    caplog.clear()
    with Mirror(run_dir, str(tmp_path / "copy")) as again:
        pass
    assert not caplog.messages
    assert again.describe().endswith("up to checkpoint 5")


def test_a_copy_that_cannot_be_gone_on_with_is_said(tmp_path, run_dir, caplog):
    copy = tmp_path / "copy"
    for step in (5, 10):
        write_checkpoint(run_dir, step)
    Mirror(run_dir, str(copy)).copy()

    shutil.rmtree(run_dir / "checkpoints" / "10")
    with pytest.raises(UserError, match=r"is at step 10 and .* only at step 5; move .* away to go"):
        restore_run(run_dir, str(copy))
    (run_dir / "run.json").write_text(json.dumps({"starts": [{"time": "one"}]}))
    with pytest.raises(UserError, match="copy of another run, started noon; name another --mirror"):
        restore_run(run_dir, str(copy))

    (copy / "checkpoints" / "10" / "_METADATA").write_text("longer")
    with caplog.at_level(logging.WARNING):
        assert restore_run(tmp_path / "back", str(copy)) == 5
    assert "checkpoint 10 in " in caplog.text
    (copy / "checkpoints" / "5" / "_METADATA").unlink()
    with pytest.raises(UserError, match=r"every checkpoint in .* lacks files \(of steps 5, 10\)"):
        restore_run(tmp_path / "again", str(copy))


def test_bad_destinations(run_dir, monkeypatch):
    with pytest.raises(UserError, match=r"is inside .*run; name a place outside of it"):
        Mirror(run_dir, str(run_dir / "copy"))
    with pytest.raises(UserError, match="cannot copy to nowhere://b: Protocol not known: nowhere"):
        Mirror(run_dir, "nowhere://b")

    def unreachable(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(fsspec.filesystem("memory"), "find", unreachable)
    with pytest.raises(UserError, match=r"cannot restore .* memory://b: no route to host; check"):
        restore_run(run_dir, "memory://b")
