import json

import numpy as np
import pytest
from subword_cases import KINDS, TEXT, trained

from jaxseq.data.subword_training import SPECIALS, _untrained, train_subwords
from jaxseq.data.subwords import load_subwords, tokenizers_library
from jaxseq.data.tokenizers import CharTokenizer, save_tokenizer
from jaxseq.errors import UserError

MANY = [
    f"{word}{end} {number} ☃{'é' * (number % 3)}"
    for number in range(60)
    for word in ("walk", "talk", "stalk", "look")
    for end in ("s", "ed", "ing", "er")
]


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_deterministic_and_takes_any_iterable(kind):
    first = train_subwords(kind, MANY, 330)
    assert all(train_subwords(kind, MANY, 330) == first for _ in range(3))
    assert train_subwords(kind, iter(MANY), 330) == first
    assert train_subwords(kind, MANY[::-1], 330) == first
    assert first.vocab_size <= 330
    assert len(first.library.get_vocab()) == first.vocab_size


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_are_learned(kind):
    tokenizer = train_subwords(kind, MANY, 330)
    text = "walking talked stalks"
    assert len(tokenizer.encode(text)) < len(text) / 2
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_come_first(kind):
    tokenizer = train_subwords(kind, MANY, 330, special_tokens=["<mask>", "<s>"], sentinels=3)
    named = [*SPECIALS[kind], "<mask>", "<s>", "<extra_id_0>", "<extra_id_1>", "<extra_id_2>"]
    ids = [tokenizer.library.token_to_id(name) for name in named]
    # where all pieces are trained together; wordpiece too
    assert ids == list(range(len(named)))
    lengths = tokenizer.byte_lengths[ids].tolist()
    unknown = [name in ("[UNK]", "<unk>") for name in named]
    assert lengths == [int(one) for one in unknown]
    assert tokenizer.decode(ids).strip() == ("" if kind == "byte-bpe" else "\ufffd")


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_rare_characters_are_left_out(kind):
    few = train_subwords(kind, [*MANY, "qqq", "漢"], 330, alphabet=20)
    assert few.unknown("walk q 漢")[-1] == "漢"
    assert few.unknown("walk") == []
    assert not any("漢" in piece for piece in few.library.get_vocab())
    characters = {piece.removeprefix("##") for piece in few.library.get_vocab()}
    special = set(SPECIALS[kind])
    assert len({x for x in characters - special if len(x) == 1} - {"▁"}) <= 20
    more = train_subwords(kind, [*MANY, "qqq", "漢"], 330)
    assert more.unknown("walk q 漢") == []


@pytest.mark.parametrize("kind", KINDS)
def test_lowercase(kind):
    tokenizer = train_subwords(kind, [TEXT], 330, lowercase=True)
    assert tokenizer.decode(tokenizer.encode("The CAT")) == "the cat"
    cased = train_subwords(kind, [TEXT], 330)
    assert cased.decode(cased.encode("The cat")) == "The cat"


def test_wordpiece_of_chinese_has_no_continuations():
    """Each character is a word of its own, and pieces for inside a word would be waste."""
    pieces = train_subwords("wordpiece", ["漢字漢字 ab ab"], 50).library.get_vocab()
    assert "##漢" not in pieces
    assert {"漢", "字", "##b"} <= set(pieces)


def test_unigram_scores_are_those_of_the_library():
    library = _untrained("unigram", lowercase=False)
    specials = list(SPECIALS["unigram"])
    trainer = tokenizers_library().trainers.UnigramTrainer(
        vocab_size=330, show_progress=False, special_tokens=specials, unk_token="<unk>"
    )
    library.train_from_iterator(MANY, trainer)
    plain = dict(json.loads(library.to_str())["model"]["vocab"])
    ours = dict(json.loads(train_subwords("unigram", MANY, 330).definition)["model"]["vocab"])
    assert set(ours) == set(plain)
    assert list(ours)[:3] == specials
    assert np.all(np.diff([ours[piece] for piece in list(ours)[3:]]) <= 0)
    least = min(score for piece, score in plain.items() if len(piece) > 1 and piece not in specials)
    for piece, score in plain.items():
        if len(piece) > 1 or score >= least:
            assert abs(ours[piece] - score) < 1e-4
        else:
            assert ours[piece] == min(ours.values())


@pytest.mark.parametrize("kind", KINDS)
def test_too_little_room_is_an_error(kind):
    with pytest.raises(UserError, match=r"--vocab-size is 9: .* alone are"):
        train_subwords(kind, [TEXT], 9)


@pytest.mark.parametrize("texts", [[], [""], iter([])])
def test_no_text_is_an_error(texts):
    with pytest.raises(UserError, match="no text"):
        train_subwords("bpe", texts, 100)


def test_a_saved_one_is_loaded_from_its_run_directory(tmp_path):
    save_tokenizer(trained("bpe"), tmp_path / "tokenizer.json")
    assert load_subwords(tmp_path) == trained("bpe")
    assert load_subwords(str(tmp_path / "tokenizer.json")) == trained("bpe")
    save_tokenizer(CharTokenizer("ab"), tmp_path / "tokenizer.json")
    with pytest.raises(UserError, match="CharTokenizer"):
        load_subwords(tmp_path)
