"""Utterances and transcripts as numbers, and utterances as lines of text."""

import numpy as np
import pytest

from jaxseq.data.audio import write_wav
from jaxseq.data.speech import LEVEL, SpeechCoder, at_level, clip_to_line, read_clip, said_in
from jaxseq.data.tokenizers import load_tokenizer, save_tokenizer
from jaxseq.errors import UserError

SAMPLES = np.sin(np.arange(400) / 7).astype(np.float32) / 3


def test_transcripts_by_word_and_by_character(tmp_path):
    words = SpeechCoder.of(["two one", "one"], "word", 8000, ("ann", "bob"))
    assert words.labels.entries == ("<blank>", "one", "two")
    example = words.example(SAMPLES, " two  one ", speaker=1)
    assert example["labels"].tolist() == [2, 1]
    assert (example["label_lengths"], example["lengths"], example["speakers"]) == (2, 400, 1)
    assert words.text([0, 2, 0, 1, 0]) == "two one"
    characters = SpeechCoder.of(["ab a"], "character", 8000)
    assert characters.labels.entries == ("<blank>", " ", "a", "b")
    assert characters.encode("b  a").tolist() == [3, 1, 2]
    assert characters.text(characters.encode("b a")) == "b a"
    assert characters.example(SAMPLES)["labels"].shape == (0,)
    save_tokenizer(words, tmp_path / "coder.json")
    assert load_tokenizer(tmp_path / "coder.json") == words


@pytest.mark.parametrize(
    ("unit", "text", "symbol"),
    [("word", "one three", "three"), ("character", "one!", "!"), ("word", "<blank>", "<blank>")],
)
def test_a_symbol_outside_the_alphabet_is_named_with_its_place(unit, text, symbol):
    coder = SpeechCoder.of(["one two"], unit, 8000)
    with pytest.raises(UserError, match=f"a.tsv, line 7: the {unit} '{symbol}' is not in the alph"):
        coder.example(SAMPLES, text, where="a.tsv, line 7")


def test_every_utterance_comes_to_one_level():
    for gain in (1e-4, 1.0):
        assert np.sqrt(np.mean(np.square(at_level(gain * SAMPLES)))) == pytest.approx(LEVEL)
    assert at_level(np.zeros(5)).tolist() == [0] * 5
    assert at_level(np.zeros(0)).dtype == np.float32


def test_an_utterance_is_a_file_or_a_line_by_itself(tmp_path):
    line = clip_to_line(SAMPLES, 8000, "one; two", "ann")
    assert "\n" not in line
    assert said_in(line) == ("one; two", "ann")
    clip = read_clip(line, 8000)
    assert clip[1:] == ("ann: one; two", "one; two", "ann")
    np.testing.assert_allclose(clip.samples, SAMPLES, atol=1e-4)
    path = tmp_path / "a.wav"
    write_wav(path, SAMPLES, 16000)
    assert said_in(str(path)) is None
    assert read_clip(str(path), 8000).name == str(path)
    assert len(read_clip(str(path), 8000).samples) == 200
    with pytest.raises(UserError, match=r"missing.wav"):
        read_clip(str(tmp_path / "missing.wav"), 8000)
    with pytest.raises(UserError, match="the clip 'ann: one; two' is damaged"):
        read_clip(line.replace(";base64,", ";base64,#"), 8000)
