"""Rows of named fields from files, directories, globs, URLs and Hugging Face datasets."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from jaxseq.data.files import (
    SourceFile,
    absolute,
    as_url,
    counted,
    find_files,
    warn_of_skipped,
)
from jaxseq.data.line_files import comma_rows, json_line_rows, json_rows, plain_rows, tab_rows
from jaxseq.data.rows import BadRows, OnBadRow, Row
from jaxseq.data.tables import array_record_rows, dataset_rows, parquet_rows
from jaxseq.errors import UserError

__all__ = ["BadRows", "OnBadRow", "Row", "read_rows"]

FORMATS = {
    ".jsonl": json_line_rows,
    ".json": json_rows,
    ".tsv": tab_rows,
    ".csv": comma_rows,
    ".txt": plain_rows,
    ".parquet": parquet_rows,
    ".arrayrecord": array_record_rows,
}


def read_rows(
    source: str | Path, columns: Sequence[str], bad_rows: BadRows | None = None
) -> Iterator[Row]:
    """Yield the rows of a file, of the files below a directory, of a glob's matches or of a URL.

    Every row has exactly `columns`, in their order, none of them None. Nothing is read before it
    is asked for, and no file of lines is ever whole in memory. By suffix (a file of lines may be
    gzipped, `.gz`):

    - `.jsonl`: a JSON object a line. `.json` is the same, or one array of objects, read whole.
    - `.tsv`: fields between tabs, without quotes. `.csv`: between commas, `"` around a field that
      holds one. A first line in which every one of `columns` stands is a header, and there may be
      other columns beside them; without one, `columns` name all the fields in order.
    - `.txt`: a line is the one column.
    - `.parquet`: needs pyarrow. `.arrayrecord`: a record is a JSON object, or, where one column is
      wanted, UTF-8 text.

    `hf://ORG/NAME[/CONFIG][?split=train]` is a dataset of the Hugging Face hub, through the extra
    jaxseq[hf]. Other URLs (gs://, s3://, ...) go through fsspec. `~` and `$NAME` of the
    environment are filled in. Empty lines are passed over.

    Raises UserError for a source that cannot be read or has no row, for a format that is none of
    these, and for a bad row with file and line: too few or too many columns, a column that is
    missing or null, bad JSON or CSV, text that is not UTF-8. With `BadRows("skip")` bad rows are
    counted by reason and left out; call `report()` on it at the end of the load.
    """
    bad_rows = bad_rows or BadRows()
    columns = tuple(columns)
    source = absolute(Path(source)) if as_url(source) is None else source
    url = as_url(source)
    if url is not None and url.startswith("hf://"):
        parts: Iterable[Iterator[Row]] = [dataset_rows(url, columns)]
    else:
        parts = (file_rows(file, columns, bad_rows) for file in _files_of_rows(source))
    empty = True
    for rows in parts:
        for row in complete(rows, columns, bad_rows):
            empty = False
            yield row
    if empty:
        bad = ", ".join(f"{count:,} {reason}" for reason, count in bad_rows.reasons.items())
        raise UserError(
            f"{source} has no {f'good row ({bad})' if bad else 'row'}: name a file with rows in it"
        )


def _files_of_rows(source: str | Path) -> list[SourceFile]:
    files, skipped = find_files(source, FORMATS)
    if not files:
        found = f" (skipped {counted(skipped)})" if skipped else ""
        raise UserError(
            f"the directory {source} has no file of rows{found}: give {', '.join(FORMATS)}"
        )
    warn_of_skipped(source, skipped)
    return files


def file_rows(file: SourceFile, columns: tuple[str, ...], bad_rows: BadRows) -> Iterator[Row]:
    """Yield the rows of one file, with more columns than wanted or less (see `complete`).

    Raises UserError for a suffix that is no format of rows, and as `read_rows` does.
    """
    reader = FORMATS.get(file.suffix)
    if reader is None:
        raise UserError(
            f"{file.path}: rows are read from {', '.join(FORMATS)}; name the file by its format"
        )
    return reader(file, columns, bad_rows)


def complete(rows: Iterator[Row], columns: tuple[str, ...], bad_rows: BadRows) -> Iterator[Row]:
    """Yield the rows that have all of `columns`, without others."""
    for place, fields in rows:
        missing = [column for column in columns if fields.get(column) is None]
        if not missing:
            yield Row(place, {column: fields[column] for column in columns})
        elif set(missing) <= set(fields):
            bad_rows.add(place, "null in a column", ", ".join(missing))
        else:
            known = ", ".join(map(str, fields))
            bad_rows.add(place, "missing column", f"{', '.join(missing)}; it has {known}")
