"""The verb `jaxseq data`: the sets that have a name, and fetching one."""

import dataclasses

import tyro

from jaxseq.cli_options import parse
from jaxseq.data.catalog import DataSet, find, is_here, named
from jaxseq.data.catalog_entries import CATALOG


@dataclasses.dataclass(frozen=True)
class Data:
    """Lists the catalog, or fetches what is named and says where it is."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """NAME or NAME/SPLIT; none: list all."""


def data(argv: list[str]) -> int:
    """The sets of data that have a name, where they come from, and their licences."""
    options = parse(Data, argv, prog="jaxseq data")
    for name in options.names:
        splits = [name] if "/" in name else [f"{name}/{split}" for split in named(name).splits]
        for split in splits:
            print(f"catalog:{split}  {find(split)}", flush=True)
    if not options.names:
        for entry in CATALOG:
            print(f"{entry.name}  ({_where(entry)})")
            print(f"    {entry.what}; licence: {entry.licence}")
            print(f"    {entry.source}; catalog:{entry.name}/{{{','.join(entry.splits)}}}")
    return 0


def _where(entry: DataSet) -> str:
    if is_here(entry.name):
        return "here"
    files = list(entry.splits.values())
    if isinstance(files[0], str):
        return "read from the hub"
    if all(not isinstance(file, str) and file.url for file in files):
        return "can be fetched"
    return "as a copy under $JAXSEQ_DATA"
