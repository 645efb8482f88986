"""Utterances from lists of sound files: every form of list, and what is wrong with it by line."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxseq.data.audio import write_wav
from jaxseq.data.speech_files import SpeechFiles
from jaxseq.errors import UserError

TEXTS = ("AB A", "B", "A B A B", "BB")
SIZES = (800, 900, 1000, 1100)


def sound(number: int) -> np.ndarray:
    return np.sin(np.arange(SIZES[number]) / (3 + number)).astype(np.float32) / 2


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEQ_CACHE", str(tmp_path / "cache"))
    (tmp_path / "wavs").mkdir()
    for number in range(4):
        write_wav(tmp_path / "wavs" / f"u{number}.wav", sound(number), 8000)
    return tmp_path


def rows(folder: Path, texts=TEXTS) -> Path:
    path = folder / "list.tsv"
    lines = ["file\tspeaker\ttext", *(f"wavs/u{i}\tx\t{text}" for i, text in enumerate(texts))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def load(path: Path, **options: Any):
    defaults: dict[str, Any] = {"rate": 8000, "validation_fraction": 0.25}
    return SpeechFiles(train=path, **(defaults | options)).load()


def said(split) -> list[tuple[int, str]]:
    return sorted((int(e["lengths"]), "".join(map(str, e["labels"]))) for e in split.examples)


def test_a_list_of_rows(folder, caplog):
    with caplog.at_level(logging.WARNING):
        corpus = load(rows(folder))
    assert "decoding 4 sound files" in caplog.text
    assert corpus.tokenizer.labels.entries == ("<blank>", " ", "A", "B")
    assert (len(corpus.train), len(corpus.validation), corpus.test) == (3, 1, None)
    assert sorted(said(corpus.train) + said(corpus.validation)) == [
        (800, "2312"), (900, "3"), (1000, "2131213"), (1100, "33"),
    ]  # fmt: skip
    (held_out,) = (number for number in range(4) if said(corpus.validation)[0][0] == SIZES[number])
    assert corpus.inputs == (str(folder / "wavs" / f"u{held_out}.wav"),)
    expected = sound(held_out) * (0.1 / np.sqrt(np.mean(sound(held_out) ** 2)))
    np.testing.assert_allclose(corpus.validation.examples[0]["samples"], expected, atol=1e-4)
    data = SpeechFiles(train=rows(folder), batch_size=2, rate=8000)
    batch = data.train_batches(corpus, 0)[0]
    assert batch["samples"].dtype == np.float32
    caplog.clear()
    again = load(rows(folder))  # the sound is in the cache
    assert not caplog.text
    assert again.fingerprint == corpus.fingerprint
    assert load(rows(folder, ("B", *TEXTS[1:]))).fingerprint != corpus.fingerprint


def test_a_sound_file_that_changed_is_decoded_anew(folder):
    before = load(rows(folder))
    file = folder / "wavs" / "u1.wav"
    write_wav(file, sound(1)[::-1], 8000)  # of the same size
    os.utime(file, (1, 1))
    assert load(rows(folder)).fingerprint != before.fingerprint


def test_rows_as_json_and_lists_for_every_split(folder):
    paths = []
    for number, text in enumerate(TEXTS[:3]):
        path = folder / f"{number}.jsonl"
        row = {"audio": f"wavs/u{number}.wav", "words": text}
        path.write_text(json.dumps(row) + "\n", encoding="utf-8")
        paths.append(path)
    names = {"sound_column": "audio", "text_column": "words"}
    corpus = load(paths[0], validation=paths[1], test=paths[2], **names)
    assert said(corpus.test) == [(1000, "2131213")]
    words = load(paths[0], validation=paths[0], unit="word", **names)
    assert words.tokenizer.labels.entries == ("<blank>", "A", "AB")


def test_ljspeech_and_librispeech(folder):
    soundfile = pytest.importorskip("soundfile")
    lines = [f"u{i}|number {i}|{text}\n" for i, text in enumerate(TEXTS)]
    (folder / "metadata.csv").write_text("".join(lines), encoding="utf-8")
    expected = load(rows(folder))
    assert said(load(folder / "metadata.csv").train) == said(expected.train)
    chapter = folder / "libri" / "84" / "121"
    chapter.mkdir(parents=True)
    for number in range(4):
        soundfile.write(chapter / f"84-121-{number}.flac", sound(number), 8000)
    transcripts = [f"84-121-{i} {text}\n" for i, text in enumerate(TEXTS)]
    (chapter / "84-121.trans.txt").write_text("".join(transcripts), encoding="utf-8")
    assert said(load(folder / "libri").train) == said(expected.train)


def test_another_rate_is_resampled(folder):
    corpus = load(rows(folder), rate=4000)
    sizes = [size for size, _ in said(corpus.train) + said(corpus.validation)]
    assert sorted(sizes) == [400, 450, 500, 550]
    assert corpus.tokenizer.rate == 4000


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        (TEXTS, {"alphabet": "A "}, r"list.tsv, line 2: the character 'B' is not in the alphabet"),
        ((*TEXTS[:3], "C"), {"alphabet": "AB "}, r"list.tsv, line 5: the character 'C' is not"),
        (("A", " ", "A", "A"), {}, r"list.tsv, line 3: empty transcript"),
        ((*TEXTS, "A"), {}, r"list.tsv, line 6: no such sound file: .*wavs/u4"),
        (("A",), {}, r"lists one utterance: give --data.validation"),
        (TEXTS, {"batch_size": 0}, r"--data.batch-size is 0"),
        (TEXTS, {"validation_fraction": 1.0}, r"--data.validation-fraction is 1.0"),
        (TEXTS, {"unit": "word", "alphabet": "A"}, r"--data.alphabet is of characters"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(folder, texts, options, message):
    with pytest.raises(UserError, match=message):
        load(rows(folder, texts), **options)


def test_bad_sound_is_named_with_file_and_line(folder):
    bad = folder / "wavs" / "u2.wav"
    bad.write_bytes(bad.read_bytes()[:200])
    with pytest.raises(UserError, match=r"u2.wav \(.*list.tsv, line 4\): it is cut off"):
        load(rows(folder))
    with pytest.raises(UserError, match=r"has no \*.trans.txt below it"):
        load(folder)


def test_bad_rows_may_be_left_out_and_are_counted(folder, caplog):
    corpus = load(rows(folder, (*TEXTS, "A")), on_bad_row="skip")
    assert len(corpus.train) + len(corpus.validation) == 4
    assert "left out bad rows: 1 no such sound file" in caplog.text


@pytest.mark.skipif("JAXSEQ_DATA" not in os.environ, reason="JAXSEQ_DATA does not name the data")
def test_real_utterances(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEQ_CACHE", str(tmp_path))
    path = Path(os.environ["JAXSEQ_DATA"]) / "speech" / "ljspeech16k" / "transcripts.tsv"
    corpus = load(path, rate=16000)
    assert len(corpus.train) + len(corpus.validation) == 8
    example = corpus.validation.examples[0]
    assert len(example["samples"]) > 16000
    assert corpus.tokenizer.text(example["labels"])[:2].istitle()
