import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from jaxseq.cache_folder import cache_folder
from jaxseq.data.token_cache import cached_tokens
from jaxseq.errors import UserError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Where entries are kept."""
    monkeypatch.setenv("JAXSEQ_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


class Maker:
    """Writes two documents for training and none to hold out, and counts how often."""

    def __init__(self, largest=7):
        self.calls = 0
        self.largest = largest

    def __call__(self, writers):
        self.calls += 1
        train = writers["train"]
        train.write(np.array([1, 2], np.int32))
        train.write(np.array([], np.int32))
        train.write(np.array([self.largest], np.int32))
        train.end_document()
        train.end_document()  # one without a token
        train.write(np.array([4], np.int32))
        return {"said": "here"}


def _cached(make, key="key", vocab_size=8):
    return cached_tokens(key, ("train", "held"), vocab_size, make)


def _check(found, largest=7):
    assert found.streams["train"].tokens.tolist() == [1, 2, largest, 4]
    assert found.streams["train"].starts.tolist() == [0, 3]
    assert found.streams["held"].tokens.tolist() == found.streams["held"].starts.tolist() == []
    assert found.facts == {"said": "here"}


@pytest.mark.parametrize(("vocab_size", "dtype"), [(8, "<u2"), (1 << 16, "<u2"), (65537, "<i4")])
def test_tokens_are_made_once_and_mapped(folder, vocab_size, dtype):
    make = Maker(vocab_size - 1)
    for _ in range(2):
        found = _cached(make, vocab_size=vocab_size)
        _check(found, vocab_size - 1)
    assert make.calls == 1
    tokens = found.streams["train"].tokens
    assert tokens.dtype == dtype
    assert isinstance(tokens.base, np.memmap)
    assert not tokens.flags.writeable
    assert sorted(path.name for path in folder.iterdir()) == ["key", "key.lock"]


def test_another_key_is_another_entry():
    make = Maker()
    _cached(make)
    _cached(make, key="other")
    assert make.calls == 2


def _tear(entry):
    with (entry / "train.tokens").open("r+b") as file:
        file.truncate(3)


def _grow(entry):
    with (entry / "train.tokens").open("ab") as file:
        file.write(b"\0\0")


def _lose(entry):
    (entry / "held.starts").unlink()


def _forget(entry):
    (entry / "entry.json").unlink()


def _garble(entry):
    (entry / "entry.json").write_text("{")


def _empty(entry):
    (entry / "entry.json").write_text("{}")


def _rename(entry):
    said = json.loads((entry / "entry.json").read_text())
    (entry / "entry.json").write_text(json.dumps(said | {"key": "another"}))


def _replace(entry):
    for file in entry.iterdir():
        file.unlink()
    entry.rmdir()
    entry.write_text("a file of somebody")


@pytest.mark.parametrize(
    "damage", [_tear, _grow, _lose, _forget, _garble, _empty, _rename, _replace]
)
def test_a_torn_or_foreign_entry_is_made_anew_and_said(folder, damage, caplog):
    make = Maker()
    _cached(make)
    damage(folder / "key")
    _check(_cached(make))
    assert make.calls == 2
    assert f"{folder / 'key'} is damaged or foreign (" in caplog.text
    caplog.clear()
    _check(_cached(make))
    assert (make.calls, caplog.text) == (2, "")


def test_what_fails_leaves_nothing_behind(folder):
    def fail(writers):
        writers["train"].write(np.array([1], np.int32))
        raise UserError("no such text")

    with pytest.raises(UserError, match="no such text"):
        _cached(fail)
    assert [path.name for path in folder.iterdir()] == ["key.lock"]
    _check(_cached(Maker()))


def test_a_process_killed_while_it_writes_leaves_no_entry_and_its_rest_is_swept(folder):
    code = (
        "import os, signal, numpy as np; from jaxseq.data.token_cache import cached_tokens\n"
        "def make(writers):\n"
        "    writers['train'].write(np.ones(99999, np.int32))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "cached_tokens('key', ('train', 'held'), 8, make)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert len([path for path in folder.iterdir() if path.suffix == ".tmp"]) == 1
    _check(_cached(Maker()))
    assert sorted(path.name for path in folder.iterdir()) == ["key", "key.lock"]


def test_two_at_once_make_it_once(folder, caplog):
    begun, go_on = threading.Event(), threading.Event()
    slow, other = Maker(), Maker()

    def make_slowly(writers):
        begun.set()
        assert go_on.wait(30)
        return slow(writers)

    first = threading.Thread(target=_cached, args=(make_slowly,))
    first.start()
    assert begun.wait(30)
    second = threading.Thread(target=_cached, args=(other,))
    second.start()
    second.join(0.3)
    assert second.is_alive()  # it waits for the first
    go_on.set()
    first.join(30)
    second.join(30)
    assert (slow.calls, other.calls) == (1, 0)
    assert "another process is preparing the same tokens" in caplog.text
    _check(_cached(other))


def test_without_locks_two_at_once_both_make_it_and_one_stays(folder, monkeypatch):
    def no_locks(file, operation):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", no_locks)
    inner, outer = Maker(), Maker()
    mapped = []

    def make_between(writers):
        _cached(inner)
        mapped.append((folder / "key").stat().st_ino)
        return outer(writers)

    _check(_cached(make_between))
    assert (inner.calls, outer.calls) == (1, 1)
    assert mapped[0] == (folder / "key").stat().st_ino  # the first stays: somebody may map it
    assert sorted(path.name for path in folder.iterdir()) == ["key", "key.lock"]


def test_an_entry_that_can_only_be_read_is_used(folder, monkeypatch):
    make = Maker()
    _cached(make)

    def refuse(self, *arguments):
        raise PermissionError(13, "Permission denied", os.fspath(self))

    monkeypatch.setattr("jaxseq.data.token_cache._alone", refuse)
    _check(_cached(make))


def test_a_cache_that_cannot_be_written_is_named(folder):
    folder.parent.mkdir()
    folder.write_text("a file in the way")
    with pytest.raises(UserError, match=r"cannot keep tokens in .*tokens/key: .*JAXSEQ_CACHE"):
        _cached(Maker())


def test_a_full_disk_is_said(monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"No space left on device; make room, or name"):
        _cached(Maker())


def test_where_the_cache_is(monkeypatch):
    monkeypatch.setenv("JAXSEQ_CACHE", "~/own")
    assert cache_folder() == Path.home() / "own"
    monkeypatch.delenv("JAXSEQ_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/xdg")
    assert cache_folder() == Path("/var/xdg/jaxseq")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "jaxseq"
