import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseq.data.tokenizers import (
    UNKNOWN,
    ByteTokenizer,
    CharTokenizer,
    WordTokenizer,
    load_tokenizer,
    save_tokenizer,
)
from jaxseq.errors import UserError

CHAR = '"jaxseq.data.tokenizers.CharTokenizer"'
MIXED = "naïve café ☕ 漢字 𝄞\r\n\0"


@settings(deadline=None)
@given(st.text())
def test_bytes_round_trip_and_are_the_utf8_bytes(text):
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32
    assert ids.tolist() == list(text.encode())
    assert tokenizer.decode(ids) == text
    assert tokenizer.byte_lengths[ids].sum() == len(text.encode())
    assert tokenizer.unknown(text) == []


@settings(deadline=None)
@given(st.text())
def test_characters_round_trip_over_their_training_text(text):
    tokenizer = CharTokenizer.train(text)
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text
    assert ids.max(initial=0) < tokenizer.vocab_size
    if UNKNOWN not in text:
        assert tokenizer.byte_lengths[ids].sum() == len(text.encode())


@settings(deadline=None)
@given(st.text(), st.text())
def test_characters_not_seen_in_training_become_the_unknown_one(train, text):
    tokenizer = CharTokenizer.train(train)
    known = set(train) - {UNKNOWN}
    ids = tokenizer.encode(text)
    assert [i != 0 for i in ids] == [c in known for c in text]
    assert tokenizer.decode(ids) == "".join(c if c in known else UNKNOWN for c in text)
    assert set(tokenizer.unknown(text)) == set(text) - known


def test_character_ids_are_the_sorted_characters_after_the_unknown():
    tokenizer = CharTokenizer.train("banana\ufffd")
    assert tokenizer.vocab_size == 4
    assert tokenizer.encode("abnz").tolist() == [1, 2, 3, 0]
    assert tokenizer.decode([0, 1, 2, 3]) == UNKNOWN + "abn"
    assert tokenizer.unknown("zany zoo") == ["z", "y", " ", "o"]


def test_byte_lengths_of_characters():
    tokenizer = CharTokenizer.train("aé漢𝄞")
    assert tokenizer.byte_lengths.tolist() == [1, 1, 2, 3, 4]
    assert tokenizer.byte_lengths.shape == (tokenizer.vocab_size,)


def test_bytes_that_are_not_utf8_decode_to_the_replacement_character():
    assert ByteTokenizer().decode([ord("a"), 0xFF, ord("b"), 0xE2, 0x98]) == "a\ufffdb\ufffd"


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), CharTokenizer.train("ab")])
def test_a_lone_surrogate_from_the_command_line_does_not_crash(tokenizer):
    # sys.argv holds "\udcff" for the undecodable byte 0xff
    assert UNKNOWN in tokenizer.decode(tokenizer.encode("a\udcffb"))


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), CharTokenizer.train("ab")])
@pytest.mark.parametrize("wrong", [-1, 256])
def test_ids_outside_the_vocabulary_are_refused(tokenizer, wrong):
    with pytest.raises(ValueError, match=f"0 to {tokenizer.vocab_size - 1}"):
        tokenizer.decode([0, wrong])


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), CharTokenizer.train("ab")])
def test_nothing_encodes_to_nothing(tokenizer):
    assert tokenizer.encode("").shape == (0,)
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), CharTokenizer.train(MIXED)])
def test_streaming_never_shows_half_a_character(tokenizer):
    ids = tokenizer.encode(MIXED)
    decoder = tokenizer.stream_decoder()
    pieces = [decoder.decode(ids[i]) for i in range(len(ids))]
    assert UNKNOWN not in "".join(pieces)
    assert "".join(pieces) == MIXED
    assert decoder.decode([], final=True) == ""


@settings(deadline=None)
@given(st.lists(st.integers(0, 255)), st.integers(0))
def test_streaming_in_any_pieces_is_decoding_the_whole(ids, seed):
    tokenizer = ByteTokenizer()
    decoder = tokenizer.stream_decoder()
    cuts = sorted(random.Random(seed).choices(range(len(ids) + 1), k=3))
    pieces = [ids[a:b] for a, b in zip([0, *cuts], [*cuts, len(ids)], strict=True)]
    streamed = [decoder.decode(piece, final=i == 3) for i, piece in enumerate(pieces)]
    assert "".join(streamed) == tokenizer.decode(ids)


