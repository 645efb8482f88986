"""Strings of digits: from which recordings, in which batches, and what is wrong with a folder."""

import dataclasses
import io
import os
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxseq.data.corpus import Corpus
from jaxseq.data.digit_batches import RATE, WORDS, DigitSplit
from jaxseq.data.digit_recordings import split_of
from jaxseq.data.digit_strings import DigitStrings
from jaxseq.data.made_up_speech import MadeUpDigits
from jaxseq.data.speech import SpeechCoder, said_in
from jaxseq.data.wav import encode_wav
from jaxseq.errors import UserError

QUIET = {"noise": False, "channel": 0.0, "speed": 0.0, "max_pause": 0.0}


def tone(digit: int, speaker: str, take: int) -> np.ndarray:
    """A recording that tells which it is: its length is its own."""
    length = 400 + 40 * digit + 4 * take + 2 * (speaker == "bob")
    return np.sin(np.arange(length) * (0.1 + digit / 20)).astype(np.float32) / 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two speakers' digits 0 to 2, eight takes each: one's in a folder, the other's in a .tar."""
    path = tmp_path_factory.mktemp("digits")
    (path / "recordings").mkdir()
    with tarfile.open(path / "bob.tar", "w") as archive:
        for digit in range(3):
            for take in range(8):
                name = f"{digit}_ann_{take}.wav"
                (path / "recordings" / name).write_bytes(encode_wav(tone(digit, "ann", take), RATE))
                data = encode_wav(tone(digit, "bob", take), RATE)
                member = tarfile.TarInfo(f"{digit}_bob_{take}.wav")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path


def strings(folder: Path, **options: Any) -> DigitStrings:
    defaults: dict[str, Any] = {"batch_size": 4, "max_digits": 3}
    return DigitStrings(path=folder, **(defaults | options))


def load(data: DigitStrings | MadeUpDigits) -> tuple[Corpus[SpeechCoder, DigitSplit], DigitSplit]:
    """The corpus and its test split."""
    corpus = data.load()
    assert corpus.test is not None
    return corpus, corpus.test


def test_the_official_split_and_a_speaker_held_out(folder):
    corpus, test = load(strings(folder))
    sizes = [len(split) for split in (corpus.train, corpus.validation, test)]
    assert sizes == [6, 12, 30]  # take 7; 5 and 6; 0 to 4
    assert corpus.tokenizer.speakers == ("ann", "bob")
    assert corpus.tokenizer.labels.entries == ("<blank>", *WORDS)
    held, test = load(strings(folder, held_out_speaker="bob"))
    assert [len(split) for split in (held.train, held.validation, test)] == [18, 6, 24]
    assert {recording.speaker for recording in held.train.recordings} == {"ann"}
    assert {recording.speaker for recording in test.recordings} == {"bob"}
    alone = strings(folder, speakers=("ann",)).load()
    assert alone.tokenizer.speakers == ("ann",)
    # The folder is the same; which of it is used is said by the config.
    assert corpus.fingerprint == held.fingerprint
    assert [split_of("ann", take, "") for take in (0, 4, 5, 6, 7)] == [
        "test", "test", "validation", "validation", "train",
    ]  # fmt: skip


def test_held_out_strings_say_every_recording_and_stay_the_same(folder):
    data = strings(folder, rounds=2, **QUIET)
    corpus, test = load(data)
    batches = list(data.evaluation_batches(test))
    lengths = Counter()
    for batch in batches:
        for row in np.flatnonzero(batch["lengths"]):
            said = batch["labels"][row, : batch["label_lengths"][row]]
            assert 1 <= len(said) <= 3
            lengths[int(batch["lengths"][row])] += 1
    assert sum(size * count for size, count in lengths.items()) == 2 * sum(
        len(recording.samples) for recording in test.recordings
    )
    again = list(data.evaluation_batches(load(data)[1]))
    for one, other in zip(batches, again, strict=True):
        assert all((one[name] == other[name]).all() for name in one)
    assert len(list(data.evaluation_batches(test, at_most=1))) < len(batches)
    text, speaker = said_in(corpus.inputs[0]) or ("", "")
    assert set(text.split()) <= set(WORDS)
    assert speaker in corpus.tokenizer.speakers


