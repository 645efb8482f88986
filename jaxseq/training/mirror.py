"""A second copy of a run, in a bucket or on another disk, made beside the training.

A run directory on a fast local disk is lost with its machine. Its copy stands at a URL (gs://,
s3://, ...: whatever fsspec opens) or in a directory:

config.json, metrics.jsonl, ...    the files of the run directory, copied as they change
checkpoints/STEP/...               every complete checkpoint
complete/STEP.json                 names and bytes of its files

A bucket cannot rename a directory, so a checkpoint counts from the moment that its list stands in
`complete/`, which is written last and removed first. What the run no longer keeps goes from the
copy too, once something newer is whole there.

One process copies: the leader of a run whose hosts share the run directory.
"""

import json
import logging
import shutil
import threading
from pathlib import Path
from typing import Any

from jaxseq.config import read_json
from jaxseq.data.files import as_url, file_system
from jaxseq.errors import UserError
from jaxseq.training.run_directory import CHECKPOINTS, RUN_FILE

_log = logging.getLogger(__name__)

COMPLETE = "complete"
_UNFINISHED = ".tmp"

Listing = dict[str, int]
"""The files of a checkpoint: path below it, with `/`, and bytes."""


class Mirror:
    """While entered, copies `run_dir` to `destination` from a thread of its own.

    It looks for something new every `seconds`, and once more on leaving, which waits for it. A
    failure is a warning and is tried again; it never stops the run. `describe()` says at the end
    how far the copy came. `destination` belongs to this one run.

    Raises UserError for a URL whose package is missing, and for a directory inside `run_dir`.
    """

    def __init__(self, run_dir: Path, destination: str, seconds: float = 30.0):
        self._run_dir = run_dir
        self._copy = _Copy(destination)
        self._copy.check_outside(run_dir)
        self._seconds = seconds
        self._sent: dict[str, tuple[int, int]] = {}  # size and time of each file when last copied
        self._complete: dict[int, Listing] | None = None  # not looked at yet
        self._failure: str | None = None
        self._leaving = threading.Event()
        # A second Ctrl-C may end the process while the last copies are under way.
        self._thread = threading.Thread(target=self._keep_copying, name="mirror", daemon=True)

    def __enter__(self) -> "Mirror":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        self._thread.join()
        if self._failure is not None:
            _log.warning("%s", self.describe())

    @property
    def is_whole(self) -> bool:
        """Whether the last attempt to copy went well."""
        return self._failure is None

    def describe(self) -> str:
        """One line: up to which checkpoint the copy is whole, and what went wrong."""
        newest = max(self._complete or {}, default=None)
        upto = "without a checkpoint" if newest is None else f"up to checkpoint {newest}"
        if self._failure is None:
            return f"{self._copy.destination} holds a copy, {upto}"
        return (
            f"the copy in {self._copy.destination} is not whole, {upto}: {self._failure}; "
            f"{self._run_dir} has everything"
        )

    def copy(self) -> None:
        """Copies what is new: small files, checkpoints from the newest on, folders.

        Raises whatever the store raises.
        """
        if self._complete is None:
            self._complete = self._copy.checkpoints()
        files = [path for path in sorted(self._run_dir.iterdir()) if path.is_file()]
        self._copy_changed(files)
        self._copy_checkpoints(self._complete)
        for folder in sorted(self._run_dir.iterdir()):
            if folder.is_dir() and folder.name != CHECKPOINTS:
                self._copy_changed([path for path in sorted(folder.rglob("*")) if path.is_file()])

    def _keep_copying(self) -> None:
        while not self._leaving.wait(self._seconds):
            self._try_to_copy()
        self._try_to_copy()

    def _try_to_copy(self) -> None:
        try:
            self.copy()
        # Every store has exceptions of its own, not all of them OSErrors, and the thread that
        # dies of one would leave the rest of the run without a copy.
        except Exception as error:
            (reason, *_) = str(error).splitlines() or [""]
            reason = f"{type(error).__name__}: {reason}"
            if self._failure is None:
                where = self._copy.destination
                _log.warning(
                    "cannot copy %s to %s (%s); the run goes on, and so do the attempts",
                    *(self._run_dir, where, reason),
                )
            self._failure = reason
        else:
            self._failure = None

    def _copy_changed(self, files: list[Path]) -> None:
        for file in files:
            if file.suffix == _UNFINISHED:
                continue
            try:
                status = file.stat()
                if self._sent.get(str(file)) == (status.st_size, status.st_mtime_ns):
                    continue
                self._copy.put_file(file, file.relative_to(self._run_dir).as_posix())
            except FileNotFoundError:
                if file.exists():
                    raise
                continue  # removed by the run meanwhile
            self._sent[str(file)] = (status.st_size, status.st_mtime_ns)

    def _copy_checkpoints(self, complete: dict[int, Listing]) -> None:
        folders = _checkpoints(self._run_dir)
        for step in sorted(folders, reverse=True):
            folder = folders[step]
            try:
                files = _listing(folder)
                if complete.get(step) == files:
                    continue
                if complete.pop(step, None) is not None:
                    self._copy.remove_list(step)
                self._copy.put_checkpoint(folder, step, files)
                if _listing(folder) != files:
                    continue  # the run is just removing it
            except FileNotFoundError:
                if folder.is_dir():
                    raise
                continue  # gone: there is a newer one, which the next look finds
            self._copy.put_list(step, files)
            complete[step] = files
        newest = max(folders, default=0)
        for step in self._copy.begun() - set(folders):
            if step < newest and newest in complete:
                if complete.pop(step, None) is not None:
                    self._copy.remove_list(step)
                self._copy.remove_checkpoint(step)