def test_a_stream_that_ends_inside_a_character_says_so():
    decoder = ByteTokenizer().stream_decoder()
    assert decoder.decode([0xE2, 0x98]) == ""
    assert decoder.decode([], final=True) == UNKNOWN


@pytest.mark.parametrize(
    "tokenizer", [ByteTokenizer(), CharTokenizer.train(MIXED), CharTokenizer.train("")]
)
def test_saved_and_loaded_is_equal(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    save_tokenizer(tokenizer, path)
    loaded = load_tokenizer(path)
    assert loaded == tokenizer
    assert loaded.encode(MIXED).tolist() == tokenizer.encode(MIXED).tolist()
    assert list(tmp_path.iterdir()) == [path]


def test_tokenizers_of_different_texts_differ():
    assert CharTokenizer.train("ab") == CharTokenizer.train("ba")
    assert CharTokenizer.train("ab") != CharTokenizer.train("abc")
    assert CharTokenizer.train("ab") != ByteTokenizer()


def test_a_tokenizer_of_no_known_type_is_named(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text('{"type": "jaxseq.data.tokenizers.Morse"}')
    with pytest.raises(UserError, match="cannot find the type"):
        load_tokenizer(path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        f'{{"type": {CHAR}, "chara',
        "[]",
        f'{{"type": {CHAR}}}',
        f'{{"type": {CHAR}, "characters": ["a"]}}',
        f'{{"type": {CHAR}, "characters": "aa"}}',
        f'{{"type": {CHAR}, "characters": "a\\ufffd"}}',
    ],
)
def test_a_damaged_tokenizer_file_is_named(content, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(UserError) as error:
        load_tokenizer(path)
    assert str(path) in str(error.value)
    assert "restore it" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_tokenizer_file_that_is_not_text_or_missing_is_named(tmp_path):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(UserError, match="No such file"):
        load_tokenizer(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="damaged"):
        load_tokenizer(path)


def test_a_failed_save_keeps_the_old_file_and_is_a_user_error(tmp_path, monkeypatch):
    path = tmp_path / "tokenizer.json"
    save_tokenizer(ByteTokenizer(), path)

    def full(self, text, **kwargs):
        self.write_bytes(text[:5].encode())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match="No space left on device"):
        save_tokenizer(CharTokenizer.train("ab"), path)
    assert load_tokenizer(path) == ByteTokenizer()
    assert list(tmp_path.iterdir()) == [path]


def test_a_tokenizer_that_has_no_file_format_is_refused(tmp_path):
    class Morse:
        vocab_size = byte_lengths = encode = decode = stream_decoder = unknown = len

    with pytest.raises(TypeError, match="Morse"):
        save_tokenizer(Morse(), tmp_path / "tokenizer.json")
    assert list(tmp_path.iterdir()) == []


TEXT = "the cat\n  saw the caf\u00e9's cat, twice"


def test_words_are_numbered_by_how_often_they_occur():
    tokenizer = WordTokenizer.train(TEXT)
    assert tokenizer.entries == (" ", "cat", "the")
    ids = tokenizer.encode("the dog  cat")
    assert ids.dtype == np.int32
    assert ids.tolist() == [3, 1, 0, 0, 2]
    assert tokenizer.decode(ids) == "the \ufffd\ufffdcat"
    assert tokenizer.unknown("the dog  dog") == ["dog", "  "]
    assert WordTokenizer.train("b a").entries == ()


def test_words_of_the_training_text_round_trip_with_their_bytes(tmp_path):
    tokenizer = WordTokenizer.train(TEXT + MIXED, min_count=1)
    ids = tokenizer.encode(TEXT + MIXED)
    assert tokenizer.decode(ids) == TEXT + MIXED
    assert tokenizer.byte_lengths.shape == (tokenizer.vocab_size,)
    assert tokenizer.byte_lengths[ids].sum() == len((TEXT + MIXED).encode())
    decoder = tokenizer.stream_decoder()
    streamed = "".join(decoder.decode([i]) for i in ids.tolist()) + decoder.decode([], final=True)
    assert streamed == TEXT + MIXED
    save_tokenizer(tokenizer, tmp_path / "tokenizer.json")
    assert load_tokenizer(tmp_path / "tokenizer.json") == tokenizer
