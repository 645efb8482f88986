"""Rows from Parquet and ArrayRecord files and from Hugging Face datasets."""

import importlib  # for libraries without types or of an extra, which type checkers do not find
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import parse_qsl

from jaxseq.data.files import SourceFile
from jaxseq.data.rows import BadRows, Row
from jaxseq.errors import UserError

_AT_ONCE = 1024
"""Rows that are decoded together."""


def parquet_rows(file: SourceFile, columns: tuple[str, ...], bad_rows: BadRows) -> Iterator[Row]:
    """The wanted columns of a Parquet file, a few rows in memory at a time."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            f"reading {file.path} needs pyarrow: pip install 'jaxseq[hf]', or give a .jsonl file"
        ) from error
    if file.compressed:
        raise UserError(f"{file.path}: Parquet is read as it is, not gzipped; gunzip it first")
    number = 0
    with file.open() as data:
        try:
            table = pyarrow.parquet.ParquetFile(data)
            _check_columns(str(file.path), columns, table.schema_arrow.names)
            for batch in table.iter_batches(_AT_ONCE, columns=list(columns)):
                for fields in batch.to_pylist():
                    number += 1
                    yield Row(f"{file.path}, row {number}", fields)
        except (pyarrow.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno:
                raise  # the disk, not the file
            (what, *_) = str(error).splitlines() or [type(error).__name__]
            raise UserError(
                f"{file.path} is not a whole Parquet file ({what}); fetch it again"
            ) from error


def array_record_rows(
    file: SourceFile, columns: tuple[str, ...], bad_rows: BadRows
) -> Iterator[Row]:
    """The records of an ArrayRecord file: JSON objects, or the text of the one column."""
    try:
        array_record = importlib.import_module("array_record.python.array_record_module")
    except ImportError as error:
        raise UserError(
            f"reading {file.path} needs array_record: pip install array_record"
        ) from error
    if not isinstance(file.path, Path) or file.compressed:
        raise UserError(f"{file.path}: ArrayRecord is read from a local file that is not gzipped")
    with file.open():  # says why a file cannot be read, where the reader does not
        pass
    try:
        reader = array_record.ArrayRecordReader(str(file.path))
        count = reader.num_records()
        if not reader.ok():  # it has no records then, and says why where it is asked for some
            reader.read([0])
        for start in range(0, count, _AT_ONCE):
            records = reader.read(list(range(start, min(start + _AT_ONCE, count))))
            for number, record in enumerate(records, start + 1):
                yield from _record(f"{file.path}, record {number}", record, columns, bad_rows)
    except (RuntimeError, ValueError, IndexError) as error:
        raise UserError(
            f"{file.path} is not a whole ArrayRecord file ({error}); fetch it again"
        ) from error


def _record(
    place: str, record: bytes, columns: tuple[str, ...], bad_rows: BadRows
) -> Iterator[Row]:
    try:
        text = record.decode("utf-8")
    except UnicodeDecodeError as error:
        bad_rows.add(place, "not UTF-8 text", f"byte {error.start} of the record")
        return
    try:
        value = json.loads(text) if text.startswith("{") else None
    except ValueError as error:
        if len(columns) != 1:
            bad_rows.add(place, "bad JSON", str(error))
            return
        value = None
    if value is None and len(columns) != 1:
        bad_rows.add(place, "bad JSON", "the record is not an object")
        return
    yield Row(place, {columns[0]: text} if value is None else value)


def dataset_rows(url: str, columns: tuple[str, ...]) -> Iterator[Row]:
    """The rows of `hf://ORG/NAME[/CONFIG][?split=SPLIT]` through the `datasets` library.

    It downloads into a cache of its own and maps that into memory.
    """
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise UserError(
            f"reading {url} needs the datasets library: pip install 'jaxseq[hf]'"
        ) from error
    path, _, query = url.removeprefix("hf://").partition("?")
    options = dict(parse_qsl(query))
    parts = path.strip("/").split("/")
    if not path or len(parts) > 3 or set(options) - {"split"}:
        raise UserError(f"{url}: write hf://ORG/NAME, /CONFIG perhaps, and ?split=train perhaps")
    config = parts[2] if len(parts) == 3 else None
    split = options.get("split", "train")
    try:
        dataset = datasets.load_dataset("/".join(parts[:2]), config, split=split)
    except (OSError, ValueError) as error:
        (what, *_) = str(error).splitlines() or [type(error).__name__]
        raise UserError(
            f"cannot read {url}: {what}; check its name and split, and the way to huggingface.co"
        ) from error
    _check_columns(url, columns, dataset.column_names)
    for number, fields in enumerate(dataset.select_columns(list(columns)), start=1):
        yield Row(f"{url}, row {number}", fields)


def _check_columns(place: str, columns: tuple[str, ...], names: Sequence[str]) -> None:
    missing = [column for column in columns if column not in names]
    if missing:
        raise UserError(
            f"{place} has no column {', '.join(missing)}; its columns are {', '.join(names)}"
        )