def restore_run(run_dir: Path, destination: str) -> int | None:
    """Brings a run directory that is missing or empty back from its copy.

    Returns the step of its newest checkpoint; None where there was nothing to do: `run_dir` is
    there, or the copy has no complete checkpoint and the run is new. `run_dir` shows when it is
    whole, so that an interrupted call may be repeated.

    Raises UserError for a `destination` that cannot be read, that holds another run than `run_dir`
    or a newer state of it, or whose checkpoints are all damaged.
    """
    copy = _Copy(destination)
    copy.check_outside(run_dir)
    try:
        complete = copy.checkpoints()
        if run_dir.is_dir() and any(run_dir.iterdir()):
            if complete:
                _check_same_run(run_dir, copy, max(complete))
            return None
        if not complete:
            return None
        whole = {step: files for step, files in complete.items() if copy.is_whole(step, files)}
        for step in sorted(complete.keys() - whole.keys()):
            _log.warning("checkpoint %d in %s lacks files and is passed over", step, destination)
        if not whole:
            raise UserError(
                f"every checkpoint in {destination} lacks files (of steps "
                f"{', '.join(map(str, sorted(complete)))}); restore them, or name another --mirror"
            )
        unfinished = run_dir.with_name(run_dir.name + ".restoring")
        shutil.rmtree(unfinished, ignore_errors=True)
        names = [f"{CHECKPOINTS}/{step}/{name}" for step, files in whole.items() for name in files]
        copy.get([*copy.run_files(), *names], unfinished)
    except OSError as error:
        raise UserError(
            f"cannot restore {run_dir} from {destination}: {error or type(error).__name__}; check "
            "the URL, the network and your permissions, or leave --mirror out"
        ) from error
    if run_dir.is_dir():
        run_dir.rmdir()
    unfinished.rename(run_dir)
    return max(whole)


def _check_same_run(run_dir: Path, copy: "_Copy", newest: int) -> None:
    here = read_json(run_dir / RUN_FILE)["starts"][0]
    there = json.loads(copy.read(RUN_FILE))["starts"][0]
    if here != there:
        raise UserError(
            f"{copy.destination} holds the copy of another run, started {there['time']}; name "
            "another --mirror"
        )
    last = max(_checkpoints(run_dir), default=0)
    if newest > last:
        raise UserError(
            f"{copy.destination} is at step {newest} and {run_dir} only at step {last}; move "
            f"{run_dir} away to go on from the copy, or name another --mirror"
        )


