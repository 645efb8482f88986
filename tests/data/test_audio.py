"""Sound files: what is read is what was written, and what is damaged is named."""

import io
import logging
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxseq.data import audio
from jaxseq.data.audio import read_audio, resample, write_wav
from jaxseq.data.wav import encode_wav
from jaxseq.errors import UserError

TONE = (0.5 * np.sin(np.arange(800) / 5)).astype(np.float32)


@pytest.fixture(scope="module")
def soundfile():
    return pytest.importorskip("soundfile", reason="soundfile is not installed")


def written(soundfile, samples=TONE, rate=8000, **keywords) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, **keywords)
    return file.getvalue()


def wav(fmt: bytes, numbers: bytes, named: int | None = None, before: bytes = b"") -> bytes:
    named = len(numbers) if named is None else named
    chunks = before + b"fmt " + struct.pack("<I", len(fmt)) + fmt
    chunks += b"data" + struct.pack("<I", named) + numbers
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def fmt(tag=1, channels=1, rate=8000, bits=16) -> bytes:
    frame = channels * bits // 8
    return struct.pack("<HHIIHH", tag, channels, rate, rate * frame, frame, bits)


# --- What is read ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subtype", "error"),
    [
        ("PCM_U8", 2**-7),
        ("PCM_16", 2**-15),
        ("PCM_24", 2**-23),
        ("PCM_32", 2**-24),
        ("FLOAT", 0),
        ("DOUBLE", 0),
        ("ULAW", 0.02),
    ],
)
@pytest.mark.parametrize("form", ["WAV", "WAVEX"])
def test_every_coding_of_wav(soundfile, subtype, error, form, monkeypatch) -> None:
    data = written(soundfile, subtype=subtype, format=form)
    theirs, _ = soundfile.read(io.BytesIO(data))
    if subtype != "ULAW":
        monkeypatch.setitem(sys.modules, "soundfile", None)
    samples, rate = read_audio(data)
    assert rate == 8000
    assert samples.dtype == np.float32
    np.testing.assert_allclose(samples, TONE, rtol=0, atol=error)
    np.testing.assert_allclose(samples, theirs, rtol=0, atol=2**-24)


def test_flac_and_ogg(soundfile) -> None:
    samples, rate = read_audio(written(soundfile, format="FLAC", rate=16000))
    assert rate == 16000
    np.testing.assert_allclose(samples, TONE, rtol=0, atol=2**-15)
    samples, _ = read_audio(written(soundfile, format="OGG"))
    assert samples.shape == TONE.shape


def test_channels_are_averaged(soundfile) -> None:
    both = np.stack([TONE, -0.5 * TONE], axis=1)
    samples, _ = read_audio(written(soundfile, both, subtype="FLOAT", format="WAV"))
    np.testing.assert_allclose(samples, 0.25 * TONE, atol=1e-7)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "tone.wav"
    write_wav(file, np.array([0.0, 1.5, -1.5, 0.25, -1.0], np.float32), 8000)
    samples, rate = read_audio(file)
    assert rate == 8000
    assert samples.tolist() == [0, 1 - 2**-15, -1, 0.25, -1]
    with pytest.raises(ValueError, match="not all finite"):
        write_wav(file, np.array([np.nan], np.float32), 8000)


def test_other_chunks_and_sizes_of_a_pipe() -> None:
    numbers = np.array([1, -2, 3], "<i2").tobytes()
    odd = b"LIST" + struct.pack("<I", 3) + b"abc\0"
    for data in (
        wav(fmt(), numbers, before=odd),
        wav(fmt() + b"\0\0", numbers, 0xFFFFFFFF),
        wav(fmt(), numbers + b"\7", 6),  # what stands behind the samples is none
    ):
        samples, _ = read_audio(data)
        assert (samples * 2**15).tolist() == [1, -2, 3]


def test_another_rate_is_resampled_and_said_once(monkeypatch, caplog) -> None:
    monkeypatch.setattr(audio, "_said", set())
    time = np.arange(44100) / 44100
    low, high = (np.sin(2 * np.pi * f * time) for f in (440, 9000))
    data = encode_wav(0.4 * low + 0.4 * high, 44100)
    with caplog.at_level(logging.WARNING):
        samples, rate = read_audio(data, "tone.wav", 8000)
        read_audio(data, "again.wav", 8000)
    assert rate == 8000
    assert samples.dtype == np.float32
    # The tone stays, and what 8000 Hz cannot hold does not come back as another.
    expected = 0.4 * np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)
    assert np.abs(samples - expected)[100:-100].max() < 0.01
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("tone.wav is at 44100 Hz, read at 8000")
    assert len(resample(TONE, 8000, 11025)) == -(-800 * 11025 // 8000)


# --- What is refused ------------------------------------------------------------------------------

GOOD = encode_wav(TONE, 8000)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (encode_wav(TONE[:0], 8000), "it holds no samples"),
        (GOOD[:20], "its header is cut off: the file ends after 20 bytes"),
        (GOOD[:40], "its header is cut off: the file ends after 40 bytes"),
        (GOOD[:12], "its header is cut off"),
        (GOOD[:44], "1,600 bytes of samples are named and 0 there"),
        (GOOD[:-1], "1,600 bytes of samples are named and 1,599 there"),
        (wav(fmt(channels=0), b"ab"), "0 channels"),
        (wav(fmt(rate=0), b"ab"), "at 0 Hz"),
        (wav(fmt(3, bits=32), np.array([np.nan], "<f4").tobytes()), "not finite"),
        (wav(fmt(), b"ab")[:12] + wav(fmt(), b"ab")[36:], "before the header"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damage_is_named(data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=f"take 7: .*{message}"):
        read_audio(data, "take 7")


@pytest.mark.parametrize("end", [3, 100, 300])
def test_damage_of_other_formats_is_named(soundfile, end) -> None:
    data = written(soundfile, np.tile(TONE, 9), format="FLAC")
    with pytest.raises(UserError, match=r"take 7: .*fetch it again, or convert it to WAV"):
        read_audio(data[:end], "take 7")
    with pytest.raises(UserError, match="take 7: "):
        read_audio(b"no sound at all" * end, "take 7")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.wav: No such file.*; name a sound file"):
        read_audio(tmp_path / "nowhere.wav")
    with pytest.raises(UserError, match="Is a directory"):
        read_audio(tmp_path)


def test_without_soundfile_its_package_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(UserError, match=r"song\.flac: .*pip install 'jaxseq\[audio\]'"):
        read_audio(b"fLaC", "song.flac")
    assert len(read_audio(GOOD)[0]) == 800
