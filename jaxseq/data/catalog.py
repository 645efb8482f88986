"""Data by name: where a set comes from, its licence, and where its splits are on this machine.

`catalog:NAME/SPLIT` stands for a path wherever data take one. It is, the first that there is: the
copy under $JAXSEQ_DATA; what was fetched before; what is fetched now, and checked; or, for the
large sets of the hub, an hf:// name that the `datasets` library streams.
"""

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jaxseq.cache_folder import cache_folder
from jaxseq.data.fetch import fetch, unpack
from jaxseq.errors import UserError

PREFIX = "catalog:"


@dataclass(frozen=True)
class CatalogFile:
    """One split."""

    local: str
    """Where its copy lies below $JAXSEQ_DATA."""
    url: str = ""
    """Where it is fetched from; "": it was cut by rules of its own, and is there as a copy only."""
    sha256: str = ""
    folder: str = ""
    """Of an archive: what in it is the data."""


@dataclass(frozen=True)
class DataSet:
    """What is known of a set of data."""

    name: str
    what: str
    source: str
    """Where its makers offer it."""
    licence: str
    splits: Mapping[str, CatalogFile | str]
    """Files, or names hf://... that `data.sources` reads."""


def find(reference: str) -> Path:
    """The path that `catalog:NAME/SPLIT` stands for; see the head of this file.

    Raises UserError for a name or split that is not in the catalog, and those of `fetch`.
    """
    name, _, split = reference.removeprefix(PREFIX).partition("/")
    data = named(name)
    if split not in data.splits:
        raise UserError(
            f"the catalog's {name} has no split '{split}'; {_known(split, data.splits)}"
        )
    file = data.splits[split]
    if isinstance(file, str):
        return Path(file)
    here = _here(file)
    if here is not None:
        return here
    if not file.url:
        raise UserError(
            f"{name}/{split} cannot be fetched: it is cut from {data.source} by rules of its own; "
            f"put a copy at $JAXSEQ_DATA/{file.local}, or train on your own files"
        )
    fetched = fetch(file.url, file.sha256, _archive(file) if file.folder else _cached(file))
    if not file.folder:
        return fetched
    return unpack(fetched, _cached(file)) / file.folder


def is_here(name: str) -> bool:
    """Whether all splits of a set are on this machine, so that nothing would be fetched."""
    splits = named(name).splits.values()
    return all(not isinstance(file, str) and _here(file) is not None for file in splits)


def named(name: str) -> DataSet:
    """The set of that name; UserError with the nearest where there is none."""
    from jaxseq.data.catalog_entries import CATALOG

    by_name = {data.name: data for data in CATALOG}
    if name not in by_name:
        raise UserError(f"the catalog has no '{name}'; {_known(name, by_name)}")
    return by_name[name]


def _here(file: CatalogFile) -> Path | None:
    folder = os.environ.get("JAXSEQ_DATA")
    if folder and (Path(folder).expanduser() / file.local).exists():
        return (Path(folder).expanduser() / file.local).resolve()
    cached = _cached(file)
    return cached / file.folder if cached.exists() else None


def _cached(file: CatalogFile) -> Path:
    return cache_folder() / "data" / file.local


def _archive(file: CatalogFile) -> Path:
    return cache_folder() / "archives" / file.url.rpartition("/")[2]


def _known(word: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean '{near[0]}'?" if near else f"there are {', '.join(known)}"