def _checkpoints(run_dir: Path) -> dict[int, Path]:
    """The complete checkpoints of a run directory by step; Orbax renames them when they are."""
    folder = run_dir / CHECKPOINTS
    paths = folder.iterdir() if folder.is_dir() else ()
    return {int(path.name): path for path in paths if path.name.isdecimal()}


def _listing(folder: Path) -> Listing:
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file()
    }


class _Copy:
    """The copy of a run as files of an fsspec file system."""

    def __init__(self, destination: str):
        self.destination = as_url(destination) or destination
        system, root = file_system(self.destination, "copy to", "give --mirror a directory")
        from fsspec.implementations.local import LocalFileSystem

        self._local = isinstance(system, LocalFileSystem)
        # A bucket needs no directories, and others make them unasked.
        self._system: Any = LocalFileSystem(auto_mkdir=True) if self._local else system
        self._root = root.rstrip("/")

    def check_outside(self, run_dir: Path) -> None:
        """Raises UserError for a copy inside of what it is a copy of."""
        if self._local and Path(self._root).resolve().is_relative_to(run_dir.resolve()):
            raise UserError(
                f"--mirror {self.destination} is inside {run_dir}; name a place outside of it"
            )

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _find(self, folder: str) -> dict[str, int]:
        """The files below a folder of the copy, which may be missing: name below it and bytes."""
        self._system.invalidate_cache()
        prefix = f"{self._path(folder)}/" if folder else f"{self._root}/"
        found = self._system.find(prefix, detail=True)
        return {
            path.removeprefix(prefix): status["size"]
            for path, status in found.items()
            if not path.endswith(_UNFINISHED)
        }

    def checkpoints(self) -> dict[int, Listing]:
        """The complete checkpoints by step."""
        lists = [Path(name) for name in self._find(COMPLETE)]
        return {int(name.stem): json.loads(self.read(f"{COMPLETE}/{name}")) for name in lists}

    def begun(self) -> set[int]:
        """The steps of all checkpoints, complete or not."""
        return {int(name.split("/")[0]) for name in self._find(CHECKPOINTS)}

    def is_whole(self, step: int, files: Listing) -> bool:
        """Whether all `files` of a checkpoint are there, each with its bytes."""
        return files.items() <= self._find(f"{CHECKPOINTS}/{step}").items()

    def run_files(self) -> list[str]:
        """What is there beside the checkpoints."""
        beside = (f"{CHECKPOINTS}/", f"{COMPLETE}/")
        return [name for name in self._find("") if not name.startswith(beside)]

    def read(self, name: str) -> bytes:
        """A file's bytes."""
        return self._system.cat_file(self._path(name))

    def get(self, names: list[str], folder: Path) -> None:
        """Fetches files to the same names below `folder`."""
        self._system.get([self._path(name) for name in names], [str(folder / n) for n in names])

    def put_file(self, file: Path, name: str) -> None:
        """Copies a file so that `name` is the old one or the new one, never half of it."""
        self._system.put_file(str(file), self._path(name + _UNFINISHED))
        self._system.mv(self._path(name + _UNFINISHED), self._path(name))

    def put_checkpoint(self, folder: Path, step: int, files: Listing) -> None:
        """Copies the files of a checkpoint, which `put_list` then makes count."""
        self._system.put(
            [str(folder / name) for name in files],
            [self._path(f"{CHECKPOINTS}/{step}/{name}") for name in files],
        )

    def put_list(self, step: int, files: Listing) -> None:
        """Makes a copied checkpoint a complete one."""
        path = self._path(f"{COMPLETE}/{step}.json")
        self._system.pipe_file(path + _UNFINISHED, json.dumps(files).encode())
        self._system.mv(path + _UNFINISHED, path)

    def remove_list(self, step: int) -> None:
        """Makes a checkpoint one that does not count."""
        self._system.rm_file(self._path(f"{COMPLETE}/{step}.json"))

    def remove_checkpoint(self, step: int) -> None:
        """Removes the files of a checkpoint that does not count."""
        self._system.rm(self._path(f"{CHECKPOINTS}/{step}"), recursive=True)
