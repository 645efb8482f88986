"""Tensors in safetensors files, one file or several with an index; nothing is ever unpickled."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jaxseq.errors import UserError

ONE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_FILE_BYTES = 5_000_000_000


class TensorReader:
    """The tensors of a directory by name, each read when and as far as it is asked for."""

    def __init__(self, path: Path, prefix: str = ""):
        """Open the files in `path`; UserError where there are none or one is damaged.

        Where no name begins with `prefix`, all are read as if they did: a checkpoint of a bare
        model lacks what one of the model under a head has.
        """
        from safetensors import SafetensorError, safe_open

        self.path = path
        found: dict[str, Any] = {}
        for file in _files(path):
            try:
                opened = safe_open(file, framework="np")
            except (SafetensorError, OSError) as error:
                raise UserError(
                    f"{file} is not a whole safetensors file ({error}); fetch it again"
                ) from error
            found |= dict.fromkeys(opened.keys(), opened)
        bare = not any(name.startswith(prefix) for name in found)
        self._files = {(prefix + name if bare else name): opened for name, opened in found.items()}
        self._lacks = prefix if bare else ""
        self.shapes = {name: tuple(self._slice(name).get_shape()) for name in self._files}

    def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """What stands at `index` of a tensor, in the file's dtype."""
        return self._slice(name)[index]

    def _slice(self, name: str) -> Any:
        return self._files[name].get_slice(name.removeprefix(self._lacks))


def _files(path: Path) -> list[Path]:
    if (path / INDEX).is_file():
        try:
            names = json.loads((path / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
            files = [path / name for name in sorted(set(names))]
        except (ValueError, KeyError, AttributeError) as error:
            raise UserError(f"{path / INDEX} is damaged ({error}); fetch it again") from error
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise UserError(f"{path / INDEX} names files that are missing: {', '.join(missing)}")
        return files
    if (path / ONE_FILE).is_file():
        return [path / ONE_FILE]
    others = sorted(file.name for file in path.glob("*.bin")) if path.is_dir() else []
    hint = f"; {others[0]} is a pickle, which is never read: convert it first" if others else ""
    raise UserError(f"there is no {ONE_FILE} in {path}{hint}")


def write_tensor_files(
    path: Path,
    tensors: Iterable[tuple[str, Callable[[], np.ndarray]]],
    max_file_bytes: int = MAX_FILE_BYTES,
) -> None:
    """Writes tensors as they are made, into one file, or several with an index.

    No more than `max_file_bytes` of them (or one tensor, if it is larger) are held at a time.
    """
    from safetensors.numpy import save_file

    files: list[list[str]] = []
    waiting: dict[str, np.ndarray] = {}
    total = 0

    def flush() -> None:
        name = f"model-{len(files) + 1:05}.unfinished"
        save_file(waiting, path / name, metadata={"format": "pt"})
        files.append(list(waiting))
        waiting.clear()

    for name, make in tensors:
        tensor = make()
        held = sum(array.nbytes for array in waiting.values())
        if waiting and held + tensor.nbytes > max_file_bytes:
            flush()
        waiting[name] = tensor
        total += tensor.nbytes
    flush()

    # The number of files is in their names, and is known only now.
    (path / INDEX).unlink(missing_ok=True)
    if len(files) == 1:
        (path / "model-00001.unfinished").replace(path / ONE_FILE)
        return
    weight_map = {}
    for number, names in enumerate(files, start=1):
        final = f"model-{number:05}-of-{len(files):05}.safetensors"
        (path / f"model-{number:05}.unfinished").replace(path / final)
        weight_map |= dict.fromkeys(names, final)
    (path / ONE_FILE).unlink(missing_ok=True)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (path / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
