"""Tensors in safetensors files, one file or several with an index; nothing is ever unpickled."""

import contextlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxseq.errors import UserError
from jaxseq.typing import Float, Shaped

ONE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_FILE_BYTES = 5_000_000_000

Renamed = Sequence[tuple[str, str]]


class TensorReader:
    """The tensors of a directory by name, each read when and as far as it is asked for.

    Use as a context manager: leaving it closes the files.
    """

    def __init__(self, path: Path, prefix: str = "", renamed: Renamed = ()):
        """Open the files in `path`; UserError where there are none or one is damaged.

        Names that end in the first of a pair of `renamed` end in the second instead. Where no
        name begins with `prefix`, all are read as if they did: a checkpoint of a bare model lacks
        what one of the model under a head has.
        """
        self.path = path
        # Name: (the file that holds it, its name there).
        self._places: dict[str, tuple[Any, str]] = {}
        with contextlib.ExitStack() as files:
            for file in _files(path):
                opened = files.enter_context(_open(file))
                for name in opened.keys():  # noqa: SIM118 (it is no dictionary)
                    self._places[_renamed(name, renamed)] = opened, name
            self._close = files.pop_all().close
        if not any(name.startswith(prefix) for name in self._places):
            self._places = {prefix + name: place for name, place in self._places.items()}
        self.shapes = {name: tuple(self._slice(name).get_shape()) for name in self._places}
        self.dtypes = {name: self._slice(name).get_dtype() for name in self._places}

    def __enter__(self) -> "TensorReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def read(self, name: str, index: tuple[slice, ...]) -> Shaped[np.ndarray, "..."]:
        """What stands at `index` of a tensor, in the file's dtype."""
        return self._slice(name)[index]

    def _slice(self, name: str) -> Any:
        file, name_there = self._places[name]
        return file.get_slice(name_there)


def _renamed(name: str, renamed: Renamed) -> str:
    for old, new in renamed:
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _open(file: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(file, framework="np")
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{file} is not a whole safetensors file ({error}); fetch it again"
        ) from error


def _files(path: Path) -> list[Path]:
    index = path / INDEX
    if index.is_file():
        try:
            names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            files = [path / name for name in sorted(set(names))]
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise UserError(f"{index} is damaged ({error}); fetch it again") from error
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise UserError(
                f"{index} names files that are missing: {', '.join(missing)}; fetch them"
            )
        return files
    if (path / ONE_FILE).is_file():
        return [path / ONE_FILE]
    pickles = sorted(file.name for kind in ("*.bin", "*.pt*") for file in path.glob(kind))
    hint = "fetch it"
    if pickles:
        hint = (
            f"{pickles[0]} is a pickle, which is never read, as it may run any program: convert it "
            "where you trust it, with transformers: AutoModel.from_pretrained(DIR).save_pretrained("
            "DIR)"
        )
    raise UserError(f"there is no {ONE_FILE} in {path}; {hint}")


def write_tensor_files(
    path: Path,
    tensors: Iterable[tuple[str, Float[np.ndarray, "..."]]],
    max_file_bytes: int = MAX_FILE_BYTES,
) -> list[Path]:
    """Write tensors as they are made, into one file, or several with an index; return the files.

    No more than `max_file_bytes` of them, and the next one, are held at a time.
    """
    from safetensors.numpy import save_file

    files: list[list[str]] = []
    waiting: dict[str, np.ndarray] = {}
    held = total = 0

    def flush() -> None:
        files.append(list(waiting))
        unfinished = path / f"model-{len(files):05}.unfinished"
        save_file(waiting, unfinished, metadata={"format": "pt"})
        waiting.clear()

    for name, tensor in tensors:
        if waiting and held + tensor.nbytes > max_file_bytes:
            flush()
            held = 0
        waiting[name] = tensor
        held += tensor.nbytes
        total += tensor.nbytes
    flush()

    # How many files there are is in their names, and known only now.
    weight_map = {}
    for number, names in enumerate(files, start=1):
        final = f"model-{number:05}-of-{len(files):05}.safetensors"
        final = ONE_FILE if len(files) == 1 else final
        (path / f"model-{number:05}.unfinished").replace(path / final)
        weight_map |= dict.fromkeys(names, final)
    if len(files) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (path / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return sorted({path / name for name in weight_map.values()})