def test_a_string_is_its_recordings_one_behind_the_other(folder):
    data = strings(folder, **QUIET, batch_size=8, growth=0)
    corpus = data.load()
    batch = data.train_batches(corpus, 0)[3]
    takes = {(r.digit, r.speaker): r.samples for r in corpus.train.recordings}
    for row in range(8):
        speaker = corpus.tokenizer.speakers[batch["speakers"][row]]
        said = batch["labels"][row, : batch["label_lengths"][row]] - 1
        expected = np.concatenate([takes[digit, speaker] for digit in said])
        found = batch["samples"][row, : batch["lengths"][row]]
        # But for a few milliseconds of fading at either end of each.
        assert np.corrcoef(found, expected)[0, 1] > 0.9
        assert not batch["samples"][row, batch["lengths"][row] :].any()
        assert not batch["labels"][row, len(said) :].any()


def test_batches_are_a_function_of_seed_and_step(folder):
    data = strings(folder, speed=0.2)
    batches = data.train_batches(data.load(), 5)
    whole = batches[9]
    other = data.train_batches(data.load(), 5)
    part = other.rows(9, [1, 3])  # a host's own, without those before
    for name, array in part.items():
        assert (array == whole[name][[1, 3]]).all(), name
    another = data.train_batches(data.load(), 6)
    first, second = (
        sorted(np.concatenate([found[step]["lengths"] for step in range(8, 16)]).tolist())
        for found in (batches, another)
    )
    assert first != second
    assert (batches[8]["labels"] != whole["labels"]).any()
    assert len(batches) == 1
    with pytest.raises(IndexError, match="-1"):
        batches[-1]


def test_strings_grow_to_their_length(folder):
    data = strings(folder, growth=80, max_digits=5, batch_size=16)
    batches = data.train_batches(data.load(), 0)
    longest = [
        max(batches[step + i]["label_lengths"].max() for i in range(8)) for step in (0, 40, 80)
    ]
    assert longest == [1, 3, 5]
    plain = dataclasses.replace(data, growth=0)
    batches = plain.train_batches(plain.load(), 0)
    assert max(batches[step]["label_lengths"].max() for step in range(8)) == 5


def test_what_training_changes_evaluation_does_not(folder):
    data = strings(folder, **QUIET, min_digits=1)
    plain = dataclasses.replace(data, max_digits=1)
    fast = dataclasses.replace(plain, speed=0.4, tempo=0.1)
    sizes = {len(recording.samples) for recording in plain.load().train.recordings}
    corpus, test = load(fast)
    found = np.concatenate([fast.train_batches(corpus, 0)[step]["lengths"] for step in range(12)])
    assert found.min() < min(sizes) / 1.3
    assert found.max() > max(sizes) * 1.3
    held_out = np.concatenate([b["lengths"] for b in fast.evaluation_batches(test)])
    assert set(held_out[held_out > 0]) == {len(r.samples) for r in test.recordings}


def test_made_up_voices_say_half_of_the_training_strings_and_no_other(folder):
    data = strings(folder, made_up_voices=2, batch_size=64)
    corpus, test = load(data)
    assert data.describe(corpus).endswith("digits of 2 speakers, and 2 made-up voices")
    made_up = [recording for recording in corpus.train.recordings if recording.made_up]
    assert Counter((r.speaker, r.digit) for r in made_up) == {
        (f"made-up {voice}", digit): 4 for voice in range(2) for digit in range(10)
    }
    assert not np.array_equal(made_up[0].samples, made_up[40].samples)
    assert not any(r.made_up for split in (corpus.validation, test) for r in split.recordings)
    fewer = strings(folder, made_up_voices=1).load().train.recordings
    for one, other in zip(fewer, corpus.train.recordings, strict=False):
        assert (one.samples == other.samples).all()
    batches = data.train_batches(corpus, 0)
    speakers = np.concatenate([batches[step]["speakers"] for step in range(4)])
    share = np.mean([corpus.tokenizer.speakers[n].startswith("made-up") for n in speakers])
    assert 0.4 < share < 0.6  # of 256


def test_recordings_that_train_have_rooms_of_their_own(folder):
    data = strings(folder, **QUIET, max_digits=1, rooms=1.0, batch_size=16)
    corpus, test = load(data)
    batch = data.train_batches(corpus, 0)[0]
    longest = max(len(recording.samples) for recording in corpus.train.recordings)
    assert longest < batch["lengths"].max() <= longest + 0.5 * RATE
    # What stands before a recording is its room: neither silence nor speech.
    for samples, length in zip(batch["samples"], batch["lengths"], strict=True):
        power = np.square(samples[:length])
        assert 0 < power[:20].mean() < power.mean() / 2
    plain = dataclasses.replace(data, rooms=0.0)
    _, same = load(plain)
    held_out = [next(iter(data.evaluation_batches(split))) for split in (test, same)]
    np.testing.assert_array_equal(held_out[0]["samples"], held_out[1]["samples"])


