"""Lists of utterances: which sound file says what."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from jaxseq.data.rows import BadRows
from jaxseq.data.sources import read_rows
from jaxseq.data.text import read_documents
from jaxseq.errors import UserError

SOUNDS = ("", ".wav", ".flac", ".ogg")
"""What may stand behind a name in a list, tried in this order."""


class Utterance(NamedTuple):
    """A sound file and its transcript."""

    sound: Path
    text: str
    place: str
    """`FILE, line N` of the transcript."""


def read_manifest(path: Path, columns: tuple[str, str], bad_rows: BadRows) -> list[Utterance]:
    """The utterances of a list, in its order, or of a directory of LibriSpeech's.

    - a directory: `ID TEXT` in the lines of every *.trans.txt below it, with ID.flac beside it;
    - .csv of LJSpeech: `ID|text|text in words`, of which the last is taken, with wavs/ID.wav;
    - any other list of rows (.tsv, .jsonl, .csv with a header, ...): `columns` are the sound file
      and the transcript.

    Names of files are relative to the list, and may lack their suffix. Raises UserError for a list
    without an utterance, and, naming file and line, for a row that is none, for an empty transcript
    and a sound file that is not there, unless `bad_rows` counts them.
    """
    if path.is_dir():
        listed = _librispeech(path)
    elif path.suffix == ".csv" and _has_bars(path):
        listed = _ljspeech(path)
    else:
        rows = read_rows(path, columns, bad_rows)
        listed = (
            (path.parent / str(fields[columns[0]]), str(fields[columns[1]]), place)
            for place, fields in rows
        )
    found = []
    for name, text, place in listed:
        sound = next((file for end in SOUNDS if (file := _with(name, end)).is_file()), None)
        if sound is None:
            bad_rows.add(place, "no such sound file", str(name))
        elif not text.strip():
            bad_rows.add(place, "empty transcript")
        else:
            found.append(Utterance(sound, text, place))
    if not found:
        raise UserError(f"{path} lists no utterance: name a list of sound files and transcripts")
    return found


def _with(name: Path, end: str) -> Path:
    return name.with_name(name.name + end)


def _librispeech(folder: Path) -> Iterator[tuple[Path, str, str]]:
    lists = sorted(folder.rglob("*.trans.txt"))
    if not lists:
        raise UserError(f"{folder} has no *.trans.txt below it, as LibriSpeech's directories have")
    for file in lists:
        for number, line in enumerate(read_documents(file)[0].text.splitlines(), start=1):
            name, _, text = line.partition(" ")
            if name:
                yield file.parent / name, text, f"{file}, line {number}"


def _ljspeech(file: Path) -> Iterator[tuple[Path, str, str]]:
    for number, line in enumerate(read_documents(file)[0].text.splitlines(), start=1):
        name, *texts = line.split("|")
        if name:
            text = texts[-1] if texts else ""
            yield file.parent / "wavs" / name, text, f"{file}, line {number}"


def _has_bars(file: Path) -> bool:
    first, *_ = [*read_documents(file)[0].text.splitlines(), ""]
    return "|" in first
