"""Rows from files of text: JSON Lines, tab- and comma-separated values, plain lines."""

import csv
import json
from collections.abc import Iterable, Iterator
from typing import Any

from jaxseq.data.files import SourceFile
from jaxseq.data.rows import BadRows, Row
from jaxseq.errors import UserError


def json_line_rows(file: SourceFile, columns: tuple[str, ...], bad_rows: BadRows) -> Iterator[Row]:
    """A JSON object a line; all its columns, `columns` or not."""
    with file.open() as data:
        for place, line in _lines(file, data, bad_rows):
            try:
                value = json.loads(line)
            except ValueError as error:
                bad_rows.add(place, "bad JSON", str(error))
                continue
            yield from _object(place, value, bad_rows)


def json_rows(file: SourceFile, columns: tuple[str, ...], bad_rows: BadRows) -> Iterator[Row]:
    """One array of JSON objects, which is read whole, or an object a line."""
    with file.open() as data:
        start = next((line.strip() for line in data if line.strip()), b"").removeprefix(_BOM)
    if not start.startswith(b"["):
        yield from json_line_rows(file, columns, bad_rows)
        return
    try:
        with file.open() as data:
            items = json.loads(data.read().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{file.path}: not UTF-8 text at byte {error.start}; convert it") from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"{file.path}, line {error.lineno}: bad JSON: {error.msg}; mend the line"
        ) from error
    for number, value in enumerate(items, start=1):
        yield from _object(f"{file.path}, item {number}", value, bad_rows)


def _object(place: str, value: Any, bad_rows: BadRows) -> Iterator[Row]:
    if isinstance(value, dict):
        yield Row(place, value)
    else:
        bad_rows.add(place, "bad JSON", f"{str(value)[:40]!r} is not an object")


def tab_rows(file: SourceFile, columns: tuple[str, ...], bad_rows: BadRows) -> Iterator[Row]:
    """Fields between tabs, without quotes; see `_named` for the header."""
    with file.open() as data:
        lines = ((place, line.split("\t")) for place, line in _lines(file, data, bad_rows))
        yield from _named(lines, columns, bad_rows)


def comma_rows(file: SourceFile, columns: tuple[str, ...], bad_rows: BadRows) -> Iterator[Row]:
    """Fields between commas, `"` around those with a comma, quote or line end; see `_named`."""
    with file.open() as data:
        yield from _named(_csv_fields(file, data, bad_rows), columns, bad_rows)


def _named(
    lines: Iterator[tuple[str, list[str]]], columns: tuple[str, ...], bad_rows: BadRows
) -> Iterator[Row]:
    """Fields by the names of the header, which has all of `columns`, or else by `columns`."""
    names: tuple[str, ...] = ()
    for place, fields in lines:
        if not names:
            names = columns
            if set(columns) <= set(fields):
                names = tuple(fields)
                continue
        if len(fields) == len(names):
            yield Row(place, dict(zip(names, fields, strict=True)))
        else:
            reason = "too few columns" if len(fields) < len(names) else "too many columns"
            bad_rows.add(place, reason, f"{len(fields)} and not {len(names)}: {', '.join(names)}")


def _csv_fields(
    file: SourceFile, data: Iterable[bytes], bad_rows: BadRows
) -> Iterator[tuple[str, list[str]]]:
    torn: list[int] = []

    def text() -> Iterator[str]:
        for number, line in enumerate(data, start=1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                # It may end a field that began lines above: the reader must see it.
                torn.append(number)
                yield line.decode("utf-8", "replace")

    reader = csv.reader(text(), strict=True)
    while True:
        start = reader.line_num + 1
        place = f"{file.path}, line {start}"
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            # An open quote may have swallowed many lines: each of them counts.
            for _ in range(start, reader.line_num + 1):
                bad_rows.add(place, "bad CSV", str(error))
            continue
        if torn:
            bad_rows.add(f"{file.path}, line {torn[0]}", "not UTF-8 text")
            torn.clear()
        elif fields:
            yield place, fields


def plain_rows(file: SourceFile, columns: tuple[str, ...], bad_rows: BadRows) -> Iterator[Row]:
    """A line is the one column."""
    if len(columns) != 1:
        raise UserError(
            f"{file.path} has lines of plain text, but the columns {', '.join(columns)} are "
            "wanted: name a .tsv or .jsonl file"
        )
    with file.open() as data:
        for place, line in _lines(file, data, bad_rows):
            yield Row(place, {columns[0]: line})


_BOM = b"\xef\xbb\xbf"


def _lines(file: SourceFile, data: Iterable[bytes], bad_rows: BadRows) -> Iterator[tuple[str, str]]:
    """(place, the line without its end) of every line that is not empty."""
    for number, line in enumerate(data, start=1):
        if not line.strip():
            continue
        place = f"{file.path}, line {number}"
        try:
            # The mark that some editors put before the first line is no part of it.
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            bad_rows.add(place, "not UTF-8 text", f"byte {error.start} of the line")
            continue
        yield place, text.rstrip("\r\n")