def test_labels_may_be_characters(folder):
    data = strings(folder, unit="character")
    corpus = data.load()
    batch = data.train_batches(corpus, 0)[0]
    text = corpus.tokenizer.text(batch["labels"][0])
    assert set(text.split()) <= set(WORDS)
    assert batch["label_lengths"][0] == len(text)
    assert batch["labels"].shape[1] >= len("three three three")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "--data.batch-size is 0"),
        ({"min_digits": 4}, "--data.max-digits is 3: it must be at least --data.min-digits, 4"),
        ({"min_snr": 60.0}, "--data.max-snr is 50.0"),
        ({"growth": -1}, "--data.growth is -1"),
        ({"speed": 1.0}, "--data.speed is 1.0"),
        ({"made_up_voices": -1}, "--data.made-up-voices is -1"),
        ({"max_pause": -1.0}, "--data.max-pause is -1.0"),
        ({"held_out_speaker": "eve"}, "--data.held-out-speaker is 'eve': .* has ann, bob"),
        ({"speakers": ("ann", "eve")}, r"--data.speakers names \['eve'\]"),
        ({"speakers": ("ann",), "held_out_speaker": "ann"}, "no recording for the train split"),
    ],
)
def test_options_that_cannot_work_are_named(folder, options, message):
    with pytest.raises(UserError, match=message):
        strings(folder, **options).load()


def test_folders_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere is no directory"):
        strings(tmp_path / "nowhere").load()
    with pytest.raises(UserError, match=r"has no files \{digit\}_\{speaker\}_\{take\}.wav"):
        strings(tmp_path).load()
    (tmp_path / "bad.tar").write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"cannot read .*bad.tar"):
        strings(tmp_path).load()
    (tmp_path / "bad.tar").unlink()
    (tmp_path / "3_ann_0.wav").write_bytes(encode_wav(tone(3, "ann", 0), RATE)[:100])
    with pytest.raises(UserError, match=r"3_ann_0.wav: it is cut off"):
        strings(tmp_path).load()


@pytest.mark.skipif("JAXSEQ_DATA" not in os.environ, reason="JAXSEQ_DATA does not name the data")
def test_the_real_digits():
    data = DigitStrings(path=Path("$JAXSEQ_DATA/speech/fsdd")).resolve()
    corpus, test = load(data)
    splits = (corpus.train, corpus.validation, test)
    assert [len(split) for split in splits] == [400, 80, 200]
    assert corpus.tokenizer.speakers == ("george", "jackson", "lucas", "theo")
    assert Counter(recording.digit for recording in test.recordings) == dict.fromkeys(range(10), 20)


def test_made_up_digits_are_the_same_every_time():
    data = MadeUpDigits(takes=8, rounds=1)
    (one, test), (other, _) = load(data), load(data)
    assert [len(split) for split in (one.train, one.validation, test)] == [40, 80, 200]
    for a, b in zip(one.train.recordings, other.train.recordings, strict=True):
        assert (a.samples == b.samples).all()
        assert np.isfinite(a.samples).all()
        assert 0.1 * RATE < len(a.samples) < RATE
    held, test = load(MadeUpDigits(takes=8, held_out_speaker="ada"))
    assert len(test) == 80
    assert one.fingerprint != held.fingerprint
    with pytest.raises(UserError, match=r"--data.takes is 7"):
        MadeUpDigits(takes=7).load()


def test_made_up_voices_and_takes_differ_and_digits_differ_more():
    _, test = load(MadeUpDigits(takes=8, rounds=1))

    def spectrum(samples):
        power = abs(np.fft.rfft(samples, 16384))[:8192] ** 2
        return np.log(power.reshape(16, -1).mean(axis=1))

    found = {}
    for samples, digit, speaker, _ in test.recordings:
        found.setdefault((digit, speaker), []).append(spectrum(samples))
    means = {key: np.mean(each, axis=0) for key, each in found.items()}
    within = np.mean(
        [np.linalg.norm(each - means[key], axis=1).mean() for key, each in found.items()]
    )
    assert within > 0.1
    digits = np.array(
        [np.mean([means[d, s] for s in ("ada", "ben", "cleo", "dan")], axis=0) for d in range(10)]
    )
    apart = np.linalg.norm(digits[:, None] - digits[None], axis=-1)[~np.eye(10, dtype=bool)]
    assert apart.min() > within
