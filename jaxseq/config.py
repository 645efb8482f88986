"""Configs as files: frozen dataclasses to JSON and back, and what differs between two of them."""

import dataclasses
import difflib
import importlib
import json
import os
from pathlib import Path
from typing import Any

from jaxseq.errors import UserError


def to_tree(value: Any) -> Any:
    """A config as plain JSON values; each dataclass says its type as "module.Class"."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__:
            raise UserError(
                f"{kind.__qualname__} must be defined in an importable module, so that the run "
                "directory can name it"
            )
        fields = {f.name: to_tree(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": f"{kind.__module__}.{kind.__qualname__}"} | fields
    if isinstance(value, Path):
        return {"type": "path", "path": str(value)}
    if isinstance(value, list | tuple):
        return [to_tree(item) for item in value]
    return value


def from_tree(tree: Any, where: str = "config") -> Any:
    """The config that `to_tree` wrote.

    Raises UserError naming the place for a type that cannot be found and for an unknown field,
    with the nearest name.
    """
    if isinstance(tree, list):
        return tuple(from_tree(item, f"{where}[{i}]") for i, item in enumerate(tree))
    if not isinstance(tree, dict):
        return tree
    fields = dict(tree)
    name = fields.pop("type", "")
    if name == "path":
        return Path(fields["path"])
    kind = _dataclass_named(name, where)
    known = [field.name for field in dataclasses.fields(kind)]
    for field in fields:
        if field not in known:
            near = difflib.get_close_matches(field, known, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(known)}"
            raise UserError(f"{where}: {name} has no field '{field}'{hint}")
    return kind(**{key: from_tree(item, f"{where}.{key}") for key, item in fields.items()})


def _dataclass_named(name: str, where: str) -> type[Any]:
    module, _, attribute = name.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{where}: cannot find the type '{name}' ({error})") from error
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        raise UserError(f"{where}: '{name}' is not a config dataclass")
    return kind


def write_json(path: Path, tree: Any) -> None:
    """Writes JSON so that `path` holds the old file or the new one, never half of one."""
    unfinished = path.with_name(path.name + ".tmp")
    try:
        unfinished.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
        os.replace(unfinished, path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> Any:
    """What a JSON file holds; UserError where it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; is this a run directory?"
        ) from error
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); restore it from a copy") from error


def differences(old: Any, new: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """The leaves in which two trees of `to_tree` differ, by dotted name: {name: (old, new)}."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = {}
        for key in [*old, *(key for key in new if key not in old)]:
            found |= differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
        return found
    return {} if old == new else {prefix: (old, new)}
